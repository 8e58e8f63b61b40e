//! The rows of [`crate::Meta`] and their encoding.
//!
//! A row is one version byte, then the row in postcard's encoding. The same bytes are written to packs as
//! records, so that a store can be rebuilt from its packs; `docs/FORMAT.md` lists the fields.

use std::fmt;
use std::str::FromStr;

use crate::Error;
use firn_chunk::RecipeId;
use firn_nix::{Sha256, StoreHash, StorePath};
use firn_pack::{FrameLoc, PackId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Seconds since 1970-01-01 UTC.
pub type UnixSeconds = u64;

/// The order in which packs were sealed, from 1.
pub type PackSeq = u64;

/// A row that does not decode.
#[derive(Debug, thiserror::Error)]
#[error("decode a {row}: {detail}")]
pub struct RowError {
    /// The row's type.
    pub row: &'static str,
    /// What is wrong.
    pub detail: String,
}

/// A row with a version and an encoding.
pub trait Row: Serialize + DeserializeOwned {
    /// What the row is called in errors.
    const NAME: &'static str;
    /// The version that [`Row::encode`] writes and the only one that [`Row::decode`] reads so far.
    const VERSION: u8 = 1;

    /// Returns the row's bytes.
    fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![Self::VERSION])
            .expect("rows hold only types that postcard can write")
    }

    /// Reads a row; bytes after its end are an error.
    fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        let fail = |detail: String| RowError {
            row: Self::NAME,
            detail,
        };
        let (version, rest) = bytes
            .split_first()
            .ok_or_else(|| fail("it is empty".into()))?;
        if *version != Self::VERSION {
            return Err(fail(format!(
                "its version is {version}, and this firn knows {}",
                Self::VERSION
            )));
        }
        let (row, rest) =
            postcard::take_from_bytes(rest).map_err(|error| fail(error.to_string()))?;
        if rest.is_empty() {
            Ok(row)
        } else {
            Err(fail(format!("{} bytes follow its end", rest.len())))
        }
    }
}

macro_rules! rows {
    ($($type:ty: $name:literal),* $(,)?) => { $(impl Row for $type { const NAME: &'static str = $name; })* };
}

rows! {
    StoreInfo: "store's identity", Totals: "store's totals", PackRow: "pack row", RecipeRow: "recipe row",
    NarRow: "NAR row", AliasRow: "alias row", PathRow: "path row", DocumentRow: "document row",
    CacheRow: "cache row", TokenRow: "token row",
}

/// A cache's name: 1 to 64 of `a-z 0-9 - _ .`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheName(String);

impl CacheName {
    /// Names that routes and programs use themselves.
    pub const RESERVED: [&'static str; 8] = [
        "api",
        "healthz",
        "readyz",
        "metrics",
        "nix-cache-info",
        "nar",
        "log",
        "static",
    ];

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CacheName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=64).contains(&name.len())
            && plain(name.as_bytes()[0])
            && name
                .bytes()
                .all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
            && !name.ends_with(".narinfo");
        if !good {
            return Err(format!(
                "'{name}' can't be a cache's name: use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
            ));
        }
        if Self::RESERVED.contains(&name) {
            return Err(format!(
                "'{name}' can't be a cache's name: firn uses it in its own URLs"
            ));
        }
        Ok(Self(name.to_owned()))
    }
}

impl TryFrom<String> for CacheName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<CacheName> for String {
    fn from(name: CacheName) -> Self {
        name.0
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An upload in progress; random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId(pub u128);

/// A token's public name; random, 64 bits, shown as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        u64::from_str_radix(text, 16)
            .ok()
            .filter(|_| hex)
            .map(Self)
            .ok_or_else(|| {
                format!(
                    "'{text}' is no token id: give the 16 hex digits that `firnd token list` shows"
                )
            })
    }
}

/// What is fixed for the life of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// The format of the index and the packs.
    pub format_version: u32,
    /// The chunker, as `firn_chunk::ChunkerId` prints it.
    pub chunker: String,
    /// When the store was made.
    pub created_at: UnixSeconds,
    /// A random name of the store.
    pub store_id: u128,
}

/// Sums over a store. As an [`crate::Op::Count`] it is added, field by field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Paths of all caches.
    pub paths: u64,
    /// NAR bytes of all paths.
    pub logical_bytes: u64,
    /// Uncompressed bytes of all chunks stored.
    pub unique_bytes: u64,
    /// Bytes in packs, with headers, records and footers.
    pub stored_bytes: u64,
}

impl Totals {
    /// Adds field by field, stopping at the largest number.
    pub fn add(&mut self, other: &Self) {
        self.paths = self.paths.saturating_add(other.paths);
        self.logical_bytes = self.logical_bytes.saturating_add(other.logical_bytes);
        self.unique_bytes = self.unique_bytes.saturating_add(other.unique_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(other.stored_bytes);
    }

    /// Subtracts field by field, stopping at zero.
    pub fn subtract(&mut self, other: &Self) {
        self.paths = self.paths.saturating_sub(other.paths);
        self.logical_bytes = self.logical_bytes.saturating_sub(other.logical_bytes);
        self.unique_bytes = self.unique_bytes.saturating_sub(other.unique_bytes);
        self.stored_bytes = self.stored_bytes.saturating_sub(other.stored_bytes);
    }
}

/// Where a pack is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackState {
    /// Grows; what is durable of it may be used.
    Writing,
    /// Sealed and needed.
    Live,
    /// No longer offered; a commit that needs it revives it.
    Condemned,
    /// Never again used; deleted after a grace.
    Doomed,
}

impl PackState {
    /// Returns whether [`crate::Meta::set_pack_state`] may take a pack from this state to `to`.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Live, Self::Condemned)
                | (Self::Condemned, Self::Live | Self::Doomed)
                | (Self::Writing, Self::Doomed)
        )
    }
}

/// A pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRow {
    /// Where it is in its life.
    pub state: PackState,
    /// When it was reserved.
    pub reserved_at: UnixSeconds,
    /// 0 until it is sealed.
    pub seq: PackSeq,
    /// How many of its bytes were made durable and acknowledged while it was being written.
    pub durable_bytes: u64,
    /// Its length; 0 until it is sealed.
    pub stored_bytes: u64,
    /// Uncompressed bytes of its chunks; 0 until it is sealed.
    pub unique_bytes: u64,
}

impl PackRow {
    /// Returns the row of a pack that was reserved at `at`.
    #[must_use]
    pub fn reserved(at: UnixSeconds) -> Self {
        Self {
            state: PackState::Writing,
            reserved_at: at,
            seq: 0,
            durable_bytes: 0,
            stored_bytes: 0,
            unique_bytes: 0,
        }
    }

    /// Makes a writing pack live with the number `seq`; of one that was sealed before, changes nothing and returns
    /// the number that it has.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a pack that left the writing state without having been sealed.
    pub fn seal(
        &mut self,
        id: PackId,
        seq: PackSeq,
        stored_bytes: u64,
        unique_bytes: u64,
    ) -> Result<Option<PackSeq>, Error> {
        if self.seq != 0 {
            return Ok(Some(self.seq));
        }
        if self.state != PackState::Writing {
            let detail = format!("it is {:?} and is to be sealed", self.state).to_lowercase();
            return Err(Error::Corrupt {
                what: format!("the row of pack {id}"),
                detail,
            });
        }
        *self = Self {
            state: PackState::Live,
            seq,
            stored_bytes,
            unique_bytes,
            ..*self
        };
        Ok(None)
    }

    /// Checks that the pack never came to be.
    ///
    /// # Errors
    /// [`Error::PackInUse`] for a pack that is not writing any more or to which a recipe has an edge.
    pub fn may_be_forgotten(&self, id: PackId, has_edge: bool) -> Result<(), Error> {
        match (self.state, has_edge) {
            (PackState::Writing, false) => Ok(()),
            (PackState::Writing, true) => Err(Error::PackInUse {
                pack: id,
                detail: "needed by a recipe",
            }),
            (PackState::Live | PackState::Condemned | PackState::Doomed, _) => {
                Err(Error::PackInUse {
                    pack: id,
                    detail: "not being written any more",
                })
            }
        }
    }
}

/// A recipe: where its record lies and what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeRow {
    /// The record frame that holds the recipe.
    pub record: FrameLoc,
    /// Bytes of the NAR (or document) that it rebuilds.
    pub length: u64,
    /// How many chunks it names.
    pub chunks: u64,
    /// The packs that it needs, the one with its record included: sorted, without duplicates.
    pub edges: Vec<PackId>,
    /// When a chunk of it was found damaged; cleared by a commit that writes the recipe again.
    pub damaged_at: Option<UnixSeconds>,
}

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

/// What a cache does with a second, different NAR for a path that it has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConflictPolicy {
    /// Keeps the first, records the second, and says that all is well: an error would fail a whole closure.
    #[default]
    KeepFirst,
    /// Keeps the first, records the second, and refuses it.
    Reject,
}

/// The form in which a cache's narinfos offer NARs; both forms are always served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// `nar/<narhash>.nar.zst`.
    #[default]
    Zstd,
    /// `nar/<narhash>.nar`.
    None,
}

/// What a cache demands of a narinfo's references.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReferencePolicy {
    /// Each is in the cache, and occurs in the NAR.
    #[default]
    Strict,
    /// Each is in the cache.
    Present,
    /// Any well-formed ones.
    Any,
}

/// A cache: its settings and keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRow {
    /// Whether anyone may pull without a token.
    pub public: bool,
    /// What clients see as `Priority`: the lower, the earlier it is asked.
    pub priority: u32,
    /// The store directory of its paths.
    pub store_dir: String,
    /// The form that its narinfos offer.
    pub transport: Transport,
    /// What a second, different NAR for a path does.
    pub on_conflict: ConflictPolicy,
    /// What it demands of references.
    pub references: ReferencePolicy,
    /// Names of keys one of which an uploader must have signed with; `name:base64` public keys. Empty: none demanded.
    pub trusted_keys: Vec<String>,
    /// Secret keys that sign its narinfos, as Nix writes them (`name:base64`).
    pub signing_keys: Vec<String>,
    /// Whether it also stands at the root of the server's URL.
    pub at_root: bool,
    /// A host name on which it stands at the root.
    pub host: Option<String>,
    /// When it was made.
    pub created_at: UnixSeconds,
}

/// What a token may do to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Read from it.
    Pull,
    /// Upload to it.
    Push,
}

/// A permission: all that match count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A cache's name; `*` stands for any characters.
    pub cache: String,
    /// What it permits.
    pub verbs: Vec<Verb>,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// BLAKE3 of the secret.
    pub secret_hash: [u8; 32],
    /// Who uses it.
    pub builder: String,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// When it stops to count.
    pub expires_at: Option<UnixSeconds>,
    /// When it was revoked.
    pub revoked_at: Option<UnixSeconds>,
}

/// A session; never written to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionRow {
    /// When it began.
    pub started_at: UnixSeconds,
    /// When its lease ends.
    pub expires_at: UnixSeconds,
}
