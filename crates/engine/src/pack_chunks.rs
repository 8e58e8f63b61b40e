//! Which chunks lie in which frame of a pack, as footers say: what stored recipes leave out.

use std::sync::Arc;

use firn_chunk::ChunkId;
use firn_pack::{Footer, FrameKind, PackId};
use quick_cache::sync::Cache;

use crate::Result;
use crate::packs::Packs;

/// Bytes of lists that are kept in memory: those of some fifty packs.
const MEMORY_BYTES: u64 = 4 << 20;

/// The chunks of a pack, frame by frame.
pub(crate) struct PackChunks {
    /// Where each frame of chunks begins in the pack, and which of `ids` is its first.
    frames: Vec<(u64, usize)>,
    ids: Vec<ChunkId>,
}

impl PackChunks {
    fn of(footer: &Footer) -> Self {
        let mut chunks = Self { frames: Vec::new(), ids: Vec::new() };
        for (offset, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks) {
            chunks.frames.push((*offset, chunks.ids.len()));
            chunks.ids.extend(entry.items.iter().map(|item| ChunkId(item.id)));
        }
        chunks
    }

    /// Returns the ids of a frame's chunks, given where it begins.
    pub(crate) fn frame(&self, offset: u64) -> Option<&[ChunkId]> {
        let at = self.frames.binary_search_by_key(&offset, |(begins, _)| *begins).ok()?;
        let (_, first) = *self.frames.get(at)?;
        let end = self.frames.get(at + 1).map_or(self.ids.len(), |(_, next)| *next);
        self.ids.get(first..end)
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<PackId, Arc<PackChunks>> for Weight {
    fn weight(&self, _: &PackId, chunks: &Arc<PackChunks>) -> u64 {
        (chunks.ids.len() * 32 + chunks.frames.len() * 16 + 128) as u64
    }
}

/// Lists of packs, the most used in memory: at most [`MEMORY_BYTES`].
pub(crate) struct ListedChunks(Cache<PackId, Arc<PackChunks>, Weight>);

impl ListedChunks {
    pub(crate) fn new() -> Self {
        Self(Cache::with_weighter(64, MEMORY_BYTES, Weight))
    }

    /// Returns the list of a pack that has the frame at an offset; `None` when no list of the pack has it, or none can be
    /// read whole.
    ///
    /// # Errors
    /// Those of the index.
    pub(crate) fn with_frame(&self, packs: &Packs, pack: PackId, offset: u64) -> Result<Option<Arc<PackChunks>>> {
        let has_frame = |chunks: &Arc<PackChunks>| chunks.frame(offset).is_some();
        if let Some(known) = self.0.get(&pack).filter(has_frame) {
            return Ok(Some(known));
        }
        // A pack that grows gets more frames and keeps those that it has, so that an earlier list may be kept.
        let footer = match read(packs, pack) {
            Ok(Some(footer)) => footer,
            Ok(None) => return Ok(None),
            Err(error) if error.is_of_pack() => {
                tracing::warn!(%pack, error = crate::error::chain(&error), "a pack's footer can't be read: its frames are, to know their chunks");
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let chunks = Arc::new(PackChunks::of(&footer));
        self.0.insert(pack, Arc::clone(&chunks));
        Ok(Some(chunks).filter(has_frame))
    }
}

fn read(packs: &Packs, pack: PackId) -> Result<Option<Footer>> {
    // In this order: a pack that is not open has its footer by then.
    match packs.open_footer(pack) {
        Some(open) => open.list().map(Some),
        None => packs.footer(pack),
    }
}
