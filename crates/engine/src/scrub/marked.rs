//! The end of a pass: recipes that are marked damaged are restored once.
//!
//! What was gone or not to be read when it was marked may be there again: a file system that was not mounted, a pack that
//! was copied back, a disk that answers. Such marks are taken back; what is left of them are the paths that can't be had.

use std::collections::BTreeSet;

use firn_chunk::RecipeId;
use firn_index::RecipeRow;

use super::PAGE;
use crate::committer::Change;
use crate::engine::Shared;
use crate::recipes::StoredRecipe;
use crate::{Error, Result};

/// Goes through the marked recipes.
#[derive(Default)]
pub(super) struct Marked {
    after: Option<RecipeId>,
    waiting: Vec<(RecipeId, RecipeRow)>,
    is_listed: bool,
    /// Those that can't be restored.
    pub(super) damaged: BTreeSet<RecipeId>,
}

impl Marked {
    /// Restores the next marked recipe, or looks for some among the next rows; returns the bytes read, or `None` at the end.
    ///
    /// # Errors
    /// Those of the index.
    pub(super) fn step(&mut self, shared: &Shared) -> Result<Option<u64>> {
        if let Some((id, row)) = self.waiting.last() {
            let (id, read) = (*id, row.length);
            if is_whole(shared, &id, row)? {
                shared.take_mark_back(id, row)?;
            } else {
                self.damaged.insert(id);
            }
            self.waiting.pop();
            return Ok(Some(read));
        }
        if self.is_listed {
            return Ok(None);
        }
        let page = shared.packs.meta.recipes(self.after, PAGE)?;
        self.is_listed = page.len() < PAGE;
        self.after = page.last().map(|(id, _)| *id).or(self.after);
        self.waiting = page.into_iter().filter(|(_, row)| row.damaged_at.is_some()).collect();
        Ok(Some(0))
    }
}

/// Returns whether all of a recipe is where it is placed. Copies elsewhere don't count: nothing keeps their packs.
fn is_whole(shared: &Shared, id: &RecipeId, row: &RecipeRow) -> Result<bool> {
    // As the disk has them now, not as memory does.
    shared.recipes.drop(id, row.record);
    let stored = shared.recipes.get(&shared.frames, id, row).inspect(|stored| {
        stored.placement.frames().for_each(|frame| shared.frames.drop(frame));
    });
    match stored.and_then(|stored| check_placed(shared, &stored)) {
        Ok(()) => Ok(true),
        Err(error) if error.is_of_pack() => {
            tracing::error!(recipe = %id, error = crate::error::chain(&error), "scrub: a NAR is still damaged");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn check_placed(shared: &Shared, stored: &StoredRecipe) -> Result<()> {
    let mut chunks = stored.recipe.chunks.iter();
    for run in &stored.placement.runs {
        let fetched = shared.frames.get(run.frame, &stored.placement.bases, &mut std::iter::empty())?;
        let frame = fetched.first().map(|(_, frame)| frame);
        for (chunk, index) in chunks.by_ref().take(run.count as usize).zip(run.first..=u16::MAX) {
            let found = frame.and_then(|frame| frame.chunk(index, &chunk.id));
            if found.is_none_or(|data| data.len() != chunk.len as usize) {
                return Err(Error::damaged(format!("the chunk {}", chunk.id), "its bytes are wrong"));
            }
        }
    }
    Ok(())
}

impl Shared {
    fn take_mark_back(&self, recipe: RecipeId, row: &RecipeRow) -> Result<()> {
        for outcome in self.submit_all(vec![Change::Whole { recipe, record: row.record }])? {
            outcome?;
        }
        tracing::warn!(%recipe, "scrub: a NAR that was marked as damaged can be restored: it answers again");
        Ok(())
    }
}
