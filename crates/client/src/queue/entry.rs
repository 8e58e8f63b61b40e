use std::collections::BTreeMap;
use std::fmt;

use firn_nix::StorePath;
use firn_nix_store::{DbIdentity, PathInfo};
use serde::Serialize;

/// How a path came into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The cursor over Nix's database passed it.
    Cursor,
    /// Nix's post-build hook named it.
    Hook,
    /// It was there before, and someone asked for it.
    Backfill,
    /// Someone asked for this path.
    Asked,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Cursor, Self::Hook, Self::Backfill, Self::Asked];

    /// Returns the source's name, as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cursor => "cursor",
            Self::Hook => "hook",
            Self::Backfill => "backfill",
            Self::Asked => "asked",
        }
    }
}

/// Whether a path waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It will be pushed.
    Waiting,
    /// It was refused for good: a dead letter, until someone requeues it.
    Dead,
}

/// A path for the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEntry {
    /// The path.
    pub path: StorePath,
    /// The length of its NAR; 0 where nobody knows yet.
    pub nar_bytes: u64,
    /// Where it comes from.
    pub source: Source,
}

/// A path in the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its place: later ones are higher, and none is used twice.
    pub sequence: i64,
    /// The path.
    pub path: StorePath,
    /// Whether it waits.
    pub state: State,
    /// Where it came from first.
    pub source: Source,
    /// The length of its NAR; 0 where nobody knew.
    pub nar_bytes: u64,
    /// How many pushes of it failed.
    pub attempts: u32,
    /// When it came in.
    pub first_seen_at: u64,
    /// It isn't tried before this.
    pub not_before: u64,
    /// What the last push said.
    pub error: Option<String>,
}

/// A path that was gone before it could be pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// The path.
    pub path: StorePath,
    /// The length of its NAR; 0 where nobody knew.
    pub nar_bytes: u64,
    /// When that was noticed.
    pub at: u64,
}

/// The row of Nix's database that the cursor stands on, to recognise another database with the same file identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Witness {
    /// The path that had the cursor's id.
    pub path: StorePath,
    /// When Nix registered it, in seconds since 1970.
    pub registered_at: u64,
}

impl Witness {
    /// Returns what recognises a row.
    pub fn of(row: &PathInfo) -> Self {
        Self { path: row.path.clone(), registered_at: row.registered_at }
    }
}

/// How far Nix's database was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Which database that is.
    pub database: DbIdentity,
    /// Every row up to this id was taken in.
    pub last_id: i64,
    /// The row with that id, where it was seen.
    pub witness: Option<Witness>,
}

/// What became of a path that was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is in the cache now.
    Pushed {
        /// The bytes that went over the wire for it.
        sent_bytes: u64,
    },
    /// The cache had it.
    AlreadyThere,
    /// It isn't wanted after all.
    Skipped(Counter),
    /// It isn't in the store any more.
    Lost,
    /// It was refused for good.
    Refused {
        /// Why.
        error: String,
    },
    /// It failed and is tried again.
    Retry {
        /// Why.
        error: String,
        /// When.
        not_before: u64,
    },
}

/// A path and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// The path.
    pub path: StorePath,
    /// What became of it.
    pub verdict: Verdict,
}

/// A number that survives restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Paths that were pushed.
    Pushed,
    /// The lengths of their NARs.
    PushedBytes,
    /// Bytes that went over the wire.
    SentBytes,
    /// Paths that the cache had when it was asked.
    AlreadyThere,
    /// Paths that were gone before they could be pushed.
    LostBeforePush,
    /// Paths that were refused for good.
    Refused,
    /// Pushes that failed and were to be tried again.
    Retried,
    /// Paths not taken because an upstream signed them.
    SkippedUpstream,
    /// Paths not taken because they are derivations.
    SkippedDerivation,
    /// Paths not taken because they are sources.
    SkippedSource,
    /// Paths not taken because their name is excluded, or not included.
    SkippedName,
    /// Paths not taken because they are too long.
    SkippedSize,
    /// Rows of Nix's database that make no sense.
    Unreadable,
    /// Times that Nix's database turned out to be another one, and was read from its beginning.
    Rescans,
}

impl Counter {
    /// Every counter.
    pub const ALL: [Self; 14] = [
        Self::Pushed,
        Self::PushedBytes,
        Self::SentBytes,
        Self::AlreadyThere,
        Self::LostBeforePush,
        Self::Refused,
        Self::Retried,
        Self::SkippedUpstream,
        Self::SkippedDerivation,
        Self::SkippedSource,
        Self::SkippedName,
        Self::SkippedSize,
        Self::Unreadable,
        Self::Rescans,
    ];

    /// Returns the counter's name, as it is stored and shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pushed => "pushed",
            Self::PushedBytes => "pushed-bytes",
            Self::SentBytes => "sent-bytes",
            Self::AlreadyThere => "already-there",
            Self::LostBeforePush => "lost-before-push",
            Self::Refused => "refused",
            Self::Retried => "retried",
            Self::SkippedUpstream => "skipped-upstream",
            Self::SkippedDerivation => "skipped-derivation",
            Self::SkippedSource => "skipped-source",
            Self::SkippedName => "skipped-name",
            Self::SkippedSize => "skipped-size",
            Self::Unreadable => "unreadable",
            Self::Rescans => "rescans",
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a queue holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Totals {
    /// Paths that wait.
    pub waiting: u64,
    /// The lengths of their NARs.
    pub waiting_bytes: u64,
    /// Those of them that failed at least once.
    pub retrying: u64,
    /// When the oldest of them came in.
    pub oldest_at: Option<u64>,
    /// Dead letters.
    pub dead: u64,
    /// The counters that aren't 0.
    pub counters: BTreeMap<&'static str, u64>,
}

impl Totals {
    /// Returns a counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters.get(counter.name()).copied().unwrap_or(0)
    }
}
