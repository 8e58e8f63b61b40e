//! What is done for usage reports while the server runs: counters are written, the store is counted now and then.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::due;

/// How often counters are written: what a crash loses of them.
const FLUSH: Duration = Duration::from_secs(60);

/// How many times as long as a count took the store is left alone after it.
const REST: u64 = 20;

/// The task that counts.
pub(super) struct Counting {
    app: Arc<App>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Counting {
    /// Begins; the first report is made a minute later, unless there is one that is new enough.
    pub(super) fn begin(app: Arc<App>) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(Arc::clone(&app), stop.clone()));
        Self { app, stop, task }
    }

    /// Ends a count that is under way, and writes the counters a last time.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.app.usage.stop();
        // One that panicked has said so.
        let _ = self.task.await;
        let app = Arc::clone(&self.app);
        let _ = self.app.blocking(move || flush(&app)).await;
    }
}

async fn run(app: Arc<App>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FLUSH) => {}
        }
        let work = Arc::clone(&app);
        // A panic is on standard error; the next round tries again.
        let _ = app.blocking(move || round(&work)).await;
    }
}

fn flush(app: &App) {
    if let Err(error) = app.usage.counters.flush(app.engine.meta(), app.now()) {
        tracing::warn!(
            error = &error as &dyn std::error::Error,
            "could not write usage counters: tried again in a minute"
        );
    }
}

fn round(app: &App) {
    flush(app);
    let now = app.now();
    app.usage.tidy(now);
    let interval = app.config.usage.report_interval.0.as_secs();
    let is_due = app.usage.latest().is_none_or(|report| {
        let rest = interval.max(report.took_ms * REST / 1000);
        due::has_come(report.at.saturating_add(rest), rest, now)
    });
    if interval == 0 || !is_due {
        return;
    }
    match app.usage.make_report(&app.engine, now) {
        Ok(report) => tracing::info!(
            paths = report.store.paths,
            stored_bytes = report.store.stored_bytes,
            ms = report.took_ms,
            "counted the store"
        ),
        Err(firn_engine::Error::WritesStopped(_)) => {}
        Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "could not count the store"),
    }
}
