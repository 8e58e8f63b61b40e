//! What a collection did, or would do.

use firn_index::{CacheName, UnixSeconds};
use firn_nix::StorePath;
use firn_pack::PackId;

use crate::rewrite::{Rewritten, StuckPack};

/// What a collection did; of a dry run, what it would do now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// When it began.
    pub started_at: UnixSeconds,
    /// When it ended.
    pub ended_at: UnixSeconds,
    /// What became of the paths of each cache.
    pub caches: Vec<CacheFates>,
    /// NARs that no path named and whose lease had ended.
    pub nars: u64,
    /// Uploaders' names of these NARs.
    pub aliases: u64,
    /// Documents of paths that are gone.
    pub documents: u64,
    /// Recipes that nothing named.
    pub recipes: u64,
    /// Packs that are no longer offered to uploads.
    pub condemned: PackSum,
    /// Packs that were condemned and are needed after all.
    pub revived: PackSum,
    /// Packs that nothing may lean on any more.
    pub doomed: PackSum,
    /// Packs whose objects were deleted: these bytes are free.
    pub deleted: PackSum,
    /// Packs that could not be read or deleted; the log says why. They are tried again by the next collection.
    pub failed: PackSum,
    /// Records that were written again before their pack was doomed.
    pub carried_records: u64,
    /// Frames of records that could not be read and went with their pack. The index has what they said; an index that is made
    /// again from packs would not.
    pub lost_record_frames: u64,
    /// What waits to be doomed or deleted.
    pub backlog: Backlog,
    /// Packs that could not be read or deleted, or not be emptied, with the reason; at most 100.
    pub stuck: Vec<StuckPack>,
    /// Packs of which so little is needed that they are repacked, the sparsest first, as counted exactly; nothing unless it
    /// is a dry run or packs are repacked.
    pub sparse: Vec<SparsePack>,
    /// What repacking did of that.
    pub repacked: Rewritten,
    /// Why packs were not repacked, or not all that are sparse.
    pub repack_problem: Option<String>,
    /// Bytes that nothing needs in packs that are not sparse enough, counted like `sparse`.
    pub spared_bytes: u64,
    /// Stored bytes that are to come back: of a dry run, by a collection now, its repacking and its grace included; of
    /// another, the backlog and the sparse packs that are left. Exact, but for what replaces them: headers and footers of
    /// new packs (some 30 bytes a chunk), and records of what is gone (some 100 bytes each).
    pub reclaimable_bytes: u64,
    /// Bytes of records in these packs, which are not among `reclaimable_bytes`: what still counts of them is written again.
    pub record_bytes: u64,
}

/// Packs and their stored bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackSum {
    /// How many.
    pub packs: u64,
    /// Their bytes, with headers, records and footers.
    pub stored_bytes: u64,
}

impl PackSum {
    /// Adds a pack.
    pub fn add(&mut self, stored_bytes: u64) {
        self.packs += 1;
        self.stored_bytes = self.stored_bytes.saturating_add(stored_bytes);
    }
}

/// Packs that nobody needs and that are still there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Those that wait for uploads to end that may have been told of them.
    pub condemned: PackSum,
    /// Those that wait for downloads to end.
    pub doomed: PackSum,
}

/// A pack of which a part is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparsePack {
    /// Which.
    pub pack: PackId,
    /// Its bytes.
    pub stored_bytes: u64,
    /// How many of them nothing needs.
    pub dead_bytes: u64,
}

/// What became of the paths of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheFates {
    /// Which cache.
    pub cache: CacheName,
    /// Paths that stay.
    pub kept_paths: u64,
    /// Paths that go.
    pub removed_paths: u64,
    /// NAR bytes of those.
    pub removed_logical_bytes: u64,
    /// Paths that were to go and were asked for meanwhile, with what they refer to.
    pub rescued_paths: u64,
    /// Stored bytes that what stays needs, whoever else needs them too; counted only where there is a quota.
    pub kept_stored_bytes: Option<u64>,
    /// The largest that go.
    pub largest_removed: Vec<Fate>,
    /// The largest that stay.
    pub largest_kept: Vec<Fate>,
}

/// What becomes of a path, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    /// The path.
    pub path: StorePath,
    /// Its NAR's bytes.
    pub nar_size: u64,
    /// Stored bytes that nothing else in the store needs: what deleting it alone would give back; counted by dry runs only.
    pub alone_bytes: Option<u64>,
    /// When it was committed.
    pub committed_at: UnixSeconds,
    /// When it, or something that refers to it, was last used.
    pub used_at: UnixSeconds,
    /// Whether it stays.
    pub stays: bool,
    /// Why: reads after "it stays: " or "it goes: ".
    pub why: String,
}
