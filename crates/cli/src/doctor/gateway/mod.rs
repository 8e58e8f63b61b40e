//! A gateway: a machine whose Nix hands builds to others, and sends what comes back to the cache.
//!
//! `gather` asks the machine, here or by ssh; `judge` knows the traps. What Nix does in which case was tried, and is in
//! `docs/guides/gateway.md`.

mod gather;
mod judge;
mod machines;
mod place;
#[cfg(test)]
mod tests;

use firn_api::CacheDescription;

pub(crate) use place::Login;

use super::{Finding, agent, nix};
use crate::cache_ref::CacheRef;
use crate::failure::Failure;
use crate::probe::Probe;
use crate::trust::Trust;
use gather::{Agent, Gateway};
use place::Place;

/// Looks at a gateway: this machine, or one that is logged in to; with a cache, also at what the gateway makes of it.
pub(crate) fn examine(login: Option<Login>, cache: Result<CacheRef, Failure>) -> Result<Vec<Finding>, Failure> {
    let place = login.map_or(Place::Here, Place::There);
    let gateway = match Gateway::ask(&place) {
        Ok(gateway) => gateway,
        Err(failure) => return Ok(vec![Finding::of_failure("gateway", &failure)]),
    };
    let mut findings = judge::builds(&gateway);
    match cache {
        Ok(cache) => findings.extend(substituting(&gateway, &cache)?),
        Err(failure) => {
            findings.push(Finding::skipped("substituter", format!("no cache to look for: {}", failure.chain())));
        }
    }
    findings.extend(judge::results(&gateway));
    findings.extend(match &gateway.agent {
        Agent::Answers(status) => vec![agent::running(status), agent::queue(status, agent::now_millis())],
        Agent::None(detail) | Agent::Unknown(detail) => vec![Finding::skipped("agent", detail.clone())],
    });
    Ok(findings)
}

/// Judges if the gateway takes inputs from the cache, by what only the daemon's configuration says.
fn substituting(gateway: &Gateway, cache: &CacheRef) -> Result<Vec<Finding>, Failure> {
    let probe = Probe::new(&cache.url, cache.token.as_ref())?;
    let (_, description) = crate::probe::block_on(super::server::examine(cache, &probe))?;
    let settings = || gateway.settings.clone();
    let nix = nix::Nix { client: settings(), daemon: settings(), trust: Trust::NoDaemon };
    let key = |description: &CacheDescription| nix::key(&nix, description);
    let unknown = || Finding::skipped("key", "the server did not say which keys it signs with");
    let findings = [nix::substituter(&nix, cache), description.as_ref().map_or_else(unknown, key)];
    // It is the daemon that asks, for everybody.
    let for_all = |advice: String| advice.replacen("firn use", "firn use --system", 1);
    Ok(findings.map(|finding| Finding { advice: finding.advice.map(for_all), ..finding }).into())
}
