use std::fmt;

use serde::{Deserialize, Serialize};

use super::UnixSeconds;

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

/// A cache: its settings and keys. Its `Debug` form leaves out the secret keys.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Public keys (`name:base64`) of upstreams: a path that one of them signed counts as there when another refers to it.
    pub upstream_keys: Vec<String>,
    /// Secret keys that sign its narinfos, as Nix writes them (`name:base64`).
    pub signing_keys: Vec<String>,
    /// Whether it also stands at the root of the server's URL.
    pub at_root: bool,
    /// A host name on which it stands at the root.
    pub host: Option<String>,
    /// When it was made.
    pub created_at: UnixSeconds,
}

impl CacheRow {
    /// The key of cache.nixos.org, which nearly every client has as a substituter beside any cache of its own.
    pub const NIXOS_KEY: &'static str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    /// Returns a private cache of `/nix/store` with every setting as it is when nobody says otherwise, and no keys.
    pub fn new(created_at: UnixSeconds) -> Self {
        Self {
            public: false,
            // Before cache.nixos.org, which says 40: a cache of one's own is nearer.
            priority: 30,
            store_dir: "/nix/store".to_owned(),
            transport: Transport::default(),
            on_conflict: ConflictPolicy::default(),
            references: ReferencePolicy::default(),
            trusted_keys: Vec::new(),
            upstream_keys: vec![Self::NIXOS_KEY.to_owned()],
            signing_keys: Vec::new(),
            at_root: false,
            host: None,
            created_at,
        }
    }
}

impl fmt::Debug for CacheRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CacheRow")
            .field("public", &self.public)
            .field("priority", &self.priority)
            .field("store_dir", &self.store_dir)
            .field("transport", &self.transport)
            .field("on_conflict", &self.on_conflict)
            .field("references", &self.references)
            .field("trusted_keys", &self.trusted_keys)
            .field("upstream_keys", &self.upstream_keys)
            .field("signing_keys", &self.signing_keys.len())
            .field("at_root", &self.at_root)
            .field("host", &self.host)
            .field("created_at", &self.created_at)
            .finish()
    }
}

/// What a token may do to a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Read from it.
    Pull,
    /// Upload to it.
    Push,
    /// See what it costs, and who pushed to it.
    Usage,
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
