//! What a server says of a cache and of a token, in words and in JSON.

use firn_api::{CacheDescription, Code};
use firn_nix::PublicKey;
use jiff::Timestamp;

use crate::cache_ref::CacheRef;
use crate::failure::{Failure, Kind};
use crate::output::span;
use crate::probe::{Probe, Trouble, clean};

/// Asks the server about the cache, and checks that what comes back can be shown and written into files.
pub(crate) async fn describe(cache: &CacheRef) -> Result<CacheDescription, Failure> {
    let doing = format!("ask about the cache {}", cache.url);
    let probe = Probe::new(&cache.url, cache.token.as_ref())?;
    match probe.cache().await {
        Ok(description) => Ok(checked(description)),
        Err(trouble) => {
            let is_refused =
                matches!(&trouble, Trouble::Refused { answer, .. } if answer.code == Code::Forbidden.as_str());
            let failure = trouble.into_failure(&doing);
            Err(match (&failure.hint, &cache.token) {
                // The server's own hint is for Nix, which has no other place for a token than its netrc file.
                (_, Some(_)) if is_refused => {
                    failure.hint("check the URL, and the token: is it whole, of this server, and not revoked?")
                }
                (None, None) => failure.hint("give a token: `firn login` keeps one, or --token-file, or FIRN_TOKEN"),
                _ => failure,
            })
        }
    }
}

/// Returns the description without what could break a line or a terminal.
fn checked(mut description: CacheDescription) -> CacheDescription {
    for text in
        [&mut description.name, &mut description.store_dir, &mut description.transport, &mut description.builder]
    {
        *text = clean(text);
    }
    description
}

/// Returns the cache's public keys, which have to be keys: they go into `nix.conf`.
pub(crate) fn public_keys(description: &CacheDescription) -> Result<Vec<String>, Failure> {
    let parse = |text: &String| {
        let key: PublicKey = text.parse().map_err(|error| {
            Failure::doing(Kind::Server, format!("read the public key '{}' of the cache", clean(text)), error)
        })?;
        Ok(key.to_string())
    };
    description.public_keys.iter().map(parse).collect()
}

/// Says what the token may do.
pub(crate) fn rights(description: &CacheDescription) -> &'static str {
    match (description.can_pull, description.can_push) {
        (true, true) => "pull and push",
        (true, false) => "pull",
        (false, true) => "push",
        (false, false) => "do nothing",
    }
}

/// Says when the token expires.
pub(crate) fn expiry(description: &CacheDescription, now: Timestamp) -> String {
    let Some(at) = description.token_expires_at.and_then(timestamp) else { return "does not expire".to_owned() };
    let shown = at.strftime("%Y-%m-%d %H:%M UTC");
    match u64::try_from(at.as_second() - now.as_second()) {
        Ok(left @ 1..) => format!("expires at {shown}, in {}", span(left)),
        // The server took it a moment ago.
        Ok(0) | Err(_) => format!("expires at {shown}, which is over by this machine's clock and not by the server's"),
    }
}

/// Returns a time of the server's, if there is such a time.
pub(crate) fn timestamp(seconds: u64) -> Option<Timestamp> {
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}
