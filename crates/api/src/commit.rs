//! The body of a commit: one line of JSON, and behind it the recipes that the server does not know, back to back.

use std::collections::BTreeSet;

use firn_chunk::RecipeId;
use firn_nix::{Compression, ContentAddress, NarInfo, PublicKey, Sha256, Signature, StoreHash, StorePath};
use serde::{Deserialize, Serialize};

use crate::{Error, Limits, Result};

const WHAT: &str = "a commit";
/// What is in a body besides items, proofs and recipes: `{"paths":[],"upstream":[]}` and the newline.
const FRAME_BYTES: usize = 27;

/// A path to make visible, with what makes its NAR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathItem {
    /// The path's base name.
    pub path: StorePath,
    /// The NAR's SHA-256.
    pub nar_hash: Sha256,
    /// The NAR's length in bytes.
    pub nar_size: u64,
    /// The paths that it refers to; itself too, if it does.
    #[serde(default)]
    pub references: Vec<StorePath>,
    /// The derivation that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deriver: Option<StorePath>,
    /// From what the path was computed, if from its contents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<ContentAddress>,
    /// Signatures that the client's store has.
    #[serde(default)]
    pub signatures: Vec<Signature>,
    /// The recipe that makes the NAR.
    pub recipe: RecipeId,
    /// The length of the recipe's encoding behind the JSON; absent, the server should have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipe_bytes: Option<u64>,
    /// The store hashes that fill the recipe's patches.
    #[serde(default)]
    pub slots: Vec<StoreHash>,
}

/// That an upstream has a path: what its signature signs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The path's base name.
    pub path: StorePath,
    /// The NAR's SHA-256.
    pub nar_hash: Sha256,
    /// The NAR's length in bytes.
    pub nar_size: u64,
    /// The paths that it refers to.
    #[serde(default)]
    pub references: Vec<StorePath>,
    /// The upstream's signature.
    pub signature: Signature,
}

impl Proof {
    /// Says if the signature is genuine and by `key`; costs a signature's verification, about 50 µs, if the key's name is right.
    #[must_use]
    pub fn is_by(&self, key: &PublicKey, store_dir: &str) -> bool {
        self.signature.key_name() == key.name() && key.verify(self.fingerprint(store_dir).as_bytes(), &self.signature)
    }

    fn fingerprint(&self, store_dir: &str) -> String {
        let Self { path, nar_hash, nar_size, references, signature: _ } = self;
        NarInfo {
            store_path: path.clone(),
            url: String::new(),
            compression: Compression::None,
            file_hash: None,
            file_size: None,
            nar_hash: *nar_hash,
            nar_size: *nar_size,
            references: references.iter().cloned().collect(),
            deriver: None,
            signatures: BTreeSet::new(),
            ca: None,
        }
        .fingerprint(store_dir)
    }
}

/// The JSON at a commit's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CommitHead {
    /// References before their referrers.
    pub paths: Vec<PathItem>,
    /// What need not be in the cache.
    pub upstream: Vec<Proof>,
}

/// A path of a commit as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uploaded<'a> {
    /// The path.
    pub item: PathItem,
    /// Its recipe's encoding, if it came along; nothing about it was checked but its length.
    pub recipe: Option<&'a [u8]>,
}

/// A commit as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit<'a> {
    /// The paths in their order.
    pub paths: Vec<Uploaded<'a>>,
    /// The proofs; none was verified.
    pub upstream: Vec<Proof>,
}

impl<'a> Commit<'a> {
    /// Reads a commit's body, after its `Content-Encoding` was undone.
    ///
    /// Takes memory in proportion to the body. An error if it is cut, has bytes behind its end, or exceeds the limits.
    pub fn decode(body: &'a [u8], limits: &Limits) -> Result<Self> {
        bound("bytes of a body", body.len(), limits.body_bytes)?;
        let line = body.iter().position(|&byte| byte == b'\n');
        let (head, mut rest) = line.and_then(|at| body.split_at_checked(at)).unwrap_or((body, &[]));
        rest = rest.split_first().ok_or_else(|| Error::malformed(WHAT, "no newline behind its JSON"))?.1;
        // Serde takes an array for a struct: the fields' order is not part of the protocol.
        if !head.starts_with(b"{") {
            return Err(Error::malformed(WHAT, "it does not begin with a JSON object"));
        }
        let head: CommitHead =
            serde_json::from_slice(head).map_err(|error| Error::malformed(WHAT, error.to_string()))?;
        bound("paths in a commit", head.paths.len(), limits.commit_paths)?;
        bound("proofs in a commit", head.upstream.len(), limits.proofs)?;
        let mut paths = Vec::with_capacity(head.paths.len());
        for item in head.paths {
            let mut recipe = None;
            if let Some(len) = item.recipe_bytes {
                let len = usize::try_from(len).unwrap_or(usize::MAX);
                bound("bytes of a recipe", len, limits.recipe_bytes)?;
                let cut = || Error::malformed(WHAT, format!("the recipe of {} is cut", item.path));
                let (bytes, after) = rest.split_at_checked(len).ok_or_else(cut)?;
                (recipe, rest) = (Some(bytes), after);
            }
            paths.push(Uploaded { item, recipe });
        }
        if !rest.is_empty() {
            return Err(Error::malformed(WHAT, format!("{} bytes follow its last recipe", rest.len())));
        }
        Ok(Self { paths, upstream: head.upstream })
    }
}

fn bound(what: &'static str, found: usize, limit: usize) -> Result<()> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::TooMany { what, found: found as u64, limit: limit as u64 })
}

/// Why something does not go into a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// It goes into the next one.
    #[error("add to a commit: it is full")]
    Later,
    /// It goes into none: its recipe has to be uploaded in parts before, or it has no end of references.
    #[error("add to a commit: it is too large for any")]
    Never,
}

/// Writes a commit's body.
#[derive(Debug)]
pub struct CommitWriter {
    limits: Limits,
    paths: Vec<String>,
    upstream: Vec<String>,
    recipes: Vec<u8>,
    json_bytes: usize,
}

impl CommitWriter {
    /// Begins a commit that keeps the limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, paths: Vec::new(), upstream: Vec::new(), recipes: Vec::new(), json_bytes: 0 }
    }

    /// Adds a path; `item.recipe_bytes` is set from `recipe`. Nothing changed if it is full.
    pub fn push(&mut self, item: &PathItem, recipe: Option<&[u8]>) -> std::result::Result<(), Full> {
        let item = PathItem { recipe_bytes: recipe.map(|recipe| recipe.len() as u64), ..item.clone() };
        let recipe = recipe.unwrap_or_default();
        if recipe.len() > self.limits.recipe_bytes {
            return Err(Full::Never);
        }
        let json = serde_json::to_string(&item).expect("texts and numbers are JSON");
        self.room(json.len() + recipe.len(), self.paths.len(), self.limits.commit_paths)?;
        self.json_bytes += json.len() + 1;
        self.recipes.extend_from_slice(recipe);
        self.paths.push(json);
        Ok(())
    }

    /// Adds a proof. Nothing changed if it is full.
    pub fn push_proof(&mut self, proof: &Proof) -> std::result::Result<(), Full> {
        let json = serde_json::to_string(proof).expect("texts and numbers are JSON");
        self.room(json.len(), self.upstream.len(), self.limits.proofs)?;
        self.json_bytes += json.len() + 1;
        self.upstream.push(json);
        Ok(())
    }

    /// Refuses what the limits don't leave room for.
    fn room(&self, bytes: usize, count: usize, limit: usize) -> std::result::Result<(), Full> {
        if FRAME_BYTES + bytes + 1 > self.limits.body_bytes {
            return Err(Full::Never);
        }
        if count >= limit || self.body_bytes() + bytes + 1 > self.limits.body_bytes {
            return Err(Full::Later);
        }
        Ok(())
    }

    /// Returns the number of paths so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Says if it has no paths yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// Returns the body's length so far, in bytes, or a little more.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        FRAME_BYTES + self.json_bytes + self.recipes.len()
    }

    /// Returns the body.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let mut body = Vec::with_capacity(self.body_bytes());
        body.extend_from_slice(b"{\"paths\":[");
        body.extend_from_slice(self.paths.join(",").as_bytes());
        body.extend_from_slice(b"],\"upstream\":[");
        body.extend_from_slice(self.upstream.join(",").as_bytes());
        body.extend_from_slice(b"]}\n");
        body.extend_from_slice(&self.recipes);
        body
    }
}

#[cfg(test)]
#[path = "commit/tests.rs"]
mod tests;
