//! Which paths of a cache stay, and why.
//!
//! A rule names paths; whatever these refer to stays with them. Without any rule everything stays. A quota takes back what
//! was used longest ago, what refers before what is referred to, so that what is left is whole at every step.

use std::collections::HashMap;

use firn_index::{CacheName, PinName, PinRow, RetentionRow, UnixSeconds};

use super::graph::{Graph, Node};
use crate::mark::Mark;

/// Uses are recorded to the hour.
pub(crate) const USE_SECONDS: u64 = 3600;

/// Why a path stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The cache keeps everything.
    NoRule,
    /// A pin names it: its place in the list of pins.
    Pinned(u32),
    /// It was used, or something that refers to it, a moment ago.
    Fresh,
    /// It was used, or something that refers to it, within the time that the cache keeps.
    Used,
    /// It is one of the newest of that name.
    Newest,
    /// There is room.
    UnderQuota,
    /// This one, which stays, refers to it.
    Needed(Node),
}

/// Why a path goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It stays.
    Stays(Reason),
    /// No rule keeps it.
    NoReason,
    /// The cache is over its quota, and this was used longest ago.
    OverQuota,
}

impl Verdict {
    /// Returns whether the path stays.
    pub(crate) fn stays(self) -> bool {
        matches!(self, Self::Stays(_))
    }
}

/// What rules are applied to.
pub(crate) struct Rules<'a> {
    pub(crate) retention: &'a RetentionRow,
    pub(crate) pins: &'a [(PinName, PinRow)],
    /// What was used within so many seconds stays whatever the quota says: somebody may be about to refer to it.
    pub(crate) fresh_seconds: u64,
    pub(crate) now: UnixSeconds,
    /// The cache, and what its paths need: asked for only if there is a quota, which does nothing without it.
    pub(crate) cache: &'a CacheName,
    pub(crate) mark: Option<&'a Mark>,
}

/// The outcome for every path of a cache.
pub(crate) struct Decisions {
    verdicts: Vec<Verdict>,
    /// Stored bytes of what stays, if there is a quota.
    pub(crate) kept_bytes: Option<u64>,
}

impl Decisions {
    /// Returns what becomes of a path.
    pub(crate) fn of(&self, node: Node) -> Verdict {
        self.verdicts[node as usize]
    }
}

/// Decides about every path of a cache.
pub(crate) fn decide(graph: &Graph, rules: &Rules<'_>) -> Decisions {
    let mut verdicts = vec![Verdict::NoReason; graph.len()];
    if rules.retention.keeps_all() {
        verdicts.fill(Verdict::Stays(Reason::NoRule));
        return Decisions { verdicts, kept_bytes: None };
    }
    for (number, (_, pin)) in (0..).zip(rules.pins) {
        if let Some(node) = graph.node(&pin.path.hash()).filter(|_| pin.counts(rules.now)) {
            keep(graph, &mut verdicts, node, Reason::Pinned(number));
        }
    }
    let pinned: Vec<bool> = verdicts.iter().map(|verdict| verdict.stays()).collect();
    let kept_since = |seconds: u64| rules.now.saturating_sub(seconds.saturating_add(USE_SECONDS));
    // What refers was used no later than what is referred to: there is no closure to walk.
    keep_used(graph, &mut verdicts, rules.now.saturating_sub(rules.fresh_seconds), Reason::Fresh);
    if let Some(seconds) = rules.retention.keep_seconds {
        keep_used(graph, &mut verdicts, kept_since(seconds), Reason::Used);
    }
    if let Some(last) = rules.retention.keep_last {
        for node in newest(graph, last) {
            keep(graph, &mut verdicts, node, Reason::Newest);
        }
    }
    let mut kept_bytes = None;
    if let Some((quota, mark)) = rules.retention.quota_bytes.zip(rules.mark) {
        if rules.retention.keep_seconds.is_none() && rules.retention.keep_last.is_none() {
            keep_used(graph, &mut verdicts, 0, Reason::UnderQuota);
        }
        kept_bytes = Some(fit(graph, &mut verdicts, &pinned, rules, mark, quota));
    }
    Decisions { verdicts, kept_bytes }
}

/// Keeps a path and what it refers to; the first reason of each stands.
fn keep(graph: &Graph, verdicts: &mut [Verdict], root: Node, reason: Reason) {
    graph.visit_closure(root, |node| {
        let verdict = &mut verdicts[node as usize];
        if verdict.stays() {
            // All that it refers to stays already.
            return false;
        }
        *verdict = Verdict::Stays(if node == root { reason } else { Reason::Needed(root) });
        true
    });
}

fn keep_used(graph: &Graph, verdicts: &mut [Verdict], since: UnixSeconds, reason: Reason) {
    for node in graph.paths() {
        let verdict = &mut verdicts[node as usize];
        if graph.facts(node).used_at >= since && !verdict.stays() {
            *verdict = Verdict::Stays(reason);
        }
    }
}

/// Returns the newest `last` paths of each name, versions aside.
fn newest(graph: &Graph, last: u32) -> Vec<Node> {
    let mut names: HashMap<u64, Vec<Node>> = HashMap::new();
    for node in graph.paths() {
        names.entry(graph.facts(node).unversioned).or_default().push(node);
    }
    let mut newest = Vec::new();
    for mut nodes in names.into_values() {
        nodes.sort_by_key(|node| (std::cmp::Reverse(graph.facts(*node).committed_at), graph.hash(*node)));
        newest.extend(nodes.into_iter().take(last as usize));
    }
    newest
}

/// Takes from what stays, but for what is pinned or fresh, whatever was used longest ago until the rest fits the quota.
/// Returns the bytes of what stays then: all that its paths need in packs, once each, whoever else needs it too.
fn fit(graph: &Graph, verdicts: &mut [Verdict], pinned: &[bool], rules: &Rules<'_>, mark: &Mark, quota: u64) -> u64 {
    let mut kept = mark.kept();
    // What came after the pass is fresh, and not counted yet.
    let holder = |node: Node| mark.path(rules.cache, &graph.hash(node));
    let mut queue = Vec::new();
    for (place, node) in (0_u32..).zip(graph.paths()) {
        if verdicts[node as usize].stays() {
            if let Some(path) = holder(node) {
                kept.add(path);
            }
            let is_fresh = graph.facts(node).used_at >= rules.now.saturating_sub(rules.fresh_seconds);
            if !pinned[node as usize] && !is_fresh {
                queue.push((graph.facts(node).used_at, place, node));
            }
        }
    }
    queue.sort_unstable();
    for (_, _, node) in queue {
        if kept.stored_bytes() <= quota {
            break;
        }
        if let Some(path) = holder(node) {
            kept.remove(path);
        }
        verdicts[node as usize] = Verdict::OverQuota;
    }
    kept.stored_bytes()
}
