//! Recipes as they are stored: read from their record frames, checked, and kept in memory up to a limit of bytes.

use std::sync::Arc;

use firn_chunk::{Recipe, RecipeId};
use firn_index::RecipeRow;
use firn_pack::{FrameKind, FrameLoc, PackId};
use quick_cache::sync::Cache;

use crate::frames::Frames;
use crate::placement::Placement;
use crate::{Error, Result};

/// A recipe with the places of its chunks.
pub(crate) struct StoredRecipe {
    /// What rebuilds the bytes.
    pub(crate) recipe: Arc<Recipe>,
    /// Where its chunks lie.
    pub(crate) placement: Placement,
    /// Each pack that it needs, with the end of its last frame there.
    pub(crate) needs: Vec<(PackId, u64)>,
}

impl StoredRecipe {
    /// Puts a recipe and its placement together; `None` when they do not belong together.
    pub(crate) fn new(recipe: Recipe, placement: Placement) -> Option<Self> {
        Self::of(Arc::new(recipe), placement)
    }

    /// Does as [`StoredRecipe::new`] with a recipe that others use too.
    pub(crate) fn of(recipe: Arc<Recipe>, placement: Placement) -> Option<Self> {
        if placement.chunks() != recipe.chunks.len() as u64 {
            return None;
        }
        let mut needs: Vec<(PackId, u64)> = Vec::new();
        for pack in placement.packs() {
            let frames = placement.frames().filter(|frame| frame.pack == pack);
            let end = frames.map(|frame| frame.offset.saturating_add(u64::from(frame.len))).max();
            needs.push((pack, end.unwrap_or(0)));
        }
        Some(Self { recipe, placement, needs })
    }

    fn weight(&self) -> u64 {
        (self.recipe.chunks.len() * 36
            + self.recipe.patches.len() * 4
            + (self.placement.runs.len() + self.placement.bases.len()) * 40
            + 512) as u64
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<(RecipeId, FrameLoc), Arc<StoredRecipe>> for Weight {
    fn weight(&self, _: &(RecipeId, FrameLoc), recipe: &Arc<StoredRecipe>) -> u64 {
        recipe.weight()
    }
}

/// Reads recipes. A recipe that is stored again (repaired) has another record, and so another entry.
pub(crate) struct Recipes {
    memory: Cache<(RecipeId, FrameLoc), Arc<StoredRecipe>, Weight>,
}

impl Recipes {
    /// Returns a reader that keeps up to `bytes` of recipes.
    pub(crate) fn new(bytes: u64) -> Self {
        let recipes = usize::try_from(bytes >> 14).unwrap_or(usize::MAX).max(16);
        Self { memory: Cache::with_weighter(recipes, bytes, Weight) }
    }

    /// Forgets a recipe whose record turned out not to be what it was.
    pub(crate) fn drop(&self, id: &RecipeId, record: FrameLoc) {
        self.memory.remove(&(*id, record));
    }

    /// Returns a recipe, given its row.
    ///
    /// # Errors
    /// [`Error::Damaged`] when its record is.
    pub(crate) fn get(&self, frames: &Frames, id: &RecipeId, row: &RecipeRow) -> Result<Arc<StoredRecipe>> {
        self.memory.get_or_insert_with(&(*id, row.record), || Ok(Arc::new(read(frames, id, row)?)))
    }
}

fn read(frames: &Frames, id: &RecipeId, row: &RecipeRow) -> Result<StoredRecipe> {
    let damaged = |detail: &str| Error::damaged(format!("the recipe {id}"), detail);
    let frame = frames.read_record(row.record)?;
    let (Some(encoded), Some(placement), FrameKind::Recipe) = (frame.item(0), frame.item(1), frame.kind) else {
        return Err(damaged("its record is of another kind"));
    };
    if RecipeId::of(encoded) != *id {
        return Err(damaged("its record holds another recipe"));
    }
    let recipe = Recipe::decode(encoded).map_err(|error| damaged(&error.to_string()))?;
    let placement = Placement::decode(placement).ok_or_else(|| damaged("its placement does not decode"))?;
    StoredRecipe::new(recipe, placement).ok_or_else(|| damaged("its placement is another recipe's"))
}
