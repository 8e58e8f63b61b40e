//! `firn push`.

mod interrupt;
mod report;
mod select;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firn_api::{CacheDescription, Code};
use firn_client::plan::{Pattern, Plan, PlanOptions, plan};
use firn_client::push::{Event, StoreSource, Totals, push};
use firn_client::remote::{HttpOptions, Remote, RemoteOptions, RetryPolicy};
use firn_nix::PublicKey;
use firn_nix_store::Location;

use crate::cache_ref::{CacheRef, Token};
use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Kind};
use crate::progress::Progress;
use crate::push_target::{Effort, target};

use select::Selected;

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// Store paths, result links or files in the store, and at last the cache: a URL or a configured name. Without a cache,
    /// the configuration's default
    #[arg(value_name = "PATH|CACHE")]
    names: Vec<String>,
    /// Push also what the paths refer to. This is the default
    #[arg(long, conflicts_with = "no_closure")]
    closure: bool,
    /// Push exactly the paths; what they refer to has to be in the cache or at an upstream
    #[arg(long)]
    no_closure: bool,
    /// Read further paths from standard input, one a line
    #[arg(long)]
    stdin: bool,
    /// Push every valid path of the store
    #[arg(long, conflicts_with_all = ["stdin", "no_closure", "closure"])]
    all: bool,
    /// Say what would be pushed, and push nothing
    #[arg(long)]
    dry_run: bool,
    /// Push only paths with such names, the part behind the hash; * and ? are wildcards. May be given several times
    #[arg(long, value_name = "PATTERN")]
    include: Vec<Pattern>,
    /// Don't push paths with such names. May be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<Pattern>,
    /// Push also what an upstream has signed
    #[arg(long)]
    no_upstream_skip: bool,
    /// Don't ask which paths are there: have each verified and committed again, which repairs damaged ones
    #[arg(long)]
    recheck: bool,
    #[command(flatten)]
    effort: Effort,
    /// How long a request is tried again while the server can't be reached or is busy
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    retry_for: u64,
    /// Read the token from a file; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

const AFTER_HELP: &str = "\
With --json, each event is one line on standard output; docs/PUSH.md describes them.
Exit codes: 0 all paths are in the cache, 1 some were not pushed (they are named), 2 usage,
3 the server can't be reached or refuses, 4 configuration, 5 the Nix store can't be read, 130 interrupted.";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    if arguments.stdin && arguments.token_file.as_ref().is_some_and(|file| file.as_os_str() == "-") {
        return Err(Failure::new(Kind::Usage, "read both paths and the token from standard input"));
    }
    let (names, cache) = select::split_cache(&context.config()?, &arguments.names)?;
    let found = context.cache(cache.as_deref(), arguments.token_file.as_deref());
    let cache = found.map_err(|failure| match (&cache, names.last(), &failure.hint) {
        (None, Some(last), Some(hint)) if failure.kind == Kind::Usage => {
            let hint = format!("'{last}' is taken for a path; {hint}");
            failure.hint(hint)
        }
        _ => failure,
    })?;
    let location = Location::from_env().map_err(|error| Failure::of(Kind::Store, error))?;
    let wanted = select::Wanted { names, stdin: arguments.stdin, all: arguments.all, closure: !arguments.no_closure };
    let selected = select::select(&location, wanted)?;
    for line in &selected.warnings {
        context.output.warn(line);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::doing(Kind::Failed, "start threads", error))?;
    let code = runtime.block_on(push_selected(arguments, context, &cache, location, selected));
    // Threads that still read for a push that was stopped are not waited for.
    runtime.shutdown_background();
    code
}

async fn push_selected(
    arguments: &Arguments,
    context: &Context,
    cache: &CacheRef,
    location: Location,
    selected: Selected,
) -> Result<u8, Failure> {
    let progress = Arc::new(Progress::new(context.output));
    let stop = interrupt::stop_on_signals(context.output);
    let work = async {
        let remote = connect(arguments, cache, &progress).await?;
        let description = remote.describe().await.map_err(|error| refused(error, cache))?;
        check(&description, &location, cache)?;
        let options = plan_options(arguments, context, cache, &description);
        let store_dir = location.store_dir.clone();
        let planned = plan(&remote, selected.paths, selected.beside, &store_dir, &options).await.map_err(server)?;
        Ok::<_, Failure>((Arc::new(remote), planned))
    };
    let (remote, planned) = tokio::select! {
        () = stop.cancelled() => return Err(Failure::new(Kind::Interrupted, "push: it was interrupted")),
        done = work => done?,
    };
    progress.line(&report::planned(&planned, arguments.dry_run));
    if arguments.dry_run {
        progress.dry_run(&planned);
        return progress.check_written().map(|()| exit::DONE);
    }
    let skipped = report::Skipped::of(&planned);
    let summary = push_planned(arguments, remote, location, planned, &stop, &progress).await;
    progress.finish(&report::finished(&summary, &skipped));
    let code = report::code(summary)?;
    progress.check_written().map(|()| code)
}

async fn push_planned(
    arguments: &Arguments,
    remote: Arc<Remote>,
    location: Location,
    planned: Plan,
    stop: &tokio_util::sync::CancellationToken,
    progress: &Arc<Progress>,
) -> firn_client::push::Summary {
    let options = arguments.effort.options();
    let (told, carrier) = (progress.clone(), remote.clone());
    let on_event = Arc::new(move |event| told.event(&with_all_requests(event, &carrier)));
    let mut summary = push(remote.clone(), Arc::new(StoreSource(location)), planned, &options, stop, on_event).await;
    summary.totals.wire = remote.wire();
    summary
}

/// Counts what went over the wire before the push as well: the questions whose answers it was planned by.
fn with_all_requests(event: Event, remote: &Remote) -> Event {
    match event {
        Event::Progress(totals) => Event::Progress(Totals { wire: remote.wire(), ..totals }),
        other => other,
    }
}

async fn connect(arguments: &Arguments, cache: &CacheRef, progress: &Arc<Progress>) -> Result<Remote, Failure> {
    let target = target(cache)?;
    let told = progress.clone();
    let options = RemoteOptions {
        retry: RetryPolicy { give_up_after: Duration::from_secs(arguments.retry_for), ..RetryPolicy::default() },
        on_wait: Arc::new(move |waiting| told.waiting(waiting)),
        ..RemoteOptions::default()
    };
    // As Nix does, for a server with a certificate of the organisation's own.
    let extra_certificates = std::env::var_os("NIX_SSL_CERT_FILE").map(PathBuf::from);
    let http = HttpOptions { extra_certificates, ..HttpOptions::default() };
    Remote::connect(target, &http, options).await.map_err(server)
}

/// As whom a server takes those without a token that it knows.
const ANONYMOUS: &str = "anonymous";

const NO_TOKEN: &str = "no token was found: give one with --token-file or FIRN_TOKEN, or keep it with `firn login`";

/// Returns the failure that stands for a server that tells nothing of the cache.
fn refused(mut error: firn_client::Error, cache: &CacheRef) -> Failure {
    let firn_client::Error::Refused { code, hint, .. } = &mut error else { return server(error) };
    if *code != Code::Forbidden.as_str() {
        return server(error);
    }
    // The server's own hint is for Nix, and for who pulls.
    *hint = None;
    let advice = cache.token.as_ref().map_or_else(|| NO_TOKEN.to_owned(), |token| doubtful(token, cache));
    server(error).hint(advice)
}

fn doubtful(token: &Token, cache: &CacheRef) -> String {
    format!(
        "check the URL, and the token from {}: is it whole, of this server, not revoked, and has it the verb push? On the \
         server: firnd token create --grant {}:push --name NAME",
        token.source,
        cache.url.name()
    )
}

/// Refuses what can't work before anything is read.
fn check(description: &CacheDescription, location: &Location, cache: &CacheRef) -> Result<(), Failure> {
    if description.store_dir != location.store_dir {
        let message = format!(
            "push from {} to a cache of {}: paths of one store directory are of no use in another",
            location.store_dir, description.store_dir
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    if !description.can_push {
        let hint = match &cache.token {
            None => NO_TOKEN.to_owned(),
            // A token that the server does not know counts as none, and a public cache is open to all.
            Some(token) if description.builder == ANONYMOUS => doubtful(token, cache),
            Some(token) => format!("the token from {} has no grant to push there", token.source),
        };
        return Err(Failure::new(Kind::Server, format!("push to {}: it is not allowed", cache.url)).hint(hint));
    }
    Ok(())
}

/// What is left out: the server has to accept a proof for it, so only its own upstream keys count.
fn plan_options(
    arguments: &Arguments,
    context: &Context,
    cache: &CacheRef,
    description: &CacheDescription,
) -> PlanOptions {
    let theirs: Vec<PublicKey> = description.upstream_keys.iter().filter_map(|key| key.parse().ok()).collect();
    let mut keys = match &cache.upstream_keys {
        Some(ours) => ours.clone(),
        None => theirs.clone(),
    };
    for key in keys.iter().filter(|key| !theirs.iter().any(|their| their.to_string() == key.to_string())) {
        context.output.warn(&format!(
            "the configuration's upstream key {} is none of the cache's: what it signed is pushed",
            key.name()
        ));
    }
    keys.retain(|key| theirs.iter().any(|their| their.to_string() == key.to_string()));
    if arguments.no_upstream_skip {
        keys.clear();
    }
    PlanOptions {
        upstream_keys: keys,
        include: arguments.include.clone(),
        exclude: arguments.exclude.clone(),
        ignore_present: arguments.recheck,
    }
}

/// Returns the failure that stands for what a server did.
pub(crate) fn server(error: firn_client::Error) -> Failure {
    use firn_client::Error;
    let kind = match &error {
        Error::Target(_) => Kind::Usage,
        Error::Setup { .. } => Kind::Config,
        Error::Cancelled => Kind::Interrupted,
        _ => Kind::Server,
    };
    Failure::of(kind, error)
}
