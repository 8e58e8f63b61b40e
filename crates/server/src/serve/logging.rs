//! Logs: one line for each event, on standard error.

use std::io::{self, IsTerminal};

use tracing_subscriber::fmt::time::SystemTime;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Something else that events and spans are handed to, by a filter of its own.
pub type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

/// Sends events to standard error from here on. A second call changes nothing.
///
/// Panics are logged as errors as well: each ends the request in which it happened.
pub fn init(config: &LogConfig) {
    init_with(config, None);
}

/// Does as [`init`], and hands events and spans to another one as well.
pub(super) fn init_with(config: &LogConfig, other: Option<BoxedLayer>) {
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
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_timer(SystemTime);
    let lines: BoxedLayer = match config.format {
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false).with_span_list(false);
            Box::new(lines.with_filter(filter))
        }
        LogFormat::Text => {
            let colour =
                io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            Box::new(lines.with_ansi(colour).with_target(false).with_filter(filter))
        }
    };
    let layers: Vec<BoxedLayer> = [Some(lines), other].into_iter().flatten().collect();
    let done = tracing_subscriber::registry().with(layers).try_init().is_ok();
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
