//! The thread that compresses cold packs again: by itself when the configuration says so, or when an administrator asks.
//!
//! One pass at a time. A pass is slowed down before each chunk, so that it takes a share of one core and of the disk, and
//! stops there when it is told to: at once, but for the frame that is being compressed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use firn_engine::{Engine, Rewritten, SqueezeOptions};
use serde::{Deserialize, Serialize};

use crate::background;
use crate::config::SqueezeConfig;

/// Shorter rests are saved up.
const MIN_REST: Duration = Duration::from_millis(10);

/// A bound for arithmetic: some thirty years.
const MAX_DUE_SECONDS: f64 = 1e9;

/// How much of the machine a pass takes, and what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    /// The zstd level.
    pub level: u8,
    /// Uncompressed bytes of a frame.
    pub frame_bytes: u64,
    /// How old a pack is at least, in seconds.
    pub min_age_seconds: u64,
    /// Percent of one core; 100 is all of it.
    pub cpu_percent: u8,
    /// Bytes that are read and written in a second, at most.
    pub bytes_per_second: u64,
}

impl Pass {
    /// Returns the pass that the configuration describes.
    #[must_use]
    pub fn configured(config: &SqueezeConfig) -> Self {
        Self {
            level: config.level,
            frame_bytes: config.frame_size.0,
            min_age_seconds: config.min_age.0.as_secs(),
            cpu_percent: config.cpu_percent,
            bytes_per_second: config.rate.0,
        }
    }

    pub(crate) fn options(&self) -> SqueezeOptions {
        SqueezeOptions {
            level: self.level,
            frame_bytes: usize::try_from(self.frame_bytes).unwrap_or(usize::MAX),
            min_age_seconds: self.min_age_seconds,
            ..SqueezeOptions::default()
        }
    }
}

/// How far the pass got that is under way, or the last one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Whether one is under way.
    pub running: bool,
    /// Packs that it found to do.
    pub packs: u64,
    /// Packs that are done.
    pub done_packs: u64,
    /// Packs that nothing needs any more: garbage collection deletes them.
    pub emptied_packs: u64,
    /// Bytes of these.
    pub emptied_bytes: u64,
    /// Bytes that were read to be compressed again.
    pub read_bytes: u64,
    /// Bytes that came of it.
    pub written_bytes: u64,
    /// Chunks that were moved.
    pub chunks: u64,
    /// Recipes that were moved.
    pub recipes: u64,
    /// Whether it was stopped before it was through.
    pub stopped: bool,
    /// Why it failed, if it did; what was done by then stays.
    pub error: Option<String>,
}

impl Progress {
    fn of(done: &Rewritten, running: bool) -> Self {
        let Rewritten { packs, done_packs, emptied_packs, emptied_bytes, .. } = *done;
        let Rewritten { read_bytes, written_bytes, chunks, recipes, is_stopped, .. } = *done;
        Self {
            running,
            packs,
            done_packs,
            emptied_packs,
            emptied_bytes,
            read_bytes,
            written_bytes,
            chunks,
            recipes,
            stopped: is_stopped,
            error: None,
        }
    }
}

#[derive(Default)]
struct State {
    /// A pass that was asked for and has not begun.
    next: Option<Pass>,
    must_stop: bool,
    must_end: bool,
    progress: Progress,
}

/// What a pass and those who watch it share.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    /// Runs a pass to its end, or until it is stopped.
    pub fn run(&self, engine: &Engine, pass: &Pass) -> Progress {
        let began = Instant::now();
        let (mut worked_since, mut worked) = (began, Duration::ZERO);
        let mut pace = |so_far: &Rewritten| {
            worked += worked_since.elapsed();
            let share = f64::from(pass.cpu_percent.clamp(1, 100)) / 100.0;
            let bytes = so_far.read_bytes.saturating_add(so_far.written_bytes);
            let by_cpu = worked.as_secs_f64() / share;
            let by_bytes = bytes as f64 / pass.bytes_per_second.max(1) as f64;
            let due = Duration::from_secs_f64(by_cpu.max(by_bytes).min(MAX_DUE_SECONDS));
            let rest = due.saturating_sub(began.elapsed());
            let goes_on = self.wait(if rest < MIN_REST { Duration::ZERO } else { rest }, so_far);
            worked_since = Instant::now();
            goes_on
        };
        let outcome = engine.squeeze(&pass.options(), &mut pace);
        let mut state = self.lock();
        state.progress = match outcome {
            Ok(Some(done)) => Progress::of(&done, false),
            Ok(None) => Progress { error: Some("packs are being rewritten already".to_owned()), ..Progress::default() },
            Err(error) => {
                Progress { running: false, error: Some(crate::error_chain(&error)), ..state.progress.clone() }
            }
        };
        state.must_stop = false;
        self.changed.notify_all();
        state.progress.clone()
    }

    /// Tells the pass that is under way to stop, and forgets one that was asked for.
    pub fn stop(&self) {
        let mut state = self.lock();
        state.next = None;
        state.must_stop = state.progress.running;
        self.changed.notify_all();
    }

    /// Returns how far it got.
    pub fn progress(&self) -> Progress {
        self.lock().progress.clone()
    }

    /// Waits before the next chunk; returns whether to go on.
    fn wait(&self, rest: Duration, so_far: &Rewritten) -> bool {
        let until = Instant::now() + rest;
        let mut state = self.lock();
        state.progress = Progress::of(so_far, true);
        loop {
            if state.must_stop || state.must_end {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a pass to run: one that was asked for, or `own` once `pause` is over. `None` when it is all over.
    fn next(&self, own: Option<Pass>, pause: Duration) -> Option<Pass> {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            if state.must_end {
                return None;
            }
            let left = until.saturating_duration_since(Instant::now());
            let due = own.filter(|_| left.is_zero());
            if let Some(pass) = state.next.take().or(due) {
                state.must_stop = false;
                state.progress = Progress { running: true, ..Progress::default() };
                return Some(pass);
            }
            state = match own {
                Some(_) => self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of a running server.
pub struct Squeezer {
    control: Arc<Control>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Squeezer {
    /// Starts the thread. It waits until it is asked, or does a pass now and then if that is configured.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(engine: Engine, config: &SqueezeConfig) -> std::io::Result<Self> {
        let control = Arc::new(Control::default());
        let own = config.enabled.then(|| Pass::configured(config));
        let every = config.every.0;
        let shared = Arc::clone(&control);
        let work = move || {
            while let Some(pass) = shared.next(own, every) {
                let done = shared.run(&engine, &pass);
                match &done.error {
                    Some(error) => tracing::warn!(%error, "packs could not be squeezed; what was done stays"),
                    None if done.done_packs > 0 => tracing::info!(
                        packs = done.done_packs,
                        read_bytes = done.read_bytes,
                        written_bytes = done.written_bytes,
                        stopped = done.stopped,
                        "packs were squeezed"
                    ),
                    None => {}
                }
            }
        };
        let thread = background::spawn("firn-squeeze", work)?;
        Ok(Self { control, thread: Mutex::new(Some(thread)) })
    }

    /// Asks for a pass; returns whether none was under way. One that is goes on, and nothing else happens.
    pub fn ask(&self, pass: Pass) -> bool {
        let mut state = self.control.lock();
        if state.progress.running || state.next.is_some() {
            return false;
        }
        state.next = Some(pass);
        // So that whoever asks at once how far it is does not see the last one.
        state.progress = Progress { running: true, ..Progress::default() };
        self.control.changed.notify_all();
        true
    }

    /// Returns what controls the pass.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Stops what is under way and ends the thread; blocks until a frame is finished.
    pub fn end(&self) {
        self.control.lock().must_end = true;
        self.control.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that squeezes packs had panicked");
        }
    }
}

#[cfg(test)]
mod tests;
