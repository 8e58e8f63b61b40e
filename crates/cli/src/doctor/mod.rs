//! The checks of `firn doctor`: each looks at one link of the chain from Nix to the cache and says what to do about it.
//!
//! What is looked at is gathered in one place of each module and judged by plain functions. Findings never hold a token.

mod agent;
pub(crate) mod gateway;
mod network;
mod nix;
mod server;
mod store;
#[cfg(test)]
mod tests;

use firn_api::CacheDescription;
use serde::Serialize;

use crate::cache_ref::CacheRef;
use crate::failure::Failure;
use crate::probe::Probe;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// All is well.
    Ok,
    /// It works, and someone should look at it.
    Warn,
    /// It does not work.
    Fail,
    /// It could not be looked at, for a reason that another check names or that is none of its business.
    Skipped,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The check's name; stable.
    pub(crate) check: &'static str,
    /// How it came out.
    pub(crate) state: State,
    /// What was found.
    pub(crate) detail: String,
    /// What to do; none when there is nothing to do.
    pub(crate) advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Ok, detail: detail.into(), advice: None }
    }

    fn warn(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, state: State::Warn, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn fail(check: &'static str, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, state: State::Fail, detail: detail.into(), advice: Some(advice.into()) }
    }

    fn skipped(check: &'static str, detail: impl Into<String>) -> Self {
        Self { check, state: State::Skipped, detail: detail.into(), advice: None }
    }

    /// Makes the finding of a failure: its message and its hint.
    pub(crate) fn of_failure(check: &'static str, failure: &Failure) -> Self {
        Self { check, state: State::Fail, detail: failure.chain(), advice: failure.hint.clone() }
    }
}

/// Looks at everything; without a cache, at what is on this machine.
pub(crate) fn examine(cache: Result<CacheRef, Failure>) -> Result<Vec<Finding>, Failure> {
    let cache = match cache {
        Ok(cache) => cache,
        Err(failure) => {
            let mut findings = vec![Finding::of_failure("configuration", &failure)];
            findings.push(store::examine());
            findings.extend(nix::examine(None, None));
            findings.extend(agent::examine());
            return Ok(findings);
        }
    };
    let mut findings = vec![configuration(&cache)];
    let probe = Probe::new(&cache.url, cache.token.as_ref())?;
    let (found, description) = crate::probe::block_on(over_the_network(&cache, &probe))?;
    findings.extend(found);
    findings.push(store::examine());
    findings.extend(nix::examine(Some(&cache), description.as_ref()));
    findings.extend(agent::examine());
    Ok(findings)
}

fn configuration(cache: &CacheRef) -> Finding {
    let detail = match &cache.name {
        Some(name) => format!("{name} is {}", cache.url),
        None => format!("{} is not in the configuration, so its token is not either", cache.url),
    };
    Finding::ok("configuration", detail)
}

async fn over_the_network(cache: &CacheRef, probe: &Probe) -> (Vec<Finding>, Option<CacheDescription>) {
    let mut findings = network::examine(&cache.url).await;
    let (found, description) = server::examine(cache, probe).await;
    findings.extend(found);
    (findings, description)
}
