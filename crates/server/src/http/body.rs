//! Response bodies: nothing, bytes in memory, or pieces that are made off the async threads, some ahead of the client.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep};
use tracing::Span;

/// Makes a body some pieces at a time; may block.
pub trait Source: Send + 'static {
    /// Returns the next pieces, none of them empty, or no piece at the end. Not called again after an error.
    fn next(&mut self) -> Result<VecDeque<Bytes>, Broken>;
}

/// Why a body could not be sent to its end; the connection is broken off, so that nobody takes what came for the whole.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// What it is made from failed.
    #[error("make the next bytes of the body")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It ended before the length that was announced.
    #[error("send the body: it ended {0} bytes too early")]
    Short(u64),
    /// It went on after the length that was announced.
    #[error("send the body: it is longer than announced")]
    Long,
    /// The code that makes it panicked.
    #[error("make the next bytes of the body: it panicked")]
    Panicked,
}

/// A response's body.
///
/// It holds what its source makes at two times: what the connection is sending and what comes next. A client that does
/// not read holds no thread.
pub struct Body {
    kind: Kind,
    /// Bytes to come, if they are known.
    left: Option<u64>,
    /// Given back when the body is dropped: sent, broken off, or never wanted.
    held: Option<Box<dyn Send + Sync>>,
    /// What making it is a part of.
    span: Span,
    /// Why nothing more comes. The connection is told one turn later than it is known.
    broken: Option<Broken>,
}

enum Kind {
    Empty,
    Absent,
    Full(Bytes),
    Pull(Pull),
    Driven(Driven),
}

struct Driven {
    /// `None` once it came to its end.
    work: Option<Work>,
    /// Why it came to no good one; told once all that it sent is taken.
    failed: Option<Broken>,
    pieces: mpsc::Receiver<Bytes>,
    life: Option<Life>,
}

/// What is sent when nothing else was for some time.
struct Life {
    sign: &'static [u8],
    every: Duration,
    next: Pin<Box<Sleep>>,
}

/// What sends the pieces of a body and says at its end if they are the whole.
type Work = Pin<Box<dyn Future<Output = Result<(), Broken>> + Send>>;

struct Pull {
    ready: VecDeque<Bytes>,
    state: State,
}

type Made = (Box<dyn Source>, Result<VecDeque<Bytes>, Broken>);

enum State {
    Idle(Box<dyn Source>),
    Making(JoinHandle<Made>),
    Done,
}

impl Body {
    fn of(kind: Kind, left: Option<u64>) -> Self {
        Self { kind, left, held: None, span: Span::none(), broken: None }
    }

    /// Returns a body without bytes.
    pub fn empty() -> Self {
        Self::of(Kind::Empty, Some(0))
    }

    /// Returns the body of an answer to HEAD: no bytes, where GET would have `length` or as many as come.
    pub fn absent(length: Option<u64>) -> Self {
        Self::of(Kind::Absent, length)
    }

    /// Returns a body of bytes in memory.
    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        Self::of(Kind::Full(bytes), Some(length))
    }

    /// Returns a body of `length` bytes (or as many as come) that begins with `first` and goes on with `source`.
    pub fn pull(first: Option<Bytes>, source: Box<dyn Source>, length: Option<u64>) -> Self {
        Self::of(Kind::Pull(Pull { ready: first.into_iter().collect(), state: State::Idle(source) }), length)
    }

    /// Returns a body of as many bytes as `work` sends into `pieces`, and of `sign` whenever it sent nothing for the time
    /// `every`: nobody between here and the client shall take the connection for dead.
    ///
    /// `work` runs only while somebody waits for bytes, and is dropped with the body: when the client is gone, it takes no further
    /// step. Its error breaks the body off. To be called where tokio's clock is.
    pub fn driven(
        work: impl Future<Output = Result<(), Broken>> + Send + 'static,
        pieces: mpsc::Receiver<Bytes>,
        sign: &'static [u8],
        every: Duration,
    ) -> Self {
        let life = Life { sign, every, next: Box::pin(tokio::time::sleep(every)) };
        let driven = Driven { work: Some(Box::pin(work)), failed: None, pieces, life: Some(life) };
        Self::of(Kind::Driven(driven), None)
    }

    /// Returns a body of `length` bytes, or of as many as come, which `work` sends into `pieces`; as [`Body::driven`], without
    /// signs of life.
    pub fn followed(
        work: impl Future<Output = Result<(), Broken>> + Send + 'static,
        pieces: mpsc::Receiver<Bytes>,
        length: Option<u64>,
    ) -> Self {
        let driven = Driven { work: Some(Box::pin(work)), failed: None, pieces, life: None };
        Self::of(Kind::Driven(driven), length)
    }

    /// Keeps a turn as long as the body lives.
    #[must_use]
    pub fn holding(mut self, turn: impl Send + Sync + 'static) -> Self {
        self.held = Some(Box::new(turn));
        self
    }

    /// Says what making it is a part of; that ends with the body.
    #[must_use]
    pub fn within(mut self, span: Span) -> Self {
        self.span = span;
        self
    }

    /// Returns the body's length if it is known.
    pub fn length(&self) -> Option<u64> {
        self.left
    }

    /// Counts a piece against the announced length.
    fn count(&mut self, piece: &Bytes) -> Result<(), Broken> {
        if let Some(left) = &mut self.left {
            *left = left.checked_sub(piece.len() as u64).ok_or(Broken::Long)?;
        }
        Ok(())
    }

    fn check_end(&self) -> Result<(), Broken> {
        match self.left {
            _ if matches!(self.kind, Kind::Absent) => Ok(()),
            None | Some(0) => Ok(()),
            Some(left) => Err(Broken::Short(left)),
        }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        match &mut self.kind {
            Kind::Empty | Kind::Absent => Poll::Ready(Ok(None)),
            Kind::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                self.kind = Kind::Empty;
                Poll::Ready(Ok(Some(bytes).filter(|bytes| !bytes.is_empty())))
            }
            Kind::Pull(pull) => pull.poll(context, &self.span),
            Kind::Driven(driven) => driven.poll(context),
        }
    }
}

impl Driven {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        if let Some(work) = &mut self.work
            && let Poll::Ready(result) = work.as_mut().poll(context)
        {
            self.work = None;
            self.failed = result.err();
        }
        match self.pieces.poll_recv(context) {
            Poll::Ready(Some(piece)) => {
                self.life.iter_mut().for_each(Life::put_off);
                return Poll::Ready(Ok(Some(piece)));
            }
            // The end only if the work came to its own.
            Poll::Ready(None) if self.work.is_none() => return Poll::Ready(self.failed.take().map_or(Ok(None), Err)),
            Poll::Pending if self.work.is_none() => return Poll::Ready(Err(Broken::Panicked)),
            Poll::Ready(None) | Poll::Pending => {}
        }
        let Some(life) = &mut self.life else { return Poll::Pending };
        ready!(life.next.as_mut().poll(context));
        life.put_off();
        Poll::Ready(Ok(Some(Bytes::from_static(life.sign))))
    }
}

impl Life {
    fn put_off(&mut self) {
        self.next.as_mut().reset(Instant::now() + self.every);
    }
}

impl Pull {
    fn poll(&mut self, context: &mut Context<'_>, span: &Span) -> Poll<Result<Option<Bytes>, Broken>> {
        self.make_next(span);
        if let Some(piece) = self.ready.pop_front() {
            return Poll::Ready(Ok(Some(piece)));
        }
        let State::Making(task) = &mut self.state else { return Poll::Ready(Ok(None)) };
        let made = ready!(Pin::new(task).poll(context));
        self.state = State::Done;
        let Ok((source, pieces)) = made else { return Poll::Ready(Err(Broken::Panicked)) };
        self.ready = pieces?;
        let Some(piece) = self.ready.pop_front() else { return Poll::Ready(Ok(None)) };
        self.state = State::Idle(source);
        self.make_next(span);
        Poll::Ready(Ok(Some(piece)))
    }

    /// Starts making the next pieces unless that is under way or there is none.
    fn make_next(&mut self, span: &Span) {
        self.state = match std::mem::replace(&mut self.state, State::Done) {
            State::Idle(mut source) => {
                let span = span.clone();
                State::Making(tokio::task::spawn_blocking(move || {
                    let pieces = span.in_scope(|| source.next());
                    (source, pieces)
                }))
            }
            other => other,
        };
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let body = &mut *self;
        if let Some(error) = body.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let piece = ready!(body.poll_piece(context)).and_then(|piece| {
            match &piece {
                Some(piece) => body.count(piece)?,
                None => body.check_end()?,
            }
            Ok(piece)
        });
        match piece {
            Ok(piece) => Poll::Ready(piece.map(|piece| Ok(Frame::data(piece)))),
            Err(error) => {
                body.kind = Kind::Empty;
                tracing::warn!(error = &error as &dyn std::error::Error, "a body was broken off");
                // A connection that is told of an error drops what it has not sent yet, even the answer's head. One
                // that has to wait sends it first.
                body.broken = Some(error);
                context.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == Some(0) || matches!(self.kind, Kind::Absent)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::new, SizeHint::with_exact)
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("left", &self.left).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use http_body_util::BodyExt as _;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Semaphore;

    use super::*;

    /// Gives what it is told to, and counts.
    struct Script {
        pieces: Vec<Result<VecDeque<Bytes>, Broken>>,
        made: Arc<AtomicUsize>,
    }

    impl Source for Script {
        fn next(&mut self) -> Result<VecDeque<Bytes>, Broken> {
            self.made.fetch_add(1, Ordering::SeqCst);
            if self.pieces.is_empty() { Ok(VecDeque::new()) } else { self.pieces.remove(0) }
        }
    }

    fn script(pieces: Vec<Result<VecDeque<Bytes>, Broken>>) -> (Box<dyn Source>, Arc<AtomicUsize>) {
        let made = Arc::<AtomicUsize>::default();
        (Box::new(Script { pieces, made: Arc::clone(&made) }), made)
    }

    const LONG: Duration = Duration::from_secs(3600);

    fn piece(text: &'static str) -> Result<VecDeque<Bytes>, Broken> {
        Ok([Bytes::from_static(text.as_bytes())].into())
    }

    #[tokio::test]
    async fn breaks_off_when_its_source_fails() {
        let failure = Broken::Source("disk".into());
        let (source, _) = script(vec![piece("ab"), Err(failure)]);
        let mut body = Body::pull(None, source, Some(4));
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(matches!(body.frame().await, Some(Err(Broken::Source(_)))));
    }

    #[tokio::test]
    async fn what_was_made_before_it_broke_reaches_the_client() {
        let work = |sender: mpsc::Sender<Bytes>| async move {
            sender.send(Bytes::from_static(b"ab")).await.unwrap();
            Err(Broken::Panicked)
        };
        let (sender, pieces) = mpsc::channel(1);
        let never_begun = Body::followed(std::future::ready(Err(Broken::Panicked)), mpsc::channel(1).1, Some(4));
        let begun = Body::followed(work(sender), pieces, Some(4));
        let at_its_end = Body::pull(Some(Bytes::from_static(b"ab")), script(Vec::new()).0, Some(4));
        for (body, sent) in [(never_begun, ""), (begun, "ab"), (at_its_end, "ab")] {
            let (mut client, server) = tokio::io::duplex(4096);
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let body = Mutex::new(Some(body));
            let answer = hyper::service::service_fn(move |_: http::Request<hyper::body::Incoming>| {
                let body = body.lock().unwrap().take().expect("one request");
                std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(body)))
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), answer);
            assert!(connection.await.is_err());
            let mut got = String::new();
            client.read_to_string(&mut got).await.unwrap();
            assert!(got.starts_with("HTTP/1.1 200 OK\r\n") && got.ends_with(&format!("\r\n\r\n{sent}")), "{got:?}");
        }
    }

    #[tokio::test]
    async fn never_passes_a_wrong_length_for_the_whole() {
        let (source, _) = script(vec![piece("ab")]);
        assert!(matches!(Body::pull(None, source, Some(3)).collect().await, Err(Broken::Short(1))));
        let (source, _) = script(vec![piece("ab"), piece("cd")]);
        assert!(matches!(Body::pull(None, source, Some(3)).collect().await, Err(Broken::Long)));
    }

    #[tokio::test]
    async fn survives_a_panic_of_its_source() {
        struct Panics;
        impl Source for Panics {
            fn next(&mut self) -> Result<VecDeque<Bytes>, Broken> {
                panic!("on purpose");
            }
        }
        assert!(matches!(Body::pull(None, Box::new(Panics), None).collect().await, Err(Broken::Panicked)));
    }

    #[tokio::test]
    async fn sends_the_first_piece_and_the_rest() {
        for length in [None, Some(6)] {
            let both = ["cd", "e"].map(|text| Bytes::from_static(text.as_bytes())).into();
            let (source, _) = script(vec![Ok(both), piece("f")]);
            let body = Body::pull(Some(Bytes::from_static(b"ab")), source, length);
            assert_eq!(http_body::Body::size_hint(&body).exact(), length);
            assert_eq!(body.collect().await.unwrap().to_bytes(), "abcdef");
        }
        assert_eq!(Body::full("abc").collect().await.unwrap().to_bytes(), "abc");
        assert!(Body::empty().frame().await.is_none());
        assert!(Body::full("").frame().await.is_none());
    }

    #[tokio::test]
    async fn makes_one_piece_ahead_and_no_more() {
        let (source, made) = script(vec![piece("a"), piece("b"), piece("c"), piece("d")]);
        let mut body = Body::pull(None, source, Some(4));
        assert_eq!(made.load(Ordering::SeqCst), 0);
        body.frame().await.unwrap().unwrap();
        // The client takes nothing more: however long we wait, no third piece is begun.
        let Kind::Pull(Pull { state: State::Making(task), .. }) = &body.kind else { panic!("nothing is made ahead") };
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert_eq!(made.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn is_broken_off_when_its_work_fails() {
        let (sender, pieces) = mpsc::channel(1);
        let work = async move {
            sender.send(Bytes::from_static(b"ab")).await.unwrap();
            sender.send(Bytes::from_static(b"cd")).await.unwrap();
            Err(Broken::Panicked)
        };
        let mut body = Body::driven(work, pieces, b"\n", LONG);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert!(matches!(body.collect().await, Err(Broken::Panicked)));
    }

    #[tokio::test(start_paused = true)]
    async fn gives_signs_of_life_while_its_work_is_silent() {
        let (sender, pieces) = mpsc::channel(1);
        let work = async move {
            tokio::time::sleep(Duration::from_secs(35)).await;
            let _ = sender.send(Bytes::from_static(b"ab")).await;
            tokio::time::sleep(Duration::from_secs(15)).await;
            let _ = sender.send(Bytes::from_static(b"cd")).await;
            Ok(())
        };
        let body = Body::driven(work, pieces, b"\n", Duration::from_secs(10));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "\n\n\nab\ncd");
    }

    #[tokio::test]
    async fn sends_what_its_work_sends() {
        let (sender, pieces) = mpsc::channel(2);
        let dropped = Arc::new(());
        let held = Arc::clone(&dropped);
        let work = async move {
            let _held = held;
            for piece in ["ab", "cd", "ef", "gh", "ij"] {
                tokio::task::yield_now().await;
                let _ = sender.send(Bytes::from(piece)).await;
            }
            Ok(())
        };
        let mut body = Body::driven(work, pieces, b"\n", LONG);
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        assert_eq!(Arc::strong_count(&dropped), 2);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "cdefghij");
        assert_eq!(Arc::strong_count(&dropped), 1);
        let (sender, pieces) = mpsc::channel::<Bytes>(1);
        let held = Arc::clone(&dropped);
        drop(Body::driven(
            async move {
                drop((held, sender));
                Ok(())
            },
            pieces,
            b"\n",
            LONG,
        ));
        assert_eq!(Arc::strong_count(&dropped), 1);
    }

    #[tokio::test]
    async fn gives_its_permit_back_when_dropped() {
        let permits = Arc::new(Semaphore::new(1));
        let (source, _) = script(vec![piece("a"), piece("b")]);
        let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
        let mut body = Body::pull(None, source, None).holding(permit);
        body.frame().await.unwrap().unwrap();
        assert_eq!(permits.available_permits(), 0);
        drop(body);
        assert_eq!(permits.available_permits(), 1);
    }
}
