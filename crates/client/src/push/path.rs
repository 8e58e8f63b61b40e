//! One path of a push, from its files to the cache.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_api::{Code, PathItem};
use firn_chunk::{ChunkId, ChunkRef, RecipeId};
use firn_nix::StoreHash;
use firn_nix_store::PathInfo;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::advance::Advance;
use super::ask::Asker;
use super::budget::{ByteBudget, Reserved};
use super::commit::{Message, Ready, Verdict};
use super::cut::{CutPath, Kept, Run, cut, gather, runs_of};
use super::event::{Counters, Event, OnEvent, Outcome, add};
use super::failure::PathFailure;
use super::frames::{Outgoing, run_bytes};
use super::graph::Graph;
use super::ledger::{Claim, Ledger, Sorted, settled};
use super::pulse::{Present, Pulse, Stage};
use super::source::Source;
use crate::remote::{Remote, Waiting};
use crate::{Error, Result};

/// A path whose NAR is not longer keeps its chunks in memory until the server was asked; of longer ones, those that are
/// missing are read again.
pub(crate) const KEEP_BYTES: u64 = 4 << 20;

/// What cutting a longer path takes beside its list of chunks.
const CUTTER_BYTES: u64 = 2 << 20;

/// A longer recipe does not go with the commit but before it, so that commits stay short whatever they hold: proxies often take
/// no more than 1 MiB. A commit that is too long nevertheless is made anew without its recipe.
const RECIPE_IN_COMMIT_BYTES: usize = 512 << 10;

/// How long a commit that is under way is waited for when the push is stopped.
const LAST_COMMIT: Duration = Duration::from_secs(10);

/// How often a path begins anew since something that it leaned on was gone.
const MAX_ROUNDS: u32 = 5;

/// What all paths of a push share.
pub(crate) struct Shared {
    pub(crate) remote: Arc<Remote>,
    pub(crate) source: Arc<dyn Source>,
    pub(crate) budget: ByteBudget,
    /// Places for threads that read and cut.
    pub(crate) cutters: Arc<Semaphore>,
    /// Places among them that longer paths may take: never all.
    pub(crate) giants: Arc<Semaphore>,
    pub(crate) pulse: Pulse,
    pub(crate) ledger: Ledger,
    pub(crate) recipes: Asker<RecipeId>,
    pub(crate) chunks: Asker<ChunkId>,
    pub(crate) runs: mpsc::Sender<Outgoing>,
    pub(crate) commits: mpsc::Sender<Message>,
    pub(crate) graph: Arc<Graph>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) on_event: OnEvent,
    pub(crate) stop: CancellationToken,
}

/// A path on its way.
struct Path {
    info: Arc<PathInfo>,
    advance: Arc<Advance>,
}

/// Why a path's round ended without the path in the cache.
enum Ended {
    /// It is this path's own matter.
    Failed(PathFailure),
    /// Nothing will go better with the others.
    Fatal(Error),
    /// Once more, if there were not too many rounds.
    Again { later: bool, why: String },
}

impl From<PathFailure> for Ended {
    fn from(failure: PathFailure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        match error {
            Error::Cancelled => Self::Failed(PathFailure::Stopped),
            error => Self::Fatal(error),
        }
    }
}

/// A path that is in the cache.
pub(crate) struct Pushed {
    pub(crate) outcome: Outcome,
    pub(crate) sent_bytes: u64,
}

/// Why it is not.
pub(crate) enum NotPushed {
    Failed(PathFailure),
    Fatal(Error),
}

/// What is left of a path when all its chunks are on the server.
struct Uploaded {
    recipe: RecipeId,
    /// Its encoding, if the server does not know it.
    encoded: Option<Bytes>,
    slots: Vec<StoreHash>,
}

impl Shared {
    /// Pushes one path.
    pub(crate) async fn push(&self, place: usize, info: &Arc<PathInfo>, present: Present) -> Result<Pushed, NotPushed> {
        let (mut sent_bytes, mut round) = (0, 1);
        let mut present = Some(present);
        let advance = Arc::new(Advance::new(self.counters.clone(), info.nar_size));
        let path = Path { info: info.clone(), advance };
        loop {
            let here = present.take().unwrap_or_else(|| self.pulse.enter(Stage::Cut));
            let ended = match self.prepare(place, &path, here, round > 1, &mut sent_bytes).await {
                Ok(uploaded) => self.commit(place, info, uploaded).await,
                Err(ended) => Err(ended),
            };
            match ended {
                Ok(outcome) => return Ok(Pushed { outcome, sent_bytes }),
                Err(Ended::Failed(failure)) => return Err(NotPushed::Failed(failure)),
                Err(Ended::Fatal(error)) => return Err(NotPushed::Fatal(error)),
                Err(Ended::Again { why, .. }) if round >= MAX_ROUNDS => {
                    return Err(NotPushed::Failed(PathFailure::Server(format!("after {round} rounds, {why}"))));
                }
                Err(Ended::Again { later, why }) => {
                    tracing::debug!(path = %info.path, round, why, "a path begins anew");
                    if later {
                        self.pause(round, why).await;
                    }
                    round += 1;
                }
            }
        }
    }

    /// Waits before another round.
    async fn pause(&self, round: u32, reason: String) {
        let wait = self.remote.pause(round);
        (self.on_event)(Event::Waiting(Waiting { doing: "commit a path", tries: round, wait, reason }));
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    /// Reads a path and sends what is missing. With `doubt`, nothing that was said before counts.
    async fn prepare(
        &self,
        place: usize,
        path: &Path,
        mut present: Present,
        doubt: bool,
        sent_bytes: &mut u64,
    ) -> Result<Uploaded, Ended> {
        let prepare = async {
            if let Some(reference) = self.graph.failed_reference(place) {
                return Err(PathFailure::Blocked(reference).into());
            }
            let (cut, hold) = self.cut(path, doubt).await?;
            if !doubt {
                present.move_to(Stage::Recipe);
                if self.recipes.ask(vec![cut.recipe]).await?.contains(&true) {
                    add(&self.counters.known_paths, 1);
                    path.advance.settle(path.info.nar_size);
                    return Ok(Uploaded { recipe: cut.recipe, encoded: None, slots: cut.slots });
                }
            }
            self.upload(path, cut, hold, present, doubt, sent_bytes).await
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(PathFailure::Stopped.into()),
            prepared = prepare => prepared,
        }
    }

    async fn cut(&self, path: &Path, again: bool) -> Result<(CutPath, Reserved), Ended> {
        let info = &path.info;
        let keep = info.nar_size <= KEEP_BYTES;
        let giant = if keep { None } else { Some(self.giants.acquire().await.expect("it is never closed")) };
        let cutter = self.cutters.acquire().await.expect("it is never closed");
        let bytes = if keep { info.nar_size } else { CUTTER_BYTES + info.nar_size / 512 };
        let hold = self.reserve(bytes).await;
        if !again {
            let (path, logical_bytes) = (info.path.clone(), info.nar_size);
            (self.on_event)(Event::PathStarted { path, logical_bytes });
        }
        let (source, wanted, advance) = (self.source.clone(), info.clone(), path.advance.clone());
        let stop = self.stop.child_token();
        let cut = spawn_blocking(move || cut(&*source, &wanted, keep, &advance, &stop)).await;
        drop((giant, cutter));
        let cut = cut.map_err(|_| panicked())??;
        if !again {
            add(&self.counters.logical_bytes, info.nar_size);
        }
        Ok((cut, hold))
    }

    /// Waits for memory; meanwhile no batch is held open.
    async fn reserve(&self, bytes: u64) -> Reserved {
        match self.budget.try_reserve(bytes) {
            Some(reserved) => reserved,
            None => {
                let _starving = self.pulse.starve();
                self.budget.reserve(bytes).await
            }
        }
    }

    /// Asks what is missing and sends it; returns when all chunks are on the server.
    async fn upload(
        &self,
        path: &Path,
        cut: CutPath,
        mut hold: Reserved,
        present: Present,
        mut doubt: bool,
        sent_bytes: &mut u64,
    ) -> Result<Uploaded, Ended> {
        let CutPath { recipe, encoded, slots, chunks, mut kept } = cut;
        let mut present = Some(present);
        loop {
            let mut present = present.take().unwrap_or_else(|| self.pulse.enter(Stage::Chunks));
            present.move_to(Stage::Chunks);
            let sessions = self.remote.session_count();
            let Sorted { mine, claim, others } = self.ledger.sort(chunks.iter().map(|chunk| chunk.id), doubt);
            let missing = self.chunks.ask(claim.ids().to_vec()).await?;
            present.move_to(Stage::Gather);
            let wanted = wanted(chunks.len(), &mine, &missing);
            let there = chunks.iter().zip(&wanted).filter(|(_, wanted)| !**wanted);
            path.advance.settle(there.map(|(chunk, _)| u64::from(chunk.len)).sum());
            let sent = match kept.take() {
                _ if !wanted.contains(&true) => Vec::new(),
                Some(kept) => self.send_kept(path, kept, &chunks, &wanted, std::mem::take(&mut hold)).await?,
                None => {
                    // Who has a place to read waits for memory: so who waits for a place may hold none.
                    drop(std::mem::take(&mut hold));
                    self.send_gathered(path, &chunks, wanted).await?
                }
            };
            // From here on others may use the memory: who waits holds none.
            drop((present, std::mem::take(&mut hold)));
            *sent_bytes += all_sent(sent).await?;
            self.fulfil(claim, sessions);
            let mut are_there = true;
            for other in others {
                are_there &= settled(other).await;
            }
            if are_there {
                break;
            }
            // Somebody who was to send some of the chunks did not: now they are ours.
            doubt = false;
        }
        let encoded = self.send_long_recipe(recipe, encoded).await?;
        Ok(Uploaded { recipe, encoded, slots })
    }

    /// Notes that a path's chunks are on the server, for what that is worth since `sessions`.
    fn fulfil(&self, claim: Claim, sessions: u64) {
        claim.fulfil();
        if self.remote.session_count() > sessions.max(1) {
            self.ledger.doubt_all();
        }
    }

    async fn send_kept(
        &self,
        path: &Path,
        kept: Kept,
        chunks: &[ChunkRef],
        wanted: &[bool],
        mut hold: Reserved,
    ) -> Result<Vec<oneshot::Receiver<Result<u64>>>, Ended> {
        let mut runs = runs_of(&kept, chunks, wanted, run_bytes(self.remote.limits()));
        let wanted_bytes: usize = runs.iter().map(Run::bytes).sum();
        if wanted_bytes < kept.data.len() / 2 {
            // A copy of the little that is missing is cheaper than to keep the rest.
            runs.iter_mut().for_each(Run::compact);
            hold = hold.split(wanted_bytes as u64);
        }
        drop(kept);
        // The memory is free when the last of the runs is a frame.
        let (sender, hold, mut sent) = (self.sender(path), Arc::new(hold), Vec::new());
        for run in runs {
            let (outgoing, done) = sender.outgoing(run, hold.clone());
            self.runs.send(outgoing).await.map_err(|_| Error::Cancelled)?;
            sent.push(done);
        }
        Ok(sent)
    }

    /// Reads the path again for the chunks that are wanted, as fast as there is memory for them.
    async fn send_gathered(
        &self,
        path: &Path,
        chunks: &[ChunkRef],
        wanted: Vec<bool>,
    ) -> Result<Vec<oneshot::Receiver<Result<u64>>>, Ended> {
        let giant = self.giants.acquire().await.expect("it is never closed");
        let cutter = self.cutters.acquire().await.expect("it is never closed");
        let run_bytes = run_bytes(self.remote.limits());
        let (source, info, stop) = (self.source.clone(), path.info.clone(), self.stop.child_token());
        let (chunks, sender) = (chunks.to_vec(), self.sender(path));
        let gathered = spawn_blocking(move || {
            let mut sent = Vec::new();
            let mut on_run = |run: Run| {
                sent.push(sender.send_blocking(run)?);
                Ok(())
            };
            gather(&*source, &info, &chunks, &wanted, run_bytes, &stop, &mut on_run).map(|()| sent)
        });
        let gathered = gathered.await;
        drop((giant, cutter));
        Ok(gathered.map_err(|_| panicked())??)
    }

    fn sender(&self, path: &Path) -> RunSender {
        RunSender {
            advance: path.advance.clone(),
            budget: self.budget.clone(),
            pulse: self.pulse.clone(),
            runs: self.runs.clone(),
            counters: self.counters.clone(),
            stop: self.stop.clone(),
        }
    }

    /// Sends a recipe that is too long for a commit, and returns what has to go with the commit.
    async fn send_long_recipe(&self, recipe: RecipeId, encoded: Bytes) -> Result<Option<Bytes>, Ended> {
        if encoded.len() <= self.remote.limits().recipe_bytes.min(RECIPE_IN_COMMIT_BYTES) {
            return Ok(Some(encoded));
        }
        match self.remote.upload_recipe(recipe, encoded).await {
            Ok(()) => Ok(None),
            Err(Error::Refused { code, message, .. }) if code == Code::PartOutOfOrder.as_str() => {
                Err(Ended::Again { later: false, why: message })
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn commit(&self, place: usize, info: &PathInfo, uploaded: Uploaded) -> Result<Outcome, Ended> {
        let Uploaded { recipe, encoded, slots } = uploaded;
        let (told, verdict) = oneshot::channel();
        let ready = Ready { place, item: item(info, recipe, slots), recipe: encoded, told };
        self.commits.send(Message::Ready(Box::new(ready))).await.map_err(|_| Error::Cancelled)?;
        let answered = async {
            let mut verdict = verdict;
            tokio::select! {
                verdict = &mut verdict => verdict.ok(),
                // A commit that is under way is worth a moment: then its paths are there, and are said to be.
                () = self.stop.cancelled() => timeout(LAST_COMMIT, verdict).await.ok().and_then(Result::ok),
            }
        };
        match answered.await.ok_or(Error::Cancelled)? {
            Verdict::Done(outcome) => Ok(outcome),
            Verdict::Again { later, why } => Err(Ended::Again { later, why }),
            Verdict::Failed(failure) => Err(Ended::Failed(failure)),
            Verdict::Fatal(error) => Err(Ended::Fatal(error)),
        }
    }
}

/// Hands runs on from a thread that may block.
struct RunSender {
    advance: Arc<Advance>,
    budget: ByteBudget,
    pulse: Pulse,
    runs: mpsc::Sender<Outgoing>,
    counters: Arc<Counters>,
    stop: CancellationToken,
}

impl RunSender {
    fn outgoing(&self, run: Run, hold: Arc<Reserved>) -> (Outgoing, oneshot::Receiver<Result<u64>>) {
        add(&self.counters.new_bytes, run.bytes() as u64);
        let (done, is_done) = oneshot::channel();
        let (present, advance) = (self.pulse.enter(Stage::Encode), self.advance.clone());
        (Outgoing { run, hold, present, advance, done }, is_done)
    }

    fn send_blocking(&self, run: Run) -> Result<oneshot::Receiver<Result<u64>>, PathFailure> {
        Handle::current().block_on(async {
            let bytes = run.bytes() as u64;
            let send = async {
                let hold = match self.budget.try_reserve(bytes) {
                    Some(hold) => hold,
                    None => {
                        let _starving = self.pulse.starve();
                        self.budget.reserve(bytes).await
                    }
                };
                let (outgoing, done) = self.outgoing(run, Arc::new(hold));
                self.runs.send(outgoing).await.map_err(|_| PathFailure::Stopped)?;
                Ok(done)
            };
            tokio::select! {
                () = self.stop.cancelled() => Err(PathFailure::Stopped),
                sent = send => sent,
            }
        })
    }
}

/// Spreads the answers for some of a path's chunks over all of them.
fn wanted(chunks: usize, mine: &[usize], missing: &[bool]) -> Vec<bool> {
    let mut wanted = vec![false; chunks];
    for (&place, &is_missing) in mine.iter().zip(missing) {
        if let Some(slot) = wanted.get_mut(place) {
            *slot = is_missing;
        }
    }
    wanted
}

/// Waits until the server has all runs, and returns the bytes that they took.
async fn all_sent(sent: Vec<oneshot::Receiver<Result<u64>>>) -> Result<u64, Ended> {
    let mut bytes = 0;
    for done in sent {
        bytes += match done.await {
            Ok(Ok(part)) => part,
            Ok(Err(error)) if is_of_the_path(&error) => return Err(PathFailure::of_request(&error).into()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Err(Error::Cancelled.into()),
        };
    }
    Ok(bytes)
}

/// Says if frames were refused for what is in them.
fn is_of_the_path(error: &Error) -> bool {
    use crate::error::Refusal;
    match error {
        Error::Refused { kind, .. } => matches!(kind, Refusal::Permanent | Refusal::TooLarge),
        _ => false,
    }
}

fn panicked() -> PathFailure {
    PathFailure::Hindered("reading it ended in a panic".to_owned())
}

fn item(info: &PathInfo, recipe: RecipeId, slots: Vec<StoreHash>) -> PathItem {
    PathItem {
        path: info.path.clone(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        references: info.references.clone(),
        deriver: info.deriver.clone(),
        ca: info.ca.as_deref().and_then(|ca| ca.parse().ok()),
        signatures: info.signatures.iter().filter_map(|signature| signature.parse().ok()).collect(),
        recipe,
        recipe_bytes: None,
        slots,
    }
}
