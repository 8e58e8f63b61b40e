//! What every request shares. Handlers get it as `Arc<App>`; it owns no task and no socket.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use firn_engine::{Clock, Engine};
use firn_index::{CacheName, TokenId, UnixSeconds, Verb};
use http::HeaderMap;
use tokio::sync::Semaphore;

use crate::auth::{Access, Denial, Tokens};
use crate::caches::Caches;
use crate::collector::Collector;
use crate::config::Config;
use crate::metrics::Kind;
use crate::scrubber::Scrubber;
use crate::sources::Sources;
use crate::squeeze::Squeezer;
use crate::turns::Turns;
use crate::usage::{Tally, Usage};

/// How many NARs are compressed at once for downloads, by processor and at least; some 8 MiB of memory each.
const ENCODERS_A_PROCESSOR: usize = 2;
const MIN_ENCODERS: usize = 4;

/// The state behind all requests.
pub struct App {
    /// Ingest and restore.
    pub engine: Engine,
    /// The configuration, checked.
    pub config: Config,
    /// The caches, as of the last change by an administrator.
    pub caches: Caches,
    /// The tokens, as of the last change by an administrator.
    pub tokens: Tokens,
    /// One turn per upload of a NAR or document in progress (`server.max-uploads`), by builder.
    pub uploads: Turns<String>,
    /// One turn per NAR or file being sent (`server.max-downloads`), by address as [`asker_of`](crate::turns::asker_of) has it.
    pub downloads: Turns<IpAddr>,
    /// One permit per NAR that is compressed for whoever downloads it: memory and a processor.
    pub encoders: Arc<Semaphore>,
    /// What compresses cold packs again.
    pub squeezer: Squeezer,
    /// What collects garbage.
    pub collector: Collector,
    /// What the HTTP side keeps in memory.
    pub http: crate::http::Memory,
    /// Reads packs again.
    pub scrubber: Arc<Scrubber>,
    /// Sees to it that one cache at a time is written or read as files.
    pub files: crate::file_cache::Turns,
    /// Pulls from builders and other stores.
    pub sources: Arc<Sources>,
    /// Counters and usage reports.
    pub usage: Usage,
    /// Exchanges identities for tokens.
    pub oidc: crate::oidc::Oidc,
    /// What [`crate::maintenance`] counted last.
    pub counted: crate::maintenance::Counted,
    /// Counters of requests.
    pub requests: crate::metrics::Requests,
    /// Counters of the spans that are sent, if they are.
    pub traces: OnceLock<Arc<crate::traces::Counts>>,
    clock: Arc<dyn Clock>,
}

/// The work that [`App::blocking`] was given panicked; the panic's own message is on standard error.
#[derive(Debug, thiserror::Error)]
#[error("run a request's work: it panicked")]
pub struct Panicked;

/// The address that a request came from: put it into the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// What a handler tells the access log and the counters: put it into the response's extensions.
#[derive(Debug, Clone, Default)]
pub struct LogFields {
    /// The cache that the request named, if it exists and the client may see it.
    pub cache: Option<CacheName>,
    /// The token that was accepted.
    pub token: Option<TokenId>,
    /// What kind of request it was.
    pub kind: Kind,
    /// Where to count what it did.
    pub tally: Option<Arc<Tally>>,
    /// Bytes of its body that were received.
    pub received_bytes: u64,
}

impl App {
    /// Makes the state over an open store; reads all caches and tokens.
    pub fn new(
        engine: Engine,
        config: Config,
        clock: Arc<dyn Clock>,
        squeezer: Squeezer,
    ) -> Result<Self, firn_index::Error> {
        let caches = Caches::load(engine.meta())?;
        let tokens = Tokens::load(engine.meta())?;
        let uploads = Turns::new(config.server.max_uploads);
        let downloads = Turns::new(config.server.max_downloads);
        let http = crate::http::Memory::new(&config, engine.entropy().draw());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let encoders = Arc::new(Semaphore::new((ENCODERS_A_PROCESSOR * processors).max(MIN_ENCODERS)));
        let scrubber = Arc::new(Scrubber::new(config.scrub.clone()));
        let usage = Usage::default();
        usage.load(engine.meta());
        let requests = crate::metrics::Requests::default();
        let oidc = crate::oidc::Oidc::new(&config.oidc);
        Ok(Self {
            engine,
            config,
            caches,
            tokens,
            uploads,
            downloads,
            encoders,
            squeezer,
            collector: Collector::default(),
            http,
            scrubber,
            files: Default::default(),
            sources: Arc::default(),
            usage,
            oidc,
            counted: Default::default(),
            requests,
            traces: OnceLock::new(),
            clock,
        })
    }

    /// Returns the time.
    pub fn now(&self) -> UnixSeconds {
        self.clock.now()
    }

    /// Says whether a request may do `verb` to a cache, and as whom.
    ///
    /// Pulling from a public cache needs no token, and a bad one does no harm there. A cache that doesn't exist is
    /// like a private one, so that nobody learns which names exist: look it up in [`App::caches`] afterwards.
    pub fn authorise(&self, headers: &HeaderMap, cache: &CacheName, verb: Verb) -> Result<Access, Denial> {
        let public = self.caches.get(cache).is_some_and(|cache| cache.row.public);
        self.tokens.authorise(headers, cache, public, verb, self.now())
    }

    /// Runs work that may block (disk, hashing, compression) on the pool for such work.
    ///
    /// The work goes on to its end when the future is dropped.
    pub async fn blocking<T, F>(&self, work: F) -> Result<T, Panicked>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let span = tracing::Span::current();
        tokio::task::spawn_blocking(move || span.in_scope(work)).await.map_err(|_| Panicked)
    }
}
