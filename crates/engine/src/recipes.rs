//! Recipes as they are stored: read from their record frames, checked, and kept in memory up to a limit of bytes.

use std::sync::Arc;

use firn_chunk::{BareRecipe, Recipe, RecipeId};
use firn_index::RecipeRow;
use firn_pack::{DecodedFrame, FrameKind, FrameLoc, PackId};
use quick_cache::sync::Cache;

use crate::frames::Frames;
use crate::measures::MemoryUse;
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
        Some(Self { recipe, needs: needs_of(&placement), placement })
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

    /// Returns what the memory holds.
    pub(crate) fn memory_use(&self) -> MemoryUse {
        MemoryUse::of("recipes", &self.memory, true)
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
    let (Some(_), Some(placement), FrameKind::Recipe) = (frame.item(0), frame.item(1), frame.kind) else {
        return Err(damaged("its record is of another kind"));
    };
    if id_of(&frame) != Some(*id) {
        return Err(damaged("its record holds another recipe"));
    }
    let placement = Placement::decode(placement).ok_or_else(|| damaged("its placement does not decode"))?;
    let recipe = recipe_of(frames, &frame, &placement).map_err(|error| match error {
        Error::Damaged { detail, .. } => damaged(&detail),
        other => other,
    })?;
    StoredRecipe::new(recipe, placement).ok_or_else(|| damaged("its placement is another recipe's"))
}

/// Returns each pack that a placement needs, with the end of its last frame there.
pub(crate) fn needs_of(placement: &Placement) -> Vec<(PackId, u64)> {
    let end_in = |pack: PackId| {
        let frames = placement.frames().filter(|frame| frame.pack == pack);
        frames.map(|frame| frame.offset.saturating_add(u64::from(frame.len))).max().unwrap_or(0)
    };
    placement.packs().into_iter().map(|pack| (pack, end_in(pack))).collect()
}

/// Returns the length of what a frame's recipe rebuilds, the number of its chunks and where they lie, as far as the frame
/// alone can tell; `None` when it holds no recipe and placement that belong together.
pub(crate) fn outline(frame: &DecodedFrame) -> Option<(u64, u64, Placement)> {
    let placement = frame.item(1).filter(|_| frame.kind == FrameKind::Recipe).and_then(Placement::decode)?;
    let encoded = frame.item(0)?;
    let (length, chunks) = match BareRecipe::read(encoded) {
        Some(bare) => (bare.length(), bare.chunks()),
        None => Recipe::decode(encoded).ok().map(|recipe| (recipe.length, recipe.chunks.len()))?,
    };
    (chunks as u64 == placement.chunks()).then_some((length, chunks as u64, placement))
}

/// Returns the id of the recipe that a frame holds, with the ids of its chunks or without; `None` if it holds none.
pub(crate) fn id_of(frame: &DecodedFrame) -> Option<RecipeId> {
    let encoded = frame.item(0)?;
    let bare = BareRecipe::read(encoded).map(|bare| bare.id());
    Some(bare.unwrap_or_else(|| RecipeId::of(encoded)))
}

/// Returns the recipe that a frame holds, with the ids of its chunks from where the placement says that they lie.
///
/// # Errors
/// [`Error::Damaged`] when it does not decode, or the ids are not to be had.
pub(crate) fn recipe_of(frames: &Frames, frame: &DecodedFrame, placement: &Placement) -> Result<Recipe> {
    let encoded = frame.item(0).unwrap_or_default();
    let recipe = match BareRecipe::read(encoded) {
        Some(bare) => bare.fill(&frames.chunks_of(placement)?),
        None => Recipe::decode(encoded),
    };
    recipe.map_err(|error| Error::damaged("a recipe", error))
}
