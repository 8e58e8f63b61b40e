use std::fmt;
use std::str::FromStr;

use firn_nix::StorePath;
use serde::{Deserialize, Serialize};

use super::{UnixSeconds, Uploader};

/// A pin's name: 1 to 128 of `a-z A-Z 0-9 - _ . + /`, beginning with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PinName(String);

impl PinName {
    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PinName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let good = (1..=128).contains(&name.len())
            && name.as_bytes()[0].is_ascii_alphanumeric()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+' | b'/'));
        if good {
            return Ok(Self(name.to_owned()));
        }
        Err(format!(
            "name a pin '{name}': use 1 to 128 letters, digits, '-', '_', '.', '+' and '/', beginning with a letter or digit"
        ))
    }
}

impl TryFrom<String> for PinName {
    type Error = String;
    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

impl From<PinName> for String {
    fn from(name: PinName) -> Self {
        name.0
    }
}

impl fmt::Display for PinName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A pin: keeps a path of a cache, and everything that the path refers to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRow {
    /// The path.
    pub path: StorePath,
    /// When it was pinned.
    pub pinned_at: UnixSeconds,
    /// When the pin stops to count.
    pub expires_at: Option<UnixSeconds>,
    /// Who pinned it.
    pub by: Uploader,
}

impl PinRow {
    /// Returns whether the pin counts at `now`.
    #[must_use]
    pub fn counts(&self, now: UnixSeconds) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }
}

/// What a cache keeps. Without any rule it keeps everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionRow {
    /// Keeps what was used within so many seconds.
    pub keep_seconds: Option<u64>,
    /// Keeps the newest so many paths of each name, versions aside.
    pub keep_last: Option<u32>,
    /// Keeps at most about so many stored bytes.
    pub quota_bytes: Option<u64>,
}

impl RetentionRow {
    /// Returns whether nothing ever goes.
    #[must_use]
    pub fn keeps_all(&self) -> bool {
        *self == Self::default()
    }
}

/// Who may do what only one may do at a time, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRow {
    /// Who holds it; drawn at random.
    pub holder: u128,
    /// When it ends.
    pub until: UnixSeconds,
}

impl LeaseRow {
    /// Returns the lease that `holder` has after asking for it, given the one before; `None` if it is another's.
    #[must_use]
    pub fn take(before: Option<&Self>, holder: u128, now: UnixSeconds, until: UnixSeconds) -> Option<Self> {
        let free = before.is_none_or(|lease| lease.holder == holder || lease.until <= now);
        free.then_some(Self { holder, until })
    }
}
