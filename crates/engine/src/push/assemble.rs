//! NARs from what is stored.

use firn_chunk::RecipeId;
use firn_index::{CacheName, SessionId};
use firn_nix::{Sha256, StoreHash};

use super::Scope;
use crate::{Engine, Error, Result};

/// What a client says a NAR is made of.
#[derive(Debug, Clone)]
pub struct NarClaim {
    /// What rebuilds it, but for its store hashes.
    pub recipe: RecipeId,
    /// The recipe's encoding; without it the store must know the recipe.
    pub encoded: Option<Vec<u8>>,
    /// Its store hashes.
    pub slots: Vec<StoreHash>,
    /// What its bytes hash to.
    pub nar_hash: Sha256,
    /// How many bytes it has.
    pub nar_size: u64,
}

/// A NAR that can be restored and is what its pusher says, ready for [`Engine::commit_pushed`].
#[derive(Debug)]
pub struct Assembled {}

impl Engine {
    /// Checks that a NAR can be made of what is stored, and that it is what is claimed: restores it once, unless the
    /// cache has the very same NAR. Takes no lock meanwhile; memory does not depend on the NAR's size but for some 80
    /// bytes a chunk.
    ///
    /// # Errors
    /// [`Error::MissingChunks`] names what must be sent first, what was found damaged included; [`Error::RecipeUnknown`]
    /// asks for the encoding. [`Error::BadRecipe`], [`Error::WrongNar`], [`Error::Nar`], [`Error::TooLarge`]: the claim
    /// is wrong, and will be. [`Error::Refused`] when the session has expired.
    pub fn assemble(
        &self,
        _session: SessionId,
        _scope: &Scope,
        _cache: &CacheName,
        _nar: NarClaim,
    ) -> Result<Assembled> {
        Err(Error::Internal("push: not yet".to_owned()))
    }
}
