//! What a server can do, and whether a client can work with it.

use firn_chunk::ChunkerId;
use serde::{Deserialize, Serialize};

use crate::{HINTS, Limits};

/// The version of the API that this crate describes: the `v1` of its URLs.
pub const VERSION: u32 = 1;

/// The versions that a server of this firn answers.
pub const VERSIONS: [u32; 1] = [VERSION];

/// The answer to [`crate::Endpoint::Capabilities`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    /// Program and version, for people.
    #[serde(default)]
    pub server: String,
    /// The versions of the API that it answers.
    pub versions: Vec<u32>,
    /// How its store is cut: the text of a [`ChunkerId`].
    pub chunker: String,
    /// How much a request may hold.
    #[serde(default)]
    pub limits: Limits,
    /// Names of what came after version 1 and may be used.
    #[serde(default)]
    pub features: Vec<String>,
}

impl Capabilities {
    /// Returns what a server of this version says.
    #[must_use]
    pub fn current(server: String, chunker: ChunkerId) -> Self {
        Self {
            server,
            versions: VERSIONS.to_vec(),
            chunker: chunker.to_string(),
            limits: Limits::default(),
            features: vec![HINTS.to_owned()],
        }
    }
}

/// What both ends will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The version of the API.
    pub version: u32,
    /// How much a request may hold: the server's limits, at most our own.
    pub limits: Limits,
    /// Whether frames may come with hints.
    pub takes_hints: bool,
}

/// Why a client can't push chunks to a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// No version is common.
    #[error("push to {server}: it speaks versions {theirs:?} of the API and this client {VERSIONS:?}")]
    Version {
        /// Who answered.
        server: String,
        /// What it speaks.
        theirs: Vec<u32>,
    },
    /// It cuts differently: nothing that was cut here would be found there.
    #[error("push to {server}: its store is cut as '{theirs}' and this client cuts as '{ours}'")]
    Chunker {
        /// Who answered.
        server: String,
        /// How its store is cut.
        theirs: String,
        /// How the client cuts.
        ours: ChunkerId,
    },
}

/// Returns the newest version that both ends speak and the limits to keep, or why they can't work together.
pub fn negotiate(server: &Capabilities, chunker: ChunkerId) -> Result<Agreement, Mismatch> {
    let name = || server.server.chars().filter(|c| !c.is_control()).take(80).collect::<String>();
    let common = VERSIONS.iter().copied().filter(|version| server.versions.contains(version)).max();
    let Some(version) = common else {
        let theirs = server.versions.iter().copied().take(16).collect();
        return Err(Mismatch::Version { server: name(), theirs });
    };
    if server.chunker != chunker.to_string() {
        let theirs = server.chunker.chars().filter(|c| !c.is_control()).take(80).collect();
        return Err(Mismatch::Chunker { server: name(), theirs, ours: chunker });
    }
    let takes_hints = server.features.iter().any(|feature| feature == HINTS);
    Ok(Agreement { version, limits: server.limits.capped(Limits::default()), takes_hints })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn current() -> Capabilities {
        Capabilities::current("firnd 9".into(), ChunkerId::CURRENT)
    }

    #[test]
    fn refuses_other_versions_and_other_cuts() {
        let newer = Capabilities { versions: vec![2, 3], ..current() };
        assert!(matches!(negotiate(&newer, ChunkerId::CURRENT), Err(Mismatch::Version { .. })));
        let none = Capabilities { versions: vec![], ..current() };
        assert!(negotiate(&none, ChunkerId::CURRENT).is_err());
        let other = ChunkerId { min: 1, ..ChunkerId::CURRENT };
        assert!(matches!(negotiate(&current(), other), Err(Mismatch::Chunker { .. })));
        let hostile = Capabilities { server: "\u{1b}[2J".repeat(99), versions: vec![7; 9999], ..current() };
        let text = negotiate(&hostile, ChunkerId::CURRENT).unwrap_err().to_string();
        assert!(text.len() < 400 && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn takes_what_is_common_and_ignores_the_rest() {
        let text = r#"{"versions": [3, 1, 2], "chunker": "CHUNKER", "limits": {"paths": 7, "chunks": 0, "recipes": 999999, "x": 1}, "y": {}}"#;
        let text = text.replace("CHUNKER", &ChunkerId::CURRENT.to_string());
        let agreed = negotiate(&serde_json::from_str(&text).unwrap(), ChunkerId::CURRENT).unwrap();
        let limits = Limits { paths: 7, chunks: 1, ..Limits::default() };
        assert_eq!(agreed, Agreement { version: 1, limits, takes_hints: false });
        assert!(negotiate(&current(), ChunkerId::CURRENT).unwrap().takes_hints);
        let text = serde_json::to_string(&current()).unwrap();
        assert_eq!(serde_json::from_str::<Capabilities>(&text).unwrap(), current());
    }
}
