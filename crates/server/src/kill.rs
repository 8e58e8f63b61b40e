//! Ends the server at a chosen call of its storage, for tests of what a crash leaves.
//!
//! `FIRN_TEST_KILL=append:17` kills the process in the place of its 18th append, `append:17:after` right after it. It is
//! looked at once, when the store is opened; without it there is nothing between the engine and the disk.

use std::sync::Arc;

use firn_storage::{Failure, Fault, Operation, Storage};

/// The variable.
const VARIABLE: &str = "FIRN_TEST_KILL";

/// Returns the storage as it is, or one that kills the process where the environment says.
pub(crate) fn with_kill(storage: Arc<dyn Storage>) -> Arc<dyn Storage> {
    let Some((operation, spare, failure)) = std::env::var(VARIABLE).ok().and_then(|place| read(&place)) else {
        return storage;
    };
    tracing::warn!(?operation, spare, ?failure, "this process will be killed, because {VARIABLE} is set");
    let fault = Fault::new(storage);
    fault.plan(Some(operation), spare, failure);
    Arc::new(fault)
}

fn read(place: &str) -> Option<(Operation, u64, Failure)> {
    let mut parts = place.split(':');
    let (operation, spare) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    match (parts.next(), parts.next()) {
        (None, _) => Some((operation, spare, Failure::Kill)),
        (Some("after"), None) => Some((operation, spare, Failure::KillAfter)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        assert_eq!(read("append:17"), Some((Operation::Append, 17, Failure::Kill)));
        assert_eq!(read("sync:0:after"), Some((Operation::Sync, 0, Failure::KillAfter)));
        for wrong in ["", "append", "append:", "append:x", "apend:1", "sync:1:before", "sync:1:after:2"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
