//! Running the server: from the checked configuration to an orderly end.
//!
//! Order of the start: lock, TLS files, store (with recovery), sockets; nothing listens before all else is good. Order of
//! the end: no new connections, requests in progress, administration, store, lock, traces.

mod access_log;
mod connection;
mod health;
mod listen;
mod logging;
mod open_files;
mod outflow;
mod schedule;
mod shutdown;
#[cfg(test)]
mod tests;
pub mod tls;
mod usage;
mod watch;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use firn_engine::SystemClock;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::admin::socket;
use crate::app::App;
use crate::config::{Config, ServerConfig};
use crate::data_dir::{DataDir, DataError, IndexFiles, OpenStore, SERVER};
use crate::squeeze::Squeezer;
use crate::traces::{Counts, Sending, TracesError};

pub use logging::{BoxedLayer, init as init_logging};

/// Threads that may block beside those of uploads and of NARs that are fetched: reads of NARs, look-ups, administration.
const BLOCKING_THREADS: usize = 128;

/// How long the end waits for work that blocks and can't be told to stop.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Why the server ended, or never ran.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The data directory or its store can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The caches or tokens can't be read.
    #[error("read the caches and tokens")]
    Index(#[source] firn_index::Error),
    /// The TLS files are no good.
    #[error("read the TLS file {}: {detail}", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The collector of traces is named badly.
    #[error(transparent)]
    Traces(#[from] TracesError),
    /// A socket can't be opened.
    #[error("listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no threads or no signals.
    #[error("{doing}")]
    Runtime {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The store can't be closed in order; what was acknowledged is safe all the same.
    #[error("close the store")]
    Close(#[source] Box<firn_engine::Error>),
}

/// Runs a server on a data directory until it is told to end.
pub fn run(config: Config, data: &DataDir, json: bool) -> Result<(), ServeError> {
    let (traces, layer) = Sending::begin(&config.traces)?.unzip();
    logging::init_with(&config.log, layer);
    let lock = data.lock(SERVER)?;
    let tls = tls::Tls::from_config(&config.server)?;
    let store = data.open_store(lock, &config)?;
    let mut config = config;
    open_files::provide(&mut config.server);
    let threads =
        config.server.max_uploads.saturating_add(config.upstream.max_fetches).saturating_add(BLOCKING_THREADS);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(threads)
        .thread_name("firnd")
        .build()
        .map_err(|source| ServeError::Runtime { doing: "start threads", source })?;
    let counts = traces.as_ref().map(Sending::counts);
    let result = runtime.block_on(serve(config, data, &store, tls, json, counts));
    // Also after an error: what was committed is made small and quick to open.
    let closed = store.engine.close().map_err(|error| ServeError::Close(Box::new(error)));
    runtime.shutdown_timeout(LAST_WAIT);
    store.release();
    if let Some(traces) = traces {
        traces.end();
    }
    result.and(closed)?;
    tracing::info!("firnd has ended");
    Ok(())
}

async fn serve(
    config: Config,
    data: &DataDir,
    store: &OpenStore,
    tls: Option<tls::Tls>,
    json: bool,
    counts: Option<Arc<Counts>>,
) -> Result<(), ServeError> {
    let grace = config.server.shutdown_grace.0;
    let listeners = listen::bind(&config.server.listen.0).await?;
    let socket = socket::listen(data)?;
    let stop = CancellationToken::new();
    let tls = tls.map(Arc::new);
    shutdown::watch(stop.clone(), tls.clone())
        .map_err(|source| ServeError::Runtime { doing: "watch for signals", source })?;
    let bound: Vec<SocketAddr> = listeners.iter().map(|listener| listener.address).collect();
    let base_url = base_url(&config.server, bound.first().copied());
    let squeezer = Squeezer::start(store.engine.clone(), &config.squeeze)
        .map_err(|source| ServeError::Runtime { doing: "start threads", source })?;
    let app = App::new(store.engine.clone(), config, Arc::new(SystemClock), squeezer).map_err(ServeError::Index)?;
    let app = Arc::new(app);
    let (clock, memory) = (Arc::clone(&app), Arc::clone(&app));
    let scrubbing = app.scrubber.spawn(app.engine.clone(), move || clock.now(), move || memory.http.forget_narinfos());
    // It was just made, so that nobody has set it.
    let _ = app.usage.index.set(data.index());
    if let Some(counts) = counts {
        let _ = app.traces.set(counts);
    }
    let counting = usage::Counting::begin(Arc::clone(&app));
    // Builders reach the server as its clients do.
    let _ = app.sources.base_url.set(base_url.clone());
    let pulling = app.sources.spawn(Arc::clone(&app), data.sources());
    let pulling = pulling.map_err(|source| ServeError::Runtime { doing: "start threads", source })?;
    let administration = administer(Arc::clone(&app), socket, data.clone(), store.index.clone(), base_url);
    let server =
        Arc::new(connection::Server::new(Arc::clone(&app), Arc::clone(&store.storage), tls.clone(), stop.clone()));
    let schedule = tokio::spawn(schedule::run(Arc::clone(&app), stop.clone()));
    announce(&bound, tls.is_some(), json);
    let accepting: Vec<_> =
        listeners.into_iter().map(|listener| tokio::spawn(listen::accept(listener, Arc::clone(&server)))).collect();
    stop.cancelled().await;
    for task in accepting {
        // They end by the same token; one that panicked has said so.
        let _ = task.await;
    }
    app.engine.interrupt_collections();
    app.collector.stop();
    app.scrubber.end();
    app.sources.end();
    app.files.end();
    server.drain(grace).await;
    app.http.end_fetches().await;
    let _ = schedule.await;
    administration.end().await;
    // Its syncs end with the NARs that they read, of which no more comes.
    let _ = tokio::task::spawn_blocking(move || pulling.join()).await;
    // It ends within a frame. Whether it panicked, it has said.
    let _ = tokio::task::spawn_blocking(move || scrubbing.join()).await;
    let ending = Arc::clone(&app);
    // One that panicked has said so.
    let _ = app.blocking(move || ending.squeezer.end()).await;
    counting.end().await;
    // A left-over socket would do no harm, and is removed by the next server.
    let _ = std::fs::remove_file(data.socket());
    Ok(())
}

struct Administration {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn administer(
    app: Arc<App>,
    listener: UnixListener,
    data: DataDir,
    index: IndexFiles,
    base_url: String,
) -> Administration {
    let stop = CancellationToken::new();
    let server = Arc::new(socket::Server { app, data, index, base_url, gate: Mutex::new(None) });
    let task = tokio::spawn(socket::serve(listener, server, stop.clone()));
    Administration { stop, task }
}

impl Administration {
    async fn end(self) {
        self.stop.cancel();
        // A deletion of a large cache may take its time: it is all or nothing, and the lock is still ours.
        let _ = self.task.await;
    }
}

/// Says on standard output where the server listens: scripts that ask for port 0 read it there.
fn announce(bound: &[SocketAddr], tls: bool, json: bool) {
    let scheme = if tls { "https" } else { "http" };
    let mut text = String::new();
    for address in bound {
        let url = format!("{scheme}://{address}");
        text += &if json {
            format!("{}\n", serde_json::json!({ "listening": url }))
        } else {
            format!("firnd: listening on {url}\n")
        };
        tracing::info!(%url, "listening");
    }
    let mut out = io::stdout().lock();
    // Whoever started us may not care, and may have closed it.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Returns how clients reach the server, without a final slash: as configured, or else by its first address.
pub fn base_url(config: &ServerConfig, bound: Option<SocketAddr>) -> String {
    if let Some(url) = &config.public_url {
        return url.clone();
    }
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    let address =
        bound.or_else(|| config.listen.0.first().copied()).unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 8080)));
    if address.ip().is_unspecified() {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = if name.trim().is_empty() { "localhost" } else { name.trim() };
        return format!("{scheme}://{name}:{}", address.port());
    }
    format!("{scheme}://{address}")
}
