//! Makes paths visible, references before referrers, many in one request.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_api::{Class, Code, CommitWriter, Full, PathAnswer, PathItem, PathStatus, Proof};
use firn_nix::StorePath;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::event::Outcome;
use super::failure::PathFailure;
use super::graph::Graph;
use super::pulse::Pulse;
use crate::Error;
use crate::error::Refusal;
use crate::remote::Remote;

/// How many commits are under way at a time.
const IN_FLIGHT: usize = 2;

/// How long a path that could be committed waits for others.
const LONGEST: Duration = Duration::from_secs(1);

/// NAR bytes with new recipes that wait before a commit goes at once. The server keeps what it was sent in memory for a while:
/// it restores each NAR to check it, and is spared the decompression if the commit comes soon.
const SOON_BYTES: u64 = 24 << 20;

/// A path whose chunks are all on the server, as far as known.
pub(crate) struct Ready {
    /// Its place in the push.
    pub(crate) place: usize,
    /// What is said of it.
    pub(crate) item: PathItem,
    /// Its recipe's encoding, if the server does not know it.
    pub(crate) recipe: Option<Bytes>,
    /// Where to tell what became of it.
    pub(crate) told: oneshot::Sender<Verdict>,
}

/// What became of a path that was to be committed.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is in the cache.
    Done(Outcome),
    /// Something that it leans on is not there: it has to begin anew.
    Again {
        /// Whether the server asked for time.
        later: bool,
        /// What is not there, for the log.
        why: String,
    },
    /// It will not be in the cache.
    Failed(PathFailure),
    /// The whole push can't go on.
    Fatal(Error),
}

/// What the committer is told.
pub(crate) enum Message {
    /// A path wants to be committed.
    Ready(Box<Ready>),
    /// Something became of some path: those that refer to it may have their turn, or no turn any more.
    Settled,
}

/// What committing needs.
pub(crate) struct Committing {
    /// The server.
    pub(crate) remote: Arc<Remote>,
    /// Who refers to whom.
    pub(crate) graph: Arc<Graph>,
    /// Who is where.
    pub(crate) pulse: Pulse,
    /// Nothing more is sent from then on; what is under way is waited for.
    pub(crate) stop: CancellationToken,
    /// What upstreams have, by path.
    pub(crate) proofs: HashMap<StorePath, Proof>,
}

/// A commit that was answered, or not.
struct Answered {
    batch: Vec<Ready>,
    proofs: Vec<StorePath>,
    answer: Result<Vec<PathAnswer>, Error>,
}

struct Committer {
    committing: Arc<Committing>,
    waiting: BTreeMap<usize, Ready>,
    under_way: JoinSet<Vec<Answered>>,
    /// Proofs that the server has heard.
    proven: HashSet<StorePath>,
    /// Paths whose references were not found once.
    unproven: HashSet<usize>,
    /// Since when a path waits that may be committed.
    since: Option<Instant>,
}

/// Commits what comes, until no more can come and all is answered.
pub(crate) async fn commit_all(mut messages: mpsc::Receiver<Message>, committing: Arc<Committing>) {
    let mut committer = Committer {
        committing,
        waiting: BTreeMap::new(),
        under_way: JoinSet::new(),
        proven: HashSet::new(),
        unproven: HashSet::new(),
        since: None,
    };
    let pulse = committer.committing.pulse.clone();
    let mut is_open = true;
    let stop = committer.committing.stop.clone();
    while is_open || !committer.under_way.is_empty() || !committer.waiting.is_empty() {
        let may_send = committer.since.is_some() && committer.under_way.len() < IN_FLIGHT;
        let deadline = committer.deadline();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !committer.waiting.is_empty() => committer.waiting.clear(),
            message = messages.recv(), if is_open => match message {
                Some(message) => committer.hear(message),
                None => is_open = false,
            },
            Some(answered) = committer.under_way.join_next() => committer.settle(answered.unwrap_or_default()),
            () = async { tokio::select! { () = pulse.silent() => {}, () = sleep_until(deadline) => {} } }, if may_send => committer.send(),
            else => break,
        }
    }
}

impl Committer {
    fn deadline(&self) -> Instant {
        let new = self.waiting.values().filter(|ready| ready.recipe.is_some());
        let new_bytes: u64 = new.map(|ready| ready.item.nar_size).sum();
        let is_full = self.waiting.len() >= self.committing.remote.limits().commit_paths || new_bytes >= SOON_BYTES;
        self.since.unwrap_or_else(Instant::now) + if is_full { Duration::ZERO } else { LONGEST }
    }

    fn hear(&mut self, message: Message) {
        if let Message::Ready(ready) = message {
            self.waiting.insert(ready.place, *ready);
        }
        self.look();
    }

    /// Tells those whose references failed, and notes if somebody may be committed.
    fn look(&mut self) {
        let graph = &self.committing.graph;
        let blocked: Vec<_> =
            self.waiting.keys().filter_map(|&place| Some((place, graph.failed_reference(place)?))).collect();
        for (place, reference) in blocked {
            let Some(ready) = self.waiting.remove(&place) else { continue };
            let _ = ready.told.send(Verdict::Failed(PathFailure::Blocked(reference)));
        }
        let somebody = self.waiting.keys().any(|&place| graph.can_follow(place, |_| false));
        if !somebody {
            self.since = None;
        } else if self.since.is_none() {
            self.since = Some(Instant::now());
        }
    }

    /// Sends a batch of those whose references are in the cache or in the batch.
    fn send(&mut self) {
        let mut writer = CommitWriter::new(*self.committing.remote.limits());
        let (mut places, mut proofs) = (HashSet::new(), Vec::new());
        let mut refused = Vec::new();
        for (&place, ready) in &self.waiting {
            if !self.committing.graph.can_follow(place, |reference| places.contains(&reference)) {
                continue;
            }
            let pushed = self.push_proofs(&mut writer, ready, &mut proofs);
            match pushed.and_then(|()| writer.push(&ready.item, ready.recipe.as_deref())) {
                Ok(()) => _ = places.insert(place),
                Err(Full::Later) if !writer.is_empty() => break,
                Err(Full::Later | Full::Never) => refused.push(place),
            }
        }
        for place in refused {
            if let Some(ready) = self.waiting.remove(&place) {
                let message = "it is too large for any commit".to_owned();
                let _ =
                    ready.told.send(Verdict::Failed(PathFailure::Refused { code: "too-large".to_owned(), message }));
            }
        }
        let (batch, rest) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(place, _)| places.contains(place));
        self.waiting = rest;
        self.since = None;
        self.look();
        if batch.is_empty() {
            return;
        }
        let (batch, committing) = (batch.into_values().collect(), self.committing.clone());
        self.under_way.spawn(async move { commit(&committing, batch, writer.finish(), proofs).await });
    }

    /// Adds the proofs for a path's references that the server has not heard.
    fn push_proofs(&self, writer: &mut CommitWriter, ready: &Ready, proofs: &mut Vec<StorePath>) -> Result<(), Full> {
        for reference in &ready.item.references {
            let Some(proof) = self.committing.proofs.get(reference) else { continue };
            if !self.proven.contains(reference) && !proofs.contains(reference) {
                writer.push_proof(proof)?;
                proofs.push(reference.clone());
            }
        }
        Ok(())
    }

    fn settle(&mut self, answered: Vec<Answered>) {
        for Answered { batch, proofs, answer } in answered {
            match answer {
                Ok(answers) => {
                    self.proven.extend(proofs);
                    for (ready, answer) in batch.into_iter().zip(answers) {
                        self.settle_one(ready, answer);
                    }
                }
                Err(error) => {
                    let is_of_this =
                        matches!(&error, Error::Refused { kind: Refusal::Permanent | Refusal::TooLarge, .. });
                    for ready in batch {
                        let verdict = if let Error::Refused { code, message, .. } = &error
                            && code == Code::PartOutOfOrder.as_str()
                        {
                            Verdict::Again { later: false, why: message.clone() }
                        } else if is_of_this {
                            Verdict::Failed(PathFailure::of_request(&error))
                        } else {
                            Verdict::Fatal(error.clone())
                        };
                        let _ = ready.told.send(verdict);
                    }
                }
            }
        }
        self.look();
    }

    fn settle_one(&mut self, ready: Ready, answer: PathAnswer) {
        let place = ready.place;
        let is_unproven = answer.code.as_deref() == Some(Code::ReferencesMissing.as_str());
        if is_unproven && self.unproven.insert(place) {
            // The server may have forgotten what was proven; or a reference came into the cache meanwhile.
            self.proven.clear();
            self.waiting.insert(place, ready);
            return;
        }
        let verdict = verdict(answer);
        if matches!(verdict, Verdict::Done(_)) {
            self.committing.graph.set_done(place);
        }
        let _ = ready.told.send(verdict);
    }
}

/// Sends a commit. If it is refused whole, its halves are sent one after the other: only what is bad in it shall fail.
async fn commit(committing: &Committing, batch: Vec<Ready>, body: Vec<u8>, proofs: Vec<StorePath>) -> Vec<Answered> {
    let mut waiting = vec![(batch, body, proofs)];
    let mut answered = Vec::new();
    while let Some((mut batch, body, proofs)) = waiting.pop() {
        let paths: Vec<_> = batch.iter().map(|ready| ready.item.path.clone()).collect();
        let answer = committing.remote.commit(&body, &paths).await;
        let is_of_some = matches!(&answer, Err(Error::Refused { kind: Refusal::Permanent | Refusal::TooLarge, .. }));
        if is_of_some && batch.len() > 1 {
            let behind = batch.split_off(batch.len() / 2);
            for half in [behind, batch] {
                let (body, proofs) = body_of(committing, &half);
                waiting.push((half, body, proofs));
            }
            continue;
        }
        let is_too_long = matches!(&answer, Err(Error::Refused { kind: Refusal::TooLarge, .. }));
        if is_too_long
            && let [ready] = batch.as_mut_slice()
            && let Some(recipe) = ready.recipe.take()
        {
            // Something on the way takes less than a commit with a recipe in it: the recipe goes before it, in parts.
            match committing.remote.upload_recipe(ready.item.recipe, recipe).await {
                Ok(()) => {
                    let (body, proofs) = body_of(committing, &batch);
                    waiting.push((batch, body, proofs));
                }
                Err(error) => answered.push(Answered { batch, proofs, answer: Err(error) }),
            }
            continue;
        }
        answered.push(Answered { batch, proofs, answer });
    }
    answered
}

/// Returns the body of a part of a commit that fitted into one, with the proofs that it needs.
fn body_of(committing: &Committing, batch: &[Ready]) -> (Vec<u8>, Vec<StorePath>) {
    let mut writer = CommitWriter::new(*committing.remote.limits());
    let mut proofs: Vec<StorePath> = Vec::new();
    for ready in batch {
        for reference in &ready.item.references {
            if let Some(proof) = committing.proofs.get(reference)
                && !proofs.contains(reference)
                && writer.push_proof(proof).is_ok()
            {
                proofs.push(reference.clone());
            }
        }
        // What does not fit is missing in the answer, and so fails.
        let _ = writer.push(&ready.item, ready.recipe.as_deref());
    }
    (writer.finish(), proofs)
}

fn verdict(answer: PathAnswer) -> Verdict {
    let code = answer.code.unwrap_or_default();
    let message = answer.message.unwrap_or_default();
    let refused = |code: &str, message: &str| {
        Verdict::Failed(PathFailure::Refused { code: code.to_owned(), message: message.to_owned() })
    };
    match answer.status {
        PathStatus::Created => Verdict::Done(Outcome::Created),
        PathStatus::Merged => Verdict::Done(Outcome::Merged),
        PathStatus::KeptFirst => Verdict::Done(Outcome::KeptFirst),
        PathStatus::MissingChunks => Verdict::Again { later: false, why: "chunks are missing".to_owned() },
        PathStatus::RecipeUnknown => Verdict::Again { later: false, why: "its recipe is not known".to_owned() },
        PathStatus::Rejected => refused(if code.is_empty() { "path-conflict" } else { &code }, &message),
        PathStatus::Error => match Code::from_text(&code).map(Code::class) {
            Some(Class::Retry) => Verdict::Again { later: true, why: format!("{code}: {message}") },
            Some(Class::AskAgain) if code != Code::ReferencesMissing.as_str() => {
                Verdict::Again { later: false, why: format!("{code}: {message}") }
            }
            Some(_) => refused(&code, &message),
            None => refused(if code.is_empty() { "unknown" } else { &code }, &message),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::samples::path;

    fn answer(status: PathStatus, code: &str) -> PathAnswer {
        PathAnswer { code: Some(code.to_owned()), ..PathAnswer::new(path("a"), status) }
    }

    #[test]
    fn only_what_can_change_is_tried_again() {
        for (status, code, expected) in [
            (PathStatus::Created, "", "done"),
            (PathStatus::Merged, "", "done"),
            (PathStatus::KeptFirst, "", "done"),
            (PathStatus::MissingChunks, "", "again"),
            (PathStatus::RecipeUnknown, "", "again"),
            (PathStatus::Error, "storage-full", "later"),
            (PathStatus::Error, "internal-error", "later"),
            (PathStatus::Error, "stored-bytes-damaged", "again"),
            (PathStatus::Error, "references-missing", "failed"),
            (PathStatus::Error, "nar-mismatch", "failed"),
            (PathStatus::Error, "teapot", "failed"),
            (PathStatus::Rejected, "path-conflict", "failed"),
        ] {
            let got = match verdict(answer(status, code)) {
                Verdict::Done(_) => "done",
                Verdict::Again { later: true, .. } => "later",
                Verdict::Again { later: false, .. } => "again",
                Verdict::Failed(_) => "failed",
                Verdict::Fatal(_) => "fatal",
            };
            assert_eq!(got, expected, "{status:?} {code}");
        }
    }
}
