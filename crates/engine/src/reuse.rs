//! A NAR that the store has, sent once more.

use firn_index::{CacheName, NarRow};
use firn_nix::Sha256;

use crate::engine::Shared;
use crate::ingest::{IngestStats, Ingested, Session};
use crate::{Engine, Result};

impl Engine {
    /// Returns a NAR that one of the caches has, as if it had been ingested again; `None` if it must be ingested.
    ///
    /// Two inputs with one SHA-256 are one input, so the caller only has to hash what it is sent: the result may be
    /// committed if the hash is `nar_hash`, and has to be dropped if it is not. Its session keeps what the NAR needs
    /// from being collected meanwhile; see [`Ingested::renew`].
    ///
    /// # Errors
    /// As [`Engine::ingest`].
    pub fn reuse(&self, caches: &[CacheName], nar_hash: &Sha256) -> Result<Option<Ingested>> {
        self.shared.check_room()?;
        for nar in self.shared.held(caches, nar_hash) {
            let nar = nar?;
            let session = Session::begin(&self.shared)?;
            // Looked up within the session: what is there now stays.
            let Some(recipe) = self.meta().recipe(&nar.recipe)?.filter(|row| row.damaged_at.is_none()) else {
                continue;
            };
            let stats = IngestStats { chunks: recipe.chunks, known_recipe: true, ..IngestStats::default() };
            return Ok(Some(Ingested {
                nar_hash: *nar_hash,
                length: nar.nar_size,
                recipe: nar.recipe,
                slots: nar.slots,
                stats,
                new_recipe: None,
                chunks: None,
                lineage: Vec::new(),
                session,
            }));
        }
        Ok(None)
    }
}

impl Shared {
    /// Returns what each of some caches that has a NAR has of it.
    pub(crate) fn held<'a>(
        &'a self,
        caches: impl IntoIterator<Item = &'a CacheName>,
        nar_hash: &'a Sha256,
    ) -> impl Iterator<Item = Result<NarRow>> {
        caches.into_iter().filter_map(|cache| self.packs.meta.nar(cache, nar_hash).map_err(Into::into).transpose())
    }
}

impl Ingested {
    /// Keeps the upload alive; to be called from time to time while its commit waits for something.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] when its lease has run out.
    pub fn renew(&mut self) -> Result<()> {
        self.session.renew()
    }
}
