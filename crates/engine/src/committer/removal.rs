//! What a sweep removes, and what is written again before its pack goes.
//!
//! A request of these is a group of its own, so that the index says all there is to know: nothing that was decided is
//! still on its way.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use firn_chunk::RecipeId;
use firn_index::{CacheName, Commit, DocumentKey, Op, PathRow};
use firn_nix::{Sha256, StoreHash};

use super::Group;
use crate::Result;
use crate::records::Record;
use crate::watch::Since;

/// Something that a sweep found to be needed by nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Removal {
    /// A path. Paths come before what they refer to: one that stays takes its references out of the same sweep.
    Path(CacheName, StoreHash),
    /// A NAR that no path of the cache names, with the names under which it was sent.
    Nar(CacheName, Sha256, Vec<String>),
    /// A NAR that goes with the paths whose it is, which come before it, and whether its lease is over or not: no other path
    /// of the cache names it.
    NarOf {
        cache: CacheName,
        hash: Sha256,
        aliases: Vec<String>,
        paths: Vec<StoreHash>,
    },
    Document(CacheName, DocumentKey),
    /// A recipe that no NAR and no document names.
    Recipe(RecipeId),
}

/// Paths that stay although a sweep wanted them gone.
pub(crate) type Rescued = HashSet<(CacheName, StoreHash)>;

/// Removals on their way to the committer and back.
#[derive(Debug)]
pub(crate) struct Removals {
    pub(crate) items: Vec<Removal>,
    /// When the sweep began: what was named from then on stays.
    pub(crate) since: Since,
    /// Paths that stay because of what was done in an earlier request of the same sweep.
    pub(crate) rescued: Rescued,
    outcome: Mutex<Outcome>,
}

/// What became of [`Removals`]; worth something only if their commit succeeded.
#[derive(Debug, Default, Clone)]
pub(crate) struct Outcome {
    /// For each item, whether it was removed. What was gone before counts as removed.
    pub(crate) removed: Vec<bool>,
    /// Paths that have to stay, and so whatever they refer to.
    pub(crate) rescued: Rescued,
}

impl Removals {
    pub(crate) fn new(items: Vec<Removal>, since: Since, rescued: Rescued) -> Arc<Self> {
        Arc::new(Self { items, since, rescued, outcome: Mutex::default() })
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Group<'_> {
    /// Adds what a sweep may remove, given what was named since it began to look.
    pub(super) fn add_removals(&mut self, commit: &mut Commit, removals: &Removals) -> Result<()> {
        let mut outcome = Outcome { removed: Vec::new(), rescued: removals.rescued.clone() };
        for item in &removals.items {
            let removed = self.add_removal(commit, item, removals.since, &mut outcome.rescued)?;
            outcome.removed.push(removed);
        }
        *removals.outcome.lock().unwrap_or_else(PoisonError::into_inner) = outcome;
        Ok(())
    }

    fn add_removal(
        &mut self,
        commit: &mut Commit,
        item: &Removal,
        since: Since,
        rescued: &mut Rescued,
    ) -> Result<bool> {
        let packs = self.packs;
        match item {
            Removal::Path(cache, hash) => {
                let Some(row) = packs.meta.path(cache, hash)? else { return Ok(true) };
                if packs.watch.has_path(cache, *hash, since) || rescued.contains(&(cache.clone(), *hash)) {
                    rescued.insert((cache.clone(), *hash));
                    rescued.extend(row.references.iter().map(|reference| (cache.clone(), reference.hash())));
                    return Ok(false);
                }
                self.remove_path(commit, cache, &row);
            }
            Removal::Nar(cache, hash, aliases) => {
                let Some(row) = packs.meta.nar(cache, hash)? else { return Ok(true) };
                if packs.watch.has_nar(cache, *hash, since) || row.lease_until > self.now {
                    return Ok(false);
                }
                self.remove_nar(commit, cache, *hash, aliases);
            }
            Removal::NarOf { cache, hash, aliases, paths } => {
                if packs.meta.nar(cache, hash)?.is_none() {
                    return Ok(true);
                }
                // Who only downloads it does not keep it: it would stay for as long as somebody goes on asking.
                let is_kept = paths.iter().any(|path| rescued.contains(&(cache.clone(), *path)));
                if is_kept || packs.watch.has_committed_nar(cache, *hash, since) {
                    return Ok(false);
                }
                self.remove_nar(commit, cache, *hash, aliases);
            }
            Removal::Document(cache, key) => {
                if packs.watch.has_document(cache, key, since) {
                    return Ok(false);
                }
                self.records.push(Record::DocumentGone(cache.clone(), key.clone()).encode());
                commit.ops.push(Op::DeleteDocument(cache.clone(), key.clone()));
            }
            Removal::Recipe(id) => {
                if packs.watch.has_recipe(id, since) {
                    return Ok(false);
                }
                commit.ops.push(Op::DeleteRecipe(*id));
            }
        }
        Ok(true)
    }

    fn remove_path(&mut self, commit: &mut Commit, cache: &CacheName, row: &PathRow) {
        let hash = row.path.hash();
        self.records.push(Record::PathGone(cache.clone(), hash).encode());
        commit.ops.push(Op::DeletePath(cache.clone(), hash));
    }

    fn remove_nar(&mut self, commit: &mut Commit, cache: &CacheName, hash: Sha256, aliases: &[String]) {
        self.records.push(Record::NarGone(cache.clone(), hash).encode());
        commit.ops.push(Op::DeleteNar(cache.clone(), hash));
        commit.ops.extend(aliases.iter().map(|name| Op::DeleteAlias(cache.clone(), name.clone())));
    }

    /// Adds records of a pack that is about to go, as far as they are what the index still says. `keep_gone` says whether
    /// there may be older records of what is gone in packs that stay.
    pub(super) fn add_carried(&mut self, records: &[(u64, Record)], keep_gone: bool) -> Result<()> {
        for (order, record) in records {
            if self.packs.is_current(record, keep_gone)? {
                self.carried.push((*order, record.encode()));
            }
        }
        Ok(())
    }
}
