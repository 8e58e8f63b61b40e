//! The agent's loops: one follows Nix's database, two empty the queue, a lane each.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::wait;
use super::desk::{Desk, Halt, HaltKind};
use super::error::{Error, Result, chain};
use super::filter::Filter;
use super::handle::Handle;
use super::intake::Start;
use super::lane::Lane;
use super::pins::PinLimits;
use super::pusher::{Pusher, Trouble};
use super::round::{self, MAX_BATCH, Round, blocking};
use super::store::Store;
use crate::queue::{Queue, Spool};
use crate::remote::{Clock, Jitter};

/// After a hint the database is looked at so much later: hints come in showers.
const SCAN_DELAY: Duration = Duration::from_millis(50);

/// The longest sleep before the queue is looked at again: the clock may have jumped.
const MAX_SLEEP: Duration = Duration::from_secs(60);

/// A refused token is tried again as if it had failed so often already: at the earliest after a second, mostly after minutes.
const DENIED_FAILURES: u32 = 7;

/// The most failures in a row that count where this machine is the reason: it is tried again after a minute or so.
const MAX_LOCAL_FAILURES: u32 = 5;

/// How an agent works.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The name of the cache, to be shown.
    pub cache: String,
    /// Its URL, by which the queue knows which cache it was filled for.
    pub url: String,
    /// Where the queue is.
    pub directory: PathBuf,
    /// What to take.
    pub filter: Filter,
    /// What to keep from Nix's garbage collector.
    pub pins: PinLimits,
    /// Where to begin the first time, and with another cache than before.
    pub start: Start,
    /// How often to look at Nix's database without a hint.
    pub scan_every: Duration,
    /// A push begins when so long nothing new came …
    pub gather_idle: Duration,
    /// … and so long after the first path at the latest.
    pub gather_at_most: Duration,
}

impl Settings {
    /// Returns the defaults for a cache and a directory: everything but derivations and sources, look every 15 s, gather
    /// for 0.5 s after the last path and 5 s at most. The name is the URL as well.
    #[must_use]
    pub fn new(cache: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        let cache = cache.into();
        Self {
            url: cache.clone(),
            cache,
            directory: directory.into(),
            filter: Filter::default(),
            pins: PinLimits::default(),
            start: Start::default(),
            scan_every: Duration::from_secs(15),
            gather_idle: Duration::from_millis(500),
            gather_at_most: Duration::from_secs(5),
        }
    }
}

/// What wakes the loops. A hint that is lost costs time and nothing else.
#[derive(Debug)]
pub(super) struct Hints {
    pub(super) scan: Notify,
    /// By lane.
    pub(super) push: [Notify; 2],
    /// Somebody waits: don't gather; by lane.
    pub(super) urgent: [AtomicBool; 2],
    /// Somebody mended something: don't wait for the end of a halt.
    pub(super) resume: Notify,
    /// Counts rounds, for those who wait for results.
    pub(super) rounds: watch::Sender<u64>,
}

impl Hints {
    fn push(&self, lane: Lane) -> &Notify {
        &self.push[lane as usize]
    }

    /// Says that there may be something to push.
    pub(super) fn wake(&self) {
        self.push.iter().for_each(Notify::notify_one);
    }

    /// Says that somebody waits.
    pub(super) fn hurry(&self) {
        self.urgent.iter().for_each(|urgent| urgent.store(true, Ordering::SeqCst));
    }

    /// Says if somebody waits, once.
    fn is_urgent(&self, lane: Lane) -> bool {
        self.urgent[lane as usize].swap(false, Ordering::SeqCst)
    }
}

/// An agent that owns its queue and doesn't work yet.
pub struct Agent<S> {
    desk: Arc<Desk<S>>,
    hints: Arc<Hints>,
    settings: Arc<Settings>,
}

impl<S: Store> Agent<S> {
    /// Opens the queue, which no other agent may own.
    pub fn open(settings: Settings, store: S, clock: Arc<dyn Clock>, jitter: Arc<dyn Jitter>) -> Result<Self> {
        let queue = Queue::open(&settings.directory)?;
        let spool = Spool::of(&settings.directory);
        let desk = Desk::new(store, queue, spool, &settings, clock, jitter);
        desk.recognise_cache(settings.start)?;
        let hints = Hints {
            scan: Notify::new(),
            push: [Notify::new(), Notify::new()],
            urgent: [AtomicBool::new(false), AtomicBool::new(false)],
            resume: Notify::new(),
            rounds: watch::Sender::new(0),
        };
        Ok(Self { desk: Arc::new(desk), hints: Arc::new(hints), settings: Arc::new(settings) })
    }

    /// Returns what others speak with the agent through.
    #[must_use]
    pub fn handle(&self) -> Handle<S> {
        Handle::new(self.desk.clone(), self.hints.clone(), self.settings.clone())
    }

    /// Works until it is told to stop; then what is being sent is broken off, and everything else is as if it had not
    /// been begun. The queue is free again when every [`Handle`] is gone too.
    pub async fn run(self, pusher: impl Pusher, stop: CancellationToken) {
        let empty = |lane| self.empty(lane, &pusher, &stop);
        tokio::join!(self.follow(&stop), empty(Lane::Usual), empty(Lane::Long));
    }

    async fn follow(&self, stop: &CancellationToken) {
        loop {
            let start = self.settings.start;
            let looked = blocking(&self.desk, move |desk| {
                // Pins first: what is found now is pinned before it is queued.
                desk.look_after_pins()?;
                let drained = desk.drain_spool();
                let taken = desk.scan(start)?;
                desk.look_after_dead()?;
                drained.map(|()| taken)
            });
            match looked.await {
                Ok(taken) => {
                    self.desk.state().intake_error = None;
                    if taken.new > 0 {
                        tracing::debug!(paths = taken.new, "found new paths");
                        self.hints.wake();
                    }
                }
                Err(error) => {
                    self.note_intake(&error);
                    self.hints.wake();
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(self.settings.scan_every) => {}
                () = self.hints.scan.notified() => sleep(SCAN_DELAY).await,
            }
        }
    }

    fn note_intake(&self, error: &Error) {
        let message = chain(error);
        let mut state = self.desk.state();
        if state.intake_error.as_ref() != Some(&message) {
            tracing::warn!(error = message, "can't look for new paths; nothing is lost, it is tried again");
        }
        state.intake_error = Some(message);
    }

    async fn empty(&self, lane: Lane, pusher: &impl Pusher, stop: &CancellationToken) {
        let (mut failures, mut limit) = (0u32, MAX_BATCH);
        while !stop.is_cancelled() {
            let ended = match self.wait_for_work(lane, stop).await {
                Ok(true) => {
                    if lane == Lane::Usual {
                        self.gather(stop).await;
                    }
                    round::run(&self.desk, pusher, lane, limit, stop).await
                }
                Ok(false) => continue,
                Err(error) => Err(error),
            };
            self.end_of_round(lane);
            let halt = match ended {
                Ok(Round::Idle) => None,
                Ok(Round::Done) => {
                    (failures, limit) = (0, limit.saturating_mul(2).min(MAX_BATCH));
                    None
                }
                Ok(Round::Trouble { trouble: Trouble::Stopped, .. }) => return,
                // Ever fewer at a time: in the end only those at fault wait.
                Ok(Round::Trouble { trouble: Trouble::Batch { message }, tried }) => {
                    tracing::warn!(error = message, paths = tried, "could not push these paths together");
                    limit = (tried / 2).max(1);
                    None
                }
                Ok(Round::Trouble { trouble: Trouble::Unreachable { message, retry_after }, .. }) => {
                    failures = failures.saturating_add(1);
                    Some((HaltKind::Unreachable, message, wait(failures, retry_after, &*self.desk.jitter)))
                }
                Ok(Round::Trouble { trouble: Trouble::Denied { message }, .. }) => {
                    failures = failures.saturating_add(1);
                    let after = wait(failures.saturating_add(DENIED_FAILURES), None, &*self.desk.jitter);
                    Some((HaltKind::Denied, message, after))
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let after = wait(failures.min(MAX_LOCAL_FAILURES), None, &*self.desk.jitter);
                    Some((HaltKind::Local, chain(&error), after))
                }
            };
            self.note_halt(lane, halt.as_ref());
            self.hints.rounds.send_modify(|rounds| *rounds = rounds.wrapping_add(1));
            // Somebody who waits has it tried once more at once.
            if let Some((_, _, after)) = halt
                && !self.hints.is_urgent(lane)
            {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sleep(after) => {}
                    () = self.hints.resume.notified() => {}
                }
            }
        }
    }

    /// Lets each lane see what the other one has left to it.
    fn end_of_round(&self, lane: Lane) {
        let mut state = self.desk.state();
        state.in_flight[lane as usize] = 0;
        match lane {
            Lane::Usual if state.aside.len() == 0 => {}
            Lane::Usual => self.hints.push(Lane::Long).notify_one(),
            Lane::Long => {
                // Whatever became of them, the usual lane sees it.
                state.aside.clear();
                self.hints.push(Lane::Usual).notify_one();
            }
        }
    }

    fn note_halt(&self, lane: Lane, halt: Option<&(HaltKind, String, Duration)>) {
        let now = self.desk.now();
        let mut state = self.desk.state();
        let before = state.halts[lane as usize].take();
        let Some((kind, message, after)) = halt else {
            if before.is_some() {
                tracing::info!("pushing again");
            }
            return;
        };
        let seconds = after.as_secs();
        match kind {
            HaltKind::Denied => tracing::error!(
                error = message,
                wait_seconds = seconds,
                "the server refuses every push: see to the token or the quota, then reload or flush"
            ),
            _ => tracing::warn!(error = message, wait_seconds = seconds, "nothing can be pushed at the moment"),
        }
        let since = before.filter(|before| before.kind == *kind).map_or(now, |before| before.since);
        let until = now.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        state.halts[lane as usize] = Some(Halt { kind: *kind, message: message.clone(), since, until });
    }

    /// Waits until something is due. `false` says to look again.
    async fn wait_for_work(&self, lane: Lane, stop: &CancellationToken) -> Result<bool> {
        let left = match lane {
            Lane::Usual => blocking(&self.desk, |desk| desk.until_due()).await?,
            Lane::Long if self.desk.state().aside.len() > 0 => Some(Duration::ZERO),
            Lane::Long => None,
        };
        let left = left.unwrap_or(MAX_SLEEP);
        if left.is_zero() {
            return Ok(true);
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(left.min(MAX_SLEEP)) => {}
            () = self.hints.push(lane).notified() => {}
        }
        Ok(false)
    }

    /// Lets more paths come, so that they are asked for together.
    async fn gather(&self, stop: &CancellationToken) {
        let at_most = Instant::now() + self.settings.gather_at_most;
        loop {
            if self.hints.is_urgent(Lane::Usual) {
                return;
            }
            let idle = Instant::now() + self.settings.gather_idle;
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(idle.min(at_most)) => return,
                () = self.hints.push(Lane::Usual).notified() => {}
            }
            let waiting = blocking(&self.desk, |desk| Ok(desk.queue().read().totals()?.waiting)).await;
            if waiting.is_ok_and(|waiting| waiting >= MAX_BATCH as u64) {
                return;
            }
        }
    }
}
