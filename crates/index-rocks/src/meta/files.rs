//! The files of the index: merged, copied, measured.

use std::path::Path;

use firn_index::Result;

use super::RocksMeta;
use crate::database;
use crate::keys::Family;

impl RocksMeta {
    /// Waits until RocksDB has merged what waits for that, so that a measurement begins at rest.
    ///
    /// # Errors
    /// [`firn_index::Error::Engine`] after half an hour; else as merges meet them.
    pub fn finish_merges(&self) -> Result<()> {
        database::finish_merges(&self.db)
    }

    /// Makes a copy, as it is now, in `folder`/`meta`, which must not be there yet. Links files where it can.
    pub fn checkpoint(&self, folder: &Path) -> Result<()> {
        database::checkpoint(&self.db, &folder.join("meta"))
    }

    /// Returns about how much memory it holds.
    pub fn memory_bytes(&self) -> u64 {
        let of_family = |family| {
            ["rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem"]
                .map(|name| self.db.property_int_value_cf(self.family(family), name).ok().flatten().unwrap_or(0))
                .into_iter()
                .sum::<u64>()
        };
        let cached = u64::try_from(self.cache.get_usage()).unwrap_or(u64::MAX);
        cached.saturating_add(Family::ALL.map(of_family).into_iter().sum())
    }
}
