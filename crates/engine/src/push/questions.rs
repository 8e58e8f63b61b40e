//! Sessions, and what is there.

use firn_chunk::{ChunkId, RecipeId};
use firn_index::{CacheName, SessionId};
use firn_nix::StoreHash;

use super::Scope;
use crate::{Engine, Error, Result};

impl Engine {
    /// Begins a push; its lease lasts [`crate::Options::session_lease_seconds`] from each sign of life. A restart ends
    /// every session.
    pub fn begin_session(&self) -> Result<SessionId> {
        Err(Error::Internal("push: not yet".to_owned()))
    }

    /// Gives a session its whole lease again.
    ///
    /// # Errors
    /// [`Error::Refused`] with `SessionExpired` when its lease ran out or it was never begun: what it was told may be
    /// gone.
    pub fn renew_session(&self, _id: SessionId) -> Result<()> {
        Err(Error::Internal("push: not yet".to_owned()))
    }

    /// Ends a session; one that is not there is no error.
    pub fn end_session(&self, _id: SessionId) {}

    /// Returns for each chunk whether it must be sent. Chunks that another upload is about to store count as there.
    pub fn missing_chunks(&self, _scope: &Scope, _ids: &[ChunkId]) -> Result<Vec<bool>> {
        Err(Error::Internal("push: not yet".to_owned()))
    }

    /// Returns for each recipe whether it is there and can be restored.
    pub fn known_recipes(&self, _scope: &Scope, _ids: &[RecipeId]) -> Result<Vec<bool>> {
        Err(Error::Internal("push: not yet".to_owned()))
    }

    /// Returns for each path whether the cache lacks it; one whose NAR is damaged counts as missing.
    pub fn missing_paths(&self, _cache: &CacheName, _hashes: &[StoreHash]) -> Result<Vec<bool>> {
        Err(Error::Internal("push: not yet".to_owned()))
    }
}
