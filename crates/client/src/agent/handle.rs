use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use firn_nix::StorePath;
use tokio::time::{Instant, timeout_at};

use super::control::{Answer, Flushed, Request};
use super::desk::Desk;
use super::error::{Result, chain};
use super::intake::Start;
use super::metrics::metrics;
use super::round::blocking;
use super::service::{Hints, Settings};
use super::status::{DeadLetter, Status};
use super::store::Store;
use crate::queue::{DeadLetters, Entry, Source, State};

/// How many dead letters, and how many paths that are gone, an answer names where none were asked for.
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

    /// Fails with [`crate::queue::Error::Gone`] if the queue's files are not there any more: nothing that is taken in lasts then.
    pub async fn check_place(&self) -> Result<()> {
        blocking(&self.desk, |desk| Ok(desk.queue().check_place()?)).await
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
            Request::Forget { paths } => self.forget(paths).await,
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
            let which = if paths.is_empty() { DeadLetters::All } else { DeadLetters::Paths(&paths) };
            Ok(desk.queue().requeue(which, desk.now())?)
        });
        let paths = revived.await?;
        self.resume();
        Ok(Answer::Requeued { paths })
    }

    async fn forget(&self, paths: Vec<StorePath>) -> Result<Answer> {
        let forgotten = blocking(&self.desk, move |desk| {
            let which = if paths.is_empty() { DeadLetters::All } else { DeadLetters::Paths(&paths) };
            Ok(desk.queue().forget(which)?)
        });
        Ok(Answer::Forgotten { paths: forgotten.await? })
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
        let start = self.settings.start;
        let asked = blocking(&self.desk, move |desk| desk.take_asked(paths, start)).await?;
        let asked = Arc::new(asked);
        self.hints.hurry();
        self.resume();
        loop {
            rounds.mark_unchanged();
            let asked = asked.clone();
            let flushed = blocking(&self.desk, move |desk| desk.flushed(&asked)).await?;
            if flushed.waiting == 0 || timeout_at(deadline, rounds.changed()).await.is_err() {
                return Ok(flushed);
            }
        }
    }

    /// Lets the queue grow to so many pages, as a disk does that is nearly full.
    #[cfg(test)]
    pub(super) fn limit_queue_pages(&self, pages: Option<i64>) {
        self.desk.queue().limit_pages(pages.unwrap_or(1 << 30));
    }
}

/// What a flush is about.
struct Asked {
    /// All that waits.
    everything: bool,
    /// Only these, else.
    paths: BTreeSet<StorePath>,
    /// Those of them that were not valid when it began.
    absent: BTreeSet<StorePath>,
    /// The last place in the queue when it began.
    last_sequence: i64,
    /// The last loss when it began.
    last_lost: i64,
}

impl<S: Store> Desk<S> {
    fn take_asked(&self, paths: Vec<StorePath>, start: Start) -> Result<Asked> {
        // Before anything is taken in: some of it may be lost already.
        let last_lost = self.queue().read().last_lost()?;
        self.drain_spool()?;
        self.scan(start)?;
        self.take_named(&paths, Source::Asked)?;
        // Not what the queue lacks: it may have been pushed already. Without a readable database all were taken in unseen.
        let mut absent: BTreeSet<_> = paths.iter().cloned().collect();
        match self.store.infos(&paths) {
            Ok(found) => found.paths.iter().for_each(|info| _ = absent.remove(&info.path)),
            Err(_) => absent.clear(),
        }
        let (everything, paths) = (paths.is_empty(), BTreeSet::from_iter(paths));
        let mut queue = self.queue();
        queue.hurry(self.now())?;
        Ok(Asked { everything, absent, paths, last_sequence: queue.read().last_sequence()?, last_lost })
    }

    /// Says what became of what was asked for, or of all up to a place in the queue.
    fn flushed(&self, asked: &Asked) -> Result<Flushed> {
        let mut flushed = Flushed::default();
        let queue = self.queue();
        let mut lost = queue.read().lost_since(asked.last_lost)?;
        let mut dead = Vec::new();
        if asked.everything {
            flushed.waiting = queue.read().waiting_until(asked.last_sequence)?;
            dead = queue.read().dead(0, NAMED)?;
            lost.truncate(NAMED);
        } else {
            lost.retain(|path| asked.paths.contains(path) && !asked.absent.contains(path));
        }
        for path in &asked.paths {
            match queue.read().entry(path)? {
                Some(entry) if entry.state == State::Dead => dead.push(entry),
                Some(_) => flushed.waiting += 1,
                None => {}
            }
        }
        flushed.gone = asked.absent.iter().cloned().chain(lost).collect();
        let letter = |entry: Entry| DeadLetter { path: entry.path, error: entry.error.unwrap_or_default() };
        flushed.dead = dead.into_iter().map(letter).collect();
        drop(queue);
        flushed.trouble = self.state().halt().map(|halt| halt.message.clone());
        Ok(flushed)
    }
}
