//! What an administrator may ask, and the answers.
//!
//! One set of requests, executed by one function ([`execute`]): by a running server for those who come through the
//! socket in its data directory ([`socket`]), or by the command itself when none runs. Times are seconds since 1970;
//! the field names are stable: `--json` prints them.

mod backup;
mod collect;
mod execute;
mod failure;
mod files;
mod keys;
mod scrub;
pub mod socket;
mod sources;
#[cfg(test)]
mod tests;
mod tokens;
mod upstreams;
mod views;

use std::fmt;

use firn_api::usage::{GroupBy, UsageReport};
use firn_index::{ConflictPolicy, Grant, ReferencePolicy, TokenId, TokenOrigin, Transport, UnixSeconds};
use serde::{Deserialize, Serialize};

pub use backup::BackupView;
pub use collect::collect;
pub use execute::{Admin, execute};
pub(crate) use execute::{cache_url, fresh_cache};
pub use failure::Failure;
pub use files::FilesRequest;
pub use scrub::{ScrubPassView, ScrubView};
pub use sources::{ProblemView, SourceSettings, SourceView};
pub use upstreams::{Activity as UpstreamActivity, NewUpstream, UpstreamView};
pub use views::{CacheFatesView, ExplainView, FateView, GcView, PacksView, PinView, RepackView, StuckPackView};

use crate::file_cache::{Compression, Exported, Imported};
use crate::maintenance::Maintenance;
use crate::squeeze::{Pass, Progress};

/// Something to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Makes a cache.
    CacheCreate {
        /// Its name.
        name: String,
        /// What differs from the defaults.
        settings: Settings,
    },
    /// Lists all caches.
    CacheList,
    /// Shows a cache and counts what it holds.
    CacheShow {
        /// Its name.
        name: String,
    },
    /// Changes a cache.
    CacheSet {
        /// Its name.
        name: String,
        /// What changes.
        settings: Settings,
    },
    /// Deletes a cache with all its paths.
    CacheDelete {
        /// Its name.
        name: String,
    },
    /// Adds an upstream to a cache, or changes the one at that URL.
    UpstreamAdd {
        /// The cache.
        cache: String,
        /// The upstream.
        upstream: Box<NewUpstream>,
    },
    /// Lists the upstreams of a cache.
    UpstreamList {
        /// The cache.
        cache: String,
    },
    /// Removes an upstream.
    UpstreamRemove {
        /// The cache.
        cache: String,
        /// Its URL.
        url: String,
    },
    /// Makes a token.
    TokenCreate {
        /// What it may do.
        grants: Vec<Grant>,
        /// The builder's name; the token's id if there is none.
        builder: Option<String>,
        /// After how many seconds it stops to count.
        expires_in: Option<u64>,
    },
    /// Lists all tokens.
    TokenList,
    /// Revokes a token.
    TokenRevoke {
        /// Which.
        id: TokenId,
    },
    /// Sums everything up.
    Status,
    /// Says what things cost.
    Usage {
        /// By what to group.
        by: GroupBy,
        /// How many groups at most.
        top: usize,
        /// From when on things are recent.
        since: Option<UnixSeconds>,
        /// Whether to count anew.
        fresh: bool,
    },
    /// Collects garbage.
    Gc(GcRequest),
    /// Stops the repacking of a collection in a running server.
    GcStop,
    /// Says why a path is there.
    Explain {
        /// The cache.
        cache: String,
        /// The path, with or without its folder, or its store hash.
        path: String,
    },
    /// Deletes a path.
    PathDelete {
        /// The cache.
        cache: String,
        /// The path, with or without its folder, or its store hash.
        path: String,
        /// Whether to delete everything that refers to it as well.
        referrers: bool,
    },
    /// Pins a path, or moves a pin.
    PinAdd {
        /// The cache.
        cache: String,
        /// The pin's name.
        name: String,
        /// The path, with or without its folder.
        path: String,
        /// After how many seconds the pin stops to count.
        expires_in: Option<u64>,
    },
    /// Removes a pin.
    PinRemove {
        /// The cache.
        cache: String,
        /// The pin's name.
        name: String,
    },
    /// Lists the pins of a cache.
    PinList {
        /// The cache.
        cache: String,
    },
    /// Starts to read all stored bytes again, or goes on with it.
    ScrubStart {
        /// Bytes read per second at most; what the configuration says if it is `None`.
        bytes_per_second: Option<u64>,
    },
    /// Stops that.
    ScrubStop,
    /// Says what it found.
    ScrubStatus,
    /// Copies the index, and keeps everything from being deleted.
    BackupBegin,
    /// Goes on keeping.
    BackupRenew {
        /// The backup's.
        id: String,
    },
    /// Lets go.
    BackupEnd {
        /// The backup's.
        id: String,
    },
    /// Writes a cache as files.
    Export {
        /// What, and where to.
        files: Box<FilesRequest>,
        /// How files are compressed.
        compression: Compression,
    },
    /// Takes files into a cache.
    Import {
        /// What, and where from.
        files: Box<FilesRequest>,
    },
    /// Begins to compress cold packs again, in a running server.
    Squeeze {
        /// How.
        pass: Pass,
    },
    /// Stops that.
    SqueezeStop,
    /// Says how far it is.
    SqueezeProgress,
    /// Adds a source.
    SourceAdd {
        /// Its name.
        name: String,
        /// What it is, and what differs from the defaults.
        settings: Box<SourceSettings>,
    },
    /// Changes a source.
    SourceSet {
        /// Its name.
        name: String,
        /// What changes.
        settings: Box<SourceSettings>,
    },
    /// Lists all sources.
    SourceList,
    /// Shows a source.
    SourceShow {
        /// Its name.
        name: String,
    },
    /// Pauses a source, or has it go on.
    SourcePause {
        /// Its name.
        name: String,
        /// Whether it is paused from now on.
        paused: bool,
    },
    /// Begins to sync a source, in a running server.
    SourceSync {
        /// Its name.
        name: String,
        /// Whether everything is listed again.
        full: bool,
    },
    /// Forgets a source.
    SourceRemove {
        /// Its name.
        name: String,
    },
}

/// How garbage is to be collected; what is `None` is as the configuration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GcRequest {
    /// Whether to change nothing, and only say what would be done.
    pub dry_run: bool,
    /// How long doomed packs stay, in seconds.
    pub grace_seconds: Option<u64>,
    /// Bytes that repacking reads and writes, at most; 0 for no repacking.
    pub repack_bytes: Option<u64>,
    /// Bytes that it reads and writes in a second, at most.
    pub bytes_per_second: Option<u64>,
}

impl Request {
    /// Returns whether the whole store is needed, packs included, and not only the index.
    pub fn needs_engine(&self) -> bool {
        matches!(
            self,
            Self::Gc(_) | Self::Explain { .. } | Self::PathDelete { .. } | Self::Export { .. } | Self::Import { .. }
        )
    }

    /// Returns whether it may take long, and so lets others be executed beside it. It changes no row that they do.
    pub fn is_long(&self) -> bool {
        self.needs_engine() || matches!(self, Self::Usage { .. })
    }
}

/// Settings of a cache to make or to change; what is `None` or empty is left as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Whether anyone may pull.
    pub public: Option<bool>,
    /// What clients see as `Priority`.
    pub priority: Option<u32>,
    /// The store directory; only for a new cache.
    pub store_dir: Option<String>,
    /// The form that its narinfos offer.
    pub transport: Option<Transport>,
    /// What a second, different NAR for a path does.
    pub on_conflict: Option<ConflictPolicy>,
    /// What it demands of references.
    pub references: Option<ReferencePolicy>,
    /// Public keys by one of which uploads must be signed; replaces the earlier list, an empty one demands none.
    pub trusted_keys: Option<Vec<String>>,
    /// Public keys of upstreams: what they signed need not be in the cache; replaces the earlier list.
    pub upstream_keys: Option<Vec<String>>,
    /// Secret keys to sign with as well. A new cache without any gets a new one.
    pub add_keys: Vec<SecretText>,
    /// Makes a new key as well.
    pub new_key: bool,
    /// Names of keys to sign with no longer.
    pub remove_keys: Vec<String>,
    /// Whether it stands at the root of the server's URL.
    pub at_root: Option<bool>,
    /// The host name on which it stands at the root; an empty one takes it away.
    pub host: Option<String>,
    /// Keeps what was used within so many seconds; 0 takes the rule away.
    pub keep_seconds: Option<u64>,
    /// Keeps the newest so many paths of each name, versions aside; 0 takes the rule away.
    pub keep_last: Option<u32>,
    /// Keeps so many stored bytes at most; 0 takes the quota away.
    pub quota_bytes: Option<u64>,
}

/// A text that is never shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(…)")
    }
}

/// What was done or found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", content = "value", rename_all = "kebab-case")]
pub enum Answer {
    /// A cache, made, changed or shown.
    Cache(Box<CacheView>),
    /// All caches, by name.
    Caches(Vec<CacheView>),
    /// A cache that is no more, as it was.
    Deleted(Box<CacheView>),
    /// An upstream, added or changed.
    Upstream(Box<UpstreamView>),
    /// All upstreams of a cache, in the order in which they are asked.
    Upstreams(Vec<UpstreamView>),
    /// An upstream that is no more, as it was.
    UpstreamRemoved(Box<UpstreamView>),
    /// A token, just made.
    NewToken(NewToken),
    /// All tokens, by age.
    Tokens(Vec<TokenView>),
    /// A token that counts no more.
    Revoked(TokenView),
    /// Sums.
    Status(Status),
    /// What a collection did.
    Collected(Box<GcView>),
    /// Whether there was a collection to stop.
    CollectionStopped {
        /// Whether there was.
        was_running: bool,
    },
    /// Why a path is there.
    Explained(Box<ExplainView>),
    /// Paths that are gone.
    PathsDeleted(Vec<String>),
    /// A pin, made.
    Pin(PinView),
    /// A pin that is no more, as it was.
    PinRemoved(PinView),
    /// All pins of a cache, by name.
    Pins(Vec<PinView>),
    /// What reading the packs again has found.
    Scrub(Box<ScrubView>),
    /// A backup that may copy, or is done.
    Backup(BackupView),
    /// What was written as files.
    Exported(Exported),
    /// What was taken from files.
    Imported(Imported),
    /// How far squeezing is.
    Squeeze(Progress),
    /// What things cost.
    Usage(Box<UsageReport>),
    /// A source, made, changed, asked for or shown.
    Source(Box<SourceView>),
    /// All sources, by name.
    Sources(Vec<SourceView>),
    /// A source that is no more, as it was.
    SourceRemoved(Box<SourceView>),
}

/// A cache, without its secret keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheView {
    /// Its name.
    pub name: String,
    /// Whether anyone may pull.
    pub public: bool,
    /// What clients see as `Priority`.
    pub priority: u32,
    /// The store directory of its paths.
    pub store_dir: String,
    /// The form that its narinfos offer.
    pub transport: Transport,
    /// What a second, different NAR for a path does.
    pub on_conflict: ConflictPolicy,
    /// What it demands of references.
    pub references: ReferencePolicy,
    /// Public keys by one of which uploads must be signed.
    pub trusted_keys: Vec<String>,
    /// Public keys of upstreams: what they signed need not be in the cache.
    pub upstream_keys: Vec<String>,
    /// The public halves of its signing keys.
    pub public_keys: Vec<String>,
    /// Whether it stands at the root of the server's URL.
    pub at_root: bool,
    /// The host name on which it stands at the root.
    pub host: Option<String>,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// Keeps what was used within so many seconds.
    pub keep_seconds: Option<u64>,
    /// Keeps the newest so many paths of each name, versions aside.
    pub keep_last: Option<u32>,
    /// Keeps about so many stored bytes at most.
    pub quota_bytes: Option<u64>,
    /// Where clients find it.
    pub url: String,
    /// Lines for a client's nix.conf.
    pub nix_conf: Vec<String>,
    /// How many paths it has, and their NAR bytes; counted by [`Request::CacheShow`] only.
    pub contents: Option<Contents>,
}

/// What a cache holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Its paths.
    pub paths: u64,
    /// Their NAR bytes.
    pub logical_bytes: u64,
}

/// A token and its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewToken {
    /// The whole token: shown this once.
    pub token: SecretText,
    /// What is kept of it.
    #[serde(flatten)]
    pub view: TokenView,
}

/// A token without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// Its public name, 16 hex digits.
    pub id: String,
    /// Who uses it.
    pub builder: String,
    /// What it may do, as `CACHE:VERB[,VERB]…`.
    pub grants: Vec<String>,
    /// When it was made.
    pub created_at: UnixSeconds,
    /// When it stops to count.
    pub expires_at: Option<UnixSeconds>,
    /// When it was revoked.
    pub revoked_at: Option<UnixSeconds>,
    /// Whether it counts now.
    pub state: TokenState,
    /// For which identity it was made, if for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<TokenOrigin>,
}

/// Whether a token counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenState {
    /// It does.
    Active,
    /// It did until its time was over.
    Expired,
    /// It did until it was revoked.
    Revoked,
}

/// Sums over a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the program that answers.
    pub version: String,
    /// Whether a server runs.
    pub running: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// The data directory.
    pub data: String,
    /// Caches.
    pub caches: u64,
    /// Tokens that count.
    pub active_tokens: u64,
    /// Paths of all caches.
    pub paths: u64,
    /// NAR bytes of all paths.
    pub logical_bytes: u64,
    /// Uncompressed bytes of all chunks stored.
    pub unique_bytes: u64,
    /// Bytes in packs, with headers, records and footers.
    pub stored_bytes: u64,
    /// Packs, the one that grows included.
    pub packs: u64,
    /// Bytes that the indexes take on the disk.
    pub index_bytes: u64,
    /// Free bytes of the file system, if it tells.
    pub free_bytes: Option<u64>,
    /// Packs that nobody needs and that are still offered to nobody: they wait for uploads to end.
    pub condemned: PacksView,
    /// Packs that are about to be deleted: they wait for their grace to end.
    pub doomed: PacksView,
    /// When the last collection of garbage ended that came to its end, whoever made it.
    #[serde(default)]
    pub last_collected_at: Option<UnixSeconds>,
    /// How the work in the background is doing, if a server runs.
    pub maintenance: Option<Box<Maintenance>>,
}
