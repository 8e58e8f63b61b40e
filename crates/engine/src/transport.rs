//! The zstd form in which NARs travel.
//!
//! Encoding 1: the NAR in pieces (see [`TransportPiece`]), each an independent zstd frame
//! with its content size and without checksum, one behind the other. It is a pure function of the NAR and the version of
//! libzstd, which a golden test holds, so that a transfer that was cut goes on at any byte, whatever happened to packs.

mod piece;

use std::io::Cursor;
use std::iter::successors;
use std::sync::Arc;

use bytes::Bytes;
use firn_nix::Sha256;
use quick_cache::sync::Cache;
use zstd::bulk::Compressor;

use crate::restore::Restore;
use crate::{Error, Result};
pub use piece::TransportPiece;

/// NARs up to this long are encoded at once: the length of their form is known before its first byte is sent.
pub const SMALL_NAR_BYTES: u64 = 256 << 10;

/// The zstd level: serving must cost less than what it saves on the wire.
const LEVEL: i32 = 1;

/// Lengths of encoded frames, which a resumed transfer needs; four bytes per frame.
pub(crate) struct TransportSizes {
    memory: Cache<Sha256, Arc<[u32]>, Weight>,
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<Sha256, Arc<[u32]>> for Weight {
    fn weight(&self, _: &Sha256, sizes: &Arc<[u32]>) -> u64 {
        sizes.len() as u64 * 4 + 128
    }
}

impl TransportSizes {
    pub(crate) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes >> 8).unwrap_or(usize::MAX).max(16);
        Self { memory: Cache::with_weighter(items, bytes, Weight) }
    }

    pub(crate) fn memory_use(&self) -> crate::MemoryUse {
        crate::MemoryUse::of("transport-sizes", &self.memory, true)
    }

    pub(crate) fn get(&self, nar: &Sha256) -> Option<Arc<[u32]>> {
        self.memory.get(nar)
    }
}

/// Encodes NARs in their zstd form, for what is not stored yet.
pub struct TransportEncoder {
    zstd: Compressor<'static>,
}

impl TransportEncoder {
    /// Returns an encoder.
    ///
    /// # Errors
    /// When there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self { zstd: Compressor::new(LEVEL).map_err(internal)? })
    }

    /// Adds the frame of a piece to `out`. The form of a NAR is that of its [pieces](TransportPiece), one behind the other.
    pub fn encode(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let start = out.len();
        out.reserve(zstd::zstd_safe::compress_bound(piece.len()));
        let mut room = Cursor::new(out);
        room.set_position(start as u64);
        self.zstd.compress_to_buffer(piece, &mut room).map_err(internal)?;
        Ok(())
    }
}

/// Encodes the pieces of a NAR, each on its own.
struct Encoder {
    encoder: TransportEncoder,
    next: TransportPiece,
    /// A piece that is not a part of one frame.
    piece: Vec<u8>,
}

impl Encoder {
    fn new(next: TransportPiece) -> Result<Self> {
        Ok(Self { encoder: TransportEncoder::new()?, next, piece: Vec::new() })
    }

    /// Adds the frame of the next piece, which begins where the restore is, to `out` and returns its length, or `None` at the end.
    fn encode_next(&mut self, restore: &mut Restore, out: &mut Vec<u8>) -> Result<Option<u32>> {
        // However little of its frame it is: it is gone when it is encoded.
        let shared = restore.next_shared(self.next.bytes(), usize::MAX)?;
        let piece = match &shared {
            Some(piece) => &piece[..],
            None => {
                self.piece.clear();
                restore.read_onto(self.next.bytes(), &mut self.piece)?;
                &self.piece[..]
            }
        };
        if piece.is_empty() {
            return Ok(None);
        }
        let start = out.len();
        self.encoder.encode(piece, out)?;
        self.next = self.next.following();
        u32::try_from(out.len() - start).map(Some).map_err(internal)
    }
}

/// A NAR on its way out in its zstd form.
pub struct ZstdRestore {
    nar: Sha256,
    sizes: Arc<crate::engine::Shared>,
    restore: Restore,
    encoder: Encoder,
    total: Option<u64>,
    /// Lengths of the frames so far; `None` when the transfer began in the middle.
    measured: Option<Vec<u32>>,
    /// Bytes of the next frame that the client has already.
    skip: usize,
    first: Option<Bytes>,
}

impl ZstdRestore {
    /// Prepares the encoded form from byte `start` on. `open` restores from a position of the NAR.
    pub(crate) fn open(
        shared: &Arc<crate::engine::Shared>,
        nar: Sha256,
        start: u64,
        open: &dyn Fn(u64) -> Result<Restore>,
    ) -> Result<Self> {
        if start == 0 {
            return Self::whole(shared, nar, open(0)?);
        }
        let sizes = match shared.transport_sizes.get(&nar) {
            Some(sizes) => sizes,
            None => measure(shared, nar, open(0)?)?,
        };
        let total = sum(&sizes);
        let (mut piece, mut before) = (TransportPiece::FIRST, 0u64);
        for &size in sizes.iter() {
            if before + u64::from(size) > start {
                break;
            }
            before += u64::from(size);
            piece = piece.following();
        }
        let restore = open(piece.start())?;
        let skip = usize::try_from(start.min(total) - before).unwrap_or(0);
        let sizes = Arc::clone(shared);
        Ok(Self {
            nar,
            sizes,
            restore,
            encoder: Encoder::new(piece)?,
            total: Some(total),
            measured: None,
            skip,
            first: None,
        })
    }

    fn whole(shared: &Arc<crate::engine::Shared>, nar: Sha256, restore: Restore) -> Result<Self> {
        let known = shared.transport_sizes.get(&nar).map(|sizes| sum(&sizes));
        let nar_bytes = restore.remaining();
        let mut whole = Self {
            nar,
            sizes: Arc::clone(shared),
            restore,
            encoder: Encoder::new(TransportPiece::FIRST)?,
            total: known,
            measured: Some(Vec::new()),
            skip: 0,
            first: None,
        };
        if nar_bytes <= SMALL_NAR_BYTES {
            let frames = usize::try_from(TransportPiece::count(nar_bytes)).map_err(internal)?;
            whole.first = whole.next_few(frames)?;
            whole.total = Some(whole.first.as_ref().map_or(0, |frames| frames.len() as u64));
        }
        Ok(whole)
    }

    /// Returns the length of the whole encoded form, where it is known: always of a NAR of at most 256 KiB, and when the
    /// transfer began in the middle.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns the next frame, or what is left of it, or `None` at the end. A NAR of at most 256 KiB from its beginning comes
    /// whole.
    ///
    /// # Errors
    /// As [`Restore::next`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would invite callers to go on after an error")]
    pub fn next(&mut self) -> Result<Option<Bytes>> {
        self.next_few(1)
    }

    /// Returns the next frames, `frames` of them unless the end comes first, or `None` at the end. A NAR of at most 256 KiB from
    /// its beginning comes whole.
    ///
    /// # Errors
    /// As [`Restore::next`]; what came before the failure is lost.
    pub fn next_few(&mut self, frames: usize) -> Result<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let frames = frames.max(1);
        let pieces = successors(Some(self.encoder.next), |piece| Some(piece.following())).take(frames);
        let room = pieces.map(|piece| zstd::zstd_safe::compress_bound(piece.bytes())).sum();
        let mut encoded = Vec::with_capacity(room);
        for _ in 0..frames {
            let Some(len) = self.encoder.encode_next(&mut self.restore, &mut encoded)? else { break };
            if let Some(measured) = &mut self.measured {
                measured.push(len);
                if self.restore.remaining() == 0 {
                    self.sizes.transport_sizes.memory.insert(self.nar, measured.as_slice().into());
                }
            }
        }
        if encoded.is_empty() {
            return Ok(None);
        }
        // Most of the room for the worst case was not needed, and a slow client holds this for long.
        encoded.shrink_to_fit();
        let mut encoded = Bytes::from(encoded);
        let skip = std::mem::take(&mut self.skip).min(encoded.len());
        Ok(Some(encoded.split_off(skip)))
    }
}

/// Encodes a NAR only to learn the lengths of its frames: what resuming costs after a restart.
fn measure(shared: &crate::engine::Shared, nar: Sha256, mut restore: Restore) -> Result<Arc<[u32]>> {
    let mut encoder = Encoder::new(TransportPiece::FIRST)?;
    let mut sizes = Vec::new();
    let mut frame = Vec::new();
    while let Some(len) = encoder.encode_next(&mut restore, &mut frame)? {
        sizes.push(len);
        frame.clear();
    }
    let sizes: Arc<[u32]> = sizes.into();
    shared.transport_sizes.memory.insert(nar, Arc::clone(&sizes));
    Ok(sizes)
}

fn sum(sizes: &[u32]) -> u64 {
    sizes.iter().copied().map(u64::from).sum()
}

fn internal(error: impl ToString) -> Error {
    Error::Internal(format!("encode a NAR for transport: {}", error.to_string()))
}
