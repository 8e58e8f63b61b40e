//! Counters of requests, and all that Prometheus is told.
//!
//! Names begin with `firn_`, have units, and stay. Label sets are bounded: kinds of requests, classes of answers, caches,
//! and at most [`MAX_SERIES`] pairs of a cache and a builder.

mod traces;
mod upstreams;
mod work;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_index::{CacheName, SourceStateRow, UnixSeconds, UsageRow};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode as encode_text;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::app::{App, LogFields};
use crate::usage::counters::{OTHERS, add};

/// Pairs of a cache and a builder that are told apart; the others are told as one.
pub const MAX_SERIES: usize = 200;

/// Upper ends of the buckets of requests' times, in seconds.
const BUCKETS: [f64; 9] = [0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0];

/// What a request is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the label")]
pub enum Kind {
    NarInfo,
    Nar,
    File,
    Document,
    Upload,
    Commit,
    Push,
    Inspect,
    Page,
    #[default]
    Other,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::NarInfo,
        Self::Nar,
        Self::File,
        Self::Document,
        Self::Upload,
        Self::Commit,
        Self::Push,
        Self::Inspect,
        Self::Page,
        Self::Other,
    ];

    /// Returns the label's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NarInfo => "narinfo",
            Self::Nar => "nar",
            Self::File => "file",
            Self::Document => "document",
            Self::Upload => "upload",
            Self::Commit => "commit",
            Self::Push => "push",
            Self::Inspect => "inspect",
            Self::Page => "page",
            Self::Other => "other",
        }
    }
}

/// Counters of one kind of requests.
struct OfKind {
    /// By class of the status: 1xx to 5xx.
    by_class: [AtomicU64; 5],
    broken_off: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
    seconds: Histogram,
}

/// Times of requests, by kind.
type Seconds = Family<ByKind, Histogram, fn() -> Histogram>;

/// Counters of all requests.
pub struct Requests {
    of_kinds: [OfKind; Kind::ALL.len()],
    /// What the histograms in these are of: they are told as one.
    seconds: Seconds,
}

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// The answer's status.
    pub status: u16,
    /// Whether all of the answer was sent.
    pub is_complete: bool,
    /// Whether the method was `HEAD`.
    pub is_head: bool,
    /// Bytes of the answer's body that were sent.
    pub sent_bytes: u64,
}

impl Default for Requests {
    fn default() -> Self {
        let seconds = Seconds::new_with_constructor(|| Histogram::new(BUCKETS));
        let of_kinds = Kind::ALL.map(|kind| OfKind {
            by_class: Default::default(),
            broken_off: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            seconds: seconds.get_or_create(&ByKind { kind: kind.as_str() }).clone(),
        });
        Self { of_kinds, seconds }
    }
}

impl Requests {
    /// Counts a request that came to its end, here and for its cache and builder.
    ///
    /// `HEAD` is no hit and no miss: nobody reads what he asks for so, and Nix asks so for each NAR that it is about to upload.
    pub fn count(&self, fields: &LogFields, ended: &Ended, elapsed: Duration, now: UnixSeconds) {
        let Ended { status, is_complete, is_head, sent_bytes } = *ended;
        let of_kind = &self.of_kinds[fields.kind as usize];
        if let Some(class) = usize::from(status / 100).checked_sub(1).and_then(|class| of_kind.by_class.get(class)) {
            add(class, 1);
        }
        add(&of_kind.sent_bytes, sent_bytes);
        add(&of_kind.received_bytes, fields.received_bytes);
        add(&of_kind.broken_off, u64::from(!is_complete));
        of_kind.seconds.observe(elapsed.as_secs_f64());
        let Some(tally) = &fields.tally else { return };
        add(&tally.served_bytes, sent_bytes);
        add(&tally.received_bytes, fields.received_bytes);
        tally.last_at.fetch_max(now, Ordering::Relaxed);
        let is_question = matches!(fields.kind, Kind::NarInfo | Kind::Nar);
        match status {
            404 if is_question => add(&tally.misses, u64::from(!is_head)),
            400.. => add(&tally.errors, 1),
            _ if !is_complete => add(&tally.errors, 1),
            _ if is_question => add(&tally.hits, u64::from(!is_head)),
            _ => add(&tally.pushes, u64::from(fields.kind == Kind::Commit)),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByClass {
    kind: &'static str,
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByCache {
    cache: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByPair {
    cache: String,
    builder: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByDatabase {
    database: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BySource {
    source: String,
}

/// Counters whose values are known when they are told.
type Counters<L> = Family<L, prometheus_client::metrics::counter::Counter>;

/// Returns the text for Prometheus. Blocks for some look-ups in the index.
///
/// # Errors
/// Errors of the engine.
pub fn encode(app: &App) -> firn_engine::Result<String> {
    let mut registry = Registry::with_prefix("firn");
    of_requests(app, &mut registry);
    of_pairs(app, &mut registry);
    of_store(app, &mut registry)?;
    work::register(app, &mut registry)?;
    of_report(app, &mut registry);
    of_index(app, &mut registry);
    of_sources(app, &mut registry)?;
    upstreams::register(app, &mut registry);
    traces::register(app, &mut registry);
    let mut text = String::new();
    // A String takes everything.
    let _ = encode_text(&mut text, &registry);
    Ok(text)
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn gauge(registry: &mut Registry, name: &str, help: &str, unit: Option<Unit>, value: u64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
    match unit {
        Some(unit) => registry.register_with_unit(name, help, unit, gauge),
        None => registry.register(name, help, gauge),
    }
}

fn of_requests(app: &App, registry: &mut Registry) {
    const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
    let requests = Counters::<ByClass>::default();
    let (broken, sent, received) =
        (Counters::<ByKind>::default(), Counters::<ByKind>::default(), Counters::<ByKind>::default());
    registry.register("http_requests", "Requests by kind and class of the answer", requests.clone());
    registry.register("http_broken_off_requests", "Answers that did not come to their end", broken.clone());
    registry.register_with_unit("http_sent", "Bytes of bodies sent", Unit::Bytes, sent.clone());
    registry.register_with_unit("http_received", "Bytes of bodies received", Unit::Bytes, received.clone());
    for (kind, of_kind) in Kind::ALL.into_iter().zip(&app.requests.of_kinds) {
        for (class, count) in CLASSES.into_iter().zip(&of_kind.by_class) {
            requests.get_or_create(&ByClass { kind: kind.as_str(), class }).inc_by(load(count));
        }
        let label = ByKind { kind: kind.as_str() };
        broken.get_or_create(&label).inc_by(load(&of_kind.broken_off));
        sent.get_or_create(&label).inc_by(load(&of_kind.sent_bytes));
        received.get_or_create(&label).inc_by(load(&of_kind.received_bytes));
    }
    let help = "Time from a request's head to the end of its answer";
    registry.register_with_unit("http_request_duration", help, Unit::Seconds, app.requests.seconds.clone());
    let config = &app.config.server;
    let busy = |most: usize, free: usize| most.saturating_sub(free) as u64;
    let uploads = busy(config.max_uploads, app.uploads.available());
    gauge(registry, "uploads_in_progress", "Uploads that hold a turn", None, uploads);
    gauge(registry, "uploads_limit", "Uploads that are taken at once", None, config.max_uploads as u64);
    let downloads = busy(config.max_downloads, app.downloads.available());
    gauge(registry, "downloads_in_progress", "NARs and files being sent", None, downloads);
    gauge(registry, "downloads_limit", "NARs and files that are sent at once", None, config.max_downloads as u64);
}

/// Returns the busiest pairs, and one row for all others.
fn pairs(app: &App) -> Vec<(CacheName, String, UsageRow)> {
    let mut rows = app.usage.counters.rows();
    rows.sort_by_key(|(_, _, row)| std::cmp::Reverse(row.pushes + row.hits + row.misses + row.errors));
    let mut rest: Vec<(CacheName, String, UsageRow)> = Vec::new();
    for (cache, _, row) in rows.split_off(rows.len().min(MAX_SERIES)) {
        match rest.iter_mut().find(|(of, ..)| *of == cache) {
            Some((.., sum)) => sum.add(&row),
            None => rest.push((cache, OTHERS.to_owned(), row)),
        }
    }
    for (cache, builder, row) in rest {
        match rows.iter_mut().find(|(of, name, _)| *of == cache && *name == builder) {
            Some((.., sum)) => sum.add(&row),
            None => rows.push((cache, builder, row)),
        }
    }
    rows
}

fn of_pairs(app: &App, registry: &mut Registry) {
    type Field = fn(&UsageRow) -> u64;
    const COUNTERS: [(&str, &str, Option<Unit>, Field); 9] = [
        ("pushes", "Requests that pushed something", None, |row| row.pushes),
        ("pushed_paths", "Paths that became visible", None, |row| row.paths),
        ("pushed_logical", "NAR bytes of paths that became visible", Some(Unit::Bytes), |row| row.logical_bytes),
        ("received", "Bytes of bodies received", Some(Unit::Bytes), |row| row.received_bytes),
        ("served", "Bytes of bodies sent", Some(Unit::Bytes), |row| row.served_bytes),
        ("hits", "Narinfos and NARs that were there", None, |row| row.hits),
        ("misses", "Narinfos and NARs that were not", None, |row| row.misses),
        ("errors", "Requests that were refused or failed", None, |row| row.errors),
        ("conflicts", "Paths offered with another NAR than the one that is there", None, |row| row.conflicts),
    ];
    let rows = pairs(app);
    for (name, help, unit, field) in COUNTERS {
        let family = Counters::<ByPair>::default();
        for (cache, builder, row) in &rows {
            let label = ByPair { cache: cache.to_string(), builder: builder.clone() };
            family.get_or_create(&label).inc_by(field(row));
        }
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family),
            None => registry.register(name, help, family),
        }
    }
    let last = Family::<ByPair, Gauge>::default();
    for (cache, builder, row) in &rows {
        let label = ByPair { cache: cache.to_string(), builder: builder.clone() };
        last.get_or_create(&label).set(i64::try_from(row.last_at).unwrap_or(i64::MAX));
    }
    registry.register("last_seen_timestamp_seconds", "When a builder was seen last at a cache", last);
    let conflict = Family::<ByPair, Gauge>::default();
    let is_shown = |cache: &CacheName, builder: &str| rows.iter().any(|(of, by, _)| of == cache && by == builder);
    for (cache, builder, at) in app.usage.counters.conflict_times(app.now()) {
        if at > 0 || is_shown(&cache, &builder) {
            let label = ByPair { cache: cache.to_string(), builder };
            conflict.get_or_create(&label).set(i64::try_from(at).unwrap_or(i64::MAX));
        }
    }
    let help = "When these metrics first told of the last conflict of a builder; 0: of none";
    registry.register("last_conflict_timestamp_seconds", help, conflict);
}

fn of_store(app: &App, registry: &mut Registry) -> firn_engine::Result<()> {
    let stats = app.engine.stats()?;
    let bytes = Some(Unit::Bytes);
    gauge(registry, "store_paths", "Paths of all caches", None, stats.totals.paths);
    gauge(registry, "store_logical", "NAR bytes of all paths", bytes.clone(), stats.totals.logical_bytes);
    gauge(registry, "store_unique", "Uncompressed bytes of all chunks", bytes.clone(), stats.totals.unique_bytes);
    gauge(registry, "store_stored", "Bytes of all packs", bytes.clone(), stats.totals.stored_bytes);
    gauge(registry, "store_chunks", "Chunks that the index knows, roughly", None, stats.chunks);
    gauge(registry, "chunks_in_flight", "Chunks on their way to the disk", None, stats.chunks_in_flight as u64);
    gauge(registry, "frame_cache", "Decoded frames in memory", bytes.clone(), stats.frame_cache_bytes);
    if let Some(free) = app.usage.index.get().and_then(|index| free_bytes(index)) {
        gauge(registry, "disk_free", "Free bytes of the data directory's file system", bytes, free);
    }
    Ok(())
}

fn free_bytes(path: &std::path::Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    found.f_bavail.checked_mul(found.f_frsize)
}

fn of_report(app: &App, registry: &mut Registry) {
    let passes = load(&app.usage.passes);
    registry.register("mark_passes", "Counts of the whole store", ConstCounter::new(passes));
    let seconds = load(&app.usage.passes_ms) as f64 / 1000.0;
    registry.register_with_unit("mark_passes_time", "Time that they took", Unit::Seconds, ConstCounter::new(seconds));
    let Some(report) = app.usage.latest() else { return };
    let store = &report.store;
    gauge(registry, "report_timestamp_seconds", "When the newest count began", None, report.at);
    gauge(registry, "conflicting_paths", "Paths that were offered with several NARs", None, report.conflicts_total);
    gauge(registry, "missing_chunks", "Chunks that are needed and were not found", None, report.missing_chunks);
    let mut bytes = |name, help, value| gauge(registry, name, help, Some(Unit::Bytes), value);
    bytes("live_unique", "Uncompressed bytes of chunks that something needs", store.unique_bytes);
    bytes("live_chunks", "What these take in packs", store.chunk_bytes);
    bytes("dead_chunks", "Bytes in packs of chunks that nothing needs", store.dead_bytes);
    bytes("delta_saved", "What delta frames save, estimated", store.delta_saved_bytes);
    bytes("index_size", "Bytes of the indexes on the disk", store.index_bytes);
    let Some(caches) = report.by.get(&firn_api::usage::GroupBy::Cache) else { return };
    type Field = fn(&firn_api::usage::UsageGroup) -> u64;
    const GAUGES: [(&str, &str, Field); 4] = [
        ("cache_logical", "NAR bytes of a cache's paths", |group| group.logical_bytes),
        ("cache_stored", "Bytes in packs of all that a cache needs", |group| group.stored_bytes),
        ("cache_exclusive", "Of these, what no other cache needs", |group| group.exclusive_bytes),
        ("cache_paths", "Paths of a cache", |group| group.paths),
    ];
    for (name, help, field) in GAUGES {
        let family = Family::<ByCache, Gauge>::default();
        for group in caches.groups.iter().take(MAX_SERIES) {
            let value = i64::try_from(field(group)).unwrap_or(i64::MAX);
            family.get_or_create(&ByCache { cache: group.name.clone() }).set(value);
        }
        match name {
            "cache_paths" => registry.register(name, help, family),
            _ => registry.register_with_unit(name, help, Unit::Bytes, family),
        }
    }
}

fn of_index(app: &App, registry: &mut Registry) {
    let (meta, chunks) = (app.engine.meta().measures(), app.engine.chunk_index_measures());
    for (name, _) in if meta.is_empty() { &chunks } else { &meta } {
        let family = Family::<ByDatabase, Gauge>::default();
        for (database, measures) in [("meta", &meta), ("chunks", &chunks)] {
            if let Some((_, value)) = measures.iter().find(|(of, _)| of == name) {
                family.get_or_create(&ByDatabase { database }).set(i64::try_from(*value).unwrap_or(i64::MAX));
            }
        }
        registry.register(format!("index_{name}"), "As RocksDB tells of itself", family);
    }
}

fn of_sources(app: &App, registry: &mut Registry) -> firn_engine::Result<()> {
    type Field = fn(&SourceStateRow) -> u64;
    const COUNTERS: [(&str, &str, Option<Unit>, Field); 4] = [
        ("source_paths", "Paths that came from a source", None, |state| state.total.paths),
        ("source_refused_paths", "Paths of a source that did not come", None, |state| state.total.refused),
        ("source_nars", "Bytes of NARs that came from a source", Some(Unit::Bytes), |state| state.total.nar_bytes),
        ("source_metadata", "Other bytes that came from it", Some(Unit::Bytes), |state| state.total.metadata_bytes),
    ];
    const GAUGES: [(&str, &str, Field); 2] = [
        ("source_failures", "Syncs of a source in a row that failed", |state| u64::from(state.failures)),
        ("source_good_timestamp_seconds", "When a sync was last good; 0 for never", |state| state.good_at.unwrap_or(0)),
    ];
    let meta = app.engine.meta();
    let mut states = Vec::new();
    for (name, _) in meta.sources()?.into_iter().take(MAX_SERIES) {
        let state = meta.source_state(&name)?;
        states.push((BySource { source: name.to_string() }, state));
    }
    for (name, help, unit, field) in COUNTERS {
        let family = Counters::<BySource>::default();
        for (label, state) in &states {
            family.get_or_create(label).inc_by(field(state));
        }
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family),
            None => registry.register(name, help, family),
        }
    }
    for (name, help, field) in GAUGES {
        let family = Family::<BySource, Gauge>::default();
        for (label, state) in &states {
            family.get_or_create(label).set(i64::try_from(field(state)).unwrap_or(i64::MAX));
        }
        registry.register(name, help, family);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::usage::Tally;

    #[test]
    fn a_head_is_neither_hit_nor_miss() {
        let (requests, tally) = (Requests::default(), Arc::new(Tally::default()));
        let fields = LogFields { kind: Kind::Nar, tally: Some(Arc::clone(&tally)), ..LogFields::default() };
        for (status, is_head) in [(404, true), (200, true), (404, false), (200, false), (200, false), (500, true)] {
            let ended = Ended { status, is_complete: true, is_head, sent_bytes: 0 };
            requests.count(&fields, &ended, Duration::ZERO, 1);
        }
        let row = tally.row();
        assert_eq!((row.hits, row.misses, row.errors), (2, 1, 1));
    }
}
