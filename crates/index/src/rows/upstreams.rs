use std::fmt;

use serde::{Deserialize, Serialize};

use super::{TokenRow, UnixSeconds};

/// What a cache does with a path that it lacks and that may be upstream's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpstreamMode {
    /// Says that it is not here: clients ask upstream themselves. Nothing of it is ever asked for or stored.
    #[default]
    Refer,
    /// Gets it, passes it on and stores it in the same pass.
    Proxy,
}

impl UpstreamMode {
    /// Returns the mode's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refer => "refer",
            Self::Proxy => "proxy",
        }
    }
}

impl fmt::Display for UpstreamMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Another binary cache that a cache knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamRow {
    /// Where it is; each of a cache's upstreams is elsewhere.
    pub url: String,
    /// What is done with what it has.
    pub mode: UpstreamMode,
    /// Public keys (`name:base64`): what is signed by none of them is not upstream's.
    pub keys: Vec<String>,
    /// The lower, the earlier it is asked; those with the same number are asked at the same time.
    pub priority: u32,
    /// How long a connection may take, in milliseconds.
    pub connect_timeout_ms: u64,
    /// How long an answer may take to begin, in milliseconds.
    pub first_byte_timeout_ms: u64,
    /// How long an answer may stand still, in milliseconds.
    pub idle_timeout_ms: u64,
    /// A file with a token for it.
    pub token_file: Option<String>,
    /// When it was added.
    pub added_at: UnixSeconds,
}

/// All upstreams of a cache that have a URL, in order of their priorities.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamsRow {
    /// They.
    pub upstreams: Vec<UpstreamRow>,
}

/// From which identity a token was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenOrigin {
    /// The name of the rule that permitted it.
    pub rule: String,
    /// Who vouched for the identity.
    pub issuer: String,
    /// Whose it is, in the issuer's words.
    pub subject: String,
}

/// A token that somebody got for an identity of his, rather than from an administrator. It expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedRow {
    /// The token.
    pub token: TokenRow,
    /// For what it was made.
    pub origin: TokenOrigin,
}
