//! What repacking gives back: foretold by a dry run, done by a collection.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use firn_index::{PackRow, PackState, UnixSeconds};
use firn_pack::PackId;

use super::lifecycle::MAX_NAMED;
use super::report::SparsePack;
use super::{Collection, LEASE_SECONDS};
use crate::mark::PackBytes;
use crate::rewrite::{Pace, RepackOptions, Rewritten, Sparse};
use crate::{Error, Result, spans};

/// Rows read at a time.
const PAGE: usize = 1000;

impl Collection<'_> {
    /// Adds up what a collection would give back.
    pub(super) fn foresee(&mut self) -> Result<()> {
        let Some(mark) = self.mark.take() else { return Ok(()) };
        let packs: HashMap<PackId, PackBytes> =
            mark.live_bytes_without(&self.dead).into_iter().map(|pack| (pack.pack, pack)).collect();
        let mut sparse = Vec::new();
        let mut after = None;
        loop {
            let page = self.shared.packs.meta.packs(after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (pack, row) in page.iter().filter(|(_, row)| row.state == PackState::Live) {
                let Some(bytes) = packs.get(pack) else { continue };
                if self.needed.contains(pack) {
                    self.weigh(bytes, row, &mut sparse);
                } else {
                    self.report.condemned.add(row.stored_bytes);
                    self.report.reclaimable_bytes += row.stored_bytes.saturating_sub(bytes.record_bytes);
                    self.report.record_bytes += bytes.record_bytes;
                }
            }
        }
        sparse.sort_by_key(Sparse::order);
        self.list(&sparse);
        Ok(())
    }

    /// Repacks what is sparse, as far as the budget goes, and returns whether packs were emptied.
    pub(super) fn repack(&mut self, pace: &mut Pace<'_>) -> Result<bool> {
        let Some(options) = self.options.repack else { return Ok(false) };
        if !self.shared.has_sparse.load(Ordering::SeqCst) {
            return Ok(false);
        }
        let Some(_turn) = self.shared.begin_rewrite() else {
            self.report.repack_problem = Some("packs are being squeezed: the next collection repacks".to_owned());
            return Ok(false);
        };
        let mark = match self.mark.take() {
            Some(mark) => mark,
            None => self.count()?,
        };
        let live = mark.live_bytes_without(&self.dead);
        drop(mark);
        let (candidates, spared_bytes) = self.shared.sparse_packs(live, options.max_live_percent)?;
        self.report.spared_bytes = spared_bytes;
        self.list(&candidates);
        if candidates.is_empty() {
            self.shared.has_sparse.store(false, Ordering::SeqCst);
            return Ok(false);
        }
        self.rewrite(&options, &candidates, pace)
    }

    fn rewrite(&mut self, options: &RepackOptions, candidates: &[Sparse], pace: &mut Pace<'_>) -> Result<bool> {
        let _span = tracing::info_span!(target: spans::TARGET, "repack").entered();
        let packs = &self.shared.packs;
        let (mut renewed_at, mut lost) = (packs.clock.now(), None);
        let mut paced = |so_far: &Rewritten| {
            let now: UnixSeconds = packs.clock.now();
            if packs.interrupted.load(Ordering::SeqCst) || now >= renewed_at + LEASE_SECONDS / 4 {
                renewed_at = now;
                lost = self.renew().err();
            }
            lost.is_none() && pace(so_far)
        };
        let outcome = self.shared.repack_these(options, candidates, &mut paced);
        if let Some(error) = lost {
            return Err(error);
        }
        match outcome {
            Ok(mut done) => {
                let emptied = done.emptied_packs > 0;
                let is_all = !done.is_stopped && done.done_packs == done.packs;
                if !is_all {
                    self.report.repack_problem = Some(if done.is_stopped {
                        "it was told to stop: the next collection goes on".to_owned()
                    } else {
                        "so much is written by one collection: the next goes on".to_owned()
                    });
                }
                self.shared.has_sparse.store(!is_all, Ordering::SeqCst);
                let room = MAX_NAMED.saturating_sub(self.report.stuck.len());
                self.report.stuck.extend(done.stuck.drain(..).take(room));
                self.settle(candidates)?;
                self.report.repacked = done;
                Ok(emptied)
            }
            Err(error @ (Error::Damaged { .. } | Error::Storage(_) | Error::StorageFull | Error::Internal(_))) => {
                tracing::error!(%error, "packs could not be repacked; what was moved by then stays moved");
                self.report.repack_problem = Some(error.to_string());
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes what was emptied off what is to come back: it is in the backlog now, or deleted.
    fn settle(&mut self, candidates: &[Sparse]) -> Result<()> {
        for sparse in candidates {
            if !self.shared.packs.has_edge(sparse.pack)? {
                self.report.reclaimable_bytes = self.report.reclaimable_bytes.saturating_sub(sparse.dead_bytes);
                self.report.record_bytes = self.report.record_bytes.saturating_sub(sparse.record_bytes);
            }
        }
        Ok(())
    }

    /// Puts a pack that something needs to the sparse ones, or says what stays in it.
    fn weigh(&mut self, bytes: &PackBytes, row: &PackRow, sparse: &mut Vec<Sparse>) {
        match self.options.repack {
            Some(options)
                if Sparse::is_sparse(bytes, options.max_live_percent) && !self.blocked.contains(&bytes.pack) =>
            {
                sparse.push(Sparse::new(bytes, 0, row.stored_bytes));
            }
            _ => self.report.spared_bytes += bytes.dead_bytes(),
        }
    }

    /// Tells of sparse packs.
    fn list(&mut self, sparse: &[Sparse]) {
        self.report.record_bytes += sparse.iter().map(|sparse| sparse.record_bytes).sum::<u64>();
        self.report.reclaimable_bytes += sparse.iter().map(|sparse| sparse.dead_bytes).sum::<u64>();
        self.report.sparse = sparse
            .iter()
            .map(|&Sparse { pack, stored_bytes, dead_bytes, .. }| SparsePack { pack, stored_bytes, dead_bytes })
            .collect();
    }
}
