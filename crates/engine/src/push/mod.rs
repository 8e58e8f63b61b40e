//! Push: the parts of a NAR from a client that cut and compressed them itself.
//!
//! A client asks what is missing, sends frames of chunks, and commits paths whose NARs are assembled from what is there.
//! Nothing that it says is believed: ids are computed from the bytes, and every NAR is restored once, through the code
//! that serves it, before anything can see it. What a client was told is only a hint; a commit says what is missing.

mod assemble;
mod commit;
mod frames;
mod questions;
mod reader;
mod seen;

use firn_index::{CacheName, TokenId};

pub use assemble::{Assembled, NarClaim};
pub use frames::{FramesTaken, MAX_PUSHED_CHUNKS, MAX_PUSHED_FRAME_BYTES, MAX_PUSHED_FRAMES, PushedFrames};

/// What an asker may be told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The whole store: the asker may read every cache.
    Store,
    /// Only what those who may read these caches can know. Everything else is answered as missing.
    Caches(Vec<CacheName>),
    /// The same, and what a token itself sent to a cache that it may push to and not read.
    Sender {
        /// The token.
        token: TokenId,
        /// The cache that it pushes to.
        cache: CacheName,
        /// The caches that it may read.
        readable: Vec<CacheName>,
    },
}
