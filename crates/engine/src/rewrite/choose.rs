//! Which packs are worth to be rewritten.

use firn_index::{PackRow, PackState};
use firn_pack::PackId;

use super::SqueezeOptions;
use super::window::Window;
use crate::Result;
use crate::engine::Shared;

/// Rows read at a time.
const PAGE: usize = 256;

/// A sealed pack that recipes need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) pack: PackId,
    pub(super) effort: u8,
    pub(super) stored_bytes: u64,
}

impl Shared {
    /// Returns the packs that are old enough and were not compressed with as much effort, the oldest first.
    pub(super) fn cold_packs(&self, options: &SqueezeOptions) -> Result<Vec<Candidate>> {
        let now = self.packs.clock.now();
        let mut packs = self.needed_packs(|row| row.reserved_at.saturating_add(options.min_age_seconds) <= now)?;
        packs.retain(|candidate| candidate.effort < options.level);
        Ok(packs)
    }

    /// Returns the packs of which little is needed: those of one effort together, the sparsest first.
    pub(super) fn sparse_packs(&self, max_live_percent: u8) -> Result<Vec<Candidate>> {
        let mut sparse = Vec::new();
        for candidate in self.needed_packs(|_| true)? {
            let usage = Window::of(self, &[candidate])?.pack_use();
            let live = usage.live_percent();
            if live <= max_live_percent && usage.stored_bytes > 0 {
                sparse.push((live, candidate));
            }
        }
        sparse.sort_by_key(|(live, candidate)| (candidate.effort, *live));
        Ok(sparse.into_iter().map(|(_, candidate)| candidate).collect())
    }

    /// Returns the live packs that a recipe needs, in the order in which they were sealed.
    fn needed_packs(&self, is_wanted: impl Fn(&PackRow) -> bool) -> Result<Vec<Candidate>> {
        let meta = &self.packs.meta;
        let (mut found, mut after) = (Vec::new(), 0);
        loop {
            let page = meta.sealed_packs(after, PAGE)?;
            for &(_, pack) in &page {
                let Some(row) = meta.pack(pack)?.filter(|row| row.state == PackState::Live && is_wanted(row)) else {
                    continue;
                };
                if !meta.recipes_of_pack(pack, None, 1)?.is_empty() {
                    found.push(Candidate { pack, effort: meta.effort(pack)?, stored_bytes: row.stored_bytes });
                }
            }
            match page.last() {
                Some(&(seq, _)) => after = seq,
                None => return Ok(found),
            }
        }
    }
}
