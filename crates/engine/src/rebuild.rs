//! An index made again from the packs alone.
//!
//! Packs hold recipes and records beside chunks. A first look at all of them finds, for each key, which record is the last
//! one; a second writes what these say to an empty index. An earlier index that can be read has the last word on rows whose
//! records it knew of: what it has and packs do not is taken from it, and gets records. Recipes are taken as far as something
//! needs them. Chunks are not read: whether they are what they should be, a scrub says afterwards. Nothing is cut off and nothing deleted.
//!
//! It takes about 100 bytes of memory for each record, 60 for each recipe, and 50 for each row whose record is damaged or gone.

mod contents;
mod earlier;
mod history;
mod last;
mod learn;
mod packs;

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex};

use firn_chunk::{ChunkId, ChunkerId, RecipeId};
use firn_index::{CacheName, CacheRow, ChunkIndex, Commit, Meta, Op, StoreInfo};
use firn_pack::{FrameEncoder, PackId};
use firn_storage::Storage;

use crate::frames::Frames;
use crate::packs::{LOOKUP_IDS, Packs};
use crate::pool::Pool;
use crate::{Clock, Entropy, Error, Options, Result, recovery};

use self::last::{Key, Lasts};

/// Rows read at a time.
const PAGE: usize = 1000;

/// Changes that are committed together.
const BATCH: usize = 1000;

/// Names kept in a report; the others are only counted.
const MAX_NAMED: usize = 100;

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Packs that the index knows now.
    pub packs: u64,
    /// Of these, packs that had no footer, or a damaged one, and got one.
    pub sealed: u64,
    /// Packs, by the names of their objects, that could not be read, with the reason. They were left as they are.
    pub unreadable: Vec<String>,
    /// Frames of recipes and records, and frames of packs without a footer, that are damaged.
    pub damaged_frames: u64,
    /// Chunks.
    pub chunks: u64,
    /// Recipes that something needs.
    pub recipes: u64,
    /// NARs of all caches.
    pub nars: u64,
    /// Paths of all caches.
    pub paths: u64,
    /// Logs and the like.
    pub documents: u64,
    /// NARs, names, paths and documents that the earlier index has, and of which no record in the packs tells any more.
    pub kept: u64,
    /// Of these, those that packs do not tell of now either, as the storage has no room: all of them, or none.
    pub unrecorded: u64,
    /// Recipes that need a pack which is gone or too short: they are marked, and what they rebuild answers as missing until
    /// it is uploaded again.
    pub incomplete: u64,
    /// Paths and documents whose recipe is not to be had: they are not there.
    pub lost: u64,
    /// The first of these.
    pub lost_paths: Vec<String>,
}

impl Rebuilt {
    /// Returns whether something was damaged or gone, so that the new index may lack what packs or the earlier index held.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.lost > 0 || self.incomplete > 0 || self.damaged_frames > 0 || !self.unreadable.is_empty()
    }
}

/// What an index is made from.
pub struct Parts {
    /// The packs.
    pub storage: Arc<dyn Storage>,
    /// An empty index.
    pub meta: Arc<dyn Meta>,
    /// An empty chunk index.
    pub chunks: Arc<dyn ChunkIndex>,
    /// The earlier index, if it can be read: caches, tokens, pins, retention and last uses are taken from it, who pushed what,
    /// usage counters, what scrubs found, the order of packs and the effort of their frames, what was known to be damaged, and
    /// rows of which packs do not tell.
    pub old: Option<Arc<dyn Meta>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where ids come from.
    pub entropy: Arc<dyn Entropy>,
}

/// Fills an empty index from packs. `new_cache` makes the row of a cache that records tell of, where there is no earlier
/// index.
///
/// # Errors
/// Those of storage and index, and [`Error::Unusable`] for packs or an earlier index of a newer format: the new index is good for nothing then.
pub fn rebuild(parts: Parts, new_cache: &mut dyn FnMut(&CacheName) -> CacheRow) -> Result<Rebuilt> {
    // One that was just made beside the packs, by who did not know that it was gone, knows nothing.
    let old = match parts.old {
        Some(old) if old.store_info()?.is_some() || !old.packs(None, 1)?.is_empty() => Some(old),
        Some(_) | None => None,
    };
    let packs = Arc::new(Packs {
        storage: parts.storage,
        meta: parts.meta,
        chunks: parts.chunks,
        in_flight: Default::default(),
        watch: Default::default(),
        uses: Default::default(),
        in_use: Default::default(),
        unreadable: Default::default(),
        is_named: Default::default(),
        interrupted: Default::default(),
        opened_at: parts.clock.now(),
        withdrawals: Mutex::default(),
        encoders: Pool::new(|| FrameEncoder::new().map_err(|error| Error::Internal(error.to_string()))),
        clock: parts.clock,
        entropy: parts.entropy,
        pack_bytes: Options::default().pack_bytes,
        state: Mutex::default(),
    });
    let mut work = Rebuild {
        frames: Frames::new(Arc::clone(&packs), 0),
        packs,
        old,
        lasts: Lasts::default(),
        report: Rebuilt::default(),
        batch: Vec::new(),
        leaning: Vec::new(),
        needed: BTreeSet::new(),
        unrecorded: HashSet::new(),
        untold: BTreeSet::new(),
        torn_ranges: 0,
    };
    work.identify()?;
    let found = work.find_packs()?;
    let found = work.look_at(found)?;
    work.number_packs(&found)?;
    recovery::withdraw_baseless(&work.packs, &work.leaning)?;
    work.keep_secrets(new_cache)?;
    work.write_records(&found)?;
    work.keep_rows()?;
    work.write_recipes()?;
    work.record_rows()?;
    work.keep_history()?;
    work.count()?;
    work.packs.meta.flush()?;
    work.packs.chunks.flush()?;
    Ok(work.report)
}

struct Rebuild {
    packs: Arc<Packs>,
    frames: Frames,
    old: Option<Arc<dyn Meta>>,
    lasts: Lasts,
    report: Rebuilt,
    batch: Vec<Op>,
    /// Packs that have frames with bases.
    leaning: Vec<PackId>,
    /// Recipes of the rows so far.
    needed: BTreeSet<RecipeId>,
    /// Rows that packs do not tell of.
    unrecorded: HashSet<Key>,
    /// Caches that were deleted, of which packs do not tell yet; some may be there again.
    untold: BTreeSet<CacheName>,
    /// What a loss of power took, by what the earlier index says: damage, if that does not belong to the packs.
    torn_ranges: u64,
}

impl Rebuild {
    /// Gives the index the identity that the store had, if that is known.
    fn identify(&self) -> Result<()> {
        let known = match &self.old {
            Some(old) => old.store_info()?,
            None => None,
        };
        let named = self.packs.storage_id()?;
        let info = match known {
            Some(info) => {
                recovery::check_identity(&info)?;
                self.packs.check_storage(&info)?;
                info
            }
            None => StoreInfo {
                format_version: recovery::FORMAT_VERSION,
                chunker: ChunkerId::CURRENT.to_string(),
                created_at: self.packs.clock.now(),
                store_id: named.unwrap_or_else(|| self.packs.entropy.draw()),
            },
        };
        self.packs.name_storage(info.store_id)?;
        Ok(self.packs.meta.set_store_info(&info)?)
    }

    /// Writes what packs do not hold: from the earlier index, or made anew.
    fn keep_secrets(&mut self, new_cache: &mut dyn FnMut(&CacheName) -> CacheRow) -> Result<()> {
        let meta = &self.packs.meta;
        let Some(old) = &self.old else {
            for name in self.lasts.caches().keys() {
                meta.put_cache(name, &new_cache(name))?;
            }
            return Ok(());
        };
        for (id, row) in old.tokens()? {
            meta.put_token(&id, &row)?;
        }
        for (id, row) in old.issued()? {
            meta.put_issued(&id, &row)?;
        }
        for (name, row) in old.sources()? {
            meta.put_source(&name, &row)?;
            meta.put_source_state(&name, &old.source_state(&name)?, Some(&old.source_seen(&name)?))?;
        }
        for name in old.deleted_caches()? {
            // So the index knows that packs are still to be told.
            meta.put_cache(&name, &CacheRow::new(self.packs.clock.now()))?;
            meta.delete_cache(&name)?;
            self.untold.insert(name);
        }
        for (stem, number) in old.key_numbers()? {
            meta.note_key_number(&stem, number)?;
        }
        for (name, row) in old.caches()? {
            meta.put_cache(&name, &row)?;
        }
        self.keep_strangers(new_cache)?;
        // Of caches that are made anew it may know all this just as well, if it is damaged.
        for name in self.known_caches()? {
            meta.put_retention(&name, &old.retention(&name)?)?;
            meta.put_upstreams(&name, &old.upstreams(&name)?)?;
            for (pin, row) in old.pins(&name)? {
                meta.put_pin(&name, &pin, &row)?;
            }
            let mut after = None;
            loop {
                let page = old.uses(&name, after, PAGE)?;
                meta.note_uses(&name, &page)?;
                match page.last() {
                    Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                    _ => break,
                }
            }
        }
        if let Some(at) = old.uses_since()? {
            meta.set_uses_since(at)?;
        }
        Ok(())
    }

    /// Makes caches anew that the earlier index does not have and of which nothing says that they were deleted: it is not
    /// this store's, or younger than the packs. Records without numbers are older than those of deletions.
    fn keep_strangers(&self, new_cache: &mut dyn FnMut(&CacheName) -> CacheRow) -> Result<()> {
        let meta = &self.packs.meta;
        for (name, last) in self.lasts.caches() {
            if last > 0 && !self.untold.contains(&name) && meta.cache(&name)?.is_none() {
                meta.put_cache(&name, &new_cache(&name))?;
            }
        }
        Ok(())
    }

    /// Returns the greatest number of a record frame, of which packs or the earlier index know.
    fn order(&self) -> Result<u64> {
        let known = match &self.old {
            Some(old) => old.record_order()?,
            None => 0,
        };
        Ok(self.lasts.order().max(known))
    }

    /// Adds a change to those that are committed together.
    fn write(&mut self, op: Op) -> Result<()> {
        self.batch.push(op);
        if self.batch.len() >= BATCH { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<()> {
        let ops = std::mem::take(&mut self.batch);
        if ops.is_empty() {
            return Ok(());
        }
        let commit = Commit { session: None, packs: Vec::new(), ops };
        for outcome in self.packs.meta.commit(self.packs.clock.now(), &[commit])? {
            outcome.map_err(Error::Refused)?;
        }
        Ok(())
    }

    /// Adds up paths, and notes the last number of record frames.
    fn count(&mut self) -> Result<()> {
        let mut totals = firn_index::Totals::default();
        for (cache, _) in self.packs.meta.caches()? {
            let mut after = None;
            loop {
                let page = self.packs.meta.paths(&cache, after, PAGE)?;
                for (_, row) in &page {
                    totals.paths += 1;
                    totals.logical_bytes = totals.logical_bytes.saturating_add(row.nar_size);
                }
                match page.last() {
                    Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                    _ => break,
                }
            }
        }
        self.report.paths = totals.paths;
        self.write(Op::Count(totals))?;
        self.write(Op::RecordOrder(self.order()?))?;
        self.commit()
    }

    fn lose(&mut self, what: String) {
        self.report.lost += 1;
        if self.report.lost_paths.len() < MAX_NAMED {
            self.report.lost_paths.push(what);
        }
    }

    fn tell_chunks(&mut self, entries: &[(ChunkId, firn_pack::ChunkLoc)]) -> Result<()> {
        self.report.chunks += entries.len() as u64;
        for some in entries.chunks(LOOKUP_IDS) {
            self.packs.chunks.apply(some)?;
        }
        Ok(())
    }

    /// Returns the packs of the earlier index that it had numbered.
    fn old_number(&self, pack: PackId) -> Result<Option<u64>> {
        let Some(old) = &self.old else { return Ok(None) };
        Ok(old.pack(pack)?.map(|row| row.seq).filter(|seq| *seq != 0))
    }

    fn known_caches(&self) -> Result<BTreeSet<CacheName>> {
        Ok(self.packs.meta.caches()?.into_iter().map(|(name, _)| name).collect())
    }
}
