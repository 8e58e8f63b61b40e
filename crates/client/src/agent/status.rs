use std::collections::BTreeMap;
use std::path::Path;

use firn_nix::StorePath;
use serde::{Deserialize, Serialize};

use super::desk::{Desk, HaltKind};
use super::error::Result;
use super::store::Store;
use crate::queue::{Reader, Totals};

/// How many lost paths and dead letters a status names; the counts go on.
const NAMED: usize = 50;

/// What an agent does and has done. The fields' names are stable; new ones may come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version; empty if none runs.
    pub version: String,
    /// The cache that it pushes to; empty if none runs.
    pub cache: String,
    /// What it does at the moment.
    pub activity: Activity,
    /// Why it does nothing, if something is wrong.
    pub trouble: Option<String>,
    /// What else is wrong: the work goes on.
    pub warnings: Vec<String>,
    /// Paths that wait.
    pub waiting: u64,
    /// The lengths of their NARs.
    pub waiting_bytes: u64,
    /// Those of them that failed before.
    pub retrying: u64,
    /// When the oldest of them came in, in milliseconds since 1970.
    pub oldest_at: Option<u64>,
    /// Paths that are being pushed.
    pub in_flight: u64,
    /// Paths that Nix's garbage collector is kept from.
    pub pinned: u64,
    /// The lengths of their NARs.
    pub pinned_bytes: u64,
    /// How many of Nix's registrations are not looked at yet.
    pub behind: u64,
    /// When Nix's database was last read to its end, in milliseconds since 1970; 0 before the first time.
    pub last_scan_at: u64,
    /// When a path was last pushed; 0 before the first time since the agent started.
    pub last_push_at: u64,
    /// Dead letters.
    pub dead: u64,
    /// The first of them.
    pub dead_letters: Vec<DeadLetter>,
    /// The latest paths that were gone before they could be pushed.
    pub lost: Vec<LostPath>,
    /// Counters since the queue was made; those that are 0 are left out.
    pub counters: BTreeMap<String, u64>,
}

/// What an agent does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    /// None runs.
    Stopped,
    /// One runs and doesn't answer. No agent says that of itself: it is for who asked in vain.
    Silent,
    /// It works, or has nothing to do.
    Running,
    /// It waits for the server, which it doesn't reach.
    Unreachable,
    /// It waits for someone to mend its token or quota.
    Paused,
    /// It can't read the store, or can't write its queue.
    Blocked,
}

impl Activity {
    /// Returns the name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Silent => "silent",
            Self::Running => "running",
            Self::Unreachable => "unreachable",
            Self::Paused => "paused",
            Self::Blocked => "blocked",
        }
    }
}

/// A path that is not tried any more, until someone requeues it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The path.
    pub path: StorePath,
    /// Why.
    pub error: String,
}

/// A path that was gone before it could be pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPath {
    /// The path.
    pub path: StorePath,
    /// When that was noticed, in milliseconds since 1970.
    pub at: u64,
}

impl Status {
    /// Returns what the queue of a directory says while no agent runs.
    pub fn of_queue(directory: &Path) -> Result<Self> {
        Ok(Self::read(&Reader::open(directory)?)?)
    }

    fn read(queue: &Reader) -> crate::queue::Result<Self> {
        let Totals { waiting, waiting_bytes, retrying, oldest_at, dead, counters } = queue.totals()?;
        let dead_letters = queue.dead(0, NAMED)?.into_iter();
        let lost = queue.lost(NAMED)?.into_iter();
        Ok(Self {
            version: String::new(),
            cache: String::new(),
            activity: Activity::Stopped,
            trouble: None,
            warnings: Vec::new(),
            waiting,
            waiting_bytes,
            retrying,
            oldest_at,
            in_flight: 0,
            pinned: 0,
            pinned_bytes: 0,
            behind: 0,
            last_scan_at: 0,
            last_push_at: 0,
            dead,
            dead_letters: dead_letters
                .map(|entry| DeadLetter { path: entry.path, error: entry.error.unwrap_or_default() })
                .collect(),
            lost: lost.map(|lost| LostPath { path: lost.path, at: lost.at }).collect(),
            counters: counters.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        })
    }

    /// Returns a counter by its name.
    #[must_use]
    pub fn counter(&self, counter: crate::queue::Counter) -> u64 {
        self.counters.get(counter.name()).copied().unwrap_or(0)
    }
}

impl<S: Store> Desk<S> {
    /// Returns what there is to say at the moment.
    pub(crate) fn status(&self, cache: &str) -> Result<Status> {
        let pinned = self.try_pins().map(|pins| pins.totals());
        let mut status = Status::read(self.queue().read())?;
        let state = self.state().clone();
        let (activity, trouble) = match (state.halt().cloned(), state.intake_error) {
            (Some(halt), error) => {
                status.warnings.extend(error);
                let activity = match halt.kind {
                    HaltKind::Unreachable => Activity::Unreachable,
                    HaltKind::Denied => Activity::Paused,
                    HaltKind::Local => Activity::Blocked,
                };
                (activity, Some(halt.message))
            }
            (None, Some(error)) => (Activity::Blocked, Some(error)),
            (None, None) => (Activity::Running, None),
        };
        env!("CARGO_PKG_VERSION").clone_into(&mut status.version);
        cache.clone_into(&mut status.cache);
        (status.activity, status.trouble) = (activity, trouble);
        status.warnings.extend(state.pin_error);
        status.warnings.extend(self.other_cache()?);
        let pinned = pinned.unwrap_or(state.last_pinned);
        (status.pinned, status.pinned_bytes) = (pinned.paths, pinned.bytes);
        self.state().last_pinned = pinned;
        (status.in_flight, status.behind) = (state.in_flight.iter().sum(), state.behind);
        (status.last_scan_at, status.last_push_at) = (state.last_scan_at, state.last_push_at);
        Ok(status)
    }
}
