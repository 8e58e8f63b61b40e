//! `firn status`: the server, the token and the agent, in a few lines.

use std::path::PathBuf;
use std::time::Duration;

use firn_client::agent::{Activity, Answer, CallError, Request, Status, call};
use jiff::Timestamp;
use serde_json::json;

use crate::agent_place::AgentPlace;
use crate::context::Context;
use crate::failure::Failure;
use crate::probe::{Probe, block_on, clean};
use crate::progress::paths_wait;
use crate::{access, exit};

/// How long the agent may take to answer.
const AGENT_PATIENCE: Duration = Duration::from_secs(5);

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The cache: a URL, or a name in the configuration
    #[arg(value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let cache = context.cache(arguments.cache.as_deref(), arguments.token_file.as_deref())?;
    let (capabilities, description) = block_on(async {
        let probe = Probe::new(&cache.url, cache.token.as_ref())?;
        let asked = probe.capabilities().await;
        let (capabilities, _) =
            asked.map_err(|trouble| trouble.into_failure(&format!("ask the server of {}", cache.url)))?;
        Ok::<_, Failure>((capabilities, access::describe(&cache).await?))
    })??;
    let token = cache.token.as_ref();
    let agent = agent();
    if context.output.json {
        context.output.json_line(&json!({
            "cache": cache.name,
            "url": cache.url.as_str(),
            "server": clean(&capabilities.server),
            "api_versions": capabilities.versions,
            "public": description.public,
            "can_pull": description.can_pull,
            "can_push": description.can_push,
            "builder": description.builder,
            "token": token.map(|token| json!({
                "id": token.id(),
                "source": token.source.to_string(),
                "expires_at": description.token_expires_at,
            })),
            "store_dir": description.store_dir,
            "priority": description.priority,
            "public_keys": description.public_keys,
            "agent": agent,
        }))?;
        return Ok(exit::DONE);
    }
    let name = cache.name.as_ref().map(|name| format!("{name}, ")).unwrap_or_default();
    let visibility = if description.public { "public" } else { "private" };
    let shown_token = match token {
        Some(token) => {
            let id = token.id().map(|id| format!("{id}, ")).unwrap_or_default();
            format!("{id}of {}, {}", token.source, access::expiry(&description, Timestamp::now()))
        }
        None => "none".to_owned(),
    };
    let versions: Vec<String> = capabilities.versions.iter().take(16).map(u32::to_string).collect();
    context.output.pairs(&[
        ("cache", format!("{name}{}", cache.url)),
        ("server", format!("{}, push API {}", clean(&capabilities.server), versions.join(", "))),
        ("access", format!("{visibility}; {} may {}", description.builder, access::rights(&description))),
        ("token", shown_token),
        ("paths", format!("below {}, priority {}", description.store_dir, description.priority)),
        ("keys", access::public_keys(&description)?.join(" ")),
        ("agent", agent.as_ref().map_or_else(|| "none".to_owned(), agent_line)),
    ])?;
    Ok(exit::DONE)
}

/// Asks the agent, or its queue while it doesn't run; none if there was never one, or this user may not ask.
fn agent() -> Option<Status> {
    let place = AgentPlace::usual();
    match call(&place.socket, &Request::Status, AGENT_PATIENCE) {
        Ok(Answer::Status { status }) => Some(*status),
        Err(error @ CallError::Silent { .. }) => {
            let (activity, trouble) = (Activity::Silent, Some(error.to_string()));
            Status::of_queue(&place.state).ok().map(|queue| Status { activity, trouble, ..queue })
        }
        Ok(_) | Err(_) => Status::of_queue(&place.state).ok(),
    }
}

/// Says in a line what the agent is at.
fn agent_line(agent: &Status) -> String {
    let trouble = agent.trouble.as_ref().map(|trouble| format!(" ({trouble})")).unwrap_or_default();
    let target = if agent.cache.is_empty() { String::new() } else { format!(", to {}", agent.cache) };
    let (waits, dead) = (paths_wait(agent.waiting), agent.dead);
    format!("{}{trouble}{target}; {waits}, {dead} refused", agent.activity.name())
}
