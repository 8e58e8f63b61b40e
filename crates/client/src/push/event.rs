//! What a push tells of itself, as it goes and at its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use firn_nix::StorePath;

use super::failure::PathFailure;
use crate::Error;
use crate::remote::{Waiting, Wire};

/// Is told what happens; called from several tasks, and must not block.
pub type OnEvent = Arc<dyn Fn(Event) + Send + Sync>;

/// Something that happened in a push.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The push begins.
    Started {
        /// How many paths are to be pushed.
        paths: u64,
        /// The length of their NARs together.
        logical_bytes: u64,
    },
    /// A path is being read.
    PathStarted {
        /// The path.
        path: StorePath,
        /// The length of its NAR in bytes.
        logical_bytes: u64,
    },
    /// A path is in the cache.
    PathDone {
        /// The path.
        path: StorePath,
        /// How it got there.
        outcome: Outcome,
        /// The length of its NAR in bytes.
        logical_bytes: u64,
        /// Its part of the compressed chunks that were sent. What several paths share counts for the first.
        sent_bytes: u64,
    },
    /// A path was not pushed. The others go on.
    PathFailed {
        /// The path.
        path: StorePath,
        /// Why.
        failure: PathFailure,
    },
    /// A request waits before it is tried again.
    Waiting(Waiting),
    /// How far it is; a few times a second.
    Progress(Totals),
    /// It is over.
    Finished(Totals),
}

/// How a path came to be in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new there.
    Created,
    /// It was there with the same NAR.
    Merged,
    /// It was there with another NAR, which stays.
    KeptFirst,
}

/// Sums over a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Totals {
    /// Paths that are in the cache now.
    pub done_paths: u64,
    /// Paths that were not pushed.
    pub failed_paths: u64,
    /// Paths whose recipe the server knew: nothing but one record was sent for each.
    pub known_paths: u64,
    /// Bytes of NARs that were read and cut, or whose path failed. At the end all there were.
    pub logical_bytes: u64,
    /// Bytes of NARs that were read so far, of paths that are being read as well.
    pub read_bytes: u64,
    /// Bytes of NARs that the server has, or whose path failed. At the end all there were.
    pub settled_bytes: u64,
    /// Bytes of chunks that the server lacked, uncompressed.
    pub new_bytes: u64,
    /// Bytes of the frames that they were sent in.
    pub frame_bytes: u64,
    /// All that went over the wire since the push began.
    pub wire: Wire,
}

/// What became of a push.
#[derive(Debug)]
#[must_use]
pub struct Summary {
    /// The sums.
    pub totals: Totals,
    /// The length of the NARs of the paths that are in the cache now.
    pub done_bytes: u64,
    /// Paths that are new in the cache.
    pub created_paths: u64,
    /// Paths that were there with the same NAR by the time they were committed.
    pub merged_paths: u64,
    /// Paths that were there with another NAR, which stays.
    pub kept_first_paths: u64,
    /// Which paths were not pushed, and why, references before referrers.
    pub failed: Vec<(StorePath, PathFailure)>,
    /// What stopped the push as a whole: paths without their turn failed with [`PathFailure::Stopped`].
    pub stopped_by: Option<Error>,
}

impl Summary {
    /// Says if all paths are in the cache.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.failed.is_empty() && self.stopped_by.is_none()
    }
}

/// The sums while they grow.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) done_paths: AtomicU64,
    pub(crate) failed_paths: AtomicU64,
    pub(crate) known_paths: AtomicU64,
    pub(crate) logical_bytes: AtomicU64,
    pub(crate) read_bytes: AtomicU64,
    pub(crate) settled_bytes: AtomicU64,
    pub(crate) new_bytes: AtomicU64,
    pub(crate) frame_bytes: AtomicU64,
}

impl Counters {
    pub(crate) fn totals(&self, wire: Wire) -> Totals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Totals {
            done_paths: read(&self.done_paths),
            failed_paths: read(&self.failed_paths),
            known_paths: read(&self.known_paths),
            logical_bytes: read(&self.logical_bytes),
            read_bytes: read(&self.read_bytes),
            settled_bytes: read(&self.settled_bytes),
            new_bytes: read(&self.new_bytes),
            frame_bytes: read(&self.frame_bytes),
            wire,
        }
    }
}

/// Adds to one of the sums.
pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}
