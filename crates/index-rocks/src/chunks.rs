use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_chunk::{ChunkId, RecipeId};
use firn_index::{CacheName, ChunkIndex, Error, LINEAGE_ROWS, LineageKey, LineageRow, PackSeq, Result, SeenId};
use firn_pack::ChunkLoc;
use rocksdb::{Cache, ColumnFamily, DB, DBPinnableSlice, WriteBatch, WriteOptions};

use crate::database;
use crate::errors::failed;
use crate::keys::{decode_location, encode_location, seen_key, seen_range};
use crate::lineage::{self, RecipeTag};
use crate::options::{self, ChunkIndexOptions};

/// The newest format that this code reads, and the one that it writes.
const FORMAT_VERSION: u32 = 1;

/// The key of the watermark: shorter than any chunk's.
const WATERMARK: &[u8] = b"watermark";

/// The column family of what caches have seen.
const SEEN: &str = "seen";

/// The column family of what may be a base of what.
const LINEAGE: &str = "lineage";

/// How many ids are looked up in one call of RocksDB's, which keeps a block of 8 KiB in memory for each that it finds.
const LOOKUP_IDS: usize = 256;

/// [`ChunkIndex`] in a RocksDB database of its own.
///
/// It has no write-ahead log. Entries and the watermark are in one column family, whose write buffers RocksDB writes
/// out in the order in which they were filled: after a crash it holds some prefix of all writes, so that the
/// watermark can't be ahead of the entries. What caches have seen is in a column family of its own.
pub struct RocksChunkIndex {
    db: DB,
    cache: Cache,
    /// Held while entries are compared and written.
    writer: Mutex<()>,
}

impl RocksChunkIndex {
    /// Opens the database in `folder`/`chunks`, or makes one.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open, [`Error::TooNew`] if a newer firn wrote it,
    /// [`Error::Corrupt`] if it is damaged: it may be deleted then and rebuilt from the packs.
    pub fn open(folder: &Path, options: &ChunkIndexOptions) -> Result<Self> {
        let cache = options::block_cache(options.cache_bytes);
        let settings = options::chunk_database(&cache, options);
        let families = [SEEN, LINEAGE];
        let seen = options::seen_family(&cache);
        let db = database::open(&folder.join("chunks"), FORMAT_VERSION, &settings, &settings, &families, &seen)?;
        Ok(Self { db, cache, writer: Mutex::new(()) })
    }

    /// Opens the database in `folder`/`chunks` as [`RocksChunkIndex::open`] does; one that is damaged is moved to
    /// `folder`/`chunks.damaged`, where it replaces an earlier one, and an empty one is made. Returns why, if so: then it is to be
    /// filled from the packs, which opening a store does.
    ///
    /// Damage that shows only when a row is read stays.
    ///
    /// # Errors
    /// As [`RocksChunkIndex::open`], but not [`Error::Corrupt`]: a disk without room, a folder that may not be read, or another process are
    /// no damage.
    pub fn open_or_renew(folder: &Path, options: &ChunkIndexOptions) -> Result<(Self, Option<Error>)> {
        let opened = Self::open(folder, options).and_then(|chunks| chunks.watermark().map(|_| chunks));
        match opened {
            Err(error @ Error::Corrupt { .. }) => {
                database::move_aside(&folder.join("chunks"), &folder.join("chunks.damaged"))?;
                Ok((Self::open(folder, options)?, Some(error)))
            }
            other => Ok((other?, None)),
        }
    }

    /// Waits until RocksDB has merged what waits for that, so that a measurement begins at rest.
    ///
    /// # Errors
    /// [`Error::Engine`] after half an hour; else as merges meet them.
    pub fn finish_merges(&self) -> Result<()> {
        database::finish_merges(&self.db)
    }

    /// Makes a copy, as it is now, in `folder`/`chunks`, which must not be there yet. Links files where it can.
    pub fn checkpoint(&self, folder: &Path) -> Result<()> {
        database::checkpoint(&self.db, &folder.join("chunks"))
    }

    /// Returns about how much memory it holds.
    pub fn memory_bytes(&self) -> u64 {
        let beside = ["rocksdb.cur-size-all-mem-tables", "rocksdb.estimate-table-readers-mem"];
        let families = [self.family(), self.seen_family(), self.lineage_family()];
        let of = |family, name: &str| self.db.property_int_value_cf(family, name).ok().flatten().unwrap_or(0);
        let beside: u64 = families.iter().flat_map(|family| beside.iter().map(move |name| of(*family, name))).sum();
        beside.saturating_add(u64::try_from(self.cache.get_usage()).unwrap_or(u64::MAX))
    }

    /// Merges everything that was written so far into as few bytes as it can be; takes seconds per million chunks.
    pub fn compact(&self) {
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        self.db.compact_range_cf(self.seen_family(), None::<&[u8]>, None::<&[u8]>);
        self.db.compact_range_cf(self.lineage_family(), None::<&[u8]>, None::<&[u8]>);
    }

    fn property(&self, name: &str) -> u64 {
        self.db.property_int_value(name).ok().flatten().unwrap_or(0)
    }

    fn seen_family(&self) -> &ColumnFamily {
        self.db.cf_handle(SEEN).expect("it was named when the database was opened")
    }

    fn lineage_family(&self) -> &ColumnFamily {
        self.db.cf_handle(LINEAGE).expect("it was named when the database was opened")
    }

    /// Returns the ids of recipes, given their tags.
    fn tagged(&self, tags: &[RecipeTag]) -> Result<HashMap<RecipeTag, RecipeId>> {
        let mut found = HashMap::new();
        for some in tags.chunks(LOOKUP_IDS) {
            let keys = some.iter().map(lineage::tag_key);
            let values = self.db.multi_get_cf(keys.map(|key| (self.lineage_family(), key)));
            for (tag, value) in some.iter().zip(values) {
                let value = value.map_err(failed("look up the recipe of a lineage"))?;
                found.extend(value.and_then(|rest| lineage::tagged(tag, &rest)).map(|recipe| (*tag, recipe)));
            }
        }
        Ok(found)
    }

    /// Returns the rows of each key, with the recipes' tags.
    fn tagged_rows(&self, keys: &[LineageKey]) -> Result<Vec<Vec<(RecipeTag, u32)>>> {
        let mut all = Vec::with_capacity(keys.len());
        for some in keys.chunks(LOOKUP_IDS) {
            let keys: Vec<_> = some.iter().map(|key| lineage::key(*key)).collect();
            for value in self.db.batched_multi_get_cf(self.lineage_family(), &keys, false) {
                let value = value.map_err(failed("look up a lineage"))?;
                all.push(value.map(|value| lineage::decode(&value)).unwrap_or_default());
            }
        }
        Ok(all)
    }

    fn family(&self) -> &ColumnFamily {
        self.db.cf_handle("default").expect("RocksDB opens no database without it")
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // What a writer that panicked had gathered is gone with it.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, batch: &WriteBatch) -> Result<()> {
        self.write_to(self.family(), batch)
    }

    fn write_to(&self, family: &ColumnFamily, batch: &WriteBatch) -> Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        database::write(&self.db, &[family], batch, options, "write to the chunk index")
    }
}

fn location(id: &ChunkId, value: &DBPinnableSlice<'_>) -> Result<ChunkLoc> {
    decode_location(value).ok_or_else(|| Error::Corrupt {
        what: format!("the location of chunk {id}"),
        detail: format!("{:02x?} is none", &value[..]),
    })
}

impl ChunkIndex for RocksChunkIndex {
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>> {
        // In order, so that what lies in one block is looked up together.
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|at| ids[*at]);
        let mut found = vec![None; ids.len()];
        for some in order.chunks(LOOKUP_IDS) {
            let keys = some.iter().map(|at| &ids[*at].0);
            let values = self.db.batched_multi_get_cf(self.family(), keys, true);
            for (at, value) in some.iter().zip(values) {
                let value = value.map_err(failed("look up chunks"))?;
                found[*at] = value.map(|value| location(&ids[*at], &value)).transpose()?;
            }
        }
        Ok(found)
    }

    fn apply(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for (id, location) in entries {
            batch.put(id.0, encode_location(location));
        }
        let _writer = self.lock();
        self.write(&batch)
    }

    fn forget(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        // In order, so that each block is read once, and each write buffer is merged with a part of what is there.
        let mut entries: Vec<&(ChunkId, ChunkLoc)> = entries.iter().collect();
        entries.sort_unstable_by_key(|(id, _)| *id);
        // Few at a time, so that uploads never wait long for the lock: a collection may have a thread that is seldom let on.
        for some in entries.chunks(LOOKUP_IDS) {
            let ids: Vec<ChunkId> = some.iter().map(|(id, _)| *id).collect();
            let mut batch = WriteBatch::default();
            let _writer = self.lock();
            for ((id, location), known) in some.iter().zip(self.lookup(&ids)?) {
                if known == Some(*location) {
                    batch.delete(id.0);
                }
            }
            self.write(&batch)?;
        }
        Ok(())
    }

    fn watermark(&self) -> Result<PackSeq> {
        let value = self.db.get_pinned(WATERMARK).map_err(failed("read the watermark"))?;
        let Some(value) = value else { return Ok(0) };
        let corrupt = |_| Error::Corrupt {
            what: "the watermark of the chunk index".to_owned(),
            detail: format!("it has {} bytes", value.len()),
        };
        value[..].try_into().map(u64::from_le_bytes).map_err(corrupt)
    }

    fn set_watermark(&self, seq: PackSeq) -> Result<()> {
        let mut batch = WriteBatch::default();
        batch.put(WATERMARK, seq.to_le_bytes());
        let _writer = self.lock();
        self.write(&batch)
    }

    fn flush(&self) -> Result<()> {
        database::flush(&self.db, &[self.family(), self.seen_family(), self.lineage_family()])
    }

    fn note_seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<()> {
        let mut batch = WriteBatch::default();
        for id in ids {
            batch.put_cf(self.seen_family(), seen_key(cache, id), []);
        }
        self.write_to(self.seen_family(), &batch)
    }

    fn seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<Vec<bool>> {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|at| ids[*at]);
        let mut found = vec![false; ids.len()];
        for some in order.chunks(LOOKUP_IDS) {
            let keys: Vec<_> = some.iter().map(|at| seen_key(cache, &ids[*at])).collect();
            let values = self.db.batched_multi_get_cf(self.seen_family(), &keys, true);
            for (at, value) in some.iter().zip(values) {
                found[*at] = value.map_err(failed("look up what a cache has seen"))?.is_some();
            }
        }
        Ok(found)
    }

    fn measures(&self) -> Vec<(&'static str, u64)> {
        database::measures(&self.db, &[self.family(), self.seen_family(), self.lineage_family()], &self.cache)
    }

    fn forget_cache(&self, cache: &CacheName) -> Result<()> {
        let (first, end) = seen_range(cache);
        let mut batch = WriteBatch::default();
        batch.delete_range_cf(self.seen_family(), first, end);
        self.write_to(self.seen_family(), &batch)?;
        database::flush(&self.db, &[self.seen_family()])
    }

    fn lineage(&self, keys: &[LineageKey]) -> Result<Vec<Vec<LineageRow>>> {
        let all = self.tagged_rows(keys)?;
        let mut tags: Vec<RecipeTag> = all.iter().flatten().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        tags.dedup();
        let recipes = self.tagged(&tags)?;
        // A recipe's own entry may have been lost in a crash that kept rows of it.
        let whole = |(tag, chunk): (RecipeTag, u32)| Some(LineageRow { recipe: *recipes.get(&tag)?, chunk });
        Ok(all.into_iter().map(|rows| rows.into_iter().filter_map(whole).collect()).collect())
    }

    fn add_lineage(&self, rows: &[(LineageKey, LineageRow)]) -> Result<()> {
        let _writer = self.lock();
        let mut keys: Vec<LineageKey> = rows.iter().map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let old = self.tagged_rows(&keys)?;
        let mut kept: BTreeMap<LineageKey, Vec<(RecipeTag, u32)>> = keys.into_iter().zip(old).collect();
        let mut batch = WriteBatch::default();
        let mut last = None;
        for (key, row) in rows {
            let (tag, rest) = lineage::tag(&row.recipe);
            if last.replace(row.recipe) != Some(row.recipe) {
                batch.put_cf(self.lineage_family(), lineage::tag_key(&tag), rest);
            }
            let rows = kept.entry(*key).or_default();
            rows.retain(|(old, _)| *old != tag);
            rows.insert(0, (tag, row.chunk));
            rows.truncate(LINEAGE_ROWS);
        }
        for (key, rows) in &kept {
            batch.put_cf(self.lineage_family(), lineage::key(*key), lineage::encode(rows));
        }
        self.write_to(self.lineage_family(), &batch)
    }

    fn estimated_chunks(&self) -> Result<u64> {
        let keys = self.property("rocksdb.estimate-num-keys");
        // The version and the watermark are no chunks.
        let others = 1 + u64::from(self.watermark()? != 0);
        Ok(keys.saturating_sub(others))
    }
}
