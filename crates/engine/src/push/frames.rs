//! Frames that a client made.

use std::sync::Arc;

use firn_chunk::{ChunkId, ChunkerId, Hint};
use firn_index::{CacheName, SeenId, SessionId};
use firn_pack::{Codec, DecodedFrame, FrameEntry, FrameHead, FrameKind, Item};

use super::Scope;
use crate::bases::{self, BaseFinder};
use crate::engine::{Delta, Shared};
use crate::run::{KEPT_WITH, MadeFrame, Run};
use crate::{Engine, Error, Result, spans};

/// The most uncompressed bytes of a frame that is taken: as long as the ones that firn makes itself, because restoring
/// any part of it decodes the whole.
pub const MAX_PUSHED_FRAME_BYTES: usize = 1 << 20;

/// The most frames that one call takes: with [`MAX_PUSHED_FRAME_BYTES`] it bounds what a small body can make the store
/// decode.
pub const MAX_PUSHED_FRAMES: usize = 256;

/// The most chunks that one call takes, over all of its frames.
pub const MAX_PUSHED_CHUNKS: usize = 65_536;

/// What one call takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct PushedFrames<'a> {
    /// Whole frames, one behind the other.
    pub frames: &'a [u8],
    /// Where bases may be found: nothing, or a hint for each of their chunks in order. With [`Delta::Inline`], what is like
    /// stored chunks is compressed with these, and nothing is believed of it: a wrong one costs bytes at most.
    pub hints: &'a [Hint],
}

impl<'a> From<&'a [u8]> for PushedFrames<'a> {
    fn from(frames: &'a [u8]) -> Self {
        Self { frames, hints: &[] }
    }
}

/// What became of pushed frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FramesTaken {
    /// Frames.
    pub frames: u64,
    /// Chunks in them.
    pub chunks: u64,
    /// Chunks that were not stored before; to a pusher who may not read all caches, all chunks.
    pub new_chunks: u64,
    /// Bytes that they take in packs; to such a pusher, those of the frames: what is smaller would tell of other caches.
    pub stored_bytes: u64,
}

impl Engine {
    /// Stores the chunks of whole frames, as [`firn_pack::FrameEncoder`] makes them. Sending them again does no harm. They are
    /// durable with the next commit; a crash before loses them, and the commit that needs them says so. Memory: a decoded
    /// frame, as much again of new chunks from frames of which the store knows a part, and a frame's worth of chunks with
    /// 2 MiB of bases.
    ///
    /// # Errors
    /// [`Error::BadFrame`] for the first frame that is damaged or over a limit, and for hints of another number than the
    /// chunks; the frames before it stay. [`Error::Refused`] when the session has expired, [`Error::StorageFull`],
    /// [`Error::WritesStopped`].
    pub fn take_frames(
        &self,
        session: SessionId,
        scope: &Scope,
        cache: &CacheName,
        pushed: PushedFrames<'_>,
    ) -> Result<FramesTaken> {
        let PushedFrames { frames: body, hints } = pushed;
        let bytes = spans::number(body.len() as u64);
        let _span = tracing::info_span!(target: spans::TARGET, "frames", firn.bytes = bytes).entered();
        self.shared.check_room()?;
        self.renew_session(session)?;
        let run = || Run::new(self.shared.options.frame_bytes, self.shared.options.compression_level);
        let mut intake = Intake {
            shared: &self.shared,
            scope,
            run: run(),
            delta: run(),
            finder: BaseFinder::default(),
            hints: (!hints.is_empty()).then_some(hints),
            taken: FramesTaken::default(),
        };
        let mut rest = body;
        loop {
            let offset = (body.len() - rest.len()) as u64;
            let len = intake.take(cache, rest, offset)?;
            rest = rest.get(len..).unwrap_or_default();
            if rest.is_empty() {
                intake.check_hints(body.len() as u64)?;
                let taken = intake.finish()?;
                return Ok(if *scope == Scope::Store { taken } else { taken.of_all(body.len() as u64) });
            }
        }
    }
}

impl FramesTaken {
    /// Returns the same as if none of the chunks had been stored before, nor anything like them.
    fn of_all(self, stored_bytes: u64) -> Self {
        Self { new_chunks: self.chunks, stored_bytes, ..self }
    }
}

/// Frames of one body on their way in.
struct Intake<'a> {
    shared: &'a Arc<Shared>,
    scope: &'a Scope,
    run: Arc<Run>,
    /// The chunks with bases wait in a run of their own.
    delta: Arc<Run>,
    finder: BaseFinder,
    /// What is left of the hints, if any came along.
    hints: Option<&'a [Hint]>,
    taken: FramesTaken,
}

impl<'a> Intake<'a> {
    /// Takes the frame at the front of `bytes` and returns its length; `offset` is for errors.
    fn take(&mut self, cache: &CacheName, bytes: &[u8], offset: u64) -> Result<usize> {
        let bad = |detail: String| Error::BadFrame { offset, detail };
        let (bytes, head) = whole_frame(bytes).map_err(bad)?;
        self.check_limits(&head).map_err(bad)?;
        let decoded = self.shared.frames.decode_unstored(bytes)?.map_err(|error| bad(error.to_string()))?;
        let entry = identify(&head, &decoded).map_err(bad)?;
        let hints = self.hints_of(&entry).map_err(bad)?;
        let is_taken = self.take_with_bases(&entry, &decoded, hints)?;
        let made = MadeFrame { bytes, entry: &entry, decoded: &decoded, is_taken: &is_taken };
        let taken = self.run.take_frame(&made, &self.shared.packs)?;
        self.taken.frames += 1;
        self.taken.chunks += entry.items.len() as u64;
        self.taken.new_chunks += taken.new_chunks;
        let ids = || entry.items.iter().map(|item| ChunkId(item.id));
        if *self.scope != Scope::Store {
            // Whoever sends a chunk has it, and may know of it. Others of the cache may once it is committed.
            self.shared.note_sent(self.scope, cache, &ids().map(|id| SeenId::from(&id)).collect::<Vec<_>>())?;
        }
        if let Some(loc) = taken.loc {
            // The commit that is to come reads it, and need not decode and hash it once more.
            self.shared.frames.keep(loc, decoded, ids());
        }
        Ok(bytes.len())
    }

    /// Returns the hints of the next frame's chunks; none if there are none at all.
    fn hints_of(&mut self, entry: &FrameEntry) -> std::result::Result<&'a [Hint], String> {
        let Some(left) = self.hints else { return Ok(&[]) };
        let Some((hints, rest)) = left.split_at_checked(entry.items.len()) else {
            return Err(format!(
                "it has {} chunks, and {} hints are left for it: send one for each chunk",
                entry.items.len(),
                left.len()
            ));
        };
        self.hints = Some(rest);
        Ok(hints)
    }

    /// Takes the new chunks of a frame for which there are bases; returns which these were. If they are so few that the
    /// frame stays as it is in any case, none are.
    fn take_with_bases(&mut self, entry: &FrameEntry, decoded: &DecodedFrame, hints: &[Hint]) -> Result<Vec<bool>> {
        let mut is_taken = Vec::new();
        if hints.is_empty() || self.shared.options.delta != Delta::Inline {
            return Ok(is_taken);
        }
        let found = self.find_bases(entry, hints)?;
        let bytes: usize =
            entry.items.iter().zip(&found).filter(|(_, ids)| !ids.is_empty()).map(|(item, _)| item.len as usize).sum();
        if bytes <= decoded.data.len() / KEPT_WITH {
            return Ok(is_taken);
        }
        for ((number, item), ids) in entry.items.iter().enumerate().zip(found) {
            let mut bases = Vec::with_capacity(ids.len());
            for id in &ids {
                bases.extend(bases::fetch(self.shared, id)?);
            }
            is_taken.push(!bases.is_empty());
            if !bases.is_empty() {
                let data = decoded.item(number).unwrap_or_default();
                let (_, is_new) = self.delta.take(ChunkId(item.id), data, &bases, &self.shared.packs)?;
                self.taken.new_chunks += u64::from(is_new);
            }
        }
        Ok(is_taken)
    }

    /// Returns the bases of each chunk that is new, by their names: their bytes may be many.
    fn find_bases(&mut self, entry: &FrameEntry, hints: &[Hint]) -> Result<Vec<Vec<ChunkId>>> {
        let Self { shared, finder, .. } = self;
        let ids: Vec<ChunkId> = entry.items.iter().map(|item| ChunkId(item.id)).collect();
        let known = shared.packs.lookup_all(&ids)?;
        let new = hints.iter().zip(&known).filter_map(|(hint, known)| known.is_none().then_some(hint));
        finder.look_ahead(shared, new)?;
        let mut found = Vec::with_capacity(ids.len());
        for (((id, item), hint), known) in ids.iter().zip(&entry.items).zip(hints).zip(known) {
            if known.is_some() {
                found.push(Vec::new());
                continue;
            }
            let bases = finder.find(shared, hint, item.len as usize, &mut |base| {
                let is_base = base != id && bases::fetch(shared, base)?.is_some();
                Ok(is_base.then_some(*base))
            })?;
            if let Some(features) = hint.features.filter(|_| bases.is_empty()) {
                shared.likeness.note(*id, features);
            }
            found.push(bases);
        }
        Ok(found)
    }

    fn check_limits(&self, head: &FrameHead) -> std::result::Result<(), String> {
        if head.kind != FrameKind::Chunks {
            return Err("it holds no chunks".to_owned());
        }
        if head.bases != 0 {
            return Err("it needs other chunks to be decoded".to_owned());
        }
        // Only squeezing pays for it, and clients are not told of filters.
        if head.codec == Codec::Filtered {
            return Err("it is filtered, and frames are pushed raw or as zstd".to_owned());
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

    fn check_hints(&self, offset: u64) -> Result<()> {
        let Some(left) = self.hints.filter(|left| !left.is_empty()) else { return Ok(()) };
        let detail = format!("{} hints are left, and there is no chunk for them: send one for each chunk", left.len());
        Err(Error::BadFrame { offset, detail })
    }

    fn finish(mut self) -> Result<FramesTaken> {
        self.run.flush(&self.shared.packs)?;
        self.delta.flush(&self.shared.packs)?;
        self.taken.stored_bytes = self.run.stored_bytes() + self.delta.stored_bytes();
        Ok(self.taken)
    }
}

impl Drop for Intake<'_> {
    fn drop(&mut self) {
        // Other uploads may lean on what waits in the run. If it can't be stored, they are told.
        for run in [&self.run, &self.delta] {
            if run.flush(&self.shared.packs).is_err() {
                run.abandon(&self.shared.packs.in_flight);
            }
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
