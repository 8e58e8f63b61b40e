//! Questions of many paths in few requests.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::batch::Batches;
use crate::{Error, Refusal};

/// How many requests of one kind are under way at a time: while one is answered the next is sent.
const IN_FLIGHT: usize = 2;

/// Some ids, and where the answer goes.
pub(crate) struct Question<I> {
    ids: Vec<I>,
    answer: oneshot::Sender<Result<Vec<bool>, Error>>,
}

/// Where questions are put.
#[derive(Debug)]
pub(crate) struct Asker<I>(mpsc::Sender<Question<I>>);

impl<I> Clone for Asker<I> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<I> Asker<I> {
    /// Returns where questions are put, and where they come out.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Question<I>>) {
        let (send, receive) = mpsc::channel(256);
        (Self(send), receive)
    }

    /// Returns the answer for each of the ids.
    ///
    /// # Errors
    /// What the request failed with, [`Error::Cancelled`] when nobody answers any more.
    pub(crate) async fn ask(&self, ids: Vec<I>) -> Result<Vec<bool>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let (answer, answered) = oneshot::channel();
        self.0.send(Question { ids, answer }).await.map_err(|_| Error::Cancelled)?;
        answered.await.map_err(|_| Error::Cancelled)?
    }
}

/// A request under way.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Vec<bool>, Error>> + Send>>;

/// Answers questions with `request`, which takes at most `limit` ids, until nobody asks any more.
pub(crate) async fn answer_all<I: Clone + Send + Sync + 'static>(
    mut batches: Batches<Question<I>>,
    limit: usize,
    request: Arc<dyn Fn(Vec<I>) -> Asking + Send + Sync>,
) {
    // What is under way ends with this future.
    let mut under_way = JoinSet::new();
    loop {
        // First a free place, then the batch: what comes meanwhile is part of it.
        while under_way.len() >= IN_FLIGHT {
            under_way.join_next().await;
        }
        let Some(questions) = batches.next(|question| question.ids.len()).await else { break };
        let request = request.clone();
        under_way.spawn(async move { answer_batch(questions, limit, &*request).await });
    }
    while under_way.join_next().await.is_some() {}
}

async fn answer_batch<I: Clone>(
    questions: Vec<Question<I>>,
    limit: usize,
    request: &(dyn Fn(Vec<I>) -> Asking + Send + Sync),
) {
    let all: Vec<I> = questions.iter().flat_map(|question| question.ids.iter().cloned()).collect();
    let mut bits = Vec::with_capacity(all.len());
    let mut failed = None;
    let (mut rest, mut step) = (all.as_slice(), limit.max(1));
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(step.min(rest.len()));
        match request(part.to_vec()).await {
            Ok(answer) => {
                bits.extend(answer);
                rest = behind;
            }
            // Something on the way takes no request of that length.
            Err(Error::Refused { kind: Refusal::TooLarge, .. }) if part.len() > 1 => step = part.len() / 2,
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    let mut bits = bits.into_iter();
    for question in questions {
        let answer = match &failed {
            Some(error) => Err(error.clone()),
            None => Ok(bits.by_ref().take(question.ids.len()).collect()),
        };
        // Whoever asked may be gone.
        let _ = question.answer.send(answer);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use super::super::batch::Window;
    use super::super::pulse::{Pulse, Stage};
    use super::*;

    /// Answers that odd numbers are there, and fails at 13.
    fn run(limit: usize) -> (Asker<u32>, Arc<Mutex<Vec<usize>>>, Pulse) {
        let (asker, questions) = Asker::new();
        let pulse = Pulse::default();
        let window = Window { stage: Stage::Recipe, weight: limit, longest: Duration::from_secs(1) };
        let batches = Batches::new(questions, pulse.clone(), window);
        let sizes = Arc::new(Mutex::new(Vec::new()));
        let seen = sizes.clone();
        let request = move |ids: Vec<u32>| -> Asking {
            seen.lock().unwrap().push(ids.len());
            let fails = ids.contains(&13);
            Box::pin(async move {
                if fails { Err(Error::Cancelled) } else { Ok(ids.iter().map(|id| id % 2 == 1).collect()) }
            })
        };
        tokio::spawn(answer_all(batches, limit, Arc::new(request)));
        (asker, sizes, pulse)
    }

    #[tokio::test(start_paused = true)]
    async fn questions_share_requests_and_get_their_own_answers() {
        let (asker, sizes, pulse) = run(8);
        let busy = pulse.enter(Stage::Cut);
        let ask = |ids: Vec<u32>| {
            tokio::spawn({
                let asker = asker.clone();
                async move { asker.ask(ids).await }
            })
        };
        let answers = [ask(vec![1, 2]), ask(vec![4]), ask(vec![3, 3, 2])];
        let mut got = Vec::new();
        for answer in answers {
            got.push(answer.await.unwrap().unwrap());
        }
        drop(busy);
        assert_eq!(got, [vec![true, false], vec![false], vec![true, true, false]]);
        assert_eq!(*sizes.lock().unwrap(), [6]);
        assert_eq!(asker.ask(vec![]).await.unwrap(), [] as [bool; 0]);
        assert!(asker.ask(vec![13]).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_is_too_large_on_the_way_is_asked_in_parts() {
        let too_large = || Error::Refused {
            doing: "ask",
            server: "a proxy".to_owned(),
            status: 413,
            code: String::new(),
            message: String::new(),
            hint: None,
            kind: Refusal::TooLarge,
        };
        let (send, answer) = oneshot::channel();
        let question = Question { ids: (0..20u32).collect(), answer: send };
        let most = std::sync::atomic::AtomicUsize::new(5);
        let most = &most;
        let request = |ids: Vec<u32>| -> Asking {
            let takes = ids.len() <= most.load(std::sync::atomic::Ordering::Relaxed);
            Box::pin(
                async move { if takes { Ok(ids.iter().map(|id| id % 2 == 1).collect()) } else { Err(too_large()) } },
            )
        };
        answer_batch(vec![question], 16, &request).await;
        assert_eq!(answer.await.unwrap().unwrap(), (0..20).map(|id| id % 2 == 1).collect::<Vec<_>>());

        most.store(0, std::sync::atomic::Ordering::Relaxed);
        let (send, answer) = oneshot::channel();
        answer_batch(vec![Question { ids: vec![1, 2], answer: send }], 16, &request).await;
        assert!(answer.await.unwrap().is_err(), "it does not go on for ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_question_takes_several_requests() {
        let (asker, sizes, _) = run(8);
        let answer = asker.ask((20..40).collect()).await.unwrap();
        assert_eq!(answer, (20..40).map(|id| id % 2 == 1).collect::<Vec<_>>());
        assert_eq!(*sizes.lock().unwrap(), [8, 8, 4]);
    }
}
