//! Metrics of what the server works at beside requests: memories, commits, packs, collections, scrubbing, squeezing.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use firn_engine::MemoryUse;
use firn_index::PackState;

use super::{Counters, gauge};
use crate::app::App;
use crate::maintenance::{GcState, Maintenance, ScrubState, SqueezeState};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByMemory {
    memory: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByState {
    state: &'static str,
}

/// Registers all of them. Blocks for some look-ups in the index.
///
/// # Errors
/// Errors of the engine.
pub(super) fn register(app: &App, registry: &mut Registry) -> firn_engine::Result<()> {
    memories(app, registry);
    commits(app, registry);
    packs(app, registry)?;
    let Maintenance { gc, scrub: scrubbing, squeeze: squeezing } = Maintenance::of(app)?;
    collections(&gc, registry);
    scrub(app, &scrubbing, registry)?;
    squeeze(&squeezing, registry);
    Ok(())
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn memories(app: &App, registry: &mut Registry) {
    let (entries, bytes, limit) = (
        Family::<ByMemory, Gauge>::default(),
        Family::<ByMemory, Gauge>::default(),
        Family::<ByMemory, Gauge>::default(),
    );
    let (hits, misses) = (Counters::<ByMemory>::default(), Counters::<ByMemory>::default());
    let all = app.engine.memories().into_iter().chain([app.http.narinfo_memory()]);
    for MemoryUse { name, entries: count, bytes: held, limit: most, hits: answered, misses: missed } in all {
        let label = ByMemory { memory: name };
        entries.get_or_create(&label).set(signed(count));
        if let Some(held) = held {
            bytes.get_or_create(&label).set(signed(held));
            limit.get_or_create(&label).set(signed(most));
        }
        hits.get_or_create(&label).inc_by(answered);
        misses.get_or_create(&label).inc_by(missed);
    }
    registry.register("memory_entries", "What a memory of the most used things holds", entries);
    registry.register_with_unit("memory", "Bytes of these", Unit::Bytes, bytes);
    registry.register_with_unit("memory_limit", "Bytes that it holds at most", Unit::Bytes, limit);
    registry.register("memory_hits", "Questions that a memory answered", hits);
    registry.register("memory_misses", "Questions that it did not", misses);
}

fn commits(app: &App, registry: &mut Registry) {
    let queue = app.engine.commit_queue();
    gauge(registry, "commit_queue_changes", "Changes that wait to be committed", None, queue.waiting);
    let (groups, changes) = (ConstCounter::new(queue.groups), ConstCounter::new(queue.changes));
    registry.register("commit_groups", "Groups of changes committed, each with one wait for the disk", groups);
    registry.register("committed_changes", "Changes in these", changes);
}

fn packs(app: &App, registry: &mut Registry) -> firn_engine::Result<()> {
    let (packs, bytes) = (Family::<ByState, Gauge>::default(), Family::<ByState, Gauge>::default());
    for found in app.engine.packs_by_state()? {
        let label = ByState {
            state: match found.state {
                PackState::Writing => "writing",
                PackState::Live => "live",
                PackState::Condemned => "condemned",
                PackState::Doomed => "doomed",
            },
        };
        packs.get_or_create(&label).set(signed(found.packs));
        bytes.get_or_create(&label).set(signed(found.stored_bytes));
    }
    registry.register("packs", "Packs by state", packs);
    registry.register_with_unit("packs_stored", "Their bytes", Unit::Bytes, bytes);
    Ok(())
}

fn collections(gc: &GcState, registry: &mut Registry) {
    let bytes = || Some(Unit::Bytes);
    gauge(registry, "gc_running", "Whether a collection is under way", None, u64::from(gc.running_since.is_some()));
    counter(registry, "gc_runs", "Collections that came to their end", None, gc.runs);
    counter(registry, "gc_failures", "Collections that failed", None, gc.failures);
    counter(registry, "gc_removed_paths", "Paths that collections removed", None, gc.removed_paths);
    counter(registry, "gc_deleted", "Bytes of packs that were deleted", bytes(), gc.deleted.stored_bytes);
    counter(registry, "gc_repack_read", "Bytes that repacking read", bytes(), gc.repack_read_bytes);
    counter(registry, "gc_repack_written", "Bytes that repacking wrote", bytes(), gc.repack_written_bytes);
    gauge(registry, "gc_reclaimable", "What was to come back after the last collection", bytes(), gc.reclaimable_bytes);
    gauge(registry, "gc_stuck_packs", "Packs that can't be emptied, read or deleted", None, gc.stuck.len() as u64);
    let (Some(started_at), Some(ended_at)) = (gc.last_started_at, gc.last_ended_at) else { return };
    gauge(registry, "gc_finished_timestamp_seconds", "When the last collection ended", None, ended_at);
    let took = ended_at.saturating_sub(started_at);
    gauge(registry, "gc_last_duration", "How long it took", Some(Unit::Seconds), took);
}

fn scrub(app: &App, state: &ScrubState, registry: &mut Registry) -> firn_engine::Result<()> {
    let found = app.engine.scrub_outcome()?;
    gauge(registry, "scrub_running", "Whether stored bytes are being read again", None, u64::from(state.running));
    let is_failing = u64::from(state.problem.is_some());
    gauge(registry, "scrub_failing", "Whether the last scrub broke off", None, is_failing);
    if let Some(at) = found.last.as_ref().and_then(|pass| pass.finished_at) {
        gauge(registry, "scrub_finished_timestamp_seconds", "When all stored bytes had been read again last", None, at);
    }
    // What the pass under way has found by now may already be more than the last one did.
    let passes = || found.last.iter().chain(&found.current);
    let most = |of: fn(&firn_index::ScrubPass) -> u64| passes().map(of).max().unwrap_or(0);
    let newest = found.current.as_ref().or(found.last.as_ref());
    let read = newest.map_or(0, |pass| pass.read_bytes);
    gauge(registry, "scrub_read", "Bytes that the newest pass has read", Some(Unit::Bytes), read);
    let damaged = [
        ("scrub_damaged_packs", "Packs found damaged as a whole", most(|pass| pass.damaged_packs)),
        ("scrub_damaged_frames", "Frames found damaged", most(|pass| pass.damaged_frames)),
        (
            "scrub_damaged_paths",
            "Paths that can't be had until they are uploaded again",
            most(|pass| pass.damaged_paths),
        ),
        ("scrub_unreadable_packs", "Packs that could not be read", most(|pass| pass.unreadable_packs)),
    ];
    for (name, help, value) in damaged {
        gauge(registry, name, help, None, value);
    }
    Ok(())
}

fn squeeze(state: &SqueezeState, registry: &mut Registry) {
    let progress = &state.pass;
    gauge(
        registry,
        "squeeze_running",
        "Whether cold packs are being compressed again",
        None,
        u64::from(progress.running),
    );
    gauge(registry, "squeeze_packs", "Packs that the newest pass found to do", None, progress.packs);
    gauge(registry, "squeeze_done_packs", "Packs of these that are done", None, progress.done_packs);
    let is_failing = u64::from(progress.error.is_some());
    gauge(registry, "squeeze_failing", "Whether the newest pass failed", None, is_failing);
    let bytes = Some(Unit::Bytes);
    let waiting = state.backlog.stored_bytes;
    gauge(registry, "squeeze_backlog", "Bytes of packs that could be squeezed", bytes.clone(), waiting);
    gauge(registry, "squeeze_read", "Bytes that the newest pass compressed again", bytes.clone(), progress.read_bytes);
    gauge(registry, "squeeze_written", "Bytes that came of it", bytes, progress.written_bytes);
}

fn counter(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: u64) {
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, ConstCounter::new(value)),
        None => registry.register(name, help, ConstCounter::new(value)),
    }
}
