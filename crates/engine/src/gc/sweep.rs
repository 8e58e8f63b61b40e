//! The first step: paths, NARs, documents and recipes that nobody needs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use firn_chunk::RecipeId;
use firn_index::{CacheName, Content, DifferenceRow, DocumentKey, DocumentKind, DocumentRow, RetentionRow};
use firn_nix::{Sha256, StoreHash, StorePath};

use super::Collection;
use super::graph::{Graph, Node, ShortId, short, short_nar};
use super::report::{CacheFates, Fate};
use super::retention::{Decisions, Reason, Rules, USE_SECONDS, Verdict, decide};
use crate::committer::{Change, Removal, Removals, Rescued};
use crate::engine::Shared;
use crate::mark::{Kept, Mark};
use crate::{Result, spans};

/// Rows read at a time.
const PAGE: usize = 1000;

/// Things that are removed in one commit.
const BATCH: usize = 1024;

/// Paths of each kind that a report names.
const LARGEST: usize = 20;

/// The paths of a cache, and what becomes of them.
pub(super) struct Plan {
    pub(super) graph: Graph,
    pub(super) decisions: Decisions,
    pub(super) pins: Vec<(firn_index::PinName, firn_index::PinRow)>,
    pub(super) retention: RetentionRow,
}

impl Collection<'_> {
    pub(super) fn sweep(&mut self) -> Result<()> {
        let _span = tracing::info_span!(target: spans::TARGET, "sweep").entered();
        let caches: Vec<CacheName> = self.shared.packs.meta.caches()?.into_iter().map(|(name, _)| name).collect();
        let mut has_quota = false;
        for cache in &caches {
            has_quota |= self.shared.packs.meta.retention(cache)?.quota_bytes.is_some();
        }
        if has_quota || self.options.dry_run {
            self.mark = Some(self.count()?);
        }
        let mut used: Vec<ShortId> = Vec::new();
        for cache in &caches {
            let plan = self.shared.plan(cache, self.now, self.mark.as_ref())?;
            let kept = self.sweep_paths(cache, &plan)?;
            self.renew()?;
            self.sweep_nars(cache, &kept, &mut used)?;
            self.sweep_documents(cache, &plan, &mut used)?;
            self.renew()?;
        }
        used.sort_unstable();
        used.dedup();
        self.sweep_recipes(&used)
    }

    /// Removes the paths that go; returns the NARs of those that stay.
    fn sweep_paths(&mut self, cache: &CacheName, plan: &Plan) -> Result<HashSet<ShortId>> {
        let Plan { graph, decisions, .. } = plan;
        let mut fates = CacheFates {
            cache: cache.clone(),
            kept_paths: 0,
            removed_paths: 0,
            removed_logical_bytes: 0,
            rescued_paths: 0,
            kept_stored_bytes: decisions.kept_bytes,
            largest_removed: Vec::new(),
            largest_kept: Vec::new(),
        };
        let mut all = self.mark.as_ref().filter(|_| self.options.dry_run).map(Mark::kept);
        if let (Some(all), Some(mark)) = (&mut all, &self.mark) {
            mark.holders().iter().for_each(|holder| all.add(holder));
            fates.largest_kept = self.largest(cache, plan, true, Some((mark, all)))?;
        }
        let counted = self.mark.as_ref().zip(all.as_ref());
        fates.largest_removed = self.largest(cache, plan, false, counted)?;
        drop(all);
        let mut kept = HashSet::new();
        let go: Vec<Node> = graph.paths().filter(|node| !decisions.of(*node).stays()).collect();
        kept.extend(graph.paths().filter(|node| decisions.of(*node).stays()).map(|node| graph.facts(node).nar));
        fates.kept_paths = (graph.paths().count() - go.len()) as u64;
        let mut rescued = HashSet::new();
        for batch in go.chunks(BATCH) {
            let items = batch.iter().map(|node| Removal::Path(cache.clone(), graph.hash(*node))).collect();
            let (removed, still) = self.remove(items, rescued)?;
            rescued = still;
            let mut gone = Vec::new();
            for (node, removed) in batch.iter().zip(removed) {
                let facts = graph.facts(*node);
                if removed {
                    fates.removed_paths += 1;
                    fates.removed_logical_bytes += facts.nar_size;
                    gone.push(graph.hash(*node));
                } else {
                    fates.rescued_paths += 1;
                    fates.kept_paths += 1;
                    kept.insert(facts.nar);
                }
            }
            if !self.options.dry_run {
                (self.removed)(cache, &gone);
                self.renew()?;
            }
        }
        self.report.caches.push(fates);
        Ok(kept)
    }

    /// Removes NARs that no path names; adds the recipes of the others to `used`.
    fn sweep_nars(&mut self, cache: &CacheName, named: &HashSet<ShortId>, used: &mut Vec<ShortId>) -> Result<()> {
        let meta = &self.shared.packs.meta;
        let mut candidates: Vec<(Sha256, RecipeId)> = Vec::new();
        let mut after = None;
        loop {
            let page = meta.nars(cache, after, PAGE)?;
            for (hash, row) in &page {
                if row.lease_until <= self.now && !named.contains(&short_nar(hash)) {
                    candidates.push((*hash, row.recipe));
                } else {
                    used.push(short(&row.recipe.0));
                }
            }
            match page.last() {
                Some((last, _)) => after = Some(*last),
                None => break,
            }
        }
        let mut aliases = candidates.iter().map(|(hash, _)| (*hash, Vec::new())).collect();
        self.shared.find_aliases(cache, &mut aliases)?;
        for batch in candidates.chunks(BATCH) {
            let names: Vec<Vec<String>> =
                batch.iter().map(|(hash, _)| aliases.remove(hash).unwrap_or_default()).collect();
            let counts: Vec<u64> = names.iter().map(|names| names.len() as u64).collect();
            let item =
                |((hash, _), names): (&(Sha256, RecipeId), Vec<String>)| Removal::Nar(cache.clone(), *hash, names);
            let (removed, _) = self.remove(batch.iter().zip(names).map(item).collect(), HashSet::new())?;
            for (((_, recipe), names), removed) in batch.iter().zip(counts).zip(removed) {
                if removed {
                    self.report.nars += 1;
                    self.report.aliases += names;
                } else {
                    used.push(short(&recipe.0));
                }
            }
        }
        Ok(())
    }

    /// Removes documents that are older than what the cache keeps and that no path of it has to do with any more; adds the
    /// recipes of the others to `used`.
    fn sweep_documents(&mut self, cache: &CacheName, plan: &Plan, used: &mut Vec<ShortId>) -> Result<()> {
        let mut derivers = None;
        let oldest = plan.retention.keep_seconds.map(|keep| self.now.saturating_sub(keep.saturating_add(USE_SECONDS)));
        let mut after = None;
        loop {
            let page = self.shared.packs.meta.documents(cache, after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let is_old = |row: &DocumentRow| oldest.is_some_and(|oldest| row.written_at < oldest);
            if derivers.is_none() && page.iter().any(|(key, row)| key.kind == DocumentKind::Log && is_old(row)) {
                derivers = Some(self.derivers(cache)?);
            }
            let has_deriver = |hash: &StoreHash| derivers.as_ref().is_none_or(|derivers| derivers.contains(hash));
            let is_needed = |key: &DocumentKey, row: &DocumentRow| {
                let is_kept =
                    |hash: StoreHash| plan.graph.node(&hash).is_some_and(|node| plan.decisions.of(node).stays());
                match key.kind {
                    // It says something of a path that is there, and of nothing else.
                    DocumentKind::Difference => DifferenceRow::path_of(&key.name).is_none_or(is_kept),
                    _ if !is_old(row) => true,
                    DocumentKind::Log => {
                        let hash = key.name.get(..32).and_then(|hash| hash.parse().ok());
                        hash.is_none_or(|hash| has_deriver(&hash))
                    }
                    DocumentKind::Realisation | DocumentKind::BuildTrace | DocumentKind::DebugInfo => {
                        mentions(row, is_kept)
                    }
                }
            };
            let (stay, go): (Vec<_>, Vec<_>) = page.into_iter().partition(|(key, row)| is_needed(key, row));
            let items = go.iter().map(|(key, _)| Removal::Document(cache.clone(), key.clone())).collect();
            let (removed, _) = self.remove(items, HashSet::new())?;
            self.report.documents += removed.iter().filter(|removed| **removed).count() as u64;
            let rescued = go.into_iter().zip(removed).filter(|(_, removed)| !removed).map(|(row, _)| row);
            for (_, row) in stay.into_iter().chain(rescued) {
                if let Content::Recipe { recipe, .. } = row.content {
                    used.push(short(&recipe.0));
                }
            }
        }
    }

    /// Returns the derivations of all paths that a cache still has.
    fn derivers(&self, cache: &CacheName) -> Result<HashSet<StoreHash>> {
        let mut derivers = HashSet::new();
        let mut after = None;
        loop {
            let page = self.shared.packs.meta.paths(cache, after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(derivers) };
            after = Some(*last);
            derivers.extend(page.iter().filter_map(|(_, row)| row.deriver.as_ref().map(StorePath::hash)));
        }
    }

    /// Removes recipes that are not in use.
    fn sweep_recipes(&mut self, used: &[ShortId]) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.shared.packs.meta.recipes(after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let is_used = |id: &RecipeId| used.binary_search(&short(&id.0)).is_ok();
            let go: Vec<RecipeId> = page.iter().map(|(id, _)| *id).filter(|id| !is_used(id)).collect();
            let (removed, _) = self.remove(go.iter().map(|id| Removal::Recipe(*id)).collect(), HashSet::new())?;
            let dead: HashSet<RecipeId> =
                go.into_iter().zip(removed).filter(|(_, removed)| *removed).map(|(id, _)| id).collect();
            self.report.recipes += dead.len() as u64;
            if self.options.dry_run {
                for (_, row) in page.iter().filter(|(id, _)| !dead.contains(id)) {
                    self.needed.extend(&row.edges);
                    // What is damaged can't be moved.
                    self.blocked.extend(row.edges.iter().filter(|_| row.damaged_at.is_some()));
                }
            }
            if self.mark.is_some() {
                self.dead.extend(dead.iter().map(|id| short(&id.0)));
            }
        }
        self.renew()
    }

    /// Lets the committer remove what is still needed by nobody; a dry run takes it as done. Returns what was, and what
    /// has to stay of the paths that come later.
    fn remove(&self, items: Vec<Removal>, rescued: Rescued) -> Result<(Vec<bool>, Rescued)> {
        if self.options.dry_run || items.is_empty() {
            return Ok((vec![true; items.len()], rescued));
        }
        let removals = Removals::new(items, self.since, rescued);
        for outcome in self.shared.submit_all(vec![Change::Remove(Arc::clone(&removals))])? {
            outcome?;
        }
        let outcome = removals.outcome();
        Ok((outcome.removed, outcome.rescued))
    }

    /// Returns the largest paths that stay, or that go.
    fn largest(
        &self,
        cache: &CacheName,
        plan: &Plan,
        stays: bool,
        counted: Option<(&Mark, &Kept<'_>)>,
    ) -> Result<Vec<Fate>> {
        let mut nodes: Vec<Node> =
            plan.graph.paths().filter(|node| plan.decisions.of(*node).stays() == stays).collect();
        let by_size = |node: &Node| std::cmp::Reverse((plan.graph.facts(*node).nar_size, plan.graph.hash(*node)));
        if nodes.len() > LARGEST {
            nodes.select_nth_unstable_by_key(LARGEST, by_size);
            nodes.truncate(LARGEST);
        }
        nodes.sort_unstable_by_key(by_size);
        let fate = |node| self.shared.fate(cache, plan, node, counted);
        Ok(nodes.into_iter().map(fate).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }
}

impl Shared {
    /// Reads a cache's paths and decides about them. Without a mark, a quota takes nothing.
    pub(super) fn plan(&self, cache: &CacheName, now: u64, mark: Option<&Mark>) -> Result<Plan> {
        let meta = self.packs.meta.as_ref();
        let retention = meta.retention(cache)?;
        let pins = meta.pins(cache)?;
        let graph = Graph::load(meta, cache, meta.uses_since()?.unwrap_or(now))?;
        let rules = Rules {
            retention: &retention,
            pins: &pins,
            fresh_seconds: self.options.session_lease_seconds,
            now,
            cache,
            mark,
        };
        let decisions = decide(&graph, &rules);
        Ok(Plan { graph, decisions, pins, retention })
    }

    /// Adds the uploaders' names of NARs; reads those of the whole cache, if any are asked for.
    pub(super) fn find_aliases(&self, cache: &CacheName, of: &mut HashMap<Sha256, Vec<String>>) -> Result<()> {
        let mut after: Option<String> = None;
        while !of.is_empty() {
            let page = self.packs.meta.aliases(cache, after.as_deref(), PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (name, row) in page {
                if let Some(names) = of.get_mut(&row.nar_hash) {
                    names.push(name);
                }
            }
        }
        Ok(())
    }

    /// Returns what becomes of a path, unless it is gone by now.
    pub(super) fn fate(
        &self,
        cache: &CacheName,
        plan: &Plan,
        node: Node,
        counted: Option<(&Mark, &Kept<'_>)>,
    ) -> Result<Option<Fate>> {
        let facts = plan.graph.facts(node);
        let alone =
            |(mark, all): (&Mark, &Kept<'_>)| mark.path(cache, &plan.graph.hash(node)).map(|holder| all.alone(holder));
        let Some(row) = self.packs.meta.path(cache, &plan.graph.hash(node))? else { return Ok(None) };
        let verdict = plan.decisions.of(node);
        Ok(Some(Fate {
            path: row.path,
            nar_size: facts.nar_size,
            alone_bytes: counted.and_then(alone),
            committed_at: facts.committed_at,
            used_at: facts.used_at,
            stays: verdict.stays(),
            why: self.why(cache, plan, verdict)?,
        }))
    }

    fn why(&self, cache: &CacheName, plan: &Plan, verdict: Verdict) -> Result<String> {
        Ok(match verdict {
            Verdict::NoReason => "no rule of the cache keeps it".to_owned(),
            Verdict::OverQuota => "the cache is over its quota, and this was used longest ago".to_owned(),
            Verdict::Stays(reason) => match reason {
                Reason::NoRule => "the cache keeps everything".to_owned(),
                Reason::Pinned(number) => {
                    let name = plan.pins.get(number as usize).map_or("", |(name, _)| name.as_str());
                    format!("the pin '{name}' keeps it")
                }
                Reason::Fresh => "it was used a moment ago, or what refers to it was".to_owned(),
                Reason::Used => "it was used within the time that the cache keeps, or what refers to it was".to_owned(),
                Reason::Newest => "it is one of the newest of that name".to_owned(),
                Reason::UnderQuota => "the cache is within its quota".to_owned(),
                Reason::Needed(by) => {
                    let by = self.packs.meta.path(cache, &plan.graph.hash(by))?;
                    let by = by.map_or_else(String::new, |row| row.path.base_name());
                    format!("{by}, which stays, needs it")
                }
            },
        })
    }
}

/// Returns whether a document names a store path that `is_kept`; one that does not say is taken to.
fn mentions(row: &DocumentRow, is_kept: impl Fn(StoreHash) -> bool) -> bool {
    let Content::Inline(bytes) = &row.content else { return true };
    let hash = |window: &[u8]| {
        let (text, dash) = window.split_first_chunk::<32>()?;
        if dash == b"-" { StoreHash::from_ascii(text) } else { None }
    };
    bytes.windows(33).filter_map(hash).any(is_kept)
}
