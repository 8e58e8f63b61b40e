//! Commits: several NARs are made and compared at once, paths are committed in order, and each run that is ready together waits
//! for the disk once.
//!
//! Everything is driven by the answer's body: when the client is gone, no further NAR is begun, and those under way are given up.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_api::{Limits, SIGN_OF_LIFE};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tracing::Span;

use super::super::body::{Body, Broken};
use super::super::codec::Codec;
use super::super::receive::Incoming;
use super::items::{Batch, Prepared, Unprepared};
use super::{Answered, Call, refuse, uncached};

/// How many NARs of one commit are made at once, if the server has turns to spare.
const PARALLEL: usize = 4;
/// How many paths are ready ahead of the one that is committed next: each may hold a recipe.
const AHEAD: usize = 64;
/// How often an empty line is sent: proxies give up after 30 s at the earliest.
const LIFE: Duration = Duration::from_secs(10);
/// How many runs of lines wait for a client that reads slowly.
const UNREAD: usize = 4;

pub(super) async fn commit<B>(call: &Call<'_>, body: &mut Incoming<B>, limits: Limits) -> Answered
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    let session = call.session()?;
    call.ask(move |app, _| {
        app.engine.check_room().map_err(refuse(app))?;
        app.engine.renew_session(session.1).map_err(refuse(app))
    })
    .await?;
    let held = call.body(body, limits.body_bytes, &[Codec::Identity, Codec::Zstd]).await?;
    let turn = call.upload_turn().await?;
    let batch = call.run(move |app, asker| Batch::read(app, asker, session, held, turn, &limits)).await?;
    let (sender, pieces) = mpsc::channel(UNREAD);
    let driver = Driver {
        batch: Arc::new(batch),
        sender,
        begun: 0,
        committed: 0,
        answered: 0,
        ready: BTreeMap::new(),
        preparing: JoinSet::new(),
        committing: None,
    };
    Ok(uncached(Body::driven(driver.run(), pieces, SIGN_OF_LIFE, LIFE), "application/x-ndjson"))
}

/// What a path has come to.
type Ready = Result<Prepared, Unprepared>;

struct Driver {
    batch: Arc<Batch>,
    sender: mpsc::Sender<Bytes>,
    /// How many paths were begun.
    begun: usize,
    /// How many were given to a commit.
    committed: usize,
    /// How many were answered.
    answered: usize,
    /// Paths that are done before earlier ones are.
    ready: BTreeMap<usize, Ready>,
    preparing: JoinSet<(usize, Ready)>,
    committing: Option<JoinHandle<Bytes>>,
}

impl Driver {
    async fn run(mut self) -> Result<(), Broken> {
        while self.answered < self.batch.len() {
            self.prepare();
            self.commit();
            tokio::select! {
                Some(done) = self.preparing.join_next() => {
                    let (index, ready) = done.map_err(|_panicked| Broken::Panicked)?;
                    self.ready.insert(index, ready);
                }
                lines = wait(&mut self.committing) => {
                    self.committing = None;
                    self.answered = self.committed;
                    // Fails only when the body is gone, and then this is, too.
                    let _ = self.sender.send(lines?).await;
                }
            }
        }
        Ok(())
    }

    /// Begins as many paths as may be under way; all but one at a time take a turn of their own.
    fn prepare(&mut self) {
        while self.begun < self.batch.len() && self.begun < self.answered + AHEAD && self.preparing.len() < PARALLEL {
            let turn = self.batch.try_turn();
            if turn.is_none() && !self.preparing.is_empty() {
                return;
            }
            let (batch, index, span) = (Arc::clone(&self.batch), self.begun, Span::current());
            self.preparing.spawn_blocking(move || {
                let _turn = turn;
                (index, span.in_scope(|| batch.prepare(index)))
            });
            self.begun += 1;
        }
    }

    /// Commits the run of paths that are ready, unless the one before is not done yet.
    fn commit(&mut self) {
        if self.committing.is_some() {
            return;
        }
        let first = self.committed;
        let mut run = Vec::new();
        while let Some(ready) = self.ready.remove(&self.committed) {
            run.push(ready);
            self.committed += 1;
        }
        if !run.is_empty() {
            let (batch, span) = (Arc::clone(&self.batch), Span::current());
            self.committing = Some(tokio::task::spawn_blocking(move || span.in_scope(|| batch.commit(first, run))));
        }
    }
}

/// The client is gone, or has all answers.
impl Drop for Driver {
    fn drop(&mut self) {
        self.batch.abandon();
    }
}

/// Waits for a commit, for ever if there is none.
async fn wait(committing: &mut Option<JoinHandle<Bytes>>) -> Result<Bytes, Broken> {
    match committing {
        Some(task) => task.await.map_err(|_panicked| Broken::Panicked),
        None => pending().await,
    }
}
