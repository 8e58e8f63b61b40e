//! The Nix store, as `firn push` and the agent read it.

use firn_nix_store::{Database, Error, Location, MAX_PAGE};

use super::Finding;
use crate::failure::{Failure, Kind};
use crate::progress::paths;

const CHECK: &str = "store";

/// Reads the whole database, as far as this user may.
pub(super) fn examine() -> Finding {
    match Location::from_env() {
        Ok(location) => judge(&location, count(&location)),
        Err(error) => Finding::of_failure(CHECK, &Failure::of(Kind::Store, error)),
    }
}

/// What the database has.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) valid: u64,
    pub(super) unreadable: u64,
}

fn count(location: &Location) -> Result<Count, Error> {
    let database = Database::open(location)?;
    let (mut count, mut after) = (Count::default(), 0);
    loop {
        let page = database.valid_after(after, MAX_PAGE)?;
        let Some(last) = page.last_id() else { return Ok(count) };
        after = last;
        count.valid += page.paths.len() as u64;
        count.unreadable += page.unreadable.len() as u64;
    }
}

/// Judges what came of it.
pub(super) fn judge(location: &Location, counted: Result<Count, Error>) -> Finding {
    let database = location.database();
    let failed = |error| Finding::of_failure(CHECK, &Failure::of(Kind::Store, error));
    match counted {
        Ok(Count { valid, unreadable: 0 }) => Finding::ok(CHECK, format!("{} in {}", paths(valid), database.display())),
        Ok(Count { valid, unreadable }) => Finding::warn(
            CHECK,
            format!("{} in {}, and {unreadable} whose rows make no sense", paths(valid), database.display()),
            "those are not pushed; `nix-store --verify` may say more",
        ),
        Err(Error::NoDatabase { .. }) => Finding::skipped(CHECK, format!("there is no {}", database.display())),
        Err(Error::Denied { .. }) => Finding::skipped(
            CHECK,
            format!(
                "this user may not read {}: `firn push` asks the daemon, an agent has to run as root",
                database.display()
            ),
        ),
        Err(error @ (Error::Locked { .. } | Error::Replaced { .. })) => {
            Finding { state: super::State::Warn, ..failed(error) }
        }
        Err(error) => failed(error),
    }
}
