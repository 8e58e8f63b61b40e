//! Logs: one line for each event, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::SystemTime;

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Sends events to standard error from here on. A second call changes nothing.
///
/// Panics are logged as errors as well: each ends the request in which it happened.
pub fn init(config: &LogConfig) {
    let level = match config.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    // Libraries' own chatter is for finding faults in them.
    let others = if config.level == LogLevel::Error { "error" } else { "warn" };
    let filter = EnvFilter::new(format!("{others},firn={level}"));
    let builder = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter).with_timer(SystemTime);
    let done = match config.format {
        LogFormat::Json => {
            builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init().is_ok()
        }
        LogFormat::Text => {
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            builder.with_ansi(colour).with_target(false).try_init().is_ok()
        }
    };
    if done {
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let payload = panic.payload();
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let message = text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
            tracing::error!(place, message, "a panic: please report it");
        }));
    }
}
