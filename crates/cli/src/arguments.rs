//! The command line.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser};

use crate::commands::Command;
use crate::context::Context;
use crate::output::{self, Output};
use crate::{exit, logging};

const EXAMPLES: &str = "\
Examples:
  firn login https://cache.example.org/main < token     check a token and keep it
  firn use https://cache.example.org/main               have Nix substitute from the cache
  firn push ./result                                    push a build and what it needs
  firn watch-store main                                 push everything that this machine builds
  firn doctor                                           check the whole chain

CACHE is a URL, or a name in $XDG_CONFIG_HOME/firn/config.toml or /etc/firn/config.toml; without one,
the configuration's default-cache. Its token is the first of --token-file, FIRN_TOKEN, the
configuration's, and the one in Nix's netrc file.

Exit codes: 0 done, 1 a part was not done, 2 usage, 3 server, 4 configuration, 5 Nix or its store,
6 agent, 130 interrupted.";

#[derive(Debug, Parser)]
#[command(name = "firn", version, about = "Push what Nix builds to a firn cache, sending only what it lacks", after_help = EXAMPLES, max_term_width = 100, disable_help_subcommand = true)]
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
    /// The only configuration file that counts
    #[arg(long, global = true, env = "FIRN_CONFIG", hide_env_values = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON with stable field names on standard output
    #[arg(long, global = true)]
    json: bool,
    /// Say more; twice: everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// Under this name the program is the hook: Nix runs a `post-build-hook` without arguments.
const HOOK_PROGRAM: &str = "firn-hook";

/// Runs a command line; the first argument is the program's name.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.first().is_some_and(|program| Path::new(program).file_name() == Some(OsStr::new(HOOK_PROGRAM))) {
        arguments.splice(..1, ["firn".into(), "hook".into()]);
    }
    let is_hook = arguments.get(1).is_some_and(|command| command == "hook");
    // What can't be parsed says all the same how its error is to be printed.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(error) if json && !is_hook && error.use_stderr() => {
            output::usage_error(&error);
            return ExitCode::from(exit::USAGE);
        }
        Err(error) => {
            // A reader who went away early is no error here either.
            let _ = error.print();
            // Nix stops a build whose hook fails, even over a mistyped option.
            return ExitCode::from(if error.use_stderr() && !is_hook { exit::USAGE } else { exit::DONE });
        }
    };
    let Arguments { global, command } = arguments;
    let output = Output::new(global.json, global.quiet, global.verbose > 0);
    logging::start(global.verbose, global.quiet, global.json);
    let context = Context { output, config_file: global.config };
    match command.run(&context) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            output.failure(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn parse(arguments: Vec<OsString>) -> Result<Arguments, clap::Error> {
    let mut command = without_empty_variables(Arguments::command());
    let matches = command.try_get_matches_from_mut(arguments)?;
    Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

/// An empty variable is what continuous integration makes of one that is not set, and clap takes it for a value.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty =
        |argument: &&clap::Arg| argument.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
    let empty: Vec<_> = command.get_arguments().filter(is_empty).map(|argument| argument.get_id().clone()).collect();
    let command = empty
        .into_iter()
        .fold(command, |command, id| command.mut_arg(id, |argument| argument.env(None::<&'static str>)));
    command.mut_subcommands(without_empty_variables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_explains_itself() {
        for command in Arguments::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", command.get_name(), argument.get_id());
            }
        }
    }
}
