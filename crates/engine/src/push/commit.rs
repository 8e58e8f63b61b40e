//! Paths with their NARs, many at a time.

use firn_chunk::RecipeId;
use firn_index::{CacheName, ReferencePolicy, SeenId, TokenId};

use super::Assembled;
use super::seen::seen_ids;
use crate::committer::{Change, PushedNar, REQUEST_CHANGES};
use crate::engine::check_occur;
use crate::restore::Restore;
use crate::{Engine, Error, PathOutcome, PathUpload, Result};

/// What a commit brings to its cache, to be noted once it stands.
type Contents = Option<(RecipeId, Vec<SeenId>, Option<TokenId>)>;

impl Engine {
    /// Makes paths visible with the NARs that were assembled for them; each is atomic, all are durable when it returns.
    ///
    /// Outcomes stand in the order of the batch, and each offer sees what those before it did: references may be to
    /// paths of the same batch. Without an [`Assembled`] the cache must have the NAR. The whole batch, at most 1024 at a
    /// time, waits for the disk once.
    ///
    /// # Errors
    /// As [`Engine::commit_path`], for each path by itself; [`Error::RecipeUnknown`] when what an [`Assembled`] leans on
    /// was found damaged since, and [`Error::Refused`] when its session has expired or its packs are gone: assemble it
    /// again.
    pub fn commit_pushed(
        &self,
        cache: &CacheName,
        batch: Vec<(PathUpload, Option<Assembled>)>,
    ) -> Vec<Result<PathOutcome>> {
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut batch = batch.into_iter().peekable();
        while batch.peek().is_some() {
            outcomes.append(&mut self.commit_some(cache, batch.by_ref().take(REQUEST_CHANGES)));
        }
        outcomes
    }

    fn commit_some(
        &self,
        cache: &CacheName,
        batch: impl Iterator<Item = (PathUpload, Option<Assembled>)>,
    ) -> Vec<Result<PathOutcome>> {
        let (mut changes, mut contents) = (Vec::new(), Vec::new());
        let prepared: Vec<Result<()>> = batch
            .map(|(upload, nar)| {
                let (change, brings) = self.pushed(cache, upload, nar)?;
                changes.push(change);
                contents.push(brings);
                Ok(())
            })
            .collect();
        let number = changes.len();
        let mut committed = self.shared.submit_all(changes).unwrap_or_else(|error| repeat(&error, number)).into_iter();
        let mut contents = contents.into_iter();
        let mut outcome = || {
            let outcome = committed.next().unwrap_or_else(|| Err(no_outcome()));
            if let (Ok(PathOutcome::Created | PathOutcome::Merged), Some(Some((recipe, chunks, sender)))) =
                (&outcome, contents.next())
            {
                self.shared.note_committed(cache, sender, &recipe, Some(chunks));
            }
            outcome
        };
        prepared.into_iter().map(|prepared| prepared.and_then(|()| outcome())).collect()
    }

    /// Checks an offer as far as that needs no order, and returns the change that it is.
    fn pushed(&self, cache: &CacheName, upload: PathUpload, nar: Option<Assembled>) -> Result<(Change, Contents)> {
        let is_strict = upload.references_policy == ReferencePolicy::Strict;
        let Some(nar) = nar else {
            if is_strict {
                self.check_content(cache, &upload)?;
            }
            return Ok((Change::Path { cache: cache.clone(), upload: Box::new(upload) }, None));
        };
        if nar.cache != *cache || nar.nar_hash != upload.nar_hash {
            let detail = format!("the NAR sha256:{} was assembled for it", nar.nar_hash.to_nix32());
            return Err(Error::WrongNar { path: upload.path.to_string(), detail });
        }
        // The lease is whole again: it can't run out before the commit, which therefore need not look at it.
        self.renew_session(nar.session)?;
        if is_strict {
            let whole = 0..nar.row.nar_size;
            let restore = || Restore::open(&self.shared, None, nar.stored.clone(), &nar.row.slots, whole);
            check_occur(&upload.references, &nar.row.slots, restore)?;
        }
        let contents = Some((nar.row.recipe, seen_ids(&nar.stored.recipe), nar.sender));
        let nar = PushedNar { row: nar.row, new_recipe: nar.new_recipe };
        Ok((Change::Pushed { cache: cache.clone(), upload: Box::new(upload), nar }, contents))
    }
}

/// Returns an error of the store for each path; only one can have the error itself.
fn repeat(error: &Error, number: usize) -> Vec<Result<PathOutcome>> {
    (0..number).map(|_| Err(error.for_another())).collect()
}

fn no_outcome() -> Error {
    Error::Internal("commit: no outcome came back".to_owned())
}
