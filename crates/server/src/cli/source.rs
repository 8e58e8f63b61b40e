//! `firnd source …`

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{ArgGroup, Args, Subcommand};
use firn_engine::{Clock as _, SystemClock};
use firn_index::SourceCounts;

use super::admin::{self, Reached};
use super::{CliError, Report, output};
use crate::admin::{Answer, Failure, Request, SourceSettings, SourceView};
use crate::config::{Config, Size, Span};
use crate::data_dir::{DataDir, Lock, SystemEntropy};
use crate::sources::run::Run;
use crate::sources::{Context, sync};

/// How often the running server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Add a store that the server pulls from
    #[command(after_help = ADD_HELP)]
    Add(Box<Add>),
    /// List all sources, and how they are
    List,
    /// Show a source, what its last sync did, and what did not come
    Show {
        /// Its name
        name: String,
    },
    /// Change a source
    Set(Box<Set>),
    /// Forget a source; what came from it stays
    Remove {
        /// Its name
        name: String,
    },
    /// Pull what is new now, and wait for the end
    Sync(SyncArguments),
    /// Pull no more by schedule, and stop what is under way
    Pause {
        /// Its name
        name: String,
    },
    /// Pull by schedule again
    Resume {
        /// Its name
        name: String,
    },
}

const ADD_HELP: &str = "\
URL is one of
  ssh-ng://[USER@]HOST[:PORT]  a builder with Nix; ?remote-store=/FOLDER for a chroot store, ?remote-program=…
  ssh://[USER@]HOST[:PORT]     the same by `nix-store --serve`
  local, or /FOLDER            the store of this machine, or a chroot store
  file:///FOLDER               a binary cache in a folder
  https://HOST/CACHE           another firn's cache; ?token-file=/FILE if it is private
  https://HOST?list=URL        an HTTP cache with a plain list of its store paths, also compressed

Examples:
  firnd source add builder-1 ssh-ng://nix@builder-1.example.org --cache main --trust --ssh-key /etc/firnd/ssh
  firnd source add theirs ssh-ng://ci@host --cache main --key 'theirs-1:base64' --every '15 m' --exclude '*-source'
  firnd source sync builder-1";

/// What `add` and `set` share.
#[derive(Debug, Args)]
struct Common {
    /// The builder that its paths are recorded as from [default: the source's name]
    #[arg(long, value_name = "NAME")]
    builder: Option<String>,
    /// Believe everything that comes from there
    #[arg(long, conflicts_with = "key")]
    trust: bool,
    /// Believe only what this public key signed; may be given several times
    #[arg(long, value_name = "NAME:BASE64")]
    key: Vec<String>,
    /// Pull also what one of the cache's upstreams signed
    #[arg(long, value_name = "true|false")]
    with_upstream: Option<bool>,
    /// Pull only paths with such names, the part behind the hash; * and ? are wildcards. May be given several times; '' takes all away
    #[arg(long, value_name = "PATTERN")]
    include: Vec<String>,
    /// Don't pull paths with such names. May be given several times; '' takes all away
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// Don't pull longer NARs, as in '4 GiB'; '0 B' takes the limit away
    #[arg(long, value_name = "SIZE")]
    max_nar_size: Option<Size>,
    /// Pull also derivations
    #[arg(long, value_name = "true|false")]
    with_derivations: Option<bool>,
    /// Pull also paths that were added and not built
    #[arg(long, value_name = "true|false")]
    with_sources: Option<bool>,
    /// Time from one sync to the next, as in '15 m'; '0 s' syncs only when asked [default: 1 h]
    #[arg(long, value_name = "TIME", value_parser = super::bounds::seconds_or_none)]
    every: Option<Span>,
    /// NARs to fetch at once, 1 to 32 [default: 2]
    #[arg(long, value_name = "COUNT")]
    parallel: Option<u32>,
    /// Bytes a second at most, as in '20 MiB'; '0 B' takes the limit away
    #[arg(long, value_name = "SIZE", value_parser = super::bounds::reading_or_any)]
    rate: Option<Size>,
    /// The file of the private key for ssh
    #[arg(long, value_name = "FILE")]
    ssh_key: Option<String>,
    /// The host's public key, 'TYPE BASE64' [default: the one that the first sync finds]
    #[arg(long, value_name = "KEY")]
    host_key: Option<String>,
    /// Let the builder's own firn send, if there is one
    #[arg(long, value_name = "true|false")]
    use_firn: Option<bool>,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("believed").args(["trust", "key"]).required(true).multiple(true))]
pub(super) struct Add {
    /// Its name
    name: String,
    /// Where it is
    url: String,
    /// The cache that its paths come to
    #[arg(long)]
    cache: String,
    /// Leave out what is there at the first sync
    #[arg(long)]
    new_only: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct Set {
    /// Its name
    name: String,
    /// Where it is; what was seen elsewhere is forgotten
    #[arg(long)]
    url: Option<String>,
    /// The cache that its paths come to
    #[arg(long)]
    cache: Option<String>,
    /// Forget the host's key: the next sync takes the one that it finds
    #[arg(long, conflicts_with = "host_key")]
    forget_host_key: bool,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub(super) struct SyncArguments {
    /// Its name
    name: String,
    /// List everything again, also what was left out or refused
    #[arg(long)]
    full: bool,
    /// Don't wait until the running server is done
    #[arg(long)]
    detach: bool,
}

impl Common {
    fn settings(self) -> SourceSettings {
        let list = |texts: Vec<String>| {
            (!texts.is_empty()).then(|| texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>())
        };
        SourceSettings {
            builder: self.builder,
            trust: self.trust,
            keys: (!self.key.is_empty()).then_some(self.key),
            skip_upstream: self.with_upstream.map(|with| !with),
            include: list(self.include),
            exclude: list(self.exclude),
            max_nar_bytes: self.max_nar_size.map(|size| size.0),
            derivations: self.with_derivations,
            sources: self.with_sources,
            every_seconds: self.every.map(|span| span.0.as_secs()),
            parallel: self.parallel,
            bytes_per_second: self.rate.map(|size| size.0),
            ssh_key: self.ssh_key,
            host_key: self.host_key,
            use_firn: self.use_firn,
            ..SourceSettings::default()
        }
    }
}

pub(super) fn run(command: Command, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let ask = |request: Request| admin::ask(data, config, &request, false);
    match command {
        Command::Add(add) => {
            let Add { name, url, cache, new_only, common } = *add;
            let settings = SourceSettings { url: Some(url), cache: Some(cache), new_only, ..common.settings() };
            shown(ask(Request::SourceAdd { name, settings: Box::new(settings) })?)
        }
        Command::Set(set) => {
            let Set { name, url, cache, forget_host_key, common } = *set;
            let mut settings = SourceSettings { url, cache, ..common.settings() };
            if forget_host_key {
                settings.host_key = Some(String::new());
            }
            shown(ask(Request::SourceSet { name, settings: Box::new(settings) })?)
        }
        Command::Show { name } => shown(ask(Request::SourceShow { name })?),
        Command::Pause { name } => shown(ask(Request::SourcePause { name, paused: true })?),
        Command::Resume { name } => shown(ask(Request::SourcePause { name, paused: false })?),
        Command::Remove { name } => match ask(Request::SourceRemove { name })? {
            Answer::SourceRemoved(view) => Ok(Report::new(format!("removed the source {}\n", view.name), &view)),
            _ => Err(admin::unexpected()),
        },
        Command::List => match ask(Request::SourceList)? {
            Answer::Sources(views) => Ok(list(&views)),
            _ => Err(admin::unexpected()),
        },
        Command::Sync(arguments) => run_sync(arguments, data, config),
    }
}

/// Has the running server sync, or does it here.
fn run_sync(arguments: SyncArguments, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    let SyncArguments { name, full, detach } = arguments;
    admin::need_store(data)?;
    match admin::reach(data, &Request::SourceSync { name: name.clone(), full }, "firnd source sync")? {
        Reached::Server(reply) => match *reply {
            Ok(Answer::Source(view)) if detach => return Ok(report(&view)),
            // It waits for the one that is under way just as well.
            Ok(_) | Err(Failure::Busy { .. }) => {}
            Err(failure) => return Err(failure.into()),
        },
        Reached::Here(lock) => here(&name, full, lock, data, config)?,
    }
    loop {
        let Answer::Source(view) = admin::ask(data, config, &Request::SourceShow { name: name.clone() }, false)? else {
            return Err(admin::unexpected());
        };
        if !view.running {
            return match &view.error {
                Some(error) => Err(CliError::Failure(Failure::Source { detail: error.clone() })),
                None => Ok(report(&view)),
            };
        }
        thread::sleep(ASK_EVERY);
    }
}

/// Does it in this process, which has the store to itself. What came of it is written down.
fn here(name: &str, full: bool, lock: Lock, data: &DataDir, config: &Config) -> Result<(), CliError> {
    let invalid = |detail| CliError::Failure(Failure::Invalid { detail });
    let parsed = name.parse().map_err(invalid)?;
    let store = data.open_store(lock, config)?;
    let there = store.engine.meta().source(&parsed);
    let now = || SystemClock.now();
    let context = Context {
        engine: &store.engine,
        app: None,
        folder: data.sources(),
        base_url: None,
        entropy: &SystemEntropy,
        now: &now,
    };
    let outcome = match there {
        Ok(Some(_)) => {
            sync(&context, &parsed, &Arc::new(Run::default()), full).map(|_| ()).map_err(|error| error.to_string())
        }
        Ok(None) => {
            return Err(CliError::Failure(Failure::NoSuchSource { name: name.to_owned() }));
        }
        Err(error) => Err(crate::error_chain(&error)),
    };
    let closed = store.engine.close();
    store.release();
    outcome.map_err(|detail| CliError::Store { detail })?;
    closed.map_err(|error| CliError::Store { detail: crate::error_chain(&error) })
}

fn shown(answer: Answer) -> Result<Report, CliError> {
    match answer {
        Answer::Source(view) => Ok(report(&view)),
        _ => Err(admin::unexpected()),
    }
}

fn list(views: &[SourceView]) -> Report {
    let mut report = Report::new(String::new(), &views);
    if views.is_empty() {
        "no sources yet; `firnd source add` adds one\n".clone_into(&mut report.notes);
        return report;
    }
    let row = |view: &SourceView| {
        let state = match view {
            SourceView { running: true, .. } => view.activity.clone(),
            SourceView { paused: true, .. } => "paused".to_owned(),
            SourceView { error: Some(error), .. } => format!("failed: {error}"),
            SourceView { good_at: None, .. } => "new".to_owned(),
            _ => "good".to_owned(),
        };
        vec![
            view.name.clone(),
            view.url.clone(),
            view.cache.clone(),
            view.total.paths.to_string(),
            view.good_at.map_or_else(|| "never".to_owned(), output::time),
            view.next_at.map_or_else(|| "when asked".to_owned(), output::time),
            state,
        ]
    };
    let head = ["NAME", "URL", "CACHE", "PATHS", "GOOD AT", "NEXT", "STATE"];
    report.text = output::table(&head, views.iter().map(row).collect(), &[3]);
    report
}

fn report(view: &SourceView) -> Report {
    let or_none = |texts: &[String]| if texts.is_empty() { "all".to_owned() } else { texts.join(" ") };
    let mut rows = vec![
        ("source", view.name.clone()),
        ("url", view.url.clone()),
        ("cache", format!("{}, as builder {}", view.cache, view.builder)),
        (
            "believed",
            if view.trusted { "all".to_owned() } else { format!("what is signed by {}", view.keys.join(" ")) },
        ),
        ("names", or_none(&view.include)),
    ];
    if !view.exclude.is_empty() {
        rows.push(("but not", view.exclude.join(" ")));
    }
    rows.extend(view.max_nar_bytes.map(|bytes| ("longest NAR", output::bytes(bytes))));
    rows.extend(view.host_key.clone().map(|key| ("host key", key)));
    let next = view.next_at.map_or_else(|| "when asked".to_owned(), output::time);
    rows.push(("next sync", if view.paused { "paused".to_owned() } else { next }));
    rows.push(("state", view.activity.clone()));
    rows.extend(view.error.clone().map(|error| ("error", format!("{error} ({} in a row)", view.failures))));
    rows.extend(view.note.clone().map(|note| ("note", note)));
    rows.extend(view.good_at.map(|at| ("last good", output::time(at))));
    rows.push(("last sync", counts(&view.last)));
    rows.push(("all syncs", counts(&view.total)));
    let mut text = output::pairs(&rows);
    for problem in &view.problems {
        let again = if problem.again { "; is tried again" } else { "" };
        text += &format!("  {}: {}{again}\n", problem.path, problem.why);
    }
    Report::new(text, view)
}

fn counts(counts: &SourceCounts) -> String {
    let SourceCounts { listed, paths, present, filtered, refused, gone, .. } = counts;
    let (logical, metadata, nars) =
        (output::bytes(counts.logical_bytes), output::bytes(counts.metadata_bytes), output::bytes(counts.nar_bytes));
    format!(
        "{listed} listed: {paths} came ({logical}), {present} there, {filtered} filtered, {refused} refused, {gone} gone; \
         read {metadata} of metadata, {nars} of NARs"
    )
}
