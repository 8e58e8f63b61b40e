//! The numbers of the format, and reading of fields. `docs/FORMAT.md` draws what is here.

/// The length of a pack's header in bytes; the first frame begins there.
pub const PACK_HEADER_LEN: usize = 40;

/// The length of a pack's trailer, its last bytes.
pub const TRAILER_LEN: usize = 56;

/// The most uncompressed bytes of one frame. A run of chunks is about 1 MiB; only the recipe of a
/// NAR of a terabyte comes near this.
pub const MAX_FRAME_RAW: usize = 64 << 20;

/// The most items of one frame; an item's number must fit the `u16` of a chunk's location.
pub const MAX_ITEMS: usize = 65_535;

/// The most bases of one frame.
pub const MAX_BASES: usize = 64;

/// The most bytes of all bases of one frame together, uncompressed: what decompressing it takes beside its items.
pub const MAX_BASE_BYTES: usize = 4 << 20;

/// The most bytes of footer that are read. A pack of 32 MiB has some 100 KiB.
pub const MAX_FOOTER_BYTES: u64 = 256 << 20;

/// Begins a pack. Like PNG's: a byte that is no ASCII, then letters, then line ends of both kinds and
/// the end-of-file character of DOS, so that a transfer as text is noticed at once.
pub(crate) const PACK_MAGIC: [u8; 8] = *b"\x89FRN\r\n\x1a\n";

/// Ends a pack that has its footer.
pub(crate) const TRAILER_MAGIC: [u8; 8] = *b"\n\x1a\n\rNRF\x89";

/// Begins a frame.
pub(crate) const FRAME_MAGIC: [u8; 4] = *b"\xf1RNf";

/// The version of packs, in header and trailer.
pub(crate) const PACK_VERSION: u16 = 1;

/// The part of a frame's header before the lengths of its items.
pub(crate) const FRAME_FIXED_LEN: usize = 32;

/// A checksum's length.
pub(crate) const CHECKSUM_LEN: usize = 8;

/// An id's length.
pub(crate) const ID_LEN: usize = 32;

/// The part of a footer's entry before the ids of its items.
pub(crate) const ENTRY_FIXED_LEN: usize = 24;

/// Returns the checksum that the format uses everywhere: XXH3 of 64 bits, seed 0.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(bytes)
}

/// Returns a length as a file position.
pub(crate) fn position(len: usize) -> u64 {
    u64::try_from(len).expect("no machine has addresses of more than 64 bits")
}

/// Returns a 32-bit length as a size in memory.
pub(crate) fn size(len: u32) -> usize {
    usize::try_from(len).expect("firn runs on machines with addresses of 32 bits or more")
}

/// Takes little-endian fields from the front of some bytes; `None` when they end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}
