//! `firn doctor`: checks the whole chain.

use std::path::PathBuf;

use serde_json::json;

use crate::context::Context;
use crate::doctor::{self, Finding, State};
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, Paint};

const EXAMPLES: &str = "\
Checks, in order: configuration, encryption, address, connection, server, clock, token, rights, cache-info (what
Nix asks first), nix, substituter, trust, key, netrc, hook, agent. Each is ok, warn, fail, or skipped when it
could not be looked at. It ends with 1 if one fails. Run it as the user who builds, and as root for what only
root can read.

Examples:
  firn doctor
  firn doctor https://cache.example.org/main --json";

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
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
    let cache = context.cache(arguments.cache.as_deref(), arguments.token_file.as_deref());
    let url = cache.as_ref().ok().map(|cache| cache.url.to_string());
    let findings = doctor::examine(cache)?;
    let count = |state| findings.iter().filter(|finding| finding.state == state).count();
    let (failed, warnings) = (count(State::Fail), count(State::Warn));
    if context.output.json {
        context.output.json_line(&json!({ "url": url, "checks": findings, "failed": failed, "warnings": warnings }))?;
    } else {
        let text: String = findings.iter().map(|finding| shown(&context.output, finding)).collect();
        context.output.data(&text)?;
        context.output.note(&format!("{} ok, {warnings} to look at, {failed} failed", count(State::Ok)));
    }
    Ok(if failed > 0 { exit::FAILED } else { exit::DONE })
}

/// Returns a finding in one line, and what to do in a second one.
fn shown(output: &Output, finding: &Finding) -> String {
    let (word, paint) = match finding.state {
        State::Ok => ("ok  ", Paint::Good),
        State::Warn => ("warn", Paint::Warning),
        State::Fail => ("FAIL", Paint::Bad),
        State::Skipped => ("skip", Paint::Dim),
    };
    let advice = finding.advice.as_ref().map(|advice| format!("{:20}-> {advice}\n", "")).unwrap_or_default();
    format!("{}  {:14}{}\n{advice}", output.out.paint(paint, word), finding.check, finding.detail)
}
