//! The zstd form in which NARs travel.
//!
//! Encoding 1: the NAR in pieces of [`TRANSPORT_FRAME_BYTES`] (the last may be shorter), each an independent zstd frame
//! with its content size and without checksum, one behind the other. It is a pure function of the NAR and the version of
//! libzstd, which a golden test holds, so that a transfer that was cut goes on at any byte, whatever happened to packs.

use std::sync::Arc;

use bytes::Bytes;
use firn_nix::Sha256;
use quick_cache::sync::Cache;
use zstd::bulk::Compressor;

use crate::restore::Restore;
use crate::{Error, Result};

/// Bytes of the NAR in one frame. Smaller frames give a sooner first byte, larger ones a better ratio.
pub const TRANSPORT_FRAME_BYTES: usize = 256 << 10;

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

    pub(crate) fn get(&self, nar: &Sha256) -> Option<Arc<[u32]>> {
        self.memory.get(nar)
    }
}

/// Encodes pieces of NARs, each on its own.
struct Encoder(Compressor<'static>);

impl Encoder {
    fn new() -> Result<Self> {
        Compressor::new(LEVEL).map(Self).map_err(internal)
    }

    fn encode(&mut self, piece: &[u8]) -> Result<Bytes> {
        self.0.compress(piece).map(Bytes::from).map_err(internal)
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
        let (mut frame, mut before) = (0u64, 0u64);
        for &size in sizes.iter() {
            if before + u64::from(size) > start {
                break;
            }
            before += u64::from(size);
            frame += 1;
        }
        let restore = open(frame.saturating_mul(TRANSPORT_FRAME_BYTES as u64))?;
        let skip = usize::try_from(start.min(total) - before).unwrap_or(0);
        let sizes = Arc::clone(shared);
        Ok(Self {
            nar,
            sizes,
            restore,
            encoder: Encoder::new()?,
            total: Some(total),
            measured: None,
            skip,
            first: None,
        })
    }

    fn whole(shared: &Arc<crate::engine::Shared>, nar: Sha256, restore: Restore) -> Result<Self> {
        let known = shared.transport_sizes.get(&nar).map(|sizes| sum(&sizes));
        let is_one_frame = restore.remaining() <= TRANSPORT_FRAME_BYTES as u64;
        let mut whole = Self {
            nar,
            sizes: Arc::clone(shared),
            restore,
            encoder: Encoder::new()?,
            total: known,
            measured: Some(Vec::new()),
            skip: 0,
            first: None,
        };
        if is_one_frame {
            whole.first = whole.encode_next()?;
            whole.total = Some(whole.first.as_ref().map_or(0, |frame| frame.len() as u64));
        }
        Ok(whole)
    }

    /// Returns the length of the whole encoded form, where it is known: always when the transfer began in the middle.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns the next encoded bytes, or `None` at the end.
    ///
    /// # Errors
    /// As [`Restore::next`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would invite callers to go on after an error")]
    pub fn next(&mut self) -> Result<Option<Bytes>> {
        let frame = match self.first.take() {
            Some(first) => Some(first),
            None => self.encode_next()?,
        };
        let Some(mut frame) = frame else { return Ok(None) };
        let skip = std::mem::take(&mut self.skip).min(frame.len());
        Ok(Some(frame.split_off(skip)))
    }

    fn encode_next(&mut self) -> Result<Option<Bytes>> {
        let Some(piece) = self.restore.read(TRANSPORT_FRAME_BYTES)? else { return Ok(None) };
        let frame = self.encoder.encode(&piece)?;
        if let Some(measured) = &mut self.measured {
            measured.push(u32::try_from(frame.len()).map_err(internal)?);
            if self.restore.remaining() == 0 {
                self.sizes.transport_sizes.memory.insert(self.nar, measured.as_slice().into());
            }
        }
        Ok(Some(frame))
    }
}

/// Encodes a NAR only to learn the lengths of its frames: what resuming costs after a restart.
fn measure(shared: &crate::engine::Shared, nar: Sha256, mut restore: Restore) -> Result<Arc<[u32]>> {
    let mut encoder = Encoder::new()?;
    let mut sizes = Vec::new();
    while let Some(piece) = restore.read(TRANSPORT_FRAME_BYTES)? {
        sizes.push(u32::try_from(encoder.encode(&piece)?.len()).map_err(internal)?);
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
