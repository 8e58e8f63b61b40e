//! What is named while a sweep is under way.
//!
//! A sweep looks at everything, decides what goes, and lets the committer remove it. Whatever was named between the look
//! and the removal stays: commits note here what they write and refer to, requests what they were told is there. Nothing
//! of it outlives the process, and neither does a sweep.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_chunk::RecipeId;
use firn_index::{CacheName, DocumentKey};
use firn_nix::{Sha256, StoreHash};

/// What was named since the first of the sweeps under way began, and during which of them. Empty while there is none:
/// naming costs a lock then.
#[derive(Default)]
pub(crate) struct Watch {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// The sweeps under way, by when they began.
    sweeps: BTreeSet<Since>,
    last: u64,
    paths: Named<(CacheName, StoreHash)>,
    /// NARs that commits wrote or referred to.
    nars: Named<(CacheName, Sha256)>,
    /// NARs that were asked for.
    asked_nars: Named<(CacheName, Sha256)>,
    documents: Named<(CacheName, DocumentKey)>,
    recipes: Named<RecipeId>,
}

/// When a sweep began, in the order of all sweeps of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Since(u64);

/// Keys, each with the last sweep that had begun when it was named last.
struct Named<K>(HashMap<K, Since>);

impl<K> Default for Named<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Named<K> {
    fn has(&self, key: &K, since: Since) -> bool {
        self.0.get(key).is_some_and(|last| *last >= since)
    }

    /// Forgets what no sweep asks for that began at `oldest` or later.
    fn forget_before(&mut self, oldest: Since) {
        self.0.retain(|_, last| *last >= oldest);
    }
}

/// A sweep under way; what is named from its beginning on is kept until it is dropped.
#[must_use]
pub(crate) struct Watching<'a> {
    watch: &'a Watch,
    since: Since,
}

impl Watching<'_> {
    /// Returns when it began: what was named before that is for others.
    pub(crate) fn since(&self) -> Since {
        self.since
    }
}

impl Watch {
    /// Begins to keep what is named. To be called before a sweep looks at anything.
    pub(crate) fn begin(&self) -> Watching<'_> {
        let mut inner = self.lock();
        inner.last += 1;
        let since = Since(inner.last);
        inner.sweeps.insert(since);
        Watching { watch: self, since }
    }

    pub(crate) fn name_path(&self, cache: &CacheName, hash: StoreHash) {
        self.name(|inner| &mut inner.paths, || (cache.clone(), hash));
    }

    pub(crate) fn name_nar(&self, cache: &CacheName, hash: Sha256) {
        self.name(|inner| &mut inner.nars, || (cache.clone(), hash));
    }

    /// Names a NAR that is only asked for: a sweep leaves it, somebody who wants its path gone does not.
    pub(crate) fn name_asked_nar(&self, cache: &CacheName, hash: Sha256) {
        self.name(|inner| &mut inner.asked_nars, || (cache.clone(), hash));
    }

    pub(crate) fn name_document(&self, cache: &CacheName, key: &DocumentKey) {
        self.name(|inner| &mut inner.documents, || (cache.clone(), key.clone()));
    }

    pub(crate) fn name_recipe(&self, id: RecipeId) {
        self.name(|inner| &mut inner.recipes, || id);
    }

    pub(crate) fn has_path(&self, cache: &CacheName, hash: StoreHash, since: Since) -> bool {
        self.lock().paths.has(&(cache.clone(), hash), since)
    }

    pub(crate) fn has_nar(&self, cache: &CacheName, hash: Sha256, since: Since) -> bool {
        let (inner, key) = (self.lock(), (cache.clone(), hash));
        inner.nars.has(&key, since) || inner.asked_nars.has(&key, since)
    }

    /// Returns whether a commit named the NAR.
    pub(crate) fn has_committed_nar(&self, cache: &CacheName, hash: Sha256, since: Since) -> bool {
        self.lock().nars.has(&(cache.clone(), hash), since)
    }

    pub(crate) fn has_document(&self, cache: &CacheName, key: &DocumentKey, since: Since) -> bool {
        self.lock().documents.has(&(cache.clone(), key.clone()), since)
    }

    pub(crate) fn has_recipe(&self, id: &RecipeId, since: Since) -> bool {
        self.lock().recipes.has(id, since)
    }

    fn name<K: Hash + Eq>(&self, named: impl FnOnce(&mut Inner) -> &mut Named<K>, key: impl FnOnce() -> K) {
        let mut inner = self.lock();
        if !inner.sweeps.is_empty() {
            let last = Since(inner.last);
            named(&mut inner).0.insert(key(), last);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one operation on a map.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut inner = self.watch.lock();
        let was_oldest = inner.sweeps.first() == Some(&self.since);
        inner.sweeps.remove(&self.since);
        let Some(oldest) = inner.sweeps.first().copied() else {
            *inner = Inner { last: inner.last, ..Inner::default() };
            return;
        };
        // Deletions that overlap one another for hours must not keep all that was named in these hours.
        if was_oldest {
            inner.paths.forget_before(oldest);
            inner.nars.forget_before(oldest);
            inner.asked_nars.forget_before(oldest);
            inner.documents.forget_before(oldest);
            inner.recipes.forget_before(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(n: u8) -> RecipeId {
        RecipeId([n; 32])
    }

    #[test]
    fn each_sweep_is_told_of_what_was_named_since_it_began() {
        let watch = Watch::default();
        watch.name_recipe(recipe(1));
        let first = watch.begin();
        watch.name_recipe(recipe(2));
        let second = watch.begin();
        watch.name_recipe(recipe(3));
        let named = |since| [1, 2, 3].map(|n| watch.has_recipe(&recipe(n), since));
        assert_eq!(named(first.since()), [false, true, true]);
        assert_eq!(named(second.since()), [false, false, true]);
        watch.name_recipe(recipe(2));
        assert_eq!(named(second.since()), [false, true, true], "named again");
    }

    #[test]
    fn what_no_sweep_asks_for_is_forgotten() {
        let watch = Watch::default();
        let first = watch.begin();
        watch.name_recipe(recipe(1));
        let second = watch.begin();
        watch.name_recipe(recipe(2));
        drop(first);
        assert_eq!(watch.lock().recipes.0.len(), 1, "the second began later");
        assert!(watch.has_recipe(&recipe(2), second.since()));
        let third = watch.begin();
        drop(third);
        assert!(watch.has_recipe(&recipe(2), second.since()), "one that began later ends earlier");
        drop(second);
        assert!(watch.lock().recipes.0.is_empty());
        watch.name_recipe(recipe(3));
        assert!(watch.lock().recipes.0.is_empty(), "nobody sweeps");
    }
}
