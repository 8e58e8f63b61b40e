//! Scrubbing beside a running server: when it is due, or when it is asked for, at a bounded rate, until it is told to stop.
//!
//! One thread of its own does it. It takes a step, then sleeps for as long as the bytes read are worth; whoever wants it
//! to stop wakes it up.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use firn_engine::Engine;
use firn_index::UnixSeconds;

use crate::background;
use crate::config::ScrubConfig;
use crate::{due, error_chain};

/// How often it is looked whether a pass is due.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How long to wait after the index failed.
const AFTER_FAILURE: Duration = Duration::from_secs(600);

/// Sleep that is saved up before it is taken: a frame is worth less than the system's timers.
const SHORTEST_SLEEP: Duration = Duration::from_millis(20);

/// What the thread and those who ask share.
pub struct Scrubber {
    config: ScrubConfig,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// A pass was asked for, at this many bytes a second.
    wanted: Option<u64>,
    /// The pass that runs, at this many bytes a second.
    running: Option<u64>,
    /// Nobody wants the pass that was interrupted to go on by itself.
    is_stopped: bool,
    is_ended: bool,
    problem: Option<String>,
}

/// How the thread is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScrubberState {
    /// The bytes a second at most of the pass that runs, or is about to.
    pub running: Option<u64>,
    /// Why the last pass ended before its end, if the store was to blame.
    pub problem: Option<String>,
}

impl Scrubber {
    /// Returns one whose thread does not run yet.
    pub fn new(config: ScrubConfig) -> Self {
        Self { config, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Starts the thread. It ends after [`Scrubber::end`].
    /// `on_damage` is called when paths turned out to be damaged: what was rendered of them counts no longer.
    pub fn spawn(
        self: &Arc<Self>,
        engine: Engine,
        now: impl Fn() -> UnixSeconds + Send + 'static,
        on_damage: impl Fn() + Send + 'static,
    ) -> JoinHandle<()> {
        let this = Arc::clone(self);
        background::spawn("firn-scrub", move || this.run(&engine, &now, &on_damage))
            .expect("a server that could start its other threads can start one more")
    }

    /// Asks for a pass: goes on with the one that was interrupted, or begins one. If one runs, only its rate changes.
    pub fn start(&self, bytes_per_second: Option<u64>) {
        let mut state = self.lock();
        let rate = bytes_per_second.unwrap_or(self.config.rate.0);
        match &mut state.running {
            Some(running) => *running = rate,
            None => state.wanted = Some(rate),
        }
        state.is_stopped = false;
        drop(state);
        self.changed.notify_all();
    }

    /// Stops the pass at once, if one runs; returns whether it did. What it found so far is kept.
    pub fn stop(&self) -> bool {
        let mut state = self.lock();
        let was_running = state.running.is_some() || state.wanted.is_some();
        state.wanted = None;
        state.is_stopped = true;
        self.changed.notify_all();
        while state.running.is_some() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        was_running
    }

    /// Stops the pass and lets the thread end.
    pub fn end(&self) {
        self.lock().is_ended = true;
        self.changed.notify_all();
    }

    /// Returns how the thread is.
    pub fn state(&self) -> ScrubberState {
        let state = self.lock();
        ScrubberState { running: state.running.or(state.wanted), problem: state.problem.clone() }
    }

    /// Returns when the next pass is due; `None` if passes are only made when asked for.
    ///
    /// # Errors
    /// Those of the index, in words.
    pub fn next_at(&self, engine: &Engine) -> Result<Option<UnixSeconds>, String> {
        let every = self.config.every.0.as_secs();
        if every == 0 {
            return Ok(None);
        }
        let outcome = engine.scrub_outcome().map_err(|error| error_chain(&error))?;
        if let Some(current) = outcome.current {
            return Ok(Some(current.started_at));
        }
        let made_at =
            engine.meta().store_info().map_err(|error| error_chain(&error))?.map_or(0, |info| info.created_at);
        let last = outcome.last.and_then(|pass| pass.finished_at).unwrap_or(made_at);
        Ok(Some(last.saturating_add(every)))
    }

    /// Returns whether a pass is due. One that was interrupted is, whatever the clock said then.
    fn is_due(&self, engine: &Engine, now: UnixSeconds) -> Result<bool, String> {
        let Some(at) = self.next_at(engine)? else { return Ok(false) };
        let outcome = engine.scrub_outcome().map_err(|error| error_chain(&error))?;
        Ok(outcome.current.is_some() || due::has_come(at, self.config.every.0.as_secs(), now))
    }

    fn run(&self, engine: &Engine, now: &dyn Fn() -> UnixSeconds, on_damage: &dyn Fn()) {
        loop {
            let Some(rate) = self.wait_for_work(engine, now) else { return };
            let outcome = self.pass(engine, on_damage);
            let mut state = self.lock();
            state.running = None;
            state.problem = outcome.as_ref().err().cloned();
            if let Err(error) = outcome {
                tracing::error!(error, rate, "scrub: the pass broke off and will be gone on with");
                state.is_stopped = true;
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// Waits until a pass is asked for or due, and returns its rate; `None` at the end.
    fn wait_for_work(&self, engine: &Engine, now: &dyn Fn() -> UnixSeconds) -> Option<u64> {
        loop {
            // Asks the index, so not under the lock.
            let due = self.is_due(engine, now());
            let mut state = self.lock();
            if state.is_ended {
                return None;
            }
            let is_due = matches!(due, Ok(true)) && !state.is_stopped;
            if let Some(rate) = state.wanted.take().or_else(|| is_due.then_some(self.config.rate.0)) {
                state.running = Some(rate);
                return Some(rate);
            }
            let wait = if state.problem.is_some() { AFTER_FAILURE } else { LOOK_EVERY };
            let (mut state, timeout) = self.changed.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            if timeout.timed_out() && state.problem.take().is_some() {
                state.is_stopped = false;
            }
        }
    }

    /// Goes through the packs until the end or until somebody says stop.
    fn pass(&self, engine: &Engine, on_damage: &dyn Fn()) -> Result<(), String> {
        let text = |error: firn_engine::Error| error_chain(&error);
        let mut scrub = engine.scrub().map_err(text)?;
        tracing::info!(packs = scrub.pass().packs, "scrub: begins, or goes on");
        let (mut debt, mut since) = (Duration::ZERO, Instant::now());
        let mut damaged_paths = scrub.pass().damaged_paths;
        while let Some(bytes) = scrub.step().map_err(text)? {
            if scrub.pass().damaged_paths != damaged_paths {
                damaged_paths = scrub.pass().damaged_paths;
                on_damage();
            }
            let mut state = self.lock();
            let rate = state.running.unwrap_or(u64::MAX).max(1);
            debt += Duration::from_secs_f64(bytes as f64 / rate as f64);
            debt = debt.saturating_sub(since.elapsed());
            since = Instant::now();
            while !state.is_stopped && !state.is_ended && debt >= SHORTEST_SLEEP {
                (state, _) = self.changed.wait_timeout(state, debt).unwrap_or_else(PoisonError::into_inner);
                debt = debt.saturating_sub(since.elapsed());
                since = Instant::now();
            }
            if state.is_stopped || state.is_ended {
                tracing::info!(packs = scrub.pass().packs, "scrub: stopped");
                return Ok(());
            }
        }
        let pass = scrub.pass();
        tracing::info!(
            packs = pass.packs,
            read_bytes = pass.read_bytes,
            unreadable_packs = pass.unreadable_packs,
            damaged_packs = pass.damaged_packs,
            damaged_frames = pass.damaged_frames,
            damaged_paths = pass.damaged_paths,
            "scrub: done"
        );
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
