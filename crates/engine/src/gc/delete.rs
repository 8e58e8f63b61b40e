//! Paths that somebody wants gone.

use std::collections::HashSet;

use firn_index::CacheName;
use firn_nix::{StoreHash, StorePath};

use super::graph::{Graph, Node};
use crate::committer::{Change, Removal, Removals};
use crate::{Engine, Result};

/// Paths that are removed in one commit, and named as a reason not to.
const BATCH: usize = 1024;

/// What became of a path that was to be deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathDeletion {
    /// It is gone, and so are the others that are listed before it: they referred to it. Their bytes come back with the
    /// next collections.
    Deleted(Vec<StorePath>),
    /// The cache does not have it.
    Missing,
    /// Paths refer to it, of which at most 1024 are listed; nothing was deleted.
    Needed(Vec<StorePath>),
    /// These pins name it or a path that would go with it; nothing was deleted.
    Pinned(Vec<String>),
    /// It was asked for or referred to at this moment, and stays with what it refers to.
    InUse(StorePath),
}

impl Engine {
    /// Deletes a path from a cache, durably; with `referrers`, everything that refers to it goes first. `removed` is told of
    /// what went. Reads all paths of the cache.
    pub fn delete_path(
        &self,
        cache: &CacheName,
        hash: &StoreHash,
        referrers: bool,
        removed: &dyn Fn(&CacheName, &[StoreHash]),
    ) -> Result<PathDeletion> {
        let packs = &self.shared.packs;
        let watching = self.shared.watch()?;
        let now = packs.clock.now();
        let graph = &Graph::load(self.meta(), cache, self.meta().uses_since()?.unwrap_or(now))?;
        let Some(target) = graph.node(hash).filter(|node| graph.facts(*node).is_there) else {
            return Ok(PathDeletion::Missing);
        };
        // What refers comes first, so that one look at each path finds all that goes.
        let order: Vec<Node> = graph.paths().collect();
        let mut goes = vec![false; graph.len()];
        goes[target as usize] = true;
        for node in order.iter().rev() {
            let refers = graph.references(*node).iter().any(|to| goes[*to as usize]);
            goes[*node as usize] |= refers;
        }
        let go: Vec<Node> = order.into_iter().filter(|node| goes[*node as usize]).collect();
        let path =
            |node: &Node| Ok::<_, crate::Error>(self.meta().path(cache, &graph.hash(*node))?.map(|row| row.path));
        if !referrers && go.len() > 1 {
            let needing: Vec<&Node> = go.iter().filter(|node| **node != target).take(BATCH).collect();
            let needing = needing.into_iter().map(path).collect::<Result<Vec<_>>>()?;
            return Ok(PathDeletion::Needed(needing.into_iter().flatten().collect()));
        }
        let is_named = |pin: &firn_index::PinRow| {
            pin.counts(packs.clock.now()) && graph.node(&pin.path.hash()).is_some_and(|node| goes[node as usize])
        };
        let pins: Vec<String> = self
            .meta()
            .pins(cache)?
            .iter()
            .filter(|(_, pin)| is_named(pin))
            .map(|(name, _)| name.to_string())
            .collect();
        if !pins.is_empty() {
            return Ok(PathDeletion::Pinned(pins));
        }
        let mut deleted = Vec::new();
        let mut rescued = HashSet::new();
        for batch in go.chunks(BATCH) {
            let names = batch.iter().map(path).collect::<Result<Vec<_>>>()?;
            let items = batch.iter().map(|node| Removal::Path(cache.clone(), graph.hash(*node))).collect();
            let removals = Removals::new(items, watching.since(), rescued);
            for outcome in self.shared.submit_all(vec![Change::Remove(removals.clone())])? {
                outcome?;
            }
            let outcome = removals.outcome();
            rescued = outcome.rescued;
            let gone: Vec<StoreHash> = batch
                .iter()
                .zip(&outcome.removed)
                .filter(|(_, removed)| **removed)
                .map(|(node, _)| graph.hash(*node))
                .collect();
            removed(cache, &gone);
            for (name, removed) in names.into_iter().zip(outcome.removed) {
                match name {
                    Some(name) if removed => deleted.push(name),
                    Some(name) => return Ok(PathDeletion::InUse(name)),
                    None => {}
                }
            }
        }
        Ok(PathDeletion::Deleted(deleted))
    }
}
