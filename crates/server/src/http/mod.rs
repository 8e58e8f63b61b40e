//! The HTTP binary cache: a request comes in, a response goes out.
//!
//! [`handle`] finds out what the path names ([`route`]), authorises before anything is looked up, and lets the module
//! of that resource answer: `narinfo`, `nar`, `files`, `documents`, `upload` for what comes in, and `push` for the push API. Whatever may block runs on
//! the pool for blocking work. Sockets, TLS and time limits of connections are the business of [`crate::serve`].
//!
//! What must hold of every answer to Nix: no 202, 204, 207, 304, 408 or 429, no `ETag`, no `Content-Encoding`; HEAD
//! has the headers of GET; a private cache and one that does not exist look alike to those who may not read them.

pub mod body;
pub mod codec;
pub(crate) mod documents;
pub mod error;
mod files;
mod home;
mod identity;
mod inspect;
mod known;
mod listed;
mod nar;
mod narinfo;
mod pages;
mod pull;
mod push;
mod query;
pub mod range;
mod realisation;
mod receive;
pub mod route;
pub(crate) mod template;
mod upload;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use firn_index::{CacheName, Verb};
use firn_nix::StoreHash;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use body::Body;
use narinfo::Narinfos;

use crate::app::{App, LogFields, Peer};
use crate::auth::{Access, Denial};
use crate::caches::Cache;
use crate::config::Config;
use crate::metrics::Kind;
use crate::turns::{Turn, Turns, asker_of};
use error::{After, Problem};
use range::Asked;
use route::{Resource, Route};

/// How long a request waits for its turn before it is told that the server is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the HTTP side keeps in memory; part of [`App`].
pub struct Memory {
    narinfos: Narinfos,
    listings: listed::Room,
    documents: documents::Turns,
    push: push::Memory,
    pull: pull::Pull,
}

impl Memory {
    /// Makes an empty memory, with the limits that the configuration says; the number tells this server from every other one.
    pub fn new(config: &Config, server: u128) -> Self {
        Self {
            narinfos: Narinfos::new(config.server.narinfo_cache.0),
            listings: listed::Room::new(),
            documents: documents::Turns::new(),
            push: push::Memory::new(),
            pull: pull::Pull::new(config, server),
        }
    }

    /// Breaks off what is being fetched from upstreams, and waits until nothing of it runs.
    pub async fn end_fetches(&self) {
        self.pull.end().await;
    }

    /// Returns what the memory of rendered narinfos holds.
    pub fn narinfo_memory(&self) -> firn_engine::MemoryUse {
        self.narinfos.memory_use()
    }

    /// Forgets the narinfo of a path that was removed.
    pub fn forget_path(&self, cache: &CacheName, hash: &StoreHash) {
        self.narinfos.forget(cache, hash);
    }

    /// Forgets every narinfo; to be called when stored bytes turned out to be damaged.
    pub fn forget_narinfos(&self) {
        self.narinfos.clear();
    }
}

/// Answers one request.
///
/// It reads what it needs of the request's body, and drains a bounded rest of it when it refuses an upload that is under way, so
/// that the client gets to see why.
pub async fn handle<B>(app: Arc<App>, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let head_only = request.method() == Method::HEAD;
    let takes_chunks = request.version() > Version::HTTP_10;
    let mut log = LogFields::default();
    let mut response = match answer(&app, request, &mut log).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    };
    if head_only {
        strip_body(&mut response);
    } else if !takes_chunks && response.body().length().is_none() {
        // It ends with the connection, and so does one that is broken off: nobody may keep what may be a part.
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response.extensions_mut().insert(log);
    response
}

/// Turns an answer to GET into one to HEAD.
fn strip_body(response: &mut Response<Body>) {
    if let Some(length) = response.body().length() {
        response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let absent = Body::absent(response.body().length());
    *response.body_mut() = absent;
}

async fn answer<B>(app: &Arc<App>, request: Request<B>, log: &mut LogFields) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let target = request.uri().path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if let Some(call) = inspect::route(path) {
        log.kind = Kind::Inspect;
        return Ok(inspect::answer(app, call, request.method(), request.headers(), query).await);
    }
    if let Some(page) = pages::route(path) {
        log.kind = Kind::Page;
        return Ok(pages::answer(app, page, request).await);
    }
    if identity::is_at(path) {
        log.kind = Kind::Other;
        return Ok(identity::answer(app, request).await);
    }
    if let Some(api) = route::parse_api(target) {
        log.kind = Kind::Push;
        return Ok(push::answer(app, api, request, log).await);
    }
    let upload = request.method() == Method::PUT;
    if !upload {
        return read(app, &request, log).await;
    }
    log.kind = Kind::Upload;
    let (head, body) = request.into_parts();
    let mut body = receive::Incoming::new(body, &head.headers, app.config.server.body_timeout.0);
    let result = write(app, &head, &mut body, log).await;
    log.received_bytes = body.received();
    if result.is_err() {
        body.drain().await;
    }
    result
}

/// Answers everything but uploads.
async fn read<B>(app: &Arc<App>, request: &Request<B>, log: &mut LogFields) -> Result<Response<Body>, Problem> {
    let Route::Cache { cache: name, resource } = route::parse(request.uri().path()) else {
        return Err(Problem::NotFound("what this URL names"));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::Method(resource.access()));
    }
    let headers = request.headers();
    let host = host(request.uri(), headers);
    log.kind = kind_of(&resource);
    if resource == Resource::Home && pages::wants_html(headers) {
        log.kind = Kind::Page;
        return Ok(pages::home(app, name, headers, host).await);
    }
    let Some(name) = name.or_else(|| root_cache(app, host)) else {
        // At the root of a server without a cache there.
        return if resource == Resource::Home { Ok(home::server(app, host)) } else { Err(Problem::Forbidden) };
    };
    let access = authorise_read(app, headers, &name, &resource).map_err(|denial| match denial {
        Denial::NoCredentials | Denial::BadToken | Denial::NotGranted => Problem::Forbidden,
        Denial::Mistyped | Denial::Revoked | Denial::Expired => Problem::TokenRefused(denial),
    })?;
    let cache = admitted(app, &name, &access, log)?;
    let want = Want {
        asked: asked(headers).filter(|_| request.method() == Method::GET),
        head_only: request.method() == Method::HEAD,
        asker: address(app, headers, request.extensions().get()).map(asker_of),
        takes_chunks: request.version() > Version::HTTP_10,
    };
    let way = pull::onward(app, &cache, headers);
    match resource {
        Resource::Home => Ok(home::cache(app, &cache, host)),
        Resource::CacheInfo => Ok(home::cache_info(&cache)),
        Resource::NarInfo(hash) => narinfo::get(app, &cache, hash, way).await,
        Resource::Nar(name) => {
            let upstream = pull::path_of(request.uri().query()).zip(way);
            nar(app, &cache, name, upstream, want, &access).await
        }
        Resource::Listing(hash) => files::listing(app, &cache, hash, want).await,
        Resource::File { hash, path } => files::get(app, &cache, hash, path, want).await,
        Resource::Log(_) | Resource::Realisation(_) | Resource::BuildTrace(_) | Resource::DebugInfo(_) => {
            documents::get(app, &cache, &resource, want).await
        }
        Resource::Nothing => Err(Problem::NotFound("what this URL names")),
    }
}

/// Says whether a request may read something. Nix asks for `nix-cache-info` before it uploads; whoever may push is told the same
/// by the push API.
fn authorise_read(app: &App, headers: &HeaderMap, name: &CacheName, resource: &Resource) -> Result<Access, Denial> {
    app.authorise(headers, name, Verb::Pull).or_else(|denial| match resource {
        Resource::CacheInfo => app.authorise(headers, name, Verb::Push).map_err(|_| denial),
        _ => Err(denial),
    })
}

/// Answers for a NAR: what the cache has, or else what is fetched.
async fn nar(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    name: route::NarName,
    upstream: Option<(StoreHash, pull::Way)>,
    want: Want,
    access: &Access,
) -> Result<Response<Body>, Problem> {
    let answer = nar::get(app, cache, name.clone(), want).await;
    let (Err(Problem::NotFound(_)), Some((path, way))) = (&answer, upstream) else { return answer };
    let asker = if access.uploader.token.is_some() { pull::Asker::Known } else { pull::Asker::Anonymous };
    match pull::nar(app, cache, &name, (&path, &way), want, asker).await? {
        pull::Nar::Passed(response) => Ok(*response),
        pull::Nar::Here => nar::get(app, cache, name, want).await,
    }
}

/// Takes an upload.
async fn write<B>(
    app: &Arc<App>,
    head: &http::request::Parts,
    body: &mut receive::Incoming<B>,
    log: &mut LogFields,
) -> Result<Response<Body>, Problem>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let Route::Cache { cache: name, resource } = route::parse(head.uri.path()) else {
        return Err(Problem::NotFound("what this URL names"));
    };
    if resource.access() == route::Access::ReadOnly {
        return Err(Problem::Method(resource.access()));
    }
    let Some(name) = name.or_else(|| root_cache(app, host(&head.uri, &head.headers))) else {
        return Err(Problem::Unauthorised(Denial::NoCredentials));
    };
    let access = app.authorise(&head.headers, &name, Verb::Push).map_err(|denial| match denial {
        Denial::NotGranted => Problem::NotGranted,
        Denial::NoCredentials | Denial::BadToken | Denial::Mistyped | Denial::Revoked | Denial::Expired => {
            Problem::Unauthorised(denial)
        }
    })?;
    let cache = admitted(app, &name, &access, log)?;
    if matches!(resource, Resource::NarInfo(_)) {
        log.kind = Kind::Commit;
    }
    let address = address(app, &head.headers, head.extensions.get());
    let upload = upload::Upload { app, cache: &cache, uploader: access.uploader, address };
    match resource {
        Resource::CacheInfo => upload.cache_info(body).await,
        Resource::NarInfo(hash) => upload.narinfo(hash, body).await,
        Resource::Nar(name) => upload.nar(name, body).await,
        Resource::Listing(hash) => upload.listing(hash, body).await,
        Resource::Log(_) => documents::put_log(upload, &resource, body).await,
        Resource::Realisation(_) | Resource::BuildTrace(_) | Resource::DebugInfo(_) => {
            documents::put(upload, &resource, body).await
        }
        Resource::Home | Resource::File { .. } | Resource::Nothing => Err(Problem::Method(resource.access())),
    }
}

/// Returns the cache of a request that was authorised, and notes it for the log.
fn admitted(app: &App, name: &CacheName, access: &Access, log: &mut LogFields) -> Result<Arc<Cache>, Problem> {
    log.token = access.uploader.token;
    let cache = app.caches.get(name).ok_or(Problem::NoSuchCache)?;
    log.cache = Some(cache.name.clone());
    log.tally = Some(app.usage.counters.of(&cache.name, &access.uploader.builder));
    Ok(cache)
}

/// Returns what kind of request it is to read something.
fn kind_of(resource: &Resource) -> Kind {
    match resource {
        Resource::NarInfo(_) => Kind::NarInfo,
        Resource::Nar(_) => Kind::Nar,
        Resource::Listing(_) | Resource::File { .. } => Kind::File,
        Resource::Log(_) | Resource::Realisation(_) | Resource::BuildTrace(_) | Resource::DebugInfo(_) => {
            Kind::Document
        }
        Resource::Home | Resource::CacheInfo | Resource::Nothing => Kind::Other,
    }
}

/// Returns the address that a request came from: the connection's, or what the proxy before us says if it is trusted.
fn address(app: &App, headers: &HeaderMap, peer: Option<&Peer>) -> Option<IpAddr> {
    let forwarded = headers.get_all("x-forwarded-for").iter().next_back().filter(|_| app.config.server.behind_proxy);
    let forwarded = forwarded.and_then(|value| value.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    forwarded.or(peer.map(|peer| peer.0))
}

/// Returns the host that a request names: HTTP/2 has it in the URL.
pub(crate) fn host<'a>(uri: &'a http::Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let authority = uri.authority().map(http::uri::Authority::as_str);
    authority.or_else(|| headers.get(HOST)?.to_str().ok())
}

fn root_cache(app: &App, host: Option<&str>) -> Option<CacheName> {
    let cache = host.and_then(|host| app.caches.by_host(host)).or_else(|| app.caches.at_root());
    cache.map(|cache| cache.name.clone())
}

/// What of a body a request is for.
#[derive(Debug, Clone, Copy)]
struct Want {
    asked: Option<Asked>,
    head_only: bool,
    /// Whose turn it takes.
    asker: Option<IpAddr>,
    /// Whether a body of unknown length has an end that can be told from a breaking off: not in HTTP/1.0.
    takes_chunks: bool,
}

fn asked(headers: &HeaderMap) -> Option<Asked> {
    // No answer has what it could name (an `ETag`, a date): the part is of something else, and the whole is wanted.
    if headers.contains_key(IF_RANGE) {
        return None;
    }
    let mut ranges = headers.get_all(RANGE).iter();
    let range = ranges.next().filter(|_| ranges.next().is_none())?;
    Asked::parse(range.to_str().ok()?)
}

/// Says if the client waits for a word before it sends its body.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Runs what may block; a panic there is the server's failure.
async fn work<T, F>(app: &App, after: After, work: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Problem> + Send + 'static,
{
    app.blocking(work).await.unwrap_or_else(|panic| Err(Problem::internal(&panic, after)))
}

/// Turns an engine's error into an answer, and forgets what damage makes wrong.
fn failed(app: &App, error: firn_engine::Error, after: After) -> Problem {
    notice(app, &error);
    Problem::of_engine(error, after)
}

/// Forgets what damage makes wrong.
fn notice(app: &App, error: &firn_engine::Error) {
    if error.is_damage() {
        app.http.narinfos.clear();
    }
}

/// Waits for a turn to send something.
async fn download_turn(app: &App, want: Want) -> Result<Turn<IpAddr>, Problem> {
    turn_of(&app.downloads, want).await
}

/// Waits for a turn of whoever wants something.
async fn turn_of(turns: &Turns<IpAddr>, want: Want) -> Result<Turn<IpAddr>, Problem> {
    let turn = tokio::time::timeout(PATIENCE, turns.take(want.asker.as_ref(), 1)).await;
    turn.ok().and_then(Result::ok).ok_or(Problem::Busy(After::Headers))
}

/// Waits for a turn.
async fn permit(turns: &Arc<Semaphore>, patience: Duration, after: After) -> Result<OwnedSemaphorePermit, Problem> {
    let turn = tokio::time::timeout(patience, Arc::clone(turns).acquire_owned()).await;
    turn.ok().and_then(Result::ok).ok_or(Problem::Busy(after))
}

/// How long an answer may be kept by caches between us and the client.
#[derive(Debug, Clone, Copy)]
enum Caching {
    /// The bytes behind the URL never change.
    Immutable,
    /// Seconds.
    For(u32),
}

impl Caching {
    /// Returns the header's value for an answer out of `cache`; what is private stays out of shared caches.
    fn of(self, cache: &Cache) -> HeaderValue {
        let scope = if cache.row.public { "public" } else { "private" };
        let value = match self {
            Self::Immutable => format!("{scope}, max-age=31536000, immutable"),
            Self::For(seconds) => format!("{scope}, max-age={seconds}"),
        };
        HeaderValue::from_str(&value).expect("letters and digits are a header value")
    }
}

/// Returns a 200 with a type and a caching rule.
fn ok(body: Body, content_type: &'static str, caching: HeaderValue) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, caching);
    response
}

/// Returns the answer to an upload that was taken.
fn taken() -> Response<Body> {
    Response::new(Body::empty())
}

#[doc(hidden)]
pub mod fuzz {
    //! Bodies of the fuzz targets.
    pub use super::range::fuzz_range;
    pub use super::route::fuzz_route;
    pub use crate::backup::fuzz_manifest;
    pub use crate::config::fuzz_config;
}
