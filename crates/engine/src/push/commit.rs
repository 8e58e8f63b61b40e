//! Paths with their NARs, many at a time.

use firn_index::CacheName;

use super::Assembled;
use crate::{Engine, Error, PathOutcome, PathUpload, Result};

impl Engine {
    /// Makes paths visible with the NARs that were assembled for them; each is atomic, all are durable when it returns.
    ///
    /// Outcomes stand in the order of the batch, and each offer sees what those before it did: references may be to paths of the
    /// same batch. Without an [`Assembled`] the cache must have the NAR. The whole batch, at most 1024 at a time, waits
    /// for the disk once.
    ///
    /// # Errors
    /// As [`Engine::commit_path`], for each path by itself.
    pub fn commit_pushed(
        &self,
        _cache: &CacheName,
        batch: Vec<(PathUpload, Option<Assembled>)>,
    ) -> Vec<Result<PathOutcome>> {
        batch.iter().map(|_| Err(Error::Internal("push: not yet".to_owned()))).collect()
    }
}
