//! What a set of holders needs while it changes.

use super::collect::merge;
use super::{Holder, Mark, Span};

/// Some holders, and the stored bytes that they need together. Takes 4 bytes for each stored chunk and each recipe.
pub struct Kept<'a> {
    mark: &'a Mark,
    /// How many of the recipes need each chunk.
    needs: Vec<u32>,
    /// How many of the holders hold each recipe.
    holders: Vec<u32>,
    stored_bytes: u64,
}

impl Mark {
    /// Returns an empty set of holders.
    pub fn kept(&self) -> Kept<'_> {
        let (needs, holders) = (vec![0; self.table.len()], vec![0; self.recipes.len()]);
        Kept { mark: self, needs, holders, stored_bytes: 0 }
    }

    /// Returns the spans of a recipe and its bases, each chunk once.
    fn distinct(&self, recipe: usize) -> Vec<Span> {
        let mut spans = self.all(recipe).to_vec();
        merge(&mut spans);
        spans
    }

    fn chunk_bytes(&self, ordinal: usize) -> u64 {
        self.table.chunk(ordinal).stored_bytes().into()
    }
}

impl Kept<'_> {
    /// Returns the bytes in packs of all that the holders need: chunks, the bases of these, and recipes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored_bytes
    }

    /// Adds a holder, which must not be in the set. One whose recipe the pass did not find needs nothing.
    pub fn add(&mut self, holder: &Holder) {
        let Some(recipe) = holder.recipe() else { return };
        self.holders[recipe] += 1;
        if self.holders[recipe] > 1 {
            return;
        }
        self.stored_bytes += u64::from(self.mark.recipes[recipe].record_bytes);
        for ordinal in self.mark.distinct(recipe).into_iter().flat_map(Span::ordinals) {
            self.needs[ordinal] += 1;
            if self.needs[ordinal] == 1 {
                self.stored_bytes += self.mark.chunk_bytes(ordinal);
            }
        }
    }

    /// Removes a holder, which must be in the set.
    pub fn remove(&mut self, holder: &Holder) {
        let Some(recipe) = holder.recipe() else { return };
        self.holders[recipe] = self.holders[recipe].saturating_sub(1);
        if self.holders[recipe] > 0 {
            return;
        }
        self.stored_bytes = self.stored_bytes.saturating_sub(self.mark.recipes[recipe].record_bytes.into());
        for ordinal in self.mark.distinct(recipe).into_iter().flat_map(Span::ordinals) {
            self.needs[ordinal] = self.needs[ordinal].saturating_sub(1);
            if self.needs[ordinal] == 0 {
                self.stored_bytes = self.stored_bytes.saturating_sub(self.mark.chunk_bytes(ordinal));
            }
        }
    }

    /// Returns how many bytes only this holder of the set needs: what removing it would take off.
    pub fn alone(&self, holder: &Holder) -> u64 {
        let Some(recipe) = holder.recipe().filter(|recipe| self.holders[*recipe] == 1) else { return 0 };
        let chunks = self.mark.distinct(recipe).into_iter().flat_map(Span::ordinals);
        let alone = chunks.filter(|ordinal| self.needs[*ordinal] == 1);
        u64::from(self.mark.recipes[recipe].record_bytes) + alone.map(|at| self.mark.chunk_bytes(at)).sum::<u64>()
    }
}
