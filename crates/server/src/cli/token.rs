//! `firnd token …`

use clap::{Args, Subcommand};
use firn_index::{Grant, TokenId};

use super::{CliError, Report, admin, output};
use crate::admin::{Answer, Request, TokenState, TokenView};
use crate::auth::{matches_pattern, parse_grant};
use crate::config::{Config, Span};
use crate::data_dir::DataDir;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a token; prints it alone on standard output, this once
    #[command(after_help = CREATE_HELP)]
    Create(Create),
    /// List all tokens, without their secrets
    List,
    /// Revoke a token: it is refused from the next request on
    Revoke {
        /// Its id: the 16 hex digits after `firn_`, as `firnd token list` shows it; or the whole token
        id: String,
    },
}

const CREATE_HELP: &str = "\
A grant is CACHE:VERB[,VERB]…; the verbs are
  pull   read from a private cache (a public one needs no token)
  push   upload; it doesn't include pull
  usage  see what caches, builders and packages cost; '*:usage' for sums over all caches
and in CACHE '*' stands for any characters. All grants of a token that match count.

Clients send it as a password: in the netrc file that nix.conf names as netrc-file,
  machine cache.example.org login firn password firn_…

Examples:
  firnd token create --grant main:push --name builder-1 > token
  firnd token create --grant 'team-*:pull,push' --grant main:pull --expires '90 d'";

#[derive(Debug, Args)]
pub(super) struct Create {
    /// What it may do: CACHE:VERB[,VERB]…; may be given several times
    #[arg(long, required = true, value_name = "CACHE:VERB[,VERB]…", value_parser = parse_grant)]
    grant: Vec<Grant>,
    /// Who uses it; uploads are recorded under this name [default: the token's id]
    #[arg(long, value_name = "BUILDER")]
    name: Option<String>,
    /// When it stops to count, from now on, as in '90 d' or '12 h' [default: never]
    #[arg(long, value_name = "DURATION", value_parser = super::bounds::seconds)]
    expires: Option<Span>,
}

pub(super) fn run(command: Command, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    match command {
        Command::Create(create) => {
            let patterns: Vec<String> = create.grant.iter().map(|grant| grant.cache.clone()).collect();
            let request = Request::TokenCreate {
                grants: create.grant,
                builder: create.name,
                expires_in: create.expires.map(|span| span.0.as_secs()),
            };
            let Answer::NewToken(made) = admin::ask(data, config, &request, true)? else {
                return Err(admin::unexpected());
            };
            let mut report = Report::new(format!("{}\n", made.token.0), &made);
            report.notes = format!(
                "created the token {} for {}: {}{}\n",
                made.view.id,
                made.view.builder,
                made.view.grants.join(" "),
                ending(&made.view)
            );
            // The token is made, and is told whatever comes of this.
            report.notes += &without_caches(&patterns, data, config).unwrap_or_default();
            Ok(report)
        }
        Command::List => list(data, config),
        Command::Revoke { id } => {
            let id = id_of(&id).ok_or(CliError::NoToken)?;
            let Answer::Revoked(view) = admin::ask(data, config, &Request::TokenRevoke { id }, false)? else {
                return Err(admin::unexpected());
            };
            Ok(Report::new(format!("revoked the token {} of {}\n", view.id, view.builder), &view))
        }
    }
}

/// Says which grants cover no cache: it may be that one is to be made yet, or that a name is mistyped.
fn without_caches(patterns: &[String], data: &DataDir, config: &Config) -> Result<String, CliError> {
    let Answer::Caches(caches) = admin::ask(data, config, &Request::CacheList, false)? else {
        return Err(admin::unexpected());
    };
    let is_idle = |pattern: &&String| !caches.iter().any(|cache| matches_pattern(pattern, &cache.name));
    let note = |pattern| format!("there is no cache that '{pattern}' covers yet\n");
    Ok(patterns.iter().filter(is_idle).map(note).collect())
}

/// Returns the id of a token, given as such or with the secret behind it, which is not to be told to anybody.
fn id_of(text: &str) -> Option<TokenId> {
    let text = text.trim();
    let rest = text.strip_prefix("firn_").unwrap_or(text);
    rest.split('_').next()?.parse().ok()
}

fn ending(view: &TokenView) -> String {
    view.expires_at.map_or_else(|| ", never expires".to_owned(), |at| format!(", expires {}", output::time(at)))
}

fn list(data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let Answer::Tokens(views) = admin::ask(data, config, &Request::TokenList, false)? else {
        return Err(admin::unexpected());
    };
    let mut report = Report::new(String::new(), &views);
    if views.is_empty() {
        "no tokens yet; `firnd token create --grant CACHE:push` makes one\n".clone_into(&mut report.notes);
        return Ok(report);
    }
    let row = |view: &TokenView| {
        let state = match view.state {
            TokenState::Active => "active",
            TokenState::Expired => "expired",
            TokenState::Revoked => "revoked",
        };
        let expires = view.expires_at.map_or_else(|| "never".to_owned(), output::time);
        vec![
            view.id.clone(),
            view.builder.clone(),
            state.to_owned(),
            view.grants.join(" "),
            output::time(view.created_at),
            expires,
            view.origin
                .as_ref()
                .map_or_else(|| "operator".to_owned(), |origin| format!("{}: {}", origin.rule, origin.subject)),
        ]
    };
    report.text = output::table(
        &["ID", "BUILDER", "STATE", "GRANTS", "CREATED", "EXPIRES", "ORIGIN"],
        views.iter().map(row).collect(),
        &[],
    );
    Ok(report)
}
