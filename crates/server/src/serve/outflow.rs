//! Bodies on their way out over h2: handed on in slices, and given up when the client takes none for too long.
//!
//! How much of a stream may be sent is up to the client, stream by stream. One that allows nothing blocks no write to the
//! socket: the body is just not asked for more. So each stream is a task that can be ended from outside, and the timer of
//! its connection looks at its body ([`Activity`]). Over HTTP/1.1 the socket shows what the client takes.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use hyper::body::Bytes;
use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

use super::watch::{Activity, Outgoing};

/// What is handed on at once, in bytes. A client that takes less within the limit of a body is given up; 100 streams over one
/// line of half a megabit are not.
const SLICE_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// Ends the stream that this task serves.
    static STREAM: CancellationToken;
}

/// Runs each stream of an h2 connection as a task, to its end or until its body is given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let end = CancellationToken::new();
        let own = end.clone();
        // A stream that is dropped before its end is reset: the client gets to know.
        tokio::spawn(STREAM.scope(end, async move { own.run_until_cancelled(stream).await }));
    }
}

/// A body that is handed on in slices, and watched, if it goes out over h2.
pub(super) struct Paced<B> {
    body: B,
    /// What is left of the last piece.
    rest: Bytes,
    outgoing: Option<Outgoing>,
}

impl<B> Paced<B> {
    /// To be called in the task of the stream, if there is one.
    pub(super) fn new(body: B, activity: &Arc<Activity>) -> Self {
        let outgoing = STREAM.try_with(CancellationToken::clone).ok().map(|end| activity.outgoing(end));
        Self { body, rest: Bytes::new(), outgoing }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Paced<B> {
    fn poll_slice(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)).transpose()?.map(Frame::into_data) {
                Some(Ok(piece)) => self.rest = piece,
                Some(Err(other)) => return Poll::Ready(Some(Ok(other))),
                None => return Poll::Ready(None),
            }
        }
        let slice = self.rest.split_to(self.rest.len().min(SLICE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Paced<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let paced = &mut *self;
        if paced.outgoing.is_none() {
            return Pin::new(&mut paced.body).poll_frame(cx);
        }
        let slice = paced.poll_slice(cx);
        if let Some(outgoing) = &paced.outgoing {
            outgoing.note(&slice);
        }
        slice
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint() + SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use http::{Request, Response};
    use http_body::Body as _;
    use http_body_util::{BodyExt as _, Empty};
    use hyper::body::Incoming;
    use hyper::client::conn::http2::{Builder, SendRequest};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use tokio::sync::{Semaphore, mpsc};
    use tokio::time::Instant;

    use super::super::connection::protocol;
    use super::super::watch::{Limits, Overrun, Watched};
    use super::*;
    use crate::http::Body;

    const BODY: Duration = Duration::from_secs(120);
    const OTHER: Duration = Duration::from_secs(100_000);
    const BODY_BYTES: usize = 1 << 20;
    const WINDOW: u32 = 64 << 10;

    fn request(target: &str) -> Request<Empty<Bytes>> {
        Request::get(format!("http://cache{target}")).body(Empty::new()).expect("a request")
    }

    /// Answers `/large` at once, and `/slow` after an hour.
    fn body(target: &str) -> Body {
        if target == "/large" {
            return Body::full(vec![1; BODY_BYTES]);
        }
        let (sender, pieces) = mpsc::channel(1);
        let work = async move {
            tokio::time::sleep(Duration::from_secs(3600)).await;
            // Fails only when the body is gone.
            let _ = sender.send(Bytes::from_static(b"at last")).await;
            Ok(())
        };
        Body::followed(work, pieces, None)
    }

    /// Serves one connection to a client that allows each stream [`WINDOW`] bytes until it reads; answers hold turns.
    async fn connect(turns: &Arc<Semaphore>) -> SendRequest<Empty<Bytes>> {
        let (near, far) = tokio::io::duplex(1 << 20);
        let activity = Arc::new(Activity::new(Limits { header: OTHER, body: BODY, idle: OTHER }));
        let (shared, turns) = (Arc::clone(&activity), Arc::clone(turns));
        let service = service_fn(move |request: Request<Incoming>| {
            let (activity, turns) = (Arc::clone(&shared), Arc::clone(&turns));
            async move {
                let turn = turns.acquire_owned().await.expect("open");
                let body = body(request.uri().path()).holding(turn);
                Ok::<_, Infallible>(Response::new(Paced::new(body, &activity)))
            }
        });
        let stream = TokioIo::new(Watched::new(far, Arc::clone(&activity)));
        tokio::spawn(async move {
            let protocol = protocol();
            tokio::select! {
                _ = protocol.serve_connection(stream, service) => {}
                why = activity.overrun() => assert!(why != Overrun::Body, "the whole connection"),
            }
        });
        let mut client = Builder::new(TokioExecutor::new());
        client.initial_stream_window_size(WINDOW).initial_connection_window_size(64 * WINDOW);
        let (sender, connection) = client.handshake(TokioIo::new(near)).await.expect("h2");
        tokio::spawn(connection);
        sender
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_whose_client_takes_nothing_is_ended_and_no_other() {
        let turns = Arc::new(Semaphore::new(1));
        let mut client = connect(&turns).await;
        let began = Instant::now();
        let stuck = client.send_request(request("/large")).await.expect("answered");
        // It waits for the only turn.
        let other = client.send_request(request("/large"));
        let other = tokio::time::timeout(2 * BODY, other).await.expect("the turn is given back").expect("answered");
        assert!(began.elapsed() >= BODY);
        assert_eq!(other.collect().await.expect("whole").to_bytes().len(), BODY_BYTES);
        assert!(stuck.collect().await.is_err(), "it was broken off");
        assert_eq!(turns.available_permits(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_a_little_now_and_then_gets_all_of_it() {
        let turns = Arc::new(Semaphore::new(1));
        let mut client = connect(&turns).await;
        let mut answer = client.send_request(request("/large")).await.expect("answered").into_body();
        let mut received = 0;
        while let Some(frame) = answer.frame().await {
            received += frame.expect("more").data_ref().map_or(0, Bytes::len);
            tokio::time::sleep(Duration::from_secs(20)).await;
        }
        assert_eq!(received, BODY_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_long_to_make_is_waited_for() {
        let turns = Arc::new(Semaphore::new(1));
        let mut client = connect(&turns).await;
        let answer = client.send_request(request("/slow")).await.expect("answered");
        assert_eq!(answer.collect().await.expect("whole").to_bytes(), "at last");
    }

    #[tokio::test]
    async fn only_streams_of_h2_are_cut_into_slices() {
        let activity = Arc::new(Activity::new(Limits { header: OTHER, body: BODY, idle: OTHER }));
        let mut whole = Paced::new(body("/large"), &activity);
        let piece = whole.frame().await.expect("a piece").expect("good").into_data().expect("bytes");
        assert!(piece.len() == BODY_BYTES && whole.is_end_stream());
        let stream = STREAM.scope(CancellationToken::new(), async {
            let mut sliced = Paced::new(body("/large"), &activity);
            let slice = sliced.frame().await.expect("a slice").expect("good").into_data().expect("bytes");
            let left = (BODY_BYTES - SLICE_BYTES) as u64;
            assert_eq!((slice.len(), sliced.size_hint().exact()), (SLICE_BYTES, Some(left)));
            assert!(!sliced.is_end_stream());
            assert_eq!(sliced.collect().await.expect("the rest").to_bytes().len() as u64, left);
        });
        stream.await;
    }
}
