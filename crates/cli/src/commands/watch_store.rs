//! `firn watch-store`: the agent, and what is said to one that runs.

mod ask;
mod service;
mod socket_mode;
mod wake;

use std::net::SocketAddr;
use std::path::PathBuf;

use bytesize::ByteSize;
use clap::Subcommand;
use firn_client::plan::Pattern;

use crate::agent_place::AgentOptions;
use crate::context::Context;
use crate::failure::Failure;
use crate::push_target::Effort;

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    ask: Option<Ask>,
    #[command(flatten)]
    agent: AgentOptions,
    #[command(flatten)]
    service: Service,
}

/// What is said to an agent that runs.
#[derive(Debug, Subcommand)]
enum Ask {
    /// Say what waits, what was pushed, lost or refused; also while no agent runs
    Status,
    /// Push what waits now
    Flush {
        /// Only wait for these; they are taken in if they don't wait, whatever the filters say
        paths: Vec<PathBuf>,
        /// End when they are in the cache, or can't get there
        #[arg(long)]
        wait: bool,
        /// How long to wait at most, as in 90s, 10m, 2h
        #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = ask::duration, requires = "wait")]
        timeout: std::time::Duration,
    },
    /// Try again what was refused for good
    Requeue(Letters),
    /// Say no more of what was refused for good, and don't try it again
    Forget(Letters),
    /// Take in what is in the store already
    Backfill {
        /// Only what was registered within this time, as in 12h, 7d
        #[arg(long, value_name = "DURATION", value_parser = ask::duration, required_unless_present = "all")]
        since: Option<std::time::Duration>,
        /// All of it
        #[arg(long, conflicts_with = "since")]
        all: bool,
    },
    /// Print the metrics as Prometheus reads them
    Metrics,
}

/// What was refused for good.
#[derive(Debug, clap::Args)]
struct Letters {
    /// These paths
    #[arg(required_unless_present = "all")]
    paths: Vec<PathBuf>,
    /// All of them
    #[arg(long, conflicts_with = "paths")]
    all: bool,
}

/// How the agent works.
#[derive(Debug, clap::Args)]
struct Service {
    /// The cache: a URL, or a name in the configuration
    #[arg(value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token; it is read again on SIGHUP, and whenever the server refuses it
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Take only paths with such names, the part behind the hash; * and ? are wildcards. May be given several times
    #[arg(long, value_name = "PATTERN")]
    include: Vec<Pattern>,
    /// Don't take paths with such names. May be given several times
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<Pattern>,
    /// Don't take paths whose NAR is longer
    #[arg(long, value_name = "BYTES")]
    max_nar_size: Option<ByteSize>,
    /// Take derivations (.drv) as well
    #[arg(long)]
    with_derivations: bool,
    /// Take sources as well: what was added to the store and not built
    #[arg(long)]
    with_sources: bool,
    /// Take also what an upstream has signed
    #[arg(long)]
    no_upstream_skip: bool,
    /// The first time, and with another cache than before, begin with everything that is in the store, and not with what
    /// comes from now on
    #[arg(long)]
    backfill: bool,
    /// How much of the store is kept from Nix's garbage collector for paths that wait
    #[arg(long, value_name = "BYTES", default_value = "64GiB")]
    max_pinned_bytes: ByteSize,
    /// For how long a path that waits is kept from it
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = ask::duration)]
    max_pin_age: std::time::Duration,
    #[command(flatten)]
    effort: Effort,
    /// Who may speak with the agent: the mode of its socket, octal
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = socket_mode::parse)]
    socket_mode: u32,
    /// Serve the metrics on http://ADDRESS/metrics as well
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<SocketAddr>,
}

const AFTER_HELP: &str = "\
Run it as root, on the machine whose Nix builds. It begins where it last was, however it ended: what was
built while it did not run is pushed when it does. SIGTERM stops it within seconds, SIGHUP has it read the
token again. What a path refers to is pushed with it, whatever the filters say.

Who may write to the socket may have any path of the store pushed and see the names of paths, no more.
Exit codes: 0 done (flush --wait: all is in the cache), 1 flush --wait: something is not; the agent: its
queue can't be used, 2 usage, 4 configuration, 5 Nix's database can't be read, 6 no agent runs or answers,
or another one holds the queue.";

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    match &arguments.ask {
        None => service::run(&arguments.service, &arguments.agent, context),
        Some(ask) => ask::run(ask, &arguments.agent.reached()?, context),
    }
}
