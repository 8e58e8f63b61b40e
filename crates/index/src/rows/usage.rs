use firn_nix::Sha256;
use serde::{Deserialize, Serialize};

use super::{CacheName, UnixSeconds, Uploader};

/// Days since 1970-01-01 UTC.
pub type Day = u32;

/// Whose counters of which day.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsageKey {
    /// The day.
    pub day: Day,
    /// The cache.
    pub cache: CacheName,
    /// Who pushed or pulled; at most 128 bytes.
    pub builder: String,
}

/// What happened to a cache by one builder on one day. As an argument it is added, field by field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRow {
    /// Requests that pushed something.
    pub pushes: u64,
    /// Paths that became visible.
    pub paths: u64,
    /// NAR bytes of these.
    pub logical_bytes: u64,
    /// Bytes of bodies that were received.
    pub received_bytes: u64,
    /// Bytes of bodies that were sent.
    pub served_bytes: u64,
    /// Narinfos and NARs that were asked for and there.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
    /// Requests that were refused or failed, misses aside.
    pub errors: u64,
    /// Paths offered with another NAR than the one that is there.
    pub conflicts: u64,
    /// When the builder was seen last.
    pub last_at: UnixSeconds,
}

impl UsageRow {
    /// Adds field by field, stopping at the largest number; the later time counts.
    pub fn add(&mut self, other: &Self) {
        let sums: [(&mut u64, u64); 9] = [
            (&mut self.pushes, other.pushes),
            (&mut self.paths, other.paths),
            (&mut self.logical_bytes, other.logical_bytes),
            (&mut self.received_bytes, other.received_bytes),
            (&mut self.served_bytes, other.served_bytes),
            (&mut self.hits, other.hits),
            (&mut self.misses, other.misses),
            (&mut self.errors, other.errors),
            (&mut self.conflicts, other.conflicts),
        ];
        for (sum, more) in sums {
            *sum = sum.saturating_add(more);
        }
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// Sums over the store at the last mark pass of a day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SummaryRow {
    /// When the pass began.
    pub at: UnixSeconds,
    /// Paths of all caches.
    pub paths: u64,
    /// NAR bytes of all paths.
    pub logical_bytes: u64,
    /// Of these, what whole NARs would take that are kept once each.
    pub distinct_nar_bytes: u64,
    /// Of these, what NARs would take that differ in more than store hashes.
    pub distinct_recipe_bytes: u64,
    /// Uncompressed bytes of all chunks that something needs.
    pub unique_bytes: u64,
    /// What these take in packs.
    pub chunk_bytes: u64,
    /// What delta frames save of that, estimated.
    pub delta_saved_bytes: u64,
    /// Bytes in packs of chunks that nothing needs.
    pub dead_bytes: u64,
    /// Bytes in packs of recipes.
    pub recipe_bytes: u64,
    /// Bytes in packs of records.
    pub record_bytes: u64,
    /// Bytes in packs of headers, footers and holes.
    pub overhead_bytes: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Bytes of the indexes on the disk.
    pub index_bytes: u64,
}

/// What a push of a path did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PushOutcome {
    /// Made the path visible.
    Created,
    /// Added to it: signatures, mostly.
    Merged,
    /// Offered another NAR, which was not taken.
    Conflict,
}

/// One push of a path that changed something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRecord {
    /// When.
    pub at: UnixSeconds,
    /// Who.
    pub uploader: Uploader,
    /// From which address, as text.
    pub address: Option<String>,
    /// The NAR that was offered.
    pub nar_hash: Sha256,
    /// The names of the keys whose signatures came with it or were made for it; at most 16.
    pub signed_by: Vec<String>,
    /// What it did.
    pub outcome: PushOutcome,
}

/// Where a path came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProvenanceRow {
    /// Its pushes, the oldest first: the first four and the newest twelve.
    pub pushes: Vec<PushRecord>,
}

impl ProvenanceRow {
    const FIRST: usize = 4;
    const MOST: usize = 16;

    /// Adds a push; one from the middle makes room.
    pub fn add(&mut self, push: PushRecord) {
        if self.pushes.len() >= Self::MOST {
            self.pushes.remove(Self::FIRST);
        }
        self.pushes.push(push);
    }
}
