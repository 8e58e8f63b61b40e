//! The identity of a CI job, and the token that a server gives for it.

use std::env;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::cache_ref::{CacheUrl, Token, TokenSource};
use crate::failure::{Failure, Kind};
use crate::probe::Probe;

/// Where a job's identity token is looked for first: GitLab puts it where the job says.
const USUAL_VARIABLE: &str = "FIRN_ID_TOKEN";
/// Where GitHub Actions tells how to ask for one.
const GITHUB_URL: &str = "ACTIONS_ID_TOKEN_REQUEST_URL";
const GITHUB_TOKEN: &str = "ACTIONS_ID_TOKEN_REQUEST_TOKEN";

/// Exchanges this job's identity for a token. `variable` names the environment variable that holds the identity token;
/// without it, the usual one is looked at, and then GitHub is asked for one for `audience`.
pub(crate) async fn exchange(url: &CacheUrl, variable: Option<&str>, audience: Option<&str>) -> Result<Token, Failure> {
    let probe = Probe::new(url, None)?;
    let identity = match variable {
        Some(name) => set(name).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("read the identity token: the environment has no {name}"))
        })?,
        None => match (set(USUAL_VARIABLE), set(GITHUB_URL), set(GITHUB_TOKEN)) {
            (Some(identity), _, _) => identity,
            (None, Some(place), Some(secret)) => {
                let audience = utf8_percent_encode(audience.unwrap_or(url.server()), NON_ALPHANUMERIC).to_string();
                let mark = if place.contains('?') { '&' } else { '?' };
                let asked = probe.identity(&format!("{place}{mark}audience={audience}"), &secret).await;
                asked.map_err(|trouble| trouble.into_failure("ask GitHub for the job's identity token"))?
            }
            _ => return Err(missing()),
        },
    };
    let doing = format!("exchange the job's identity for a token of {}", url.server());
    let answer = probe.exchange(&identity).await.map_err(|trouble| trouble.into_failure(&doing))?;
    Token::new(&answer.token, TokenSource::Identity)
        .map_err(|problem| Failure::new(Kind::Server, format!("{doing}: {problem}")))
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

fn missing() -> Failure {
    let message =
        format!("find this job's identity token: the environment has neither {USUAL_VARIABLE} nor {GITHUB_URL}");
    Failure::new(Kind::Usage, message).hint(
        "GitLab: id_tokens with FIRN_ID_TOKEN; GitHub: permissions with id-token: write; elsewhere: --token-env VAR",
    )
}
