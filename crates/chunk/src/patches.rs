//! Where store hashes stood in an input, and which.
//!
//! Invariant: patches ascend, do not overlap, and a slot's first use comes after the first use of all lower slots.
//! Holds for every value, since only [`Patches::push`] and [`Patches::decode`] make them.

use crate::{Error, MAX_PATCHES, MAX_SLOTS, Result, varint};

/// Length of a store hash as it stands in an input.
pub const PATCH_BYTES: usize = 32;

const PATCH_LEN: u64 = PATCH_BYTES as u64;

/// One checkpoint in so many patches: 16 bytes of memory for what seeking would otherwise read again.
const CHECKPOINT_EVERY: usize = 256;

/// A store hash that was taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Patch {
    /// The first of its 32 bytes in the input.
    pub position: u64,
    /// Which store hash stood there: an index into the path's slots.
    pub slot: u16,
}

impl Patch {
    /// Returns the position behind its last byte.
    pub(crate) fn end(&self) -> u64 {
        self.position.saturating_add(PATCH_LEN)
    }
}

/// The patches of a recipe, in the order of their positions.
///
/// Kept as they are encoded: for each patch two numbers, how many bytes lie between the end of the one before (or
/// the input's start) and it, and its slot; about 3 bytes a patch. Equal patches have equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patches {
    bytes: Vec<u8>,
    len: usize,
    slots: usize,
    /// End of the last patch.
    end: u64,
    /// Where the patches with the numbers `CHECKPOINT_EVERY`, `2 * CHECKPOINT_EVERY`, … start.
    checkpoints: Vec<Checkpoint>,
}

/// A state from which patches can be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Checkpoint {
    /// End of the patch before.
    end: u64,
    /// Where in the bytes the next patch starts.
    at: usize,
}

impl Patches {
    /// Returns how many patches there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Tells whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns how many store hashes the patches need: one more than the highest slot.
    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots
    }

    /// Returns where the last patch ends in the input; 0 if there is none.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns all patches in the order of their positions.
    pub fn iter(&self) -> impl Iterator<Item = Patch> + '_ {
        let mut cursor = Cursor::default();
        std::iter::from_fn(move || cursor.next(self))
    }

    /// Returns the encoding.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds a patch if it keeps the invariant and the limits, and tells whether it did.
    pub(crate) fn push(&mut self, patch: Patch) -> bool {
        let slot = usize::from(patch.slot);
        let Some(gap) = patch.position.checked_sub(self.end) else { return false };
        let Some(end) = patch.position.checked_add(PATCH_LEN) else { return false };
        if slot > self.slots || slot >= MAX_SLOTS || self.len >= MAX_PATCHES {
            return false;
        }
        if self.len != 0 && self.len.is_multiple_of(CHECKPOINT_EVERY) {
            self.checkpoints.push(Checkpoint { end: self.end, at: self.bytes.len() });
        }
        varint::write(&mut self.bytes, gap);
        varint::write(&mut self.bytes, u64::from(patch.slot));
        self.end = end;
        self.len += 1;
        self.slots = self.slots.max(slot + 1);
        true
    }

    /// Reads patches that fill `bytes` and lie in an input of `length` bytes; `base` is where `bytes` starts, for
    /// errors.
    pub(crate) fn decode(bytes: &[u8], length: u64, base: usize) -> Result<Self> {
        let mut patches = Self::default();
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let fail = |what| Error::Corrupt { what, at: base + at };
            let (gap, gap_len) = varint::read(rest).ok_or(fail("a patch whose position is no number"))?;
            let rest = rest.get(gap_len..).unwrap_or_default();
            let (slot, slot_len) = varint::read(rest).ok_or(fail("a patch whose slot is no number"))?;
            let slot = u16::try_from(slot).map_err(|_| fail("a patch with too high a slot"))?;
            let position = patches.end.checked_add(gap).ok_or(fail("a patch behind the input's end"))?;
            if !patches.push(Patch { position, slot }) {
                return Err(fail("a patch that is one too many, out of order or skips a slot"));
            }
            if patches.end > length {
                return Err(fail("a patch behind the input's end"));
            }
            at += gap_len + slot_len;
        }
        Ok(patches)
    }
}

/// A place in a list of patches, which it does not borrow: each call must give the same list.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cursor(Checkpoint);

impl Cursor {
    /// Returns the next patch.
    #[inline]
    pub(crate) fn next(&mut self, patches: &Patches) -> Option<Patch> {
        let (gap, gap_len) = varint::read(patches.bytes.get(self.0.at..)?)?;
        let (slot, slot_len) = varint::read(patches.bytes.get(self.0.at + gap_len..)?)?;
        let position = self.0.end + gap;
        self.0 = Checkpoint { end: position + PATCH_LEN, at: self.0.at + gap_len + slot_len };
        Some(Patch { position, slot: u16::try_from(slot).ok()? })
    }

    /// Returns a cursor at the first patch that ends after `offset`.
    pub(crate) fn seek(patches: &Patches, offset: u64) -> Self {
        let after = patches.checkpoints.partition_point(|checkpoint| checkpoint.end <= offset);
        let start = after.checked_sub(1).and_then(|index| patches.checkpoints.get(index));
        let mut cursor = Self(start.copied().unwrap_or_default());
        loop {
            let here = cursor;
            match cursor.next(patches) {
                Some(patch) if patch.end() <= offset => {}
                _ => return here,
            }
        }
    }
}
