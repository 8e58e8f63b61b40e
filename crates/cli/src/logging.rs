//! Log lines on standard error, for commands that run for long.

use tracing_subscriber::EnvFilter;

/// Starts logging; `verbose` counts `-v`. `FIRN_LOG` overrides it, in the syntax of tracing's filters.
pub(crate) fn start(verbose: u8, quiet: bool, json: bool) {
    let level = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn,firn_cli=info,firn_client=info",
        (false, 1) => "info,firn_cli=debug,firn_client=debug",
        (false, _) => "debug,firn_cli=trace,firn_client=trace",
    };
    let filter = EnvFilter::try_from_env("FIRN_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Only a second start in one process fails, and then there is a log already.
    let _ = if json { builder.json().try_init() } else { builder.with_ansi(false).try_init() };
}
