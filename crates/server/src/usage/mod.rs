//! What the server knows of its bytes: live counters, stored reports, and answers to questions about single paths.
//!
//! A report is made by a mark pass of the engine, at most one at a time, now and then and when somebody asks for a fresh
//! one; it is kept in the index, so that pages and requests are answered from what is stored. The pass itself is kept in
//! memory for a while if it is small.

pub mod counters;
pub mod hours;
pub mod report;
pub mod search;
pub mod traffic;
pub mod view;
pub mod viewer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use firn_engine::{Engine, Mark};
use firn_index::UnixSeconds;

use crate::background;

pub use counters::{Counters, Tally};
pub use report::StoredReport;
pub use search::Packages;

/// How many bytes of a mark pass are kept in memory for the next question.
const KEPT_BYTES: u64 = 256 << 20;

/// How old a pass may be to answer a question about single paths.
const KEPT_SECONDS: u64 = 300;

/// How many days are kept of counters and sums.
pub const HISTORY_DAYS: u32 = 400;

/// How many days are recent in a report.
pub const RECENT_DAYS: u64 = 7;

/// Counters and reports; part of [`crate::app::App`].
#[derive(Default)]
pub struct Usage {
    /// What happens.
    pub counters: Counters,
    /// Where the indexes are, to be measured.
    pub index: OnceLock<PathBuf>,
    latest: RwLock<Option<Arc<StoredReport>>>,
    kept: Mutex<Option<Arc<Mark>>>,
    packages: RwLock<Option<Arc<Packages>>>,
    past: Mutex<Option<Arc<traffic::Past>>>,
    /// Held while a pass runs.
    making: Mutex<()>,
    stop: AtomicBool,
    /// Passes so far, and how long they took.
    pub passes: AtomicU64,
    /// Milliseconds of all passes.
    pub passes_ms: AtomicU64,
}

impl Usage {
    /// Takes the newest report out of the index. One that can't be read is none: it can be made again.
    pub fn load(&self, meta: &dyn firn_index::Meta) {
        let stored = meta.last_report().unwrap_or_else(|error| {
            tracing::error!(error = crate::error_chain(&error), "the newest usage report can't be read");
            None
        });
        let stored = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = stored.map(Arc::new);
    }

    /// Returns the newest report, if there is one.
    pub fn latest(&self) -> Option<Arc<StoredReport>> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns which paths each package had in the newest report of this process.
    pub fn packages(&self) -> Option<Arc<Packages>> {
        self.packages.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends a pass that runs, and lets none begin.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Returns a mark pass that began after `oldest`, which is in seconds: the kept one, or a new one. Blocks as long as that
    /// takes; those who ask while a pass runs that takes longer wait for one more pass together.
    ///
    /// # Errors
    /// Errors of the engine; [`firn_engine::Error::WritesStopped`] when the server ends.
    pub fn mark(&self, engine: &Engine, oldest: UnixSeconds) -> firn_engine::Result<Arc<Mark>> {
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
            && kept.at > oldest
        {
            return Ok(kept);
        }
        let began = Instant::now();
        let mark = background::run("firn-count", || engine.mark(&|| self.stop.load(Ordering::Relaxed)))?;
        let mark = mark.ok_or_else(|| firn_engine::Error::WritesStopped("the server ends".to_owned()))?;
        counters::add(&self.passes, 1);
        counters::add(&self.passes_ms, u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        let mark = Arc::new(mark);
        let kept = (mark.memory_bytes() <= KEPT_BYTES).then(|| Arc::clone(&mark));
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(mark)
    }

    /// Returns a pass for a question about single paths: a few minutes old at most.
    ///
    /// # Errors
    /// As [`Usage::mark`].
    pub fn recent_mark(&self, engine: &Engine, now: UnixSeconds) -> firn_engine::Result<Arc<Mark>> {
        self.mark(engine, now.saturating_sub(KEPT_SECONDS))
    }

    /// Returns the kept pass, if there is one.
    pub fn kept(&self) -> Option<Arc<Mark>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the kept pass if it is too old to answer anything.
    pub fn tidy(&self, now: UnixSeconds) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|mark| mark.at.saturating_add(KEPT_SECONDS) < now) {
            *kept = None;
        }
    }

    fn keep(&self, report: Arc<StoredReport>, packages: Packages) {
        *self.packages.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(packages));
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Some(report);
    }
}
