//! How the work is doing that keeps a store in order: collections, scrubs, squeezing; what waits, what was done, what failed.

use std::sync::{Mutex, PoisonError};

use firn_engine::Backlog;
use firn_index::{CollectionRow, ScrubPass, UnixSeconds};
use serde::{Deserialize, Serialize};

use crate::admin::{PacksView, StuckPackView};
use crate::app::App;
use crate::squeeze::{Pass, Progress};

/// How long it is taken as known how many packs wait to be squeezed: counting them reads a row of each pack.
const COUNT_EVERY: UnixSeconds = 60;

/// How everything is. Times are seconds since 1970; sums begin with the server.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Maintenance {
    /// Collections of garbage.
    pub gc: GcState,
    /// Scrubs.
    pub scrub: ScrubState,
    /// Squeezing.
    pub squeeze: SqueezeState,
}

/// How collections are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcState {
    /// Since when one is under way.
    pub running_since: Option<UnixSeconds>,
    /// Collections that came to their end.
    pub runs: u64,
    /// Collections that failed.
    pub failures: u64,
    /// Why the last one failed, if it did; of an earlier server too, as all that is said of the last one.
    pub problem: Option<String>,
    /// When that one began.
    #[serde(default)]
    pub failed_at: Option<UnixSeconds>,
    /// When the last one began that came to its end.
    pub last_started_at: Option<UnixSeconds>,
    /// When it ended.
    pub last_ended_at: Option<UnixSeconds>,
    /// Paths that went with it.
    #[serde(default)]
    pub last_removed_paths: u64,
    /// Packs that it deleted.
    #[serde(default)]
    pub last_deleted: PacksView,
    /// Paths that went.
    pub removed_paths: u64,
    /// Packs that were deleted: their bytes are free again.
    pub deleted: PacksView,
    /// Bytes that repacking read.
    pub repack_read_bytes: u64,
    /// Bytes that repacking wrote.
    pub repack_written_bytes: u64,
    /// Why the last one did not repack, or not all.
    pub repack_problem: Option<String>,
    /// Packs that wait for uploads to end.
    pub condemned: PacksView,
    /// Packs that wait for their grace to end.
    pub doomed: PacksView,
    /// Stored bytes that were to come back after the last one.
    pub reclaimable_bytes: u64,
    /// Packs that the last one could not empty, read or delete.
    pub stuck: Vec<StuckPackView>,
}

/// How scrubs are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubState {
    /// Whether one is under way.
    pub running: bool,
    /// Why the last one broke off, if the store was to blame.
    pub problem: Option<String>,
    /// When the pass began that is under way, or was interrupted.
    pub started_at: Option<UnixSeconds>,
    /// Bytes that it has read so far.
    pub read_bytes: u64,
    /// When the last pass ended.
    pub last_ended_at: Option<UnixSeconds>,
    /// Packs of the last pass that could not be read.
    pub unreadable_packs: u64,
    /// Its packs that are damaged as a whole.
    pub damaged_packs: u64,
    /// Its frames that are damaged.
    pub damaged_frames: u64,
    /// Its paths and documents that can't be had until they are uploaded again.
    pub damaged_paths: u64,
}

/// How squeezing is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqueezeState {
    /// Whether the server squeezes by itself.
    pub enabled: bool,
    /// The pass that is under way, or the last one.
    pub pass: Progress,
    /// Packs that are old enough to be squeezed and were not; counted once a minute.
    pub backlog: PacksView,
}

/// What was counted last.
#[derive(Default)]
pub struct Counted(Mutex<Option<(UnixSeconds, PacksView)>>);

impl Maintenance {
    /// Looks how everything is.
    ///
    /// # Errors
    /// Those of the index.
    pub fn of(app: &App) -> firn_engine::Result<Self> {
        Ok(Self { gc: GcState::of(app)?, scrub: ScrubState::of(app)?, squeeze: SqueezeState::of(app)? })
    }
}

impl GcState {
    /// Looks how collections are. Reads a row of each pack.
    ///
    /// # Errors
    /// Those of the index.
    pub fn of(app: &App) -> firn_engine::Result<Self> {
        let done = app.collector.collections();
        let CollectionRow { last, failure } = app.engine.meta().collection()?;
        let Backlog { condemned, doomed } = app.engine.backlog()?;
        let (started_at, ended_at) = last.as_ref().map(|pass| (pass.started_at, pass.ended_at)).unzip();
        let last = last.unwrap_or_default();
        let (failed_at, problem) = failure.map(|failure| (failure.at, failure.problem)).unzip();
        Ok(Self {
            running_since: done.running_since,
            runs: done.runs,
            failures: done.failures,
            problem,
            failed_at,
            last_started_at: started_at,
            last_ended_at: ended_at,
            last_removed_paths: last.removed_paths,
            last_deleted: PacksView { packs: last.deleted_packs, stored_bytes: last.deleted_bytes },
            removed_paths: done.removed_paths,
            deleted: PacksView { packs: done.deleted_packs, stored_bytes: done.deleted_bytes },
            repack_read_bytes: done.repack_read_bytes,
            repack_written_bytes: done.repack_written_bytes,
            repack_problem: last.repack_problem,
            condemned: condemned.into(),
            doomed: doomed.into(),
            reclaimable_bytes: last.reclaimable_bytes,
            stuck: last.stuck.into_iter().map(StuckPackView::from).collect(),
        })
    }
}

impl ScrubState {
    fn of(app: &App) -> firn_engine::Result<Self> {
        let (found, state) = (app.engine.scrub_outcome()?, app.scrubber.state());
        let last = found.last.as_ref();
        let sum = |of: fn(&ScrubPass) -> u64| last.map_or(0, of);
        Ok(Self {
            running: state.running.is_some(),
            problem: state.problem,
            started_at: found.current.as_ref().map(|pass| pass.started_at),
            read_bytes: found.current.as_ref().map_or(0, |pass| pass.read_bytes),
            last_ended_at: last.and_then(|pass| pass.finished_at),
            unreadable_packs: sum(|pass| pass.unreadable_packs),
            damaged_packs: sum(|pass| pass.damaged_packs),
            damaged_frames: sum(|pass| pass.damaged_frames),
            damaged_paths: sum(|pass| pass.damaged_paths),
        })
    }
}

impl SqueezeState {
    fn of(app: &App) -> firn_engine::Result<Self> {
        let config = &app.config.squeeze;
        let now = app.now();
        let known = *app.counted.0.lock().unwrap_or_else(PoisonError::into_inner);
        let backlog = match known {
            Some((at, backlog)) if now < at.saturating_add(COUNT_EVERY) => backlog,
            _ => {
                let backlog = app.engine.squeeze_backlog(&Pass::configured(config).options())?.into();
                *app.counted.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, backlog));
                backlog
            }
        };
        Ok(Self { enabled: config.enabled, pass: app.squeezer.control().progress(), backlog })
    }
}
