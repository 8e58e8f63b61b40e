//! Reports: made of a mark pass, kept in the index, cut to what was asked for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use firn_api::usage::{ConflictNote, GroupBy, StoreUsage, UsageDay, UsageGroup, UsageHistory, UsageReport};
use firn_engine::{Dimension, Engine, Mark, Usage as Sums, day_name};
use firn_index::{Day, Meta, SummaryRow, UnixSeconds};
use serde::{Deserialize, Serialize};

use super::counters::day_of;
use super::search::KEPT_PATHS;
use super::traffic::told;
use super::{HISTORY_DAYS, Packages, RECENT_DAYS, Usage, hours, view};
use crate::background;

/// Groups of a kind that a stored report keeps: the largest by exclusive bytes.
pub const STORED_GROUPS: usize = 1000;

/// Conflicts that a stored report keeps: the newest.
const STORED_CONFLICTS: usize = 100;

/// A report as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredReport {
    /// When the pass began.
    pub at: UnixSeconds,
    /// How long it took.
    pub took_ms: u64,
    /// Chunks that were not found.
    pub missing_chunks: u64,
    /// The store.
    pub store: StoreUsage,
    /// Its groups by each thing.
    pub by: BTreeMap<GroupBy, StoredGroups>,
    /// How many paths were offered with another NAR than the one that is there.
    #[serde(default)]
    pub conflicts_total: u64,
    /// The newest of these.
    #[serde(default)]
    pub conflicts: Vec<ConflictNote>,
}

/// The groups of one kind.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredGroups {
    /// How many there are.
    pub total: u64,
    /// The largest.
    pub groups: Vec<UsageGroup>,
}

/// Returns by what the engine groups, if it does.
fn dimension(by: GroupBy) -> Option<Dimension> {
    match by {
        GroupBy::Cache => Some(Dimension::Cache),
        GroupBy::Builder => Some(Dimension::Builder),
        GroupBy::Package => Some(Dimension::Package),
        GroupBy::Day => Some(Dimension::Day),
        GroupBy::Pin => None,
    }
}

fn group(name: String, sums: &Sums) -> UsageGroup {
    UsageGroup {
        name,
        paths: sums.paths,
        logical_bytes: sums.logical_bytes,
        unique_bytes: sums.unique_bytes,
        stored_bytes: sums.stored_bytes,
        exclusive_bytes: sums.exclusive_bytes,
        shared_bytes: sums.shared_bytes(),
        amortised_bytes: sums.amortised_bytes,
        delta_saved_bytes: sums.delta_saved_bytes,
        recent_bytes: sums.recent_bytes,
        dedup_factor: sums.dedup_factor(),
        compression_factor: sums.compression_factor(),
        last_at: sums.last_at,
        hours: Vec::new(),
        traffic: None,
    }
}

/// Returns the groups of a pass, the one with the most exclusive bytes first.
pub fn groups(mark: &Mark, meta: &dyn Meta, by: GroupBy, since: UnixSeconds) -> firn_index::Result<Vec<UsageGroup>> {
    let sums = match dimension(by) {
        Some(dimension) => mark.usage_by(dimension, since),
        None => super::view::pins(mark, meta, since)?,
    };
    let mut groups: Vec<UsageGroup> = sums.into_iter().map(|(name, sums)| group(name, &sums)).collect();
    if by == GroupBy::Builder {
        let mut counted = hours::by_builder(mark);
        for group in &mut groups {
            group.hours = counted.remove(group.name.as_str()).unwrap_or_default();
        }
    }
    groups.sort_by(|a, b| (b.exclusive_bytes, &a.name).cmp(&(a.exclusive_bytes, &b.name)));
    Ok(groups)
}

impl Usage {
    /// Makes a new report, keeps it and returns it; the counters are written first. Blocks.
    ///
    /// # Errors
    /// Errors of the engine and the index.
    pub fn make_report(&self, engine: &Engine, now: UnixSeconds) -> firn_engine::Result<Arc<StoredReport>> {
        background::run("firn-count", || self.count(engine, now))
    }

    fn count(&self, engine: &Engine, now: UnixSeconds) -> firn_engine::Result<Arc<StoredReport>> {
        let began = Instant::now();
        let meta = engine.meta();
        self.counters.flush(meta, now)?;
        let mark = self.mark(engine, now)?;
        let since = mark.at.saturating_sub(RECENT_DAYS * 86_400);
        let mut by = BTreeMap::new();
        for kind in GroupBy::ALL {
            let mut groups = groups(&mark, meta, kind, since)?;
            let total = groups.len() as u64;
            groups.truncate(STORED_GROUPS);
            by.insert(kind, StoredGroups { total, groups });
        }
        let index_bytes = self.index.get().map_or(0, |path| crate::data_dir::bytes_below(path).unwrap_or(0));
        let report = StoredReport {
            at: mark.at,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            missing_chunks: mark.missing_chunks,
            store: store_usage(&mark, index_bytes),
            by,
            conflicts_total: mark.conflicts().len() as u64,
            conflicts: conflicts(&mark, engine)?,
        };
        let bytes = serde_json::to_vec(&report).expect("numbers and texts are JSON");
        meta.put_summary(day_of(now), &summary(report.at, &report.store), &bytes)?;
        meta.forget_usage(day_of(now).saturating_sub(HISTORY_DAYS))?;
        let report = Arc::new(report);
        self.keep(Arc::clone(&report), Packages::of(&mark, KEPT_PATHS));
        Ok(report)
    }
}

/// Returns the newest paths that were offered with several NARs.
fn conflicts(mark: &Mark, engine: &Engine) -> firn_engine::Result<Vec<ConflictNote>> {
    let mut newest: Vec<_> = mark.conflicts().iter().collect();
    newest.sort_by_key(|conflict| (std::cmp::Reverse(conflict.at), conflict.cache, conflict.hash));
    let mut notes = Vec::new();
    for conflict in newest.into_iter().take(STORED_CONFLICTS) {
        let Some(cache) = mark.names().caches.get(usize::from(conflict.cache)) else { continue };
        let Some(row) = engine.meta().path(cache, &conflict.hash)? else { continue };
        notes.extend(view::newest_conflict(engine, cache, &row)?);
    }
    Ok(notes)
}

fn store_usage(mark: &Mark, index_bytes: u64) -> StoreUsage {
    let packs = mark.packs();
    let all = mark.usage_by(Dimension::Store, 0).pop().map(|(_, sums)| sums).unwrap_or_default();
    StoreUsage {
        paths: all.paths,
        logical_bytes: all.logical_bytes,
        distinct_nar_bytes: mark.distinct_nar_bytes,
        distinct_recipe_bytes: mark.distinct_recipe_bytes(),
        unique_bytes: packs.live_unique_bytes,
        chunk_bytes: packs.live_chunk_bytes,
        delta_saved_bytes: packs.delta_saved_bytes,
        dead_bytes: packs.dead_chunk_bytes(),
        recipe_bytes: packs.recipe_bytes,
        record_bytes: packs.record_bytes,
        overhead_bytes: packs.overhead_bytes(),
        stored_bytes: packs.stored_bytes,
        index_bytes,
    }
}

macro_rules! sums_of_a_day {
    ($($field:ident),*) => {
        fn summary(at: UnixSeconds, store: &StoreUsage) -> SummaryRow {
            SummaryRow { at, $($field: store.$field),* }
        }

        fn of_summary(row: &SummaryRow) -> StoreUsage {
            StoreUsage { $($field: row.$field),* }
        }
    };
}

sums_of_a_day!(
    paths,
    logical_bytes,
    distinct_nar_bytes,
    distinct_recipe_bytes,
    unique_bytes,
    chunk_bytes,
    delta_saved_bytes,
    dead_bytes,
    recipe_bytes,
    record_bytes,
    overhead_bytes,
    stored_bytes,
    index_bytes
);

/// From when on things are recent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    /// So many days ago.
    Days(u32),
    /// From a time on.
    At(UnixSeconds),
}

impl Since {
    /// Returns the time that is meant.
    pub fn at(self, now: UnixSeconds) -> UnixSeconds {
        match self {
            Self::Days(days) => now.saturating_sub(u64::from(days) * 86_400),
            Self::At(at) => at,
        }
    }
}

impl std::str::FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(days) = text.strip_suffix('d').and_then(|days| days.parse().ok()) {
            return Ok(Self::Days(days));
        }
        let date: Option<jiff::civil::Date> = text.parse().ok();
        let at = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok()).map(|at| at.timestamp().as_second());
        let at = at.and_then(|at| u64::try_from(at).ok());
        at.map(Self::At).ok_or_else(|| "a date as 2026-11-28 or a number of days as 7d".to_owned())
    }
}

/// What a report is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// By what to group.
    pub by: GroupBy,
    /// How many groups at most.
    pub top: usize,
    /// From when on things are recent, and counted; `None` for the report's own days.
    pub since: Option<UnixSeconds>,
    /// Whether to count anew.
    pub fresh: bool,
}

/// Returns a report as it was asked for; the newest one that is stored unless it must be counted anew. `may_see` says which
/// caches may be named, `sees_all` that these are all. Blocks.
///
/// # Errors
/// Errors of the engine and the index.
pub fn report(
    usage: &Usage,
    engine: &Engine,
    asked: Asked,
    now: UnixSeconds,
    may_see: &dyn Fn(&str) -> bool,
    sees_all: bool,
) -> firn_engine::Result<UsageReport> {
    let stored = match usage.latest().filter(|_| !asked.fresh) {
        Some(stored) => stored,
        None => usage.make_report(engine, now)?,
    };
    let mut groups = stored.by.get(&asked.by).cloned().unwrap_or_default();
    if let Some(since) = asked.since {
        let mark = usage.recent_mark(engine, now)?;
        groups.groups = self::groups(&mark, engine.meta(), asked.by, since)?;
        if asked.by == GroupBy::Day {
            groups.groups.retain(|group| group.name >= day_name(since));
        }
        groups.total = groups.groups.len() as u64;
    }
    if asked.by == GroupBy::Cache {
        groups.groups.retain(|group| may_see(&group.name));
        groups.total = groups.groups.len() as u64;
    }
    let traffic = usage.traffic_since(engine.meta(), now, asked.since.map_or(0, day_of), |key| match asked.by {
        GroupBy::Cache => Some(key.cache.to_string()),
        GroupBy::Builder => Some(key.builder.clone()),
        GroupBy::Day => Some(day_name(u64::from(key.day) * 86_400)),
        GroupBy::Package | GroupBy::Pin => None,
    })?;
    for group in &mut groups.groups {
        group.traffic = traffic.get(&group.name).map(told);
    }
    groups.groups.truncate(asked.top);
    Ok(UsageReport {
        at: stored.at,
        took_ms: stored.took_ms,
        recent_days: asked.since.map_or(RECENT_DAYS, |since| now.saturating_sub(since).div_ceil(86_400)),
        store: sees_all.then_some(stored.store),
        by: asked.by,
        groups_total: groups.total,
        groups: groups.groups,
        missing_chunks: stored.missing_chunks,
        conflicts: if sees_all { stored.conflicts.clone() } else { Vec::new() },
    })
}

/// Returns the days from one on.
///
/// # Errors
/// Errors of the index.
pub fn history(usage: &Usage, meta: &dyn Meta, now: UnixSeconds, from: Day) -> firn_index::Result<UsageHistory> {
    let mut history = UsageHistory::default();
    for (day, row) in meta.summaries(from)? {
        history.days.entry(day_name(u64::from(day) * 86_400)).or_default().store = of_summary(&row);
    }
    for (day, row) in usage.traffic_by_day(meta, now, from)? {
        let day = day_name(u64::from(day) * 86_400);
        history.days.entry(day).or_insert_with(UsageDay::default).traffic = told(&row);
    }
    Ok(history)
}
