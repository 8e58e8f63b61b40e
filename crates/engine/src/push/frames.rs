//! Frames that a client made.

use firn_index::{CacheName, SessionId};

use crate::{Engine, Error, Result};

/// The most uncompressed bytes of a frame that is taken: as long as the ones that firn makes itself, because restoring
/// any part of it decodes the whole.
pub const MAX_PUSHED_FRAME_BYTES: usize = 1 << 20;

/// The most frames that one call takes: with [`MAX_PUSHED_FRAME_BYTES`] it bounds what a small body can make the store
/// decode.
pub const MAX_PUSHED_FRAMES: usize = 256;

/// The most chunks that one call takes, over all of its frames.
pub const MAX_PUSHED_CHUNKS: usize = 65_536;

/// What became of pushed frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FramesTaken {
    /// Frames.
    pub frames: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Chunks that were not stored before.
    pub new_chunks: u64,
    /// Bytes that they take in packs.
    pub stored_bytes: u64,
}

impl Engine {
    /// Stores the chunks of whole frames that lie one behind the other in `body`, as [`firn_pack::FrameEncoder`] makes
    /// them. Sending them again does no harm. They are durable with the next commit; a crash before loses them, and the
    /// commit that needs them says so.
    ///
    /// # Errors
    /// [`Error::BadFrame`] for the first frame that is damaged or over a limit; those before it stay. [`Error::Refused`]
    /// when the session has expired, [`Error::StorageFull`], [`Error::WritesStopped`].
    pub fn take_frames(&self, _session: SessionId, _cache: &CacheName, _body: &[u8]) -> Result<FramesTaken> {
        Err(Error::Internal("push: not yet".to_owned()))
    }
}
