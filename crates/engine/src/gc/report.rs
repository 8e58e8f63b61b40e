//! What a collection did, or would do.

use firn_index::{CacheName, UnixSeconds};
use firn_nix::StorePath;
use firn_pack::PackId;

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
    /// What waits to be doomed or deleted.
    pub backlog: Backlog,
    /// Packs that lost recipes in this collection and keep others: what rewriting them would free, about.
    pub sparse: Vec<SparsePack>,
    /// Stored bytes that come back once the backlog is deleted and sparse packs are rewritten, about.
    pub reclaimable_bytes: u64,
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
    /// How many of them nobody needs, about: by the lengths of the recipes that lean on it.
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
    /// Stored bytes of what stays, about; counted only where there is a quota.
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
    /// When it was committed.
    pub committed_at: UnixSeconds,
    /// When it, or something that refers to it, was last used.
    pub used_at: UnixSeconds,
    /// Whether it stays.
    pub stays: bool,
    /// Why: reads after "it stays: " or "it goes: ".
    pub why: String,
}
