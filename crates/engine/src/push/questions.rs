//! Sessions, and what is there.

use firn_chunk::{ChunkId, RecipeId};
use firn_index::{CacheName, Refusal, SessionId, TokenId};
use firn_nix::StoreHash;

use super::Scope;
use crate::engine::Shared;
use crate::packs::LOOKUP_IDS;
use crate::{Engine, Error, Result};

impl Engine {
    /// Begins a push; its lease lasts [`crate::Options::session_lease_seconds`] from each sign of life. A restart ends
    /// every session.
    pub fn begin_session(&self) -> Result<SessionId> {
        let packs = &self.shared.packs;
        let (now, lease) = (packs.clock.now(), self.shared.options.session_lease_seconds);
        let id = SessionId(packs.entropy.draw());
        packs.meta.begin_session(id, now, now.saturating_add(lease))?;
        Ok(id)
    }

    /// Gives a session its whole lease again.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::SessionExpired`] when its lease ran out or it was never begun: what it was told
    /// may be gone.
    pub fn renew_session(&self, id: SessionId) -> Result<()> {
        let packs = &self.shared.packs;
        let (now, lease) = (packs.clock.now(), self.shared.options.session_lease_seconds);
        if packs.meta.renew_session(id, now, now.saturating_add(lease))? {
            Ok(())
        } else {
            Err(Error::Refused(Refusal::SessionExpired))
        }
    }

    /// Ends a session; one that is not there is no error.
    pub fn end_session(&self, id: SessionId) {
        // Only thrift: the lease ends it too.
        let _ = self.shared.packs.meta.end_session(id);
    }

    /// Returns for each chunk whether it must be sent. Chunks that another upload is about to store count as there.
    pub fn missing_chunks(&self, scope: &Scope, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let may_tell = self.shared.may_tell_chunks(scope, ids)?;
        // What may not be told is not looked for either: not even the time that it takes depends on it.
        let asked: Vec<ChunkId> = ids.iter().zip(&may_tell).filter(|(_, told)| **told).map(|(id, _)| *id).collect();
        let mut there = self.shared.are_there(&asked)?.into_iter();
        Ok(may_tell.into_iter().map(|told| !(told && there.next().unwrap_or(false))).collect())
    }

    /// Returns for each recipe whether it is there and can be restored.
    pub fn known_recipes(&self, scope: &Scope, ids: &[RecipeId]) -> Result<Vec<bool>> {
        let may_tell = self.shared.may_tell_recipes(scope, ids)?;
        ids.iter().zip(may_tell).map(|(id, told)| Ok(told && self.is_restorable(id)?)).collect()
    }

    /// Returns for each path whether the cache lacks it; one whose NAR is damaged counts as missing. With `only_from`, what
    /// others than this token brought does as well.
    pub fn missing_paths(
        &self,
        cache: &CacheName,
        only_from: Option<TokenId>,
        hashes: &[StoreHash],
    ) -> Result<Vec<bool>> {
        let is_missing = |hash: &StoreHash| {
            // In this order: what a collection removes after it was named here, it had named before.
            self.note_use_if_known(cache, *hash);
            Ok(!self.has_path(cache, only_from, hash)?)
        };
        hashes.iter().map(is_missing).collect()
    }

    /// Forgets, durably, what was noted about a cache that was deleted: only bytes on the disk are saved by it, because
    /// another cache of the same name inherits nothing anyway.
    pub fn forget_cache(&self, cache: &CacheName) -> Result<()> {
        Ok(self.shared.packs.chunks.forget_cache(cache)?)
    }

    fn note_use_if_known(&self, cache: &CacheName, hash: StoreHash) {
        if self.meta().path_may_exist(cache, &hash) {
            self.note_use(cache, hash);
        }
    }

    fn has_path(&self, cache: &CacheName, only_from: Option<TokenId>, hash: &StoreHash) -> Result<bool> {
        if !self.meta().path_may_exist(cache, hash) {
            return Ok(false);
        }
        let Some(path) = self.meta().path(cache, hash)? else { return Ok(false) };
        if only_from.is_some_and(|token| path.uploader.token != Some(token)) {
            return Ok(false);
        }
        match self.meta().nar(cache, &path.nar_hash)? {
            Some(nar) => self.is_restorable(&nar.recipe),
            None => Ok(false),
        }
    }
}

impl Shared {
    /// Returns for each chunk whether it is stored or about to be.
    fn are_there(&self, ids: &[ChunkId]) -> Result<Vec<bool>> {
        let mut there = Vec::with_capacity(ids.len());
        for batch in ids.chunks(LOOKUP_IDS) {
            // In this order: what leaves the hands of an upload is in the index by then.
            let in_flight = self.packs.in_flight.get_all(batch.iter().copied());
            let stored = self.packs.chunks.lookup(batch)?;
            there.extend(in_flight.iter().zip(stored).map(|(pending, loc)| pending.is_some() || loc.is_some()));
        }
        Ok(there)
    }
}
