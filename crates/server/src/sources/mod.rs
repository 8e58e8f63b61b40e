//! Sources: stores that the server pulls from, by a schedule and on demand.
//!
//! [`Sources`] decides when which one is synced, and has a few of them synced at once, each by a thread of its own. [`sync`] is one sync,
//! the same with a server and without. What a source needs to be reached is [`place`]; how it is read is one file for each kind
//! (`local`, `ssh`, `files`, `http`); who is asked again when, [`breaker`].

pub mod breaker;
mod builder_firn;
mod fetch;
mod files;
mod http;
mod local;
mod peer;
pub mod place;
mod policy;
pub mod run;
mod seen;
mod ssh;
mod sync;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use firn_index::{Meta, SourceName};

use self::run::{Progress, Run};
use crate::app::App;
use crate::data_dir::SystemEntropy;

pub use peer::SyncError;
pub use sync::{Context, sync};

/// Sources that are synced at once.
const MAX_AT_ONCE: usize = 4;

/// How often it is looked which source is due.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// When which source is synced, and how far those are that are.
#[derive(Default)]
pub struct Sources {
    state: Mutex<State>,
    changed: Condvar,
    /// Where builders reach the server; set when it is known.
    pub base_url: OnceLock<String>,
}

#[derive(Default)]
struct State {
    /// Those that were asked for and have not begun, with whether everything is listed again.
    wanted: BTreeMap<SourceName, bool>,
    running: BTreeMap<SourceName, Arc<Run>>,
    is_ended: bool,
}

/// How a source is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// Nothing is done.
    Idle,
    /// A sync is about to begin.
    Waiting,
    /// A sync is under way.
    Running(Progress),
}

impl Sources {
    /// Starts the thread that watches the clock. It ends after [`Sources::end`], when all syncs have.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn(self: &Arc<Self>, app: Arc<App>, folder: PathBuf) -> std::io::Result<JoinHandle<()>> {
        let this = Arc::clone(self);
        thread::Builder::new().name("firn-sources".to_owned()).spawn(move || this.watch(&app, &folder))
    }

    /// Asks for a sync; `false` if one of this source is under way, which goes on.
    pub fn ask(&self, name: &SourceName, full: bool) -> bool {
        let mut state = self.lock();
        if state.running.contains_key(name) {
            return false;
        }
        *state.wanted.entry(name.clone()).or_default() |= full;
        self.changed.notify_all();
        true
    }

    /// Stops a source's sync, if one is under way or about to begin.
    pub fn stop(&self, name: &SourceName) {
        let mut state = self.lock();
        state.wanted.remove(name);
        if let Some(run) = state.running.get(name) {
            run.stop();
        }
    }

    /// Returns how a source is.
    pub fn activity(&self, name: &SourceName) -> Activity {
        let state = self.lock();
        match state.running.get(name) {
            Some(run) => Activity::Running(run.progress()),
            None if state.wanted.contains_key(name) => Activity::Waiting,
            None => Activity::Idle,
        }
    }

    /// Stops all syncs at once, and has the thread end.
    pub fn end(&self) {
        let mut state = self.lock();
        state.is_ended = true;
        for run in state.running.values() {
            run.stop();
        }
        self.changed.notify_all();
    }

    fn watch(self: &Arc<Self>, app: &Arc<App>, folder: &std::path::Path) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        loop {
            // Asks the index, so not under the lock.
            let due = due(app.engine.meta(), app.now());
            let mut state = self.lock();
            if state.is_ended {
                break;
            }
            for name in due {
                if !state.running.contains_key(&name) {
                    state.wanted.entry(name).or_default();
                }
            }
            while state.running.len() < MAX_AT_ONCE
                && let Some((name, full)) = state.wanted.pop_first()
            {
                if let Some(thread) = self.begin(&mut state, app, folder, name, full) {
                    threads.push(thread);
                }
            }
            threads.retain(|thread| !thread.is_finished());
            let waited = self.changed.wait_timeout(state, LOOK_EVERY);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        for thread in threads {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }

    fn begin(
        self: &Arc<Self>,
        state: &mut State,
        app: &Arc<App>,
        folder: &std::path::Path,
        name: SourceName,
        full: bool,
    ) -> Option<JoinHandle<()>> {
        let run = Arc::new(Run::default());
        state.running.insert(name.clone(), Arc::clone(&run));
        let (this, app, folder, of) = (Arc::clone(self), Arc::clone(app), folder.to_owned(), name.clone());
        let spawned = thread::Builder::new().name("firn-source".to_owned()).spawn(move || {
            // Also if it panics: a source that seems to run for ever is never synced again.
            let done = Done { sources: &this, name: &of };
            let now = || app.now();
            let context = Context {
                engine: &app.engine,
                app: Some(&app),
                folder,
                base_url: this.base_url.get().map(String::as_str),
                entropy: &SystemEntropy,
                now: &now,
            };
            log(&of, sync(&context, &of, &run, full));
            drop(done);
        });
        match spawned {
            Ok(thread) => Some(thread),
            Err(error) => {
                tracing::error!(%error, source = %name, "no thread to sync a source");
                state.running.remove(&name);
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Done<'a> {
    sources: &'a Sources,
    name: &'a SourceName,
}

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.sources.lock().running.remove(self.name);
        self.sources.changed.notify_all();
    }
}

/// Returns the sources whose time has come.
fn due(meta: &dyn Meta, now: u64) -> Vec<SourceName> {
    let all = meta.sources().and_then(|sources| {
        let mut due = Vec::new();
        for (name, row) in sources {
            let state = meta.source_state(&name)?;
            if breaker::is_due(&row, &state, now) {
                due.push(name);
            }
        }
        Ok(due)
    });
    all.unwrap_or_else(|error| {
        tracing::error!(error = crate::error_chain(&error), "it is not known which sources are due");
        Vec::new()
    })
}

fn log(name: &SourceName, outcome: Result<firn_index::SourceStateRow, SyncError>) {
    match outcome {
        Ok(state) => match &state.error {
            Some(error) => tracing::warn!(source = %name, error, retry_at = state.retry_at, "a source was not synced"),
            None => tracing::info!(
                source = %name,
                listed = state.last.listed,
                paths = state.last.paths,
                logical_bytes = state.last.logical_bytes,
                refused = state.last.refused,
                metadata_bytes = state.last.metadata_bytes,
                nar_bytes = state.last.nar_bytes,
                "synced a source"
            ),
        },
        Err(error) => tracing::error!(source = %name, %error, "a source was not synced"),
    }
}
