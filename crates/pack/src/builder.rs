//! The growing list of a pack's frames.

use crate::layout::{PACK_HEADER_LEN, PACK_MAGIC, PACK_VERSION, TRAILER_LEN, TRAILER_MAGIC, checksum, position};
use crate::{FrameEntry, FrameKind, FrameLoc, PackId};

/// Says where each frame of a pack goes, and makes the footer when the pack is to be sealed.
///
/// It writes nothing: the caller appends the header, each frame and the footer to an object, in the order
/// of the calls. The footer grows in memory, some 36 bytes a chunk.
#[derive(Debug, Clone)]
pub struct PackBuilder {
    id: PackId,
    len: u64,
    frames: u32,
    unique_bytes: u64,
    entries: Vec<u8>,
}

impl PackBuilder {
    /// Starts a pack and returns the bytes that begin it.
    #[must_use]
    pub fn new(id: PackId) -> (Self, [u8; PACK_HEADER_LEN]) {
        let mut header = [0; PACK_HEADER_LEN];
        header[..8].copy_from_slice(&PACK_MAGIC);
        header[8..10].copy_from_slice(&PACK_VERSION.to_le_bytes());
        header[16..32].copy_from_slice(&id.0);
        let sum = checksum(&header[..32]);
        header[32..].copy_from_slice(&sum.to_le_bytes());
        let builder = Self { id, len: position(PACK_HEADER_LEN), frames: 0, unique_bytes: 0, entries: Vec::new() };
        (builder, header)
    }

    /// Takes the next frame into the list and returns where its bytes go.
    pub fn push(&mut self, entry: &FrameEntry) -> FrameLoc {
        self.push_at(self.len, entry)
    }

    /// Takes a frame that lies at an offset behind all others.
    pub(crate) fn push_at(&mut self, offset: u64, entry: &FrameEntry) -> FrameLoc {
        debug_assert!(offset >= self.len, "frames are pushed in the order in which they lie");
        let small = |n: usize| u32::try_from(n).expect("the number of items and bases is limited");
        let bases = u8::try_from(entry.bases.len()).expect("the number of bases is limited");
        self.entries.extend(offset.to_le_bytes());
        for field in [entry.len, entry.raw_len, small(entry.items.len())] {
            self.entries.extend(field.to_le_bytes());
        }
        self.entries.extend([entry.kind.code(), entry.codec.code(), bases, 0]);
        for item in &entry.items {
            self.entries.extend(item.id);
            self.entries.extend(item.len.to_le_bytes());
        }
        self.entries.extend(entry.bases.iter().flatten());

        self.len = offset + u64::from(entry.len);
        self.frames += 1;
        if entry.kind == FrameKind::Chunks {
            self.unique_bytes += u64::from(entry.raw_len);
        }
        FrameLoc { pack: self.id, offset, len: entry.len }
    }

    /// Leaves out what lies before a position.
    pub(crate) fn skip_to(&mut self, offset: u64) {
        self.len = self.len.max(offset);
    }

    /// Returns the pack's id.
    #[must_use]
    pub fn id(&self) -> PackId {
        self.id
    }

    /// Returns the pack's length in bytes so far, without a footer: where the next frame goes.
    #[expect(clippy::len_without_is_empty, reason = "a pack has its header from the beginning")]
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Returns the length in bytes that the pack would have if it were sealed now.
    #[must_use]
    pub fn sealed_len(&self) -> u64 {
        self.len + position(self.entries.len()) + position(TRAILER_LEN)
    }

    /// Returns the number of frames so far.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Returns the uncompressed bytes of all chunks so far.
    #[must_use]
    pub fn unique_bytes(&self) -> u64 {
        self.unique_bytes
    }

    /// Returns the footer: the bytes that end the pack.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut footer = self.entries;
        let start = footer.len();
        let sum = checksum(&footer);
        footer.extend(self.id.0);
        footer.extend(position(start).to_le_bytes());
        footer.extend(self.frames.to_le_bytes());
        footer.extend(PACK_VERSION.to_le_bytes());
        footer.extend([0; 2]);
        footer.extend(sum.to_le_bytes());
        let sum = checksum(&footer[start..]);
        footer.extend(sum.to_le_bytes());
        footer.extend(TRAILER_MAGIC);
        footer
    }
}
