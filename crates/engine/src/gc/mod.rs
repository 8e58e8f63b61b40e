//! Garbage collection: what retention does not keep goes, and its bytes are given back, while uploads and downloads run.
//!
//! A collection takes these steps, each of which may be cut short by a crash and is begun again by the next one:
//!
//! 1. Paths that no rule keeps are removed, what refers before what is referred to; then NARs that no path names, then
//!    recipes that no NAR or document names. Whatever is named meanwhile stays ([`crate::watch`]).
//! 2. Packs without edges are *condemned*: their chunks are no longer offered, nor is what leans on them. A commit that needs
//!    one revives it.
//! 3. Once every session that may have been told of such chunks is over, the pack is *doomed*, in one step with looking for
//!    edges again; its records that still count were written again before. Later commits that lean on it are refused.
//! 4. After a grace, and when no restore uses it, its object is deleted, then its row.
//! 5. Packs of which little is needed any more are repacked ([`crate::rewrite`]), under a budget; what that empties goes the
//!    same way.
//!
//! Safety rests on steps 1 and 3 alone, which are decided by the committer and the index. The waits only spare others
//! refusals. Two collections at once do no harm either; a lease sees to it that there is one.

mod delete;
mod explain;
mod graph;
mod lifecycle;
mod repack;
mod report;
mod retention;
mod sweep;
mod withdraw;

pub use delete::PathDeletion;
pub use explain::Explanation;
pub(crate) use graph::{ShortId, short};
pub(crate) use lifecycle::chunks_of;
pub use report::{Backlog, CacheFates, Fate, GcReport, PackSum, SparsePack};
pub(crate) use withdraw::{Withdrawals, leaned_on};

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use firn_index::{CacheName, UnixSeconds};
use firn_nix::StoreHash;
use firn_pack::PackId;

use crate::committer::Change;
use crate::engine::Shared;
use crate::mark::Mark;
use crate::packs::Lane;
use crate::rewrite::{Pace, RepackOptions};
use crate::watch::{Since, Watching};
use crate::{DELETION_LEASE, Engine, Error, Result, spans};

/// How long a lease lasts from each sign of life. A restart ends it.
const LEASE_SECONDS: u64 = 600;

/// How a collection works.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Whether to change nothing and only say what would be done.
    pub dry_run: bool,
    /// How long doomed packs stay, so that restores that have only begun find them.
    pub grace_seconds: u64,
    /// Which packs are repacked, and how much of that one collection does; `None` for none.
    pub repack: Option<RepackOptions>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { dry_run: false, grace_seconds: 6 * 3600, repack: Some(RepackOptions::default()) }
    }
}

/// One collection on its way.
pub(crate) struct Collection<'a> {
    shared: &'a Arc<Shared>,
    options: &'a GcOptions,
    /// Is told of every path that was removed, once that is durable.
    removed: &'a dyn Fn(&CacheName, &[StoreHash]),
    holder: u128,
    /// When it began to watch what is named.
    since: Since,
    now: UnixSeconds,
    report: GcReport,
    /// What is needed by what, as it was before anything was removed; only if it was asked for.
    mark: Option<Mark>,
    /// The recipes that went since.
    dead: HashSet<ShortId>,
    /// Packs that recipes lean on that stay; only of a dry run.
    needed: HashSet<PackId>,
    /// Those of them that can't be emptied.
    blocked: HashSet<PackId>,
}

impl Engine {
    /// Collects garbage; `None` if another collection is under way. `removed` is told of the paths that went, after each
    /// batch is durable. Blocks for as long as it takes, and never blocks commits for longer than a batch.
    ///
    /// # Errors
    /// Those of index and storage. What was done until then stays done, and the next collection goes on.
    pub fn collect(&self, options: &GcOptions, removed: &dyn Fn(&CacheName, &[StoreHash])) -> Result<Option<GcReport>> {
        self.collect_paced(options, removed, &mut |_| true)
    }

    /// Does as [`Engine::collect`]; repacking goes at this pace, and ends when that says so.
    ///
    /// # Errors
    /// As [`Engine::collect`]. That packs could not be repacked is told in the report.
    pub fn collect_paced(
        &self,
        options: &GcOptions,
        removed: &dyn Fn(&CacheName, &[StoreHash]),
        pace: &mut Pace<'_>,
    ) -> Result<Option<GcReport>> {
        let packs = &self.shared.packs;
        let (holder, now) = (packs.entropy.draw(), packs.clock.now());
        if !packs.meta.take_lease(DELETION_LEASE, holder, now, now + LEASE_SECONDS)? {
            return Ok(None);
        }
        let report = self.shared.collect(options, removed, holder, now, pace);
        packs.meta.end_lease(DELETION_LEASE, holder)?;
        report.map(Some)
    }

    /// Ends the collections that are under way, and every later one, after the step that they are at.
    pub fn interrupt_collections(&self) {
        self.shared.packs.interrupted.store(true, Ordering::SeqCst);
    }

    /// Returns what waits to be doomed or deleted. Reads the row of every pack.
    pub fn backlog(&self) -> Result<Backlog> {
        self.shared.packs.backlog()
    }
}

impl Shared {
    /// Does what a collection has to do, by the holder of the lease.
    fn collect(
        self: &Arc<Self>,
        options: &GcOptions,
        removed: &dyn Fn(&CacheName, &[StoreHash]),
        holder: u128,
        now: UnixSeconds,
        pace: &mut Pace<'_>,
    ) -> Result<GcReport> {
        self.packs.check_there()?;
        let dry_run = options.dry_run;
        let _span = tracing::info_span!(target: spans::TARGET, "collect", firn.dry_run = dry_run).entered();
        self.packs.uses.flush(self.packs.meta.as_ref(), now)?;
        // Before anything is looked at.
        let watching = self.watch()?;
        let collection = Collection {
            shared: self,
            options,
            removed,
            holder,
            since: watching.since(),
            now,
            report: GcReport { dry_run, started_at: now, ..GcReport::default() },
            mark: None,
            dead: HashSet::new(),
            needed: HashSet::new(),
            blocked: HashSet::new(),
        };
        collection.run(watching, pace)
    }

    /// Begins to keep what is named. When it returns, every commit is in the index that was prepared, and named what it
    /// needs, before anybody watched: the committer does one group after the other.
    fn watch(&self) -> Result<Watching<'_>> {
        let watching = self.packs.watch.begin();
        for outcome in self.submit_all(vec![Change::Carry { records: Vec::new(), keep_gone: false }])? {
            outcome?;
        }
        Ok(watching)
    }
}

impl Collection<'_> {
    fn run(mut self, watching: Watching<'_>, pace: &mut Pace<'_>) -> Result<GcReport> {
        self.sweep()?;
        drop(watching);
        if self.options.dry_run {
            self.foresee()?;
        } else {
            if self.report.recipes > 0 {
                self.shared.has_sparse.store(true, Ordering::SeqCst);
                // What nobody needs of the open pack is to come back as well.
                self.end_open_pack()?;
            }
            self.pass_packs_on()?;
            if self.repack(pace)? {
                self.pass_packs_on()?;
            }
        }
        self.report.backlog = self.shared.packs.backlog()?;
        let Backlog { condemned, doomed } = self.report.backlog;
        self.report.reclaimable_bytes += condemned.stored_bytes + doomed.stored_bytes;
        self.report.ended_at = self.shared.packs.clock.now();
        Ok(self.report)
    }

    /// Takes packs without edges as far as they may go by now.
    fn pass_packs_on(&mut self) -> Result<()> {
        // Each is told by whoever looks at it last.
        self.report.failed = PackSum::default();
        self.report.stuck.retain(|stuck| stuck.recipes > 0);
        self.renew()?;
        self.withdraw_again()?;
        self.condemn()?;
        self.renew()?;
        self.doom()?;
        self.renew()?;
        self.delete()?;
        self.renew()
    }

    /// Seals the pack that uploads are written to. Without room it stays as it is.
    fn end_open_pack(&self) -> Result<()> {
        match self.shared.packs.end(Lane::Ingest) {
            Err(error @ Error::StorageFull) => {
                tracing::warn!(%error, "the open pack stays open during this collection");
                Ok(())
            }
            other => other,
        }
    }

    /// Counts what is needed by what.
    fn count(&self) -> Result<Mark> {
        let interrupted = &self.shared.packs.interrupted;
        let mark = crate::mark::collect(self.shared, &|| interrupted.load(Ordering::SeqCst))?;
        self.renew()?;
        mark.ok_or_else(|| Error::Internal("count what is needed: nobody stopped it, and it did not end".to_owned()))
    }

    /// Keeps the lease. Without it another collection may run beside this one, which is safe and a waste.
    fn renew(&self) -> Result<()> {
        if self.shared.packs.interrupted.load(Ordering::SeqCst) {
            return Err(Error::WritesStopped("the store is being closed; the next collection goes on".to_owned()));
        }
        let now = self.shared.packs.clock.now();
        if self.shared.packs.meta.take_lease(DELETION_LEASE, self.holder, now, now + LEASE_SECONDS)? {
            return Ok(());
        }
        Err(Error::Internal("collect garbage: another collection has taken over".to_owned()))
    }
}
