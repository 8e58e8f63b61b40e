//! Items to frames.

use std::fmt;
use std::io::Cursor;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

use crate::frame::{Header, check_shape, header_len};
use crate::layout::{MAX_FRAME_RAW, checksum, position, size};
use crate::{Codec, Error, Frame, FrameEntry, FrameKind, Item, Result};

/// Compresses runs of items to frames; keeps zstd's memory from one to the next.
pub struct FrameEncoder {
    zstd: Compressor<'static>,
    level: i32,
}

impl fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameEncoder").field("level", &self.level).finish_non_exhaustive()
    }
}

impl FrameEncoder {
    /// Returns an encoder.
    ///
    /// # Errors
    /// [`Error::Zstd`] when there is no memory for zstd's context.
    pub fn new() -> Result<Self> {
        let level = zstd::DEFAULT_COMPRESSION_LEVEL;
        Ok(Self { zstd: Compressor::new(level).map_err(Error::Zstd)?, level })
    }

    /// Compresses items that lie one behind the other in `data`, of the lengths `lens`, with their `ids`,
    /// at a zstd level.
    ///
    /// The ids are not checked against the items. Where zstd does not make the items smaller, they are
    /// stored as they are. The same input gives the same bytes with the same version of libzstd.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than [`MAX_FRAME_RAW`] bytes, no items or more than
    /// [`MAX_ITEMS`](crate::MAX_ITEMS), or
    /// when `data`, `lens` and `ids` do not agree; [`Error::Zstd`] for a level that zstd refuses.
    pub fn encode(
        &mut self,
        kind: FrameKind,
        data: &[u8],
        lens: &[u32],
        ids: &[[u8; 32]],
        level: i32,
    ) -> Result<Frame> {
        let raw_len = raw_len(data, lens, ids)?;
        self.set_level(level)?;
        let head = header_len(lens.len(), 0);
        let (mut bytes, codec) = self.compress(data, head);
        let payload = bytes.get(head..).unwrap_or_default();
        let payload_len = u32::try_from(payload.len()).expect("a payload is at most as long as the items");
        let payload_checksum = checksum(payload);
        let header = Header { kind, codec, raw_len, payload_len, payload_checksum, lens: lens.to_vec() };
        bytes[..head].copy_from_slice(&header.encode());

        let items = ids.iter().zip(lens).map(|(&id, &len)| Item { id, len }).collect();
        let len = u32::try_from(bytes.len()).expect("header and payload are limited to less than 2^32");
        Ok(Frame { bytes, entry: FrameEntry { kind, codec, len, raw_len, items, bases: Vec::new() } })
    }

    fn set_level(&mut self, level: i32) -> Result<()> {
        if level != self.level {
            self.zstd.set_parameter(CParameter::CompressionLevel(level)).map_err(Error::Zstd)?;
            self.level = level;
        }
        Ok(())
    }

    /// Returns `head` zero bytes and the payload behind them.
    fn compress(&mut self, data: &[u8], head: usize) -> (Vec<u8>, Codec) {
        // Room for the items and no more: zstd gives up where it would not gain.
        let mut bytes = Vec::with_capacity(head + data.len());
        bytes.resize(head, 0);
        let mut room = Cursor::new(&mut bytes);
        room.set_position(position(head));
        match self.zstd.compress_to_buffer(data, &mut room) {
            Ok(len) if len < data.len() => (bytes, Codec::Zstd),
            // Whatever stopped zstd, the items themselves are a right payload.
            Ok(_) | Err(_) => {
                bytes.truncate(head);
                bytes.extend_from_slice(data);
                (bytes, Codec::Raw)
            }
        }
    }
}

/// Returns the length of all items, once data, lengths and ids agree.
fn raw_len(data: &[u8], lens: &[u32], ids: &[[u8; 32]]) -> Result<u32> {
    if lens.len() != ids.len() {
        return Err(Error::Invalid(format!("{} lengths and {} ids were given", lens.len(), ids.len())));
    }
    let raw_len = u32::try_from(data.len()).ok().filter(|&len| size(len) <= MAX_FRAME_RAW);
    let Some(raw_len) = raw_len else {
        return Err(Error::Invalid(format!("{} bytes of items, and the limit is {MAX_FRAME_RAW}", data.len())));
    };
    check_shape(Codec::Raw, raw_len, Some(raw_len), lens.iter().copied(), 0).map_err(Error::Invalid)?;
    Ok(raw_len)
}
