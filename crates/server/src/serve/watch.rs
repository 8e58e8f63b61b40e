//! Time limits of a connection: headers that take too long, bodies that stand still on their way out, idle connections.
//!
//! Uploads that stand still are noticed where they are read. Nothing here wakes up per byte: reads, writes and the bodies of
//! h2 streams leave notes, and one timer per connection looks at them now and then, so a limit is kept to within a quarter.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The shortest and longest time between two looks.
const LOOK_EVERY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(10));

/// What HTTP/2 begins with; HTTP/1.1 has no method PRI.
const H2_PREFACE: &[u8] = b"PRI ";

/// The limits.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// From a request's first byte (or the connection's begin) to the end of its headers; HTTP/1.1 only.
    pub(super) header: Duration,
    /// While the client takes nothing of what is to be sent.
    pub(super) body: Duration,
    /// Between two requests.
    pub(super) idle: Duration,
}

/// A limit that a connection has overrun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overrun {
    /// A request's headers took too long.
    Header,
    /// The client takes nothing of what is sent.
    Body,
    /// There was no request for too long.
    Idle,
}

/// What a connection is doing. Moments are milliseconds since it began, plus one; zero means that it is not doing that.
#[derive(Debug)]
pub(super) struct Activity {
    limits: Limits,
    began: Instant,
    requests: AtomicUsize,
    idle_since: AtomicU64,
    header_since: AtomicU64,
    blocked_since: AtomicU64,
    is_h2: AtomicBool,
    /// Bodies of h2 streams, of which there are at most as many as the connection may have open.
    outflows: Mutex<Vec<Arc<Outflow>>>,
}

/// The body of an h2 stream.
#[derive(Debug)]
struct Outflow {
    /// Since when nobody has come for more; zero while more is being made.
    untaken_since: AtomicU64,
    /// Ends the stream.
    end: CancellationToken,
}

impl Activity {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            began: Instant::now(),
            requests: AtomicUsize::new(0),
            idle_since: AtomicU64::new(1),
            header_since: AtomicU64::new(1),
            blocked_since: AtomicU64::new(0),
            is_h2: AtomicBool::new(false),
            outflows: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
    }

    /// Notes that TLS stands, and what was agreed to be spoken.
    pub(super) fn handshaken(&self, is_h2: bool) {
        self.is_h2.store(is_h2, Ordering::Relaxed);
        self.header_since.store(if is_h2 { 0 } else { self.now() }, Ordering::Relaxed);
        self.idle_since.store(self.now(), Ordering::Relaxed);
    }

    /// Notes that a request's headers were read; it lasts until the guard is dropped.
    pub(super) fn request(self: &Arc<Self>) -> InProgress {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.header_since.store(0, Ordering::Relaxed);
        InProgress { activity: Arc::clone(self) }
    }

    /// Watches the body of an h2 stream, which `end` ends, until what is returned is dropped.
    pub(super) fn outgoing(self: &Arc<Self>, end: CancellationToken) -> Outgoing {
        let outflow = Arc::new(Outflow { untaken_since: AtomicU64::new(self.now()), end });
        self.outflows().push(Arc::clone(&outflow));
        Outgoing { activity: Arc::clone(self), outflow }
    }

    fn outflows(&self) -> MutexGuard<'_, Vec<Arc<Outflow>>> {
        // Every change is one operation on the list.
        self.outflows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_read(&self, bytes: &[u8]) {
        if bytes.is_empty() || self.requests.load(Ordering::Relaxed) > 0 || self.is_h2.load(Ordering::Relaxed) {
            return;
        }
        // A later request never begins so, and TLS never begins with a letter.
        if bytes.starts_with(H2_PREFACE) {
            self.is_h2.store(true, Ordering::Relaxed);
            self.header_since.store(0, Ordering::Relaxed);
        } else {
            let _ = self.header_since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn note_write<T>(&self, progress: &Poll<T>) {
        if progress.is_ready() {
            if self.blocked_since.load(Ordering::Relaxed) != 0 {
                self.blocked_since.store(0, Ordering::Relaxed);
            }
        } else {
            let _ = self.blocked_since.compare_exchange(0, self.now(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Returns which limit is overrun, if any; an h2 stream that overruns its own is ended, and the others go on.
    fn look(&self) -> Option<Overrun> {
        let now = self.now();
        let over = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && Duration::from_millis(now.saturating_sub(since)) >= limit
        };
        for outflow in self.outflows().iter().filter(|outflow| over(&outflow.untaken_since, self.limits.body)) {
            tracing::debug!("a client takes nothing of an answer: its stream is ended");
            outflow.end.cancel();
        }
        if over(&self.blocked_since, self.limits.body) {
            return Some(Overrun::Body);
        }
        if self.requests.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if over(&self.header_since, self.limits.header) {
            return Some(Overrun::Header);
        }
        over(&self.idle_since, self.limits.idle).then_some(Overrun::Idle)
    }

    /// Waits until a limit is overrun, and returns which.
    pub(super) async fn overrun(&self) -> Overrun {
        let shortest = self.limits.header.min(self.limits.body).min(self.limits.idle);
        let pause = (shortest / 4).clamp(LOOK_EVERY.0, LOOK_EVERY.1);
        loop {
            tokio::time::sleep(pause).await;
            if let Some(why) = self.look() {
                return why;
            }
        }
    }
}

/// A request in progress, its answer's body included.
#[derive(Debug)]
pub(super) struct InProgress {
    activity: Arc<Activity>,
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.activity.idle_since.store(self.activity.now(), Ordering::Relaxed);
        self.activity.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an h2 stream that is being sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    activity: Arc<Activity>,
    outflow: Arc<Outflow>,
}

impl Outgoing {
    /// Notes what came of asking the body for more: from a frame on it is for the client to take it.
    pub(super) fn note<T>(&self, frame: &Poll<T>) {
        let since = if frame.is_ready() { self.activity.now() } else { 0 };
        self.outflow.untaken_since.store(since, Ordering::Relaxed);
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.activity.outflows().retain(|outflow| !Arc::ptr_eq(outflow, &self.outflow));
    }
}

/// A stream that leaves notes.
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.activity.note_read(buf.filled().get(before..).unwrap_or_default());
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.note_write(&result);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.activity.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
