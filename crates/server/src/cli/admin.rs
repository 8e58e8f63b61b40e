//! Getting a request done: by the running server, or else here.

use std::thread;
use std::time::{Duration, Instant};

use firn_engine::{Clock, SystemClock};
use firn_index::Meta;

use super::{CliError, Report, output};
use crate::admin::{Admin, Answer, Failure, Request, Status, execute, socket};
use crate::config::Config;
use crate::data_dir::{DataDir, DataError, Lock, SystemEntropy};
use crate::maintenance::Maintenance;
use crate::serve::{self, ServeError};

/// How long to wait for a server that starts or stops, or for another command.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who does a request.
pub(super) enum Reached {
    /// The running server, which has answered.
    Server(Box<Result<Answer, Failure>>),
    /// This process: nobody else may use the data directory as long as it holds the lock.
    Here(Lock),
}

/// Refuses a data directory without a store, for commands that make none.
pub(super) fn need_store(data: &DataDir) -> Result<(), CliError> {
    if data.exists()? { Ok(()) } else { Err(CliError::NoStore { data: data.root().to_owned() }) }
}

/// Has the running server do a request, or takes the data directory if none runs; `name` then tells others who holds it.
///
/// A server that starts or stops, and a command that will be done, are waited for, at most [`PATIENCE`].
pub(super) fn reach(data: &DataDir, request: &Request, name: &str) -> Result<Reached, CliError> {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(reply) = socket::ask(data, request)? {
            return Ok(Reached::Server(Box::new(reply)));
        }
        match data.try_lock(name)? {
            Ok(lock) => return Ok(Reached::Here(lock)),
            // It starts and has no socket yet, stops and has none any more, or is a command that will be done.
            Err(_) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
            Err(holder) => return Err(DataError::Held { data: data.root().to_owned(), holder }.into()),
        }
    }
}

/// Gets a request done; `makes_store` says whether a new store is made for it.
pub(super) fn ask(data: &DataDir, config: &Config, request: &Request, makes_store: bool) -> Result<Answer, CliError> {
    if !makes_store {
        need_store(data)?;
    }
    let lock = match reach(data, request, "firnd, a command")? {
        Reached::Server(reply) => return Ok((*reply)?),
        Reached::Here(lock) => lock,
    };
    if request.needs_engine() {
        return with_engine(data, config, lock, request);
    }
    let store = data.open_index(lock)?;
    if makes_deleted_cache(&*store.meta, request)? {
        return with_engine(data, config, store.into_lock()?, request);
    }
    let admin = Admin {
        meta: &*store.meta,
        index: None,
        app: None,
        engine: None,
        gc: &config.gc,
        data,
        base_url: &serve::base_url(&config.server, None),
        entropy: &SystemEntropy,
        now: SystemClock.now(),
    };
    let answer = execute(&admin, request.clone());
    store.close()?;
    Ok(answer?)
}

/// Returns whether a request makes a cache whose name a deleted one had, of which packs are to be told first.
fn makes_deleted_cache(meta: &dyn Meta, request: &Request) -> Result<bool, CliError> {
    let Request::CacheCreate { name, .. } = request else { return Ok(false) };
    let failed = |error| CliError::Store { detail: crate::error_chain(&error) };
    Ok(meta.deleted_caches().map_err(failed)?.iter().any(|deleted| deleted.as_str() == name))
}

/// Gets a request done with the whole store, which is brought into order first if the last server was killed.
fn with_engine(data: &DataDir, config: &Config, lock: Lock, request: &Request) -> Result<Answer, CliError> {
    let store = data.open_store(lock, config)?;
    let admin = Admin {
        meta: store.engine.meta(),
        index: Some(&store.index),
        app: None,
        engine: Some(&store.engine),
        gc: &config.gc,
        data,
        base_url: &serve::base_url(&config.server, None),
        entropy: &SystemEntropy,
        now: SystemClock.now(),
    };
    let answer = execute(&admin, request.clone());
    store.engine.close().map_err(|error| ServeError::Close(Box::new(error)))?;
    store.release();
    Ok(answer?)
}

/// Returns the error for an answer to another question.
pub(super) fn unexpected() -> CliError {
    CliError::Socket(socket::SocketError::Answer { detail: "it answers another question".to_owned() })
}

/// `firnd status`
pub(super) fn status(data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let Answer::Status(status) = ask(data, config, &Request::Status, false)? else { return Err(unexpected()) };
    Ok(Report::new(status_text(&status), &status))
}

fn status_text(status: &Status) -> String {
    let Status { paths, logical_bytes, unique_bytes, stored_bytes, index_bytes, .. } = status;
    let server = match status.pid {
        Some(pid) if status.running => format!("running (process {pid})"),
        _ => "not running".to_owned(),
    };
    let on_disk = stored_bytes.saturating_add(*index_bytes);
    // Nothing uploaded has no ratio.
    let ratio = match logical_bytes.saturating_mul(100).checked_div(on_disk) {
        Some(percent) if *paths > 0 => format!(": {}.{:02} times smaller than logical", percent / 100, percent % 100),
        _ => String::new(),
    };
    let free = status.free_bytes.map_or_else(|| "unknown".to_owned(), output::bytes);
    let mut rows = vec![
        ("server", server),
        ("data", status.data.clone()),
        ("caches", status.caches.to_string()),
        ("active tokens", status.active_tokens.to_string()),
        ("paths", paths.to_string()),
        ("logical", output::bytes(*logical_bytes)),
        ("unique", output::bytes(*unique_bytes)),
        ("stored", format!("{} in {} packs", output::bytes(*stored_bytes), status.packs)),
        ("index", output::bytes(*index_bytes)),
        ("on disk", format!("{}{ratio}", output::bytes(on_disk))),
        ("free", free),
        ("condemned", format!("{} in {} packs", output::bytes(status.condemned.stored_bytes), status.condemned.packs)),
        ("doomed", format!("{} in {} packs", output::bytes(status.doomed.stored_bytes), status.doomed.packs)),
    ];
    match &status.maintenance {
        Some(maintenance) => rows.extend(maintenance_rows(maintenance)),
        None => {
            let last = status.last_collected_at.map(|at| format!("last {}", output::time(at)));
            rows.push(("collection", last.unwrap_or_else(|| NO_COLLECTION.to_owned())));
        }
    }
    output::pairs(&rows)
}

/// Of a store that was never collected, or not since that is written down.
const NO_COLLECTION: &str = "none has come to its end";

fn maintenance_rows(maintenance: &Maintenance) -> Vec<(&'static str, String)> {
    let Maintenance { gc, scrub, squeeze } = maintenance;
    let failed =
        |problem: &Option<String>| problem.as_ref().map(|problem| format!("; failed: {problem}")).unwrap_or_default();
    let last = match gc.last_ended_at {
        Some(at) => {
            let (paths, came) = (gc.last_removed_paths, output::bytes(gc.last_deleted.stored_bytes));
            format!("last {}: {paths} paths went, {came} came back", output::time(at))
        }
        None => NO_COLLECTION.to_owned(),
    };
    let under_way = gc.running_since.map(|at| format!("under way since {}; ", output::time(at))).unwrap_or_default();
    let failure = gc.problem.iter().zip(gc.failed_at).map(|(why, at)| format!("; failed {}: {why}", output::time(at)));
    let mut rows = vec![
        ("collection", format!("{under_way}{last}{}", failure.collect::<String>())),
        ("is to come", output::bytes(gc.reclaimable_bytes)),
    ];
    rows.extend(gc.stuck.iter().take(5).map(|stuck| ("stuck pack", format!("{}: {}", stuck.pack, stuck.why))));
    let scrubbing = match (scrub.running, scrub.last_ended_at) {
        (true, _) => format!("under way, {} read", output::bytes(scrub.read_bytes)),
        (false, Some(at)) => format!("last {}", output::time(at)),
        (false, None) => "never came to an end".to_owned(),
    };
    let damage = match scrub.damaged_paths + scrub.unreadable_packs {
        0 => String::new(),
        _ => format!("; {} damaged paths, {} packs not readable", scrub.damaged_paths, scrub.unreadable_packs),
    };
    rows.push(("scrub", format!("{scrubbing}{damage}{}", failed(&scrub.problem))));
    let waiting = format!("{} in {} packs", output::bytes(squeeze.backlog.stored_bytes), squeeze.backlog.packs);
    let squeezing = match (squeeze.pass.running, squeeze.enabled) {
        (true, _) => format!("under way: {} of {} packs", squeeze.pass.done_packs, squeeze.pass.packs),
        (false, true) => format!("{waiting} wait"),
        (false, false) => format!("off; {waiting} could be squeezed"),
    };
    rows.push(("squeeze", format!("{squeezing}{}", failed(&squeeze.pass.error))));
    rows
}
