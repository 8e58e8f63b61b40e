//! What happened, by cache, builder and day: the counters in the index and those that are not written yet, added up.
//!
//! The rows of days that are over don't change, and there may be a million: they are read once a day and kept as sums, by
//! pair and by day. What is left to read is today's.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

use firn_api::usage::Traffic;
use firn_index::{CacheName, Day, Meta, UnixSeconds, UsageKey, UsageRow};

use super::Usage;
use super::counters::day_of;

/// Rows of counters that are read at a time.
const PAGE: usize = 1000;

/// The sums of the days before one.
#[derive(Debug, Default)]
pub(super) struct Past {
    today: Day,
    by_pair: HashMap<(CacheName, String), UsageRow>,
    by_day: BTreeMap<Day, UsageRow>,
}

impl Usage {
    /// Returns the sums of all days that are kept, until now, by cache and builder; in no order.
    ///
    /// # Errors
    /// Errors of the index.
    pub fn traffic_by_pair(
        &self,
        meta: &dyn Meta,
        now: UnixSeconds,
    ) -> firn_index::Result<Vec<((CacheName, String), UsageRow)>> {
        let today = day_of(now);
        let mut sums = self.past(meta, today)?.by_pair.clone();
        self.read_traffic(meta, today, today, |key, row| {
            sums.entry((key.cache.clone(), key.builder.clone())).or_default().add(row);
        })?;
        Ok(sums.into_iter().collect())
    }

    /// Returns the sums of each day from one on, until now.
    ///
    /// # Errors
    /// Errors of the index.
    pub fn traffic_by_day(
        &self,
        meta: &dyn Meta,
        now: UnixSeconds,
        from: Day,
    ) -> firn_index::Result<BTreeMap<Day, UsageRow>> {
        let today = day_of(now);
        let mut sums: BTreeMap<Day, UsageRow> =
            self.past(meta, today)?.by_day.range(from..).map(|(day, row)| (*day, *row)).collect();
        self.read_traffic(meta, today, today, |key, row| sums.entry(key.day).or_default().add(row))?;
        Ok(sums)
    }

    /// Returns the sums from a day on, until now, of what `name` gives the same name.
    ///
    /// # Errors
    /// Errors of the index.
    pub fn traffic_since(
        &self,
        meta: &dyn Meta,
        now: UnixSeconds,
        from: Day,
        name: impl Fn(&UsageKey) -> Option<String>,
    ) -> firn_index::Result<HashMap<String, UsageRow>> {
        let mut sums: HashMap<String, UsageRow> = HashMap::new();
        self.read_traffic(meta, from, day_of(now), |key, row| {
            if let Some(name) = name(key) {
                sums.entry(name).or_default().add(row);
            }
        })?;
        Ok(sums)
    }

    /// Hands over all rows from a day on, those that are not written yet as today's.
    fn read_traffic(
        &self,
        meta: &dyn Meta,
        from: Day,
        today: Day,
        mut take: impl FnMut(&UsageKey, &UsageRow),
    ) -> firn_index::Result<()> {
        self.counters.unwritten(|unwritten| {
            let mut after: Option<UsageKey> = None;
            loop {
                let page = meta.usage(from, after.as_ref(), PAGE)?;
                for (key, row) in &page {
                    take(key, row);
                }
                let is_full = page.len() == PAGE;
                match page.into_iter().last() {
                    Some((last, _)) if is_full => after = Some(last),
                    _ => break,
                }
            }
            for (cache, builder, row) in unwritten {
                take(&UsageKey { day: today, cache, builder }, &row);
            }
            Ok(())
        })
    }

    fn past(&self, meta: &dyn Meta, today: Day) -> firn_index::Result<Arc<Past>> {
        let mut past = self.past.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(past) = past.as_ref().filter(|past| past.today == today) {
            return Ok(Arc::clone(past));
        }
        let mut sums = Past { today, ..Past::default() };
        let mut after: Option<UsageKey> = None;
        'all: loop {
            let page = meta.usage(0, after.as_ref(), PAGE)?;
            for (key, row) in &page {
                if key.day >= today {
                    break 'all;
                }
                sums.by_pair.entry((key.cache.clone(), key.builder.clone())).or_default().add(row);
                sums.by_day.entry(key.day).or_default().add(row);
            }
            let is_full = page.len() == PAGE;
            match page.into_iter().last() {
                Some((last, _)) if is_full => after = Some(last),
                _ => break,
            }
        }
        let sums = Arc::new(sums);
        *past = Some(Arc::clone(&sums));
        Ok(sums)
    }
}

/// Returns counters as they are told.
pub fn told(row: &UsageRow) -> Traffic {
    Traffic {
        pushes: row.pushes,
        pushed_paths: row.paths,
        pushed_logical_bytes: row.logical_bytes,
        received_bytes: row.received_bytes,
        saved_bytes: row.logical_bytes.saturating_sub(row.received_bytes),
        served_bytes: row.served_bytes,
        hits: row.hits,
        misses: row.misses,
        errors: row.errors,
        conflicts: row.conflicts,
        last_seen_at: row.last_at,
    }
}

#[cfg(test)]
mod tests {
    use firn_index::memory::MemoryMeta;

    use super::*;

    const DAY: UnixSeconds = 86_400;

    #[test]
    fn sums_hold_what_is_written_and_what_is_not() {
        let (usage, meta) = (Usage::default(), MemoryMeta::new());
        let cache: CacheName = "a".parse().expect("a name");
        let tally = usage.counters.of(&cache, "x");
        let paths = |now| usage.traffic_by_pair(&meta, now).expect("read").first().map_or(0, |(_, row)| row.paths);
        tally.path(100);
        assert_eq!(paths(DAY), 1, "not written yet");
        usage.counters.flush(&meta, DAY).expect("written");
        assert_eq!(paths(DAY), 1, "written, and counted once");
        tally.path(10);
        assert_eq!((paths(DAY), paths(2 * DAY), paths(2 * DAY)), (2, 2, 2), "the day before is kept as a sum");
        usage.counters.flush(&meta, 2 * DAY).expect("written");
        let days = usage.traffic_by_day(&meta, 2 * DAY, 0).expect("read");
        assert_eq!(days.iter().map(|(day, row)| (*day, row.logical_bytes)).collect::<Vec<_>>(), [(1, 100), (2, 10)]);
        assert_eq!(usage.traffic_by_day(&meta, 2 * DAY, 2).expect("read").len(), 1);
        let named = usage.traffic_since(&meta, 2 * DAY, 2, |key| Some(key.builder.clone())).expect("read");
        assert_eq!(named["x"].paths, 1);
    }
}
