use firn_pack::PackId;
use serde::{Deserialize, Serialize};

use super::UnixSeconds;

/// What re-reading the packs has found: the pass that is not at its end yet, and the last one that was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubRow {
    /// The pass that goes on, or waits to be gone on with.
    pub current: Option<ScrubPass>,
    /// The last pass that came to its end.
    pub last: Option<ScrubPass>,
}

/// One pass over all packs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubPass {
    /// When it began.
    pub started_at: UnixSeconds,
    /// When it came to its end.
    pub finished_at: Option<UnixSeconds>,
    /// The last pack that was checked, in the order of their ids: an interrupted pass goes on behind it.
    pub cursor: Option<PackId>,
    /// Packs checked.
    pub packs: u64,
    /// Frames checked.
    pub frames: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Packs that could not be read: it is not known whether they are whole.
    pub unreadable_packs: u64,
    /// Packs that are gone, or whose header, length or footer is wrong.
    pub damaged_packs: u64,
    /// Frames that are not what was written.
    pub damaged_frames: u64,
    /// Paths, and documents, that can't be had until they are uploaded again.
    pub damaged_paths: u64,
    /// The first of these, with their caches.
    pub paths: Vec<DamagedPath>,
}

/// A path that can't be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPath {
    /// The cache's name.
    pub cache: String,
    /// The path's base name, or what names a document.
    pub path: String,
}
