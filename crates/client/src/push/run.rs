//! Runs a push: starts its parts, feeds them paths, adds up what became of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use firn_nix::StorePath;
use firn_nix_store::PathInfo;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::ask::{Asker, Asking, Question, answer_all};
use super::batch::{Batches, Window};
use super::budget::ByteBudget;
use super::commit::{Committing, Message, commit_all};
use super::event::{Counters, Event, OnEvent, Outcome, Summary, Totals, add};
use super::failure::PathFailure;
use super::frames::{Sending, send_all};
use super::graph::Graph;
use super::ledger::Ledger;
use super::path::{KEEP_BYTES, NotPushed, Pushed, Shared};
use super::pulse::{Present, Pulse, Stage};
use super::source::Source;
use crate::Error;
use crate::plan::Plan;
use crate::remote::{Remote, Wire};

/// How many shorter and how many longer paths are under way at a time. Most of them wait: for their turn to be read, for an
/// answer, for their references.
const MAX_SHORT: usize = 1024;
const MAX_LONG: usize = 64;

/// How long a question waits for others.
const LONGEST_QUESTION: Duration = Duration::from_millis(250);

/// How often progress is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// How a push is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushOptions {
    /// How many paths are read and cut at a time, and how many frames are compressed; at least 2.
    pub jobs: usize,
    /// How many bytes of NARs are in memory at a time. Buffers of fixed size come on top: some 40 MiB and 3 MiB a job.
    pub memory_bytes: u64,
    /// The zstd level of frames. The server keeps them as they are.
    pub level: i32,
}

impl Default for PushOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self { jobs: cores.clamp(2, 8), memory_bytes: 64 << 20, level: 3 }
    }
}

/// Pushes what was planned, and returns what became of it.
///
/// A path that fails does so alone; those that refer to it are blocked by it, all others go on. What fails for all (the server
/// is gone, the token is refused) stops the push, as does `stop`: then nothing is left half done, and the same push again sends
/// what is missing.
pub async fn push(
    remote: Arc<Remote>,
    source: Arc<dyn Source>,
    plan: Plan,
    options: &PushOptions,
    stop: &CancellationToken,
    on_event: OnEvent,
) -> Summary {
    let memory = Memory::new(options.memory_bytes);
    push_within(memory, remote, source, plan, options, stop, on_event).await
}

/// The bytes of NARs that one push or several may hold at a time.
#[derive(Debug, Clone)]
pub(crate) struct Memory(ByteBudget);

impl Memory {
    /// Returns room for so many bytes, at least 1 MiB.
    pub(crate) fn new(bytes: u64) -> Self {
        Self(ByteBudget::new(bytes))
    }
}

/// Pushes as [`push`] does, in a session of its own, within memory that other pushes may share.
pub(crate) async fn push_within(
    memory: Memory,
    remote: Arc<Remote>,
    source: Arc<dyn Source>,
    plan: Plan,
    options: &PushOptions,
    stop: &CancellationToken,
    on_event: OnEvent,
) -> Summary {
    let remote = Arc::new(remote.with_own_session());
    let mut run = Run::start(memory, remote.clone(), source, plan, options, stop, on_event);
    run.drive().await;
    let summary = run.end(stop).await;
    remote.end_session().await;
    summary
}

/// What became of one path.
type Settled = (usize, Result<Pushed, NotPushed>);

struct Run {
    shared: Arc<Shared>,
    paths: Vec<Arc<PathInfo>>,
    /// The parts that serve all paths; gone with this.
    services: JoinSet<()>,
    under_way: JoinSet<Settled>,
    /// What was not started: shorter paths and longer ones, each in order. Each path is counted from the beginning, so that
    /// batches know that more is to come.
    short: VecDeque<usize>,
    long: VecDeque<usize>,
    short_under_way: usize,
    long_under_way: usize,
    stop: CancellationToken,
    wire_before: Wire,
    tally: Tally,
}

#[derive(Default)]
struct Tally {
    done_bytes: u64,
    created: u64,
    merged: u64,
    kept_first: u64,
    failed: Vec<(usize, PathFailure)>,
    stopped_by: Option<Error>,
}

impl Run {
    fn start(
        memory: Memory,
        remote: Arc<Remote>,
        source: Arc<dyn Source>,
        plan: Plan,
        options: &PushOptions,
        stop: &CancellationToken,
        on_event: OnEvent,
    ) -> Self {
        let wire_before = remote.wire();
        let paths: Vec<_> = plan.paths.into_iter().map(Arc::new).collect();
        let logical_bytes = paths.iter().map(|info| info.nar_size).sum();
        on_event(Event::Started { paths: paths.len() as u64, logical_bytes });
        let jobs = options.jobs.max(2);
        let (pulse, stop) = (Pulse::default(), stop.child_token());
        let (graph, counters) = (Arc::new(Graph::new(&paths)), Arc::new(Counters::default()));
        let (recipes, recipe_questions) = Asker::new();
        let (chunks, chunk_questions) = Asker::new();
        let (runs, outgoing) = mpsc::channel(4);
        let (commits, messages) = mpsc::channel(256);
        let mut services = JoinSet::new();
        let asked = (remote.clone(), remote.clone());
        let limits = *remote.limits();
        answer(&mut services, recipe_questions, &pulse, Stage::Recipe, limits.recipes, move |ids| {
            let remote = asked.0.clone();
            Box::pin(async move { remote.known_recipes(&ids).await })
        });
        answer(&mut services, chunk_questions, &pulse, Stage::Chunks, limits.chunks, move |ids| {
            let remote = asked.1.clone();
            Box::pin(async move { remote.missing_chunks(&ids).await })
        });
        let (level, counted) = (options.level, counters.clone());
        let sending = Sending { remote: remote.clone(), pulse: pulse.clone(), counters: counted, level, jobs };
        services.spawn(send_all(outgoing, Arc::new(sending)));
        let committing = Committing {
            remote: remote.clone(),
            graph: graph.clone(),
            pulse: pulse.clone(),
            stop: stop.clone(),
            proofs: plan.proofs,
        };
        services.spawn(commit_all(messages, Arc::new(committing)));
        let (long, short) =
            (0..paths.len()).partition(|&place| paths.get(place).is_some_and(|info| info.nar_size > KEEP_BYTES));
        let shared = Shared {
            remote,
            source,
            budget: memory.0,
            cutters: Arc::new(Semaphore::new(jobs)),
            giants: Arc::new(Semaphore::new(jobs - 1)),
            pulse,
            ledger: Ledger::default(),
            recipes,
            chunks,
            runs,
            commits,
            graph,
            counters,
            on_event,
            stop: stop.clone(),
        };
        Self {
            shared: Arc::new(shared),
            paths,
            services,
            under_way: JoinSet::new(),
            short,
            long,
            short_under_way: 0,
            long_under_way: 0,
            stop,
            wire_before,
            tally: Tally::default(),
        }
    }

    /// Pushes all paths.
    async fn drive(&mut self) {
        let mut progress = tokio::time::interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            self.feed();
            tokio::select! {
                settled = self.under_way.join_next() => match settled {
                    Some(Ok((place, result))) => self.settle(place, result).await,
                    // A task that panicked has said so on standard error. Its path is not known here; it ends up as stopped.
                    Some(Err(_)) => self.stop.cancel(),
                    None => break,
                },
                _ = progress.tick() => {
                    let totals = self.totals();
                    (self.shared.on_event)(Event::Progress(totals));
                }
            }
        }
    }

    /// Starts as many paths as may be under way, references before referrers among each kind.
    fn feed(&mut self) {
        while self.short_under_way < MAX_SHORT
            && let Some(place) = self.short.pop_front()
        {
            self.short_under_way += 1;
            self.spawn(place);
        }
        while self.long_under_way < MAX_LONG
            && let Some(place) = self.long.pop_front()
        {
            self.long_under_way += 1;
            self.spawn(place);
        }
    }

    fn spawn(&mut self, place: usize) {
        let Some(info) = self.paths.get(place).cloned() else { return };
        let shared = self.shared.clone();
        let present: Present = shared.pulse.enter(Stage::Cut);
        self.under_way.spawn(async move { (place, shared.push(place, &info, present).await) });
    }

    async fn settle(&mut self, place: usize, result: Result<Pushed, NotPushed>) {
        let Some(info) = self.paths.get(place).cloned() else { return };
        if info.nar_size > KEEP_BYTES {
            self.long_under_way -= 1;
        } else {
            self.short_under_way -= 1;
        }
        let failure = match result {
            Ok(Pushed { outcome, sent_bytes }) => {
                *match outcome {
                    Outcome::Created => &mut self.tally.created,
                    Outcome::Merged => &mut self.tally.merged,
                    Outcome::KeptFirst => &mut self.tally.kept_first,
                } += 1;
                self.tally.done_bytes = self.tally.done_bytes.saturating_add(info.nar_size);
                add(&self.shared.counters.done_paths, 1);
                let (path, logical_bytes) = (info.path.clone(), info.nar_size);
                (self.shared.on_event)(Event::PathDone { path, outcome, logical_bytes, sent_bytes });
                None
            }
            Err(NotPushed::Failed(failure)) => Some(failure),
            Err(NotPushed::Fatal(error)) => {
                let failure = PathFailure::Server(error.to_string());
                self.tally.stopped_by.get_or_insert(error);
                self.stop.cancel();
                Some(failure)
            }
        };
        if let Some(failure) = failure {
            self.shared.graph.set_failed(place);
            add(&self.shared.counters.failed_paths, 1);
            (self.shared.on_event)(Event::PathFailed { path: info.path.clone(), failure: failure.clone() });
            self.tally.failed.push((place, failure));
        }
        // The committer may be gone with a panic; then nobody waits for it either.
        let _ = self.shared.commits.send(Message::Settled).await;
    }

    fn totals(&self) -> Totals {
        self.shared.counters.totals(since(self.wire_before, self.shared.remote.wire()))
    }

    async fn end(mut self, asked_to_stop: &CancellationToken) -> Summary {
        self.services.shutdown().await;
        let totals = self.totals();
        (self.shared.on_event)(Event::Finished(totals));
        let Tally { done_bytes, created, merged, kept_first, mut failed, mut stopped_by } = self.tally;
        if stopped_by.is_none() && (self.stop.is_cancelled() || asked_to_stop.is_cancelled()) {
            stopped_by = Some(Error::Cancelled);
        }
        failed.sort_by_key(|(place, _)| *place);
        let name = |place: usize| self.paths.get(place).map(|info| info.path.clone());
        let failed: Vec<(StorePath, PathFailure)> =
            failed.into_iter().filter_map(|(place, failure)| Some((name(place)?, failure))).collect();
        Summary {
            totals,
            done_bytes,
            created_paths: created,
            merged_paths: merged,
            kept_first_paths: kept_first,
            failed,
            stopped_by,
        }
    }
}

/// Starts what answers questions of one kind.
fn answer<I: Clone + Send + Sync + 'static>(
    services: &mut JoinSet<()>,
    questions: mpsc::Receiver<Question<I>>,
    pulse: &Pulse,
    stage: Stage,
    limit: usize,
    request: impl Fn(Vec<I>) -> Asking + Send + Sync + 'static,
) {
    let window = Window { stage, weight: limit, longest: LONGEST_QUESTION };
    let batches = Batches::new(questions, pulse.clone(), window);
    services.spawn(answer_all(batches, limit, Arc::new(request)));
}

fn since(before: Wire, now: Wire) -> Wire {
    Wire {
        requests: now.requests - before.requests,
        sent_body_bytes: now.sent_body_bytes - before.sent_body_bytes,
        received_body_bytes: now.received_body_bytes - before.received_body_bytes,
        heads_estimated_bytes: now.heads_estimated_bytes - before.heads_estimated_bytes,
    }
}
