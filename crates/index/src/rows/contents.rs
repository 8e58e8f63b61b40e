use firn_chunk::RecipeId;
use firn_nix::{Sha256, StoreHash, StorePath};
use serde::{Deserialize, Serialize};

use super::{TokenId, UnixSeconds};

/// A NAR of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NarRow {
    /// What rebuilds it, but for its store hashes.
    pub recipe: RecipeId,
    /// The store hashes that fill the recipe's patches.
    pub slots: Vec<StoreHash>,
    /// Its length in bytes.
    pub nar_size: u64,
    /// When it was uploaded.
    pub uploaded_at: UnixSeconds,
    /// Until when it is kept though no path names it.
    pub lease_until: UnixSeconds,
}

/// The name under which an uploader sent a NAR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AliasRow {
    /// The NAR that the file held.
    pub nar_hash: Sha256,
    /// The compression in which it was sent, as a narinfo names it.
    pub compression: String,
    /// Length of the file as sent.
    pub file_size: u64,
}

/// Who uploaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uploader {
    /// The token; `None` for the operator on the server itself.
    pub token: Option<TokenId>,
    /// The token's builder name at that time.
    pub builder: String,
}

/// A NAR that was offered for a path that already had another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    /// The hash that was offered.
    pub nar_hash: Sha256,
    /// Its length.
    pub nar_size: u64,
    /// Who offered it.
    pub uploader: Uploader,
    /// When.
    pub at: UnixSeconds,
}

/// A path of a cache: what its narinfo says and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRow {
    /// The path.
    pub path: StorePath,
    /// The hash of its NAR.
    pub nar_hash: Sha256,
    /// Length of its NAR in bytes.
    pub nar_size: u64,
    /// What it refers to, itself perhaps included: sorted, without duplicates.
    pub references: Vec<StorePath>,
    /// The derivation that made it.
    pub deriver: Option<StorePath>,
    /// Its content address, as the narinfo spells it.
    pub ca: Option<String>,
    /// `name:base64`, the uploaders' and the cache's own: sorted, without duplicates.
    pub signatures: Vec<String>,
    /// When it became visible.
    pub committed_at: UnixSeconds,
    /// Who uploaded it first.
    pub uploader: Uploader,
    /// Other NARs that were offered for it; at most 16, the first of each hash.
    pub conflicts: Vec<Conflict>,
}

/// What kinds of documents a cache holds beside its paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DocumentKind {
    /// A build log, by the store hash of the derivation.
    Log,
    /// A realisation of Nix up to 2.34, by `sha256:HEX!OUTPUT`.
    Realisation,
    /// A realisation of Nix 2.35 and later, by `DRVNAME/OUTPUT`.
    BuildTrace,
    /// Where the debug information of a build id lies, by 40 hex digits.
    DebugInfo,
    /// What differs between a path's NAR and another one that was offered for it: a [`DifferenceRow`](super::DifferenceRow).
    Difference,
}

/// Which document of a cache.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DocumentKey {
    /// Its kind.
    pub kind: DocumentKind,
    /// Its name within the kind; at most 512 bytes.
    pub name: String,
}

/// Where a document's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// In the row; for documents of up to 4 KiB.
    Inline(Vec<u8>),
    /// In chunks, like a NAR.
    Recipe {
        /// What rebuilds it.
        recipe: RecipeId,
        /// Store hashes for the recipe's patches.
        slots: Vec<StoreHash>,
        /// Length in bytes.
        length: u64,
    },
}

/// A document of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRow {
    /// Its bytes.
    pub content: Content,
    /// When it was written.
    pub written_at: UnixSeconds,
    /// Who wrote it.
    pub uploader: Uploader,
}
