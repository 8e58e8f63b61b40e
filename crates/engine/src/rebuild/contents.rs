//! What caches hold, and the recipes that it needs.

use std::collections::HashSet;

use firn_chunk::RecipeId;
use firn_index::{CacheName, Content, DocumentKey, Meta, Op, RecipeRow};
use firn_nix::Sha256;
use firn_pack::{Chain, DecodedFrame, FrameKind, FrameLoc};

use super::last::Rank;
use super::packs::{FoundPack, unreadable};
use super::{PAGE, Rebuild};
use crate::packs::object_name;
use crate::placement::Placement;
use crate::recipes::{id_of, needs_of, outline};
use crate::records::{Record, records_of};
use crate::{Error, Result};

impl Rebuild {
    /// Takes note of the records of a frame, and returns its greatest number. A damaged frame is counted.
    pub(super) fn note_records(&mut self, loc: FrameLoc, old_number: Option<u64>, chain: &mut Chain) -> Result<u64> {
        let (mut greatest, records) = (0, self.records(loc, old_number, chain)?);
        for (record, rank) in records.into_iter().flatten() {
            greatest = greatest.max(rank.order);
            // Its number is taken all the same.
            self.lasts.note_order(rank.order);
            if self.is_undone(&record)? {
                self.lasts.add_undone(&record, rank);
            } else {
                self.lasts.add(&record, rank);
            }
        }
        Ok(greatest)
    }

    /// Returns whether a record says that something is gone which the earlier index has: a crash came between the record
    /// and the removal, or it was uploaded again since, which has a record of its own.
    fn is_undone(&self, record: &Record) -> Result<bool> {
        let Some(old) = &self.old else { return Ok(false) };
        Ok(match record {
            Record::PathGone(..) | Record::NarGone(..) | Record::DocumentGone(..) => has_row(old.as_ref(), record)?,
            _ => false,
        })
    }

    /// Returns the records of a frame with their ranks; `None` if it is damaged.
    fn records(
        &mut self,
        loc: FrameLoc,
        old_number: Option<u64>,
        chain: &mut Chain,
    ) -> Result<Option<Vec<(Record, Rank)>>> {
        let frame = match self.frames.read_anew(loc, chain) {
            Ok((_, frame)) => frame,
            Err(error) if error.is_damage() => {
                tracing::error!(pack = %loc.pack, offset = loc.offset, %error, "rebuild: records are damaged");
                self.report.damaged_frames += 1;
                return Ok(None);
            }
            Err(error) => return Err(unreadable(loc.pack, error)),
        };
        // The frame is whole: a newer firn wrote what this one does not know.
        let newer = |detail| {
            let (offset, pack) = (loc.offset, loc.pack);
            Error::Unusable(format!("a record at byte {offset} of pack {pack} does not decode: {detail}"))
        };
        let records = records_of(&frame).map_err(newer)?.into_iter().zip(0..).map(|(numbered, nth)| {
            let rank = Rank::of(&numbered.record, numbered.order, old_number, loc, nth);
            (numbered.record, rank)
        });
        Ok(Some(records.collect()))
    }

    /// Writes the last record of each key, and notes the recipes that these need.
    pub(super) fn write_records(&mut self, found: &[FoundPack]) -> Result<()> {
        let caches = self.known_caches()?;
        for pack in found {
            let (old_number, mut chain) = (self.old_number(pack.id)?, Chain::default());
            for loc in &pack.records {
                let damaged_frames = self.report.damaged_frames;
                let records = self.records(*loc, old_number, &mut chain)?;
                // It was counted before.
                self.report.damaged_frames = damaged_frames;
                for (record, rank) in records.into_iter().flatten() {
                    // Of a cache that the earlier index does not have, nothing is left.
                    if self.lasts.is_last(&record, rank)
                        && record.cache().is_some_and(|cache| caches.contains(cache))
                        && !self.is_deleted(&record, rank)?
                    {
                        self.write_row(record)?;
                    }
                }
            }
        }
        self.commit()
    }

    /// Returns whether a record may be one of a deleted cache whose name another one has by now: the earlier index knew of the
    /// record's number and does not have the row.
    fn is_deleted(&self, record: &Record, rank: Rank) -> Result<bool> {
        let Some(old) = self.old.as_ref().filter(|_| record.cache().is_some_and(|cache| self.untold.contains(cache)))
        else {
            return Ok(false);
        };
        Ok(rank.order <= old.record_order()? && !has_row(old.as_ref(), record)?)
    }

    /// Writes the row that a record says, and notes the recipe that it needs.
    pub(super) fn write_row(&mut self, record: Record) -> Result<()> {
        let op = match record {
            Record::Nar(cache, hash, row) => {
                self.needed.insert(row.recipe);
                Op::Nar(cache, hash, row)
            }
            Record::Alias(cache, name, row) => Op::Alias(cache, name, row),
            Record::Path(cache, row) => Op::Path(cache, row.path.hash(), row),
            Record::Document(cache, key, row) => {
                if let Content::Recipe { recipe, .. } = &row.content {
                    self.needed.insert(*recipe);
                }
                Op::Document(cache, key, row)
            }
            Record::Order(_)
            | Record::PathGone(..)
            | Record::NarGone(..)
            | Record::DocumentGone(..)
            | Record::CacheGone(_) => return Ok(()),
        };
        self.write(op)
    }

    /// Writes the rows of recipes, and takes away what needs one that is not to be had.
    pub(super) fn write_recipes(&mut self) -> Result<()> {
        let mut missing = HashSet::new();
        for id in std::mem::take(&mut self.needed) {
            match self.recipe(&id)? {
                Some(row) => {
                    self.report.recipes += 1;
                    self.write(Op::Recipe(id, row))?;
                }
                None => _ = missing.insert(id),
            }
        }
        self.commit()?;
        for cache in self.known_caches()? {
            self.check_nars(&cache, &missing)?;
            self.check_paths(&cache)?;
            self.check_aliases(&cache)?;
            self.check_documents(&cache, &missing)?;
        }
        self.commit()
    }

    /// Returns the row of a recipe: from the last place where it is whole and its packs are there, or else, marked, from
    /// the last place where it is whole.
    fn recipe(&mut self, id: &RecipeId) -> Result<Option<RecipeRow>> {
        let old = match &self.old {
            Some(old) => old.recipe(id)?,
            None => None,
        };
        let (mut best, mut places) = (None, self.lasts.places(id));
        // It may lie where no footer tells of it.
        places.extend(old.as_ref().map(|old| old.record).filter(|record| !places.contains(record)));
        for record in places {
            let Some((mut row, placement)) = self.read_recipe(id, record)? else { continue };
            if self.has_all(&placement)? {
                row.damaged_at = old.filter(|old| old.record == record).and_then(|old| old.damaged_at);
                return Ok(Some(row));
            }
            row.damaged_at = Some(self.packs.clock.now());
            // An edge to a pack that is not there would let nobody commit it.
            row.edges.retain(|pack| self.lasts.has_pack(*pack));
            best.get_or_insert(row);
        }
        self.report.incomplete += u64::from(best.is_some());
        Ok(best)
    }

    fn read_recipe(&mut self, id: &RecipeId, record: FrameLoc) -> Result<Option<(RecipeRow, Placement)>> {
        // What a footer tells of was counted before.
        let damaged_frames = self.report.damaged_frames;
        let frame = if self.lasts.has_pack(record.pack) { self.recipe_frame(record)? } else { None };
        self.report.damaged_frames = damaged_frames;
        let Some(frame) = frame.filter(|frame| id_of(frame) == Some(*id)) else { return Ok(None) };
        // What is whole and does not decode was written by a newer firn.
        let newer = || Error::Unusable(format!("the recipe {id} or its placement does not decode: upgrade firn"));
        let (length, chunks, placement) = outline(&frame).ok_or_else(newer)?;
        let mut edges = placement.packs();
        edges.push(record.pack);
        edges.sort_unstable();
        edges.dedup();
        Ok(Some((RecipeRow { record, length, chunks, edges, damaged_at: None }, placement)))
    }

    /// Returns a frame that should hold a recipe. A damaged one is counted.
    pub(super) fn recipe_frame(&mut self, record: FrameLoc) -> Result<Option<DecodedFrame>> {
        match self.frames.read_record(record) {
            Ok(frame) => Ok(Some(frame).filter(|frame| frame.kind == FrameKind::Recipe)),
            Err(error) if error.is_damage() => {
                tracing::error!(pack = %record.pack, offset = record.offset, %error, "rebuild: a recipe is damaged");
                self.report.damaged_frames += 1;
                Ok(None)
            }
            Err(error) => Err(unreadable(record.pack, error)),
        }
    }

    /// Returns whether every pack that a recipe needs is there and long enough.
    fn has_all(&self, placement: &Placement) -> Result<bool> {
        for (pack, end) in needs_of(placement) {
            let len = || self.packs.storage.len(&object_name(pack)).map_err(|error| unreadable(pack, error.into()));
            if !self.lasts.has_pack(pack) || len()? < end {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn check_nars(&mut self, cache: &CacheName, missing: &HashSet<RecipeId>) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.packs.meta.nars(cache, after, PAGE)?;
            self.report.nars += page.len() as u64;
            let lost: Vec<Sha256> =
                page.iter().filter(|(_, row)| missing.contains(&row.recipe)).map(|(hash, _)| *hash).collect();
            let last = page.last().map(|(hash, _)| *hash).filter(|_| page.len() == PAGE);
            self.report.nars -= lost.len() as u64;
            for hash in lost {
                self.write(Op::DeleteNar(cache.clone(), hash))?;
            }
            match last {
                Some(last) => after = Some(last),
                None => return self.commit(),
            }
        }
    }

    fn check_paths(&mut self, cache: &CacheName) -> Result<()> {
        let mut after = None;
        loop {
            let page = self.packs.meta.paths(cache, after, PAGE)?;
            for (hash, row) in &page {
                if self.packs.meta.nar(cache, &row.nar_hash)?.is_none() {
                    self.lose(format!("{cache}: {}", row.path.base_name()));
                    self.write(Op::DeletePath(cache.clone(), *hash))?;
                }
            }
            match page.last() {
                Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                _ => return self.commit(),
            }
        }
    }

    fn check_aliases(&mut self, cache: &CacheName) -> Result<()> {
        let mut after: Option<String> = None;
        loop {
            let page = self.packs.meta.aliases(cache, after.as_deref(), PAGE)?;
            for (name, row) in &page {
                if self.packs.meta.nar(cache, &row.nar_hash)?.is_none() {
                    self.write(Op::DeleteAlias(cache.clone(), name.clone()))?;
                }
            }
            match page.last() {
                Some((name, _)) if page.len() == PAGE => after = Some(name.clone()),
                _ => return self.commit(),
            }
        }
    }

    fn check_documents(&mut self, cache: &CacheName, missing: &HashSet<RecipeId>) -> Result<()> {
        let mut after: Option<DocumentKey> = None;
        loop {
            let page = self.packs.meta.documents(cache, after.as_ref(), PAGE)?;
            for (key, row) in &page {
                match &row.content {
                    Content::Recipe { recipe, .. } if missing.contains(recipe) => {
                        self.lose(format!("{cache}: document {}", key.name));
                        self.write(Op::DeleteDocument(cache.clone(), key.clone()))?;
                    }
                    Content::Recipe { .. } | Content::Inline(_) => self.report.documents += 1,
                }
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => after = Some(key.clone()),
                _ => return self.commit(),
            }
        }
    }
}

/// Returns whether an index has a row of what a record is about.
fn has_row(meta: &dyn Meta, record: &Record) -> Result<bool> {
    Ok(match record {
        Record::Nar(cache, hash, _) | Record::NarGone(cache, hash) => meta.nar(cache, hash)?.is_some(),
        Record::Alias(cache, name, _) => meta.alias(cache, name)?.is_some(),
        Record::Path(cache, row) => meta.path(cache, &row.path.hash())?.is_some(),
        Record::PathGone(cache, hash) => meta.path(cache, hash)?.is_some(),
        Record::Document(cache, key, _) | Record::DocumentGone(cache, key) => meta.document(cache, key)?.is_some(),
        Record::CacheGone(cache) => meta.cache(cache)?.is_some(),
        Record::Order(_) => false,
    })
}
