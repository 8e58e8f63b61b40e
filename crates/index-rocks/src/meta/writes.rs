//! Single rows, written durably.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use firn_index::{CacheName, Result, Row, UsageKey, UsageRow};

use super::RocksMeta;
use crate::keys::{self, Family};
use crate::staged::Staged;

impl RocksMeta {
    /// Writes a row.
    pub(super) fn put_row(&self, family: Family, key: &[u8], row: &impl Row) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        staged.put(family, key, row);
        staged.write()
    }

    /// Writes a row that belongs to a cache; returns whether the cache exists.
    pub(super) fn put_of_cache(&self, family: Family, cache: &CacheName, rest: &[u8], row: &impl Row) -> Result<bool> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        if !staged.has_cache(cache)? {
            return Ok(false);
        }
        staged.put(family, &keys::of_cache(cache, rest), row);
        staged.write()?;
        Ok(true)
    }

    /// Adds to counters; each is one row of one day.
    pub(super) fn add_counters(&self, counters: &[(UsageKey, UsageRow)]) -> Result<()> {
        let _writer = self.lock();
        let mut sums: BTreeMap<Vec<u8>, UsageRow> = BTreeMap::new();
        for (key, row) in counters {
            let key = keys::counters(key);
            let sum = match sums.entry(key) {
                Entry::Occupied(sum) => sum.into_mut(),
                Entry::Vacant(place) => {
                    let stored = self.row(Family::Usage, place.key(), "the counters of a day")?;
                    place.insert(stored.unwrap_or_default())
                }
            };
            sum.add(row);
        }
        let mut staged = Staged::new(self);
        for (key, row) in &sums {
            staged.put(Family::Usage, key, row);
        }
        staged.write()
    }
}
