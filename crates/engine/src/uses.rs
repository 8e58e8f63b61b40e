//! When paths were last used: gathered in memory, to the hour, and written to the index from time to time.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_index::{CacheName, Meta, UnixSeconds, use_of_nar};
use firn_nix::{Sha256, StoreHash};

use crate::{Engine, Result};

/// Paths that are remembered at most, some 64 bytes each; uses of more between two writes are lost.
const MAX_PATHS: usize = 1 << 20;

/// Uses that are written at once.
const BATCH: usize = 4096;

/// An hour, to which uses are recorded.
const HOUR: u64 = 3600;

/// The uses of this hour, and those of earlier ones that are not in the index yet.
#[derive(Default)]
pub(crate) struct Uses {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    caches: HashMap<CacheName, HashMap<StoreHash, Use>>,
    paths: usize,
    lost: u64,
}

#[derive(Clone, Copy)]
struct Use {
    at: UnixSeconds,
    is_written: bool,
}

impl Uses {
    /// Notes that a path was used; the second time in an hour costs a look-up.
    pub(crate) fn note(&self, cache: &CacheName, hash: StoreHash, now: UnixSeconds) {
        let mut inner = self.lock();
        let Inner { caches, paths, lost } = &mut *inner;
        let fresh = Use { at: now, is_written: false };
        let Some(known) = caches.get_mut(cache) else {
            caches.insert(cache.clone(), HashMap::from([(hash, fresh)]));
            *paths += 1;
            return;
        };
        match known.get_mut(&hash) {
            Some(last) if last.at / HOUR == now / HOUR => {}
            Some(last) => *last = fresh,
            None if *paths >= MAX_PATHS => *lost += 1,
            None => {
                known.insert(hash, fresh);
                *paths += 1;
            }
        }
    }

    /// Writes to the index what it does not have, and forgets the uses of earlier hours.
    pub(crate) fn flush(&self, meta: &dyn Meta, now: UnixSeconds) -> Result<()> {
        for (cache, uses) in self.take(now) {
            for batch in uses.chunks(BATCH) {
                meta.note_uses(&cache, batch)?;
            }
        }
        Ok(())
    }

    fn take(&self, now: UnixSeconds) -> Vec<(CacheName, Vec<(StoreHash, UnixSeconds)>)> {
        let mut inner = self.lock();
        let lost = std::mem::take(&mut inner.lost);
        if lost > 0 {
            tracing::warn!(lost, paths = MAX_PATHS, "more paths were used than can be noted: some uses are lost");
        }
        let mut taken = Vec::new();
        for (cache, uses) in &mut inner.caches {
            let new: Vec<_> = uses.iter().filter(|(_, it)| !it.is_written).map(|(hash, it)| (*hash, it.at)).collect();
            uses.retain(|_, it| it.at / HOUR == now / HOUR);
            for noted in uses.values_mut() {
                noted.is_written = true;
            }
            if !new.is_empty() {
                taken.push((cache.clone(), new));
            }
        }
        inner.caches.retain(|_, uses| !uses.is_empty());
        inner.paths = inner.caches.values().map(HashMap::len).sum();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic can only lose uses.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Notes that somebody asked for a path that a cache has, or offered it again: it and what it refers to count as used
    /// now. Never blocks on a disk; [`Engine::flush_uses`] makes it last.
    pub fn note_use(&self, cache: &CacheName, hash: StoreHash) {
        self.shared.packs.watch.name_path(cache, hash);
        self.shared.packs.uses.note(cache, hash, self.shared.packs.clock.now());
    }

    /// Notes that somebody asked for a NAR: the paths that it belongs to count as used now.
    pub fn note_nar_use(&self, cache: &CacheName, hash: &Sha256) {
        self.shared.packs.watch.name_asked_nar(cache, *hash);
        self.shared.packs.uses.note(cache, use_of_nar(hash), self.shared.packs.clock.now());
    }

    /// Writes the uses that were noted to the index; to be called every minute or so. What a crash loses in between makes
    /// paths look a little older.
    pub fn flush_uses(&self) -> Result<()> {
        self.shared.packs.uses.flush(self.meta(), self.shared.packs.clock.now())
    }
}

#[cfg(test)]
mod tests {
    use firn_index::conformance::samples::{cache, store_hash};
    use firn_index::memory::MemoryMeta;

    use super::*;

    #[test]
    fn a_path_is_written_once_an_hour() {
        let (uses, meta, a) = (Uses::default(), MemoryMeta::new(), cache("a"));
        for at in [HOUR, HOUR + 5, HOUR + 9] {
            uses.note(&a, store_hash(1), at);
        }
        uses.note(&a, store_hash(2), HOUR + 9);
        uses.flush(&meta, HOUR + 10).unwrap();
        assert_eq!(meta.uses(&a, None, 9).unwrap(), [(store_hash(1), HOUR), (store_hash(2), HOUR + 9)]);
        uses.note(&a, store_hash(1), HOUR + 11);
        uses.flush(&meta, HOUR + 12).unwrap();
        assert_eq!(meta.last_use(&a, &store_hash(1)).unwrap(), Some(HOUR), "the index has this hour's");
        uses.note(&a, store_hash(1), 2 * HOUR);
        uses.flush(&meta, 2 * HOUR).unwrap();
        assert_eq!(meta.last_use(&a, &store_hash(1)).unwrap(), Some(2 * HOUR));
        assert_eq!(uses.lock().paths, 1, "what was used in an earlier hour needs no memory");
    }
}
