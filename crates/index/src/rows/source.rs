use std::fmt;
use std::str::FromStr;

use firn_nix::StorePath;
use serde::{Deserialize, Serialize};

use super::{CacheName, UnixSeconds};

/// A source's name: 1 to 64 of `a-z 0-9 - _ .`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SourceName(String);

impl SourceName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SourceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let good = (1..=64).contains(&name.len())
            && plain(name.as_bytes()[0])
            && name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'));
        if good {
            return Ok(Self(name.to_owned()));
        }
        Err(format!(
            "name a source '{name}': use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
        ))
    }
}

impl TryFrom<String> for SourceName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<SourceName> for String {
    fn from(name: SourceName) -> Self {
        name.0
    }
}

impl fmt::Display for SourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which paths of a source are believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceTrust {
    /// Those that one of these keys (`name:base64`) signed.
    Keys(Vec<String>),
    /// All: the source is one of one's own builders.
    Builder,
}

/// Which new paths of a source are wanted. What a wanted path refers to comes along, whatever this says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFilter {
    /// Leaves out what one of the cache's upstream keys signed.
    pub skip_upstream: bool,
    /// If there are any, a name has to match one; `*` and `?` are wildcards.
    pub include: Vec<String>,
    /// A name may match none.
    pub exclude: Vec<String>,
    /// The longest NAR, in bytes.
    pub max_nar_bytes: Option<u64>,
    /// Whether derivations count.
    pub derivations: bool,
    /// Whether paths count that were added and not built.
    pub sources: bool,
}

/// A store that the server pulls from: its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// Where it is.
    pub url: String,
    /// The cache that its paths come to.
    pub cache: CacheName,
    /// The builder that its paths are recorded as from.
    pub builder: String,
    /// Which paths are believed.
    pub trust: SourceTrust,
    /// Which paths are wanted.
    pub filter: SourceFilter,
    /// How long after a sync the next one begins; 0 for never by itself.
    pub every_seconds: u64,
    /// How many NARs are fetched at once.
    pub parallel: u32,
    /// How many bytes a second are fetched at most.
    pub bytes_per_second: Option<u64>,
    /// The file of the private key for ssh.
    pub ssh_key: Option<String>,
    /// The host's public key (`ssh-ed25519 AAAA…`). Without one, the key of the first sync is kept and demanded.
    pub host_key: Option<String>,
    /// Whether the builder's own `firn` is used, if it has one.
    pub use_firn: bool,
    /// Whether what is there at the first sync is left out.
    pub new_only: bool,
    /// Whether it is paused.
    pub paused: bool,
    /// When it was made.
    pub created_at: UnixSeconds,
}

/// Up to where a source is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceCursor {
    /// The last row id of a Nix database that was seen.
    Row {
        /// Which database: rows of another one have other ids.
        database: [u8; 32],
        /// The id.
        id: i64,
    },
    /// When the newest paths that were seen had come to the store, by the source's own clock.
    Time(UnixSeconds),
    /// What was seen is remembered by name, beside this row.
    Seen,
}

/// What a sync did, or all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceCounts {
    /// Paths that the source named as new.
    pub listed: u64,
    /// Paths that came to the cache.
    pub paths: u64,
    /// NAR bytes of these.
    pub logical_bytes: u64,
    /// Paths that the cache had.
    pub present: u64,
    /// Paths that the filter leaves out.
    pub filtered: u64,
    /// Paths that are not believed, or not what they should be.
    pub refused: u64,
    /// Paths that were gone from the source before they could be fetched.
    pub gone: u64,
    /// Bytes that came of lists and of what is known of paths.
    pub metadata_bytes: u64,
    /// Bytes that came of NARs.
    pub nar_bytes: u64,
}

impl SourceCounts {
    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in [
            (&mut self.listed, other.listed),
            (&mut self.paths, other.paths),
            (&mut self.logical_bytes, other.logical_bytes),
            (&mut self.present, other.present),
            (&mut self.filtered, other.filtered),
            (&mut self.refused, other.refused),
            (&mut self.gone, other.gone),
            (&mut self.metadata_bytes, other.metadata_bytes),
            (&mut self.nar_bytes, other.nar_bytes),
        ] {
            *sum = sum.saturating_add(more);
        }
    }
}

/// A path that did not come, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceProblem {
    /// The path.
    pub path: StorePath,
    /// Why.
    pub why: String,
    /// How often it was tried; 0 if it is not to be tried again.
    pub tries: u32,
}

/// What is remembered of a source between two syncs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStateRow {
    /// Up to where it is known; `None` before the first sync.
    pub cursor: Option<SourceCursor>,
    /// When the last sync began.
    pub started_at: Option<UnixSeconds>,
    /// When the last sync ended.
    pub ended_at: Option<UnixSeconds>,
    /// When a sync last came to its end without an error.
    pub good_at: Option<UnixSeconds>,
    /// How many syncs in a row failed.
    pub failures: u32,
    /// Before when no sync begins by itself: the circuit is open.
    pub retry_at: Option<UnixSeconds>,
    /// Why the last sync failed, if it did.
    pub error: Option<String>,
    /// What the last sync has to say beside that.
    pub note: Option<String>,
    /// What the last sync did.
    pub last: SourceCounts,
    /// What all did.
    pub total: SourceCounts,
    /// Paths that did not come, the newest last.
    pub problems: Vec<SourceProblem>,
    /// The host's public key that the first sync found.
    pub host_key: Option<String>,
}
