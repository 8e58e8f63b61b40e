//! From the queue to the cache: what is due is asked for in bulk, then what is missing is pushed with what it refers to.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use firn_nix::StorePath;
use firn_nix_store::PathInfo;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::backoff::wait;
use super::desk::Desk;
use super::error::{Error, Result};
use super::lane::{LONG_BYTES, Lane, behind};
use super::pusher::{Outcome, Pusher, Trouble};
use super::store::Store;
use crate::queue::{Counter, Entry, Settled, Source, Verdict};

/// How many paths are asked for and pushed at once at most. Each costs some 2 KB, and what it refers to as well.
pub(super) const MAX_BATCH: usize = 10_000;

/// How many outcomes are written down in one transaction.
const SETTLE_BATCH: usize = 256;

/// How many outcomes may wait to be written down before the push waits for the disk.
const OUTCOMES: usize = 1024;

/// What a round came to.
#[derive(Debug)]
pub(super) enum Round {
    /// Nothing is due.
    Idle,
    /// What was due was tried.
    Done,
    /// It was broken off.
    Trouble {
        /// Why.
        trouble: Trouble,
        /// How many paths it was about.
        tried: usize,
    },
}

/// What stage 1 leaves for the cache.
struct Due {
    /// Everything that was due and is still valid and wanted, by path.
    entries: HashMap<StorePath, Entry>,
    paths: Vec<StorePath>,
}

/// Runs a step that blocks where it may.
pub(super) async fn blocking<S: Store, T: Send + 'static>(
    desk: &Arc<Desk<S>>,
    step: impl FnOnce(&Desk<S>) -> Result<T> + Send + 'static,
) -> Result<T> {
    let desk = desk.clone();
    match tokio::task::spawn_blocking(move || step(&desk)).await {
        Ok(answer) => answer,
        Err(error) => Err(Error::Broken(error.to_string())),
    }
}

/// Tries at most `limit` of the paths that are due in a lane.
///
/// An error is the store's or the queue's; what was settled before it stays settled.
pub(super) async fn run<S: Store, P: Pusher>(
    desk: &Arc<Desk<S>>,
    pusher: &P,
    lane: Lane,
    limit: usize,
    stop: &CancellationToken,
) -> Result<Round> {
    let due = blocking(desk, move |desk| desk.take_due(lane, limit)).await?;
    let Some(due) = due else { return Ok(Round::Idle) };
    if due.paths.is_empty() {
        return Ok(Round::Done);
    }
    let missing = match ask(pusher, &due.paths, stop).await {
        Ok(missing) => missing,
        Err(trouble) => return desk_trouble(desk, due, trouble).await,
    };
    let Due { entries, paths } = due;
    let (missing, there): (Vec<_>, Vec<_>) =
        paths.into_iter().zip(missing.into_iter().chain(std::iter::repeat(true))).partition(|(_, missing)| *missing);
    let there = there.into_iter().map(|(path, _)| Settled { path, verdict: Verdict::AlreadyThere }).collect();
    let roots: Vec<_> = missing.into_iter().map(|(path, _)| path).collect();
    let (mut roots, mut closure) = blocking(desk, move |desk| {
        desk.settle(there)?;
        let closure = if roots.is_empty() { Vec::new() } else { desk.store.closure(&roots)?.paths };
        Ok((roots, closure))
    })
    .await?;
    if lane == Lane::Usual {
        match long_ones(pusher, &roots, &closure, stop).await {
            Ok(long) if long.is_empty() => {}
            Ok(long) => put_aside(desk, behind(long, &closure), &mut roots, &mut closure),
            Err(trouble) => return desk_trouble(desk, Due { entries, paths: roots }, trouble).await,
        }
    }
    if roots.is_empty() {
        return Ok(Round::Done);
    }
    push(desk, pusher, Arc::new(entries), roots, closure, stop).await
}

async fn ask(pusher: &impl Pusher, paths: &[StorePath], stop: &CancellationToken) -> Result<Vec<bool>, Trouble> {
    tokio::select! {
        asked = pusher.missing(paths) => asked,
        () = stop.cancelled() => Err(Trouble::Stopped),
    }
}

/// Returns the long paths of a closure that the cache lacks; of `roots` that is known.
async fn long_ones(
    pusher: &impl Pusher,
    roots: &[StorePath],
    closure: &[PathInfo],
    stop: &CancellationToken,
) -> Result<HashSet<StorePath>, Trouble> {
    let roots: HashSet<_> = roots.iter().collect();
    let long = closure.iter().filter(|info| info.nar_size >= LONG_BYTES).map(|info| info.path.clone());
    let (known, unknown): (Vec<_>, Vec<_>) = long.partition(|path| roots.contains(path));
    let mut long: HashSet<_> = known.into_iter().collect();
    if !unknown.is_empty() {
        let missing = ask(pusher, &unknown, stop).await?;
        long.extend(unknown.into_iter().zip(missing).filter(|(_, missing)| *missing).map(|(path, _)| path));
    }
    Ok(long)
}

/// Leaves to the long lane what has to wait for a long path.
fn put_aside<S: Store>(
    desk: &Arc<Desk<S>>,
    behind: HashSet<StorePath>,
    roots: &mut Vec<StorePath>,
    closure: &mut Vec<PathInfo>,
) {
    let (aside, near): (Vec<_>, Vec<_>) = roots.drain(..).partition(|path| behind.contains(path));
    let mut state = desk.state();
    if state.aside.put(aside.iter()) {
        let in_flight = &mut state.in_flight[Lane::Usual as usize];
        *in_flight = in_flight.saturating_sub(aside.len() as u64);
        *roots = near;
        closure.retain(|info| !behind.contains(&info.path));
    } else {
        roots.extend(aside.into_iter().chain(near));
    }
}

async fn push<S: Store, P: Pusher>(
    desk: &Arc<Desk<S>>,
    pusher: &P,
    entries: Arc<HashMap<StorePath, Entry>>,
    roots: Vec<StorePath>,
    closure: Vec<PathInfo>,
    stop: &CancellationToken,
) -> Result<Round> {
    let (tell, mut told) = mpsc::channel(OUTCOMES);
    let mut untold: HashSet<StorePath> = roots.into_iter().collect();
    let pushing = pusher.push(closure, tell, stop.clone());
    let (left_untold, known) = (&mut untold, entries.clone());
    // If the queue can't be written this ends, and the push with it: it sees that nobody listens.
    let writing = async move {
        let mut batch = Vec::new();
        while told.recv_many(&mut batch, SETTLE_BATCH).await > 0 {
            batch.retain(|(path, _): &(StorePath, Outcome)| left_untold.remove(path));
            let outcomes = std::mem::take(&mut batch);
            let known = known.clone();
            blocking(desk, move |desk| {
                let outcomes = desk.tell_lost_from_damaged(outcomes)?;
                let settled = outcomes.into_iter().map(|(path, outcome)| desk.verdict(&known, path, outcome));
                desk.settle(settled.collect())
            })
            .await?;
        }
        Ok::<_, Error>(())
    };
    let (pushed, written) = tokio::join!(pushing, writing);
    written?;
    let left = Due { paths: untold.into_iter().collect(), entries: Arc::unwrap_or_clone(entries) };
    match pushed {
        Ok(()) if left.paths.is_empty() => Ok(Round::Done),
        Ok(()) => {
            let message = "the push ended without a word about it".to_owned();
            desk_trouble(desk, left, Trouble::Batch { message }).await.map(|_| Round::Done)
        }
        Err(trouble) => desk_trouble(desk, left, trouble).await,
    }
}

/// Where nobody knows which path is at fault each of them waits, so that others get their turn; else none is to blame.
async fn desk_trouble<S: Store>(desk: &Arc<Desk<S>>, due: Due, trouble: Trouble) -> Result<Round> {
    let tried = due.entries.len();
    if let Trouble::Batch { message } = &trouble {
        let outcome = Outcome::Failed(message.clone());
        blocking(desk, move |desk| {
            let settled = due.paths.into_iter().map(|path| desk.verdict(&due.entries, path, outcome.clone()));
            desk.settle(settled.collect())
        })
        .await?;
    }
    Ok(Round::Trouble { trouble, tried })
}

impl<S: Store> Desk<S> {
    /// Returns what is due in a lane, in the order of turns.
    fn due_in(&self, lane: Lane, limit: usize) -> Result<Vec<Entry>> {
        let aside = self.state().aside.clone();
        let mut entries = self.queue().read().due(self.now(), limit.saturating_add(aside.len()))?;
        entries.retain(|entry| aside.has(&entry.path) == (lane == Lane::Long));
        entries.truncate(limit);
        Ok(entries)
    }

    /// Returns in how long something is due in the usual lane, `None` if nothing waits.
    pub(super) fn until_due(&self) -> Result<Option<Duration>> {
        let now = self.now();
        let next = if self.state().aside.len() == 0 {
            self.queue().read().next_due(now)?
        } else if self.due_in(Lane::Usual, 1)?.is_empty() {
            self.queue().read().next_after(now)?
        } else {
            Some(now)
        };
        Ok(next.map(|at| Duration::from_millis(at.saturating_sub(now))))
    }

    /// Returns what is due and worth asking for, after what is gone or unwanted was settled; `None` if nothing is due.
    fn take_due(&self, lane: Lane, limit: usize) -> Result<Option<Due>> {
        let entries = self.due_in(lane, limit.min(MAX_BATCH))?;
        if entries.is_empty() {
            return Ok(None);
        }
        let paths: Vec<_> = entries.iter().map(|entry| entry.path.clone()).collect();
        let mut entries: HashMap<_, _> = entries.into_iter().map(|entry| (entry.path.clone(), entry)).collect();
        let found = self.store.infos(&paths)?;
        let mut settled = Vec::new();
        for path in found.absent {
            settled.push(Settled { path, verdict: Verdict::Lost });
        }
        for row in found.unreadable {
            let error = format!("its row in Nix's database makes no sense: {}", row.why);
            if let Some(path) = paths.iter().find(|path| row.path.ends_with(&path.base_name())) {
                settled.push(Settled { path: path.clone(), verdict: Verdict::Refused { error } });
            }
        }
        // What came in unseen, or before the settings changed.
        for info in &found.paths {
            let asked = entries.get(&info.path).is_some_and(|entry| entry.source == Source::Asked);
            if let Some(counter) = self.refuses(info).filter(|_| !asked) {
                settled.push(Settled { path: info.path.clone(), verdict: Verdict::Skipped(counter) });
            }
        }
        for one in &settled {
            entries.remove(&one.path);
        }
        self.settle(settled)?;
        self.state().in_flight[lane as usize] = entries.len() as u64;
        let paths = paths.into_iter().filter(|path| entries.contains_key(path)).collect();
        Ok(Some(Due { entries, paths }))
    }

    /// Files that are gone under a path that Nix has as valid are damage: to try again makes no sense, and nothing was lost
    /// to the garbage collector.
    fn tell_lost_from_damaged(&self, mut outcomes: Vec<(StorePath, Outcome)>) -> Result<Vec<(StorePath, Outcome)>> {
        let vanished = outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Vanished);
        let vanished: Vec<_> = vanished.map(|(path, _)| path.clone()).collect();
        if vanished.is_empty() {
            return Ok(outcomes);
        }
        let valid: HashSet<_> = self.store.infos(&vanished)?.paths.into_iter().map(|info| info.path).collect();
        for (path, outcome) in &mut outcomes {
            if *outcome == Outcome::Vanished && valid.contains(path) {
                *outcome =
                    Outcome::Refused("files of it are missing in the store; see `nix-store --verify-path`".into());
            }
        }
        Ok(outcomes)
    }

    fn verdict(&self, entries: &HashMap<StorePath, Entry>, path: StorePath, outcome: Outcome) -> Settled {
        let again = |error: String| {
            let failures = entries.get(&path).map_or(1, |entry| entry.attempts.saturating_add(1));
            let after = u64::try_from(wait(failures, None, &*self.jitter).as_millis()).unwrap_or(u64::MAX);
            Verdict::Retry { error, not_before: self.now().saturating_add(after) }
        };
        let verdict = match outcome {
            Outcome::Pushed { sent_bytes } => Verdict::Pushed { sent_bytes },
            Outcome::AlreadyThere => Verdict::AlreadyThere,
            Outcome::Upstream => Verdict::Skipped(Counter::SkippedUpstream),
            Outcome::Vanished => Verdict::Lost,
            Outcome::Refused(error) => Verdict::Refused { error },
            Outcome::Failed(error) => again(error),
            Outcome::Blocked { by, for_good: true } => {
                Verdict::Refused { error: format!("it refers to {by}, which can't be pushed") }
            }
            Outcome::Blocked { by, for_good: false } => again(format!("it refers to {by}, which was not pushed")),
        };
        Settled { path, verdict }
    }

    /// Writes down what became of paths, and lets go of those that need no pin any more.
    fn settle(&self, settled: Vec<Settled>) -> Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        let now = self.now();
        self.queue().settle(now, &settled)?;
        let mut pins = self.pins();
        let mut pushed = false;
        for Settled { path, verdict } in &settled {
            match verdict {
                Verdict::Lost => tracing::warn!(%path, "gone before it could be pushed"),
                Verdict::Refused { error } => {
                    tracing::warn!(%path, error, "refused for good; see `watch-store status`");
                }
                Verdict::Retry { error, .. } => tracing::info!(%path, error, "not pushed; it is tried again"),
                Verdict::Pushed { .. } | Verdict::AlreadyThere | Verdict::Skipped(_) => {}
            }
            pushed |= matches!(verdict, Verdict::Pushed { .. });
            if !matches!(verdict, Verdict::Retry { .. }) {
                pins.release(path);
            }
        }
        drop(pins);
        if pushed {
            self.state().last_push_at = now;
        }
        Ok(())
    }
}
