use firn_chunk::{ChunkId, RecipeId};
use firn_pack::ChunkLoc;

use crate::{CacheName, PackSeq, Result};

/// Names a chunk or a recipe in what a cache has [seen](ChunkIndex::seen): half of its id.
///
/// Half is enough, since to find another content with the same half would take 2^128 tries. Chunks and recipes take
/// different halves: whoever sends a recipe's encoding as a chunk has not shown that its chunks are theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeenId(pub [u8; 16]);

impl From<&ChunkId> for SeenId {
    fn from(id: &ChunkId) -> Self {
        let [half, _] = halves(id.0);
        Self(half)
    }
}

impl From<&RecipeId> for SeenId {
    fn from(id: &RecipeId) -> Self {
        let [_, half] = halves(id.0);
        Self(half)
    }
}

fn halves(id: [u8; 32]) -> [[u8; 16]; 2] {
    let mut halves = [[0; 16]; 2];
    halves.as_flattened_mut().copy_from_slice(&id);
    halves
}

/// Under what a chunk may be found by one that is like it: a hash of the place in NARs where both stand, or of what both
/// are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineageKey(pub u64);

/// A chunk that may be the base of one like it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LineageRow {
    /// A recipe that has it.
    pub recipe: RecipeId,
    /// Which of the recipe's chunks it is, from 0; under [`firn_chunk::MAX_CHUNKS`].
    pub chunk: u32,
}

/// How many rows are kept of one key. With 1 `builders` takes 4 % and `upgrade` 3 % more bytes, with 2 `upgrade` 1.6 %.
pub const LINEAGE_ROWS: usize = 3;

/// Maps chunk ids to locations; rebuildable from pack footers, possibly behind [`crate::Meta`].
///
/// Writes need not be durable when a call returns: what a crash loses is applied again from the packs
/// whose sequence number is above [`ChunkIndex::watermark`].
pub trait ChunkIndex: Send + Sync {
    /// Returns, for each id, a location where a copy of the chunk was seen, or `None`.
    ///
    /// One call takes at most 4096 ids. The answer has as many entries as `ids`.
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>>;

    /// Records locations; a later location replaces an earlier one of the same chunk.
    fn apply(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()>;

    /// Removes the entry of each chunk that still points at the given location; others stay.
    fn forget(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()>;

    /// Returns the sequence number up to which every sealed pack has been applied; 0 for none.
    fn watermark(&self) -> Result<PackSeq>;

    /// Declares that every sealed pack up to `seq` has been applied. Never becomes durable before the
    /// entries that were applied before the call.
    fn set_watermark(&self, seq: PackSeq) -> Result<()>;

    /// Makes everything applied so far durable.
    fn flush(&self) -> Result<()>;

    /// Records that whoever may read a cache can know these contents. Lost by a crash before [`ChunkIndex::flush`], which
    /// costs an upload. What a crash keeps is a prefix of what was noted.
    fn note_seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<()>;

    /// Returns, for each of at most 4096 contents, whether it was noted for a cache.
    fn seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<Vec<bool>>;

    /// Forgets, durably, all that was noted for a cache: another of its name must not inherit it.
    fn forget_cache(&self, cache: &CacheName) -> Result<()>;

    /// Returns, for each of at most 4096 keys, the rows added last, the newest first; at most [`LINEAGE_ROWS`] each.
    ///
    /// Rows are hints: a recipe that they name may be gone, and a crash may lose any of them, which costs bytes later.
    fn lineage(&self, keys: &[LineageKey]) -> Result<Vec<Vec<LineageRow>>>;

    /// Adds rows in their order; the oldest of a key make room, and a recipe has one row of a key.
    fn add_lineage(&self, rows: &[(LineageKey, LineageRow)]) -> Result<()>;

    /// Returns what the engine tells of itself, as [`crate::Meta::measures`] does.
    fn measures(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Returns roughly how many chunks are known (an estimate is enough: it is shown to people).
    fn estimated_chunks(&self) -> Result<u64>;
}
