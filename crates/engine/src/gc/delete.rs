//! Paths that somebody wants gone.

use std::collections::{BTreeMap, HashMap, HashSet};

use firn_index::{CacheName, PathRow, PinRow};
use firn_nix::{Sha256, StoreHash, StorePath};

use super::graph::{Graph, Node, ShortId, short_nar};
use crate::committer::{Change, Removal, Removals, Rescued};
use crate::engine::Shared;
use crate::watch::Since;
use crate::{Engine, Result};

/// Paths that are removed in one commit, with up to 17 NARs each, and named as a reason not to.
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

/// A deletion under way.
struct Deletion<'a> {
    shared: &'a Shared,
    cache: &'a CacheName,
    graph: &'a Graph,
    /// When it began: what was named from then on stays.
    since: Since,
}

/// NARs that go with paths, each with what of it is left: some 150 bytes for one, and its names.
type Nars = HashMap<Sha256, Left>;

#[derive(Default)]
struct Left {
    /// How many of the paths that are still there and will go have it.
    paths: usize,
    aliases: Vec<String>,
}

impl Engine {
    /// Deletes a path from a cache, durably; with `referrers`, everything that refers to it goes first. `removed` is told of
    /// what went. Reads all paths and uploaders' names of the cache.
    ///
    /// In the commit that removes a path its NAR goes too, whatever its lease, and so do the NARs that lost to it in a
    /// conflict: unless another path of the cache has it, or an upload named it since the deletion began.
    pub fn delete_path(
        &self,
        cache: &CacheName,
        hash: &StoreHash,
        referrers: bool,
        removed: &dyn Fn(&CacheName, &[StoreHash]),
    ) -> Result<PathDeletion> {
        let watching = self.shared.watch()?;
        let now = self.shared.packs.clock.now();
        let graph = &Graph::load(self.meta(), cache, self.meta().uses_since()?.unwrap_or(now))?;
        let Some(target) = graph.node(hash).filter(|node| graph.facts(*node).is_there) else {
            return Ok(PathDeletion::Missing);
        };
        let deletion = Deletion { shared: &self.shared, cache, graph, since: watching.since() };
        let (go, stay) = with_referrers(graph, target);
        if !referrers && go.len() > 1 {
            let needing = go.iter().filter(|node| **node != target).take(BATCH);
            let needing = needing.map(|node| deletion.row(*node)).collect::<Result<Vec<_>>>()?;
            return Ok(PathDeletion::Needed(needing.into_iter().flatten().map(|row| row.path).collect()));
        }
        let pins = deletion.pins_of(&go, now)?;
        if !pins.is_empty() {
            return Ok(PathDeletion::Pinned(pins));
        }
        let nars = deletion.nars(&go, &stay)?;
        deletion.run(&go, nars, removed)
    }
}

/// Returns a path and all that refer to it, what refers first, and all other paths.
fn with_referrers(graph: &Graph, target: Node) -> (Vec<Node>, Vec<Node>) {
    // What refers comes first, so that one look at each path finds all that goes.
    let order: Vec<Node> = graph.paths().collect();
    let mut goes = vec![false; graph.len()];
    goes[target as usize] = true;
    for node in order.iter().rev() {
        let refers = graph.references(*node).iter().any(|to| goes[*to as usize]);
        goes[*node as usize] |= refers;
    }
    order.into_iter().partition(|node| goes[*node as usize])
}

/// Returns the NARs that go with a path: its own, and those that were offered for it.
fn nars_of(row: &PathRow) -> HashSet<Sha256> {
    std::iter::once(row.nar_hash).chain(row.conflicts.iter().map(|conflict| conflict.nar_hash)).collect()
}

impl Deletion<'_> {
    fn row(&self, node: Node) -> Result<Option<PathRow>> {
        Ok(self.shared.packs.meta.path(self.cache, &self.graph.hash(node))?)
    }

    fn pins_of(&self, go: &[Node], now: u64) -> Result<Vec<String>> {
        let go: HashSet<Node> = go.iter().copied().collect();
        let is_named =
            |pin: &PinRow| pin.counts(now) && self.graph.node(&pin.path.hash()).is_some_and(|node| go.contains(&node));
        let pins = self.shared.packs.meta.pins(self.cache)?;
        Ok(pins.iter().filter(|(_, pin)| is_named(pin)).map(|(name, _)| name.to_string()).collect())
    }

    /// Returns the NARs that go with some paths, and that no path has which stays.
    fn nars(&self, go: &[Node], stay: &[Node]) -> Result<Nars> {
        let kept: HashSet<ShortId> = stay.iter().map(|node| self.graph.facts(*node).nar).collect();
        let mut nars = Nars::new();
        for node in go {
            let of_path = self.row(*node)?.iter().flat_map(nars_of).collect::<Vec<_>>();
            for hash in of_path.into_iter().filter(|hash| !kept.contains(&short_nar(hash))) {
                nars.entry(hash).or_default().paths += 1;
            }
        }
        let mut aliases = nars.keys().map(|hash| (*hash, Vec::new())).collect();
        self.shared.find_aliases(self.cache, &mut aliases)?;
        for (hash, names) in aliases {
            nars.entry(hash).or_default().aliases = names;
        }
        Ok(nars)
    }

    fn run(&self, go: &[Node], mut nars: Nars, removed: &dyn Fn(&CacheName, &[StoreHash])) -> Result<PathDeletion> {
        let (mut deleted, mut rescued) = (Vec::new(), Rescued::new());
        for batch in go.chunks(BATCH) {
            let rows = batch.iter().map(|node| self.row(*node)).collect::<Result<Vec<_>>>()?;
            let mut items: Vec<Removal> =
                batch.iter().map(|node| Removal::Path(self.cache.clone(), self.graph.hash(*node))).collect();
            items.extend(self.last_of(&rows, &mut nars));
            let removals = Removals::new(items, self.since, rescued);
            for outcome in self.shared.submit_all(vec![Change::Remove(removals.clone())])? {
                outcome?;
            }
            let outcome = removals.outcome();
            rescued = outcome.rescued;
            let fates = || batch.iter().zip(&outcome.removed);
            let gone: Vec<StoreHash> =
                fates().filter(|(_, removed)| **removed).map(|(node, _)| self.graph.hash(*node)).collect();
            removed(self.cache, &gone);
            for (row, (_, removed)) in rows.into_iter().zip(fates()) {
                match row {
                    Some(row) if *removed => deleted.push(row.path),
                    Some(row) => return Ok(PathDeletion::InUse(row.path)),
                    None => {}
                }
            }
        }
        Ok(PathDeletion::Deleted(deleted))
    }

    /// Takes out of `nars` those that no path has any more once these are gone.
    fn last_of(&self, rows: &[Option<PathRow>], nars: &mut Nars) -> Vec<Removal> {
        let mut of_paths: BTreeMap<Sha256, Vec<StoreHash>> = BTreeMap::new();
        for row in rows.iter().flatten() {
            for hash in nars_of(row) {
                of_paths.entry(hash).or_default().push(row.path.hash());
            }
        }
        let mut last = Vec::new();
        for (hash, paths) in of_paths {
            let Some(left) = nars.get_mut(&hash) else { continue };
            left.paths = left.paths.saturating_sub(paths.len());
            if left.paths == 0
                && let Some(Left { aliases, .. }) = nars.remove(&hash)
            {
                last.push(Removal::NarOf { cache: self.cache.clone(), hash, aliases, paths });
            }
        }
        last
    }
}
