//! What a command built, and how it gets to the cache.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use firn_client::agent::{Filter, NixStore, Outcome, Pusher as _, RemotePusher, Store as _, Trouble};
use firn_client::queue::Counter;
use firn_nix::StorePath;
use firn_nix_store::{Error, PathInfo};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::progress::paths;

/// How many rows of Nix's database are read at a time.
const PAGE: usize = 4096;

/// The first wait after a failed upload; it doubles up to a minute.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What Nix registered since a moment.
pub(super) struct Built {
    store: Arc<NixStore>,
    filter: Filter,
    /// Where its database ended; none if it can't be read, then only the hook tells.
    last_id: Option<i64>,
    /// Why it can't be read.
    pub(super) unreadable: Option<Failure>,
    seen: HashSet<StorePath>,
    wanted: Vec<StorePath>,
    /// How many were built and are not wanted; there are only filters for names here.
    unwanted: u64,
}

impl Built {
    /// Begins to count.
    pub(super) fn since_now(store: Arc<NixStore>, filter: Filter) -> Self {
        let (last_id, unreadable) = match store.page(i64::MAX - 1, 1) {
            Ok(page) => (Some(page.max_id), None),
            // The first build makes it.
            Err(Error::NoDatabase { .. }) => (Some(0), None),
            Err(error) => (None, Some(store_failure(error))),
        };
        Self { store, filter, last_id, unreadable, seen: HashSet::new(), wanted: Vec::new(), unwanted: 0 }
    }

    /// Takes notice of what was built since then, and of what the hook named.
    pub(super) fn look(&mut self, named: &[StorePath]) -> Result<(), Failure> {
        if !named.is_empty() {
            let found = self.store.infos(named).map_err(store_failure)?.paths;
            self.take(found);
        }
        while let Some(last_id) = self.last_id {
            let page = match self.store.page(last_id, PAGE) {
                // There was none before the command either.
                Err(Error::NoDatabase { .. }) if last_id == 0 => break,
                page => page.map_err(store_failure)?,
            };
            let Some(last_id) = page.rows.last_id() else { break };
            self.last_id = Some(last_id);
            self.take(page.rows.paths.into_iter().filter(was_built).collect());
        }
        Ok(())
    }

    fn take(&mut self, found: Vec<PathInfo>) {
        for info in found {
            if !self.seen.insert(info.path.clone()) {
                continue;
            }
            match self.filter.refuses(&info, self.store.store_dir()) {
                None => self.wanted.push(info.path),
                // Those were added, and not built.
                Some(Counter::SkippedDerivation | Counter::SkippedSource) => {}
                Some(_) => self.unwanted += 1,
            }
        }
    }

    /// Says why there is nothing to push.
    fn nothing(&self) -> String {
        match self.unwanted {
            0 => "nothing was built, nothing is pushed".to_owned(),
            unwanted => format!("{} built, none wanted: {unwanted} by their names", paths(unwanted)),
        }
    }
}

/// What came from a substituter has a signature. What a remote builder built is as unsigned as what was built here.
fn was_built(info: &PathInfo) -> bool {
    info.ultimate || info.signatures.is_empty()
}

/// Brings paths to the cache.
pub(super) struct Upload {
    /// The store that has them.
    pub(super) store: Arc<NixStore>,
    /// Who brings them.
    pub(super) pusher: RemotePusher,
    /// For how long to try again.
    pub(super) retry_for: Duration,
}

#[derive(Default)]
struct Tally {
    pushed: u64,
    there: u64,
    sent_bytes: u64,
    failed: BTreeMap<StorePath, String>,
}

impl Upload {
    /// Pushes paths with all that they refer to, and says what came of it.
    ///
    /// The first signal stops it in order, the second one at once.
    pub(super) async fn run(&self, built: &Built, signals: &mut Signals, context: &Context) -> Result<(), Failure> {
        let stop = CancellationToken::new();
        let stopped = async {
            signals.next().await;
            stop.cancel();
            signals.next().await;
        };
        tokio::select! {
            ended = self.push_all(built, &stop, context) => ended,
            () = stopped => Err(interrupted()),
        }
    }

    async fn push_all(&self, built: &Built, stop: &CancellationToken, context: &Context) -> Result<(), Failure> {
        let wanted = &built.wanted;
        if wanted.is_empty() {
            context.output.note(&built.nothing());
            context.output.event(&finished(&Tally::default(), built));
            return Ok(());
        }
        let _pins = self.pin(wanted);
        let closure = self.store.closure(wanted).map_err(store_failure)?.paths;
        let (deadline, mut wait) = (Instant::now() + self.retry_for, FIRST_WAIT);
        loop {
            let (trouble, tally) = self.push(&closure, stop).await;
            let message = match trouble {
                None => return report(&tally, built, context),
                Some(Trouble::Unreachable { message, .. }) => message,
                Some(Trouble::Denied { message } | Trouble::Batch { message }) => {
                    return Err(Failure::new(Kind::Server, message));
                }
                Some(Trouble::Stopped) => return Err(interrupted()),
            };
            if Instant::now() + wait > deadline {
                return Err(Failure::new(Kind::Server, message));
            }
            context.output.note(&format!("{message}; trying again in {} s", wait.as_secs()));
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => return Err(interrupted()),
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    async fn push(&self, closure: &[PathInfo], stop: &CancellationToken) -> (Option<Trouble>, Tally) {
        let (tell, mut told) = mpsc::channel(256);
        let mut tally = Tally::default();
        let count = async {
            while let Some((path, outcome)) = told.recv().await {
                tally.add(path, outcome);
            }
        };
        let (pushed, ()) = tokio::join!(self.pusher.push(closure.to_vec(), tell, stop.clone()), count);
        (pushed.err(), tally)
    }

    /// Keeps Nix's garbage collector from the paths for as long as the value lives, if there is a daemon.
    fn pin(&self, paths: &[StorePath]) -> Option<Box<dyn firn_client::agent::Pinner>> {
        let mut pins = self.store.pinner().ok()?;
        paths.iter().try_for_each(|path| pins.keep(path)).ok()?;
        Some(pins)
    }
}

impl Tally {
    fn add(&mut self, path: StorePath, outcome: Outcome) {
        let error = match outcome {
            Outcome::Pushed { sent_bytes } => {
                self.pushed += 1;
                self.sent_bytes = self.sent_bytes.saturating_add(sent_bytes);
                return;
            }
            Outcome::AlreadyThere | Outcome::Upstream => {
                self.there += 1;
                return;
            }
            Outcome::Vanished => "it is gone from the store".to_owned(),
            Outcome::Refused(error) | Outcome::Failed(error) => error,
            Outcome::Blocked { by, .. } => format!("it refers to {by}, which was not pushed"),
        };
        self.failed.insert(path, error);
    }
}

fn report(tally: &Tally, built: &Built, context: &Context) -> Result<(), Failure> {
    if !context.output.json {
        for (path, error) in &tally.failed {
            context.output.warn(&format!("{path} was not pushed: {error}"));
        }
    }
    let sent = bytesize::ByteSize(tally.sent_bytes);
    context.output.note(&format!(
        "{} built; with what they refer to {} pushed ({sent} sent), {} were there or at an upstream",
        paths(built.wanted.len() as u64),
        tally.pushed,
        tally.there
    ));
    context.output.event(&finished(tally, built));
    match tally.failed.len() {
        0 => Ok(()),
        failed => Err(Failure::new(Kind::Failed, format!("push {failed} paths, named above"))),
    }
}

/// Returns what programs are told at the end. docs/AGENT.md describes it.
fn finished(tally: &Tally, built: &Built) -> Value {
    let failed: Vec<_> =
        tally.failed.iter().map(|(path, message)| json!({ "path": path, "message": message })).collect();
    json!({
        "event": "finished",
        "built_paths": built.wanted.len(),
        "unwanted_paths": built.unwanted,
        "pushed_paths": tally.pushed,
        "present_paths": tally.there,
        "sent_bytes": tally.sent_bytes,
        "failed": failed,
    })
}

fn interrupted() -> Failure {
    Failure::new(Kind::Interrupted, "push: it was interrupted")
}

fn store_failure(error: Error) -> Failure {
    Failure::of(Kind::Store, error)
}
