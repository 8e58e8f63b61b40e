//! The push API: `/api/v1/…`, for clients that cut and compress what they upload.
//!
//! A request is authorised before anything is looked up; then its body is read within a budget, and only then does it take a
//! turn for work, so that a slow client holds up nobody. `firn_api` has the bytes that both ends exchange, the engine
//! does what they ask for; in between, this module decides who may be told what ([`access`]), keeps what spans requests
//! ([`parts`], [`proofs`]), and says what went wrong ([`refusal`]).

mod access;
mod commit;
mod describe;
mod items;
mod listing;
mod parts;
mod pins;
mod proofs;
mod questions;
mod refusal;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_api::{Code, Endpoint, Limits, SESSION_HEADER, SessionToken};
use firn_index::SessionId;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::sync::Semaphore;

use self::access::Asker;
use self::parts::Parts;
use self::proofs::Proofs;
use self::refusal::Refusal;
use super::body::Body;
use super::codec::Codec;
use super::error::After;
use super::receive::Incoming;
use super::route::Api;
use super::{failed, host};
use crate::app::{App, LogFields};
use crate::metrics::Kind;
use crate::turns::{Turn, Turns};

/// All bodies in memory at once, in KiB: 16 of the longest.
const BODIES_KIB: u32 = 128 << 10;
/// Questions that are answered at once: they are quick, and each takes a thread.
const QUESTIONS: usize = 4;
/// The same two for those who may not push: anyone may ask a public cache, and shall not hold up those who push.
const GUEST_BODIES_KIB: u32 = 16 << 10;
const GUEST_QUESTIONS: usize = 2;
/// How long a request waits for room for its body, and then for its turn, before it is told to come again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a body may take in all. It holds room that others wait for: 8 MiB in this time are 9 KiB/s.
const BODY_PATIENCE: Duration = Duration::from_secs(900);

/// What the push API keeps between requests.
pub(super) struct Memory {
    pushers: Room,
    guests: Room,
    parts: Parts,
    proofs: Proofs,
}

impl Memory {
    pub(super) fn new() -> Self {
        Self {
            pushers: Room::new(BODIES_KIB, QUESTIONS),
            guests: Room::new(GUEST_BODIES_KIB, GUEST_QUESTIONS),
            parts: Parts::new(parts::MAX_BYTES),
            proofs: Proofs::new(),
        }
    }
}

/// Room for bodies and turns for questions.
struct Room {
    /// In KiB, by builder or, of those who have no token, by address.
    bodies: Turns<String>,
    questions: Arc<Semaphore>,
}

impl Room {
    fn new(bodies_kib: u32, questions: usize) -> Self {
        Self { bodies: Turns::new(bodies_kib as usize), questions: Arc::new(Semaphore::new(questions)) }
    }
}

type Answered = Result<Response<Body>, Refusal>;

/// Answers a request to the push API; what it refuses is told as JSON to those who ask for that.
pub(super) async fn answer<B>(app: &Arc<App>, api: Api, request: Request<B>, log: &mut LogFields) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
    B::Error: std::error::Error + Send + Sync,
{
    let (head, body) = request.into_parts();
    let mut body = Incoming::new(body, &head.headers, app.config.server.body_timeout.0);
    let answered = match api {
        Api::Nothing => Err(Refusal::unsupported()),
        Api::Capabilities => allow(&head.method, "GET").map(|()| describe::capabilities()),
        Api::Cache { cache, endpoint } => match allow(&head.method, endpoint.method()) {
            Ok(()) => of_cache(app, cache, endpoint, &head, &mut body, log).await,
            Err(refusal) => Err(refusal),
        },
    };
    log.received_bytes = body.received();
    match answered {
        Ok(response) => response,
        Err(refusal) => {
            body.drain().await;
            refusal.into_response(refusal::wants_json(&head.headers))
        }
    }
}

/// Refuses all methods but the one that there is; HEAD goes with GET.
fn allow(method: &Method, allowed: &'static str) -> Result<(), Refusal> {
    if method.as_str() == allowed || (allowed == "GET" && *method == Method::HEAD) {
        return Ok(());
    }
    Err(Refusal::method(if allowed == "GET" { "GET, HEAD" } else { allowed }))
}

async fn of_cache<B>(
    app: &Arc<App>,
    cache: Option<firn_index::CacheName>,
    endpoint: Endpoint,
    head: &http::request::Parts,
    body: &mut Incoming<B>,
    log: &mut LogFields,
) -> Answered
where
    B: http_body::Body<Data = Bytes> + Send + Unpin,
{
    let host = host(&head.uri, &head.headers);
    let address = super::address(app, &head.headers, head.extensions.get());
    let asker = Asker::authorise(app, cache, &endpoint, &head.headers, host, address)?;
    log.token = asker.uploader.token;
    log.cache = Some(asker.cache.name.clone());
    log.tally = Some(app.usage.counters.of(&asker.cache.name, &asker.uploader.builder));
    if endpoint == Endpoint::Commits {
        log.kind = Kind::Commit;
    }
    let call = Call { app, asker: Arc::new(asker), headers: &head.headers };
    let limits = Limits::default();
    match endpoint {
        Endpoint::Capabilities => Ok(describe::capabilities()),
        Endpoint::Cache => Ok(describe::cache(&call, host)),
        Endpoint::Paths { since, after } => listing::paths(&call, since, after).await,
        Endpoint::Sessions => uploads::begin_session(&call).await,
        Endpoint::Session(session) => uploads::end_session(&call, session).await,
        Endpoint::MissingPaths => questions::missing_paths(&call, body, limits.paths).await,
        Endpoint::KnownRecipes => questions::known_recipes(&call, body, limits.recipes).await,
        Endpoint::MissingChunks => questions::missing_chunks(&call, body, limits.chunks).await,
        Endpoint::Frames { hints } => uploads::frames(&call, body, hints, limits).await,
        Endpoint::RecipePart { recipe, offset, length } => {
            uploads::recipe_part(&call, body, parts::Place { recipe, offset, length }, limits.recipe_bytes).await
        }
        Endpoint::Commits => commit::commit(&call, body, limits).await,
        Endpoint::Pins => pins::list(&call).await,
        Endpoint::PinAdd => pins::add(&call, body).await,
        Endpoint::PinRemove => pins::remove(&call, body).await,
    }
}

/// A request that was authorised.
struct Call<'a> {
    app: &'a Arc<App>,
    asker: Arc<Asker>,
    headers: &'a HeaderMap,
}

/// A body, and its share of the room that all bodies have.
struct Held {
    bytes: Bytes,
    encoding: Codec,
    _room: Turn<String>,
}

impl Call<'_> {
    fn room(&self) -> &Room {
        let memory = &self.app.http.push;
        if self.asker.can_push { &memory.pushers } else { &memory.guests }
    }

    /// Returns the session that the request names.
    fn session(&self) -> Result<(SessionToken, SessionId), Refusal> {
        self.optional_session()?.ok_or_else(|| Refusal::new(StatusCode::BAD_REQUEST, Code::SessionRequired))
    }

    fn optional_session(&self) -> Result<Option<(SessionToken, SessionId)>, Refusal> {
        let Some(value) = self.headers.get(SESSION_HEADER) else { return Ok(None) };
        let token: Option<SessionToken> = value.to_str().ok().and_then(|text| text.parse().ok());
        // What can't be the name of a session is a session that is not there.
        let token = token.ok_or_else(Refusal::session_expired)?;
        Ok(Some((token, SessionId(token.0))))
    }

    /// Reads a body of at most `limit` bytes; with any encoding but `encodings` it is refused before it is read.
    async fn body<B>(&self, body: &mut Incoming<B>, limit: usize, encodings: &[Codec]) -> Result<Held, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
    {
        if let Some(value) = self.headers.get(CONTENT_TYPE)
            && !value.as_bytes().eq_ignore_ascii_case(b"application/octet-stream")
        {
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedType));
        }
        let encoding = body.encoding()?;
        if !encodings.contains(&encoding) {
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::UnsupportedCompression));
        }
        body.check_length(limit as u64)?;
        let bytes = body.length.map_or(limit, |length| usize::try_from(length).unwrap_or(limit));
        let bodies = &self.room().bodies;
        let kib = u32::try_from(bytes.div_ceil(1024).min(bodies.share())).unwrap_or(u32::MAX);
        let room = tokio::time::timeout(PATIENCE, bodies.take(Some(&self.asker.key()), kib)).await;
        let room = room.ok().and_then(Result::ok).ok_or_else(Refusal::busy)?;
        let read = tokio::time::timeout(BODY_PATIENCE, body.collect(limit as u64)).await;
        let bytes = read.map_err(|_elapsed| Refusal::from(super::error::Problem::Stalled))??;
        Ok(Held { bytes, encoding, _room: room })
    }

    /// Waits for a turn to upload.
    async fn upload_turn(&self) -> Result<Turn<String>, Refusal> {
        let turn = tokio::time::timeout(PATIENCE, self.app.uploads.take(Some(&self.asker.key()), 1)).await;
        turn.ok().and_then(Result::ok).ok_or_else(Refusal::busy)
    }

    /// Runs what may block, in a turn of its own; it holds the turn to its end, also when nobody waits for it any more.
    async fn work<T, F>(&self, turn: impl Send + 'static, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<App>, &Asker) -> Result<T, Refusal> + Send + 'static,
    {
        self.run(move |app, asker| {
            let _turn = turn;
            work(app, asker)
        })
        .await
    }

    /// Runs what may block.
    async fn run<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<App>, &Arc<Asker>) -> Result<T, Refusal> + Send + 'static,
    {
        let (app, asker) = (Arc::clone(self.app), Arc::clone(&self.asker));
        let done = self.app.blocking(move || work(&app, &asker));
        done.await.unwrap_or_else(|panic| Err(super::error::Problem::internal(&panic, After::Body).into()))
    }

    /// Answers a question, or does something else that is short.
    async fn ask<T, F>(&self, work: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&Arc<App>, &Asker) -> Result<T, Refusal> + Send + 'static,
    {
        let turn = tokio::time::timeout(PATIENCE, Arc::clone(&self.room().questions).acquire_owned()).await;
        let turn = turn.ok().and_then(Result::ok).ok_or_else(Refusal::busy)?;
        self.work(turn, work).await
    }
}

/// Returns a function that makes a refusal of an engine's error, and forgets what damage makes wrong.
fn refuse(app: &App) -> impl Fn(firn_engine::Error) -> Refusal + '_ {
    |error| {
        super::notice(app, &error);
        Refusal::of_engine(error, |error| failed(app, error, After::Body))
    }
}

fn json<T: Serialize>(value: &T) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("texts, numbers and lists of them are JSON");
    answer_of(bytes, "application/json")
}

fn binary(bytes: Vec<u8>) -> Response<Body> {
    answer_of(bytes, "application/octet-stream")
}

fn answer_of(bytes: Vec<u8>, content_type: &'static str) -> Response<Body> {
    uncached(Body::full(bytes), content_type)
}

/// Returns a 200 that nobody between us and the client keeps.
fn uncached(body: Body, content_type: &'static str) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
