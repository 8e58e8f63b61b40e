//! The pusher that speaks with a real server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use firn_nix::{PublicKey, StoreHash, StorePath};
use firn_nix_store::PathInfo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::error::chain;
use super::filter::UpstreamKeys;
use super::pusher::{Outcome, Pusher, Trouble};
use crate::plan::{PlanOptions, Skip, plan};
use crate::push::{self, Event, Memory, PathFailure, PushOptions, Source, push_within};
use crate::remote::{HttpOptions, Remote, RemoteOptions, RetryPolicy, Target};
use crate::{Error, Refusal};

/// Gives the cache's URL and its token, afresh each time: a token may be replaced while the agent runs.
pub type GiveTarget = Box<dyn Fn() -> Result<Target, String> + Send + Sync>;

/// Pushes to one cache. It connects when it first has something to ask, and again after every trouble.
pub struct RemotePusher {
    target: GiveTarget,
    http: HttpOptions,
    source: Arc<dyn Source>,
    upstreams: Upstreams,
    /// Those that count, as the server last told.
    upstream_keys: UpstreamKeys,
    store_dir: String,
    options: PushOptions,
    /// One for all pushes at a time.
    memory: Memory,
    patience: Duration,
    connected: Mutex<Option<Connected>>,
}

/// Whose paths are not pushed. The server has to believe that an upstream has them, so only its own upstreams count.
#[derive(Debug, Clone)]
pub enum Upstreams {
    /// All of the server's.
    Server,
    /// Those of the server's that are among these.
    Only(Vec<PublicKey>),
}

#[derive(Clone)]
struct Connected {
    /// For questions that begin something: whether the server is there is to be known at once.
    asking: Arc<Remote>,
    /// For what is under way, and should outlast a server's restart.
    remote: Arc<Remote>,
    upstream_keys: Vec<PublicKey>,
}

impl RemotePusher {
    /// Returns a pusher of a store's paths. Nothing is read or sent yet. A request of a push that is under way is tried again
    /// for `patience`; everything else is tried once, and left to the caller to try again.
    #[must_use]
    pub fn new(
        target: GiveTarget,
        http: HttpOptions,
        source: Arc<dyn Source>,
        upstreams: Upstreams,
        store_dir: String,
        options: PushOptions,
        patience: Duration,
    ) -> Self {
        let memory = Memory::new(options.memory_bytes);
        let (upstream_keys, connected) = (UpstreamKeys::default(), Mutex::new(None));
        Self { target, http, source, upstreams, upstream_keys, store_dir, options, memory, patience, connected }
    }

    /// Returns the upstreams whose paths are not pushed, which change when the server tells others.
    #[must_use]
    pub fn upstream_keys(&self) -> UpstreamKeys {
        self.upstream_keys.clone()
    }

    /// Forgets the connection: the next question reads URL and token again.
    pub fn reconnect(&self) {
        *self.lock() = None;
    }

    async fn connected(&self) -> Result<Connected, Trouble> {
        if let Some(connected) = &*self.lock() {
            return Ok(connected.clone());
        }
        let target = (self.target)().map_err(|message| Trouble::Denied { message })?;
        let options = RemoteOptions { retry: RetryPolicy::never(), ..RemoteOptions::default() };
        let asking = Remote::connect(target.clone(), &self.http, options).await.map_err(|error| trouble(&error))?;
        let cache = asking.describe().await.map_err(|error| trouble(&error))?;
        let denied = |message| Err(Trouble::Denied { message });
        if cache.store_dir != self.store_dir {
            return denied(format!("the cache is one of {}, and this store is {}", cache.store_dir, self.store_dir));
        }
        if !cache.can_push {
            return denied("the server allows no push to this cache: the token is missing, or has no grant".to_owned());
        }
        let mut upstream_keys: Vec<PublicKey> = cache.upstream_keys.iter().filter_map(|key| key.parse().ok()).collect();
        if let Upstreams::Only(ours) = &self.upstreams {
            upstream_keys.retain(|key| ours.contains(key));
        }
        self.upstream_keys.set(upstream_keys.clone());
        let retry = RetryPolicy { give_up_after: self.patience, ..RetryPolicy::default() };
        let options = RemoteOptions { retry, ..RemoteOptions::default() };
        let remote = Remote::connect(target, &self.http, options).await.map_err(|error| trouble(&error))?;
        let connected = Connected { asking: Arc::new(asking), remote: Arc::new(remote), upstream_keys };
        Ok(self.lock().insert(connected).clone())
    }

    /// Returns what an error means, and forgets the connection: the server may have been replaced, or the token.
    fn failed(&self, error: &Error) -> Trouble {
        self.reconnect();
        trouble(error)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Connected>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pusher for RemotePusher {
    async fn missing(&self, paths: &[StorePath]) -> Result<Vec<bool>, Trouble> {
        let remote = self.connected().await?.asking;
        let hashes: Vec<StoreHash> = paths.iter().map(StorePath::hash).collect();
        let mut missing = Vec::with_capacity(paths.len());
        for part in hashes.chunks(remote.limits().paths.max(1)) {
            missing.extend(remote.missing_paths(part).await.map_err(|error| self.failed(&error))?);
        }
        Ok(missing)
    }

    async fn push(
        &self,
        closure: Vec<PathInfo>,
        told: mpsc::Sender<(StorePath, Outcome)>,
        stop: CancellationToken,
    ) -> Result<(), Trouble> {
        let Connected { remote, upstream_keys, .. } = self.connected().await?;
        let options = PlanOptions { upstream_keys, ..PlanOptions::default() };
        let planned = plan(&remote, closure, Vec::new(), &self.store_dir, &options).await;
        let mut planned = planned.map_err(|error| self.failed(&error))?;
        for (path, skip) in std::mem::take(&mut planned.skipped) {
            let outcome = match skip {
                Skip::Present => Outcome::AlreadyThere,
                Skip::Upstream(_) => Outcome::Upstream,
                Skip::Excluded => Outcome::Refused("it is excluded".to_owned()),
            };
            if told.send((path, outcome)).await.is_err() {
                return Err(Trouble::Stopped);
            }
        }
        if planned.paths.is_empty() {
            return Ok(());
        }
        // The events come from several tasks that may not wait; there is one of each path at most.
        let (tell, mut events) = mpsc::unbounded_channel();
        let on_event = move |event| {
            if matches!(event, Event::PathDone { .. } | Event::PathFailed { .. }) {
                // Nobody listens after the push is over.
                let _ = tell.send(event);
            }
        };
        let stop_push = stop.child_token();
        let (memory, source, on_event) = (self.memory.clone(), self.source.clone(), Arc::new(on_event));
        let pushing = push_within(memory, remote, source, planned, &self.options, &stop_push, on_event);
        let telling = async {
            let mut failures = Failures::default();
            while let Some(event) = events.recv().await {
                let Some(outcome) = failures.outcome(event) else { continue };
                if told.send(outcome).await.is_err() {
                    stop_push.cancel();
                }
            }
        };
        let (summary, ()) = tokio::join!(pushing, telling);
        match summary.stopped_by {
            None => Ok(()),
            Some(error) => Err(self.failed(&error)),
        }
    }
}

/// Which paths of a push failed, and whether for good: others are blocked by them.
#[derive(Default)]
struct Failures(HashMap<StorePath, bool>);

impl Failures {
    /// Returns what became of a path; `None` if nothing did, or the event is of another kind.
    fn outcome(&mut self, event: Event) -> Option<(StorePath, Outcome)> {
        match event {
            Event::PathDone { path, outcome, sent_bytes, .. } => {
                if outcome == push::Outcome::KeptFirst {
                    tracing::warn!(%path, "the cache has another NAR of this path and keeps it");
                }
                Some((path, Outcome::Pushed { sent_bytes }))
            }
            Event::PathFailed { path, failure } => {
                let outcome = match &failure {
                    PathFailure::Stopped => return None,
                    PathFailure::Vanished(_) => Outcome::Vanished,
                    PathFailure::Blocked(by) => {
                        Outcome::Blocked { by: by.clone(), for_good: self.0.get(by).copied().unwrap_or(false) }
                    }
                    failure if failure.may_pass() => Outcome::Failed(failure.to_string()),
                    failure => Outcome::Refused(failure.to_string()),
                };
                let for_good = match &outcome {
                    Outcome::Blocked { for_good, .. } => *for_good,
                    _ => !failure.may_pass(),
                };
                self.0.insert(path.clone(), for_good);
                Some((path, outcome))
            }
            _ => None,
        }
    }
}

fn trouble(error: &Error) -> Trouble {
    let message = chain(error);
    match error {
        Error::Cancelled => Trouble::Stopped,
        Error::Refused { code, .. } if code.starts_with("quota") => Trouble::Denied { message },
        Error::Refused { kind: Refusal::TooLarge | Refusal::Permanent, .. } => Trouble::Batch { message },
        Error::Refused { kind: Refusal::Access | Refusal::Unsupported, .. }
        | Error::Target(_)
        | Error::Setup { .. }
        | Error::Mismatch(_) => Trouble::Denied { message },
        // What makes no sense may be a proxy's page, which goes away.
        Error::Unreachable { .. }
        | Error::Nonsense { .. }
        | Error::Refused { kind: Refusal::Unable | Refusal::Session, .. } => {
            Trouble::Unreachable { message, retry_after: None }
        }
    }
}
