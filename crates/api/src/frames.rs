//! What became of uploaded frames and parts of recipes.

use serde::{Deserialize, Serialize};

/// The answer to `frames`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FramesTaken {
    /// How many frames the body held.
    pub frames: u64,
    /// How many chunks they held.
    pub chunks: u64,
    /// How many of these the server did not have.
    pub new_chunks: u64,
    /// How many bytes it stored for them.
    pub stored_bytes: u64,
}

/// The answer to a part of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PartTaken {
    /// How many bytes of the recipe's encoding the server has, from the start: the next part begins there.
    pub received: u64,
}
