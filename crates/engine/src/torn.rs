//! Packs without a whole list of frames, looked through together: frames of each may have bases in the others.

use std::collections::HashMap;
use std::io;

use bytes::Bytes;
use firn_chunk::ChunkId;
use firn_pack::{ChunkLoc, ChunkSource, FrameDecoder, FrameEntry, FrameKind, FrameLoc, PackId, Recovered, frame_bases};

use crate::frames::BASE_STEPS;
use crate::packs::{Packs, object_name};
use crate::{Error, Result};

/// Reads from a pack's object.
pub(crate) type Read<'a> = dyn Fn(u64, usize) -> io::Result<Bytes> + 'a;

/// Where chunks lie that the chunk index may not know yet: 80 bytes each, of packs that a crash left.
#[derive(Clone, Default)]
pub(crate) struct Found(HashMap<ChunkId, ChunkLoc>);

impl Found {
    /// Takes note of a pack's chunks.
    pub(crate) fn add(&mut self, pack: PackId, frames: &[(u64, FrameEntry)]) {
        for (offset, entry) in frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks) {
            let loc = FrameLoc { pack, offset: *offset, len: entry.len };
            for (id, loc) in entry.locations(loc) {
                self.0.entry(ChunkId(id)).or_insert(loc);
            }
        }
    }

    /// Returns a chunk that frames were compressed with; as many steps may lie behind it.
    fn base(&self, packs: &Packs, id: &ChunkId, steps: u8) -> Result<Option<Vec<u8>>> {
        let places = [packs.lookup(id)?, self.0.get(id).copied()];
        for loc in places.into_iter().flatten() {
            if let Some(data) = self.chunk_at(packs, id, loc, steps)? {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    fn chunk_at(&self, packs: &Packs, id: &ChunkId, loc: ChunkLoc, steps: u8) -> Result<Option<Vec<u8>>> {
        let name = object_name(loc.frame.pack);
        let bytes = match packs.storage.read(&name, loc.frame.offset, loc.frame.len as usize) {
            Ok(bytes) => bytes,
            Err(error) => match packs.fault("a base", error) {
                error if error.is_damage() => return Ok(None),
                error => return Err(error),
            },
        };
        let internal = |error: firn_pack::Error| Error::Internal(error.to_string());
        let mut prefix = Vec::new();
        for of in frame_bases(&bytes).unwrap_or_default() {
            let Some(steps) = steps.checked_sub(1) else { return Ok(None) };
            let Some(data) = self.base(packs, &ChunkId(of), steps)? else { return Ok(None) };
            prefix.extend(data);
        }
        let frame = match FrameDecoder::new().map_err(internal)?.decode_delta(&bytes, &prefix) {
            Ok(frame) => frame,
            Err(firn_pack::Error::Corrupt { .. } | firn_pack::Error::NeedsBases) => return Ok(None),
            Err(error) => return Err(internal(error)),
        };
        Ok(frame.item(loc.index.into()).filter(|data| ChunkId::of(data) == *id).map(<[u8]>::to_vec))
    }
}

/// Scans packs, each by `scan`, and those with frames without bases again as long as others turn up; returns what came of
/// each, in their order. `found` are chunks of packs that the chunk index does not know.
pub(crate) fn look_through<T>(
    packs: &Packs,
    torn: &[T],
    mut found: Found,
    id_of: impl Fn(&T) -> PackId,
    scan: impl Fn(&T, &Read<'_>, &mut ChunkSource<'_>) -> firn_pack::Result<Recovered>,
) -> Vec<firn_pack::Result<Recovered>> {
    let baseless = |outcome: &firn_pack::Result<Recovered>| outcome.as_ref().map_or(0, |found| found.baseless.len());
    let mut look = |one: &T| {
        let name = object_name(id_of(one));
        let read = |offset, len| packs.storage.read(&name, offset, len).map_err(io::Error::other);
        let outcome =
            scan(one, &read, &mut |id| found.base(packs, &ChunkId(*id), BASE_STEPS).map_err(io::Error::other));
        if let Ok(recovered) = &outcome {
            found.add(id_of(one), &recovered.frames);
        }
        outcome
    };
    let mut outcomes: Vec<_> = torn.iter().map(&mut look).collect();
    loop {
        let before: usize = outcomes.iter().map(baseless).sum();
        for (one, outcome) in torn.iter().zip(&mut outcomes).filter(|(_, outcome)| baseless(outcome) > 0) {
            *outcome = look(one);
        }
        if outcomes.iter().map(baseless).sum::<usize>() >= before {
            return outcomes;
        }
    }
}
