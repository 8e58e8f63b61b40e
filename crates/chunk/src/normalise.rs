//! Takes store hashes out of a stream, so that a rebuild in which only hashes changed gives the same bytes.
//!
//! The rule, for each position `i` from left to right, on the bytes as they came in: if the 32 bytes from `i` are
//! nix-base32 characters, and
//! * `/nix/store/` stands right before and `-` right after them, they are a *reference*: their hash gets a slot if
//!   it has none;
//! * otherwise, if they are a hash that has a slot already, they are a *bare occurrence* of it.
//!
//! Either becomes 32 zero bytes and a patch, and the next position is `i + 32`; else it is `i + 1`. A reference for
//! which no slot is left stays as it is, and so does everything after the last patch that the limit allows.
//!
//! The scan looks at the last byte of a window first, as Nix's own scan for references does: where it is no base32
//! character, no window that holds it can match.

use std::collections::HashMap;

use firn_nix::{StoreHash, base32};

use crate::{MAX_PATCHES, MAX_SLOTS, PATCH_BYTES, Patch, Patches};

/// What stands before a store hash.
const PREFIX: &[u8] = b"/nix/store/";

/// How many bytes before the first unscanned one must still be in the buffer.
pub(crate) const CONTEXT_BYTES: usize = PREFIX.len();

/// How many bytes at the end of what it got a scan may leave for the next one.
pub(crate) const HELD_BYTES: usize = PATCH_BYTES;

/// Finds and removes store hashes; knows what it found so far.
#[derive(Default)]
pub(crate) struct Normaliser {
    slots: Slots,
    patches: Patches,
    /// How many of the first unscanned bytes are known to be base32 characters. Saves work only: what matches is
    /// looked at whole.
    known: usize,
}

impl Normaliser {
    /// Normalises `buffer[at..]` in place and returns up to where it is done.
    ///
    /// `base` is the position of the buffer's first byte in the stream. All bytes before `at` were normalised, and
    /// the last [`CONTEXT_BYTES`] of them are there, if there were so many. `last` tells that the stream ends with
    /// the buffer; otherwise at most [`HELD_BYTES`] bytes are left, to be given again with what follows them.
    pub(crate) fn scan(&mut self, buffer: &mut [u8], mut at: usize, base: u64, last: bool) -> usize {
        while self.patches.len() < MAX_PATCHES {
            let Some(window) = buffer.get(at..).and_then(<[u8]>::first_chunk) else {
                return if last { buffer.len() } else { at };
            };
            if let Some(skip) = self.skip(window) {
                at += skip;
                continue;
            }
            let follows_prefix = buffer.get(..at).is_some_and(|before| before.ends_with(PREFIX));
            let next = buffer.get(at + PATCH_BYTES);
            if follows_prefix && next.is_none() && !last {
                return at;
            }
            let is_reference = follows_prefix && next == Some(&b'-');
            let slot = if is_reference { self.slots.take(window) } else { self.slots.find(window) };
            match slot {
                Some(slot) => {
                    let window = buffer.get_mut(at..at + PATCH_BYTES).expect("it was read above");
                    window.fill(0);
                    let position = base + at as u64;
                    let pushed = self.patches.push(Patch { position, slot });
                    assert!(pushed, "windows do not overlap, slots are numbered in order, and the limit was checked");
                    at += PATCH_BYTES;
                    self.known = 0;
                }
                None => at = self.skip_run(buffer, at + 1),
            }
        }
        buffer.len()
    }

    /// Returns how far the next window may be that holds only base32 characters; `None` if this one does.
    #[inline]
    fn skip(&mut self, window: &[u8; PATCH_BYTES]) -> Option<usize> {
        let unknown = window.get(self.known..).unwrap_or_default();
        match unknown.iter().rposition(|&byte| !base32::IS_CHAR[usize::from(byte)]) {
            Some(index) => {
                let skip = self.known + index + 1;
                self.known = PATCH_BYTES - skip;
                Some(skip)
            }
            None => {
                self.known = PATCH_BYTES;
                None
            }
        }
    }

    /// Returns the next position from `at` on that is worth a look, after a window of only base32 characters.
    ///
    /// What begins within such a run is no reference, so that the filter is enough to pass over most of it.
    fn skip_run(&mut self, buffer: &[u8], at: usize) -> usize {
        let rest = buffer.get(at..).unwrap_or_default();
        let is_worth_a_look = |window: &[u8; PATCH_BYTES]| {
            let [.., last] = *window;
            !base32::IS_CHAR[usize::from(last)] || self.slots.filter.may_hold(window)
        };
        let windows = rest.windows(PATCH_BYTES);
        let count = windows.len();
        let mut windows = windows.map(|window| window.first_chunk().is_none_or(is_worth_a_look));
        let passed = windows.position(|is_worth_a_look| is_worth_a_look).unwrap_or(count);
        self.known = PATCH_BYTES - 1;
        at + passed
    }

    /// Returns what was found: patches, and the store hashes that fill them.
    pub(crate) fn finish(self) -> (Patches, Vec<StoreHash>) {
        (self.patches, self.slots.hashes)
    }
}

/// The store hashes that were seen as references.
#[derive(Default)]
struct Slots {
    hashes: Vec<StoreHash>,
    /// With the standard library's keyed hash: who chooses store hashes cannot choose buckets.
    numbers: HashMap<[u8; PATCH_BYTES], u16>,
    filter: Filter,
}

impl Slots {
    /// Returns the slot of a hash.
    #[inline]
    fn find(&self, text: &[u8; PATCH_BYTES]) -> Option<u16> {
        if self.filter.may_hold(text) { self.numbers.get(text).copied() } else { None }
    }

    /// Returns the slot of a hash, a new one if there is none; `None` if there are too many.
    fn take(&mut self, text: &[u8; PATCH_BYTES]) -> Option<u16> {
        if let Some(slot) = self.find(text) {
            return Some(slot);
        }
        if self.hashes.len() >= MAX_SLOTS {
            return None;
        }
        let slot = u16::try_from(self.hashes.len()).ok()?;
        self.hashes.push(StoreHash::from_ascii(text)?);
        self.numbers.insert(*text, slot);
        self.filter.add(text);
        Some(slot)
    }
}

/// Tells cheaply of most texts that they are none of the hashes: one bit for each value of a small hash.
///
/// In long runs of base32 characters every position is a candidate; this keeps them away from the map.
struct Filter(Box<[u64; Self::WORDS]>);

impl Default for Filter {
    fn default() -> Self {
        Self(Box::new([0; Self::WORDS]))
    }
}

impl Filter {
    /// 8 KiB: stays in the first-level cache, and some hundred hashes fill a hundredth of it.
    const WORDS: usize = 1024;

    /// Returns the word's index and the bit in it.
    #[inline]
    fn place(text: &[u8; PATCH_BYTES]) -> (usize, u64) {
        let (words, _) = text.as_chunks();
        let mixed = words.iter().fold(0_u64, |mixed, &word| mixed.rotate_left(13) ^ u64::from_le_bytes(word));
        // Fibonacci hashing: the multiplier is 2⁶⁴ divided by the golden ratio.
        let bits = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        let word = usize::try_from(bits >> 6).expect("10 bits fit");
        (word % Self::WORDS, 1 << (bits & 63))
    }

    fn add(&mut self, text: &[u8; PATCH_BYTES]) {
        let (word, bit) = Self::place(text);
        self.0[word] |= bit;
    }

    #[inline]
    fn may_hold(&self, text: &[u8; PATCH_BYTES]) -> bool {
        let (word, bit) = Self::place(text);
        self.0[word] & bit != 0
    }
}
