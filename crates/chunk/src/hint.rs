//! Where a chunk's bases may be found.

use crate::{Chunk, Origin, features};

/// Shorter chunks have no hint: naming a base takes 64 bytes.
const MIN_BYTES: usize = 2 << 10;

/// What leads to stored chunks that are like one: its place in its NAR, and features of its bytes. Whoever is told a wrong
/// one looks in vain, or finds what does not help; no more depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hint {
    /// Its place, if there is a name for it.
    pub origin: Option<Origin>,
    /// Its [`features`], if it has any.
    pub features: Option<[u64; 2]>,
}

impl Hint {
    /// Returns the hint of a chunk; an empty one below 2 KiB.
    #[must_use]
    pub fn of(chunk: &Chunk<'_>) -> Self {
        Self::new(chunk.origin, chunk.data)
    }

    /// Returns the hint of a chunk's bytes that come from a place; an empty one below 2 KiB.
    #[must_use]
    pub fn new(origin: Option<Origin>, data: &[u8]) -> Self {
        if data.len() < MIN_BYTES { Self::default() } else { Self { origin, features: features(data) } }
    }
}
