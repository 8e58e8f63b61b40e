//! Frames that a client made.

use std::sync::Arc;

use firn_chunk::{ChunkId, ChunkerId};
use firn_index::{CacheName, SeenId, SessionId};
use firn_pack::{DecodedFrame, FrameEntry, FrameHead, FrameKind, Item};

use super::Scope;
use crate::engine::Shared;
use crate::run::{MadeFrame, Run};
use crate::{Engine, Error, Result, spans};

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
    /// commit that needs them says so. Memory: a decoded frame, and as much again of new chunks from frames of which
    /// the store knows a part.
    ///
    /// # Errors
    /// [`Error::BadFrame`] for the first frame that is damaged or over a limit; those before it stay. [`Error::Refused`]
    /// when the session has expired, [`Error::StorageFull`], [`Error::WritesStopped`].
    pub fn take_frames(
        &self,
        session: SessionId,
        scope: &Scope,
        cache: &CacheName,
        body: &[u8],
    ) -> Result<FramesTaken> {
        let bytes = spans::number(body.len() as u64);
        let _span = tracing::info_span!(target: spans::TARGET, "frames", firn.bytes = bytes).entered();
        self.shared.check_room()?;
        self.renew_session(session)?;
        let run = Run::new(self.shared.options.frame_bytes, self.shared.options.compression_level);
        let mut intake = Intake { shared: &self.shared, scope, run, taken: FramesTaken::default() };
        let mut rest = body;
        loop {
            let offset = (body.len() - rest.len()) as u64;
            let len = intake.take(cache, rest, offset)?;
            rest = rest.get(len..).unwrap_or_default();
            if rest.is_empty() {
                return intake.finish();
            }
        }
    }
}

/// Frames of one body on their way in.
struct Intake<'a> {
    shared: &'a Arc<Shared>,
    scope: &'a Scope,
    run: Arc<Run>,
    taken: FramesTaken,
}

impl Intake<'_> {
    /// Takes the frame at the front of `bytes` and returns its length; `offset` is for errors.
    fn take(&mut self, cache: &CacheName, bytes: &[u8], offset: u64) -> Result<usize> {
        let bad = |detail: String| Error::BadFrame { offset, detail };
        let (bytes, head) = whole_frame(bytes).map_err(bad)?;
        self.check_limits(&head).map_err(bad)?;
        let decoded = self.shared.frames.decode_unstored(bytes)?.map_err(|error| bad(error.to_string()))?;
        let entry = identify(&head, &decoded).map_err(bad)?;
        let taken = self.run.take_frame(&MadeFrame { bytes, entry: &entry, decoded: &decoded }, &self.shared.packs)?;
        self.taken.frames += 1;
        self.taken.chunks += entry.items.len() as u64;
        self.taken.new_chunks += taken.new_chunks;
        let ids = || entry.items.iter().map(|item| ChunkId(item.id));
        // Whoever sends a chunk has it, and may know of it.
        self.shared.note_sent(self.scope, cache, &ids().map(|id| SeenId::from(&id)).collect::<Vec<_>>())?;
        if let Some(loc) = taken.loc {
            // The commit that is to come reads it, and need not decode and hash it once more.
            self.shared.frames.keep(loc, decoded, ids());
        }
        Ok(bytes.len())
    }

    fn check_limits(&self, head: &FrameHead) -> std::result::Result<(), String> {
        if head.kind != FrameKind::Chunks {
            return Err("it holds no chunks".to_owned());
        }
        if head.bases != 0 {
            return Err("it needs other chunks to be decoded".to_owned());
        }
        if head.raw_len as usize > MAX_PUSHED_FRAME_BYTES {
            return Err(format!("it holds {} bytes, and the limit is {MAX_PUSHED_FRAME_BYTES}", head.raw_len));
        }
        if self.taken.frames >= MAX_PUSHED_FRAMES as u64 {
            return Err(format!("there are more than {MAX_PUSHED_FRAMES} frames in one request"));
        }
        if self.taken.chunks + u64::from(head.items) > MAX_PUSHED_CHUNKS as u64 {
            return Err(format!("there are more than {MAX_PUSHED_CHUNKS} chunks in one request"));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<FramesTaken> {
        self.run.flush(&self.shared.packs)?;
        self.taken.stored_bytes = self.run.stored_bytes();
        Ok(self.taken)
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        // Other uploads may lean on what waits in the run. If it can't be stored, they are told.
        if self.run.flush(&self.shared.packs).is_err() {
            self.run.abandon(&self.shared.packs.in_flight);
        }
    }
}

/// Returns the frame at the front of `bytes` and what its head claims.
fn whole_frame(bytes: &[u8]) -> std::result::Result<(&[u8], FrameHead), String> {
    let head = FrameHead::read(bytes).map_err(|error| error.to_string())?;
    let frame = bytes
        .get(..head.len as usize)
        .ok_or_else(|| format!("it is cut short: it has {} bytes, and {} are there", head.len, bytes.len()))?;
    Ok((frame, head))
}

/// Returns the entry of a decoded frame: its chunks' ids and lengths.
fn identify(head: &FrameHead, decoded: &DecodedFrame) -> std::result::Result<FrameEntry, String> {
    let longest = ChunkerId::CURRENT.max;
    let mut items = Vec::with_capacity(decoded.ends.len());
    for chunk in decoded.items() {
        let len = u32::try_from(chunk.len()).ok().filter(|len| (1..=longest).contains(len));
        let len =
            len.ok_or_else(|| format!("a chunk of it has {} bytes, and 1 to {longest} are allowed", chunk.len()))?;
        items.push(Item { id: ChunkId::of(chunk).0, len });
    }
    let FrameHead { kind, codec, len, raw_len, .. } = *head;
    Ok(FrameEntry { kind, codec, len, raw_len, items, bases: Vec::new() })
}
