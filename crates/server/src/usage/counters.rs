//! Counters of what happens, by cache and builder: added to without a lock, and written to the index now and then.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use firn_engine::PathOutcome;
use firn_index::{CacheName, Day, Meta, UnixSeconds, UsageKey, UsageRow};

/// Pairs of a cache and a builder that are counted apart between two flushes, so that tokens without number take no memory
/// without end; what is more is counted as [`OTHERS`].
const MAX_PAIRS: usize = 4096;

/// The builder that stands for all beyond the limit.
pub const OTHERS: &str = "(others)";

/// What is counted of a cache and a builder. All only grow.
#[derive(Debug, Default)]
pub struct Tally {
    /// Requests that pushed something.
    pub pushes: AtomicU64,
    /// Paths that became visible.
    pub paths: AtomicU64,
    /// NAR bytes of these.
    pub logical_bytes: AtomicU64,
    /// Bytes of bodies that were received.
    pub received_bytes: AtomicU64,
    /// Bytes of bodies that were sent.
    pub served_bytes: AtomicU64,
    /// Narinfos and NARs that were asked for and there.
    pub hits: AtomicU64,
    /// Those that were not.
    pub misses: AtomicU64,
    /// Requests that were refused or failed.
    pub errors: AtomicU64,
    /// Paths offered with another NAR than the one that is there.
    pub conflicts: AtomicU64,
    /// When it was seen last.
    pub last_at: AtomicU64,
    /// How many conflicts there were when somebody looked, and when one more was first seen.
    seen_conflicts: AtomicU64,
    conflict_at: AtomicU64,
}

impl Tally {
    /// Returns the sums so far.
    pub fn row(&self) -> UsageRow {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        UsageRow {
            pushes: of(&self.pushes),
            paths: of(&self.paths),
            logical_bytes: of(&self.logical_bytes),
            received_bytes: of(&self.received_bytes),
            served_bytes: of(&self.served_bytes),
            hits: of(&self.hits),
            misses: of(&self.misses),
            errors: of(&self.errors),
            conflicts: of(&self.conflicts),
            last_at: of(&self.last_at),
        }
    }

    /// Counts what became of a path that was offered.
    pub fn outcome(&self, outcome: PathOutcome, logical_bytes: u64) {
        match outcome {
            PathOutcome::Created => self.path(logical_bytes),
            PathOutcome::Merged => {}
            PathOutcome::KeptFirst | PathOutcome::Rejected => add(&self.conflicts, 1),
        }
    }

    /// Counts a path that became visible.
    pub fn path(&self, logical_bytes: u64) {
        add(&self.paths, 1);
        add(&self.logical_bytes, logical_bytes);
    }
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

type Pair = (CacheName, String);

/// All tallies since the server started, and what of them the index has.
#[derive(Debug, Default)]
pub struct Counters {
    tallies: RwLock<HashMap<CacheName, HashMap<String, Arc<Tally>>>>,
    /// What was written of each, for [`Counters::flush`] alone.
    written: std::sync::Mutex<HashMap<Pair, UsageRow>>,
}

impl Counters {
    /// Returns where to count what `builder` does to a cache.
    pub fn of(&self, cache: &CacheName, builder: &str) -> Arc<Tally> {
        let tallies = self.tallies.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(tally) = tallies.get(cache).and_then(|of_cache| of_cache.get(builder)) {
            return Arc::clone(tally);
        }
        drop(tallies);
        let mut tallies = self.tallies.write().unwrap_or_else(PoisonError::into_inner);
        let pairs: usize = tallies.values().map(HashMap::len).sum();
        let of_cache = tallies.entry(cache.clone()).or_default();
        let builder = if pairs < MAX_PAIRS || of_cache.contains_key(builder) { builder } else { OTHERS };
        Arc::clone(of_cache.entry(builder.to_owned()).or_default())
    }

    /// Returns the sums of all pairs since the server started.
    pub fn rows(&self) -> Vec<(CacheName, String, UsageRow)> {
        let tallies = self.tallies.read().unwrap_or_else(PoisonError::into_inner);
        let of_cache = |(cache, builders): (&CacheName, &HashMap<String, Arc<Tally>>)| {
            let rows = builders.iter().map(|(builder, tally)| (cache.clone(), builder.clone(), tally.row()));
            rows.collect::<Vec<_>>()
        };
        let mut rows: Vec<_> = tallies.iter().flat_map(of_cache).collect();
        rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        rows
    }

    /// Returns when the last conflict of each pair was first seen by this; 0 where there was none. A counter that begins with its
    /// first conflict does not show that it grew.
    pub fn conflict_times(&self, now: UnixSeconds) -> Vec<(CacheName, String, UnixSeconds)> {
        let tallies = self.tallies.read().unwrap_or_else(PoisonError::into_inner);
        let mut times = Vec::new();
        for (cache, builders) in tallies.iter() {
            for (builder, tally) in builders {
                let conflicts = tally.conflicts.load(Ordering::Relaxed);
                if tally.seen_conflicts.fetch_max(conflicts, Ordering::Relaxed) < conflicts {
                    tally.conflict_at.fetch_max(now, Ordering::Relaxed);
                }
                times.push((cache.clone(), builder.clone(), tally.conflict_at.load(Ordering::Relaxed)));
            }
        }
        times
    }

    /// Adds what was counted since the last time to the day's counters in the index, durably. What fails is added the next
    /// time; a crash loses what was counted since the last.
    ///
    /// # Errors
    /// Errors of the index.
    pub fn flush(&self, meta: &dyn Meta, now: UnixSeconds) -> firn_index::Result<()> {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let day = day_of(now);
        let rows = self.rows();
        let more: Vec<_> =
            more(&rows, &written).map(|(cache, builder, row)| (UsageKey { day, cache, builder }, row)).collect();
        meta.add_usage(&more)?;
        written.extend(rows.into_iter().map(|(cache, builder, row)| ((cache, builder), row)));
        Ok(())
    }

    /// Calls with what the index does not have yet; nothing is written meanwhile.
    pub(super) fn unwritten<T>(&self, call: impl FnOnce(Vec<(CacheName, String, UsageRow)>) -> T) -> T {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = self.rows();
        call(more(&rows, &written).collect())
    }
}

/// Returns what was counted since it was written.
fn more(
    rows: &[(CacheName, String, UsageRow)],
    written: &HashMap<Pair, UsageRow>,
) -> impl Iterator<Item = (CacheName, String, UsageRow)> {
    rows.iter().filter_map(|(cache, builder, row)| {
        let before = written.get(&(cache.clone(), builder.clone())).copied().unwrap_or_default();
        (*row != before).then(|| (cache.clone(), builder.clone(), since(row, &before)))
    })
}

fn since(row: &UsageRow, before: &UsageRow) -> UsageRow {
    UsageRow {
        pushes: row.pushes.saturating_sub(before.pushes),
        paths: row.paths.saturating_sub(before.paths),
        logical_bytes: row.logical_bytes.saturating_sub(before.logical_bytes),
        received_bytes: row.received_bytes.saturating_sub(before.received_bytes),
        served_bytes: row.served_bytes.saturating_sub(before.served_bytes),
        hits: row.hits.saturating_sub(before.hits),
        misses: row.misses.saturating_sub(before.misses),
        errors: row.errors.saturating_sub(before.errors),
        conflicts: row.conflicts.saturating_sub(before.conflicts),
        last_at: row.last_at,
    }
}

/// Returns the day of a time, UTC.
pub fn day_of(at: UnixSeconds) -> Day {
    Day::try_from(at / 86_400).unwrap_or(Day::MAX)
}

#[cfg(test)]
mod tests {
    use firn_index::memory::MemoryMeta;

    use super::*;

    fn cache(name: &str) -> CacheName {
        name.parse().expect("a name")
    }

    #[test]
    fn what_was_counted_is_written_once() {
        let (counters, meta) = (Counters::default(), MemoryMeta::new());
        let tally = counters.of(&cache("a"), "x");
        tally.path(100);
        add(&counters.of(&cache("a"), "x").hits, 3);
        counters.flush(&meta, 86_400).expect("written");
        counters.flush(&meta, 86_400).expect("written");
        tally.path(10);
        counters.flush(&meta, 2 * 86_400).expect("written");
        let rows = meta.usage(0, None, 9).expect("read");
        let found: Vec<_> = rows.iter().map(|(key, row)| (key.day, row.paths, row.logical_bytes, row.hits)).collect();
        assert_eq!(found, [(1, 1, 100, 3), (2, 1, 10, 0)]);
        assert_eq!(counters.rows()[0].2.paths, 2, "metrics never go back");
    }

    #[test]
    fn a_conflict_is_seen_once_also_the_first_of_a_builder() {
        let counters = Counters::default();
        let of = |now| counters.conflict_times(now).into_iter().map(|(.., at)| at).collect::<Vec<_>>();
        let tally = counters.of(&cache("a"), "new");
        assert_eq!(of(100), [0]);
        tally.outcome(PathOutcome::Rejected, 1);
        assert_eq!((of(200), of(300)), (vec![200], vec![200]));
        tally.outcome(PathOutcome::KeptFirst, 1);
        assert_eq!(of(400), [400]);
    }

    #[test]
    fn builders_beyond_the_limit_are_counted_together() {
        let counters = Counters::default();
        for n in 0..MAX_PAIRS + 10 {
            counters.of(&cache("a"), &n.to_string()).path(1);
        }
        let rows = counters.rows();
        assert_eq!(rows.len(), MAX_PAIRS + 1);
        let others = rows.iter().find(|(_, builder, _)| builder == OTHERS).expect("there");
        assert_eq!(others.2.paths, 10);
        counters.of(&cache("a"), "7").path(1);
        assert_eq!(counters.of(&cache("a"), "7").row().paths, 2);
    }
}
