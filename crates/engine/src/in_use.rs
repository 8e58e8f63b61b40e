//! Packs that restores of this process read from: a pack in use is not deleted, however long that takes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_pack::PackId;

/// How many restores use each pack.
#[derive(Default)]
pub(crate) struct InUse {
    packs: Mutex<HashMap<PackId, u32>>,
}

/// Packs that are in use until this is dropped. A crash ends all uses.
pub(crate) struct InUseGuard {
    of: Arc<InUse>,
    packs: Vec<PackId>,
}

impl InUse {
    /// Puts packs to use. Whoever does so looks afterwards whether they are still there.
    pub(crate) fn begin(self: &Arc<Self>, packs: impl Iterator<Item = PackId>) -> InUseGuard {
        let packs: Vec<PackId> = packs.collect();
        let mut counts = self.lock();
        for pack in &packs {
            *counts.entry(*pack).or_default() += 1;
        }
        InUseGuard { of: Arc::clone(self), packs }
    }

    /// Returns whether a pack is in use.
    pub(crate) fn has(&self, pack: PackId) -> bool {
        self.lock().contains_key(&pack)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PackId, u32>> {
        self.packs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InUseGuard {
    fn drop(&mut self) {
        let mut counts = self.of.lock();
        for pack in &self.packs {
            if let Some(count) = counts.get_mut(pack) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(pack);
                }
            }
        }
    }
}
