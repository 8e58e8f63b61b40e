//! Scrub: every pack is read again, and checked down to the id of every item.
//!
//! A pass goes through the packs in the order of their ids, one frame a step, so that whoever drives it sets the pace and
//! may stop after any step. What was found is in the index after each pack: a pass that was interrupted goes on behind
//! the last pack that it checked. Damage is located through the recipes of the pack: of each that needs a bad frame, the
//! chunks are looked for as a restore would, and what can't be had is marked, so that it answers as missing and the next
//! upload repairs it. At the end, what is marked and can be restored after all is [taken back](marked).

mod marked;
mod pack;

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_chunk::RecipeId;
use firn_index::{CacheName, Content, DamagedPath, DocumentKey, DocumentKind, PackState, ScrubPass, ScrubRow};
use firn_pack::PackId;

use self::marked::Marked;
use self::pack::{Checked, PackCheck};
use crate::engine::{Engine, Shared};
use crate::restore::Restore;
use crate::{Error, Result};

/// Rows read at a time.
const PAGE: usize = 256;

/// Damaged paths that are kept by name; the others are counted, and all are in the log.
const MAX_NAMED: usize = 100;

/// A pass over all packs that are there when it comes to them. It holds a frame and its bases, and the footer of one pack.
pub struct Scrub {
    shared: Arc<Shared>,
    pass: ScrubPass,
    last: Option<ScrubPass>,
    pack: Option<PackCheck>,
    /// Recipes found damaged so far, so that their paths are named once.
    damaged: BTreeSet<RecipeId>,
    /// Once all packs were checked.
    marked: Marked,
}

impl Engine {
    /// Goes on with the pass that was interrupted, or begins one. Two at once would count twice, and do no other harm.
    ///
    /// # Errors
    /// Those of the index.
    pub fn scrub(&self) -> Result<Scrub> {
        let ScrubRow { current, last } = self.meta().scrub()?;
        let now = self.shared.packs.clock.now();
        let pass = current.unwrap_or_else(|| ScrubPass { started_at: now, ..ScrubPass::default() });
        Ok(Scrub {
            shared: Arc::clone(&self.shared),
            pass,
            last,
            pack: None,
            damaged: BTreeSet::new(),
            marked: Marked::default(),
        })
    }

    /// Returns what scrubs have found.
    ///
    /// # Errors
    /// Those of the index.
    pub fn scrub_outcome(&self) -> Result<ScrubRow> {
        Ok(self.meta().scrub()?)
    }
}

impl Scrub {
    /// Returns what the pass has found so far.
    pub fn pass(&self) -> &ScrubPass {
        &self.pass
    }

    /// Checks the next frame and returns how many bytes it read, or `None` when the pass is at its end. Damage is no error.
    ///
    /// A pack that can't be read is counted and left, for that says nothing about what it holds.
    ///
    /// # Errors
    /// Those of the index, and [`Error::Internal`]. The step may be tried again.
    pub fn step(&mut self) -> Result<Option<u64>> {
        if self.pack.is_none() {
            let Some(pack) = self.next_pack()? else { return self.end() };
            self.pack = Some(PackCheck::new(pack));
        }
        let Some(check) = self.pack.as_mut() else { return Ok(Some(0)) };
        let (bytes, is_done) = match check.step(&self.shared) {
            Ok(Checked::Frame { bytes }) => {
                self.pass.frames += 1;
                (bytes, false)
            }
            Ok(Checked::Opened { bytes }) => (bytes, false),
            Ok(Checked::End) => (0, true),
            Err(error @ Error::Storage(_)) => {
                let error = crate::error::chain(&error);
                tracing::error!(pack = %check.id(), error, "scrub: a pack can't be read: it was left out");
                self.pass.unreadable_packs += 1;
                (0, true)
            }
            Err(other) => return Err(other),
        };
        self.pass.read_bytes += bytes;
        if is_done {
            self.end_pack()?;
        }
        Ok(Some(bytes))
    }

    /// Returns the next pack that is worth reading.
    fn next_pack(&mut self) -> Result<Option<PackId>> {
        loop {
            let page = self.shared.packs.meta.packs(self.pass.cursor, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(None) };
            if let Some((pack, _)) = page.iter().find(|(_, row)| row.state != PackState::Doomed) {
                return Ok(Some(*pack));
            }
            self.pass.cursor = Some(*last);
        }
    }

    /// Finds out whom the damage of a pack concerns, and notes that the pack is done.
    fn end_pack(&mut self) -> Result<()> {
        self.settle_baseless()?;
        let Some(check) = self.pack.as_ref() else { return Ok(()) };
        if check.is_damaged() {
            let recipes = self.recipes_that_need(check)?;
            let found = self.locate(&recipes)?;
            for path in &found {
                tracing::error!(
                    cache = path.cache, path = path.path, pack = %check.id(),
                    "scrub: stored bytes are damaged; it answers as missing until it is uploaded again"
                );
            }
            self.pass.damaged_paths += found.len() as u64;
            let room = MAX_NAMED.saturating_sub(self.pass.paths.len());
            self.pass.paths.extend(found.into_iter().take(room));
            self.damaged.extend(recipes);
        }
        self.pass.packs += u64::from(check.was_there());
        self.pass.damaged_packs += u64::from(check.is_pack_damaged());
        self.pass.damaged_frames += check.bad_frames();
        self.pass.cursor = Some(check.id());
        self.save()?;
        self.pack = None;
        Ok(())
    }

    /// Looks for the bases that the index does not have: of what was condemned and came to be needed again it has them only
    /// after the next collection, and the recipes know. Of a frame that no recipe needs they went with the last that did.
    fn settle_baseless(&mut self) -> Result<()> {
        let Some(check) = self.pack.as_mut() else { return Ok(()) };
        let (meta, mut left, mut after) = (&self.shared.packs.meta, check.take_baseless(), None);
        while !left.is_empty() {
            let page = meta.recipes_of_pack(check.id(), after, PAGE)?;
            for id in &page {
                let Some(row) = meta.recipe(id)? else { continue };
                let stored = match self.shared.recipes.get(&self.shared.frames, id, &row) {
                    Ok(stored) => stored,
                    Err(error) if error.is_damage() => continue,
                    Err(error) => return Err(error),
                };
                let needed: BTreeSet<_> = stored.placement.frames().collect();
                for at in (0..left.len()).rev().filter(|at| needed.contains(&left[*at].loc)).collect::<Vec<_>>() {
                    left[at].is_needed = true;
                    if self.shared.frames.is_whole(left[at].loc, left[at].entry.as_ref(), &stored.placement.bases)? {
                        left.swap_remove(at);
                    }
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(*last),
                _ => break,
            }
        }
        left.iter().try_for_each(|frame| check.settle(&self.shared, frame))
    }

    /// Returns the recipes that can't be restored because of what is wrong with a pack, and marks them.
    fn recipes_that_need(&self, check: &PackCheck) -> Result<BTreeSet<RecipeId>> {
        let (meta, mut damaged, mut after) = (&self.shared.packs.meta, BTreeSet::new(), None);
        loop {
            let page = meta.recipes_of_pack(check.id(), after, PAGE)?;
            for id in page.iter().filter(|id| !self.damaged.contains(id)) {
                if self.is_lost(id, check)? {
                    damaged.insert(*id);
                }
            }
            match page.last() {
                Some(last) if page.len() == PAGE => after = Some(*last),
                _ => return Ok(damaged),
            }
        }
    }

    fn is_lost(&self, id: &RecipeId, check: &PackCheck) -> Result<bool> {
        let Some(row) = self.shared.packs.meta.recipe(id)? else { return Ok(false) };
        if row.damaged_at.is_some() {
            return Ok(true);
        }
        if check.is_bad(&row.record) {
            self.shared.recipes.drop(id, row.record);
        }
        let stored = match self.shared.recipes.get(&self.shared.frames, id, &row) {
            Ok(stored) => stored,
            Err(error) if error.is_of_pack() => {
                self.shared.mark_damaged(*id, row.record);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let needs_base = stored.placement.bases.iter().any(|base| check.is_bad(base));
        let is_wanted = |frame: &_| needs_base || check.is_bad(frame);
        match Restore::check(&self.shared, (*id, row.record), stored, &is_wanted) {
            Ok(()) => Ok(false),
            Err(error) if error.is_of_pack() => {
                self.shared.mark_damaged(*id, row.record);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the paths and documents of all caches that are made of one of these recipes.
    fn locate(&self, recipes: &BTreeSet<RecipeId>) -> Result<Vec<DamagedPath>> {
        let (meta, mut found) = (&self.shared.packs.meta, Vec::new());
        if recipes.is_empty() {
            return Ok(found);
        }
        for (cache, _) in meta.caches()? {
            let mut after = None;
            loop {
                let page = meta.paths(&cache, after, PAGE)?;
                for (_, row) in &page {
                    if meta.nar(&cache, &row.nar_hash)?.is_some_and(|nar| recipes.contains(&nar.recipe)) {
                        found.push(DamagedPath { cache: cache.to_string(), path: row.path.base_name() });
                    }
                }
                match page.last() {
                    Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                    _ => break,
                }
            }
            self.locate_documents(&cache, recipes, &mut found)?;
        }
        Ok(found)
    }

    fn locate_documents(
        &self,
        cache: &CacheName,
        recipes: &BTreeSet<RecipeId>,
        found: &mut Vec<DamagedPath>,
    ) -> Result<()> {
        let (meta, mut after) = (&self.shared.packs.meta, None::<DocumentKey>);
        loop {
            let page = meta.documents(cache, after.as_ref(), PAGE)?;
            for (key, row) in &page {
                if matches!(&row.content, Content::Recipe { recipe, .. } if recipes.contains(recipe)) {
                    found.push(DamagedPath { cache: cache.to_string(), path: name_of(key) });
                }
            }
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(()),
            }
        }
    }

    /// Goes through what is marked, one recipe a step, and ends the pass. Which paths can't be had is known then.
    fn end(&mut self) -> Result<Option<u64>> {
        if self.pass.finished_at.is_some() {
            return Ok(None);
        }
        if let Some(bytes) = self.marked.step(&self.shared)? {
            self.pass.read_bytes += bytes;
            return Ok(Some(bytes));
        }
        let mut found = self.locate(&self.marked.damaged)?;
        self.pass.damaged_paths = found.len() as u64;
        found.truncate(MAX_NAMED);
        self.pass.paths = found;
        self.pass.finished_at = Some(self.shared.packs.clock.now());
        self.last = Some(self.pass.clone());
        self.save()?;
        Ok(None)
    }

    fn save(&self) -> Result<()> {
        let current = self.pass.finished_at.is_none().then(|| self.pass.clone());
        Ok(self.shared.packs.meta.set_scrub(&ScrubRow { current, last: self.last.clone() })?)
    }
}

/// Names a document as a request for it does.
fn name_of(key: &DocumentKey) -> String {
    let kind = match key.kind {
        DocumentKind::Log => "log",
        DocumentKind::Realisation => "realisations",
        DocumentKind::BuildTrace => "build-trace-v2",
        DocumentKind::DebugInfo => "debuginfo",
        // No request names one; the next push of that NAR makes it again.
        DocumentKind::Difference => "differences",
    };
    format!("{kind}/{}", key.name)
}
