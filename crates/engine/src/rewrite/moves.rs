//! Moving recipes to where their chunks were rewritten.

use std::collections::HashMap;

use firn_chunk::{ChunkId, RecipeId};
use firn_index::Refusal;
use firn_pack::FrameLoc;

use super::reencode::locations;
use super::window::Window;
use super::writer::{Moved, Writer};
use super::{ROUNDS, left, survey};
use crate::committer::{Change, MovedRecipe};
use crate::placement::Placement;
use crate::recipes::StoredRecipe;
use crate::{Error, Result};

/// Recipes that are moved with one wait for the disk, at most.
const BATCH: usize = 256;

/// Their bytes, at most, unless a single one is longer.
const BATCH_BYTES: usize = 4 << 20;

/// Moves every recipe that needs the window's packs, as far as its chunks were rewritten.
pub(super) fn move_recipes(writer: &mut Writer<'_, '_>, window: &Window) -> Result<()> {
    // Uploads may have come to need them meanwhile.
    for _ in 0..ROUNDS {
        let recipes = by_age(window, window.recipes(writer.shared)?);
        if recipes.is_empty() {
            break;
        }
        let mut movers = Movers { writer: &mut *writer, window, bases: HashMap::new() };
        if movers.run(&recipes)? == 0 {
            break;
        }
    }
    writer.so_far.done_packs += window.taken() as u64;
    for (pack, bytes) in &window.packs {
        if writer.shared.packs.meta.recipes_of_pack(*pack, None, 1)?.is_empty() {
            writer.so_far.emptied_packs += 1;
            writer.so_far.emptied_bytes += bytes;
        } else if !writer.so_far.is_stopped {
            left::report(writer, *pack, *bytes)?;
        }
    }
    Ok(())
}

/// Puts recipes in the order in which they came. Moved in that order they keep it, and with it the next squeeze puts together
/// what came together.
fn by_age(window: &Window, mut recipes: Vec<RecipeId>) -> Vec<RecipeId> {
    let ranks: HashMap<&RecipeId, usize> = window.survey.recipes.iter().zip(0..).collect();
    // What came since the survey is the newest.
    recipes.sort_by_key(|id| ranks.get(id).copied().unwrap_or(usize::MAX));
    recipes
}

struct Movers<'a, 'b, 'p> {
    writer: &'a mut Writer<'b, 'p>,
    window: &'a Window,
    /// The bases that frames name.
    bases: HashMap<FrameLoc, Vec<ChunkId>>,
}

impl Movers<'_, '_, '_> {
    /// Moves recipes and returns how many were.
    fn run(&mut self, recipes: &[RecipeId]) -> Result<u64> {
        let (mut batch, mut bytes, mut count) = (Vec::new(), 0, 0);
        for id in recipes {
            let Some((record, stored)) = survey::stored(self.writer.shared, id)? else { continue };
            let Some(placement) = self.placement(&stored)? else { continue };
            if placement == stored.placement && !self.window.has(&record) {
                continue;
            }
            let moved = MovedRecipe {
                id: *id,
                from: record,
                encoded: stored.recipe.encode(),
                placement,
                length: stored.recipe.length,
                chunks: stored.recipe.chunks.len() as u64,
                session: self.writer.session.id,
                lane: self.writer.lane,
            };
            bytes += moved.encoded.len();
            batch.push(Change::Move(Box::new(moved)));
            if batch.len() >= BATCH || bytes >= BATCH_BYTES {
                count += self.submit(std::mem::take(&mut batch))?;
                bytes = 0;
            }
        }
        count += self.submit(batch)?;
        self.writer.so_far.recipes += count;
        Ok(count)
    }

    fn submit(&mut self, batch: Vec<Change>) -> Result<u64> {
        if batch.is_empty() {
            return Ok(0);
        }
        self.writer.session.renew()?;
        let mut count = 0;
        for outcome in self.writer.shared.submit_all(batch)? {
            match outcome {
                Ok(_) => count += 1,
                // It was stored again, found damaged or deleted: none of ours any more.
                Err(Error::Refused(Refusal::RecipeChanged(_))) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(count)
    }

    /// Returns where a recipe's chunks lie now; `None` when that can't be told.
    fn placement(&mut self, stored: &StoredRecipe) -> Result<Option<Placement>> {
        let mut placement = Placement::default();
        for (chunk, loc) in stored.recipe.chunks.iter().zip(locations(stored)) {
            let moved = self.writer.moved.get(&chunk.id).filter(|_| self.window.has(&loc.frame));
            placement.push(match moved {
                Some(Moved::At { loc, .. }) => *loc,
                _ => loc,
            });
        }
        let mut frames: Vec<FrameLoc> = placement.runs.iter().map(|run| run.frame).collect();
        frames.sort_unstable();
        frames.dedup();
        let mut bases = Vec::new();
        for frame in frames {
            match self.writer.bases_of(&frame) {
                Some(written) => bases.extend(written),
                None if stored.placement.bases.is_empty() => {}
                None => match self.bases_of_old(frame, &stored.placement.bases)? {
                    Some(old) => bases.extend(old),
                    // All that it had; more than it needs does no harm.
                    None => bases.extend(&stored.placement.bases),
                },
            }
        }
        bases.sort_unstable();
        bases.dedup();
        placement.bases = bases;
        Ok(Some(placement))
    }

    /// Returns where the bases of a frame that was not rewritten lie now, given where all bases of the recipe lay; `None`
    /// when it is not certain.
    fn bases_of_old(&mut self, frame: FrameLoc, known: &[FrameLoc]) -> Result<Option<Vec<FrameLoc>>> {
        let Some(ids) = self.ids(frame)? else { return Ok(None) };
        let mut found = Vec::new();
        for id in ids {
            let loc = match self.writer.moved.get(&id) {
                Some(Moved::At { loc, is_plain: true }) => loc.frame,
                Some(_) => return Ok(None),
                None => match self.writer.shared.packs.lookup(&id)? {
                    Some(loc) if known.contains(&loc.frame) => loc.frame,
                    _ => return Ok(None),
                },
            };
            if self.ids(loc)?.is_none_or(|bases| !bases.is_empty()) {
                return Ok(None);
            }
            found.push(loc);
        }
        Ok(Some(found))
    }

    /// Returns the bases that a frame names; `None` when it is damaged.
    fn ids(&mut self, frame: FrameLoc) -> Result<Option<Vec<ChunkId>>> {
        if let Some(ids) = self.bases.get(&frame) {
            return Ok(Some(ids.clone()));
        }
        let ids = match self.window.entry(&frame) {
            Some(entry) => entry.bases.iter().copied().map(ChunkId).collect(),
            None => match self.writer.shared.frames.bases_of(frame) {
                Err(error) if error.is_of_pack() => return Ok(None),
                other => other?,
            },
        };
        self.bases.insert(frame, Vec::clone(&ids));
        Ok(Some(ids))
    }
}
