//! The commands: each module has the command's arguments and one function that runs it and returns its exit code.

mod doctor;
mod hook;
mod login;
mod pin;
mod push;
mod status;
mod usage;
mod use_cache;
mod watch_exec;
mod watch_store;

use clap::Subcommand;

use crate::context::Context;
use crate::failure::Failure;

/// What `firn` does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Push store paths to a cache, sending only what it lacks
    Push(push::Arguments),
    /// Watch the store and push everything that is built or imported, losing nothing
    WatchStore(watch_store::Arguments),
    /// Hand what was just built to the agent: for Nix's post-build-hook
    Hook(hook::Arguments),
    /// Run a command and push what it builds
    WatchExec(watch_exec::Arguments),
    /// Have Nix substitute from a cache
    Use(use_cache::Arguments),
    /// Check a token and keep it
    Login(login::Arguments),
    /// Say what the server, the token and the agent are at
    Status(status::Arguments),
    /// Show what caches, builders and packages cost on the server's disk
    Usage(usage::Arguments),
    /// Show what paths take there, what would come back, and who shares it
    Du(usage::DuArguments),
    /// Show what changed between two paths, by file, in bytes that were new
    Diff(usage::DiffArguments),
    /// Keep paths in a cache with everything that they refer to, under names
    #[command(subcommand)]
    Pin(pin::Command),
    /// Check the whole chain from Nix to the cache, and say what to do
    Doctor(doctor::Arguments),
}

impl Command {
    /// Runs the command and returns the exit code.
    pub(crate) fn run(self, context: &Context) -> Result<u8, Failure> {
        match self {
            Self::Push(arguments) => push::run(&arguments, context),
            Self::WatchStore(arguments) => watch_store::run(&arguments, context),
            Self::Hook(arguments) => hook::run(&arguments, context),
            Self::WatchExec(arguments) => watch_exec::run(&arguments, context),
            Self::Use(arguments) => use_cache::run(&arguments, context),
            Self::Login(arguments) => login::run(&arguments, context),
            Self::Status(arguments) => status::run(&arguments, context),
            Self::Usage(arguments) => usage::run(&arguments, context),
            Self::Du(arguments) => usage::du(&arguments, context),
            Self::Diff(arguments) => usage::diff(&arguments, context),
            Self::Pin(command) => pin::run(&command, context),
            Self::Doctor(arguments) => doctor::run(&arguments, context),
        }
    }
}
