//! Why a path is there.

use firn_index::{CacheName, NarRow, PathRow, UnixSeconds};
use firn_nix::{StoreHash, StorePath};

use super::graph::Node;
use super::report::Fate;
use crate::{Engine, Result};

/// Paths that refer to one that are named, at most.
const REFERRERS: usize = 20;

/// All there is to say about a path of a cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// Its row: since when it is there, and by whom.
    pub row: PathRow,
    /// Its NAR, unless that is gone.
    pub nar: Option<NarRow>,
    /// Whether its NAR can be restored, as far as is known.
    pub restorable: bool,
    /// When it was last asked for or offered itself since it came, as far as was recorded.
    pub asked_at: Option<UnixSeconds>,
    /// What the next collection does with it, and why.
    pub fate: Fate,
    /// Paths that refer to it, the one used last first; at most 20.
    pub referrers: Vec<StorePath>,
    /// How many paths refer to it.
    pub referrer_count: u64,
    /// Names of the pins that keep it.
    pub pins: Vec<String>,
}

impl Engine {
    /// Explains a path; `None` if the cache does not have it. Reads all paths of
    /// the cache, and counts the store if the cache has a quota.
    pub fn explain(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<Explanation>> {
        self.flush_uses()?;
        let meta = self.meta();
        let Some(row) = meta.path(cache, hash)? else { return Ok(None) };
        let now = self.shared.packs.clock.now();
        // What a quota takes is known once the store is counted.
        let mark = match meta.retention(cache)?.quota_bytes {
            Some(_) => self.mark(&|| false)?,
            None => None,
        };
        let plan = self.shared.plan(cache, now, mark.as_ref())?;
        let Some(node) = plan.graph.node(hash) else { return Ok(None) };
        let Some(fate) = self.shared.fate(cache, &plan, node, None)? else { return Ok(None) };
        let mut referrers: Vec<Node> = plan.graph.referrers(node).collect();
        let referrer_count = referrers.len() as u64;
        referrers.sort_by_key(|node| std::cmp::Reverse(plan.graph.facts(*node).used_at));
        referrers.truncate(REFERRERS);
        let path = |node: Node| Ok::<_, crate::Error>(meta.path(cache, &plan.graph.hash(node))?.map(|row| row.path));
        let referrers = referrers.into_iter().map(path).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let mut pins = Vec::new();
        for (name, pin) in plan.pins.iter().filter(|(_, pin)| pin.counts(now)) {
            let mut seen = vec![false; plan.graph.len()];
            if let Some(root) = plan.graph.node(&pin.path.hash()) {
                plan.graph.visit_closure(root, |node| !std::mem::replace(&mut seen[node as usize], true));
            }
            if seen[node as usize] {
                pins.push(name.to_string());
            }
        }
        let nar = meta.nar(cache, &row.nar_hash)?;
        let restorable = match &nar {
            Some(nar) => self.is_restorable(&nar.recipe)?,
            None => false,
        };
        // The upload itself counts as a use, too.
        let asked_at = meta.last_use(cache, hash)?.filter(|at| *at > row.committed_at);
        Ok(Some(Explanation { row, nar, restorable, asked_at, fate, referrers, referrer_count, pins }))
    }
}
