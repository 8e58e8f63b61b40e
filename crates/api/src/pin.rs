//! Pins: what keeps a path, and all that it refers to, whatever the rules of its cache say.

use serde::{Deserialize, Serialize};

/// A pin, as it is told. Times are seconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// Its name: 1 to 128 of `a-z A-Z 0-9 - _ . + /`, beginning with a letter or digit.
    pub name: String,
    /// The path's base name.
    pub path: String,
    /// When it was pinned.
    pub pinned_at: u64,
    /// When the pin stops to count; never if there is none.
    #[serde(default)]
    pub expires_at: Option<u64>,
    /// The builder that pinned it; the operator's are `operator`.
    #[serde(default)]
    pub by: String,
}

/// All pins of a cache, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pins {
    /// They.
    pub pins: Vec<Pin>,
}

/// Asks to pin a path, or to move the pin of that name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinAdd {
    /// The pin's name.
    pub name: String,
    /// The path: its base name, or with its folder.
    pub path: String,
    /// After how many seconds the pin stops to count; never if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in: Option<u64>,
}

/// Asks to remove a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinRemove {
    /// The pin's name.
    pub name: String,
}
