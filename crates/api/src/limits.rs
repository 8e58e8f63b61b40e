//! How much one request may hold.

use serde::{Deserialize, Serialize};

/// How much one request may hold, as the server says; what it doesn't say has the default.
///
/// Values are what the server of the same version takes. [`crate::negotiate`] caps what a server offers, so that no server can
/// make a client build huge bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Store hashes in `missing-paths`.
    pub paths: usize,
    /// Chunk ids in `missing-chunks`.
    pub chunks: usize,
    /// Recipe ids in `known-recipes`.
    pub recipes: usize,
    /// Bytes of any body, after its `Content-Encoding` was undone.
    pub body_bytes: usize,
    /// Uncompressed bytes of one frame.
    pub frame_raw_bytes: usize,
    /// Frames in one body; of chunks in them there may be as many as in `missing-chunks`.
    pub frames: usize,
    /// Paths in one commit.
    pub commit_paths: usize,
    /// Proofs of upstream paths in one commit: each is a signature to verify.
    pub proofs: usize,
    /// Bytes of one encoded recipe in a commit; longer ones are uploaded in parts of at most this length before.
    pub recipe_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Limits {
    /// What a server takes that does not say otherwise.
    pub const DEFAULT: Self = Self {
        paths: 32_768,
        chunks: 65_536,
        recipes: 16_384,
        body_bytes: 8 << 20,
        frame_raw_bytes: 1 << 20,
        frames: 256,
        commit_paths: 1024,
        proofs: 4096,
        recipe_bytes: 4 << 20,
    };

    /// Returns the smaller of each of two limits, and at least 1.
    #[must_use]
    pub(crate) fn capped(self, most: Self) -> Self {
        let cap = |offered: usize, most: usize| offered.clamp(1, most);
        Self {
            paths: cap(self.paths, most.paths),
            chunks: cap(self.chunks, most.chunks),
            recipes: cap(self.recipes, most.recipes),
            body_bytes: cap(self.body_bytes, most.body_bytes),
            frame_raw_bytes: cap(self.frame_raw_bytes, most.frame_raw_bytes),
            frames: cap(self.frames, most.frames),
            commit_paths: cap(self.commit_paths, most.commit_paths),
            proofs: cap(self.proofs, most.proofs),
            recipe_bytes: cap(self.recipe_bytes, most.recipe_bytes),
        }
    }
}
