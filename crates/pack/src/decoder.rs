//! Frames to items.

use std::fmt;

use zstd::bulk::Decompressor;
use zstd::zstd_safe::{DCtx, InBuffer, OutBuffer, SafeResult, get_error_name, get_frame_content_size};

use crate::filter::Filters;
use crate::frame::Header;
use crate::layout::{MAX_BASE_BYTES, checksum, position, size};
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

/// The items of a frame, uncompressed; of [a part](FrameDecoder::decode_first), the first ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedFrame {
    /// What the items are.
    pub kind: FrameKind,
    /// The items, one behind the other.
    pub data: Vec<u8>,
    /// Where each item of the frame ends in `data`, in order, or would if `data` had all of them.
    pub ends: Vec<u32>,
    /// The chunks whose bytes it took to decompress the frame.
    pub bases: Vec<[u8; 32]>,
}

impl DecodedFrame {
    /// Returns the item of this number, or `None` if fewer were decompressed.
    #[must_use]
    pub fn item(&self, index: usize) -> Option<&[u8]> {
        let end = size(*self.ends.get(index)?);
        let start = match index.checked_sub(1) {
            Some(before) => size(*self.ends.get(before)?),
            None => 0,
        };
        self.data.get(start..end)
    }

    /// Returns all items that were decompressed, in order.
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

    /// Decompresses exactly one whole frame that has no bases and is not linked.
    ///
    /// Checks the header, both checksums and every length before it allocates the items' bytes, at most
    /// [`MAX_FRAME_RAW`](crate::MAX_FRAME_RAW). It does *not* check ids: the frame does not hold them.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the bytes are not one whole frame as written; [`Error::Unsupported`] for a
    /// whole frame of a kind or codec of a newer firn; [`Error::NeedsBases`] for one that has bases or is linked.
    pub fn decode(&mut self, bytes: &[u8]) -> Result<DecodedFrame> {
        self.decode_delta(bytes, &[])
    }

    /// Decompresses exactly one whole frame, given the bytes of its [bases](crate::frame_bases), one behind the other, or the
    /// [prefix](crate::Chain::prefix) of a linked one.
    ///
    /// Checks what [`decode`](Self::decode) does. With the bytes of other chunks it returns an error or other items:
    /// only the ids of the items can tell. Takes the items' bytes; the prefix is not copied.
    ///
    /// # Errors
    /// As [`decode`](Self::decode); [`Error::Invalid`] for more than [`MAX_BASE_BYTES`] of bases.
    pub fn decode_delta(&mut self, bytes: &[u8], bases: &[u8]) -> Result<DecodedFrame> {
        self.decode_first(bytes, bases, usize::MAX)
    }

    /// Decompresses the first `items` items of a frame, given its bases as for [`decode_delta`](Self::decode_delta), or all
    /// of them where stopping saves less than it costs.
    ///
    /// Checks what [`decode`](Self::decode) does, the checksum of the whole payload included; what zstd makes of the rest is
    /// not looked at. Takes the bytes of these items, and while it works twice as many; of a filtered frame
    /// up to three times those of whole segments.
    ///
    /// # Errors
    /// As [`decode_delta`](Self::decode_delta).
    pub fn decode_first(&mut self, bytes: &[u8], bases: &[u8], items: usize) -> Result<DecodedFrame> {
        let (header, payload) = Header::parse(bytes)?;
        if payload.len() != size(header.payload_len) {
            let detail = format!("{} bytes follow its header, not {}", payload.len(), header.payload_len);
            return Err(Error::corrupt("frame", detail));
        }
        if checksum(payload) != header.payload_checksum {
            return Err(Error::corrupt("frame", "its payload's checksum does not match"));
        }
        let wanted: u64 = header.lens.iter().take(items).copied().map(u64::from).sum();
        let is_part = wanted.saturating_mul(WORTH_STOPPING) <= u64::from(header.raw_len);
        let data = match header.codec {
            Codec::Raw => payload.to_vec(),
            Codec::Delta | Codec::Linked if bases.is_empty() => return Err(Error::NeedsBases),
            Codec::Zstd if is_part => decompress_first(payload, header.raw_len, &[], wanted)?,
            Codec::Zstd => self.decompress(payload, header.raw_len)?,
            Codec::Filtered => self.decode_filtered(payload, header.raw_len, is_part.then_some(wanted))?,
            Codec::Delta | Codec::Linked if is_part => decompress_first(payload, header.raw_len, bases, wanted)?,
            Codec::Delta | Codec::Linked => decompress_delta(payload, header.raw_len, bases)?,
        };
        let ends = header
            .lens
            .iter()
            .scan(0_u32, |end, len| {
                *end = end.checked_add(*len)?;
                Some(*end)
            })
            .collect();
        Ok(DecodedFrame { kind: header.kind, data, ends, bases: header.bases })
    }

    fn decode_filtered(&mut self, payload: &[u8], raw_len: u32, wanted: Option<u64>) -> Result<Vec<u8>> {
        let (filters, payload) = Filters::parse(payload, raw_len)?;
        let wanted = wanted.and_then(|wanted| usize::try_from(wanted).ok());
        let mut data = match wanted {
            Some(wanted) => decompress_first(payload, raw_len, &[], position(filters.needed(wanted)))?,
            None => self.decompress(payload, raw_len)?,
        };
        filters.inverse(&mut data);
        if let Some(wanted) = wanted {
            data.truncate(wanted);
        }
        Ok(data)
    }

    fn decompress(&mut self, payload: &[u8], raw_len: u32) -> Result<Vec<u8>> {
        check_content_size(payload, raw_len)?;
        let mut data = Vec::with_capacity(size(raw_len));
        let outcome = self.zstd.decompress_to_buffer(payload, &mut data);
        checked(outcome.map_err(|error| error.to_string()), data, raw_len)
    }
}

/// A part of a frame is decompressed alone if it is at most one in so many of its bytes: zstd copies every byte once more
/// then, and whoever wants the rest decompresses all of it.
const WORTH_STOPPING: u64 = 2;

/// Decompresses `wanted` bytes, fewer than the frame has.
fn decompress_first(payload: &[u8], raw_len: u32, bases: &[u8], wanted: u64) -> Result<Vec<u8>> {
    check_bases(bases)?;
    check_content_size(payload, raw_len)?;
    let wanted = u32::try_from(wanted).map_err(|_| Error::corrupt("frame", "its items are too long"))?;
    let mut data = Vec::with_capacity(size(wanted));
    let outcome = stream(payload, bases, size(wanted), &mut data);
    checked(outcome.map_err(|code| get_error_name(code).to_owned()), data, wanted)
}

/// Decompresses until there are `wanted` bytes, or the payload ends.
fn stream(payload: &[u8], bases: &[u8], wanted: usize, data: &mut Vec<u8>) -> SafeResult {
    let mut zstd = DCtx::create();
    if !bases.is_empty() {
        zstd.ref_prefix(bases)?;
    }
    let mut input = InBuffer::around(payload);
    loop {
        let (read, written) = (input.pos(), data.len());
        zstd.decompress_stream(&mut OutBuffer::around_pos(data, written), &mut input)?;
        if data.len() >= wanted || (input.pos(), data.len()) == (read, written) {
            data.truncate(wanted);
            return Ok(data.len());
        }
    }
}

fn check_bases(bases: &[u8]) -> Result<()> {
    if bases.len() > MAX_BASE_BYTES {
        return Err(Error::Invalid(format!("{} bytes of bases, and the limit is {MAX_BASE_BYTES}", bases.len())));
    }
    Ok(())
}

fn decompress_delta(payload: &[u8], raw_len: u32, bases: &[u8]) -> Result<Vec<u8>> {
    check_bases(bases)?;
    check_content_size(payload, raw_len)?;
    let mut data = Vec::with_capacity(size(raw_len));
    // zstd borrows the prefix for as long as the context lives, so a context serves one frame.
    let mut zstd = DCtx::create();
    let outcome = zstd.ref_prefix(bases).and_then(|_| zstd.decompress(&mut data, payload));
    checked(outcome.map_err(|code| get_error_name(code).to_owned()), data, raw_len)
}

/// Checks before memory is taken that zstd would give as many bytes as the header says.
fn check_content_size(payload: &[u8], raw_len: u32) -> Result<()> {
    match get_frame_content_size(payload) {
        Ok(Some(len)) if len == u64::from(raw_len) => Ok(()),
        Ok(len) => Err(Error::corrupt("frame", format!("zstd's content size is {len:?}, not {raw_len}"))),
        Err(_) => Err(Error::corrupt("frame", "its payload is not zstd")),
    }
}

fn checked(outcome: std::result::Result<usize, String>, data: Vec<u8>, raw_len: u32) -> Result<Vec<u8>> {
    let bad = |detail: String| Error::corrupt("frame", detail);
    outcome.map_err(|error| bad(format!("zstd does not decompress it: {error}")))?;
    if data.len() != size(raw_len) {
        return Err(bad(format!("it decompresses to {} bytes, not {raw_len}", data.len())));
    }
    Ok(data)
}
