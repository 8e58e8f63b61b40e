//! Signals.

use std::io;
use std::process;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::tls::Tls;
use crate::cli::exit;

/// Watches for signals from here on: the first SIGTERM or SIGINT cancels `stop`, the second ends the process, SIGHUP reads
/// the TLS files again.
pub(super) fn watch(stop: CancellationToken, tls: Option<Arc<Tls>>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Lives as long as the process: it only waits, and holds nothing.
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    reload(tls.as_deref());
                    continue;
                }
            };
            if stop.is_cancelled() {
                tracing::warn!(signal = name, "a second signal: ending at once");
                process::exit(exit::FORCED.into());
            }
            tracing::info!(signal = name, "ending: waiting for requests in progress");
            stop.cancel();
        }
    });
    Ok(())
}

fn reload(tls: Option<&Tls>) {
    match tls.map(Tls::reload) {
        None => tracing::info!("SIGHUP: there are no TLS files to read again"),
        Some(Ok(())) => tracing::info!("SIGHUP: the TLS files were read again"),
        Some(Err(error)) => tracing::error!(%error, "SIGHUP: the TLS files are no good: the earlier ones stay in use"),
    }
}
