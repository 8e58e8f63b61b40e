//! `firnd upstream …`

use clap::{Args, Subcommand};
use firn_index::UpstreamMode;

use super::cache::word;
use super::{CliError, Report, admin, output};
use crate::admin::{Answer, NewUpstream, Request, UpstreamView};
use crate::config::{Config, Span};
use crate::data_dir::DataDir;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add another binary cache as an upstream, or change one
    #[command(after_help = ADD_HELP)]
    Add(Box<Add>),
    /// List a cache's upstreams, and how they do
    List {
        /// The cache
        #[arg(long, default_value = "main")]
        cache: String,
    },
    /// Remove an upstream; what came from it stays
    Remove {
        /// Its URL
        url: String,
        /// The cache
        #[arg(long, default_value = "main")]
        cache: String,
    },
}

const ADD_HELP: &str = "\
What an upstream has signed, `firn push` does not upload, and the cache takes references to it.
Beyond that the mode decides about a path that the cache lacks:
  proxy   it is fetched from upstream, checked, passed on and stored in the same pass: clients
          need no other substituter
  refer   it is not here: clients ask upstream themselves, and nothing of it is ever stored

Nothing that an upstream does keeps anybody from what the cache holds.

Examples:
  firnd upstream add https://cache.nixos.org
  firnd upstream add https://cache.example.org --key example-1:AAAA…= --cache team --mode refer";

#[derive(Debug, Args)]
pub(super) struct Add {
    /// Where it is: http:// or https://
    url: String,
    /// The cache
    #[arg(long, default_value = "main")]
    cache: String,
    /// What becomes of what it has: proxy or refer
    #[arg(long, default_value = "proxy", value_name = "MODE", value_parser = word::<UpstreamMode>(&["proxy", "refer"]))]
    mode: UpstreamMode,
    /// A public key (name:base64) that it signs with; may be given several times. That of cache.nixos.org is known
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// The lower, the earlier it is asked; upstreams with the same number are asked at the same time [default: 40]
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// How long a connection may take [default: 5 s]
    #[arg(long, value_name = "DURATION")]
    connect_timeout: Option<Span>,
    /// How long an answer may take to begin [default: 15 s]
    #[arg(long, value_name = "DURATION")]
    first_byte_timeout: Option<Span>,
    /// How long an answer may stand still [default: 30 s]
    #[arg(long, value_name = "DURATION")]
    idle_timeout: Option<Span>,
    /// A file on the server with a token for it, read again for each request
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
}

fn ms(span: Option<Span>) -> Option<u64> {
    span.map(|span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX))
}

pub(super) fn run(command: Command, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    match command {
        Command::Add(add) => {
            let upstream = NewUpstream {
                url: add.url,
                mode: add.mode,
                keys: add.key,
                priority: add.priority,
                connect_timeout_ms: ms(add.connect_timeout),
                first_byte_timeout_ms: ms(add.first_byte_timeout),
                idle_timeout_ms: ms(add.idle_timeout),
                token_file: add.token_file,
            };
            let request = Request::UpstreamAdd { cache: add.cache, upstream: Box::new(upstream) };
            let Answer::Upstream(view) = admin::ask(data, config, &request, false)? else {
                return Err(admin::unexpected());
            };
            let text =
                format!("added the upstream {} ({}, priority {})\n", view.row.url, view.row.mode, view.row.priority);
            Ok(Report::new(text, &*view))
        }
        Command::Remove { url, cache } => {
            let request = Request::UpstreamRemove { cache, url };
            let Answer::UpstreamRemoved(view) = admin::ask(data, config, &request, false)? else {
                return Err(admin::unexpected());
            };
            Ok(Report::new(format!("removed the upstream {}\n", view.row.url), &*view))
        }
        Command::List { cache } => {
            let Answer::Upstreams(views) = admin::ask(data, config, &Request::UpstreamList { cache }, false)? else {
                return Err(admin::unexpected());
            };
            let mut report = Report::new(String::new(), &views);
            if views.is_empty() {
                "no upstreams with a URL; `firnd upstream add URL` adds one\n".clone_into(&mut report.notes);
                return Ok(report);
            }
            let heads = ["URL", "MODE", "PRIORITY", "STATE", "REQUESTS", "FAILURES", "RECEIVED", "KEYS"];
            report.text = output::table(&heads, views.iter().map(row).collect(), &[2, 4, 5, 6]);
            Ok(report)
        }
    }
}

fn row(view: &UpstreamView) -> Vec<String> {
    let count = |of: fn(&crate::admin::UpstreamActivity) -> u64| view.activity.as_ref().map(of);
    let text = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let state = match (view.row.mode, view.activity.map(|activity| activity.rests_until)) {
        (UpstreamMode::Refer, _) => "not asked".to_owned(),
        (UpstreamMode::Proxy, None) => "no server runs".to_owned(),
        (UpstreamMode::Proxy, Some(None)) => "asked".to_owned(),
        (UpstreamMode::Proxy, Some(Some(until))) => format!("left alone until {}", output::time(until)),
    };
    vec![
        view.row.url.clone(),
        view.row.mode.to_string(),
        view.row.priority.to_string(),
        state,
        text(count(|activity| activity.requests)),
        text(count(|activity| activity.failures)),
        count(|activity| activity.received_bytes).map_or_else(|| "-".to_owned(), output::bytes),
        view.row.keys.iter().filter_map(|key| key.split(':').next()).collect::<Vec<_>>().join(" "),
    ]
}
