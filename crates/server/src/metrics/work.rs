//! Metrics of what the server works at beside requests: memories, commits, packs, scrubbing, squeezing, counting.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use firn_engine::MemoryUse;
use firn_index::PackState;

use super::{Counters, gauge};
use crate::app::App;

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
    scrub(app, registry)?;
    squeeze(app, registry);
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

fn scrub(app: &App, registry: &mut Registry) -> firn_engine::Result<()> {
    let found = app.engine.scrub_outcome()?;
    let is_running = app.scrubber.state().running.is_some();
    gauge(registry, "scrub_running", "Whether stored bytes are being read again", None, u64::from(is_running));
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

fn squeeze(app: &App, registry: &mut Registry) {
    let progress = app.squeezer.control().progress();
    gauge(
        registry,
        "squeeze_running",
        "Whether cold packs are being compressed again",
        None,
        u64::from(progress.running),
    );
    gauge(registry, "squeeze_packs", "Packs that the newest pass found to do", None, progress.packs);
    gauge(registry, "squeeze_done_packs", "Packs of these that are done", None, progress.done_packs);
    let bytes = Some(Unit::Bytes);
    gauge(registry, "squeeze_read", "Bytes that the newest pass compressed again", bytes.clone(), progress.read_bytes);
    gauge(registry, "squeeze_written", "Bytes that came of it", bytes, progress.written_bytes);
}
