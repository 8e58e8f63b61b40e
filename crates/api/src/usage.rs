//! Usage reports: what the bytes of a store are for. `crates/server/openapi.yaml` describes the requests; names here are stable.

use serde::{Deserialize, Serialize};

/// By what a report is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GroupBy {
    /// By cache.
    Cache,
    /// By who pushed.
    Builder,
    /// By package: the name without its version.
    Package,
    /// By pin, with the closures of what they pin.
    Pin,
    /// By the day of the commit, UTC.
    Day,
}

impl GroupBy {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Cache, Self::Builder, Self::Package, Self::Pin, Self::Day];

    /// Returns the name, as in a request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "cache",
            Self::Builder => "builder",
            Self::Package => "package",
            Self::Pin => "pin",
            Self::Day => "day",
        }
    }

    /// Returns what a name stands for.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.as_str() == name)
    }
}

/// Sums over a whole store. What whole NARs would take shrinks from field to field, down to what is on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoreUsage {
    /// Paths of all caches.
    pub paths: u64,
    /// NAR bytes of all paths.
    pub logical_bytes: u64,
    /// What whole NARs would take that are kept once each.
    pub distinct_nar_bytes: u64,
    /// What NARs would take that differ in more than store hashes.
    pub distinct_recipe_bytes: u64,
    /// Uncompressed bytes of all chunks that something needs.
    pub unique_bytes: u64,
    /// What these take in packs.
    pub chunk_bytes: u64,
    /// What delta frames save of that, estimated.
    pub delta_saved_bytes: u64,
    /// Bytes in packs of chunks that nothing needs any more.
    pub dead_bytes: u64,
    /// Bytes in packs of recipes.
    pub recipe_bytes: u64,
    /// Bytes in packs of records.
    pub record_bytes: u64,
    /// Bytes in packs of headers, footers and holes.
    pub overhead_bytes: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Bytes of the indexes on the disk.
    pub index_bytes: u64,
}

impl StoreUsage {
    /// Returns what the store takes on the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.stored_bytes.saturating_add(self.index_bytes)
    }
}

/// Sums over a group of paths.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageGroup {
    /// The group's name; empty for what belongs to none.
    pub name: String,
    /// Paths.
    pub paths: u64,
    /// NAR bytes.
    pub logical_bytes: u64,
    /// Uncompressed bytes of the chunks that they are made of.
    pub unique_bytes: u64,
    /// Bytes in packs of all that they need.
    pub stored_bytes: u64,
    /// Of these, what no other group needs: comes back when the group goes.
    pub exclusive_bytes: u64,
    /// The rest.
    pub shared_bytes: u64,
    /// Stored bytes with what several groups need divided evenly among them.
    pub amortised_bytes: u64,
    /// What delta frames save, estimated.
    pub delta_saved_bytes: u64,
    /// Of the stored bytes, what came in the report's recent days.
    pub recent_bytes: u64,
    /// Logical bytes for each unique one.
    pub dedup_factor: f64,
    /// Unique bytes for each that they take in packs.
    pub compression_factor: f64,
    /// When the newest path was committed, in seconds since 1970.
    pub last_at: u64,
    /// By builder: how many of the paths became visible in each of the 48 hours (UTC) that end with that of the count, the
    /// oldest first; empty if none did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<u64>,
    /// What was counted while it happened; only by cache, builder and day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<Traffic>,
}

/// What happened, counted while it did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Traffic {
    /// Requests that pushed something.
    pub pushes: u64,
    /// Paths that became visible.
    pub pushed_paths: u64,
    /// NAR bytes of these.
    pub pushed_logical_bytes: u64,
    /// Bytes of bodies that were received.
    pub received_bytes: u64,
    /// NAR bytes that did not have to be sent: pushed less received.
    pub saved_bytes: u64,
    /// Bytes of bodies that were sent.
    pub served_bytes: u64,
    /// Narinfos and NARs that were asked for and there.
    pub hits: u64,
    /// Those that were not.
    pub misses: u64,
    /// Requests that were refused or failed.
    pub errors: u64,
    /// Paths offered with another NAR than the one that is there.
    pub conflicts: u64,
    /// When the last of these happened, in seconds since 1970.
    pub last_seen_at: u64,
}

/// A report: the store, and its groups by one thing, the one with the most exclusive bytes first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UsageReport {
    /// When the count began, in seconds since 1970.
    pub at: u64,
    /// How long it took, in milliseconds.
    #[serde(default)]
    pub took_ms: u64,
    /// How many days are recent.
    #[serde(default)]
    pub recent_days: u64,
    /// The whole store; absent for those who may not see all of its caches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<StoreUsage>,
    /// By what it is grouped.
    pub by: GroupBy,
    /// How many groups there are; the report has at most so many as were asked for.
    pub groups_total: u64,
    /// The groups.
    pub groups: Vec<UsageGroup>,
    /// Chunks that are needed and were not found: damage, or deleted while the count was made.
    #[serde(default)]
    pub missing_chunks: u64,
    /// The newest paths that were offered with another NAR than the one that is there, at most 100; only for those who may
    /// see all caches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<ConflictNote>,
}

/// A path that was offered with another NAR than the one that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictNote {
    /// When that happened last, in seconds since 1970.
    pub at: u64,
    /// Its base name.
    pub path: String,
    /// Its cache.
    pub cache: String,
    /// Who pushed it first.
    pub builder: String,
    /// Who offered the other one.
    pub other_builder: String,
    /// How many files, directories and symlinks differ between the two; absent if that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    /// The first of these; at most 5.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// Whether the comparison ended before it was through: more may differ.
    #[serde(default)]
    pub is_partial: bool,
}

/// A day of a store's life.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageDay {
    /// The store at the day's last count.
    pub store: StoreUsage,
    /// What happened on that day.
    pub traffic: Traffic,
}

/// Days of a store's life, by date (`2026-11-28`, UTC).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageHistory {
    /// The days that something is known of.
    pub days: std::collections::BTreeMap<String, UsageDay>,
}

/// What some paths take together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DiskUse {
    /// When the count began, in seconds since 1970.
    pub at: u64,
    /// How many paths.
    pub paths: u64,
    /// Their NAR bytes.
    pub logical_bytes: u64,
    /// Uncompressed bytes of their chunks.
    pub unique_bytes: u64,
    /// Bytes in packs of all that they need.
    pub stored_bytes: u64,
    /// What would come back if they went and nothing else did.
    pub exclusive_bytes: u64,
    /// Other paths that need the same chunks, those that share most first.
    pub shares_with: Vec<Sharing>,
}

/// A path that shares chunks with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// Its base name.
    pub path: String,
    /// Its cache.
    pub cache: String,
    /// Stored bytes of the chunks that both need.
    pub stored_bytes: u64,
}

/// What changed from one path to another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// NAR bytes of the first.
    pub from_bytes: u64,
    /// NAR bytes of the second.
    pub to_bytes: u64,
    /// Uncompressed bytes of the second's chunks that the first does not have.
    pub new_bytes: u64,
    /// Files that are not the same, those with the most new bytes first; at most 10,000.
    pub files: Vec<FileDifference>,
    /// Whether the comparison ended before it was through, since there was too much to read: more may differ.
    pub is_partial: bool,
}

/// How a file changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDifference {
    /// Its path inside the store path; bytes that are no UTF-8 are replaced.
    pub path: String,
    /// What happened to it.
    pub change: FileChange,
    /// Its length in the first, if it is a file there.
    pub from_bytes: Option<u64>,
    /// Its length in the second, if it is a file there.
    pub to_bytes: Option<u64>,
    /// What it is in the first, if it is there.
    #[serde(default)]
    pub from_kind: Option<EntryKind>,
    /// What it is in the second, if it is there.
    #[serde(default)]
    pub to_kind: Option<EntryKind>,
    /// Uncompressed bytes of chunks over it that the first path does not have.
    pub new_bytes: u64,
}

/// What stands under a name in a store path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A file that is not executable.
    File,
    /// A file that is.
    Executable,
}

impl EntryKind {
    /// Returns the word for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::File => "file",
            Self::Executable => "executable",
        }
    }
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileChange {
    /// It is in the second only.
    Added,
    /// It is in the first only.
    Removed,
    /// It is in both and not the same.
    Changed,
}

/// A path and where it came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PathDescription {
    /// Its base name.
    pub path: String,
    /// Its cache.
    pub cache: String,
    /// `sha256:…`
    pub nar_hash: String,
    /// NAR bytes.
    pub nar_bytes: u64,
    /// Base names of what it refers to.
    pub references: Vec<String>,
    /// Base name of the derivation that made it.
    pub deriver: Option<String>,
    /// Its content address.
    pub ca: Option<String>,
    /// `name:base64`
    pub signatures: Vec<String>,
    /// When it became visible, in seconds since 1970.
    pub committed_at: u64,
    /// Who pushed it first.
    pub builder: String,
    /// Pushes that changed something; only for those who may see usage.
    pub pushes: Vec<PushDescription>,
    /// Other NARs that were offered for it.
    pub conflicts: Vec<ConflictDescription>,
}

/// A push of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushDescription {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who.
    pub builder: String,
    /// The token's id.
    pub token: Option<String>,
    /// From which address.
    pub address: Option<String>,
    /// The NAR that was offered.
    pub nar_hash: String,
    /// Names of the keys whose signatures came with it or were made for it.
    pub signed_by: Vec<String>,
    /// `created`, `merged` or `conflict`.
    pub outcome: String,
}

/// A NAR that was offered for a path that has another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictDescription {
    /// When, in seconds since 1970.
    pub at: u64,
    /// Who offered it.
    pub builder: String,
    /// `sha256:…`; the path's own if the same NAR was offered with other references.
    pub nar_hash: String,
    /// NAR bytes.
    pub nar_bytes: u64,
    /// How many files, directories and symlinks are not the same; absent if that was not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_total: Option<u64>,
    /// Those with the most new bytes: as a rule 100 at most, and fewer if their paths are long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<FileDifference>>,
    /// Whether the comparison ended before it was through, since there was too much to read: more may differ.
    #[serde(default)]
    pub is_partial: bool,
}

/// Paths that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// At most as many as were asked for: what is called just so first, then what begins so, the newest first.
    pub paths: Vec<FoundPath>,
    /// Whether there may be more: there was no time to look through all paths, or there are too many.
    pub is_partial: bool,
    /// If there was no time: up to when all paths are there whose package is called so, in seconds since 1970; absent if
    /// that is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_at: Option<u64>,
}

/// A path that a search found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPath {
    /// Its base name.
    pub path: String,
    /// Its cache.
    pub cache: String,
    /// NAR bytes.
    pub nar_bytes: u64,
    /// When it became visible, in seconds since 1970.
    pub committed_at: u64,
}
