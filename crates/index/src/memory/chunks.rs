use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_chunk::ChunkId;
use firn_pack::ChunkLoc;

use crate::{CacheName, ChunkIndex, LINEAGE_ROWS, LineageKey, LineageRow, PackSeq, Result, SeenId};

/// A [`ChunkIndex`] in memory.
#[derive(Debug, Default)]
pub struct MemoryChunkIndex {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    chunks: BTreeMap<ChunkId, ChunkLoc>,
    watermark: PackSeq,
    seen: BTreeMap<CacheName, BTreeSet<SeenId>>,
    lineage: BTreeMap<LineageKey, Vec<LineageRow>>,
}

impl MemoryChunkIndex {
    /// Returns an index that knows no chunk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic can only leave entries out, which the trait allows.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ChunkIndex for MemoryChunkIndex {
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>> {
        let state = self.lock();
        Ok(ids.iter().map(|id| state.chunks.get(id).copied()).collect())
    }

    fn apply(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        self.lock().chunks.extend(entries.iter().copied());
        Ok(())
    }

    fn forget(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        let mut state = self.lock();
        for (id, location) in entries {
            if state.chunks.get(id) == Some(location) {
                state.chunks.remove(id);
            }
        }
        Ok(())
    }

    fn watermark(&self) -> Result<PackSeq> {
        Ok(self.lock().watermark)
    }

    fn set_watermark(&self, seq: PackSeq) -> Result<()> {
        self.lock().watermark = seq;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn note_seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<()> {
        self.lock().seen.entry(cache.clone()).or_default().extend(ids);
        Ok(())
    }

    fn seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<Vec<bool>> {
        let state = self.lock();
        let seen = state.seen.get(cache);
        Ok(ids.iter().map(|id| seen.is_some_and(|seen| seen.contains(id))).collect())
    }

    fn forget_cache(&self, cache: &CacheName) -> Result<()> {
        self.lock().seen.remove(cache);
        Ok(())
    }

    fn lineage(&self, keys: &[LineageKey]) -> Result<Vec<Vec<LineageRow>>> {
        let state = self.lock();
        Ok(keys.iter().map(|key| state.lineage.get(key).cloned().unwrap_or_default()).collect())
    }

    fn add_lineage(&self, rows: &[(LineageKey, LineageRow)]) -> Result<()> {
        let mut state = self.lock();
        for (key, row) in rows {
            let kept = state.lineage.entry(*key).or_default();
            kept.retain(|old| old.recipe != row.recipe);
            kept.insert(0, *row);
            kept.truncate(LINEAGE_ROWS);
        }
        Ok(())
    }

    fn estimated_chunks(&self) -> Result<u64> {
        Ok(u64::try_from(self.lock().chunks.len()).unwrap_or(u64::MAX))
    }
}
