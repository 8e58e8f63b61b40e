//! Rows that the earlier index has and packs do not tell of: their records are damaged, or were in a pack that is gone.
//!
//! As far as the earlier index goes it is the truth: what it has counts, whatever records with a number that it knew of say.
//! Once it is clear which of its rows can be had, they get records in a new pack, so that packs alone are enough again.

use firn_index::{CacheName, DocumentKey, Meta, Op};
use firn_nix::{Sha256, StoreHash};

use super::last::Key;
use super::{PAGE, Rebuild};
use crate::packs::Lane;
use crate::records::{Record, RecordEncoder};
use crate::{Error, Result};

/// Records in one frame, at most.
const FRAME_RECORDS: usize = 512;

/// Bytes of records in one frame, but for those of one row.
const FRAME_BYTES: usize = 4 << 20;

impl Rebuild {
    /// Writes the rows of the earlier index that packs do not tell of, or of which they tell something older, and notes the
    /// recipes that these need.
    pub(super) fn keep_rows(&mut self) -> Result<()> {
        let Some(old) = self.old.clone() else { return Ok(()) };
        let known = old.record_order()?;
        for (cache, _) in old.caches()? {
            for_rows(old.as_ref(), &cache, &mut |record| self.keep_row(&cache, record, known))?;
        }
        self.commit()
    }

    fn keep_row(&mut self, cache: &CacheName, record: Record, known: u64) -> Result<()> {
        let Some(key) = Key::of(&record).filter(|key| !self.lasts.is_later(*key, known)) else { return Ok(()) };
        let is_there = self.packs.is_current(&record, false)?;
        if !is_there || self.lasts.is_denied(cache, key) {
            self.unrecorded.insert(key);
        }
        if is_there { Ok(()) } else { self.write_row(record) }
    }

    /// Writes records of the rows that were taken from the earlier index and are whole, behind all that packs hold.
    ///
    /// A storage without room is no failure: the rows are in the index, and the next rebuild comes to them again.
    pub(super) fn record_rows(&mut self) -> Result<()> {
        if self.unrecorded.is_empty() && self.untold.is_empty() {
            return Ok(());
        }
        let mut records =
            Records { encoder: RecordEncoder::new()?, frame: Vec::new(), bytes: 0, order: self.order()? + 1 };
        match self.append_rows(&mut records) {
            Err(Error::StorageFull) => {
                tracing::warn!(rows = self.report.kept, "no room for the records of rows that only the index has");
                self.report.unrecorded = self.report.kept;
            }
            Err(error) => return Err(error),
            // No step of its own: the index is not in use yet.
            Ok(()) => {
                for cache in std::mem::take(&mut self.untold) {
                    self.write(Op::CacheGoneRecorded(cache))?;
                }
            }
        }
        self.lasts.note_order(records.order);
        self.report.packs = self.packs.chunks.watermark()?;
        Ok(())
    }

    /// Appends a record of each row that has none, and counts them.
    fn append_rows(&mut self, records: &mut Records) -> Result<()> {
        let untold = self.untold.iter().cloned().map(Record::CacheGone);
        let mut full = untold.map(|record| records.add(self, &record)).find_map(Result::err);
        if !self.untold.is_empty() && full.is_none() {
            // What the caches of these names hold now comes after it.
            full = records.append(self).err();
            records.order += 1;
        }
        let meta = std::sync::Arc::clone(&self.packs.meta);
        for (cache, _) in meta.caches()? {
            for_rows(meta.as_ref(), &cache, &mut |record| {
                let is_new = Key::of(&record).is_some_and(|key| self.unrecorded.contains(&key));
                if !is_new && !self.untold.contains(&cache) {
                    return Ok(());
                }
                self.report.kept += u64::from(is_new);
                if full.is_none() {
                    full = records.add(self, &record).err();
                }
                Ok(())
            })?;
        }
        if let Some(error) = full {
            return Err(error);
        }
        records.end(self)
    }
}

/// Records on their way to a pack.
struct Records {
    encoder: RecordEncoder,
    frame: Vec<Vec<u8>>,
    bytes: usize,
    /// The number of all their frames: no key is among them twice.
    order: u64,
}

impl Records {
    fn add(&mut self, work: &Rebuild, record: &Record) -> Result<()> {
        let record = record.encode();
        self.bytes += record.len();
        self.frame.push(record);
        if self.frame.len() < FRAME_RECORDS && self.bytes < FRAME_BYTES { Ok(()) } else { self.append(work) }
    }

    fn append(&mut self, work: &Rebuild) -> Result<()> {
        self.bytes = 0;
        let records = std::mem::take(&mut self.frame);
        if records.is_empty() {
            return Ok(());
        }
        let order = Record::Order(self.order).encode();
        work.packs.append_records(&mut self.encoder, std::iter::once(&order).chain(&records))
    }

    /// Appends what is left, and seals the pack.
    fn end(&mut self, work: &Rebuild) -> Result<()> {
        self.append(work)?;
        work.packs.end(Lane::Ingest)
    }
}

/// Calls a function for each row of a cache, as its record.
fn for_rows(meta: &dyn Meta, cache: &CacheName, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
    let mut after: Option<Sha256> = None;
    loop {
        let page = meta.nars(cache, after, PAGE)?;
        after = page.last().map(|(hash, _)| *hash).filter(|_| page.len() == PAGE);
        page.into_iter().try_for_each(|(hash, row)| each(Record::Nar(cache.clone(), hash, row)))?;
        if after.is_none() {
            break;
        }
    }
    let mut after: Option<String> = None;
    loop {
        let page = meta.aliases(cache, after.as_deref(), PAGE)?;
        after = page.last().map(|(name, _)| name.clone()).filter(|_| page.len() == PAGE);
        page.into_iter().try_for_each(|(name, row)| each(Record::Alias(cache.clone(), name, row)))?;
        if after.is_none() {
            break;
        }
    }
    let mut after: Option<StoreHash> = None;
    loop {
        let page = meta.paths(cache, after, PAGE)?;
        after = page.last().map(|(hash, _)| *hash).filter(|_| page.len() == PAGE);
        page.into_iter().try_for_each(|(_, row)| each(Record::Path(cache.clone(), row)))?;
        if after.is_none() {
            break;
        }
    }
    let mut after: Option<DocumentKey> = None;
    loop {
        let page = meta.documents(cache, after.as_ref(), PAGE)?;
        after = page.last().map(|(key, _)| key.clone()).filter(|_| page.len() == PAGE);
        page.into_iter().try_for_each(|(key, row)| each(Record::Document(cache.clone(), key, row)))?;
        if after.is_none() {
            return Ok(());
        }
    }
}
