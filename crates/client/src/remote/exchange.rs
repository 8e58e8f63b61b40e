//! A request, tried until it is answered or given up.

use std::time::Duration;

use bytes::Bytes;
use firn_api::{Class, Code, Endpoint, ErrorAnswer, SESSION_HEADER, SessionToken};
use tokio::time::{Instant, sleep};

use super::retry::parse_retry_after;
use super::transport::{Broken, BrokenKind, Reply, Request};
use super::{Remote, RetryPolicy};
use crate::error::Refusal;
use crate::{Error, Result};

/// How much of a refusal is read.
const MAX_REFUSAL_BYTES: usize = 16 << 10;

/// How often a request begins a new session before it gives up: each needs a server that forgets sessions at once.
const MAX_SESSIONS: u32 = 4;

/// A wait before another try.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Waiting {
    /// What was asked of the server.
    pub doing: &'static str,
    /// How often it was tried.
    pub tries: u32,
    /// How long the wait is.
    #[serde(rename = "wait_seconds", serialize_with = "seconds")]
    pub wait: Duration,
    /// What happened.
    pub reason: String,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

/// A request of the API.
pub(super) struct Call {
    /// What is asked, as in "refused: DOING".
    pub(super) doing: &'static str,
    pub(super) endpoint: Endpoint,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
    /// Whether it leans on a session.
    pub(super) in_session: bool,
}

impl Call {
    /// Returns a call without a body, outside of sessions.
    pub(super) fn new(doing: &'static str, endpoint: Endpoint) -> Self {
        Self { doing, endpoint, headers: Vec::new(), body: Bytes::new(), in_session: false }
    }

    /// Returns a call with a body, in the session.
    pub(super) fn with_body(doing: &'static str, endpoint: Endpoint, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), in_session: true, ..Self::new(doing, endpoint) }
    }
}

/// Takes an answer piece by piece. One is used for each try.
pub(super) trait Reader: Send {
    /// What it makes.
    type Answer: Send;

    /// Takes the next bytes; an error is what is wrong with them.
    fn take(&mut self, piece: &[u8]) -> Result<(), String>;

    /// Ends the answer; `Ok(None)` if it is not whole.
    fn end(self) -> Result<Option<Self::Answer>, String>;
}

/// Reads an answer whole, up to a limit.
pub(super) struct Whole {
    bytes: Vec<u8>,
    limit: usize,
}

impl Whole {
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit }
    }
}

impl Reader for Whole {
    type Answer = Vec<u8>;

    fn take(&mut self, piece: &[u8]) -> Result<(), String> {
        if piece.len() > self.limit - self.bytes.len() {
            return Err(format!("it is longer than {} bytes", self.limit));
        }
        self.bytes.extend_from_slice(piece);
        Ok(())
    }

    fn end(self) -> Result<Option<Vec<u8>>, String> {
        Ok(Some(self.bytes))
    }
}

/// Why one try failed.
enum Failure {
    Broken(Broken),
    Refused { status: u16, answer: ErrorAnswer, retry_after: Option<Duration> },
    Nonsense(String),
}

impl Remote {
    /// Sends a request until it is answered, as the policy says.
    pub(super) async fn exchange<R: Reader>(
        &self,
        call: &Call,
        reader: impl Fn() -> R + Send + Sync,
    ) -> Result<R::Answer> {
        let began = Instant::now();
        let (mut tries, mut sessions) = (0, 0);
        loop {
            let session = if call.in_session { Some(self.session().await?) } else { None };
            tries += 1;
            let failure = match self.attempt(call, session, reader()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if let (Some(session), true) = (session, failure.is_of_session()) {
                self.forget_session(session).await;
                sessions += 1;
                if sessions < MAX_SESSIONS {
                    continue;
                }
            }
            let may_pass = failure.may_pass();
            let wait = self.options.retry.wait(tries, failure.retry_after(), &*self.options.jitter);
            if !may_pass || is_over(&self.options.retry, began, wait) {
                return Err(self.error(call.doing, tries, failure));
            }
            let reason = failure.describe();
            tracing::debug!(doing = call.doing, tries, reason, "waiting before another try");
            (self.options.on_wait)(&Waiting { doing: call.doing, tries, wait, reason });
            sleep(wait).await;
        }
    }

    async fn attempt<R: Reader>(
        &self,
        call: &Call,
        session: Option<SessionToken>,
        mut reader: R,
    ) -> Result<R::Answer, Failure> {
        let mut headers = call.headers.clone();
        headers.push(("accept", "application/json".to_owned()));
        if let Some(session) = session {
            headers.push((SESSION_HEADER, session.to_string()));
        }
        let method = call.endpoint.method().parse().expect("endpoints have methods of HTTP");
        let request = Request {
            method,
            path: call.endpoint.path(self.target.cache()),
            headers,
            body: call.body.clone(),
            with_token: call.endpoint != Endpoint::Capabilities,
        };
        let mut reply = self.transport.send(request).await.map_err(Failure::Broken)?;
        if !(200..300).contains(&reply.status) {
            return Err(self.refusal(reply).await);
        }
        while let Some(piece) = reply.body.next().await.map_err(Failure::Broken)? {
            reader.take(&piece).map_err(|detail| Failure::Nonsense(or_a_page(detail, &piece)))?;
        }
        match reader.end() {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(Failure::Broken(Broken::new(BrokenKind::Cut, "the answer ended early"))),
            Err(detail) => Err(Failure::Nonsense(detail)),
        }
    }

    async fn refusal(&self, reply: Reply) -> Failure {
        let Reply { status, retry_after, location, body } = reply;
        let mut answer = ErrorAnswer::read(&body.start(MAX_REFUSAL_BYTES).await);
        if (300..400).contains(&status) {
            let to = location.unwrap_or_default().chars().filter(|c| !c.is_control()).take(200).collect::<String>();
            answer = ErrorAnswer {
                message: format!("the server sends us elsewhere: '{to}'"),
                hint: "redirects are not followed: use the cache's own URL".to_owned(),
                ..ErrorAnswer::default()
            };
        } else if answer.code.is_empty() {
            answer = on_the_way(status, answer);
        }
        let header = retry_after.and_then(|value| parse_retry_after(&value, self.options.clock.now()));
        let retry_after = header.or(answer.retry_after.map(Duration::from_secs));
        Failure::Refused { status, answer, retry_after }
    }

    fn error(&self, doing: &'static str, tries: u32, failure: Failure) -> Error {
        let server = self.target.base().to_owned();
        match failure {
            Failure::Broken(source) if source.kind != BrokenKind::TooLong => {
                Error::Unreachable { server, tries, source }
            }
            Failure::Broken(source) => Error::Nonsense { doing, server, detail: source.message },
            Failure::Nonsense(detail) => Error::Nonsense { doing, server, detail },
            Failure::Refused { status, answer, .. } => {
                let kind = refusal_kind(status, &answer);
                let ErrorAnswer { code, message, hint, .. } = answer;
                let code = if code.is_empty() { "(not firnd's)".to_owned() } else { code };
                let hint = (!hint.is_empty()).then_some(hint);
                Error::Refused { doing, server, status, code, message, hint, kind }
            }
        }
    }
}

/// Returns what is wrong with an answer, or that it is a page, as proxies and portals send.
fn or_a_page(detail: String, piece: &[u8]) -> String {
    if piece.trim_ascii_start().starts_with(b"<") {
        return "it is a page of HTML, of a proxy or of another server".to_owned();
    }
    detail
}

/// Explains a refusal that is not firnd's.
fn on_the_way(status: u16, answer: ErrorAnswer) -> ErrorAnswer {
    let (message, hint) = match status {
        413 => (
            "something on the way to it takes no request of this length",
            "raise the limit of the proxy, which nginx calls client_max_body_size",
        ),
        407 => ("a proxy wants a user and a password", "put them into the proxy's URL, in https_proxy or http_proxy"),
        _ if answer.message.is_empty() => ("it gives no reason", ""),
        _ => return answer,
    };
    ErrorAnswer { message: message.to_owned(), hint: hint.to_owned(), ..answer }
}

fn is_over(policy: &RetryPolicy, began: Instant, wait: Duration) -> bool {
    began.elapsed().saturating_add(wait) > policy.give_up_after
}

fn refusal_kind(status: u16, answer: &ErrorAnswer) -> Refusal {
    match Code::from_text(&answer.code) {
        Some(Code::SessionExpired | Code::SessionRequired) => Refusal::Session,
        Some(Code::TooLarge) => Refusal::TooLarge,
        Some(Code::UnsupportedApi) => Refusal::Unsupported,
        Some(Code::NoSuchCache) => Refusal::Access,
        _ => match status {
            401 | 403 | 407 => Refusal::Access,
            413 => Refusal::TooLarge,
            404 | 405 | 501 => Refusal::Unsupported,
            _ if answer.class(status) == Class::Retry => Refusal::Unable,
            _ => Refusal::Permanent,
        },
    }
}

impl Failure {
    fn may_pass(&self) -> bool {
        match self {
            Self::Broken(broken) => broken.may_pass(),
            Self::Refused { status, answer, .. } => answer.class(*status) == Class::Retry,
            Self::Nonsense(_) => false,
        }
    }

    fn is_of_session(&self) -> bool {
        matches!(self, Self::Refused { status, answer, .. } if refusal_kind(*status, answer) == Refusal::Session)
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Broken(_) | Self::Nonsense(_) => None,
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Broken(broken) => broken.message.clone(),
            Self::Refused { status, answer, .. } if answer.code.is_empty() => format!("status {status}"),
            Self::Refused { status, answer, .. } => format!("status {status} {}: {}", answer.code, answer.message),
            Self::Nonsense(detail) => detail.clone(),
        }
    }
}
