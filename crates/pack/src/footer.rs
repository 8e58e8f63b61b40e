//! The list of frames that ends a pack.

use std::io;
use std::ops::Range;

use crate::layout::{
    ENTRY_FIXED_LEN, Fields, ID_LEN, MAX_FOOTER_BYTES, MAX_ITEMS, PACK_HEADER_LEN, PACK_VERSION, TRAILER_LEN,
    TRAILER_MAGIC, checksum, position, size,
};
use crate::{Codec, Error, FrameEntry, FrameKind, Item, PackId, Result};

/// What a pack holds, as its footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    /// The pack's id.
    pub id: PackId,
    /// Each frame with its position in the pack, in the order in which they lie.
    pub frames: Vec<(u64, FrameEntry)>,
}

const WHAT: &str = "pack's footer";

/// Most footers are shorter than this, so that one read is enough.
const FIRST_READ: u64 = 64 << 10;

struct Trailer {
    id: PackId,
    entries_len: u64,
    frames: u32,
    entries_checksum: u64,
}

impl Footer {
    /// Returns the ranges before listed frames that no entry covers: what recovery gave up.
    #[must_use]
    pub fn gaps(&self) -> Vec<Range<u64>> {
        let mut free_from = position(PACK_HEADER_LEN);
        let gaps = self
            .frames
            .iter()
            .map(|(offset, entry)| std::mem::replace(&mut free_from, offset + u64::from(entry.len))..*offset);
        gaps.filter(|gap| !gap.is_empty()).collect()
    }

    /// Returns the bytes between the last listed frame and the footer, in an object of `object_len` bytes.
    #[must_use]
    pub fn unlisted_bytes(&self, object_len: u64) -> u64 {
        let entries: usize = self.frames.iter().map(|(_, entry)| entry.listed_len()).sum();
        let end = self.frames.last().map_or(position(PACK_HEADER_LEN), |(offset, entry)| offset + u64::from(entry.len));
        object_len.saturating_sub(end + position(entries + TRAILER_LEN))
    }

    /// Reads the footer of the pack that an object of `object_len` bytes holds.
    ///
    /// `read` returns exactly the bytes at an offset. It is called once or twice, for at most
    /// [`MAX_FOOTER_BYTES`](crate::MAX_FOOTER_BYTES) and a trailer.
    ///
    /// # Errors
    /// [`Error::NoFooter`] when the object does not end in a trailer: see [`recover`](crate::recover()).
    /// [`Error::Corrupt`] when it does, and the footer is damaged; that too can be what a crash leaves
    /// of a pack whose sealing had not been synced. [`Error::Unsupported`] for a newer version.
    /// [`Error::Read`] when `read` fails.
    pub fn open<B: AsRef<[u8]>>(read: impl Fn(u64, usize) -> io::Result<B>, object_len: u64) -> Result<Self> {
        let trailer_len = position(TRAILER_LEN);
        let frames_from = position(PACK_HEADER_LEN);
        if object_len < frames_from + trailer_len {
            return Err(Error::NoFooter);
        }
        let tail_from = object_len.saturating_sub(FIRST_READ);
        let tail = read_exactly(&read, tail_from, object_len - tail_from)?;
        let tail = tail.as_ref();
        let (before, trailer) = tail.split_last_chunk::<TRAILER_LEN>().ok_or(Error::NoFooter)?;
        let trailer = Trailer::parse(trailer)?;
        let room = object_len - frames_from - trailer_len;
        if trailer.entries_len > room.min(MAX_FOOTER_BYTES) {
            let detail = format!("it names {} bytes of entries, in a pack of {object_len}", trailer.entries_len);
            return Err(Error::corrupt(WHAT, detail));
        }
        let frames_end = object_len - trailer_len - trailer.entries_len;
        match frames_end.checked_sub(tail_from).and_then(|skip| before.get(usize::try_from(skip).ok()?..)) {
            Some(entries) => trailer.entries(entries, frames_end),
            None => trailer.entries(read_exactly(&read, frames_end, trailer.entries_len)?.as_ref(), frames_end),
        }
    }
}

impl Trailer {
    fn parse(bytes: &[u8; TRAILER_LEN]) -> Result<Self> {
        let (summed, rest) = bytes.split_at(TRAILER_LEN - 16);
        let (sum, magic) = rest.split_at(8);
        if magic != TRAILER_MAGIC {
            return Err(Error::NoFooter);
        }
        if sum != checksum(summed).to_le_bytes() {
            return Err(Error::corrupt(WHAT, "its trailer's checksum does not match"));
        }
        let mut fields = Fields(summed);
        let mut read = || {
            let id = PackId(fields.array()?);
            let (entries_len, frames) = (fields.u64()?, fields.u32()?);
            let (version, reserved) = (fields.u16()?, fields.u16()?);
            let trailer = Self { id, entries_len, frames, entries_checksum: fields.u64()? };
            Some((trailer, version, reserved))
        };
        let (trailer, version, reserved) = read().ok_or_else(|| Error::corrupt(WHAT, "its trailer is short"))?;
        if version != PACK_VERSION {
            return Err(Error::Unsupported { what: WHAT, field: "version", found: version.into() });
        }
        if reserved != 0 {
            return Err(Error::corrupt(WHAT, "reserved bytes are not zero"));
        }
        Ok(trailer)
    }

    fn entries(&self, bytes: &[u8], frames_end: u64) -> Result<Footer> {
        if checksum(bytes) != self.entries_checksum {
            return Err(Error::corrupt(WHAT, "its checksum does not match"));
        }
        let mut fields = Fields(bytes);
        let mut frames = Vec::with_capacity(size(self.frames).min(bytes.len() / ENTRY_FIXED_LEN));
        let mut free_from = position(PACK_HEADER_LEN);
        for _ in 0..self.frames {
            let (offset, entry) = read_entry(&mut fields)?;
            let end = offset.checked_add(entry.len.into()).filter(|&end| end <= frames_end);
            free_from = match end {
                Some(end) if offset >= free_from => end,
                _ => {
                    return Err(Error::corrupt(WHAT, "a frame lies outside of the pack or over another"));
                }
            };
            frames.push((offset, entry));
        }
        if !fields.0.is_empty() {
            return Err(Error::corrupt(WHAT, "bytes follow its last entry"));
        }
        Ok(Footer { id: self.id, frames })
    }
}

fn read_entry(fields: &mut Fields<'_>) -> Result<(u64, FrameEntry)> {
    let short = || Error::corrupt(WHAT, "an entry is cut short");
    let offset = fields.u64().ok_or_else(short)?;
    let len = fields.u32().ok_or_else(short)?;
    let raw_len = fields.u32().ok_or_else(short)?;
    let items = size(fields.u32().ok_or_else(short)?);
    let [kind, codec, bases, reserved] = fields.array().ok_or_else(short)?;
    if items > MAX_ITEMS || reserved != 0 {
        return Err(Error::corrupt(WHAT, "an entry has too many items, or reserved bytes that are not zero"));
    }
    let kind = FrameKind::from_code(kind, WHAT)?;
    let codec = Codec::from_code(codec, WHAT)?;
    let mut items_at = Fields(fields.bytes(items * (ID_LEN + 4)).ok_or_else(short)?);
    let mut item = || Some(Item { id: items_at.array()?, len: items_at.u32()? });
    let items = (0..items).map_while(|_| item()).collect();
    let bases = (0..bases).map(|_| fields.array().ok_or_else(short)).collect::<Result<_>>()?;
    let entry = FrameEntry { kind, codec, len, raw_len, items, bases };
    entry.check().map_err(|detail| Error::corrupt(WHAT, format!("of a frame: {detail}")))?;
    Ok((offset, entry))
}

/// Reads from the object, and trusts the closure no further than its answer's length.
pub(crate) fn read_exactly<B: AsRef<[u8]>>(
    read: &impl Fn(u64, usize) -> io::Result<B>,
    offset: u64,
    len: u64,
) -> Result<B> {
    let fail = |len: usize| move |source: io::Error| Error::Read { offset, len, source };
    let len = usize::try_from(len).map_err(|_| fail(usize::MAX)(io::ErrorKind::OutOfMemory.into()))?;
    let bytes = read(offset, len).map_err(fail(len))?;
    if bytes.as_ref().len() == len { Ok(bytes) } else { Err(fail(len)(io::ErrorKind::UnexpectedEof.into())) }
}
