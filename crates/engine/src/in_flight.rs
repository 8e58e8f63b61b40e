//! Chunks that some ingest is about to store: so that uploads of the same content at the same time store it once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_chunk::ChunkId;
use firn_pack::ChunkLoc;

use crate::run::Pending;

/// The chunks that were claimed and are not yet in the chunk index.
///
/// Bounded by what the ingests' runs hold (a frame each) and what the open pack took since it was last synced.
#[derive(Default)]
pub(crate) struct InFlight {
    chunks: Mutex<HashMap<ChunkId, Arc<Pending>>>,
}

/// The answer to a claim.
pub(crate) enum Claim {
    /// The caller stores the chunk.
    Mine(Arc<Pending>),
    /// Another does.
    Theirs(Arc<Pending>),
}

impl InFlight {
    /// Returns who has the chunk in hand, if anyone.
    pub(crate) fn get(&self, id: &ChunkId) -> Option<Arc<Pending>> {
        self.lock().get(id).cloned()
    }

    /// Gives the chunk to the caller unless it is in somebody's hands.
    pub(crate) fn claim(&self, id: ChunkId, pending: Arc<Pending>) -> Claim {
        match self.lock().entry(id) {
            std::collections::hash_map::Entry::Occupied(entry) => Claim::Theirs(Arc::clone(entry.get())),
            std::collections::hash_map::Entry::Vacant(entry) => Claim::Mine(Arc::clone(entry.insert(pending))),
        }
    }

    /// Returns who has each chunk in hand, if anyone.
    pub(crate) fn get_all(&self, ids: impl Iterator<Item = ChunkId>) -> Vec<Option<Arc<Pending>>> {
        let chunks = self.lock();
        ids.map(|id| chunks.get(&id).cloned()).collect()
    }

    /// Gives the caller, in one step, all of the chunks that are in nobody's hands; for the others the answer is `None`.
    pub(crate) fn claim_all(
        &self,
        ids: impl Iterator<Item = ChunkId>,
        pending: impl Fn() -> Arc<Pending>,
    ) -> Vec<Option<Arc<Pending>>> {
        let mut chunks = self.lock();
        let claim = |id| match chunks.entry(id) {
            std::collections::hash_map::Entry::Occupied(_) => None,
            std::collections::hash_map::Entry::Vacant(entry) => Some(Arc::clone(entry.insert(pending()))),
        };
        ids.map(claim).collect()
    }

    /// Forgets chunks that came to nothing.
    pub(crate) fn remove<'a>(&self, ids: impl Iterator<Item = &'a ChunkId>) {
        let mut chunks = self.lock();
        for id in ids {
            chunks.remove(id);
        }
    }

    /// Forgets chunks that were stored at these places: the index knows them now, or they turned out to be damaged. One that
    /// was stored elsewhere since stays.
    pub(crate) fn release(&self, stored: &[(ChunkId, ChunkLoc)]) {
        let mut chunks = self.lock();
        for (id, loc) in stored {
            // Who stores a chunk learns its place a moment after the pack has it, and another may have told the index by
            // then: kept, it would be answered with that place for ever, also when the pack is gone.
            if chunks.get(id).is_some_and(|pending| pending.loc().is_none_or(|known| known == *loc)) {
                chunks.remove(id);
            }
        }
    }

    /// Returns how many chunks are in hand.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ChunkId, Arc<Pending>>> {
        self.chunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use firn_pack::{FrameLoc, PackId};

    use super::*;

    fn loc(pack: u8) -> ChunkLoc {
        ChunkLoc { frame: FrameLoc { pack: PackId([pack; 16]), offset: 9, len: 100 }, index: 3 }
    }

    #[test]
    fn what_the_index_knows_is_released_though_its_upload_has_yet_to_learn_its_place() {
        let id = ChunkId([7; 32]);
        for (known, released) in [(None, true), (Some(loc(1)), true), (Some(loc(2)), false)] {
            let in_flight = InFlight::default();
            assert!(matches!(in_flight.claim(id, Pending::knowing(known)), Claim::Mine(_)));
            assert!(matches!(in_flight.claim(id, Pending::knowing(None)), Claim::Theirs(_)));
            in_flight.release(&[(id, loc(1))]);
            assert_eq!(in_flight.get(&id).is_none(), released, "{known:?}");
            assert_eq!(in_flight.len(), usize::from(!released));
        }
    }
}
