//! Reading a NAR as it is restored: whether it is one, and where its chunks come from.

use firn_chunk::{ChunkRef, Places, Recipe};
use firn_index::LineageKey;
use firn_nix::nar::NarError;

use crate::engine::{Delta, Shared};
use crate::lineage::Lineage;

/// Reads one NAR.
pub(super) struct Reader<'a> {
    shared: &'a Shared,
    places: Places,
    /// The chunks that are to be placed yet.
    chunks: std::slice::Iter<'a, ChunkRef>,
    lineage: Lineage,
    /// Bytes that were read, and those of the chunks that were placed.
    read: u64,
    placed: u64,
}

impl<'a> Reader<'a> {
    /// Returns a reader of a NAR that a recipe makes; if the recipe is new, its chunks are placed.
    pub(super) fn new(shared: &'a Shared, recipe: &'a Recipe, is_new: bool) -> Self {
        let is_placing = is_new && shared.options.delta == Delta::Inline;
        let chunks = if is_placing { &recipe.chunks[..] } else { &[] };
        Self {
            shared,
            places: Places::default(),
            chunks: chunks.iter(),
            lineage: Lineage::default(),
            read: 0,
            placed: 0,
        }
    }

    /// Reads the next bytes.
    ///
    /// # Errors
    /// They can't be a NAR's.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<(), NarError> {
        self.places.push(piece)?;
        self.read += piece.len() as u64;
        while let Some(chunk) = self.chunks.as_slice().first()
            && self.placed + u64::from(chunk.len) <= self.read
        {
            let len = u64::from(chunk.len);
            self.lineage.pass(self.places.place(len), len);
            self.shared.likeness.settle(chunk, &mut self.lineage);
            self.placed += len;
            self.chunks.next();
        }
        Ok(())
    }

    /// Ends the NAR and returns where later uploads may find bases in it: nothing, unless the recipe is new.
    ///
    /// # Errors
    /// The NAR is not whole.
    pub(super) fn finish(mut self) -> Result<Vec<(LineageKey, u32)>, NarError> {
        self.places.finish()?;
        Ok(self.lineage.finish())
    }
}
