use std::sync::Arc;
use std::time::Duration;

use firn_nix::StorePath;
use tokio::time::{Instant, timeout_at};

use super::control::{Answer, Flushed, Request};
use super::desk::Desk;
use super::error::{Result, chain};
use super::metrics::metrics;
use super::round::blocking;
use super::service::{Hints, Settings};
use super::status::{DeadLetter, Status};
use super::store::Store;
use crate::queue::{Requeue, Source, State};

/// How many dead letters an answer names.
const NAMED: usize = 100;

/// The longest that anybody may wait for a flush.
const MAX_FLUSH: Duration = Duration::from_secs(7 * 24 * 3600);

/// What others speak with a working agent through.
pub struct Handle<S> {
    desk: Arc<Desk<S>>,
    hints: Arc<Hints>,
    settings: Arc<Settings>,
}

impl<S> Clone for Handle<S> {
    fn clone(&self) -> Self {
        Self { desk: self.desk.clone(), hints: self.hints.clone(), settings: self.settings.clone() }
    }
}

impl<S: Store> Handle<S> {
    pub(super) fn new(desk: Arc<Desk<S>>, hints: Arc<Hints>, settings: Arc<Settings>) -> Self {
        Self { desk, hints, settings }
    }

    /// Hints that Nix may have registered something.
    pub fn look(&self) {
        self.hints.scan.notify_one();
    }

    /// Says that something was mended: the token, the network. What is halted goes on at once.
    pub fn resume(&self) {
        // Nobody is woken later by what was mended before a halt: the permit would end the wrong one.
        self.hints.resume.notify_waiters();
        self.hints.wake();
    }

    /// Returns what the agent does.
    pub async fn status(&self) -> Result<Status> {
        let settings = self.settings.clone();
        blocking(&self.desk, move |desk| desk.status(&settings.cache)).await
    }

    /// Answers a request, whatever goes wrong.
    pub async fn answer(&self, request: Request) -> Answer {
        let answer = match request {
            Request::Status => self.status().await.map(|status| Answer::Status { status: Box::new(status) }),
            Request::Metrics => self.status().await.map(|status| Answer::Metrics { text: metrics(&status) }),
            Request::Take { paths } => self.take(paths).await,
            Request::Flush { paths, wait, timeout_millis } => {
                let patience = if wait { Duration::from_millis(timeout_millis).min(MAX_FLUSH) } else { Duration::ZERO };
                self.flush(paths, patience).await.map(Answer::Flushed)
            }
            Request::Requeue { paths } => self.requeue(paths).await,
            Request::Backfill { since } => self.backfill(since).await,
        };
        answer.unwrap_or_else(|error| Answer::Failed { message: chain(&error) })
    }

    async fn take(&self, paths: Vec<StorePath>) -> Result<Answer> {
        let taken = blocking(&self.desk, move |desk| desk.take_named(&paths, Source::Hook)).await?;
        self.look();
        self.hints.wake();
        Ok(Answer::Taken { new: taken.new })
    }

    async fn requeue(&self, paths: Vec<StorePath>) -> Result<Answer> {
        let revived = blocking(&self.desk, move |desk| {
            let which = if paths.is_empty() { Requeue::All } else { Requeue::Paths(&paths) };
            Ok(desk.queue().requeue(which, desk.now())?)
        });
        let paths = revived.await?;
        self.resume();
        Ok(Answer::Requeued { paths })
    }

    async fn backfill(&self, since: u64) -> Result<Answer> {
        let taken = blocking(&self.desk, move |desk| desk.backfill(since)).await?;
        self.hints.wake();
        Ok(Answer::Taken { new: taken.new })
    }

    /// Looks at Nix's database, takes in `paths`, and has everything tried at once. Waits at most `patience` until what was
    /// asked for no longer waits.
    async fn flush(&self, paths: Vec<StorePath>, patience: Duration) -> Result<Flushed> {
        let deadline = Instant::now() + patience;
        let mut rounds = self.hints.rounds.subscribe();
        let (start, asked) = (self.settings.start, paths.clone());
        let mark = blocking(&self.desk, move |desk| {
            desk.drain_spool()?;
            desk.scan(start)?;
            desk.take_named(&asked, Source::Asked)?;
            desk.queue().hurry(desk.now())?;
            Ok(desk.queue().read().last_sequence()?)
        });
        let mark = mark.await?;
        // Those that aren't valid are not in the queue now.
        let known = self.in_queue(paths.clone()).await?;
        let gone: Vec<_> = paths.iter().filter(|path| !known.contains(path)).cloned().collect();
        self.hints.hurry();
        self.resume();
        loop {
            rounds.mark_unchanged();
            let mut flushed = self.flushed(paths.clone(), mark).await?;
            if flushed.waiting == 0 || timeout_at(deadline, rounds.changed()).await.is_err() {
                flushed.gone.extend(gone);
                return Ok(flushed);
            }
        }
    }

    async fn in_queue(&self, paths: Vec<StorePath>) -> Result<Vec<StorePath>> {
        blocking(&self.desk, move |desk| {
            let queue = desk.queue();
            let mut known = Vec::new();
            for path in paths {
                if queue.read().entry(&path)?.is_some() {
                    known.push(path);
                }
            }
            Ok(known)
        })
        .await
    }

    /// Says what became of `paths`, or of all up to a place in the queue if there are none.
    async fn flushed(&self, paths: Vec<StorePath>, mark: i64) -> Result<Flushed> {
        blocking(&self.desk, move |desk| {
            let mut flushed = Flushed::default();
            let queue = desk.queue();
            let mut dead = Vec::new();
            if paths.is_empty() {
                flushed.waiting = queue.read().waiting_until(mark)?;
                dead = queue.read().dead(0, NAMED)?;
            }
            for path in &paths {
                match queue.read().entry(path)? {
                    Some(entry) if entry.state == State::Dead => dead.push(entry),
                    Some(_) => flushed.waiting += 1,
                    None => {}
                }
            }
            flushed.dead = dead
                .into_iter()
                .map(|entry| DeadLetter { path: entry.path, error: entry.error.unwrap_or_default() })
                .collect();
            drop(queue);
            flushed.trouble = desk.state().halt().map(|halt| halt.message.clone());
            Ok(flushed)
        })
        .await
    }

    /// Lets the queue grow to so many pages, as a disk does that is nearly full.
    #[cfg(test)]
    pub(super) fn limit_queue_pages(&self, pages: Option<i64>) {
        self.desk.queue().limit_pages(pages.unwrap_or(1 << 30));
    }
}
