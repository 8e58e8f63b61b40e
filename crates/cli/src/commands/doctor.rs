//! `firn doctor`: checks the whole chain.

use std::path::PathBuf;

use serde_json::json;

use crate::context::Context;
use crate::doctor::gateway::Login;
use crate::doctor::{self, Finding, State};
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, Paint};

const EXAMPLES: &str = "\
Checks, in order: configuration, encryption, address, connection, server, clock, token, rights, cache-info (what
Nix asks first), store, nix, substituter, trust, key, netrc, hook, agent. Each is ok, warn, fail, or skipped when it
could not be looked at. It ends with 1 if one fails. Run it as the user who builds, and as root for what only
root can read.

Examples:
  firn doctor
  firn doctor https://cache.example.org/main --json
  firn doctor gateway --at ssh://root@gateway.example.org";

const GATEWAY: &str = "\
Checks a machine that hands builds to others and sends what comes back to the cache: gateway, max-jobs, builders,
builder (each is tried), builders-use-substitutes, trusted-users, login (with --at), substituter, key, hook,
require-sigs, secret-key-files, garbage, agent, queue. It ends with 1 if one fails. Run it on the gateway as root,
whose keys and known hosts the daemon uses, or from afar with a login. A cache that is called `gateway` is named
to `firn doctor` by its URL.

Examples:
  firn doctor gateway
  firn doctor gateway main --at ssh-ng://root@gateway.example.org:2222";

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    of: Option<Of>,
    #[command(flatten)]
    cache: CacheArguments,
}

/// What else can be looked at.
#[derive(Debug, clap::Subcommand)]
enum Of {
    /// Check a machine that hands builds to others
    Gateway(GatewayArguments),
}

#[derive(Debug, clap::Args)]
#[command(after_help = GATEWAY)]
struct GatewayArguments {
    #[command(flatten)]
    cache: CacheArguments,
    /// Where it is, if not this machine: ssh://[USER@]HOST[:PORT], or the same with ssh-ng
    #[arg(long, value_name = "URL")]
    at: Option<String>,
}

#[derive(Debug, clap::Args)]
struct CacheArguments {
    /// The cache: a URL, or a name in the configuration
    #[arg(value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let given = match &arguments.of {
        Some(Of::Gateway(gateway)) => &gateway.cache,
        None => &arguments.cache,
    };
    let cache = context.cache(given.cache.as_deref(), given.token_file.as_deref());
    let url = cache.as_ref().ok().map(|cache| cache.url.to_string());
    let findings = match &arguments.of {
        Some(Of::Gateway(gateway)) => {
            let login = gateway.at.as_deref().map(str::parse::<Login>).transpose()?;
            doctor::gateway::examine(login, cache)?
        }
        None => doctor::examine(cache)?,
    };
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failed, warnings) = (count(State::Fail), count(State::Warn));
    if context.output.json {
        context.output.json_line(&json!({ "url": url, "checks": findings, "failed": failed, "warnings": warnings }))?;
    } else {
        let width = findings.iter().map(|finding| finding.check.len() + 2).max().unwrap_or_default().max(14);
        let text: String = findings.iter().map(|finding| shown(&context.output, finding, width)).collect();
        context.output.data(&text)?;
        context.output.note(&format!("{} ok, {warnings} to look at, {failed} failed", count(State::Ok)));
    }
    Ok(if failed > 0 { exit::FAILED } else { exit::DONE })
}

/// Returns a finding in one line, and what to do in a second one.
fn shown(output: &Output, finding: &Finding, width: usize) -> String {
    let (word, paint) = match finding.state {
        State::Ok => ("ok  ", Paint::Good),
        State::Warn => ("warn", Paint::Warning),
        State::Fail => ("FAIL", Paint::Bad),
        State::Skipped => ("skip", Paint::Dim),
    };
    let advice = finding.advice.as_ref().map(|advice| format!("{:1$}-> {advice}\n", "", width + 6)).unwrap_or_default();
    format!("{}  {:width$}{}\n{advice}", output.out.paint(paint, word), finding.check, finding.detail)
}
