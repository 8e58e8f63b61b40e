//! Records of a pack that is about to go, written again as far as they still count.
//!
//! Packs alone are enough to make the index again, so a pack may hold what keeps others useful: the row of a path whose
//! NAR lies elsewhere. Whoever takes a pack away calls [`Shared::carry_records`] first, while nobody writes to it any
//! more. Records keep the numbers of their frames: a copy never outranks what was written after the first.

use firn_index::{CacheName, PackState};
use firn_pack::{Chain, FrameKind, FrameLoc, PackId};

use crate::committer::Change;
use crate::engine::Shared;
use crate::packs::Packs;
use crate::records::{Record, records_of};
use crate::{Error, Result};

/// Records that are handed to the committer at once, at most.
const BATCH: usize = 512;

/// Bytes of records that are handed to the committer at once, at most, but for those of one frame.
const BATCH_BYTES: usize = 4 << 20;

/// Rows read at a time.
const PAGE: usize = 1024;

/// What became of a pack's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Carried {
    /// Those that were written again.
    pub(crate) records: u64,
    /// Frames that could not be read.
    pub(crate) unreadable_frames: u64,
}

impl Shared {
    /// Writes again, durably, every record of a sealed pack that the index still agrees with, and returns how many there
    /// were. A pack that has no object any more has no records. What a frame said that can't be read is lost to whoever makes
    /// the index again, whether or not its pack stays: it is counted and logged.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the footer can't be read: then nobody knows what would be lost with the pack, and it stays.
    pub(crate) fn carry_records(&self, pack: PackId) -> Result<Carried> {
        let mut sum = Carried::default();
        let Some(footer) = self.packs.footer(pack)? else { return Ok(sum) };
        let keep_gone = self.packs.has_older(pack)?;
        let (mut batch, mut bytes): (Vec<(u64, Record)>, usize) = (Vec::new(), 0);
        let mut chain = Chain::default();
        for (offset, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Record) {
            let loc = FrameLoc { pack, offset: *offset, len: entry.len };
            let frame = match self.frames.read_anew(loc, &mut chain) {
                Err(error) if error.is_damage() => {
                    tracing::error!(%pack, offset, %error,
                        "records can't be read and go with their pack: the index has what they said; back it up");
                    sum.unreadable_frames += 1;
                    continue;
                }
                other => other?.1,
            };
            let damaged = |detail| Error::damaged(format!("a record at byte {offset} of pack {pack}"), detail);
            for numbered in records_of(&frame).map_err(damaged)? {
                if self.packs.is_current(&numbered.record, keep_gone)? {
                    bytes += numbered.bytes;
                    batch.push((numbered.order, numbered.record));
                }
            }
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                sum.records += self.carry(&mut batch, keep_gone)?;
                bytes = 0;
            }
        }
        sum.records += self.carry(&mut batch, keep_gone)?;
        Ok(sum)
    }

    /// Returns whether a pack without edges is worth keeping for its records: most of it is records, and the index still
    /// agrees with most of these. Else they would be copied from pack to pack by one collection after the other.
    pub(crate) fn holds_records(&self, pack: PackId) -> Result<bool> {
        let Some(footer) = self.packs.footer(pack)? else { return Ok(false) };
        let bytes_of = |records: bool| {
            let frames = footer.frames.iter().filter(|(_, entry)| (entry.kind == FrameKind::Record) == records);
            frames.map(|(_, entry)| u64::from(entry.len)).sum::<u64>()
        };
        if bytes_of(true) < bytes_of(false) {
            return Ok(false);
        }
        let (mut current, mut all, mut chain) = (0, 0, Chain::default());
        for (offset, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Record) {
            let loc = FrameLoc { pack, offset: *offset, len: entry.len };
            let frame = match self.frames.read_anew(loc, &mut chain) {
                Err(error) if error.is_of_pack() => continue,
                other => other?.1,
            };
            all += frame.data.len();
            for numbered in records_of(&frame).unwrap_or_default() {
                if self.packs.is_current(&numbered.record, true).unwrap_or(true) {
                    current += numbered.bytes;
                }
            }
        }
        Ok(current * 2 >= all)
    }

    fn carry(&self, batch: &mut Vec<(u64, Record)>, keep_gone: bool) -> Result<u64> {
        let records = std::mem::take(batch);
        if records.is_empty() {
            return Ok(0);
        }
        let number = records.len() as u64;
        for outcome in self.submit_all(vec![Change::Carry { records, keep_gone }])? {
            outcome?;
        }
        Ok(number)
    }
}

impl Packs {
    /// Returns whether a record says what the index does. One of something that is gone does while nothing is there again,
    /// and while there may be older records of it: `keep_gone`.
    pub(crate) fn is_current(&self, record: &Record, keep_gone: bool) -> Result<bool> {
        let meta = &self.meta;
        let gone = |cache: &CacheName| Ok::<_, Error>(keep_gone && meta.cache(cache)?.is_some());
        Ok(match record {
            Record::Nar(cache, hash, row) => meta.nar(cache, hash)?.is_some_and(|known| known == *row),
            Record::Alias(cache, name, row) => meta.alias(cache, name)?.is_some_and(|known| known == *row),
            Record::Path(cache, row) => meta.path(cache, &row.path.hash())?.is_some_and(|known| known == *row),
            Record::Document(cache, key, row) => meta.document(cache, key)?.is_some_and(|known| known == *row),
            Record::Order(_) => false,
            // Of a cache that is gone, the cache's own record tells.
            Record::PathGone(cache, hash) => gone(cache)? && meta.path(cache, hash)?.is_none(),
            Record::NarGone(cache, hash) => gone(cache)? && meta.nar(cache, hash)?.is_none(),
            Record::DocumentGone(cache, key) => gone(cache)? && meta.document(cache, key)?.is_none(),
            Record::CacheGone(_) => keep_gone,
        })
    }

    /// Returns whether a pack is left that was begun before this one: it may hold older records of what this one says is
    /// gone. Packs are written one after the other, so that their numbers tell.
    fn has_older(&self, pack: PackId) -> Result<bool> {
        let seq = self.meta.pack(pack)?.map_or(0, |row| row.seq);
        let mut after = None;
        loop {
            let page = self.meta.packs(after, PAGE)?;
            let is_older = |row: &firn_index::PackRow| row.seq < seq || row.state == PackState::Writing;
            if page.iter().any(|(id, row)| *id != pack && is_older(row) && !self.is_open(*id)) {
                return Ok(true);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => after = Some(*last),
                _ => return Ok(false),
            }
        }
    }
}
