//! `firn`, the client's command line: arguments, configuration, what is printed, exit codes.
//!
//! Every command is a module of `commands` with its arguments and one function `run`. What it needs of the outside comes
//! in a `Context`; what it can't do is a `Failure`, which knows its exit code (see [`exit`]) and a hint. Data goes to
//! standard output, all else to standard error. The pipeline that pushes, the protocol and the Nix store are other crates.

mod access;
mod agent_place;
mod arguments;
mod cache_ref;
mod commands;
mod config;
mod context;
mod doctor;
mod eta;
pub mod exit;
mod failure;
mod identity;
mod logging;
mod metrics_port;
mod netrc;
mod nix_conf;
mod nix_settings;
mod output;
mod private_file;
mod probe;
mod program;
mod progress;
mod push_target;
mod trust;

pub use arguments::main;
