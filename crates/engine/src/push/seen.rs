//! What those who may read a cache can know: chunks and recipes that came to it.

use firn_chunk::{ChunkId, Recipe, RecipeId};
use firn_index::{CacheName, SeenId, UnixSeconds};

use super::Scope;
use crate::Result;
use crate::engine::Shared;
use crate::packs::LOOKUP_IDS;

impl Shared {
    /// Notes that contents came to a cache. What is lost of that costs an upload.
    pub(crate) fn note_seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<()> {
        let Some(made_at) = self.made_at(cache)? else { return Ok(()) };
        let ids: Vec<SeenId> = ids.iter().map(|id| of_cache(*id, made_at)).collect();
        for batch in ids.chunks(LOOKUP_IDS) {
            self.packs.chunks.note_seen(cache, batch)?;
        }
        Ok(())
    }

    /// Notes what a commit brought to a cache: a recipe and, before it, its chunks, which are read from it if they are not
    /// given. Says so when that fails, and goes on: what was committed is.
    pub(crate) fn note_committed(&self, cache: &CacheName, recipe: &RecipeId, chunks: Option<Vec<SeenId>>) {
        let id = [SeenId::from(recipe)];
        let note = || {
            // Written last, it says that the chunks were noted too.
            if self.seen(std::slice::from_ref(cache), &id)? == [true] {
                return Ok(());
            }
            match (chunks, self.packs.meta.recipe(recipe)?) {
                (Some(chunks), _) => self.note_seen(cache, &chunks)?,
                (None, Some(row)) => {
                    let stored = self.recipes.get(&self.frames, recipe, &row)?;
                    self.note_seen(cache, &seen_ids(&stored.recipe))?;
                }
                (None, None) => return Ok(()),
            }
            self.note_seen(cache, &id)
        };
        let noted: Result<()> = note();
        if let Err(error) = noted {
            tracing::warn!(%cache, %error, "could not note what a cache has seen: it will be sent again");
        }
    }

    /// Returns for each content whether it came to one of the caches.
    pub(crate) fn seen(&self, caches: &[CacheName], ids: &[SeenId]) -> Result<Vec<bool>> {
        let mut seen = vec![false; ids.len()];
        for cache in caches {
            let Some(made_at) = self.made_at(cache)? else { continue };
            for (batch, seen) in ids.chunks(LOOKUP_IDS).zip(seen.chunks_mut(LOOKUP_IDS)) {
                let batch: Vec<SeenId> = batch.iter().map(|id| of_cache(*id, made_at)).collect();
                let found = self.packs.chunks.seen(cache, &batch)?;
                seen.iter_mut().zip(found).for_each(|(seen, found)| *seen |= found);
            }
        }
        Ok(seen)
    }

    /// Returns for each chunk whether an asker may be told that it is there.
    pub(crate) fn may_tell_chunks(&self, scope: &Scope, ids: &[ChunkId]) -> Result<Vec<bool>> {
        match scope {
            Scope::Store => Ok(vec![true; ids.len()]),
            Scope::Caches(caches) => self.seen(caches, &ids.iter().map(SeenId::from).collect::<Vec<_>>()),
        }
    }

    /// Returns for each recipe whether an asker may be told that it is there.
    pub(crate) fn may_tell_recipes(&self, scope: &Scope, ids: &[RecipeId]) -> Result<Vec<bool>> {
        match scope {
            Scope::Store => Ok(vec![true; ids.len()]),
            Scope::Caches(caches) => self.seen(caches, &ids.iter().map(SeenId::from).collect::<Vec<_>>()),
        }
    }

    fn made_at(&self, cache: &CacheName) -> Result<Option<UnixSeconds>> {
        Ok(self.packs.meta.cache(cache)?.map(|row| row.created_at))
    }
}

/// Returns the names of a recipe's chunks.
pub(crate) fn seen_ids(recipe: &Recipe) -> Vec<SeenId> {
    recipe.chunks.iter().map(|chunk| SeenId::from(&chunk.id)).collect()
}

/// Returns a content's name in one life of a cache: another cache of the same name inherits nothing, also where the
/// first one was deleted while no engine could forget what it had seen.
fn of_cache(id: SeenId, made_at: UnixSeconds) -> SeenId {
    let SeenId(mut bytes) = id;
    for (byte, salt) in bytes.iter_mut().zip(made_at.to_le_bytes()) {
        *byte ^= salt;
    }
    SeenId(bytes)
}
