//! The server, its clock, the token, and what Nix asks first.

use std::time::SystemTime;

use firn_api::{CacheDescription, Capabilities, ChunkerId, negotiate};
use firn_nix::CacheInfo;
use jiff::Timestamp;

use super::Finding;
use crate::access;
use crate::cache_ref::CacheRef;
use crate::nix_settings;
use crate::probe::{Answer, Probe, Trouble, clean};

/// How far clocks may differ without notice, in seconds.
const SKEW_NOTICED: u64 = 60;

/// From when on they count as wrong: certificates and tokens end at other times than they say.
const SKEW_WRONG: u64 = 3600;

/// How long before its end a token's expiry is told, in seconds.
const EXPIRY_NOTICE: u64 = 14 * 86_400;

/// Asks the server; returns also what it says of the cache.
pub(super) async fn examine(cache: &CacheRef, probe: &Probe) -> (Vec<Finding>, Option<CacheDescription>) {
    let mut findings = Vec::new();
    match probe.capabilities().await {
        Err(trouble) => {
            findings.push(of_trouble("server", &trouble));
            if matches!(trouble, Trouble::Unreachable { .. }) {
                for check in ["clock", "token", "rights", "cache-info"] {
                    findings.push(Finding::skipped(check, "the server did not answer"));
                }
                return (findings, None);
            }
        }
        Ok((capabilities, answer)) => {
            findings.push(version(&capabilities));
            findings.push(clock(answer.date, SystemTime::now()));
        }
    }
    let description = match probe.cache().await {
        Err(trouble) => {
            findings.push(of_token_trouble(cache, &trouble));
            findings.push(Finding::skipped("rights", "the server did not say"));
            None
        }
        Ok(description) => {
            findings.push(token(cache, &description, Timestamp::now()));
            findings.push(rights(cache, &description));
            Some(description)
        }
    };
    findings.push(cache_info(probe.cache_info().await, description.as_ref()));
    (findings, description)
}

fn of_trouble(check: &'static str, trouble: &Trouble) -> Finding {
    let advice = trouble.advice().unwrap_or_else(|| "look at the server's log".to_owned());
    Finding::fail(check, trouble.to_string(), advice)
}

fn of_token_trouble(cache: &CacheRef, trouble: &Trouble) -> Finding {
    let from = match &cache.token {
        Some(token) => format!("the token of {}", token.source),
        None => "there is no token".to_owned(),
    };
    let advice = trouble.advice().unwrap_or_else(|| match &cache.token {
        Some(_) => "check the cache's name in the URL, and on the server with `firnd token list`".to_owned(),
        None => "`firn login` checks a token and keeps it".to_owned(),
    });
    Finding::fail("token", format!("{from}: {trouble}"), advice)
}

/// Judges if both ends can work together.
pub(super) fn version(capabilities: &Capabilities) -> Finding {
    let name = clean(&capabilities.server);
    match negotiate(capabilities, ChunkerId::CURRENT) {
        Ok(agreed) => Finding::ok("server", format!("{name}, push API {}", agreed.version)),
        Err(mismatch) => {
            Finding::fail("server", mismatch.to_string(), "use the version of firn that belongs to the server")
        }
    }
}

/// Judges the difference of the clocks.
pub(super) fn clock(server: Option<SystemTime>, ours: SystemTime) -> Finding {
    let Some(server) = server else { return Finding::skipped("clock", "the server does not say what time it is") };
    let (seconds, word) = match ours.duration_since(server) {
        Ok(ahead) => (ahead.as_secs(), "ahead of"),
        Err(behind) => (behind.duration().as_secs(), "behind"),
    };
    let detail = format!("this machine's clock is {seconds} s {word} the server's");
    let advice = "set both by NTP";
    match seconds {
        0..SKEW_NOTICED => Finding::ok("clock", "agrees with the server's"),
        SKEW_NOTICED..SKEW_WRONG => Finding::warn("clock", detail, advice),
        _ => Finding::fail("clock", detail, advice),
    }
}

/// Judges the token that was taken.
pub(super) fn token(cache: &CacheRef, description: &CacheDescription, now: Timestamp) -> Finding {
    let Some(token) = &cache.token else {
        return Finding::ok("token", "none, and none is needed to pull from a public cache");
    };
    let id = token.id().map(|id| format!(" {id}")).unwrap_or_default();
    let expiry = access::expiry(description, now);
    let detail = format!("the token{id} of {} is {}'s and {expiry}", token.source, description.builder);
    let renew = "make a new one on the server with `firnd token create`, then `firn login`";
    let now = u64::try_from(now.as_second()).unwrap_or(0);
    match description.token_expires_at {
        // The server took it: mostly it is the clock that is wrong.
        Some(at) if at <= now => {
            Finding::fail("token", detail, format!("set this machine's clock; if it is right, {renew}"))
        }
        Some(at) if at - now < EXPIRY_NOTICE => Finding::warn("token", detail, renew),
        _ => Finding::ok("token", detail),
    }
}

/// Judges what the asker may do.
pub(super) fn rights(cache: &CacheRef, description: &CacheDescription) -> Finding {
    let may = access::rights(description);
    let grant =
        |verb: &str| format!("on the server: firnd token create --grant {}:{verb} --name NAME", description.name);
    match (description.can_pull, description.can_push) {
        (true, true) => Finding::ok("rights", format!("may {may}")),
        (true, false) if cache.token.is_none() => Finding::ok("rights", "may pull; to push, a token is needed"),
        (true, false) => Finding::warn("rights", "may pull, and not push", grant("pull,push")),
        (false, true) => {
            Finding::warn("rights", "may push, and not pull: Nix can't substitute with this token", grant("pull,push"))
        }
        (false, false) => Finding::fail("rights", "may neither pull nor push", grant("pull,push")),
    }
}

/// Judges what Nix asks a substituter first.
pub(super) fn cache_info(answer: Result<Answer, Trouble>, description: Option<&CacheDescription>) -> Finding {
    let check = "cache-info";
    let answer = match answer {
        Ok(answer) => answer,
        Err(trouble) if description.is_some_and(|description| !description.can_pull) => {
            return Finding::skipped(check, format!("the token may not pull: {trouble}"));
        }
        Err(trouble) => return of_trouble(check, &trouble),
    };
    let info: Result<CacheInfo, _> = String::from_utf8_lossy(&answer.body).parse();
    let info = match info {
        Ok(info) => info,
        Err(error) => return Finding::fail(check, error.to_string(), "check the URL: this is no binary cache"),
    };
    let theirs = info.store_dir.as_deref().unwrap_or("/nix/store");
    let ours = nix_settings::store_dir();
    if theirs != ours {
        let detail = format!("its paths are below {theirs}, and here they are below {ours}");
        return Finding::fail(check, detail, "Nix can't use it: take a cache of the same store directory");
    }
    Finding::ok(check, format!("nix-cache-info: paths below {theirs}, priority {}", info.priority))
}
