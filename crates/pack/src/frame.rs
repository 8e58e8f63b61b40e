//! What a frame is, and its header.

use crate::layout::{
    CHECKSUM_LEN, ENTRY_FIXED_LEN, FRAME_FIXED_LEN, FRAME_MAGIC, Fields, ID_LEN, MAX_BASES, MAX_FRAME_RAW, MAX_ITEMS,
    checksum, size,
};
use crate::{ChunkLoc, DecodedFrame, Error, FrameLoc, Result};

/// Returns the id of any item: the BLAKE3 of its bytes.
///
/// Chunk ids and recipe ids are the same function of a chunk's and a recipe's bytes, so that the ids in
/// a lost footer can be had again from the frames.
#[must_use]
pub fn item_id(item: &[u8]) -> [u8; 32] {
    *blake3::hash(item).as_bytes()
}

/// What the items of a frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FrameKind {
    /// Chunks of normalised NARs.
    Chunks,
    /// Recipes.
    Recipe,
    /// Rows of the index, from which it can be rebuilt.
    Record,
}

impl FrameKind {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Chunks => 1,
            Self::Recipe => 2,
            Self::Record => 3,
        }
    }

    pub(crate) fn from_code(code: u8, what: &'static str) -> Result<Self> {
        match code {
            1 => Ok(Self::Chunks),
            2 => Ok(Self::Recipe),
            3 => Ok(Self::Record),
            _ => Err(Error::Unsupported { what, field: "kind", found: code.into() }),
        }
    }
}

/// How the items of a frame became its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Codec {
    /// The items themselves: zstd would not have made them smaller.
    Raw,
    /// One zstd frame that names its content size and has no checksum of its own.
    Zstd,
    /// The same with the bytes of the frame's bases, one behind the other, as zstd's prefix.
    Delta,
    /// The same with the items of the record frames before it in the pack as zstd's prefix: see [`Chain`](crate::Chain).
    Linked,
    /// What was [filtered](crate::FrameEncoder::encode_filtered) and how, and as zstd the items after that.
    Filtered,
}

impl Codec {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Delta => 2,
            Self::Linked => 3,
            Self::Filtered => 4,
        }
    }

    pub(crate) fn from_code(code: u8, what: &'static str) -> Result<Self> {
        match code {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            2 => Ok(Self::Delta),
            3 => Ok(Self::Linked),
            4 => Ok(Self::Filtered),
            _ => Err(Error::Unsupported { what, field: "codec", found: code.into() }),
        }
    }
}

/// An item of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Item {
    /// The item's id, see [`item_id`].
    pub id: [u8; 32],
    /// The item's length in bytes, uncompressed.
    pub len: u32,
}

/// What a pack's footer says of a frame.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FrameEntry {
    /// What its items are.
    pub kind: FrameKind,
    /// How they were compressed.
    pub codec: Codec,
    /// The bytes of the whole frame as stored, header included.
    pub len: u32,
    /// The bytes of all its items together, uncompressed.
    pub raw_len: u32,
    /// Its items in order; 1 to [`MAX_ITEMS`].
    pub items: Vec<Item>,
    /// The chunks that must be known to decompress it, in the order in which they make the prefix; 1 to
    /// [`MAX_BASES`] with [`Codec::Delta`], else none.
    pub bases: Vec<[u8; 32]>,
}

impl FrameEntry {
    /// Returns what a footer says of a frame, made from the frame: hashes every item.
    ///
    /// # Errors
    /// As [`FrameDecoder::decode`](crate::FrameDecoder::decode), of which `frame` is to be the outcome.
    pub fn of(bytes: &[u8], frame: &DecodedFrame) -> Result<Self> {
        let (header, _) = Header::parse(bytes)?;
        let items = frame.items().zip(header.lens).map(|(item, len)| Item { id: item_id(item), len }).collect();
        let len = u32::try_from(bytes.len()).map_err(|_| Error::corrupt("frame", "it is too long"))?;
        let (codec, raw_len) = (header.codec, header.raw_len);
        Ok(Self { kind: frame.kind, codec, len, raw_len, items, bases: header.bases })
    }

    /// Returns each item's id with its location, in order, given where the frame is.
    pub fn locations(&self, frame: FrameLoc) -> impl Iterator<Item = ([u8; 32], ChunkLoc)> + '_ {
        (0..=u16::MAX).zip(&self.items).map(move |(index, item)| (item.id, ChunkLoc { frame, index }))
    }

    /// Returns the bytes that a footer takes for it.
    pub(crate) fn listed_len(&self) -> usize {
        ENTRY_FIXED_LEN + (ID_LEN + 4) * self.items.len() + ID_LEN * self.bases.len()
    }

    /// Checks what every entry that was read or is to be written must keep.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let lens = self.items.iter().map(|item| item.len);
        check_codec(self.kind, self.codec, self.bases.len())?;
        check_shape(self.codec, self.raw_len, self.payload_len(), lens)
    }

    /// Returns the frame's payload length, or `None` if `len` is less than the header.
    fn payload_len(&self) -> Option<u32> {
        u32::try_from(header_len(self.items.len(), self.bases.len()))
            .ok()
            .and_then(|header| self.len.checked_sub(header))
    }
}

/// A frame as it is to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The bytes to append to a pack.
    pub bytes: Vec<u8>,
    /// What the pack's footer says of it.
    pub entry: FrameEntry,
}

/// Returns the length of a frame's header.
pub(crate) fn header_len(items: usize, bases: usize) -> usize {
    FRAME_FIXED_LEN + 4 * items + ID_LEN * bases + CHECKSUM_LEN
}

/// Checks that a frame has as many bases as its codec wants, and is of a kind that may have them.
pub(crate) fn check_codec(kind: FrameKind, codec: Codec, bases: usize) -> std::result::Result<(), String> {
    match codec {
        Codec::Raw | Codec::Zstd | Codec::Linked | Codec::Filtered if bases != 0 => {
            Err(format!("it names {bases} bases, and its codec uses none"))
        }
        Codec::Delta if kind != FrameKind::Chunks => Err("it has bases, and its items are no chunks".to_owned()),
        Codec::Filtered if kind != FrameKind::Chunks => Err("it is filtered, and its items are no chunks".to_owned()),
        Codec::Linked if kind != FrameKind::Record => Err("it is linked, and its items are no records".to_owned()),
        Codec::Delta if !(1..=MAX_BASES).contains(&bases) => {
            Err(format!("it names {bases} bases, and its codec uses 1 to {MAX_BASES}"))
        }
        _ => Ok(()),
    }
}

/// Checks that a frame's numbers agree with one another and with the limits.
pub(crate) fn check_shape(
    codec: Codec,
    raw_len: u32,
    payload_len: Option<u32>,
    lens: impl ExactSizeIterator<Item = u32>,
) -> std::result::Result<(), String> {
    let count = lens.len();
    if !(1..=MAX_ITEMS).contains(&count) {
        return Err(format!("it has {count} items, and a frame has 1 to {MAX_ITEMS}"));
    }
    if size(raw_len) > MAX_FRAME_RAW {
        return Err(format!("its items have {raw_len} bytes, and the limit is {MAX_FRAME_RAW}"));
    }
    let sum: u64 = lens.map(u64::from).sum();
    if sum != u64::from(raw_len) {
        return Err(format!("its items' lengths add up to {sum}, not to {raw_len}"));
    }
    let good = match codec {
        Codec::Raw => payload_len == Some(raw_len),
        Codec::Zstd | Codec::Delta | Codec::Linked | Codec::Filtered => payload_len.is_some_and(|len| len < raw_len),
    };
    if !good {
        return Err(format!("its length does not suit {raw_len} bytes of items"));
    }
    Ok(())
}

/// The first bytes of a frame's header: enough to know how long header and frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixed {
    kind: u8,
    codec: u8,
    pub(crate) bases: u8,
    pub(crate) items: u32,
    pub(crate) header_len: u32,
    pub(crate) payload_len: u32,
    pub(crate) raw_len: u32,
    pub(crate) payload_checksum: u64,
}

const WHAT: &str = "frame's header";

impl Fixed {
    /// Reads the fixed part. Its numbers are within limits, but not yet to be trusted: the checksum
    /// comes after the header's variable part.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let short = || Error::corrupt(WHAT, "it is cut short");
        let mut fields = Fields(bytes);
        if fields.array::<4>().ok_or_else(short)? != FRAME_MAGIC {
            return Err(Error::corrupt(WHAT, "it does not begin with a frame's magic"));
        }
        let mut read = || {
            let [kind, codec, bases, reserved] = fields.array::<4>()?;
            let fixed = Self {
                kind,
                codec,
                bases,
                items: fields.u32()?,
                header_len: fields.u32()?,
                payload_len: fields.u32()?,
                raw_len: fields.u32()?,
                payload_checksum: fields.u64()?,
            };
            Some((fixed, reserved))
        };
        let (fixed, reserved) = read().ok_or_else(short)?;
        let items = size(fixed.items);
        if items > MAX_ITEMS
            || size(fixed.header_len) != header_len(items, fixed.bases.into())
            || size(fixed.payload_len) > MAX_FRAME_RAW
            || reserved != 0
        {
            return Err(Error::corrupt(WHAT, "its lengths do not agree or are over the limits"));
        }
        Ok(fixed)
    }

    /// Returns the length of the whole frame.
    pub(crate) fn frame_len(&self) -> u32 {
        self.header_len + self.payload_len
    }
}

/// What the first bytes of a frame say of it: where it ends, and whether it is worth decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    /// What its items are.
    pub kind: FrameKind,
    /// How they were compressed.
    pub codec: Codec,
    /// The bytes of the whole frame.
    pub len: u32,
    /// The bytes of all its items together, uncompressed.
    pub raw_len: u32,
    /// How many items it has.
    pub items: u32,
    /// How many chunks must be known to decompress it.
    pub bases: u8,
}

impl FrameHead {
    /// Reads the head of the frame at the front of `bytes`; what follows the frame does not matter.
    ///
    /// Its numbers are within the limits of the format and claims until the frame was decoded.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when no frame begins there, [`Error::Unsupported`] for a kind or codec of a newer firn.
    pub fn read(bytes: &[u8]) -> Result<Self> {
        let fixed = Fixed::parse(bytes)?;
        Ok(Self {
            kind: FrameKind::from_code(fixed.kind, "frame")?,
            codec: Codec::from_code(fixed.codec, "frame")?,
            len: fixed.frame_len(),
            raw_len: fixed.raw_len,
            items: fixed.items,
            bases: fixed.bases,
        })
    }
}

/// A frame's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: FrameKind,
    pub(crate) codec: Codec,
    pub(crate) raw_len: u32,
    pub(crate) payload_len: u32,
    pub(crate) payload_checksum: u64,
    pub(crate) lens: Vec<u32>,
    pub(crate) bases: Vec<[u8; 32]>,
}

impl Header {
    /// Reads the header at the front of `bytes` and returns it with what follows it.
    pub(crate) fn parse(bytes: &[u8]) -> Result<(Self, &[u8])> {
        let fixed = Fixed::parse(bytes)?;
        let Some((head, rest)) = bytes.split_at_checked(size(fixed.header_len)) else {
            return Err(Error::corrupt(WHAT, "it is cut short"));
        };
        let (summed, sum) = head.split_at(head.len() - CHECKSUM_LEN);
        if sum != checksum(summed).to_le_bytes() {
            return Err(Error::corrupt(WHAT, "its checksum does not match"));
        }
        let mut fields = Fields(summed.get(FRAME_FIXED_LEN..).unwrap_or_default());
        let lens: Vec<u32> = (0..fixed.items).map_while(|_| fields.u32()).collect();
        let bases: Vec<[u8; ID_LEN]> = (0..fixed.bases).map_while(|_| fields.array()).collect();
        let header = Self {
            kind: FrameKind::from_code(fixed.kind, "frame")?,
            codec: Codec::from_code(fixed.codec, "frame")?,
            raw_len: fixed.raw_len,
            payload_len: fixed.payload_len,
            payload_checksum: fixed.payload_checksum,
            lens,
            bases,
        };
        let lens = header.lens.iter().copied();
        check_codec(header.kind, header.codec, header.bases.len())
            .and_then(|()| check_shape(header.codec, header.raw_len, Some(header.payload_len), lens))
            .map_err(|detail| Error::corrupt("frame", detail))?;
        Ok((header, rest))
    }

    /// Returns the header's bytes; the caller has checked its shape.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let len = header_len(self.lens.len(), self.bases.len());
        let bases = u8::try_from(self.bases.len()).expect("the number of bases is limited");
        let small = |n: usize| u32::try_from(n).expect("the number of items is limited");
        let mut out = Vec::with_capacity(len);
        out.extend(FRAME_MAGIC);
        out.extend([self.kind.code(), self.codec.code(), bases, 0]);
        for field in [small(self.lens.len()), small(len), self.payload_len, self.raw_len] {
            out.extend(field.to_le_bytes());
        }
        out.extend(self.payload_checksum.to_le_bytes());
        for len in &self.lens {
            out.extend(len.to_le_bytes());
        }
        out.extend(self.bases.iter().flatten());
        out.extend(checksum(&out).to_le_bytes());
        out
    }
}

/// Returns the ids of the bases that a frame needs to be decompressed, in the order in which they make the prefix.
///
/// Reads the frame's header only; none for a frame that stands alone.
///
/// # Errors
/// [`Error::Corrupt`] and [`Error::Unsupported`] as [`FrameDecoder::decode`](crate::FrameDecoder::decode).
pub fn frame_bases(bytes: &[u8]) -> Result<Vec<[u8; 32]>> {
    // Most frames have none: one byte of the fixed part says so, and decoding checks it.
    if Fixed::parse(bytes)?.bases == 0 {
        return Ok(Vec::new());
    }
    Header::parse(bytes).map(|(header, _)| header.bases)
}
