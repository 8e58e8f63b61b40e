//! One path of a commit: from what came to what the engine commits, and from what came of it to its answer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use firn_api::{Bitmap, Code, Commit, Limits, PathAnswer, PathItem, PathStatus, SessionToken};
use firn_engine::{Assembled, NarClaim, PathOutcome, PathUpload};
use firn_index::SessionId;
use firn_nix::{Compression, NarInfo, StorePath};
use http::StatusCode;

use super::super::error::Problem;
use super::super::upload::{check_signatures, decode_all, left_out_text};
use super::access::Asker;
use super::proofs::Checked;
use super::refusal::Refusal;
use super::{Held, refuse};
use crate::app::App;
use crate::turns::Turn;

/// A commit that was read; what works on it holds it, and with it its turn.
pub(super) struct Batch {
    pub(super) app: Arc<App>,
    asker: Arc<Asker>,
    token: SessionToken,
    session: SessionId,
    items: Vec<Item>,
    proofs: Checked,
    /// Whether the client went away.
    is_abandoned: AtomicBool,
    _turn: Turn<String>,
    _held: Held,
}

struct Item {
    path: PathItem,
    recipe: Option<Bytes>,
}

/// A path whose NAR was made and found right.
pub(super) struct Prepared {
    upload: PathUpload,
    assembled: Assembled,
}

/// Why a path can't be committed.
pub(super) enum Unprepared {
    MissingChunks(Vec<bool>),
    RecipeUnknown,
    Refused(Refusal),
}

impl From<Refusal> for Unprepared {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Batch {
    /// Reads a commit and verifies its proofs; some ms for a long one.
    pub(super) fn read(
        app: &Arc<App>,
        asker: &Arc<Asker>,
        (token, session): (SessionToken, SessionId),
        held: Held,
        turn: Turn<String>,
        limits: &Limits,
    ) -> Result<Self, Refusal> {
        app.engine.renew_session(session).map_err(refuse(app))?;
        let body = decode_all(&held.bytes, held.encoding, limits.body_bytes as u64)?;
        let commit = Commit::decode(&body, limits)?;
        let paths = commit.paths.into_iter();
        let items = paths.map(|one| Item { path: one.item, recipe: one.recipe.map(|recipe| body.slice_ref(recipe)) });
        let items = items.collect();
        let proofs = app.http.push.proofs.check(&asker.cache, commit.upstream);
        let (app, asker) = (Arc::clone(app), Arc::clone(asker));
        let is_abandoned = AtomicBool::new(false);
        Ok(Self { app, asker, token, session, items, proofs, is_abandoned, _turn: turn, _held: held })
    }

    /// Takes one more turn if one is free.
    pub(super) fn try_turn(&self) -> Option<Turn<String>> {
        self.app.uploads.try_take(Some(&self.asker.key())).ok()
    }

    /// Says that nobody waits for the answer: NARs that are being made are given up.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    /// Makes a path's NAR once and compares it with what was said of it; as long as that takes.
    pub(super) fn prepare(&self, index: usize) -> Result<Prepared, Unprepared> {
        let Some(item) = self.items.get(index) else {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, Code::BadRequest).into());
        };
        let (app, cache) = (&self.app, &self.asker.cache);
        // A batch may take longer than a lease.
        app.engine.renew_session(self.session).map_err(refuse(app))?;
        let info = narinfo(&item.path);
        check_signatures(&cache.row, cache, &info).map_err(Refusal::from)?;
        let encoded = item.recipe.as_ref().map(|recipe| recipe.to_vec()).or_else(|| {
            let whole = app.http.push.parts.whole(self.token, item.path.recipe, app.now());
            whole.map(|whole| whole.to_vec())
        });
        let claim = NarClaim {
            recipe: item.path.recipe,
            encoded,
            slots: item.path.slots.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
        };
        let is_wanted = || !self.is_abandoned.load(Ordering::Relaxed);
        let assembled = app.engine.assemble_while(self.session, &self.asker.scope, &cache.name, claim, &is_wanted);
        let assembled = assembled.map_err(|error| match error {
            firn_engine::Error::MissingChunks(missing) => Unprepared::MissingChunks(missing),
            firn_engine::Error::RecipeUnknown => Unprepared::RecipeUnknown,
            error => refuse(app)(error).into(),
        })?;
        // Nobody reads this answer.
        let assembled = assembled.ok_or_else(Refusal::busy)?;
        Ok(Prepared { upload: self.upload(info), assembled })
    }

    fn upload(&self, info: NarInfo) -> PathUpload {
        let cache = &self.asker.cache;
        let references = info.references.iter().cloned();
        let elsewhere = self.app.http.push.proofs.elsewhere(cache, &self.proofs, references);
        PathUpload { elsewhere, address: self.asker.address, ..cache.upload(info, self.asker.uploader.clone()) }
    }

    /// Commits what can be committed of a run of paths, the first of which is number `first`, and returns the lines that answer
    /// for all of them; waits for the disk once.
    pub(super) fn commit(&self, first: usize, run: Vec<Result<Prepared, Unprepared>>) -> Bytes {
        let mut uploads = Vec::new();
        let mut failures = Vec::new();
        for one in run {
            match one {
                Ok(Prepared { upload, assembled }) => {
                    uploads.push((upload, Some(assembled)));
                    failures.push(None);
                }
                Err(failure) => failures.push(Some(failure)),
            }
        }
        let cache = &self.asker.cache.name;
        let outcomes = if uploads.is_empty() { Vec::new() } else { self.app.engine.commit_pushed(cache, uploads) };
        let mut outcomes = outcomes.into_iter();
        let mut lines = Vec::new();
        for (item, failure) in self.items.iter().skip(first).zip(failures) {
            let answer = match failure {
                Some(failure) => unprepared(&item.path.path, failure),
                None => self.committed(&item.path, outcomes.next()),
            };
            lines.extend(answer.to_line());
        }
        lines.into()
    }

    fn committed(&self, item: &PathItem, outcome: Option<firn_engine::Result<PathOutcome>>) -> PathAnswer {
        let app = &self.app;
        let outcome =
            outcome.unwrap_or_else(|| Err(firn_engine::Error::Internal("a commit was not answered".to_owned())));
        app.http.narinfos.forget(&self.asker.cache.name, &item.path.hash());
        if let Ok(outcome) = &outcome {
            let tally = app.usage.counters.of(&self.asker.cache.name, &self.asker.uploader.builder);
            tally.outcome(*outcome, item.nar_size);
        }
        let status = match outcome {
            Ok(PathOutcome::Created) => PathStatus::Created,
            Ok(PathOutcome::Merged) => PathStatus::Merged,
            Ok(PathOutcome::KeptFirst) => PathStatus::KeptFirst,
            Ok(PathOutcome::Rejected) => {
                let answer = refused(&item.path, Problem::Conflict.into());
                return PathAnswer { status: PathStatus::Rejected, ..answer };
            }
            Err(error) => return refused(&item.path, self.explain(error)),
        };
        app.http.push.parts.forget(self.token, item.recipe);
        PathAnswer { message: self.left_out(item, status), ..PathAnswer::new(item.path.clone(), status) }
    }

    /// Returns what to say of signatures that were not taken.
    fn left_out(&self, item: &PathItem, status: PathStatus) -> Option<String> {
        let (meta, cache) = (self.app.engine.meta(), &self.asker.cache);
        let sent: Vec<String> = item.signatures.iter().map(ToString::to_string).collect();
        let left_out = match status {
            PathStatus::Created | PathStatus::Merged => cache.note_left_out(meta, &item.path, &sent),
            _ => 0,
        };
        (left_out > 0).then(|| left_out_text(left_out))
    }

    /// Returns what an error of a commit means: a reference that is missing although a proof came needs another proof.
    fn explain(&self, error: firn_engine::Error) -> Refusal {
        if let firn_engine::Error::MissingReferences(paths) = &error
            && let Some(path) = self.proofs.refused(paths)
        {
            let message = format!("the signature that came for {path} is by none of the cache's upstream keys");
            return Refusal::with(StatusCode::BAD_REQUEST, Code::BadProof, message);
        }
        refuse(&self.app)(error)
    }
}

fn unprepared(path: &StorePath, failure: Unprepared) -> PathAnswer {
    match failure {
        Unprepared::MissingChunks(missing) => {
            let missing = Some(Bitmap::from_bools(&missing).to_base64());
            PathAnswer { missing, ..PathAnswer::new(path.clone(), PathStatus::MissingChunks) }
        }
        Unprepared::RecipeUnknown => PathAnswer::new(path.clone(), PathStatus::RecipeUnknown),
        Unprepared::Refused(refusal) => refused(path, refusal),
    }
}

fn refused(path: &StorePath, refusal: Refusal) -> PathAnswer {
    let (code, message) = (Some(refusal.code.as_str().to_owned()), Some(refusal.message));
    PathAnswer { code, message, ..PathAnswer::new(path.clone(), PathStatus::Error) }
}

/// Returns what a signature signs of a path.
fn narinfo(item: &PathItem) -> NarInfo {
    NarInfo {
        store_path: item.path.clone(),
        url: String::new(),
        compression: Compression::None,
        file_hash: None,
        file_size: None,
        nar_hash: item.nar_hash,
        nar_size: item.nar_size,
        references: item.references.iter().cloned().collect::<BTreeSet<_>>(),
        deriver: item.deriver.clone(),
        signatures: item.signatures.iter().cloned().collect(),
        ca: item.ca.clone(),
    }
}
