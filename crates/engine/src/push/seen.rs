//! What those who may read a cache can know: chunks and recipes that came to it.

use firn_chunk::{ChunkId, Recipe, RecipeId};
use firn_index::{CacheName, SeenId, TokenId, UnixSeconds};

use super::Scope;
use crate::Result;
use crate::engine::Shared;
use crate::packs::LOOKUP_IDS;

impl Shared {
    /// Notes that contents came to a cache. What is lost of that costs an upload.
    pub(crate) fn note_seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<()> {
        self.note(&Seer { cache, token: None }, ids)
    }

    /// Notes that contents came to a cache from somebody: who may not read it knows of what they sent themselves.
    pub(super) fn note_sent(&self, scope: &Scope, cache: &CacheName, ids: &[SeenId]) -> Result<()> {
        self.note_seen(cache, ids)?;
        scope.sender().map_or(Ok(()), |token| self.note(&Seer { cache, token: Some(token) }, ids))
    }

    fn note(&self, seer: &Seer<'_>, ids: &[SeenId]) -> Result<()> {
        let Some(made_at) = self.made_at(seer.cache)? else { return Ok(()) };
        let ids: Vec<SeenId> = ids.iter().map(|id| seer.name(*id, made_at)).collect();
        for batch in ids.chunks(LOOKUP_IDS) {
            self.packs.chunks.note_seen(seer.cache, batch)?;
        }
        Ok(())
    }

    /// Notes what a commit brought to a cache: a recipe and, before it, its chunks, which are read from it if they are not
    /// given. With a sender it is noted for them as well. Says so when that fails, and goes on: what was committed is.
    pub(crate) fn note_committed(
        &self,
        cache: &CacheName,
        sender: Option<TokenId>,
        recipe: &RecipeId,
        chunks: Option<Vec<SeenId>>,
    ) {
        let readers = self.note_recipe(&Seer { cache, token: None }, recipe, chunks.as_deref());
        let noted = readers.and_then(|()| match sender {
            Some(token) => self.note_recipe(&Seer { cache, token: Some(token) }, recipe, chunks.as_deref()),
            None => Ok(()),
        });
        if let Err(error) = noted {
            tracing::warn!(%cache, %error, "could not note what a cache has seen: it will be sent again");
        }
    }

    fn note_recipe(&self, seer: &Seer<'_>, recipe: &RecipeId, chunks: Option<&[SeenId]>) -> Result<()> {
        let id = [SeenId::from(recipe)];
        // Written last, it says that the chunks were noted too.
        if self.seen_by(seer, &id)? == [true] {
            return Ok(());
        }
        match (chunks, self.packs.meta.recipe(recipe)?) {
            (Some(chunks), _) => self.note(seer, chunks)?,
            (None, Some(row)) => {
                let stored = self.recipes.get(&self.frames, recipe, &row)?;
                self.note(seer, &seen_ids(&stored.recipe))?;
            }
            (None, None) => return Ok(()),
        }
        self.note(seer, &id)
    }

    fn seen_by(&self, seer: &Seer<'_>, ids: &[SeenId]) -> Result<Vec<bool>> {
        let Some(made_at) = self.made_at(seer.cache)? else { return Ok(vec![false; ids.len()]) };
        let mut seen = Vec::with_capacity(ids.len());
        for batch in ids.chunks(LOOKUP_IDS) {
            let batch: Vec<SeenId> = batch.iter().map(|id| seer.name(*id, made_at)).collect();
            seen.extend(self.packs.chunks.seen(seer.cache, &batch)?);
        }
        Ok(seen)
    }

    /// Returns for each chunk whether an asker may be told that it is there.
    pub(crate) fn may_tell_chunks(&self, scope: &Scope, ids: &[ChunkId]) -> Result<Vec<bool>> {
        self.may_tell(scope, ids)
    }

    /// Returns for each recipe whether an asker may be told that it is there.
    pub(crate) fn may_tell_recipes(&self, scope: &Scope, ids: &[RecipeId]) -> Result<Vec<bool>> {
        self.may_tell(scope, ids)
    }

    fn may_tell<'a, I>(&self, scope: &Scope, ids: &'a [I]) -> Result<Vec<bool>>
    where
        SeenId: From<&'a I>,
    {
        let (caches, own) = match scope {
            Scope::Store => return Ok(vec![true; ids.len()]),
            Scope::Caches(caches) => (caches, None),
            Scope::Sender { token, cache, readable } => (readable, Some(Seer { cache, token: Some(*token) })),
        };
        let ids: Vec<SeenId> = ids.iter().map(SeenId::from).collect();
        let mut told = vec![false; ids.len()];
        for seer in caches.iter().map(|cache| Seer { cache, token: None }).chain(own) {
            let seen = self.seen_by(&seer, &ids)?;
            told.iter_mut().zip(seen).for_each(|(told, seen)| *told |= seen);
        }
        Ok(told)
    }

    fn made_at(&self, cache: &CacheName) -> Result<Option<UnixSeconds>> {
        Ok(self.packs.meta.cache(cache)?.map(|row| row.created_at))
    }
}

/// Returns the names of a recipe's chunks.
pub(crate) fn seen_ids(recipe: &Recipe) -> Vec<SeenId> {
    recipe.chunks.iter().map(|chunk| SeenId::from(&chunk.id)).collect()
}

/// Who has seen a content: all who may read a cache, or one who may only push to it.
struct Seer<'a> {
    cache: &'a CacheName,
    token: Option<TokenId>,
}

impl Seer<'_> {
    /// Returns a content's name for this one, in one life of a cache: another cache of the same name inherits nothing, also where
    /// the first one was deleted while no engine could forget what it had seen.
    fn name(&self, id: SeenId, made_at: UnixSeconds) -> SeenId {
        let SeenId(mut bytes) = id;
        // A token's number is random, so that nobody finds contents whose name for one is that of others for another.
        let salt = made_at.to_le_bytes().into_iter().chain(self.token.map_or(0, |token| token.0).to_le_bytes());
        for (byte, salt) in bytes.iter_mut().zip(salt) {
            *byte ^= salt;
        }
        SeenId(bytes)
    }
}

impl Scope {
    /// Returns who sends, if they may not read the cache that they send to.
    pub(super) fn sender(&self) -> Option<TokenId> {
        match self {
            Self::Sender { token, .. } => Some(*token),
            Self::Store | Self::Caches(_) => None,
        }
    }
}
