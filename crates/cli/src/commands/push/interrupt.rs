//! Ctrl-C: the first stops in order, the second at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit;
use crate::output::Output;

/// Returns what is cancelled by the first SIGINT or SIGTERM; the second ends the process.
pub(super) fn stop_on_signals(output: Output) -> CancellationToken {
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers both end the process at once, as they do everywhere.
        return stop;
    };
    tokio::spawn(async move {
        let mut is_second = false;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if is_second {
                std::process::exit(exit::INTERRUPTED.into());
            }
            is_second = true;
            output.note("stopping; once more to end at once");
            stopping.cancel();
        }
    });
    stop
}
