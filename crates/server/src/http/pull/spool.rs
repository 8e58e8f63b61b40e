//! A NAR on its way here, in its zstd form, in a file without a name: every client reads it at its own pace while it grows,
//! whatever the others do.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use firn_engine::TransportPiece;

/// The form in which a client wants a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Identity,
    Zstd,
}

/// Frames of a NAR, of which more may come.
pub(super) struct Spool {
    file: File,
    /// Where each frame ends.
    ends: Mutex<Vec<u64>>,
}

impl Spool {
    /// Makes an empty one in a folder, which is made if it is missing. It needs no cleaning up, after a crash either.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        Ok(Self { file: tempfile::tempfile_in(folder)?, ends: Mutex::default() })
    }

    fn ends(&self) -> MutexGuard<'_, Vec<u64>> {
        // Only ever pushed to.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a frame and returns how long the zstd form is now.
    pub(super) fn append(&self, frame: &[u8]) -> io::Result<u64> {
        let start = self.ends().last().copied().unwrap_or(0);
        self.file.write_all_at(frame, start)?;
        let end = start + frame.len() as u64;
        self.ends().push(end);
        Ok(end)
    }

    /// Returns some bytes from `at` on, up to before `end`, at least one and about `limit` at most. All of them must have come.
    pub(super) fn read(&self, form: Form, at: u64, end: u64, limit: usize) -> io::Result<Bytes> {
        match form {
            Form::Zstd => {
                let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(limit);
                let mut piece = vec![0; len];
                self.file.read_exact_at(&mut piece, at)?;
                Ok(piece.into())
            }
            Form::Identity => self.decode(at, end),
        }
    }

    /// Decodes the frame that holds byte `at` of the NAR.
    fn decode(&self, at: u64, end: u64) -> io::Result<Bytes> {
        let piece = TransportPiece::holding(at);
        let frame = usize::try_from(piece.number()).unwrap_or(usize::MAX);
        let (from, to) = {
            let ends = self.ends();
            let from = if frame == 0 { Some(&0) } else { ends.get(frame - 1) };
            match (from, ends.get(frame)) {
                (Some(from), Some(to)) => (*from, *to),
                _ => return Err(io::Error::other("a frame is read before it came")),
            }
        };
        let mut encoded = vec![0; usize::try_from(to - from).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut encoded, from)?;
        let decoded = Bytes::from(zstd::bulk::decompress(&encoded, piece.bytes())?);
        let first = usize::try_from(at - piece.start()).map_err(io::Error::other)?;
        let last = usize::try_from(end - piece.start()).unwrap_or(usize::MAX).min(decoded.len());
        if first >= last {
            return Err(io::Error::other("a frame is shorter than it was"));
        }
        Ok(decoded.slice(first..last))
    }
}

#[cfg(test)]
mod tests {
    use firn_engine::TransportEncoder;

    use super::*;

    #[test]
    fn gives_both_forms_from_any_byte() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(&folder.path().join("spool")).unwrap();
        let nar: Vec<u8> = (0..700_000u32).map(|n| (n / 3 % 251) as u8).collect();
        let (mut encoder, mut form, mut end) = (TransportEncoder::new().unwrap(), Vec::new(), 0);
        for piece in TransportPiece::cut(&nar) {
            let mut frame = Vec::new();
            encoder.encode(piece, &mut frame).unwrap();
            end = spool.append(&frame).unwrap();
            form.extend_from_slice(&frame);
        }
        assert_eq!(end, form.len() as u64);
        for (kind, whole) in [(Form::Identity, &nar), (Form::Zstd, &form)] {
            let (len, border) = (whole.len(), 64 << 10);
            let parts =
                [(0, len), (1, len - 1), (len - 1, len), (500, 501), (border - 1, border + 1), (border, 5 * border)];
            for (start, stop) in parts.into_iter().filter(|(_, stop)| *stop <= len) {
                let (mut at, mut got) = (start as u64, Vec::new());
                while at < stop as u64 {
                    let piece = spool.read(kind, at, stop as u64, 100_000).unwrap();
                    assert!(!piece.is_empty());
                    at += piece.len() as u64;
                    got.extend_from_slice(&piece);
                }
                assert!(got == whole[start..stop], "{kind:?} {start} {stop}");
            }
        }
        // Nothing is left behind, not even by a crash.
        assert_eq!(std::fs::read_dir(folder.path().join("spool")).unwrap().count(), 0);
        assert!(spool.read(Form::Identity, 700_000, 700_001, 1).is_err());
    }
}
