//! Fetches paths, some at once, each after what it refers to.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use firn_nix::StorePath;
use firn_nix_store::PathInfo;

use super::peer::{BoxedPeer, Failed, SyncError};
use super::run::{Paced, Run};
use crate::intake::Intake;

/// Paths in a row that may fail because the connection is lost, before the source is taken for gone.
const MAX_LOSSES: u32 = 3;

/// What is to be fetched.
pub(super) struct Order {
    /// The paths, in any order.
    pub(super) infos: Vec<PathInfo>,
    /// Paths that an upstream signed.
    pub(super) elsewhere: Vec<StorePath>,
    /// How many NARs at once.
    pub(super) parallel: usize,
    /// Bytes a second at most.
    pub(super) rate: Option<u64>,
}

/// What became of a path; `Err` says why it did not come.
pub(super) type Outcome = (PathInfo, Result<(), Failed>);

/// Fetches paths through connections that `open` makes; the first worker uses `first`. What refers to a path that did not come does not
/// come either.
///
/// # Errors
/// When the source is lost, the store fails, or the sync is stopped; what came until then stays.
pub(super) fn fetch(
    intake: &Intake<'_>,
    run: &Run,
    order: Order,
    first: &mut BoxedPeer,
    open: &(dyn Fn() -> Result<BoxedPeer, SyncError> + Sync),
) -> Result<Vec<Outcome>, (Vec<Outcome>, SyncError)> {
    let workers = order.parallel.min(order.infos.len()).max(1);
    let board = Board::new(order.infos);
    thread::scope(|scope| {
        let worker = |lent| Worker {
            intake,
            run,
            board: &board,
            rate: order.rate,
            elsewhere: &order.elsewhere,
            open,
            lent,
            own: None,
            losses: 0,
        };
        for _ in 1..workers {
            let worker = worker(None);
            scope.spawn(move || worker.run());
        }
        worker(Some(first)).run();
    });
    let state = board.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.fatal {
        Some(error) => Err((state.done, error)),
        None => Ok(state.done),
    }
}

/// What is to be done, and what is done.
struct Board {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// What waits for nothing but a worker; the last one is next.
    ready: Vec<PathInfo>,
    /// What waits for references, with their number.
    waiting: HashMap<StorePath, (PathInfo, usize)>,
    /// Who waits for a path.
    referrers: HashMap<StorePath, Vec<StorePath>>,
    in_work: usize,
    done: Vec<Outcome>,
    fatal: Option<SyncError>,
}

impl Board {
    fn new(infos: Vec<PathInfo>) -> Self {
        let wanted: std::collections::HashSet<StorePath> = infos.iter().map(|info| info.path.clone()).collect();
        let (mut ready, mut waiting) = (Vec::new(), HashMap::new());
        let mut referrers: HashMap<StorePath, Vec<StorePath>> = HashMap::new();
        for info in infos {
            let needed: Vec<&StorePath> =
                info.references.iter().filter(|path| **path != info.path && wanted.contains(*path)).collect();
            for reference in &needed {
                referrers.entry((*reference).clone()).or_default().push(info.path.clone());
            }
            match needed.len() {
                0 => ready.push(info),
                count => _ = waiting.insert(info.path.clone(), (info, count)),
            }
        }
        let state = State { ready, waiting, referrers, in_work: 0, done: Vec::new(), fatal: None };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for something to do; `None` when nothing will be.
    fn next(&self) -> Option<PathInfo> {
        let mut state = self.lock();
        loop {
            if state.fatal.is_some() {
                return None;
            }
            if let Some(info) = state.ready.pop() {
                state.in_work += 1;
                return Some(info);
            }
            if state.in_work == 0 {
                // References never go in circles; if a source says so, nobody waits for it.
                for (_, (info, _)) in std::mem::take(&mut state.waiting) {
                    state.done.push((info, Err(Failed::Refused("what it refers to refers to it".to_owned()))));
                }
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes down what became of a path.
    fn finish(&self, info: PathInfo, outcome: Result<(), Failed>) {
        let mut state = self.lock();
        state.in_work -= 1;
        match outcome {
            Err(Failed::Fatal(error)) => _ = state.fatal.get_or_insert(error),
            outcome => state.settle(info, outcome),
        }
        self.changed.notify_all();
    }
}

impl State {
    fn settle(&mut self, info: PathInfo, outcome: Result<(), Failed>) {
        let mut todo = vec![(info, outcome)];
        while let Some((info, outcome)) = todo.pop() {
            for referrer in self.referrers.remove(&info.path).unwrap_or_default() {
                if outcome.is_err() {
                    if let Some((waiting, _)) = self.waiting.remove(&referrer) {
                        let why = format!("it refers to {}, which did not come", info.path);
                        // It is tried again if that is.
                        let failed = match &outcome {
                            Err(Failed::Refused(_)) => Failed::Refused(why),
                            _ => Failed::Broken(why),
                        };
                        todo.push((waiting, Err(failed)));
                    }
                } else if let Some((_, count)) = self.waiting.get_mut(&referrer) {
                    *count -= 1;
                    if *count == 0
                        && let Some((ready, _)) = self.waiting.remove(&referrer)
                    {
                        self.ready.push(ready);
                    }
                }
            }
            self.done.push((info, outcome));
        }
    }
}

struct Worker<'a> {
    intake: &'a Intake<'a>,
    run: &'a Run,
    board: &'a Board,
    rate: Option<u64>,
    elsewhere: &'a [StorePath],
    open: &'a (dyn Fn() -> Result<BoxedPeer, SyncError> + Sync),
    lent: Option<&'a mut BoxedPeer>,
    own: Option<BoxedPeer>,
    /// Paths in a row for which the connection was lost.
    losses: u32,
}

impl Worker<'_> {
    fn run(mut self) {
        while let Some(info) = self.board.next() {
            let outcome = self.fetch(&info);
            self.board.finish(info, outcome);
        }
        self.count_metadata();
    }

    /// Fetches a path; when the connection is lost, once more through another one.
    fn fetch(&mut self, info: &PathInfo) -> Result<(), Failed> {
        let mut lost = String::new();
        for _ in 0..2 {
            let outcome = self.one(info);
            if self.run.is_stopped() {
                return Err(Failed::Fatal(SyncError::Stopped));
            }
            match outcome {
                Err(Failed::Lost(why)) => {
                    lost = why;
                    self.connect_anew().map_err(Failed::Fatal)?;
                }
                outcome => {
                    self.losses = 0;
                    return outcome;
                }
            }
        }
        self.losses += 1;
        if self.losses >= MAX_LOSSES {
            let text = format!("fetch paths: the connection was lost for {MAX_LOSSES} of them in a row: {lost}");
            return Err(Failed::Fatal(SyncError::Source(text)));
        }
        Err(Failed::Broken(lost))
    }

    fn one(&mut self, info: &PathInfo) -> Result<(), Failed> {
        let (run, rate, intake, elsewhere) = (self.run, self.rate, self.intake, self.elsewhere);
        let peer = self.peer().map_err(Failed::Fatal)?;
        peer.keep(&info.path)?;
        intake.take(info, elsewhere, &mut |to| peer.nar(info, &mut Paced { run, rate, to }).map(|()| None))?;
        run.update(|progress| {
            progress.counts.paths += 1;
            progress.counts.logical_bytes = progress.counts.logical_bytes.saturating_add(info.nar_size);
            progress.waiting_paths = progress.waiting_paths.saturating_sub(1);
            progress.waiting_bytes = progress.waiting_bytes.saturating_sub(info.nar_size);
        });
        Ok(())
    }

    fn peer(&mut self) -> Result<&mut BoxedPeer, SyncError> {
        if let Some(lent) = &mut self.lent {
            return Ok(lent);
        }
        if self.own.is_none() {
            self.own = Some((self.open)()?);
        }
        self.own.as_mut().ok_or(SyncError::Stopped)
    }

    fn connect_anew(&mut self) -> Result<(), SyncError> {
        let fresh = (self.open)()?;
        let old = std::mem::replace(self.peer()?, fresh);
        let bytes = old.metadata_bytes();
        self.run.update(|progress| progress.counts.metadata_bytes += bytes);
        Ok(())
    }

    /// What came through a connection that was lent is counted by whoever lent it.
    fn count_metadata(&mut self) {
        let bytes = self.own.as_ref().map_or(0, |peer| peer.metadata_bytes());
        self.run.update(|progress| progress.counts.metadata_bytes += bytes);
    }
}
