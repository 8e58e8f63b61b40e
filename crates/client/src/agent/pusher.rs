use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use firn_nix::StorePath;
use firn_nix_store::PathInfo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Who brings paths to the cache.
pub trait Pusher: Send + Sync + 'static {
    /// Says of each path whether the cache lacks it, in bulk.
    fn missing(&self, paths: &[StorePath]) -> impl Future<Output = Result<Vec<bool>, Trouble>> + Send;

    /// Brings paths to the cache, references before referrers, and tells what became of each as soon as that is known.
    ///
    /// `Ok` says that everything was told; after an error the paths that nothing was told of are as they were.
    fn push(
        &self,
        closure: Vec<PathInfo>,
        told: mpsc::Sender<(StorePath, Outcome)>,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), Trouble>> + Send;
}

impl<P: Pusher> Pusher for Arc<P> {
    fn missing(&self, paths: &[StorePath]) -> impl Future<Output = Result<Vec<bool>, Trouble>> + Send {
        (**self).missing(paths)
    }

    fn push(
        &self,
        closure: Vec<PathInfo>,
        told: mpsc::Sender<(StorePath, Outcome)>,
        stop: CancellationToken,
    ) -> impl Future<Output = Result<(), Trouble>> + Send {
        (**self).push(closure, told, stop)
    }
}

/// What became of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The cache has it now.
    Pushed {
        /// What went over the wire for it.
        sent_bytes: u64,
    },
    /// The cache had it.
    AlreadyThere,
    /// An upstream has it.
    Upstream,
    /// It isn't in the store any more.
    Vanished,
    /// It can't be pushed, however often it is tried: refused by the cache, or not what the store says it is.
    Refused(String),
    /// It failed, and may not fail the next time.
    Failed(String),
    /// A path that it refers to could not be pushed.
    Blocked {
        /// That path.
        by: StorePath,
        /// Whether that one never will be.
        for_good: bool,
    },
}

/// What kept the pusher from going on; the paths are not at fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The server was not reached, or could not: it is tried again after a while.
    Unreachable {
        /// What happened.
        message: String,
        /// When the server wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The token is refused, or the quota is used up: someone has to do something.
    Denied {
        /// What happened.
        message: String,
    },
    /// These paths together could not be pushed, and it isn't known which of them is at fault.
    Batch {
        /// What happened.
        message: String,
    },
    /// It was asked to stop.
    Stopped,
}
