//! The agent as a service: signals, the service manager, file events, sockets.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firn_client::agent::{
    Agent, ControlSocket, Error as AgentError, Filter, Handle, NixStore, PinLimits, RemotePusher, Settings, Start,
    Status, Store as _, UpstreamKeys, Upstreams,
};
use firn_client::push::StoreSource;
use firn_client::queue;
use firn_client::remote::{HttpOptions, SystemClock, SystemJitter};
use firn_nix_store::Location;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::{Service, wake};
use crate::agent_place::AgentOptions;
use crate::cache_ref::CacheRef;
use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Kind};
use crate::metrics_port;
use crate::push_target::give_target;

/// How long the agent may take to stop. What is being sent then is sent again the next time, as far as it is missing.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// For how long a request of a push under way is tried again, before the agent says that the server is unreachable.
const REQUEST_PATIENCE: Duration = Duration::from_secs(60);

/// How often the service manager is told how things are.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How long the agent may take to say how things are, before the watchdog is no longer fed.
const ALIVE_WITHIN: Duration = Duration::from_secs(30);

/// Runs the agent until it is told to stop.
pub(super) fn run(service: &Service, options: &AgentOptions, context: &Context) -> Result<u8, Failure> {
    let place = options.own()?;
    let cache = context.cache(service.cache.as_deref(), service.token_file.as_deref())?;
    let location = Location::from_env().map_err(|error| Failure::of(Kind::Store, error))?;
    let store = NixStore::new(location.clone());
    check_store(&store)?;
    let pusher = Arc::new(RemotePusher::new(
        give_target(context, service.cache.clone(), service.token_file.clone()),
        http_options(),
        Arc::new(StoreSource(location.clone())),
        upstreams(service, &cache),
        location.store_dir.clone(),
        service.effort.options(),
        REQUEST_PATIENCE,
    ));
    let settings = settings(service, &cache, place.state.clone(), pusher.upstream_keys());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::doing(Kind::Failed, "start threads", error))?;
    let database = location.state_dir.join("db");
    let ended = runtime.block_on(async {
        let agent =
            Agent::open(settings, store, Arc::new(SystemClock), Arc::new(SystemJitter)).map_err(agent_failure)?;
        let socket = ControlSocket::bind(&place.socket, service.socket_mode).map_err(agent_failure)?;
        serve(agent, pusher, socket, database, service.metrics_listen).await
    });
    // A read that hangs on a dead disk must not keep the process.
    runtime.shutdown_background();
    ended.map(|()| exit::DONE)
}

async fn serve(
    agent: Agent<NixStore>,
    pusher: Arc<RemotePusher>,
    socket: ControlSocket,
    database: PathBuf,
    metrics_listen: Option<std::net::SocketAddr>,
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let handle = agent.handle();
    let mut signals = Signals::new()?;
    let metrics = match metrics_listen {
        Some(address) => Some(metrics_port::bind(address).await?),
        None => None,
    };
    let work = async {
        let scrapes = async {
            if let Some(metrics) = metrics {
                metrics_port::serve(metrics, handle.clone(), &stop).await;
            }
        };
        let looked = handle.clone();
        tokio::join!(
            agent.run(pusher.clone(), stop.clone()),
            socket.serve(handle.clone(), stop.clone()),
            wake::watch(&database, &stop, move || looked.look()),
            tell_manager(&handle, &stop),
            scrapes,
        );
    };
    let placeless = placeless(&handle);
    tokio::pin!(work, placeless);
    let mut ended = Ok(());
    tell(&[NotifyState::Ready]);
    tracing::info!("the agent works");
    loop {
        tokio::select! {
            () = &mut work => return Ok(()),
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            error = &mut placeless => {
                ended = Err(agent_failure(error));
                break;
            }
            _ = signals.reload.recv() => {
                tracing::info!("reading the token again");
                reloading();
                pusher.reconnect();
                handle.resume();
            }
        }
    }
    tracing::info!("stopping");
    tell(&[NotifyState::Stopping]);
    stop.cancel();
    if timeout(STOP_WITHIN, &mut work).await.is_err() {
        tracing::warn!("something did not stop in time and is broken off; nothing is lost by it");
    }
    ended
}

/// Returns when the queue's files are gone: an agent that went on would promise what it can't keep.
async fn placeless(handle: &Handle<NixStore>) -> AgentError {
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // Any other trouble with them is the intake's to tell.
        if let Err(error @ AgentError::Queue(queue::Error::Gone { .. })) = handle.check_place().await {
            return error;
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error| Failure::doing(Kind::Failed, "listen to signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            reload: listen(SignalKind::hangup())?,
        })
    }
}

/// Keeps the service manager up to date, and its watchdog content while the agent answers.
async fn tell_manager(handle: &Handle<NixStore>, stop: &CancellationToken) {
    let watchdog = sd_notify::watchdog_enabled();
    let every = watchdog.map_or(TELL_EVERY, |limit| TELL_EVERY.min(limit / 3));
    let mut ticks = interval(every.max(Duration::from_millis(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Ok(status) = timeout(ALIVE_WITHIN, handle.status()).await else { continue };
        if watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
        // A queue that can't be read is told of in the log.
        let Ok(status) = status else { continue };
        let line = one_line(&status);
        if line != last {
            tell(&[NotifyState::Status(&line)]);
            last = line;
        }
    }
}

fn one_line(status: &Status) -> String {
    let work = format!("{} waiting, {} refused", status.waiting, status.dead);
    match &status.trouble {
        Some(trouble) => format!("{}: {trouble}; {work}", status.activity.name()),
        None => work,
    }
}

fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
        tell(&[NotifyState::Ready]);
    }
}

/// Tells the service manager, if there is one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "can't tell the service manager");
    }
}

fn settings(service: &Service, cache: &CacheRef, directory: PathBuf, upstream_keys: UpstreamKeys) -> Settings {
    let filter = Filter {
        upstream_keys,
        include: service.include.clone(),
        exclude: service.exclude.clone(),
        max_nar_bytes: service.max_nar_size.map(|size| size.as_u64()),
        derivations: service.with_derivations,
        sources: service.with_sources,
    };
    let pins = PinLimits {
        max_bytes: service.max_pinned_bytes.as_u64(),
        max_age_millis: u64::try_from(service.max_pin_age.as_millis()).unwrap_or(u64::MAX),
    };
    let name = cache.name.clone().unwrap_or_else(|| cache.url.to_string());
    let start = if service.backfill { Start::Everything } else { Start::Now };
    let url = cache.url.to_string();
    Settings { filter, pins, start, url, ..Settings::new(name, directory) }
}

fn upstreams(service: &Service, cache: &CacheRef) -> Upstreams {
    match &cache.upstream_keys {
        _ if service.no_upstream_skip => Upstreams::Only(Vec::new()),
        Some(keys) => Upstreams::Only(keys.clone()),
        None => Upstreams::Server,
    }
}

/// As Nix does, for a server with a certificate of the organisation's own.
fn http_options() -> HttpOptions {
    let extra_certificates = std::env::var_os("NIX_SSL_CERT_FILE").map(PathBuf::from);
    HttpOptions { extra_certificates, ..HttpOptions::default() }
}

/// Refuses a database that can't be read, rather than wait for what nobody mends. A locked one is waited for.
fn check_store(store: &NixStore) -> Result<(), Failure> {
    match store.page(i64::MAX - 1, 1) {
        Ok(_) | Err(firn_nix_store::Error::Locked { .. } | firn_nix_store::Error::Replaced { .. }) => Ok(()),
        Err(error) => Err(Failure::of(Kind::Store, error)),
    }
}

fn agent_failure(error: AgentError) -> Failure {
    let kind = match &error {
        AgentError::Occupied { .. } | AgentError::Queue(queue::Error::Owned { .. }) => Kind::Agent,
        AgentError::Store(_) => Kind::Store,
        AgentError::NoSocket { .. } => Kind::Config,
        _ => Kind::Failed,
    };
    Failure::of(kind, error)
}
