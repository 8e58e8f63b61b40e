//! Signals.

use std::io;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::tls::Tls;
use crate::cli::exit;

/// Signals that come so soon after the first one say the same once more: whoever ends a group of processes may send two at once.
const ONE_WISH: Duration = Duration::from_secs(1);

/// What a signal to end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// To finish what is in progress.
    End,
    /// That was said already.
    Again,
    /// To end at once.
    Force,
}

impl Wish {
    /// Returns what one means that comes `now`; `first` is when the first one came.
    fn of(first: &mut Option<Instant>, now: Instant) -> Self {
        match *first {
            None => {
                *first = Some(now);
                Self::End
            }
            Some(first) if now.saturating_duration_since(first) < ONE_WISH => Self::Again,
            Some(_) => Self::Force,
        }
    }
}

/// Watches for signals from here on: the first SIGTERM or SIGINT cancels `stop`, one that comes a second later or more ends the
/// process, SIGHUP reads the TLS files again.
pub(super) fn watch(stop: CancellationToken, tls: Option<Arc<Tls>>) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    // Lives as long as the process: it only waits, and holds nothing.
    tokio::spawn(async move {
        let mut first = None;
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    reload(tls.as_deref());
                    continue;
                }
            };
            match Wish::of(&mut first, Instant::now()) {
                Wish::End => {
                    tracing::info!(signal = name, "ending: waiting for requests in progress");
                    stop.cancel();
                }
                Wish::Again => {}
                Wish::Force => {
                    tracing::warn!(signal = name, "a second signal: ending at once");
                    process::exit(exit::FORCED.into());
                }
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_signals_at_once_are_one() {
        let (mut first, began) = (None, Instant::now());
        let mut wish = |ms| Wish::of(&mut first, began + Duration::from_millis(ms));
        assert_eq!([wish(0), wish(0), wish(999), wish(1000), wish(5000)], {
            use Wish::{Again, End, Force};
            [End, Again, Again, Force, Force]
        });
    }
}
