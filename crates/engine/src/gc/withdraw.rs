//! Frames whose bases go are no longer offered.
//!
//! The pack of a delta frame that no recipe needs lives on while anything else in it is needed, and no edge keeps the packs of
//! its bases, as edges belong to recipes. Once those are gone the frame can't be decoded, and an upload that was told of it
//! would be refused.

use std::collections::HashSet;

use firn_chunk::ChunkId;
use firn_index::{PackRow, PackState};
use firn_pack::{ChunkLoc, Footer, FrameEntry, FrameKind, FrameLoc, PackId};

use super::lifecycle::{PAGE, chunks_of};
use super::{Collection, ShortId, short};
use crate::packs::Packs;
use crate::{Error, Result};

/// Chunks that are forgotten together, but for those of the last pack: some 110 MiB with what looks them up.
const MAX_CHUNKS: usize = 1 << 20;

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
    /// Forgets the chunks of packs that are about to be condemned, and of frames elsewhere that lean on them. Reads the footers
    /// of all other packs, once.
    pub(super) fn withdraw(&self, going: &mut Going) -> Result<()> {
        let packs = &self.shared.packs;
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
                match packs.forget_baseless(*pack, leans) {
                    Err(error @ (Error::Damaged { .. } | Error::Storage(_))) => {
                        tracing::warn!(%pack, %error, "a pack's frames can't be listed: they stay on offer, also those whose bases go");
                    }
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

impl Packs {
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

    /// Returns the footer of a pack; `None` for one that has none, or none that can be read: nothing of it is offered after
    /// the next start either (see `recovery`).
    ///
    /// # Errors
    /// Those of the storage, but for damage.
    pub(super) fn footer_if_whole(&self, pack: PackId) -> Result<Option<Footer>> {
        match self.footer(pack) {
            Err(Error::Damaged { .. }) => Ok(None),
            other => other,
        }
    }
}

fn chunk_frames(footer: &Footer) -> impl Iterator<Item = (u64, &FrameEntry)> {
    let chunks = footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks);
    chunks.map(|(offset, entry)| (*offset, entry))
}
