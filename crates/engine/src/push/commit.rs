//! Paths with their NARs, many at a time.

use std::sync::Arc;

use firn_chunk::RecipeId;
use firn_index::{CacheName, LineageKey, ReferencePolicy, SeenId, TokenId, UnixSeconds};
use firn_nix::{Sha256, StoreHash};

use super::Assembled;
use super::seen::seen_ids;
use crate::committer::{Change, PushedNar, REQUEST_CHANGES};
use crate::difference::Compared;
use crate::recipes::StoredRecipe;
use crate::restore::Restore;
use crate::{Engine, Error, PathOutcome, PathUpload, Result, spans};

/// What a commit brings to its cache, to be noted once it stands.
struct Contents {
    recipe: RecipeId,
    chunks: Vec<SeenId>,
    sender: Option<TokenId>,
    slots: Vec<StoreHash>,
    stored: Arc<StoredRecipe>,
    lineage: Vec<(LineageKey, u32)>,
}

/// What was offered, as it is needed after its commit.
struct Offer {
    path: StoreHash,
    nar_hash: Sha256,
    contents: Option<Contents>,
}

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
        let (mut changes, mut offers) = (Vec::new(), Vec::new());
        let prepared: Vec<Result<()>> = batch
            .map(|(upload, nar)| {
                let (change, offer) = self.pushed(cache, upload, nar)?;
                changes.push(change);
                offers.push(offer);
                Ok(())
            })
            .collect();
        let number = changes.len();
        let span = spans::commit(number);
        let committed = self.shared.submit_all(changes).unwrap_or_else(|error| repeat(&error, number));
        drop(span);
        let mut committed = committed.into_iter().zip(offers);
        let comparing_until = self.comparing_until();
        let mut outcome = || {
            let (outcome, offer) = committed.next().ok_or_else(no_outcome)?;
            self.note_outcome(cache, outcome?, offer, comparing_until)
        };
        prepared.into_iter().map(|prepared| prepared.and_then(|()| outcome())).collect()
    }

    /// Notes what follows from a commit that stands.
    fn note_outcome(
        &self,
        cache: &CacheName,
        outcome: PathOutcome,
        offer: Offer,
        comparing_until: UnixSeconds,
    ) -> Result<PathOutcome> {
        let Offer { path, nar_hash, contents } = offer;
        let other = contents.as_ref().map(|new| Compared::Assembled { slots: &new.slots, stored: &new.stored });
        self.note_conflict(cache, &path, &nar_hash, outcome, other, comparing_until);
        if let (PathOutcome::Created | PathOutcome::Merged, Some(new)) = (outcome, contents) {
            self.shared.note_lineage(&new.recipe, &new.lineage);
            self.shared.note_committed(cache, new.sender, &new.recipe, Some(new.chunks));
        }
        Ok(outcome)
    }

    /// Checks an offer as far as that needs no order, and returns the change that it is.
    fn pushed(&self, cache: &CacheName, mut upload: PathUpload, nar: Option<Assembled>) -> Result<(Change, Offer)> {
        let (path, nar_hash) = (upload.path.hash(), upload.nar_hash);
        let Some(nar) = nar else {
            self.check_content(cache, &mut upload)?;
            let change = Change::Path { cache: cache.clone(), upload: Box::new(upload) };
            return Ok((change, Offer { path, nar_hash, contents: None }));
        };
        if nar.cache != *cache || nar.nar_hash != upload.nar_hash {
            let detail = format!("the NAR sha256:{} was assembled for it", nar.nar_hash.to_nix32());
            return Err(Error::WrongNar { path: upload.path.to_string(), detail });
        }
        // The lease is whole again: it can't run out before the commit, which therefore need not look at it.
        self.renew_session(nar.session)?;
        if upload.references_policy == ReferencePolicy::Strict {
            let restore = || Restore::open(&self.shared, None, nar.stored.clone(), &nar.row.slots, 0..nar.row.nar_size);
            self.check_restored(cache, &mut upload, &nar.row.slots, restore)?;
        }
        let contents = Contents {
            recipe: nar.row.recipe,
            chunks: seen_ids(&nar.stored.recipe),
            sender: nar.sender,
            slots: nar.row.slots.clone(),
            stored: nar.stored,
            lineage: nar.lineage,
        };
        let nar = PushedNar { row: nar.row, new_recipe: nar.new_recipe };
        let change = Change::Pushed { cache: cache.clone(), upload: Box::new(upload), nar };
        Ok((change, Offer { path, nar_hash, contents: Some(contents) }))
    }
}

/// Returns an error of the store for each path; only one can have the error itself.
fn repeat(error: &Error, number: usize) -> Vec<Result<PathOutcome>> {
    (0..number).map(|_| Err(error.for_another())).collect()
}

fn no_outcome() -> Error {
    Error::Internal("commit: no outcome came back".to_owned())
}
