//! Bases: stored chunks that are like a new one, so that the new one costs only what differs.
//!
//! They are looked for at the same place of earlier NARs (the path inside the NAR, digits blurred, and the offset there:
//! a stock upload comes before the name of its package), then by features of the chunk's bytes. What is found is a hint:
//! it must be offered by the chunk index, be what its id says, and lie in a frame that has no bases itself.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_chunk::{ChunkId, Hint, Origin, RecipeId};
use firn_index::{LineageKey, LineageRow};
use firn_pack::{ChunkLoc, FrameLoc};

use crate::Result;
use crate::engine::Shared;
use crate::frames::CheckedFrame;
use crate::packs::LOOKUP_IDS;
use crate::recipes::StoredRecipe;

/// Bases of one chunk at most: those at its place in the earlier NAR, as short as they may be, and one like it.
const MAX_CHUNK_BASES: usize = 8;

/// Bytes of new chunks for which one look at a recipe or a frame is allowed: each may read and decode a MiB, and hints can be
/// made to lead anywhere. What takes none adds to what the next may take, up to [`MAX_LOOKS`].
const BYTES_PER_LOOK: usize = 1 << 10;

/// Looks that are saved up, at most.
const MAX_LOOKS: usize = 4096;

/// Recipes that an ingest keeps at hand because they had bases.
const RECIPES: usize = 8;

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

/// The streams of earlier NARs that were asked for last.
struct Earlier {
    key: u64,
    /// The offset that was asked for last.
    offset: u64,
    streams: Vec<EarlierStream>,
}

/// Looks for bases for new chunks. It is the faster the more of them come in the order of their NAR.
#[derive(Default)]
pub(crate) struct BaseFinder {
    earlier: Option<Earlier>,
    /// The recipe that had the last base: most of a NAR is like one earlier NAR.
    used: Option<RecipeId>,
    recipes: HashMap<RecipeId, Option<Arc<StoredRecipe>>>,
    /// What the features of chunks lead to that are about to be asked for.
    rows: HashMap<LineageKey, Vec<LineageRow>>,
    /// How often it may look yet.
    looks: usize,
}

/// How a candidate becomes a base, if it can be one.
pub(crate) type Fetch<'a, T> = dyn FnMut(&ChunkId) -> Result<Option<T>> + 'a;

impl BaseFinder {
    /// Returns bases for a new chunk of `len` bytes; none if there is nothing like it. `fetch` says what can be one.
    ///
    /// # Errors
    /// Those of the indexes; what is damaged is forgotten and passed over.
    pub(crate) fn find<T>(
        &mut self,
        shared: &Shared,
        hint: &Hint,
        len: usize,
        fetch: &mut Fetch<'_, T>,
    ) -> Result<Vec<T>> {
        self.looks = MAX_LOOKS.min(self.looks + len.div_ceil(BYTES_PER_LOOK));
        let mut bases = match hint.origin {
            Some(origin) => self.at_place(shared, origin, len as u64, fetch)?,
            None => Vec::new(),
        };
        if let Some(features) = hint.features
            && let Some(like) = self.alike(shared, features, fetch)?
            && bases.iter().all(|(id, _)| *id != like.0)
        {
            bases.push(like);
        }
        Ok(bases.into_iter().map(|(_, base)| base).collect())
    }

    /// Looks up in one step what the features of chunks lead to for which [`BaseFinder::find`] is called next; what was looked
    /// up before is forgotten.
    ///
    /// # Errors
    /// Those of the index.
    pub(crate) fn look_ahead<'a>(&mut self, shared: &Shared, hints: impl Iterator<Item = &'a Hint>) -> Result<()> {
        self.rows.clear();
        let keys: Vec<LineageKey> = hints.filter_map(|hint| hint.features).flatten().map(LineageKey).collect();
        for some in keys.chunks(LOOKUP_IDS) {
            self.rows.extend(some.iter().copied().zip(shared.packs.chunks.lineage(some)?));
        }
        Ok(())
    }

    /// Returns the chunks at the same place of the newest earlier NAR that has any.
    fn at_place<T>(
        &mut self,
        shared: &Shared,
        origin: Origin,
        len: u64,
        fetch: &mut Fetch<'_, T>,
    ) -> Result<Vec<(ChunkId, T)>> {
        let mut earlier = self.earlier_of(shared, origin)?;
        let range = origin.offset..origin.offset.saturating_add(len);
        let mut bases = Vec::new();
        for stream in &mut earlier.streams {
            for id in stream.over(&range).into_iter().take_while(|_| self.may_look()) {
                bases.extend(fetch(&id)?.map(|base| (id, base)));
            }
            if !bases.is_empty() {
                self.used = Some(stream.recipe);
                break;
            }
        }
        self.earlier = Some(earlier);
        Ok(bases)
    }

    /// Returns the earlier streams of a place, ready to be asked from its offset on.
    fn earlier_of(&mut self, shared: &Shared, Origin { key, offset }: Origin) -> Result<Earlier> {
        if let Some(earlier) = self.earlier.take().filter(|it| it.key == key && it.offset <= offset) {
            return Ok(Earlier { offset, ..earlier });
        }
        let rows = shared.packs.chunks.lineage(&[LineageKey(key)])?.into_iter().next().unwrap_or_default();
        let mut streams = Vec::new();
        for LineageRow { recipe, chunk } in rows {
            let Some(stored) = self.recipe(shared, &recipe)? else { continue };
            streams.push(EarlierStream { recipe, stored, chunk: chunk as usize, start: 0 });
        }
        let used = self.used;
        streams.sort_by_key(|stream| Some(stream.recipe) != used);
        Ok(Earlier { key, offset, streams })
    }

    /// Returns a chunk that shares a feature.
    fn alike<T>(
        &mut self,
        shared: &Shared,
        features: [u64; 2],
        fetch: &mut Fetch<'_, T>,
    ) -> Result<Option<(ChunkId, T)>> {
        let keys = features.map(LineageKey);
        let ahead = keys.map(|key| self.rows.remove(&key));
        let rows = match ahead {
            [Some(first), Some(second)] => [first, second].concat(),
            _ => shared.packs.chunks.lineage(&keys)?.concat(),
        };
        for row in rows {
            let Some(stored) = self.recipe(shared, &row.recipe)? else { continue };
            let Some(chunk) = stored.recipe.chunks.get(row.chunk as usize) else { continue };
            if !self.may_look() {
                break;
            }
            if let Some(base) = fetch(&chunk.id)? {
                return Ok(Some((chunk.id, base)));
            }
        }
        Ok(None)
    }

    /// Takes one of the looks that are allowed; returns whether there was one.
    fn may_look(&mut self) -> bool {
        let left = self.looks.checked_sub(1);
        self.looks = left.unwrap_or(0);
        left.is_some()
    }

    fn recipe(&mut self, shared: &Shared, id: &RecipeId) -> Result<Option<Arc<StoredRecipe>>> {
        if let Some(known) = self.recipes.get(id) {
            return Ok(known.clone());
        }
        if !self.may_look() {
            return Ok(None);
        }
        let row = shared.packs.meta.recipe(id)?.filter(|row| row.damaged_at.is_none());
        let stored = match row.map(|row| shared.recipes.get(&shared.frames, id, &row)).transpose() {
            Err(error) if error.is_of_pack() => None,
            other => other?,
        };
        if self.recipes.len() >= RECIPES {
            self.recipes.clear();
        }
        self.recipes.insert(*id, stored.clone());
        Ok(stored)
    }
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
        Err(error) if error.is_of_pack() => return Ok(None),
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
