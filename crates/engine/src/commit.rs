//! What a commit of a path decides: pure functions over rows.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use firn_index::{
    CacheName, Conflict, ConflictPolicy, NarRow, PathRow, PushOutcome, PushRecord, ReferencePolicy, UnixSeconds,
    Uploader,
};
use firn_nix::{Sha256, StorePath};

use crate::ingest::Ingested;
use crate::{Error, Result};

/// Signatures that a path keeps at most: those of keys that its cache knows before others.
pub const MAX_SIGNATURES: usize = 64;

/// Names of keys that a record of a push has at most.
const MAX_SIGNERS: usize = 16;

/// Other NARs that a path remembers at most.
const MAX_CONFLICTS: usize = 16;

/// References of each kind that a warning names.
const LOGGED_REFERENCES: usize = 5;

/// A path offered for a cache.
#[derive(Debug, Clone)]
pub struct PathUpload {
    /// The path.
    pub path: StorePath,
    /// The hash of its NAR, which must have been committed to the cache.
    pub nar_hash: Sha256,
    /// The length of its NAR in bytes.
    pub nar_size: u64,
    /// What it refers to.
    pub references: Vec<StorePath>,
    /// References that another binary cache is proven to have: they need not be in this one.
    pub elsewhere: Vec<StorePath>,
    /// References that the path lacks so far and that its NAR was found to name, hash and name; the engine fills it.
    pub named: Vec<StorePath>,
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// Its content address, as the narinfo spells it, if the path follows from it and the references: no signature is over it, and
    /// a wrong one makes Nix refuse the path.
    pub ca: Option<String>,
    /// `name:base64`: the uploader's, and those that the cache made for this NAR. In a name of `known_keys`, only what that key
    /// signed.
    pub signatures: Vec<String>,
    /// The names of keys that the cache knows: its own, those that it trusts, and its upstreams'.
    pub known_keys: Vec<String>,
    /// Who offers it.
    pub uploader: Uploader,
    /// From which address, for the record of where the path came from.
    pub address: Option<IpAddr>,
    /// What to do when the path has another NAR.
    pub on_conflict: ConflictPolicy,
    /// What to demand of the references.
    pub references_policy: ReferencePolicy,
}

impl PathUpload {
    /// Returns the references that this offer of a path adds to those that it has; none if it has another NAR, or others.
    pub(crate) fn adds_to(&self, row: &PathRow) -> Vec<StorePath> {
        let offered: HashSet<&StorePath> = self.references.iter().collect();
        let is_more = row.nar_hash == self.nar_hash && row.references.iter().all(|one| offered.contains(one));
        let known: HashSet<&StorePath> = row.references.iter().collect();
        self.references.iter().filter(|reference| is_more && !known.contains(reference)).cloned().collect()
    }
}

/// What became of a path that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathOutcome {
    /// It is visible from now on.
    Created,
    /// It was there with the same NAR; signatures were added, or references that had been left out.
    Merged,
    /// It was there with another NAR or other references, which stay; the offer was recorded.
    KeptFirst,
    /// It was there with another NAR or other references, which stay; the offer was recorded and is to be refused.
    Rejected,
}

/// The content of a document to commit.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way into a function")]
pub enum DocumentContent {
    /// The bytes themselves, at most 4 KiB.
    Inline(Vec<u8>),
    /// Bytes that were ingested.
    Ingested(Ingested),
}

/// The row to write, if any, and what to answer.
pub(crate) struct Decision {
    pub(crate) row: Option<PathRow>,
    pub(crate) outcome: PathOutcome,
    /// Whether the path was not visible before, so that it counts.
    pub(crate) replaces: Option<u64>,
}

impl Decision {
    /// Returns whether what is there stays, and is something else.
    pub(crate) fn is_conflict(&self) -> bool {
        matches!(self.outcome, PathOutcome::KeptFirst | PathOutcome::Rejected)
    }
}

/// Decides about a path, given what the cache has.
///
/// `is_damaged` says whether the NAR of the existing row can't be restored: then the new one takes its place, because
/// nobody can get the first one any more.
pub(crate) fn decide(
    upload: &PathUpload,
    nar: Option<&NarRow>,
    existing: Option<&PathRow>,
    is_damaged: bool,
    now: UnixSeconds,
) -> Result<Decision> {
    let wrong = |detail: String| Error::WrongNar { path: upload.path.to_string(), detail };
    let is_other = |row: &&PathRow| row.path != upload.path || (row.nar_hash != upload.nar_hash && !is_damaged);
    if let Some(first) = existing.filter(is_other) {
        return Ok(conflict(upload, first, now));
    }
    let nar = nar.ok_or_else(|| wrong(format!("its NAR sha256:{} was not uploaded", upload.nar_hash.to_nix32())))?;
    if nar.nar_size != upload.nar_size {
        return Err(wrong(format!("its NAR has {} bytes, not {}", nar.nar_size, upload.nar_size)));
    }
    match existing.filter(|row| row.nar_hash == upload.nar_hash) {
        Some(row) => Ok(merge(upload, row, now)),
        None => Ok(Decision {
            row: Some(new_row(upload, existing, now)),
            outcome: PathOutcome::Created,
            replaces: existing.map(|row| row.nar_size),
        }),
    }
}

/// Warns of an offer that has the NAR that is there, and references that it can't have, or whose hash has another name.
pub(crate) fn warn_of_conflict(cache: &CacheName, upload: &PathUpload, first: &PathRow) {
    if first.path != upload.path {
        tracing::warn!(
            %cache, path = %upload.path, first = %first.path, first_builder = first.uploader.builder,
            other_builder = upload.uploader.builder,
            "a path was offered whose hash is there under another name: that one stays, until `firnd path delete` removes it"
        );
        return;
    }
    if first.nar_hash != upload.nar_hash {
        return;
    }
    let (offered, kept): (HashSet<_>, HashSet<_>) =
        (upload.references.iter().collect(), first.references.iter().collect());
    let without = |paths: &[StorePath], others: &HashSet<&StorePath>| -> Vec<String> {
        paths.iter().filter(|path| !others.contains(path)).map(StorePath::base_name).collect()
    };
    let (lacking, other) = (without(&first.references, &offered), without(&upload.references, &kept));
    let some = |paths: &[String]| paths[..paths.len().min(LOGGED_REFERENCES)].join(" ");
    tracing::warn!(
        %cache, path = %upload.path, first_builder = first.uploader.builder, other_builder = upload.uploader.builder,
        lacking = lacking.len(), other = other.len(), lacks = some(&lacking), has = some(&other),
        "a path was offered with other references than the ones that it has: these stay"
    );
}

/// Returns the record of a push that changed something.
pub(crate) fn push_record(upload: &PathUpload, outcome: PathOutcome, now: UnixSeconds) -> PushRecord {
    let names = upload.signatures.iter().map(|signature| signer(signature));
    PushRecord {
        at: now,
        uploader: upload.uploader.clone(),
        address: upload.address.map(|address| address.to_canonical().to_string()),
        nar_hash: upload.nar_hash,
        signed_by: names.take(MAX_SIGNERS).map(str::to_owned).collect(),
        outcome: match outcome {
            PathOutcome::Created => PushOutcome::Created,
            PathOutcome::Merged => PushOutcome::Merged,
            PathOutcome::KeptFirst | PathOutcome::Rejected => PushOutcome::Conflict,
        },
    }
}

fn new_row(upload: &PathUpload, replaced: Option<&PathRow>, now: UnixSeconds) -> PathRow {
    let mut row = PathRow {
        path: upload.path.clone(),
        nar_hash: upload.nar_hash,
        nar_size: upload.nar_size,
        references: sorted(&upload.references),
        deriver: upload.deriver.clone(),
        ca: upload.ca.clone(),
        signatures: Vec::new(),
        committed_at: now,
        uploader: upload.uploader.clone(),
        conflicts: replaced.map(|row| row.conflicts.clone()).unwrap_or_default(),
    };
    row.signatures = merged_signatures(upload, &[]);
    row
}

fn merge(upload: &PathUpload, row: &PathRow, now: UnixSeconds) -> Decision {
    let references = sorted(&upload.references);
    if references != row.references {
        return if may_complete(upload, row) { complete(upload, row, references) } else { conflict(upload, row, now) };
    }
    let mut merged = row.clone();
    merged.signatures = merged_signatures(upload, &row.signatures);
    merged.deriver = merged.deriver.or_else(|| upload.deriver.clone());
    // What is there may be from before it had to be proven.
    merged.ca = upload.ca.clone().or(merged.ca);
    let row = (merged != *row).then_some(merged);
    Decision { row, outcome: PathOutcome::Merged, replaces: Some(upload.nar_size) }
}

/// Returns whether an offer of the same NAR says only what an earlier one left out.
///
/// Anyone who may push can make paths with any hash, and so with one of the many strings of 32 letters that a NAR has: what is
/// added has to stand there as a store path does, with its name. And nobody takes away what a known key has signed.
fn may_complete(upload: &PathUpload, row: &PathRow) -> bool {
    let added = upload.adds_to(row);
    let is_named = !added.is_empty() && added.iter().all(|reference| upload.named.contains(reference));
    let offered: HashSet<&str> = upload.signatures.iter().map(|signature| signer(signature)).collect();
    let mut known = row.signatures.iter().map(|signature| signer(signature));
    is_named && known.all(|name| offered.contains(name) || !upload.known_keys.iter().any(|key| key == name))
}

/// Takes the references that an earlier offer of the same NAR left out.
/// What was signed before is not this: signatures are over the references too.
fn complete(upload: &PathUpload, row: &PathRow, references: Vec<StorePath>) -> Decision {
    let mut whole = PathRow { references, signatures: Vec::new(), ..row.clone() };
    whole.signatures = merged_signatures(upload, &[]);
    whole.deriver = whole.deriver.or_else(|| upload.deriver.clone());
    whole.ca = upload.ca.clone();
    Decision { row: Some(whole), outcome: PathOutcome::Merged, replaces: Some(upload.nar_size) }
}

/// Records an offer of another NAR, or of the same one with other references.
fn conflict(upload: &PathUpload, first: &PathRow, now: UnixSeconds) -> Decision {
    let outcome = match upload.on_conflict {
        ConflictPolicy::KeepFirst => PathOutcome::KeptFirst,
        ConflictPolicy::Reject => PathOutcome::Rejected,
    };
    let mut row = first.clone();
    let is_known = first.conflicts.iter().any(|seen| seen.nar_hash == upload.nar_hash);
    if is_known || !make_room(&mut row.conflicts, &upload.uploader.builder) {
        return Decision { row: None, outcome, replaces: Some(first.nar_size) };
    }
    row.conflicts.push(Conflict {
        nar_hash: upload.nar_hash,
        nar_size: upload.nar_size,
        uploader: upload.uploader.clone(),
        at: now,
    });
    Decision { row: Some(row), outcome, replaces: Some(first.nar_size) }
}

/// Makes room for a conflict of a builder; returns whether there is any. Of many it takes the last one of whoever has most, so that
/// nobody hides what others make.
fn make_room(conflicts: &mut Vec<Conflict>, builder: &str) -> bool {
    if conflicts.len() < MAX_CONFLICTS {
        return true;
    }
    let count = |name: &str| conflicts.iter().filter(|one| one.uploader.builder == name).count();
    let most = (0..conflicts.len()).max_by_key(|at| (count(&conflicts[*at].uploader.builder), *at));
    let Some(at) = most.filter(|at| count(&conflicts[*at].uploader.builder) > count(builder) + 1) else { return false };
    conflicts.remove(at);
    true
}

/// Returns the signatures of an offer and those that are there, sorted. If these are too many, anybody may have made up most of
/// them: those by keys that the cache knows stay, then those that came first.
fn merged_signatures(upload: &PathUpload, stored: &[String]) -> Vec<String> {
    let known: HashSet<&str> = upload.known_keys.iter().map(String::as_str).collect();
    let is_known = |signature: &&String| known.contains(signer(signature));
    let (offered, offered_others): (Vec<&String>, Vec<&String>) = upload.signatures.iter().partition(is_known);
    let (stored, stored_others): (Vec<&String>, Vec<&String>) = stored.iter().partition(is_known);
    let mut merged: BTreeSet<&String> = BTreeSet::new();
    for signature in [offered, stored, stored_others, offered_others].concat() {
        if merged.len() < MAX_SIGNATURES {
            merged.insert(signature);
        }
    }
    merged.into_iter().cloned().collect()
}

/// Returns the name of the key that made a signature.
fn signer(signature: &str) -> &str {
    signature.split_once(':').map_or(signature, |(name, _)| name)
}

fn sorted(references: &[StorePath]) -> Vec<StorePath> {
    let mut references = references.to_vec();
    references.sort_by_cached_key(StorePath::base_name);
    references.dedup();
    references
}

#[cfg(test)]
mod tests;
