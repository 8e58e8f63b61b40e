//! Requests over HTTP/1.1 or HTTP/2 with reqwest.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::redirect::Policy;
use tokio::time::Instant;

use super::meter::Meter;
use super::transport::{Body, Broken, BrokenKind, Reply, Request, Sending, Transport};
use crate::remote::Target;
use crate::{Error, Result};

/// The bytes of a request's body that are handed over at a time: what is counted as sent and may not be.
const PIECE_BYTES: usize = 64 << 10;

/// How connections are made.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long nothing may go in either direction while a request is under way. There is no limit for a whole request.
    pub idle_timeout: Duration,
    /// Program and version, for the server's log.
    pub user_agent: String,
    /// Certificates (PEM) that are trusted beside the system's.
    pub extra_certificates: Option<PathBuf>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            user_agent: concat!("firn/", env!("CARGO_PKG_VERSION")).to_owned(),
            extra_certificates: None,
        }
    }
}

/// A server, over HTTP. Proxies are taken from the environment (`https_proxy`, `no_proxy` and so on); redirects are not
/// followed, so that a token can't be led elsewhere.
#[derive(Debug)]
pub struct HttpTransport {
    client: reqwest::Client,
    base: String,
    authorization: Option<HeaderValue>,
    idle_timeout: Duration,
    user_agent_bytes: usize,
    meter: Arc<Meter>,
}

impl HttpTransport {
    /// Returns a transport to a target's server; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Setup`] if certificates can't be read or TLS can't be set up.
    pub fn new(target: &Target, options: &HttpOptions, meter: Arc<Meter>) -> Result<Self> {
        let mut builder = reqwest::Client::builder()
            .user_agent(&options.user_agent)
            .redirect(Policy::none())
            .connect_timeout(options.connect_timeout)
            .pool_idle_timeout(Duration::from_secs(90))
            .tcp_nodelay(true)
            .referer(false);
        if let Some(path) = &options.extra_certificates {
            let fail =
                |detail: String| Error::Setup { what: format!("read certificates from {}", path.display()), detail };
            let pem = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| fail(causes(&error)))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client =
            builder.build().map_err(|error| Error::Setup { what: "set up HTTP".to_owned(), detail: causes(&error) })?;
        let authorization = target.token.as_ref().map(|token| {
            let mut value = HeaderValue::from_str(&token.bearer()).expect("a token has only graphic ASCII");
            value.set_sensitive(true);
            value
        });
        Ok(Self {
            client,
            base: target.base().to_owned(),
            authorization,
            idle_timeout: options.idle_timeout,
            user_agent_bytes: options.user_agent.len(),
            meter,
        })
    }

    async fn send_once(&self, request: Request) -> Result<Reply, Broken> {
        let url = format!("{}{}", self.base, request.path);
        let mut headers = HeaderMap::new();
        for (name, value) in &request.headers {
            let value = HeaderValue::from_str(value)
                .map_err(|_| Broken::new(BrokenKind::Impossible, format!("write the header {name}")))?;
            headers.insert(*name, value);
        }
        if let Some(authorization) = self.authorization.as_ref().filter(|_| request.with_token) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let mut head_bytes = url.len() + self.user_agent_bytes + FIXED_HEAD_BYTES + headers_bytes(&headers);
        let activity = Arc::new(Activity::new());
        let mut builder = self.client.request(request.method, url);
        if !request.body.is_empty() {
            if !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
                head_bytes += 40;
            }
            head_bytes += 24;
            let outgoing = Outgoing { left: request.body, activity: activity.clone(), meter: self.meter.clone() };
            builder = builder.body(reqwest::Body::wrap(outgoing));
        }
        self.meter.request(head_bytes as u64);
        let sending = builder.headers(headers).send();
        let answer = activity.watch(self.idle_timeout, sending).await?.map_err(|error| broken(&error))?;
        activity.touch();
        tracing::trace!(status = answer.status().as_u16(), version = ?answer.version(), "a request was answered");
        self.meter.answer(20 + headers_bytes(answer.headers()) as u64);
        let text =
            |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok().map(str::to_owned));
        Ok(Reply {
            status: answer.status().as_u16(),
            retry_after: text(RETRY_AFTER),
            location: text(LOCATION),
            body: Body::network(Incoming { answer, idle_timeout: self.idle_timeout, meter: self.meter.clone() }),
        })
    }
}

/// Method, version, `host:`, `accept:` and `user-agent:` of a request with their line ends, without their longer values.
const FIXED_HEAD_BYTES: usize = 64;

fn headers_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

impl Transport for HttpTransport {
    fn send(&self, request: Request) -> Sending<'_> {
        Box::pin(self.send_once(request))
    }
}

/// The rest of an answer.
#[derive(Debug)]
pub(crate) struct Incoming {
    answer: reqwest::Response,
    idle_timeout: Duration,
    meter: Arc<Meter>,
}

impl Incoming {
    /// Returns the next piece, or `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Broken> {
        let piece = tokio::time::timeout(self.idle_timeout, self.answer.chunk()).await;
        let piece = piece.map_err(|_| idle(self.idle_timeout))?.map_err(|error| broken(&error))?;
        if let Some(piece) = &piece {
            self.meter.received(piece.len());
        }
        Ok(piece)
    }
}

/// When something last moved.
#[derive(Debug)]
struct Activity(Mutex<Instant>);

impl Activity {
    fn new() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `work` as long as something moves.
    async fn watch<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Result<T, Broken> {
        let mut work = std::pin::pin!(work);
        loop {
            let deadline = self.last() + limit;
            match tokio::time::timeout_at(deadline, &mut work).await {
                Ok(done) => return Ok(done),
                Err(_) if self.last() + limit > deadline => {}
                Err(_) => return Err(idle(limit)),
            }
        }
    }
}

fn idle(limit: Duration) -> Broken {
    Broken::new(BrokenKind::Idle, format!("nothing was sent or received for {} s", limit.as_secs()))
}

/// A request's body, which notes what goes.
struct Outgoing {
    left: Bytes,
    activity: Arc<Activity>,
    meter: Arc<Meter>,
}

impl http_body::Body for Outgoing {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        if this.left.is_empty() {
            return Poll::Ready(None);
        }
        let piece = this.left.split_to(PIECE_BYTES.min(this.left.len()));
        this.activity.touch();
        this.meter.sent(piece.len());
        Poll::Ready(Some(Ok(http_body::Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.left.len() as u64)
    }
}

fn broken(error: &reqwest::Error) -> Broken {
    let mut message = causes(error);
    // What rustls says of an answer that is no TLS.
    if message.contains("InvalidContentType") {
        message.push_str("; the port does not seem to speak TLS: is it http:// and not https://?");
    }
    let kind = if error.is_builder() || message.contains("invalid peer certificate") {
        // rustls has a type for this, several wrappers below reqwest's error.
        BrokenKind::Impossible
    } else if error.is_connect() {
        BrokenKind::Unreachable
    } else {
        BrokenKind::Cut
    };
    Broken::new(kind, message)
}

/// Returns an error and its causes in one line, without the URL, which reqwest repeats.
fn causes(error: &reqwest::Error) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let text = error.to_string();
        if parts.last() != Some(&text) {
            parts.push(text);
        }
        source = error.source();
    }
    if parts.is_empty() { "the request failed".to_owned() } else { parts.join(": ") }
}
