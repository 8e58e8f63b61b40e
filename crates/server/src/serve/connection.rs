//! One connection: TLS, HTTP/1.1 or h2, limits, an orderly end.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use firn_storage::Storage;
use http::header::HOST;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use super::access_log::{Logged, Record};
use super::health;
use super::outflow::{Paced, Streams};
use super::tls::Tls;
use super::watch::{Activity, Limits, Overrun, Watched};
use crate::app::{App, Peer};

/// Requests that an h2 connection has open at once. Nix asks for 25 at once; told to ask for more, it has curl, which opens no
/// more than this either. So no ten connections hold all turns for downloads.
const H2_STREAMS: u32 = 100;

/// The longest header block that is read, in bytes; each header of Nix's requests has below 300.
const H2_HEADER_BYTES: u32 = 32 << 10;

/// What is read ahead of a connection, in bytes; also the longest header block of HTTP/1.1.
const H1_BUFFER_BYTES: usize = 128 << 10;

/// What is buffered for each h2 stream to be sent, in bytes.
const H2_SEND_BYTES: usize = 256 << 10;

/// How often, and for how long, an h2 client is asked whether it is still there.
const H2_PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(60));

/// What all connections share.
pub(super) struct Server {
    app: Arc<App>,
    storage: Arc<dyn Storage>,
    tls: Option<Arc<Tls>>,
    protocol: auto::Builder<Streams>,
    limits: Limits,
    tasks: TaskTracker,
    /// One permit per connection.
    pub(super) connections: Arc<Semaphore>,
    /// No new connections and requests.
    pub(super) stop: CancellationToken,
    /// Not even the requests in progress.
    abort: CancellationToken,
}

/// The body of an answer: the health checks' or the cache's.
type Body = Logged<Paced<Either<Full<Bytes>, crate::http::Body>>>;

impl Server {
    pub(super) fn new(
        app: Arc<App>,
        storage: Arc<dyn Storage>,
        tls: Option<Arc<Tls>>,
        stop: CancellationToken,
    ) -> Self {
        let config = &app.config.server;
        let limits =
            Limits { header: config.header_timeout.0, body: config.body_timeout.0, idle: config.idle_timeout.0 };
        let connections = Arc::new(Semaphore::new(config.max_connections));
        let protocol = protocol();
        let tasks = TaskTracker::new();
        Self { app, storage, tls, protocol, limits, tasks, connections, stop, abort: CancellationToken::new() }
    }

    /// Serves a connection in a task of its own.
    pub(super) fn spawn(self: &Arc<Self>, stream: TcpStream, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            let _permit = permit;
            // Answers are written whole: waiting for more to send with them only costs time.
            let _ = stream.set_nodelay(true);
            let activity = Arc::new(Activity::new(server.limits));
            let stream = Watched::new(stream, Arc::clone(&activity));
            match &server.tls {
                None => server.serve(stream, &activity, peer).await,
                Some(tls) => match timeout(server.limits.header, tls.acceptor().accept(stream)).await {
                    Ok(Ok(stream)) => {
                        activity.handshaken(stream.get_ref().1.alpn_protocol() == Some(b"h2"));
                        server.serve(stream, &activity, peer).await;
                    }
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "no TLS with a client"),
                    Err(_) => tracing::debug!(%peer, "a client took too long for TLS"),
                },
            }
        });
    }

    async fn serve<S>(self: &Arc<Self>, stream: S, activity: &Arc<Activity>, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            let server = Arc::clone(self);
            let activity = Arc::clone(activity);
            async move { Ok::<_, Infallible>(server.answer(request, &activity).await) }
        });
        let mut connection = pin!(self.protocol.serve_connection(TokioIo::new(stream), service));
        let mut watchdog = pin!(activity.overrun());
        let mut ending = false;
        let ended = loop {
            tokio::select! {
                result = connection.as_mut() => break result.err().map(|error| error.to_string()),
                why = watchdog.as_mut() => match why {
                    // An h2 client is told first, so that it doesn't send a request into nothing.
                    Overrun::Idle if !ending => {
                        watchdog.set(activity.overrun());
                    }
                    why => break Some(format!("{why:?} limit")),
                },
                () = self.abort.cancelled() => break Some("the server ends".to_owned()),
                () = self.stop.cancelled(), if !ending => {}
            }
            // Whatever came to here asks for an orderly end.
            ending = true;
            connection.as_mut().graceful_shutdown();
        };
        if let Some(why) = ended {
            tracing::debug!(%peer, why, "a connection was broken off");
        }
    }

    fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
        activity: &Arc<Activity>,
    ) -> impl Future<Output = Response<Body>> + use<> {
        let record = Record::new(Arc::clone(&self.app), &request, activity.request());
        let (server, activity) = (Arc::clone(self), Arc::clone(activity));
        let span = record.span();
        let answer = async move {
            let early = if names_one_host(&request) {
                health::check(&server.app, &server.storage, &server.stop, &request).await
            } else {
                Some(no_host())
            };
            let response = match early {
                Some(response) => response.map(Either::Left),
                None => crate::http::handle(Arc::clone(&server.app), request).await.map(Either::Right),
            };
            record.attach(response.map(|body| Paced::new(body, &activity)))
        };
        answer.instrument(span)
    }

    /// Waits for the connections to end, and ends what is left after `grace`.
    pub(super) async fn drain(&self, grace: Duration) {
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!(
                connections = self.tasks.len(),
                "requests are still in progress after the grace: breaking them off"
            );
            self.abort.cancel();
            self.tasks.wait().await;
        }
    }
}

/// Returns whether a request says for which host it is as its version of HTTP wants it: HTTP/1.1 exactly once, HTTP/1.0 at most once.
fn names_one_host<B>(request: &Request<B>) -> bool {
    let hosts = request.headers().get_all(HOST).iter().count();
    match request.version() {
        Version::HTTP_11 => hosts == 1,
        Version::HTTP_2 => true,
        _ => hosts <= 1,
    }
}

fn no_host() -> Response<Full<Bytes>> {
    let text = "bad-request: the request does not name one host.\nSend one header 'Host'.\n";
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}

pub(super) fn protocol() -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(Streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would count the time between two requests as well; `watch` counts both, each with its own limit.
        .header_read_timeout(None)
        .max_buf_size(H1_BUFFER_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .max_concurrent_streams(H2_STREAMS)
        .max_header_list_size(H2_HEADER_BYTES)
        .max_send_buf_size(H2_SEND_BYTES)
        .keep_alive_interval(H2_PING.0)
        .keep_alive_timeout(H2_PING.1);
    builder
}
