use serde::{Deserialize, Serialize};

use super::UnixSeconds;

/// How collections of garbage went: the last one that came to its end, and the failure since then, if there was one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionRow {
    /// The last one that came to its end.
    pub last: Option<CollectionPass>,
    /// The last one, if it failed.
    pub failure: Option<CollectionFailure>,
}

/// What one collection did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionPass {
    /// When it began.
    pub started_at: UnixSeconds,
    /// When it ended.
    pub ended_at: UnixSeconds,
    /// Paths that went.
    pub removed_paths: u64,
    /// Packs that were deleted.
    pub deleted_packs: u64,
    /// Their bytes.
    pub deleted_bytes: u64,
    /// Stored bytes that were to come back after it.
    pub reclaimable_bytes: u64,
    /// Why packs were not repacked, or not all that are sparse.
    pub repack_problem: Option<String>,
    /// Packs that it could not empty, read or delete; at most 100.
    pub stuck: Vec<StuckRow>,
}

/// A pack that stays although it should not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StuckRow {
    /// Its id, as it is printed.
    pub pack: String,
    /// Its bytes.
    pub stored_bytes: u64,
    /// Why it stays.
    pub why: String,
}

/// A collection that failed. What it did by then stays done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionFailure {
    /// When.
    pub at: UnixSeconds,
    /// Why.
    pub problem: String,
}
