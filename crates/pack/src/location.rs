//! Where bytes lie: packs, frames in packs, chunks in frames.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names a pack. Chosen at random and never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PackId(pub [u8; 16]);

impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PackId({self})")
    }
}

/// Where a frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FrameLoc {
    /// The pack that holds the frame.
    pub pack: PackId,
    /// The position of the frame's first byte in the pack.
    pub offset: u64,
    /// The length of the whole frame, its header included.
    pub len: u32,
}

/// Where a chunk lies: an item of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChunkLoc {
    /// The frame that holds the chunk.
    pub frame: FrameLoc,
    /// Which of the frame's items the chunk is, from 0.
    pub index: u16,
}
