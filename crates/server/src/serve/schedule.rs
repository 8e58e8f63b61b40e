//! What a running server does from time to time: it writes down which paths were used, and collects garbage.

use std::sync::Arc;
use std::time::Duration;

use firn_engine::GcOptions;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::admin::{GcView, collect};
use crate::app::App;

/// How often uses of paths are written to the index: so much of them is lost by a crash.
const FLUSH_EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`; a step that was begun is brought to an end.
pub(super) async fn run(app: Arc<App>, stop: CancellationToken) {
    let every = app.config.gc.interval.0;
    let mut flush = interval(FLUSH_EVERY);
    flush.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick of an interval comes at once; a server that has just started has better things to do.
    let mut gc = interval(if every.is_zero() { Duration::from_secs(86_400) } else { every });
    gc.set_missed_tick_behavior(MissedTickBehavior::Delay);
    gc.tick().await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = flush.tick() => {
                let shared = Arc::clone(&app);
                let flushed = app.blocking(move || shared.engine.flush_uses()).await;
                if let Ok(Err(error)) = flushed {
                    tracing::warn!(%error, "could not write down which paths were used");
                }
            }
            _ = gc.tick(), if !every.is_zero() => {
                let shared = Arc::clone(&app);
                let options = GcOptions { dry_run: false, grace_seconds: app.config.gc.grace.0.as_secs() };
                let work = app.blocking(move || collect(&shared.engine, Some(&shared), &options));
                tokio::pin!(work);
                let done = tokio::select! {
                    done = &mut work => done,
                    () = stop.cancelled() => {
                        app.engine.interrupt_collections();
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
        waiting_stored_bytes = view.backlog_condemned.stored_bytes + view.backlog_doomed.stored_bytes,
        seconds = view.ended_at.saturating_sub(view.started_at),
        "collected garbage"
    );
}
