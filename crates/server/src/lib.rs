//! `firnd`: the HTTP binary cache and its administration.
//!
//! * [`http`] answers Nix: routes, bodies, uploads. [`app::App`] is what its handlers share.
//! * [`usage`] counts what happens and what things cost, [`metrics`] tells it to Prometheus.
//! * [`oidc`] makes tokens for identities of CI jobs.
//! * [`serve`] runs it: sockets, TLS, limits, logs, shutdown. [`traces`] tells OpenTelemetry what it does.
//! * [`scrubber`] reads packs again beside it, and checks them.
//! * [`admin`] changes caches and tokens, in a running server (by a socket in the data directory) or without one.
//! * [`maintenance`] says how the work in the background is doing.
//! * [`collector`] collects garbage, [`squeeze`] compresses cold packs again, in the background.
//! * [`sources`] pulls from builders, other stores and other caches, [`file_cache`] reads and writes a cache as a folder of files.
//! * [`binary_cache`] reads other HTTP binary caches.
//! * [`upstream`] knows which of them are worth asking.
//! * [`cli`] is the command line over both, [`config`] the one file that `firnd` reads, [`data_dir`] what lies where.
//!
//! ```no_run
//! # fn main() -> std::process::ExitCode {
//! firn_server::cli::main(std::env::args_os())
//! # }
//! ```

pub mod admin;
pub mod app;
pub mod auth;
mod background;
pub mod backup;
pub mod binary_cache;
pub mod caches;
pub mod cli;
pub mod collector;
pub mod config;
pub mod data_dir;
mod due;
pub mod file_cache;
pub mod http;
mod intake;
mod kill;
pub mod maintenance;
pub mod metrics;
pub mod oidc;
pub mod scrubber;
pub mod serve;
pub mod sources;
pub mod squeeze;
pub mod traces;
pub mod turns;
pub mod upstream;
pub mod usage;

/// Returns an error with its sources, as one line.
pub(crate) fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
