//! Bases: stored chunks that are like a new one, so that the new one costs only what differs.
//!
//! They are looked for at the same place of earlier NARs (the path inside the NAR, digits blurred, and the offset there:
//! a stock upload comes before the name of its package), then by features of the chunk's bytes. What is found is a hint:
//! it must be offered by the chunk index, be what its id says, and lie in a frame that has no bases itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_chunk::{Chunk, ChunkId, Origin, RecipeId, features};
use firn_index::{LineageKey, LineageRow};
use firn_pack::{ChunkLoc, FrameLoc};

use crate::Result;
use crate::engine::Shared;
use crate::frames::CheckedFrame;
use crate::recipes::StoredRecipe;

/// Chunks below this length are stored without bases: naming one takes 64 bytes.
const MIN_CHUNK_BYTES: usize = 2 << 10;

/// Streams below this length are not worth a row of their own.
const MIN_STREAM_BYTES: u64 = 4 << 10;

/// Bases of one chunk at most: those at its place in the earlier NAR, as short as they may be, and one like it.
const MAX_CHUNK_BASES: usize = 8;

/// Recipes that an ingest keeps at hand because they had bases.
const RECIPES: usize = 8;

/// Rows that an ingest gathers at most: 16 MiB.
const MAX_ROWS: usize = 1 << 20;

/// A stored chunk that a new one may be compressed with.
pub(crate) struct Base {
    pub(crate) id: ChunkId,
    /// The frame that holds it, which has no bases.
    pub(crate) loc: FrameLoc,
    /// The length of the frame's chunks, uncompressed.
    pub(crate) raw_bytes: usize,
    data: Bytes,
}

impl Base {
    /// Returns a base with its bytes.
    pub(crate) fn new(id: ChunkId, loc: FrameLoc, raw_bytes: usize, data: Bytes) -> Self {
        Self { id, loc, raw_bytes, data }
    }

    /// Returns the chunk's bytes.
    pub(crate) fn data(&self) -> &[u8] {
        &self.data
    }

    /// Returns the chunk's bytes.
    pub(crate) fn into_data(self) -> Bytes {
        self.data
    }
}

/// The stream of an earlier NAR with the same key as the current one. Offsets only grow, so one look along it is enough.
struct EarlierStream {
    recipe: RecipeId,
    stored: Arc<StoredRecipe>,
    /// The next chunk, and where in the stream it begins.
    chunk: usize,
    start: u64,
}

impl EarlierStream {
    /// Returns the chunks that lie over a range of the stream; ranges are asked for in order.
    fn over(&mut self, range: &Range<u64>) -> Vec<ChunkId> {
        let chunks = &self.stored.recipe.chunks;
        while let Some(chunk) = chunks.get(self.chunk)
            && self.start + u64::from(chunk.len) <= range.start
        {
            self.start += u64::from(chunk.len);
            self.chunk += 1;
        }
        let mut start = self.start;
        let mut over = Vec::new();
        for chunk in chunks.get(self.chunk..).unwrap_or_default() {
            if start >= range.end || over.len() == MAX_CHUNK_BASES {
                break;
            }
            over.push(chunk.id);
            start += u64::from(chunk.len);
        }
        over
    }
}

/// The stream that the last chunk belongs to.
struct Stream {
    key: u64,
    first: u32,
    bytes: u64,
    /// What is known of it; looked up with its first new chunk.
    earlier: Option<Vec<EarlierStream>>,
}

/// Looks for bases for the new chunks of one ingest, and notes what later ones may find.
#[derive(Default)]
pub(crate) struct BaseFinder {
    stream: Option<Stream>,
    chunks: u32,
    /// The recipe that had the last base: most of a NAR is like one earlier NAR.
    used: Option<RecipeId>,
    recipes: HashMap<RecipeId, Option<Arc<StoredRecipe>>>,
    rows: Vec<(LineageKey, u32)>,
}

/// How a candidate becomes a base, if it can be one.
pub(crate) type Fetch<'a, T> = dyn FnMut(&ChunkId) -> Result<Option<T>> + 'a;

impl BaseFinder {
    /// Takes note of the next chunk of the input, new or not.
    pub(crate) fn pass(&mut self, chunk: &Chunk<'_>) {
        let key = chunk.origin.map(|origin| origin.key);
        if let (Some(stream), Some(origin)) = (&mut self.stream, chunk.origin)
            && stream.key == origin.key
            && origin.offset > 0
        {
            stream.bytes = origin.offset + chunk.data.len() as u64;
        } else {
            self.end_stream();
            let is_first = chunk.origin.is_some_and(|origin| origin.offset == 0);
            self.stream = key.filter(|_| is_first).map(|key| Stream {
                key,
                first: self.chunks,
                bytes: chunk.data.len() as u64,
                earlier: None,
            });
        }
        self.chunks = self.chunks.saturating_add(1);
    }

    /// Returns bases for the chunk that was passed last, which is new; none if there is nothing like it. `fetch` says
    /// what can be one.
    ///
    /// # Errors
    /// Those of the indexes; what is damaged is forgotten and passed over.
    pub(crate) fn find<T>(&mut self, shared: &Shared, chunk: &Chunk<'_>, fetch: &mut Fetch<'_, T>) -> Result<Vec<T>> {
        if chunk.data.len() < MIN_CHUNK_BYTES {
            return Ok(Vec::new());
        }
        let mut bases = match chunk.origin {
            Some(origin) => self.at_place(shared, origin, chunk.data.len() as u64, fetch)?,
            None => Vec::new(),
        };
        let Some(features) = features(chunk.data) else { return Ok(without_ids(bases)) };
        if let Some(like) = self.alike(shared, features, fetch)?
            && bases.iter().all(|(id, _)| *id != like.0)
        {
            bases.push(like);
        }
        if bases.is_empty() && self.rows.len() < MAX_ROWS {
            let number = self.chunks.saturating_sub(1);
            self.rows.extend(features.map(|feature| (LineageKey(feature), number)));
        }
        Ok(without_ids(bases))
    }

    /// Returns what later ingests may find: keys, and which of the recipe's chunks they lead to.
    pub(crate) fn finish(&mut self) -> Vec<(LineageKey, u32)> {
        self.end_stream();
        std::mem::take(&mut self.rows)
    }

    fn end_stream(&mut self) {
        if let Some(stream) = self.stream.take()
            && stream.bytes >= MIN_STREAM_BYTES
            && self.rows.len() < MAX_ROWS
        {
            self.rows.push((LineageKey(stream.key), stream.first));
        }
    }

    /// Returns the chunks at the same place of the newest earlier NAR that has any.
    fn at_place<T>(
        &mut self,
        shared: &Shared,
        origin: Origin,
        len: u64,
        fetch: &mut Fetch<'_, T>,
    ) -> Result<Vec<(ChunkId, T)>> {
        let Some(mut stream) = self.stream.take() else { return Ok(Vec::new()) };
        let found = self.at_place_of(&mut stream, shared, origin, len, fetch);
        self.stream = Some(stream);
        found
    }

    fn at_place_of<T>(
        &mut self,
        stream: &mut Stream,
        shared: &Shared,
        origin: Origin,
        len: u64,
        fetch: &mut Fetch<'_, T>,
    ) -> Result<Vec<(ChunkId, T)>> {
        let earlier = match &mut stream.earlier {
            Some(earlier) => earlier,
            none => none.insert(self.earlier(shared, origin.key)?),
        };
        let range = origin.offset..origin.offset.saturating_add(len);
        for earlier in earlier {
            let mut bases = Vec::new();
            for id in earlier.over(&range) {
                bases.extend(fetch(&id)?.map(|base| (id, base)));
            }
            if !bases.is_empty() {
                self.used = Some(earlier.recipe);
                return Ok(bases);
            }
        }
        Ok(Vec::new())
    }

    fn earlier(&mut self, shared: &Shared, key: u64) -> Result<Vec<EarlierStream>> {
        let rows = shared.packs.chunks.lineage(&[LineageKey(key)])?.into_iter().next().unwrap_or_default();
        let mut streams = Vec::new();
        for LineageRow { recipe, chunk } in rows {
            let Some(stored) = self.recipe(shared, &recipe)? else { continue };
            streams.push(EarlierStream { recipe, stored, chunk: chunk as usize, start: 0 });
        }
        let used = self.used;
        streams.sort_by_key(|stream| Some(stream.recipe) != used);
        Ok(streams)
    }

    /// Returns a chunk that shares a feature.
    fn alike<T>(
        &mut self,
        shared: &Shared,
        features: [u64; 2],
        fetch: &mut Fetch<'_, T>,
    ) -> Result<Option<(ChunkId, T)>> {
        let keys = features.map(LineageKey);
        for row in shared.packs.chunks.lineage(&keys)?.into_iter().flatten() {
            let Some(stored) = self.recipe(shared, &row.recipe)? else { continue };
            let Some(chunk) = stored.recipe.chunks.get(row.chunk as usize) else { continue };
            if let Some(base) = fetch(&chunk.id)? {
                return Ok(Some((chunk.id, base)));
            }
        }
        Ok(None)
    }

    fn recipe(&mut self, shared: &Shared, id: &RecipeId) -> Result<Option<Arc<StoredRecipe>>> {
        if let Some(known) = self.recipes.get(id) {
            return Ok(known.clone());
        }
        let row = shared.packs.meta.recipe(id)?.filter(|row| row.damaged_at.is_none());
        let stored = match row.map(|row| shared.recipes.get(&shared.frames, id, &row)).transpose() {
            Err(error) if error.is_damage() => None,
            other => other?,
        };
        if self.recipes.len() >= RECIPES {
            self.recipes.clear();
        }
        self.recipes.insert(*id, stored.clone());
        Ok(stored)
    }
}

fn without_ids<T>(bases: Vec<(ChunkId, T)>) -> Vec<T> {
    bases.into_iter().map(|(_, base)| base).collect()
}

/// Returns a chunk of a decoded frame, if it is that chunk and the frame has no bases.
pub(crate) fn base_in(frame: &CheckedFrame, id: &ChunkId, loc: ChunkLoc) -> Option<Base> {
    let range = frame.range(loc.index, id).filter(|_| frame.bases().is_empty())?;
    Some(Base::new(*id, loc.frame, frame.raw_bytes(), frame.data().slice(range)))
}

/// Returns a chunk if it is offered, whole, and in a frame without bases.
pub(crate) fn fetch(shared: &Shared, id: &ChunkId) -> Result<Option<Base>> {
    let Some(loc) = shared.packs.lookup(id)? else { return Ok(None) };
    let frame = match shared.frames.get(loc.frame, &[], &mut std::iter::empty()) {
        Ok(fetched) => fetched.into_iter().next().map(|(_, frame)| frame),
        Err(error) if error.is_damage() => None,
        Err(error) => return Err(error),
    };
    match frame {
        Some(frame) if frame.chunk(loc.index, id).is_some() => Ok(base_in(&frame, id, loc)),
        _ => {
            // So that it is stored again when it comes again.
            shared.packs.forget_chunks(&[(*id, loc)])?;
            Ok(None)
        }
    }
}
