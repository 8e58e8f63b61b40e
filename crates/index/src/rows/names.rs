use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Seconds since 1970-01-01 UTC.
pub type UnixSeconds = u64;

/// The order in which packs were sealed, from 1.
pub type PackSeq = u64;

/// A cache's name: 1 to 64 of `a-z 0-9 - _ .`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheName(String);

impl CacheName {
    /// Names that routes and programs use themselves.
    pub const RESERVED: [&'static str; 12] = [
        "api",
        "build-trace-v2",
        "debuginfo",
        "healthz",
        "log",
        "metrics",
        "nar",
        "nix-cache-info",
        "readyz",
        "realisations",
        "serve",
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
            && name.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_' | b'.'))
            && !name.ends_with(".narinfo");
        if !good {
            return Err(format!(
                "name a cache '{name}': use 1 to 64 of a-z, 0-9, '-', '_' and '.', beginning with a letter or digit"
            ));
        }
        if Self::RESERVED.contains(&name) {
            return Err(format!("name a cache '{name}': firn uses it in its own URLs"));
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
            .ok_or_else(|| format!("find the token '{text}': give the 16 hex digits that `firnd token list` shows"))
    }
}
