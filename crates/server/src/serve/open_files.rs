//! The system's limit of open files, of which every connection takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::ServerConfig;

/// Open files that the store and the server need beside connections: both indexes have up to 512 files open each.
const RESERVED: u64 = 1536;

/// The fewest connections that are worth running for, whatever the limit.
const FEWEST: u64 = 16;

/// Raises the limit as far as the system lets us, and lowers `max-connections` to what fits: a store that can't open its
/// files fails requests that a client could have waited for.
pub(super) fn provide(config: &mut ServerConfig) {
    let wanted = (config.max_connections as u64).saturating_add(RESERVED);
    let limit = raise(wanted);
    let fits = limit.saturating_sub(RESERVED).max(FEWEST);
    if fits < config.max_connections as u64 {
        let max_connections = config.max_connections;
        tracing::warn!(
            open_files = limit,
            max_connections,
            fits,
            "the limit of open files is too low for server.max-connections: taking fewer (raise LimitNOFILE)"
        );
        config.max_connections = usize::try_from(fits).unwrap_or(max_connections);
    }
}

/// Returns the limit that holds now; no limit is the largest number.
fn raise(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let Some(current) = current else { return u64::MAX };
    if current >= wanted {
        return current;
    }
    let next = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(next), maximum }) {
        Ok(()) => next,
        Err(_) => current,
    }
}
