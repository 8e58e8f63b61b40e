//! Frames whose bases go are no longer offered.
//!
//! The pack of a delta frame that no recipe needs lives on while anything else in it is needed, and no edge keeps the packs of
//! its bases, as edges belong to recipes. Once those are gone the frame can't be decoded, and an upload that was told of it
//! would be refused.

use std::collections::{HashMap, HashSet};
use std::sync::{MutexGuard, PoisonError};

use firn_chunk::ChunkId;
use firn_index::{PackRow, PackSeq, PackState};
use firn_pack::{ChunkLoc, Footer, FrameEntry, FrameKind, FrameLoc, PackId};

use super::lifecycle::{PAGE, chunks_of};
use super::{Collection, ShortId, short};
use crate::Result;
use crate::committer::Change;
use crate::packs::Packs;

/// Chunks that are forgotten together, but for those of the last pack: some 110 MiB with what looks them up.
const MAX_CHUNKS: usize = 1 << 20;

/// What collections of this process have seen to.
#[derive(Default)]
pub(crate) struct Withdrawals {
    /// Whether what was going when the process opened the store is not offered, nor what leans on it.
    is_complete: bool,
    /// For packs that are condemned, the number of the last pack that was sealed when what leans on them was looked for.
    sealed_before: HashMap<PackId, PackSeq>,
}

impl Withdrawals {
    /// Returns the least number that is noted for any of some packs.
    fn least(&self, packs: &[PackId]) -> Option<PackSeq> {
        packs.iter().filter_map(|pack| self.sealed_before.get(pack)).min().copied()
    }

    /// Forgets what is noted for some packs.
    pub(super) fn forget(&mut self, packs: &[PackId]) {
        for pack in packs {
            self.sealed_before.remove(pack);
        }
    }
}

/// Packs that are about to be condemned.
#[derive(Default)]
pub(super) struct Going {
    /// The packs, with their lengths.
    pub(super) packs: Vec<(PackId, u64)>,
    /// Their chunks that are not forgotten yet: together, as the index is cheaper to ask in its own order.
    chunks: Vec<(ChunkId, ChunkLoc)>,
    /// Those that may be bases: 16 bytes each, of all packs, so that the footers of the others are read once.
    bases: Vec<ShortId>,
}

impl Going {
    /// Adds a pack; its chunks are no longer offered once [`Collection::withdraw`] returns.
    pub(super) fn add(&mut self, packs: &Packs, pack: PackId, stored_bytes: u64) -> Result<()> {
        if let Some(footer) = packs.footer_if_whole(pack)? {
            self.chunks.append(&mut chunks_of(pack, &footer));
            let plain = chunk_frames(&footer).filter(|(_, entry)| entry.bases.is_empty());
            self.bases.extend(plain.flat_map(|(_, entry)| &entry.items).map(|item| short(&item.id)));
        }
        self.packs.push((pack, stored_bytes));
        if self.chunks.len() >= MAX_CHUNKS { self.forget(packs) } else { Ok(()) }
    }

    fn forget(&mut self, packs: &Packs) -> Result<()> {
        Ok(packs.chunks.forget(&std::mem::take(&mut self.chunks))?)
    }
}

impl Collection<'_> {
    /// Sees to it that what was going when this process opened the store is not offered: a crash may have lost what was
    /// forgotten, and with it what leans on that. Done once.
    pub(super) fn withdraw_again(&mut self) -> Result<()> {
        let packs = &self.shared.packs;
        if packs.withdrawals().is_complete {
            return Ok(());
        }
        let mut going = Going::default();
        self.each_pack(|_, pack, row| match row.state {
            PackState::Condemned | PackState::Doomed => going.add(packs, pack, row.stored_bytes),
            PackState::Live | PackState::Writing => Ok(()),
        })?;
        self.withdraw(&mut going)?;
        packs.withdrawals().is_complete = true;
        Ok(())
    }

    /// Forgets the chunks of packs that are about to be condemned, and of frames elsewhere that lean on them. Reads the footers
    /// of all other packs, once.
    pub(super) fn withdraw(&self, going: &mut Going) -> Result<()> {
        let packs = &self.shared.packs;
        // What is sealed by now has all its frames; see `withdraw_late`.
        let sealed = packs.chunks.watermark()?;
        packs.withdrawals().sealed_before.extend(going.packs.iter().map(|(pack, _)| (*pack, sealed)));
        going.forget(packs)?;
        let goes: HashSet<PackId> = going.packs.iter().map(|(pack, _)| *pack).collect();
        let mut bases = std::mem::take(&mut going.bases);
        bases.sort_unstable();
        bases.dedup();
        let mut after = None;
        while !bases.is_empty() {
            let page = packs.meta.packs(after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            self.renew()?;
            let is_offered = |row: &PackRow| matches!(row.state, PackState::Live | PackState::Writing);
            for (pack, _) in page.iter().filter(|(pack, row)| is_offered(row) && !goes.contains(pack)) {
                let leans =
                    |entry: &FrameEntry| entry.bases.iter().any(|base| bases.binary_search(&short(base)).is_ok());
                self.forget_leaning(*pack, leans)?;
            }
        }
        // What is noted of the packs next is durable, and a crash must not bring their chunks back without it.
        Ok(packs.chunks.flush()?)
    }

    /// Forgets the chunks of frames that were written while packs were condemned and lean on them: an upload that was
    /// under way may have chosen its bases before, and ended without a commit. To be called once such uploads are over.
    /// Looks through the packs of `writing` and those that were sealed since the first of `doomed` was condemned for which
    /// that was not done yet.
    pub(super) fn withdraw_late(&self, doomed: &[PackId], writing: &[PackId]) -> Result<()> {
        let packs = &self.shared.packs;
        let Some(mut after) = packs.withdrawals().least(doomed) else { return Ok(()) };
        let mut late = writing.to_vec();
        loop {
            let page = packs.meta.sealed_packs(after, PAGE)?;
            late.extend(page.iter().map(|(_, pack)| *pack));
            for pack in late.drain(..) {
                let state = packs.meta.pack(pack)?.map(|row| row.state);
                if state.is_some_and(|state| matches!(state, PackState::Live | PackState::Writing)) {
                    self.forget_leaning(pack, |_| true)?;
                }
            }
            let Some((last, _)) = page.last() else { break };
            after = *last;
            self.renew()?;
        }
        packs.chunks.flush()?;
        packs.withdrawals().forget(doomed);
        Ok(())
    }

    /// Forgets the chunks of a pack's frames that `may_lean` on what is gone. What can't be listed stays on offer.
    fn forget_leaning(&self, pack: PackId, may_lean: impl Fn(&FrameEntry) -> bool) -> Result<()> {
        match self.shared.packs.forget_baseless(pack, may_lean) {
            Err(error) if error.is_of_pack() => {
                tracing::warn!(%pack, error = crate::error::chain(&error), "a pack's frames can't be listed: they stay on offer, also those whose bases go");
                Ok(())
            }
            other => other,
        }
    }
}

impl Packs {
    pub(super) fn withdrawals(&self) -> MutexGuard<'_, Withdrawals> {
        self.withdrawals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets the chunks of those of a pack's frames that have a base of which no place is known. Of the frames that `may_lean`
    /// names the bases are looked up.
    pub(crate) fn forget_baseless(&self, pack: PackId, may_lean: impl Fn(&FrameEntry) -> bool) -> Result<()> {
        let footer = match self.open_footer(pack) {
            Some(open) => Some(open.list()?),
            None => self.footer(pack)?,
        };
        let may_lean = |entry: &FrameEntry| !entry.bases.is_empty() && may_lean(entry);
        for (offset, entry) in footer.iter().flat_map(chunk_frames).filter(|(_, entry)| may_lean(entry)) {
            let bases: Vec<ChunkId> = entry.bases.iter().copied().map(ChunkId).collect();
            if self.find_all(&bases)?.contains(&None) {
                let loc = FrameLoc { pack, offset, len: entry.len };
                let chunks: Vec<_> = entry.locations(loc).map(|(id, loc)| (ChunkId(id), loc)).collect();
                self.forget_chunks(&chunks)?;
            }
        }
        Ok(())
    }

    /// Forgets what a commit leaned on that was refused because packs are `gone`: their chunks, and those of frames in the others that
    /// lean on these, so that the next try stores them anew. A crash of an earlier version may have brought them back.
    ///
    /// # Errors
    /// Those of the index and of a storage that is not there.
    pub(crate) fn forget_gone(&self, gone: &[PackId], leaned_on: &[PackId]) -> Result<()> {
        for pack in gone {
            if let Some(footer) = self.footer_if_whole(*pack)? {
                self.forget_chunks(&chunks_of(*pack, &footer))?;
            }
        }
        for pack in leaned_on.iter().filter(|pack| !gone.contains(pack)) {
            match self.forget_baseless(*pack, |_| true) {
                Err(error) if error.is_of_pack() => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Returns frames of condemned packs that hold these chunks, as far as there are any. The chunk index does not know of
    /// them any more; a commit that names them brings their packs back. Reads footers of condemned packs until all chunks are found.
    ///
    /// # Errors
    /// Those of the index.
    pub(crate) fn condemned_frames_with(&self, ids: impl Iterator<Item = ChunkId>) -> Result<Vec<FrameLoc>> {
        let mut wanted: HashSet<[u8; 32]> = ids.map(|id| id.0).collect();
        let (mut frames, mut after) = (Vec::new(), None);
        loop {
            let page = self.meta.packs(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(frames) };
            after = Some(*last);
            for (pack, _) in page.iter().filter(|(_, row)| row.state == PackState::Condemned) {
                let footer = self.footer_if_whole(*pack)?;
                for (offset, entry) in footer.iter().flat_map(chunk_frames) {
                    let before = wanted.len();
                    for item in &entry.items {
                        wanted.remove(&item.id);
                    }
                    if wanted.len() < before {
                        frames.push(FrameLoc { pack: *pack, offset, len: entry.len });
                    }
                }
                if wanted.is_empty() {
                    return Ok(frames);
                }
            }
        }
    }

    /// Returns the footer of a pack; `None` for one that has none, or none that can be read: nothing of it is offered after
    /// the next start either (see `recovery`).
    ///
    /// # Errors
    /// Those of the index.
    pub(super) fn footer_if_whole(&self, pack: PackId) -> Result<Option<Footer>> {
        match self.footer(pack) {
            Err(error) if error.is_of_pack() => Ok(None),
            other => other,
        }
    }
}

/// Returns the packs where a change found chunks of its recipe, and bases of theirs; none if the recipe was known.
pub(crate) fn leaned_on(change: &Change) -> Vec<PackId> {
    let new = match change {
        Change::Nar { new, .. } => new.new_recipe.as_ref(),
        Change::Document { new, .. } => new.as_ref().and_then(|(_, new)| new.new_recipe.as_ref()),
        Change::Pushed { nar, .. } => nar.new_recipe.as_ref(),
        Change::Path { .. }
        | Change::Damaged { .. }
        | Change::Whole { .. }
        | Change::Move(_)
        | Change::Remove(_)
        | Change::Carry { .. }
        | Change::CacheGone(_) => None,
    };
    new.map(|new| new.placement.packs()).unwrap_or_default()
}

fn chunk_frames(footer: &Footer) -> impl Iterator<Item = (u64, &FrameEntry)> {
    let chunks = footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks);
    chunks.map(|(offset, entry)| (*offset, entry))
}
