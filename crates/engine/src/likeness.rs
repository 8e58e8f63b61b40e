//! Features of chunks that a client sent and that were stored without bases, until a recipe with them is committed.

use firn_chunk::{ChunkId, ChunkRef};
use quick_cache::sync::Cache;

use crate::lineage::Lineage;

/// Chunks that are remembered: those of some 4 GiB, in 6 MiB. Of others the bases of later chunks are found by place alone.
const CHUNKS: usize = 65_536;

/// What later chunks may be found to be like.
pub(crate) struct Likeness(Cache<ChunkId, [u64; 2]>);

impl Default for Likeness {
    fn default() -> Self {
        Self(Cache::new(CHUNKS))
    }
}

impl Likeness {
    /// Takes note of a chunk that has no bases.
    pub(crate) fn note(&self, id: ChunkId, features: [u64; 2]) {
        self.0.insert(id, features);
    }

    /// Adds what is known of a recipe's next chunk to its lineage, and forgets it.
    pub(crate) fn settle(&self, chunk: &ChunkRef, lineage: &mut Lineage) {
        if let Some((_, features)) = self.0.remove(&chunk.id) {
            lineage.note_features(features);
        }
    }
}
