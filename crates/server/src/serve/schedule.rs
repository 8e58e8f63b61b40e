//! What a running server does from time to time: it writes down which paths were used, and collects garbage.

use std::sync::Arc;
use std::time::Duration;

use firn_index::{Meta, UnixSeconds};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use crate::admin::{GcView, collect};
use crate::app::App;
use crate::collector::Plan;
use crate::due;

/// How often uses of paths are written to the index: so much of them is lost by a crash.
const FLUSH_EVERY: Duration = Duration::from_secs(60);

/// How long a server that has just started is spared collections, unless they come more often.
const FIRST_REST: Duration = Duration::from_secs(300);

/// How often it is looked whether a collection is due: the clock may be set, and machines sleep.
const LOOK_EVERY: Duration = Duration::from_secs(60);

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
    let (mut wait, mut tried_at) = (FIRST_REST.min(every), None);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(wait) => {}
        }
        wait = LOOK_EVERY;
        let (shared, now) = (Arc::clone(app), app.now());
        let is_due = app.blocking(move || is_due(shared.engine.meta(), tried_at, every.as_secs(), now)).await;
        if !matches!(is_due, Ok(true)) {
            continue;
        }
        tried_at = Some(now);
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

/// Returns whether a collection is due: so long after the last one, whichever process made it, or tried to.
fn is_due(meta: &dyn Meta, tried_at: Option<UnixSeconds>, every: u64, now: UnixSeconds) -> bool {
    // What can't be read does not keep collections from being made; they say what is wrong.
    let row = meta.collection().unwrap_or_default();
    let times = [row.last.map(|pass| pass.started_at), row.failure.map(|failure| failure.at), tried_at];
    let last = times.into_iter().flatten().filter(|at| due::is_past(*at, now)).max();
    let made_at = || meta.store_info().ok().flatten().map_or(0, |info| info.created_at);
    due::has_come(last.unwrap_or_else(made_at).saturating_add(every), every, now)
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

#[cfg(test)]
mod tests {
    use firn_index::memory::MemoryMeta;
    use firn_index::{CollectionFailure, CollectionPass, CollectionRow, StoreInfo};

    use super::*;

    const DAY: u64 = 86400;

    #[test]
    fn a_collection_is_due_so_long_after_the_last_one_whoever_made_it() {
        let meta = MemoryMeta::new();
        let info = StoreInfo { format_version: 1, chunker: String::new(), created_at: 100 * DAY, store_id: 1 };
        meta.set_store_info(&info).unwrap();
        let is_due = |tried_at, now| is_due(&meta, tried_at, DAY, now);
        assert!(!is_due(None, 101 * DAY - 1) && is_due(None, 101 * DAY), "of a new store");
        let last = Some(CollectionPass { started_at: 200 * DAY, ended_at: 200 * DAY + 9, ..CollectionPass::default() });
        meta.set_collection(&CollectionRow { last: last.clone(), failure: None }).unwrap();
        assert!(!is_due(None, 200 * DAY + DAY / 2) && is_due(None, 201 * DAY));
        assert!(!is_due(Some(201 * DAY), 201 * DAY + 60), "one that was not written down");
        let failure = Some(CollectionFailure { at: 201 * DAY, problem: String::new() });
        meta.set_collection(&CollectionRow { last, failure }).unwrap();
        assert!(!is_due(None, 202 * DAY - 1) && is_due(None, 202 * DAY), "one that failed is not tried all the time");
        // The clock was wrong.
        assert!(is_due(None, 150 * DAY) && !is_due(Some(150 * DAY), 150 * DAY + 60));
    }
}
