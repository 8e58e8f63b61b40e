//! Collections of garbage as the server and its commands run them: at a bounded rate, watched, and stopped when somebody asks.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use firn_engine::{Engine, GcOptions, RepackOptions, Rewritten};
use firn_index::{CacheName, CollectionFailure, CollectionPass, CollectionRow, Meta, StuckRow, UnixSeconds};
use firn_nix::StoreHash;
use serde::{Deserialize, Serialize};

use crate::admin::GcView;
use crate::config::GcConfig;
use crate::error_chain;

/// Shorter rests are saved up.
const MIN_REST: Duration = Duration::from_millis(10);

/// A bound for arithmetic: some thirty years.
const MAX_DUE_SECONDS: f64 = 1e9;

/// What one collection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Whether to change nothing and only say what would be done.
    pub dry_run: bool,
    /// How long doomed packs stay.
    pub grace_seconds: u64,
    /// Which packs are repacked: those of which at most this percentage is needed; 0 for none.
    pub repack_percent: u8,
    /// Bytes that repacking reads and writes, at most.
    pub repack_bytes: u64,
    /// Bytes that it reads and writes in a second, at most.
    pub bytes_per_second: u64,
}

impl Plan {
    /// Returns what the configuration says.
    #[must_use]
    pub fn configured(config: &GcConfig) -> Self {
        Self {
            dry_run: false,
            grace_seconds: config.grace.0.as_secs(),
            repack_percent: config.repack_percent,
            repack_bytes: config.repack_bytes.0,
            bytes_per_second: config.repack_rate.0,
        }
    }

    fn options(&self) -> GcOptions {
        let is_wanted = self.repack_percent > 0 && self.repack_bytes > 0;
        let repack = RepackOptions { max_live_percent: self.repack_percent, max_bytes: self.repack_bytes };
        GcOptions { dry_run: self.dry_run, grace_seconds: self.grace_seconds, repack: is_wanted.then_some(repack) }
    }
}

/// What collections of this process have done, and whether one is under way. Dry runs are not counted. How the last one
/// went is in the index ([`firn_index::CollectionRow`]), for the next process too.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collections {
    /// Since when one is under way.
    pub running_since: Option<UnixSeconds>,
    /// Bytes that its repacking has read and written so far.
    pub repacked_bytes: u64,
    /// Collections that came to their end.
    pub runs: u64,
    /// Collections that failed.
    pub failures: u64,
    /// Paths that went.
    pub removed_paths: u64,
    /// Packs that were deleted.
    pub deleted_packs: u64,
    /// Their bytes: these are free again.
    pub deleted_bytes: u64,
    /// Bytes that repacking read.
    pub repack_read_bytes: u64,
    /// Bytes that repacking wrote.
    pub repack_written_bytes: u64,
}

#[derive(Default)]
struct State {
    collections: Collections,
    /// How many are at work; the engine lets one do so at a time.
    running: u32,
    must_stop: bool,
}

/// What a collection and those who watch it share.
#[derive(Default)]
pub struct Collector {
    state: Mutex<State>,
    changed: Condvar,
}

impl Collector {
    /// Collects garbage; `None` if another collection is under way. `removed` is told of the paths that went. Blocks.
    ///
    /// # Errors
    /// Those of [`Engine::collect`].
    pub fn run(
        &self,
        engine: &Engine,
        plan: &Plan,
        now: UnixSeconds,
        removed: &dyn Fn(&CacheName, &[StoreHash]),
    ) -> firn_engine::Result<Option<GcView>> {
        {
            let mut state = self.lock();
            if state.running == 0 {
                state.must_stop = false;
                state.collections.repacked_bytes = 0;
            }
            state.running += 1;
            if !plan.dry_run {
                state.collections.running_since.get_or_insert(now);
            }
        }
        let mut began = None;
        let mut pace = |so_far: &Rewritten| self.pace(plan, *began.get_or_insert_with(Instant::now), so_far);
        let outcome = engine.collect_paced(&plan.options(), removed, &mut pace);
        let outcome = outcome.map(|report| report.map(GcView::from));
        if !plan.dry_run {
            note(engine.meta(), &outcome, now);
        }
        let mut state = self.lock();
        state.running -= 1;
        if state.running == 0 {
            state.collections.running_since = None;
        }
        if !plan.dry_run {
            state.collections.add(&outcome);
        }
        outcome
    }

    /// Tells the collection that is under way to repack no more, at once but for the frame that is being written; returns
    /// whether there is one.
    pub fn stop(&self) -> bool {
        let mut state = self.lock();
        state.must_stop = state.running > 0;
        self.changed.notify_all();
        state.must_stop
    }

    /// Returns what was done so far.
    pub fn collections(&self) -> Collections {
        self.lock().collections.clone()
    }

    /// Waits before the next frame; returns whether to go on.
    fn pace(&self, plan: &Plan, began: Instant, so_far: &Rewritten) -> bool {
        let bytes = so_far.read_bytes.saturating_add(so_far.written_bytes);
        let due = bytes as f64 / plan.bytes_per_second.max(1) as f64;
        let until = began + Duration::from_secs_f64(due.min(MAX_DUE_SECONDS));
        let mut state = self.lock();
        state.collections.repacked_bytes = bytes;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if state.must_stop {
                return false;
            }
            if left < MIN_REST {
                return true;
            }
            (state, _) = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collections {
    fn add(&mut self, outcome: &firn_engine::Result<Option<GcView>>) {
        match outcome {
            Ok(Some(view)) => {
                self.runs += 1;
                self.removed_paths += view.caches.iter().map(|fates| fates.removed_paths).sum::<u64>();
                self.deleted_packs += view.deleted.packs;
                self.deleted_bytes += view.deleted.stored_bytes;
                self.repack_read_bytes += view.repack.read_bytes;
                self.repack_written_bytes += view.repack.written_bytes;
            }
            Ok(None) => {}
            Err(_) => self.failures += 1,
        }
    }
}

/// Writes down how a collection went that began at this time.
fn note(meta: &dyn Meta, outcome: &firn_engine::Result<Option<GcView>>, now: UnixSeconds) {
    let row = match outcome {
        Ok(None) => return,
        Ok(Some(view)) => Ok(CollectionRow { last: Some(CollectionPass::from(view)), failure: None }),
        Err(error) => {
            let failure = CollectionFailure { at: now, problem: error_chain(error) };
            meta.collection().map(|row| CollectionRow { failure: Some(failure), ..row })
        }
    };
    if let Err(error) = row.and_then(|row| meta.set_collection(&row)) {
        tracing::warn!(error = error_chain(&error), "it could not be written down how a collection of garbage went");
    }
}

impl From<&GcView> for CollectionPass {
    fn from(view: &GcView) -> Self {
        Self {
            started_at: view.started_at,
            ended_at: view.ended_at,
            removed_paths: view.caches.iter().map(|fates| fates.removed_paths).sum(),
            deleted_packs: view.deleted.packs,
            deleted_bytes: view.deleted.stored_bytes,
            reclaimable_bytes: view.reclaimable_bytes,
            repack_problem: view.repack.problem.clone(),
            stuck: view.stuck.iter().cloned().map(StuckRow::from).collect(),
        }
    }
}
