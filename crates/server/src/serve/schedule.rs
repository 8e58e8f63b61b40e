//! What a running server does from time to time: it writes down which paths were used, and collects garbage.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admin::{GcView, collect};
use crate::app::App;
use crate::collector::Plan;

/// How often uses of paths are written to the index: so much of them is lost by a crash.
const FLUSH_EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`; a step that was begun is brought to an end.
pub(super) async fn run(app: Arc<App>, stop: CancellationToken) {
    tokio::join!(flush(&app, &stop), collect_garbage(&app, &stop));
}

async fn flush(app: &Arc<App>, stop: &CancellationToken) {
    let mut flush = interval(FLUSH_EVERY);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = flush.tick() => {}
        }
        let shared = Arc::clone(app);
        let flushed = app.blocking(move || shared.engine.flush_uses()).await;
        if let Ok(Err(error)) = flushed {
            tracing::warn!(%error, "could not write down which paths were used");
        }
    }
}

async fn collect_garbage(app: &Arc<App>, stop: &CancellationToken) {
    let every = app.config.gc.interval.0;
    if every.is_zero() {
        return;
    }
    // The first tick of an interval comes at once; a server that has just started has better things to do.
    let mut gc = interval(every);
    gc.set_missed_tick_behavior(MissedTickBehavior::Delay);
    gc.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = gc.tick() => {}
        }
        let shared = Arc::clone(app);
        let work = app.blocking(move || collect(&shared, &Plan::configured(&shared.config.gc)));
        tokio::pin!(work);
        let done = tokio::select! {
            done = &mut work => done,
            () = stop.cancelled() => {
                app.engine.interrupt_collections();
                app.collector.stop();
                work.await
            }
        };
        match done {
            Ok(Ok(Some(view))) => log(&view),
            Ok(Ok(None)) => tracing::info!("no scheduled collection: one is under way"),
            Ok(Err(error)) if stop.is_cancelled() => tracing::info!(%error, "a collection was cut short"),
            Ok(Err(error)) => tracing::error!(error = crate::error_chain(&error), "a collection failed"),
            Err(error) => tracing::error!(%error, "a collection failed"),
        }
    }
}

fn log(view: &GcView) {
    let removed_paths: u64 = view.caches.iter().map(|fates| fates.removed_paths).sum();
    tracing::info!(
        removed_paths,
        recipes = view.recipes,
        condemned_packs = view.condemned.packs,
        doomed_packs = view.doomed.packs,
        deleted_packs = view.deleted.packs,
        deleted_stored_bytes = view.deleted.stored_bytes,
        repacked_packs = view.repack.packs,
        repack_written_bytes = view.repack.written_bytes,
        stuck_packs = view.stuck.len(),
        waiting_stored_bytes = view.backlog_condemned.stored_bytes + view.backlog_doomed.stored_bytes,
        seconds = view.ended_at.saturating_sub(view.started_at),
        "collected garbage"
    );
}
