//! The command line: arguments to requests, answers to text, errors to exit codes.

mod admin;
mod backup;
mod bounds;
mod cache;
mod error;
pub mod exit;
mod file_cache;
mod gc;
mod output;
mod rebuild;
mod scrub;
mod source;
mod squeeze;
mod token;
mod upstream;
mod usage;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::{Config, EXAMPLE, Listen};
use crate::data_dir::DataDir;
use crate::serve::{self, tls};

pub use error::CliError;
pub use output::Report;

const EXAMPLES: &str = "\
Examples:
  firnd serve --data /var/lib/firnd --listen '[::]:8080'
  firnd cache create main --public         make a cache; prints its key and nix.conf lines
  firnd token create --grant main:push --name builder-1 > token
  firnd status

Clients then use http://SERVER:8080/main as a substituter, and upload with
  nix copy --to http://SERVER:8080/main    the token is the password in their netrc file

Administration works while the server runs and when it doesn't.

Exit codes: 0 done, 1 failed, 2 usage, 3 configuration, 4 data directory in use,
5 not found, 6 exists already, 7 shutdown forced by a second signal, 8 stored bytes are damaged.";

#[derive(Debug, Parser)]
#[command(name = "firnd", version, about = "A binary cache for Nix that stores every piece once", after_help = EXAMPLES, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
struct Global {
    /// The data directory [default: the configuration's, or ./data]
    #[arg(long, global = true, env = "FIRN_DATA", hide_env_values = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The configuration file; without one, built-in defaults hold
    #[arg(long, global = true, env = "FIRN_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON: one line with stable field names
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server until SIGTERM or SIGINT
    #[command(after_help = SERVE_HELP)]
    Serve(ServeArguments),
    /// Make, show, change and delete caches
    #[command(subcommand)]
    Cache(cache::Command),
    /// Add, list and remove other binary caches that a cache knows
    #[command(subcommand)]
    Upstream(upstream::Command),
    /// Make, list and revoke tokens
    #[command(subcommand)]
    Token(token::Command),
    /// Check a configuration file, or print one with every key explained
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Sum up what is stored, and what it takes
    Status,
    /// Remove what no rule keeps, and give back the bytes that nobody needs
    #[command(after_help = gc::GC_HELP)]
    Gc(gc::Gc),
    /// Say why a path is there: since when, by whom, what keeps it
    Explain(gc::Explain),
    /// Delete paths
    #[command(subcommand)]
    Path(gc::PathCommand),
    /// Pull from builders and other stores, by schedule or on demand
    #[command(subcommand)]
    Source(source::Command),
    /// Keep paths with everything that they refer to, under names
    #[command(subcommand)]
    Pin(gc::PinCommand),
    /// Write a cache's paths as files that Nix reads as file://DIR
    #[command(after_help = file_cache::EXPORT_HELP)]
    Export(file_cache::Export),
    /// Take in the paths of a folder that Nix wrote as file://DIR
    #[command(after_help = file_cache::IMPORT_HELP)]
    Import(file_cache::Import),
    /// Copy the whole store, or what is new of it, while the server runs
    #[command(after_help = backup::HELP)]
    Backup(backup::Backup),
    /// Make a store of a backup
    RestoreBackup(backup::RestoreBackup),
    /// Make the index again from the packs
    #[command(after_help = rebuild::HELP)]
    RebuildIndex(rebuild::Rebuild),
    /// Read all stored bytes again, and name what is damaged
    #[command(after_help = scrub::HELP)]
    Scrub(scrub::Scrub),
    /// Compress cold packs again, smaller
    #[command(after_help = squeeze::HELP)]
    Squeeze(squeeze::Arguments),
    /// Show what caches, builders and packages cost
    Usage(usage::Arguments),
}

const SERVE_HELP: &str = "\
When it listens it prints a line `firnd: listening on http://ADDRESS:PORT` for each address.

Signals: SIGTERM and SIGINT finish the requests in progress (at most server.shutdown-grace) and end;
one a second later or more ends at once. SIGHUP reads the TLS files again.

/healthz answers 200 while the process is alive, /readyz while it can take uploads (503 says why not).

Example:
  firnd serve --data /var/lib/firnd --listen 0.0.0.0:8080 --listen '[::1]:8080'";

#[derive(Debug, Args)]
struct ServeArguments {
    /// Where to listen; may be given several times [default: the configuration's, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = crate::config::parse_address)]
    listen: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy, Subcommand)]
enum ConfigCommand {
    /// Say whether the configuration (--config or FIRN_CONFIG) is good; with --json, print it with all defaults
    Check,
    /// Print the default configuration with every key explained
    #[command(after_help = "Example:\n  firnd config example > firnd.toml")]
    Example,
}

/// Runs a command line; the first argument is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // What can't be parsed says all the same how its error is to be printed.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) if json && error.use_stderr() => {
            output::write_usage_error(&error);
            return ExitCode::from(exit::USAGE);
        }
        Err(error) => {
            // A reader who went away early is no error here either.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::DONE });
        }
    };
    let json = arguments.global.json;
    let done = run(arguments).and_then(|report| {
        report.write(json).map_err(CliError::Output)?;
        Ok(report.code)
    });
    match done {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output::write_error(&error, error.hint().as_deref(), json);
            ExitCode::from(error.code())
        }
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let mut command = without_empty_variables(Arguments::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// Scripts make empty variables of such as are not set, and clap takes them for values.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |argument: &&clap::Arg| argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let empty: Vec<_> = command.get_arguments().filter(is_empty).map(|argument| argument.get_id().clone()).collect();
    let command = empty
        .into_iter()
        .fold(command, |command, id| command.mut_arg(id, |argument| argument.env(None::<&'static str>)));
    command.mut_subcommands(without_empty_variables)
}

fn run(arguments: Arguments) -> Result<Report, CliError> {
    let Arguments { global, command } = arguments;
    let mut config = match &global.config {
        // To print the example, no file needs to be good.
        _ if matches!(command, Command::Config(ConfigCommand::Example)) => Config::default(),
        Some(path) => Config::load(path)?,
        None => Config::default(),
    };
    if let Command::Serve(serve) = &command
        && !serve.listen.is_empty()
    {
        config.server.listen = Listen(serve.listen.clone());
        config.check("with the command line's --listen")?;
    }
    let root = global.data.clone().or_else(|| config.server.data.clone()).unwrap_or_else(|| PathBuf::from("data"));
    config.server.data = Some(root.clone());
    let data = DataDir::new(root);
    match command {
        Command::Serve(_) => Ok(serve::run(config, &data, global.json).map(|()| Report::default())?),
        Command::Cache(command) => cache::run(command, &data, &config),
        Command::Upstream(command) => upstream::run(command, &data, &config),
        Command::Token(command) => token::run(command, &data, &config),
        Command::Status => admin::status(&data, &config),
        Command::Gc(arguments) => gc::gc(arguments, &data, &config),
        Command::Explain(arguments) => gc::explain(arguments, &data, &config),
        Command::Path(command) => gc::path(command, &data, &config),
        Command::Source(command) => source::run(command, &data, &config),
        Command::Pin(command) => gc::pin(command, &data, &config),
        Command::Export(export) => file_cache::export(&export, &data, &config),
        Command::Import(import) => file_cache::import(&import, &data, &config),
        Command::Backup(backup) => backup::run(&backup, &data),
        Command::RestoreBackup(arguments) => backup::restore(&arguments, &data, &config),
        Command::RebuildIndex(rebuild) => rebuild::run(&rebuild, &data, &config),
        Command::Scrub(scrub) => scrub::run(&scrub, &data, &config),
        Command::Squeeze(arguments) => squeeze::run(&arguments, &data, &config),
        Command::Usage(arguments) => usage::run(&arguments, &data, &config),
        Command::Config(ConfigCommand::Example) => Ok(Report::new(EXAMPLE, &Config::default())),
        Command::Config(ConfigCommand::Check) => check_config(&config, global.config.as_ref()),
    }
}

fn check_config(config: &Config, path: Option<&PathBuf>) -> Result<Report, CliError> {
    if let (Some(cert), Some(key)) = (&config.server.tls_cert, &config.server.tls_key) {
        tls::load(cert, key)?;
    }
    let place = path.map_or_else(|| "no file: the built-in defaults".to_owned(), |path| path.display().to_string());
    Ok(Report::new(format!("{place}: good\n"), config))
}
