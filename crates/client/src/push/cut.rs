//! A path becomes a recipe and chunks. Blocks: for threads that may.

use std::io::{self, BufWriter, Write};

use bytes::Bytes;
use firn_chunk::{Chunk, ChunkId, ChunkRef, Chunker, Input, Origin, RecipeId};
use firn_nix::{Sha256, StoreHash};
use firn_nix_store::PathInfo;
use sha2::Digest as _;
use tokio_util::sync::CancellationToken;

use super::advance::Advance;
use super::failure::PathFailure;
use super::source::{Source, SourceError};

/// What small writes of a source are gathered to.
const BUFFER_BYTES: usize = 64 << 10;

/// A path that was read and cut.
#[derive(Debug)]
pub(crate) struct CutPath {
    /// The recipe's name.
    pub(crate) recipe: RecipeId,
    /// Its encoding.
    pub(crate) encoded: Bytes,
    /// What fills it.
    pub(crate) slots: Vec<StoreHash>,
    /// Its chunks in order.
    pub(crate) chunks: Vec<ChunkRef>,
    /// All chunks' data back to back, if it was to be kept.
    pub(crate) kept: Option<Kept>,
}

/// What was kept of a path's chunks, in order.
#[derive(Debug)]
pub(crate) struct Kept {
    /// Their data, back to back.
    pub(crate) data: Bytes,
    /// Where each comes from.
    pub(crate) origins: Vec<Option<Origin>>,
}

/// A run of chunks that the server lacks.
#[derive(Debug, Default)]
pub(crate) struct Run {
    /// Their names.
    pub(crate) ids: Vec<ChunkId>,
    /// Their lengths.
    pub(crate) lens: Vec<u32>,
    /// Where they come from.
    pub(crate) origins: Vec<Option<Origin>>,
    /// Their bytes in order, cut anywhere.
    pub(crate) pieces: Vec<Bytes>,
}

impl Run {
    /// Returns the bytes of all its chunks.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// Copies its chunks together, so that it holds no memory but theirs.
    pub(crate) fn compact(&mut self) {
        let mut data = Vec::with_capacity(self.bytes());
        self.pieces.drain(..).for_each(|piece| data.extend_from_slice(&piece));
        self.pieces.push(data.into());
    }
}

/// A run whose chunks are copied together.
#[derive(Debug, Default)]
struct Gathering {
    ids: Vec<ChunkId>,
    lens: Vec<u32>,
    origins: Vec<Option<Origin>>,
    data: Vec<u8>,
}

impl Gathering {
    /// Adds a chunk; `room` is what is allocated if it is the first.
    fn push(&mut self, chunk: Chunk<'_>, room: usize) {
        if self.ids.is_empty() {
            self.data.reserve_exact(room);
        }
        self.ids.push(chunk.id);
        self.lens.push(u32::try_from(chunk.data.len()).expect("a chunk has at most 256 KiB"));
        self.origins.push(chunk.origin);
        self.data.extend_from_slice(chunk.data);
    }

    fn finish(self) -> Run {
        Run { ids: self.ids, lens: self.lens, origins: self.origins, pieces: vec![self.data.into()] }
    }
}

/// Reads, hashes and cuts a path, and counts what is read; its chunks' data is kept if `keep`.
///
/// # Errors
/// [`PathFailure`]; `Corrupt` if the NAR is not the one that the store recorded.
pub(crate) fn cut(
    source: &dyn Source,
    info: &PathInfo,
    keep: bool,
    advance: &Advance,
    stop: &CancellationToken,
) -> Result<CutPath, PathFailure> {
    let mut kept = keep.then(|| Vec::with_capacity(usize::try_from(info.nar_size).unwrap_or(0)));
    let mut origins = Vec::new();
    let mut on_chunk = |chunk: Chunk<'_>| {
        if let Some(kept) = &mut kept {
            kept.extend_from_slice(chunk.data);
            origins.push(chunk.origin);
        }
        Ok(())
    };
    let cut = read(source, info, Some(advance), stop, &mut on_chunk)?;
    let encoded = Bytes::from(cut.recipe.encode());
    let kept = kept.map(|data| Kept { data: data.into(), origins });
    Ok(CutPath { recipe: RecipeId::of(&encoded), encoded, slots: cut.slots, chunks: cut.recipe.chunks, kept })
}

/// Reads a path a second time, and hands on runs of the chunks that `wanted` names by their place in `chunks`.
///
/// # Errors
/// As [`cut`], `Changed` if it is cut to other chunks than the first time; and what `on_run` returns.
pub(crate) fn gather(
    source: &dyn Source,
    info: &PathInfo,
    chunks: &[ChunkRef],
    wanted: &[bool],
    run_bytes: usize,
    stop: &CancellationToken,
    on_run: &mut dyn FnMut(Run) -> Result<(), PathFailure>,
) -> Result<(), PathFailure> {
    let mut expected = chunks.iter().zip(wanted);
    let mut left: u64 =
        chunks.iter().zip(wanted).filter(|(_, wanted)| **wanted).map(|(chunk, _)| u64::from(chunk.len)).sum();
    let mut run = Gathering::default();
    let mut on_chunk = |chunk: Chunk<'_>| {
        let Some((reference, &is_wanted)) = expected.next() else { return Err(changed()) };
        if reference.id != chunk.id {
            return Err(changed());
        }
        if is_wanted {
            if !run.ids.is_empty() && run.data.len() + chunk.data.len() > run_bytes {
                on_run(std::mem::take(&mut run).finish())?;
            }
            let (len, room) = (chunk.data.len(), usize::try_from(left).unwrap_or(usize::MAX).min(run_bytes));
            run.push(chunk, room);
            left = left.saturating_sub(len as u64);
        }
        Ok(())
    };
    read(source, info, None, stop, &mut on_chunk).map_err(|failure| match failure {
        // It was as recorded the first time.
        PathFailure::Corrupt(_) => changed(),
        other => other,
    })?;
    if expected.next().is_some() {
        return Err(changed());
    }
    if run.ids.is_empty() { Ok(()) } else { on_run(run.finish()) }
}

/// Returns runs of the chunks that `wanted` names, out of data that was kept. They share its memory.
pub(crate) fn runs_of(kept: &Kept, chunks: &[ChunkRef], wanted: &[bool], run_bytes: usize) -> Vec<Run> {
    let Kept { data: kept, origins } = kept;
    let mut runs = Vec::new();
    let mut run = Run::default();
    let (mut run_len, mut at) = (0, 0);
    // What is not cut off yet: chunks that lie side by side are one piece.
    let mut piece = 0..0;
    for ((chunk, &is_wanted), origin) in chunks.iter().zip(wanted).zip(origins) {
        let (start, len) = (at, usize::try_from(chunk.len).expect("a chunk has at most 256 KiB"));
        at += len;
        if !is_wanted || at > kept.len() {
            continue;
        }
        let is_full = !run.ids.is_empty() && run_len + len > run_bytes;
        if is_full || piece.end != start {
            run.pieces.extend((!piece.is_empty()).then(|| kept.slice(piece.clone())));
            piece = start..start;
        }
        if is_full {
            runs.push(std::mem::take(&mut run));
            run_len = 0;
        }
        run.ids.push(chunk.id);
        run.lens.push(chunk.len);
        run.origins.push(*origin);
        run_len += len;
        piece.end = at;
    }
    run.pieces.extend((!piece.is_empty()).then(|| kept.slice(piece)));
    if !run.ids.is_empty() {
        runs.push(run);
    }
    runs
}

fn changed() -> PathFailure {
    PathFailure::Changed("its contents are other ones than a moment ago".to_owned())
}

type OnChunk<'a> = &'a mut dyn FnMut(Chunk<'_>) -> Result<(), PathFailure>;

fn read(
    source: &dyn Source,
    info: &PathInfo,
    advance: Option<&Advance>,
    stop: &CancellationToken,
    on_chunk: OnChunk<'_>,
) -> Result<firn_chunk::Cut, PathFailure> {
    let mut cutting = Cutting {
        chunker: Chunker::new(Input::Nar),
        hash: sha2::Sha256::new(),
        left: info.nar_size,
        on_chunk,
        failure: None,
        advance,
        stop,
    };
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, &mut cutting);
    let dumped = source.dump(&info.path, &mut out);
    let dumped = dumped.and_then(|()| out.flush().map_err(SourceError::Stopped));
    // What is still in the buffer after an error must not be written when it is dropped.
    drop(out.into_parts());
    if let Some(failure) = cutting.failure.take() {
        return Err(failure);
    }
    dumped.map_err(|error| match error {
        SourceError::Vanished(text) => PathFailure::Vanished(text),
        SourceError::Changed(text) => PathFailure::Changed(text),
        SourceError::Unreadable(text) => PathFailure::Unreadable(text),
        SourceError::Hindered(text) => PathFailure::Hindered(text),
        SourceError::Stopped(error) => PathFailure::Hindered(error.to_string()),
    })?;
    cutting.finish(info)
}

struct Cutting<'a> {
    chunker: Chunker,
    hash: sha2::Sha256,
    /// How many bytes the store says are still to come.
    left: u64,
    on_chunk: OnChunk<'a>,
    failure: Option<PathFailure>,
    advance: Option<&'a Advance>,
    stop: &'a CancellationToken,
}

impl Cutting<'_> {
    fn take(&mut self, bytes: &[u8]) -> Result<(), PathFailure> {
        if self.stop.is_cancelled() {
            return Err(PathFailure::Stopped);
        }
        let longer = || PathFailure::Corrupt("its NAR is longer than the store recorded".to_owned());
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(longer)?;
        if let Some(advance) = self.advance {
            advance.read(bytes.len() as u64);
        }
        self.hash.update(bytes);
        let (on_chunk, mut failed) = (&mut self.on_chunk, None);
        let pushed = self.chunker.push(bytes, &mut |chunk| {
            if failed.is_none() {
                failed = on_chunk(chunk).err();
            }
        });
        match failed {
            Some(failure) => Err(failure),
            None => pushed.map_err(|error| PathFailure::Corrupt(error.to_string())),
        }
    }

    fn finish(self, info: &PathInfo) -> Result<firn_chunk::Cut, PathFailure> {
        let got = Sha256(self.hash.finalize().into());
        if self.left != 0 || got != info.nar_hash {
            let PathInfo { nar_hash, nar_size, .. } = info;
            let size = nar_size - self.left;
            return Err(PathFailure::Corrupt(format!(
                "its NAR is {got} of {size} bytes, and the store recorded {nar_hash} of {nar_size} \
                 (`nix-store --verify-path` tells more, `nix-store --repair-path` may heal it)"
            )));
        }
        let mut failed = None;
        let on_chunk = self.on_chunk;
        let cut = self.chunker.finish(&mut |chunk| {
            if failed.is_none() {
                failed = on_chunk(chunk).err();
            }
        });
        match failed {
            Some(failure) => Err(failure),
            None => cut.map_err(|error| PathFailure::Corrupt(error.to_string())),
        }
    }
}

impl Write for Cutting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.take(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(failure) => {
                self.failure.get_or_insert(failure);
                Err(io::Error::other("the push does not want more of it"))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "cut/tests.rs"]
mod tests;
