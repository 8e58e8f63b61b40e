//! What became of uploaded frames.

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
