//! What is named while a sweep is under way.
//!
//! A sweep looks at everything, decides what goes, and lets the committer remove it. Whatever was named between the look
//! and the removal stays: commits note here what they write and refer to, requests what they were told is there. Nothing
//! of it outlives the process, and neither does a sweep.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_chunk::RecipeId;
use firn_index::{CacheName, DocumentKey};
use firn_nix::{Sha256, StoreHash};

/// What was named since the first of the sweeps under way began. Empty while there is none: naming costs a lock then.
#[derive(Default)]
pub(crate) struct Watch {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    sweeps: usize,
    paths: HashSet<(CacheName, StoreHash)>,
    nars: HashSet<(CacheName, Sha256)>,
    documents: HashSet<(CacheName, DocumentKey)>,
    recipes: HashSet<RecipeId>,
}

/// A sweep under way; what is named is kept until it is dropped.
#[must_use]
pub(crate) struct Watching<'a>(&'a Watch);

impl Watch {
    /// Begins to keep what is named. To be called before a sweep looks at anything.
    pub(crate) fn begin(&self) -> Watching<'_> {
        self.lock().sweeps += 1;
        Watching(self)
    }

    pub(crate) fn name_path(&self, cache: &CacheName, hash: StoreHash) {
        self.name(|inner| &mut inner.paths, || (cache.clone(), hash));
    }

    pub(crate) fn name_nar(&self, cache: &CacheName, hash: Sha256) {
        self.name(|inner| &mut inner.nars, || (cache.clone(), hash));
    }

    pub(crate) fn name_document(&self, cache: &CacheName, key: &DocumentKey) {
        self.name(|inner| &mut inner.documents, || (cache.clone(), key.clone()));
    }

    pub(crate) fn name_recipe(&self, id: RecipeId) {
        self.name(|inner| &mut inner.recipes, || id);
    }

    pub(crate) fn has_path(&self, cache: &CacheName, hash: StoreHash) -> bool {
        self.lock().paths.contains(&(cache.clone(), hash))
    }

    pub(crate) fn has_nar(&self, cache: &CacheName, hash: Sha256) -> bool {
        self.lock().nars.contains(&(cache.clone(), hash))
    }

    pub(crate) fn has_document(&self, cache: &CacheName, key: &DocumentKey) -> bool {
        self.lock().documents.contains(&(cache.clone(), key.clone()))
    }

    pub(crate) fn has_recipe(&self, id: &RecipeId) -> bool {
        self.lock().recipes.contains(id)
    }

    fn name<K: Hash + Eq>(&self, set: impl FnOnce(&mut Inner) -> &mut HashSet<K>, key: impl FnOnce() -> K) {
        let mut inner = self.lock();
        if inner.sweeps > 0 {
            set(&mut inner).insert(key());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is one operation on a set.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watching<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        inner.sweeps -= 1;
        if inner.sweeps == 0 {
            *inner = Inner::default();
        }
    }
}
