//! `firn watch-exec`: runs a command, then pushes what it built.

mod child;
mod private_hook;
mod signals;
mod upload;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use firn_client::agent::{Filter, NixStore, RemotePusher, Store as _, Upstreams};
use firn_client::plan::Pattern;
use firn_client::push::StoreSource;
use firn_client::remote::HttpOptions;
use firn_nix_store::Location;

use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Kind};
use crate::push_target::{Effort, give_target};

use private_hook::PrivateHook;
use signals::Signals;
use upload::{Built, Upload};

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The cache: a URL, or a name in the configuration
    #[arg(value_name = "CACHE")]
    cache: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// The file that holds the token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// If the command succeeds and the upload doesn't, end with status 1 and not with the command's
    #[arg(long)]
    fail_on_upload_error: bool,
    /// Push only paths with such names, the part behind the hash, and what they refer to; * and ? are wildcards
    #[arg(long, value_name = "PATTERN")]
    include: Vec<Pattern>,
    /// Don't push paths with such names. May be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<Pattern>,
    /// Push also what an upstream has signed
    #[arg(long)]
    no_upstream_skip: bool,
    #[command(flatten)]
    effort: Effort,
    /// For how long the upload is tried again while the server can't be reached or is busy
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    retry_for: u64,
}

const AFTER_HELP: &str = "\
What the command built is pushed with everything that it refers to, also if the command failed; what it
had substituted is not. On a machine where others build at the same time, their builds are pushed as well.
A user whom the Nix daemon trusts gets a post-build-hook for the command, unless one is configured.

Ends with the command's status (128 and the signal, if one ended it); 127 if there is no such command.
An upload that failed is told of on standard error, and by status 1 only with --fail-on-upload-error.
Standard output is the command's; --json says at the end, as one line on standard error, what came of the upload.
Ctrl-C, SIGTERM and SIGHUP go to the command; during the upload they end the upload, the second one at once.";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    // What is wrong with the arguments is told before the command runs for an hour.
    let cache = context.cache(arguments.cache.as_deref(), arguments.token_file.as_deref())?;
    let location = Location::from_env().map_err(|error| Failure::of(Kind::Store, error))?;
    // What upstreams have the server knows, which is asked later.
    let filter = Filter { include: arguments.include.clone(), exclude: arguments.exclude.clone(), ..Filter::default() };
    let upstreams = match cache.upstream_keys {
        _ if arguments.no_upstream_skip => Upstreams::Only(Vec::new()),
        Some(keys) => Upstreams::Only(keys),
        None => Upstreams::Server,
    };
    let store = Arc::new(NixStore::new(location.clone()));
    let mut built = Built::since_now(store.clone(), filter);
    let hook = PrivateHook::install(&location, context);
    let blind = if hook.is_none() { built.unreadable.take() } else { None };
    if let Some(error) = &blind {
        context.output.warn(&format!("nothing will be pushed: {}", error.chain()));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::doing(Kind::Failed, "start threads", error))?;
    let (code, mut signals) = runtime.block_on(async {
        let environment = hook.as_ref().map(PrivateHook::environment);
        let code = child::run(&arguments.command, environment, context.output).await?;
        // Those that came before were the command's.
        Ok::<_, Failure>((code, Signals::listen()?))
    })?;
    let named = hook.as_ref().map(|hook| hook.paths(context)).unwrap_or_default();
    let pusher = RemotePusher::new(
        give_target(context, arguments.cache.clone(), arguments.token_file.clone()),
        HttpOptions {
            extra_certificates: std::env::var_os("NIX_SSL_CERT_FILE").map(PathBuf::from),
            ..HttpOptions::default()
        },
        Arc::new(StoreSource(location.clone())),
        upstreams,
        store.store_dir().to_owned(),
        arguments.effort.options(),
        Duration::from_secs(arguments.retry_for),
    );
    let upload = Upload { store, pusher, retry_for: Duration::from_secs(arguments.retry_for) };
    let uploaded = runtime.block_on(async {
        if let Some(error) = blind {
            return Err(error);
        }
        built.look(&named)?;
        upload.run(&built, &mut signals, context).await
    });
    runtime.shutdown_background();
    let Err(failure) = uploaded else { return Ok(code) };
    match context.output.json {
        true => context.output.failure(&failure),
        false => context.output.warn(&format!("the upload failed: {}", failure.chain())),
    }
    let fails = arguments.fail_on_upload_error && code == exit::DONE;
    Ok(if fails { exit::FAILED } else { code })
}
