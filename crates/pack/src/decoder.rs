//! Frames to items.

use std::fmt;

use zstd::bulk::Decompressor;
use zstd::zstd_safe::get_frame_content_size;

use crate::frame::Header;
use crate::layout::{checksum, size};
use crate::{Codec, Error, FrameKind, Result};

/// Decompresses frames; keeps zstd's memory from one to the next.
pub struct FrameDecoder {
    zstd: Decompressor<'static>,
}

impl fmt::Debug for FrameDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameDecoder").finish_non_exhaustive()
    }
}

/// The items of a frame, uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedFrame {
    /// What the items are.
    pub kind: FrameKind,
    /// The items, one behind the other.
    pub data: Vec<u8>,
    /// Where each item ends in `data`, in order.
    pub ends: Vec<u32>,
}

impl DecodedFrame {
    /// Returns the item of this number, or `None` if the frame has fewer.
    #[must_use]
    pub fn item(&self, index: usize) -> Option<&[u8]> {
        let end = size(*self.ends.get(index)?);
        let start = match index.checked_sub(1) {
            Some(before) => size(*self.ends.get(before)?),
            None => 0,
        };
        self.data.get(start..end)
    }

    /// Returns all items in order.
    pub fn items(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.ends.len()).map_while(|index| self.item(index))
    }
}

impl FrameDecoder {
    /// Returns a decoder.
    ///
    /// # Errors
    /// [`Error::Zstd`] when there is no memory for zstd's context.
    pub fn new() -> Result<Self> {
        Ok(Self { zstd: Decompressor::new().map_err(Error::Zstd)? })
    }

    /// Decompresses exactly one whole frame.
    ///
    /// Checks the header, both checksums and every length before it allocates the items' bytes, at most
    /// [`MAX_FRAME_RAW`](crate::MAX_FRAME_RAW). It does *not* check ids: the frame does not hold them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are not one whole frame as written; [`Error::Unsupported`] for a
    /// whole frame of a kind or codec of a newer firn.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<DecodedFrame> {
        let (header, payload) = Header::parse(bytes)?;
        if payload.len() != size(header.payload_len) {
            let detail = format!("{} bytes follow its header, not {}", payload.len(), header.payload_len);
            return Err(Error::corrupt("frame", detail));
        }
        if checksum(payload) != header.payload_checksum {
            return Err(Error::corrupt("frame", "its payload's checksum does not match"));
        }
        let data = match header.codec {
            Codec::Raw => payload.to_vec(),
            Codec::Zstd => self.decompress(payload, header.raw_len)?,
        };
        let ends = header
            .lens
            .iter()
            .scan(0_u32, |end, len| {
                *end = end.checked_add(*len)?;
                Some(*end)
            })
            .collect();
        Ok(DecodedFrame { kind: header.kind, data, ends })
    }

    fn decompress(&mut self, payload: &[u8], raw_len: u32) -> Result<Vec<u8>> {
        let bad = |detail: String| Error::corrupt("frame", detail);
        match get_frame_content_size(payload) {
            Ok(Some(len)) if len == u64::from(raw_len) => {}
            Ok(len) => {
                return Err(bad(format!("zstd's content size is {len:?}, not {raw_len}")));
            }
            Err(_) => return Err(bad("its payload is not zstd".into())),
        }
        let mut data = Vec::with_capacity(size(raw_len));
        self.zstd
            .decompress_to_buffer(payload, &mut data)
            .map_err(|error| bad(format!("zstd does not decompress it: {error}")))?;
        if data.len() != size(raw_len) {
            return Err(bad(format!("it decompresses to {} bytes, not {raw_len}", data.len())));
        }
        Ok(data)
    }
}
