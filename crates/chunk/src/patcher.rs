//! Puts store hashes back.

use std::sync::Arc;

use firn_nix::StoreHash;

use crate::patches::Cursor;
use crate::{Error, PATCH_BYTES, Patch, Recipe, Result};

/// Turns normalised bytes of one input into what they were, in windows of any size and order.
///
/// Fast when windows follow each other; any other window costs one [`Patcher::seek`].
#[derive(Debug, Clone)]
pub struct Patcher {
    recipe: Arc<Recipe>,
    slots: Vec<[u8; PATCH_BYTES]>,
    /// Where the next window starts if it follows the last one.
    offset: u64,
    /// The first patch that ends after `offset`.
    next: Option<Patch>,
    /// Behind `next`.
    cursor: Cursor,
}

impl Patcher {
    /// Returns a patcher for the recipe with the store hashes of one path.
    ///
    /// # Errors
    /// [`Error::Slots`] unless there are as many store hashes as the recipe has slots.
    pub fn new(recipe: Arc<Recipe>, slots: &[StoreHash]) -> Result<Self> {
        let wanted = recipe.patches.slot_count();
        if slots.len() != wanted {
            return Err(Error::Slots { wanted, got: slots.len() });
        }
        let slots = slots.iter().map(StoreHash::to_ascii).collect();
        let mut patcher = Self { recipe, slots, offset: 0, next: None, cursor: Cursor::default() };
        patcher.seek(0);
        Ok(patcher)
    }

    /// Goes to a position in the input; takes about as long as some hundred patches.
    pub fn seek(&mut self, offset: u64) {
        self.offset = offset;
        self.cursor = Cursor::seek(&self.recipe.patches, offset);
        self.next = self.cursor.next(&self.recipe.patches);
    }

    /// Returns how many bytes from `offset` on are the same before and after patching: up to the next patch, or without end.
    pub fn clean(&mut self, offset: u64) -> u64 {
        if offset != self.offset {
            self.seek(offset);
        }
        self.next.map_or(u64::MAX, |patch| patch.position.saturating_sub(offset))
    }

    /// Patches the normalised bytes that start at `offset` in the input.
    ///
    /// A patch that lies partly outside is applied as far as it is inside.
    pub fn apply(&mut self, offset: u64, data: &mut [u8]) {
        if offset != self.offset {
            self.seek(offset);
        }
        let Some(end) = u64::try_from(data.len()).ok().and_then(|len| offset.checked_add(len)) else { return };
        self.offset = end;
        while let Some(patch) = self.next.filter(|patch| patch.position < end) {
            if let Some(hash) = self.slots.get(usize::from(patch.slot)) {
                overlay(data, offset, hash, patch.position);
            }
            if patch.end() > end {
                return;
            }
            self.next = self.cursor.next(&self.recipe.patches);
        }
    }
}

/// Copies `hash`, which belongs at `position`, over the part of `data` at `offset` where both lie.
fn overlay(data: &mut [u8], offset: u64, hash: &[u8; PATCH_BYTES], position: u64) {
    let from = position.max(offset);
    let distance = |to: u64| usize::try_from(from - to).unwrap_or(usize::MAX);
    let source = hash.get(distance(position)..).unwrap_or_default();
    let target = data.get_mut(distance(offset)..).unwrap_or_default();
    for (target, source) in target.iter_mut().zip(source) {
        *target = *source;
    }
}
