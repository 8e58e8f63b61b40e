//! Which packs are worth to be rewritten.

use std::collections::HashMap;

use firn_index::{PackRow, PackState};
use firn_pack::PackId;

use super::SqueezeOptions;
use crate::Result;
use crate::engine::Shared;
use crate::mark::PackBytes;

/// Rows read at a time.
const PAGE: usize = 256;

/// A sealed pack that recipes need.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub(super) pack: PackId,
    pub(super) effort: u8,
    pub(super) stored_bytes: u64,
}

/// A pack of which little is needed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sparse {
    pub(crate) pack: PackId,
    pub(super) effort: u8,
    pub(crate) stored_bytes: u64,
    /// What nothing needs of it.
    pub(crate) dead_bytes: u64,
    /// What of the rest is records.
    pub(crate) record_bytes: u64,
}

impl Sparse {
    /// Returns whether at most this part of a pack is needed.
    pub(crate) fn is_sparse(bytes: &PackBytes, max_live_percent: u8) -> bool {
        let live = u128::from(bytes.stored_bytes.saturating_sub(bytes.dead_bytes()));
        bytes.dead_bytes() > 0 && live * 100 <= u128::from(bytes.stored_bytes) * u128::from(max_live_percent)
    }

    pub(crate) fn new(bytes: &PackBytes, effort: u8, stored_bytes: u64) -> Self {
        Self {
            pack: bytes.pack,
            effort,
            stored_bytes,
            dead_bytes: bytes.dead_bytes(),
            record_bytes: bytes.record_bytes,
        }
    }

    /// Returns what packs are sorted by to be repacked.
    pub(crate) fn order(&self) -> (u8, u64, PackId) {
        let live = self.stored_bytes.saturating_sub(self.dead_bytes);
        (self.effort, live.saturating_mul(1000) / self.stored_bytes.max(1), self.pack)
    }
}

impl From<&Sparse> for Candidate {
    fn from(sparse: &Sparse) -> Self {
        Self { pack: sparse.pack, effort: sparse.effort, stored_bytes: sparse.stored_bytes }
    }
}

impl Shared {
    /// Returns the packs that are old enough and were not compressed with as much effort, the oldest first.
    pub(super) fn cold_packs(&self, options: &SqueezeOptions) -> Result<Vec<Candidate>> {
        let now = self.packs.clock.now();
        let mut packs = self.needed_packs(|row| row.reserved_at.saturating_add(options.min_age_seconds) <= now)?;
        packs.retain(|candidate| candidate.effort < options.level);
        Ok(packs)
    }

    /// Returns the packs of which little is needed, those of one effort together, the sparsest first; and how many bytes
    /// nothing needs in the others. `live` says of every pack how much of it is needed.
    pub(crate) fn sparse_packs(&self, live: Vec<PackBytes>, max_live_percent: u8) -> Result<(Vec<Sparse>, u64)> {
        let live: HashMap<PackId, PackBytes> = live.into_iter().map(|bytes| (bytes.pack, bytes)).collect();
        let (mut sparse, mut spared) = (Vec::new(), 0);
        for Candidate { pack, effort, stored_bytes } in self.needed_packs(|_| true)? {
            // One that was sealed since, or can't be read, is left alone.
            let Some(bytes) = live.get(&pack) else { continue };
            if Sparse::is_sparse(bytes, max_live_percent) {
                sparse.push(Sparse::new(bytes, effort, stored_bytes));
            } else {
                spared += bytes.dead_bytes();
            }
        }
        sparse.sort_by_key(Sparse::order);
        Ok((sparse, spared))
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
