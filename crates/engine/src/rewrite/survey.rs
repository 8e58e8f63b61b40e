//! What of a window's packs is needed, and by which recipes.

use std::collections::{BTreeSet, HashMap, HashSet};

use firn_chunk::{ChunkId, RecipeId};
use firn_pack::FrameLoc;

use super::window::Window;
use crate::Result;
use crate::engine::Shared;
use crate::recipes::StoredRecipe;

/// The recipes that need a window's packs, and what they need.
#[derive(Default)]
pub(super) struct Survey {
    /// The recipes, in the order in which their records were written.
    pub(super) recipes: Vec<RecipeId>,
    /// Chunks of the window's packs that are part of a recipe.
    pub(super) live: HashSet<ChunkId>,
    /// Chunks of the window's packs that a frame has as a base.
    pub(super) bases: HashSet<ChunkId>,
    /// Those of them that a frame outside has as a base.
    pub(super) outer_bases: BTreeSet<ChunkId>,
}

impl Survey {
    pub(super) fn of(shared: &Shared, window: &Window) -> Result<Self> {
        let mut survey = Self::default();
        let mut seqs = HashMap::new();
        let mut by_age = Vec::new();
        let mut looked_at = HashSet::new();
        for id in window.recipes(shared)? {
            let Some((record, stored)) = stored(shared, &id)? else { continue };
            let seq = match seqs.get(&record.pack) {
                Some(seq) => *seq,
                None => {
                    // A pack that is being written has no number yet, and comes last.
                    let seq = shared.packs.meta.pack(record.pack)?.map(|row| row.seq).filter(|seq| *seq != 0);
                    *seqs.entry(record.pack).or_insert(seq.unwrap_or(u64::MAX))
                }
            };
            by_age.push(((seq, record.offset), id));
            survey.add(shared, window, &stored, &mut looked_at)?;
        }
        by_age.sort_unstable();
        survey.recipes = by_age.into_iter().map(|(_, id)| id).collect();
        Ok(survey)
    }

    fn add(
        &mut self,
        shared: &Shared,
        window: &Window,
        stored: &StoredRecipe,
        looked_at: &mut HashSet<FrameLoc>,
    ) -> Result<()> {
        let placement = &stored.placement;
        let has_bases = placement.bases.iter().any(|base| window.has(base));
        let mut chunks = stored.recipe.chunks.iter();
        for run in &placement.runs {
            let of_run = chunks.by_ref().take(run.count as usize);
            let is_inside = window.has(&run.frame);
            if is_inside {
                self.live.extend(of_run.map(|chunk| chunk.id));
            } else {
                of_run.for_each(drop);
            }
            if !has_bases || !looked_at.insert(run.frame) {
                continue;
            }
            let bases = match window.entry(&run.frame) {
                Some(entry) => entry.bases.iter().copied().map(ChunkId).collect(),
                None => match shared.frames.bases_of(run.frame) {
                    // A restore will notice it.
                    Err(error) if error.is_of_pack() => Vec::new(),
                    other => other?,
                },
            };
            for base in bases.into_iter().filter(|base| window.chunks.contains_key(base)) {
                self.bases.insert(base);
                if !is_inside {
                    self.outer_bases.insert(base);
                }
            }
        }
        Ok(())
    }

    /// Returns whether a chunk of the window is needed.
    pub(super) fn needs(&self, id: &ChunkId) -> bool {
        self.live.contains(id) || self.bases.contains(id)
    }
}

/// Returns a recipe that is whole and can be read, with the place of its record.
pub(super) fn stored(shared: &Shared, id: &RecipeId) -> Result<Option<(FrameLoc, std::sync::Arc<StoredRecipe>)>> {
    let Some(row) = shared.packs.meta.recipe(id)?.filter(|row| row.damaged_at.is_none()) else { return Ok(None) };
    match shared.recipes.get(&shared.frames, id, &row) {
        Ok(stored) => Ok(Some((row.record, stored))),
        Err(error) if error.is_damage() => {
            shared.mark_damaged(*id, row.record);
            Ok(None)
        }
        // It stays where it is.
        Err(error) if error.is_of_pack() => Ok(None),
        Err(error) => Err(error),
    }
}
