//! What is needed by what: an exact count over the whole store, in memory.
//!
//! A mark pass gives every stored copy of a chunk a number, its *ordinal*: packs one behind the other, in each the items
//! of its frames in their order. A recipe then is a list of ranges of ordinals, taken from its placement, and every
//! question about who needs which bytes is a walk over such ranges: see [`crate::usage`] and [`Mark::freed_by`].
//!
//! Copies are counted, not ids: a chunk that was stored twice takes room twice, and each recipe needs the copy that its
//! placement names. What lies in a delta frame needs the frame's bases as well.
//!
//! The pass reads while others write. Rows come first, then packs, so that what the rows lean on is found; what was
//! committed after the pass began may be missing in it, what was deleted meanwhile may still be there. Chunks that could
//! not be found are counted as [`Mark::missing_chunks`], never as freed.

mod chunks;
mod collect;
mod holders;
mod kept;

use std::collections::HashSet;
use std::ops::Range;

use firn_index::{CacheName, UnixSeconds};
use firn_nix::StoreHash;

use crate::gc::ShortId;

pub use chunks::PackBytes;
pub(crate) use chunks::{ChunkTable, Sizes};
pub(crate) use collect::collect;
pub use holders::{Holder, HolderKind, Names};
pub use kept::Kept;

/// A set of chunks, by ordinal.
pub type ChunkSet = roaring::RoaringBitmap;

/// Consecutive ordinals that a recipe needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Span {
    pub(crate) fn ordinals(self) -> Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }
}

/// A recipe that somebody holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkedRecipe {
    /// Half of its id.
    pub(crate) id: ShortId,
    /// Bytes that it rebuilds.
    pub(crate) length: u64,
    /// Bytes of the frame that holds the recipe itself.
    pub(crate) record_bytes: u32,
    /// The number of the pack that this frame lies in.
    pub(crate) record_pack: u32,
    /// Where its spans begin; those of the next recipe end them.
    pub(crate) spans_from: u64,
    /// How many of the spans are its own chunks; the others are bases of delta frames.
    pub(crate) own_spans: u32,
    /// Whether it is known that it can't be restored.
    pub(crate) is_damaged: bool,
}

/// What a store holds and who needs it, as a mark pass found it.
///
/// Takes about 64 bytes a path, 48 a recipe, 8 a run of chunks, 8 a stored chunk and 28 a frame.
pub struct Mark {
    /// When the pass began.
    pub at: UnixSeconds,
    /// Chunks that a recipe or a delta frame names and that are in no pack: damage, or deleted during the pass.
    pub missing_chunks: u64,
    /// Recipes that could not be read; what holds them counts with its length alone.
    pub missing_recipes: u64,
    /// NAR bytes of all different NARs: what would be stored if whole NARs were kept once each.
    pub distinct_nar_bytes: u64,
    pub(crate) table: ChunkTable,
    pub(crate) names: Names,
    pub(crate) holders: Vec<Holder>,
    pub(crate) conflicts: Vec<MarkedConflict>,
    /// In order of their ids.
    pub(crate) recipes: Vec<MarkedRecipe>,
    pub(crate) spans: Vec<Span>,
}

/// Conflicts that a pass takes note of.
pub const MAX_CONFLICTS: usize = 100_000;

/// A path that was offered with another NAR than the one that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkedConflict {
    /// Number of its cache in [`Names::caches`].
    pub cache: u16,
    /// Its store hash.
    pub hash: StoreHash,
    /// When that happened last.
    pub at: UnixSeconds,
}

/// What would come back if some paths were not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// How many paths they are.
    pub paths: u64,
    /// Their NAR bytes.
    pub logical_bytes: u64,
    /// Uncompressed bytes of the chunks that nothing else needs.
    pub unique_bytes: u64,
    /// Bytes of these chunks in packs, and of recipes that nothing else needs. They come back when the packs that hold
    /// them are deleted or written anew.
    pub stored_bytes: u64,
    /// How many chunks.
    pub chunks: u64,
}

impl Mark {
    /// Returns all that holds recipes: paths, in order of cache and hash, then NARs that no path names, then documents.
    pub fn holders(&self) -> &[Holder] {
        &self.holders
    }

    /// Returns the paths that were offered with another NAR than the one that is there, in order of cache and hash; at most
    /// [`MAX_CONFLICTS`].
    pub fn conflicts(&self) -> &[MarkedConflict] {
        &self.conflicts
    }

    /// Returns the names that holders refer to by number.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Returns a path, if the pass saw it.
    pub fn path(&self, cache: &CacheName, hash: &StoreHash) -> Option<&Holder> {
        let cache = self.names.cache_number(cache)?;
        let paths = &self.holders[..self.paths()];
        let at = paths.binary_search_by_key(&(cache, *hash), |path| (path.cache, path.hash)).ok()?;
        paths.get(at)
    }

    /// Returns how many of the holders are paths; they come first.
    pub fn paths(&self) -> usize {
        self.holders.partition_point(|holder| holder.kind == HolderKind::Path)
    }

    /// Returns how much memory it takes, about.
    pub fn memory_bytes(&self) -> u64 {
        let of = |len: usize, size: usize| (len * size) as u64;
        of(self.holders.capacity(), size_of::<Holder>())
            + of(self.recipes.capacity(), size_of::<MarkedRecipe>())
            + of(self.spans.capacity(), size_of::<Span>())
            + self.table.memory_bytes()
    }

    /// Returns how many chunks recipes name, each as often as it is named.
    pub fn references(&self) -> u64 {
        (0..self.recipes.len()).flat_map(|recipe| self.own(recipe)).map(|span| u64::from(span.count)).sum()
    }

    /// Returns the bytes that all recipes which somebody holds rebuild, each once: what would be stored if NARs that are the
    /// same but for their store hashes were kept once.
    pub fn distinct_recipe_bytes(&self) -> u64 {
        let mut held = vec![false; self.recipes.len()];
        self.holders.iter().filter_map(Holder::recipe).for_each(|recipe| held[recipe] = true);
        self.recipes.iter().zip(held).filter(|(_, held)| *held).map(|(recipe, _)| recipe.length).sum()
    }

    /// Returns how many copies of chunks are stored.
    pub fn chunks(&self) -> u64 {
        self.table.len() as u64
    }

    /// Says what would come back if the paths that `goes` chooses were deleted, and nothing else. NARs without a path
    /// and documents stay.
    pub fn freed_by(&self, mut goes: impl FnMut(&Holder) -> bool) -> Freed {
        let mut freed = Freed::default();
        let mut needed = Needed::new(self.table.len());
        let mut going = HashSet::new();
        let mut staying = vec![false; self.recipes.len()];
        for holder in &self.holders {
            let is_going = holder.kind == HolderKind::Path && goes(holder);
            if is_going {
                freed.paths += 1;
                freed.logical_bytes += holder.bytes;
            }
            let Some(recipe) = holder.recipe() else { continue };
            if is_going {
                going.insert(recipe);
            } else if !std::mem::replace(&mut staying[recipe], true) {
                self.all(recipe).iter().for_each(|span| needed.add(*span));
            }
        }
        for recipe in going.into_iter().filter(|recipe| !staying[*recipe]) {
            freed.stored_bytes += u64::from(self.recipes[recipe].record_bytes);
            for ordinal in self.all(recipe).iter().flat_map(|span| span.ordinals()) {
                if needed.insert(ordinal) {
                    let chunk = self.table.chunk(ordinal);
                    freed.unique_bytes += u64::from(chunk.raw_bytes());
                    freed.stored_bytes += u64::from(chunk.stored_bytes());
                    freed.chunks += 1;
                }
            }
        }
        freed
    }

    /// Returns, for each pack in order of its id, how many of its bytes are chunks and recipes that something needs other
    /// than the paths that `goes` chooses.
    pub fn live_bytes(&self, mut goes: impl FnMut(&Holder) -> bool) -> Vec<PackBytes> {
        let mut is_live = vec![false; self.recipes.len()];
        for holder in self.holders.iter().filter(|holder| holder.kind != HolderKind::Path || !goes(holder)) {
            holder.recipe().into_iter().for_each(|recipe| is_live[recipe] = true);
        }
        self.live_bytes_of(&is_live)
    }

    /// Does as [`Mark::live_bytes`], with the recipes that are gone.
    pub(crate) fn live_bytes_without(&self, dead: &HashSet<ShortId>) -> Vec<PackBytes> {
        let mut is_live = vec![false; self.recipes.len()];
        for recipe in self.holders.iter().filter_map(Holder::recipe) {
            is_live[recipe] = !dead.contains(&self.recipes[recipe].id);
        }
        self.live_bytes_of(&is_live)
    }

    fn live_bytes_of(&self, is_live: &[bool]) -> Vec<PackBytes> {
        let mut needed = Needed::new(self.table.len());
        // Repacking moves nothing for what can't be restored.
        let live = || (0..self.recipes.len()).filter(|recipe| is_live[*recipe] && !self.recipes[*recipe].is_damaged);
        live().for_each(|recipe| self.all(recipe).iter().for_each(|span| needed.add(*span)));
        let mut packs = self.table.pack_bytes(|ordinal| needed.contains(ordinal));
        for recipe in live().map(|recipe| &self.recipes[recipe]) {
            if let Some(pack) = packs.get_mut(recipe.record_pack as usize) {
                pack.live_recipe_bytes += u64::from(recipe.record_bytes);
            }
        }
        packs.sort_unstable_by_key(|pack| pack.pack);
        packs
    }

    /// Returns the chunks that some holders need, bases included.
    pub fn chunks_of<'a>(&self, holders: impl IntoIterator<Item = &'a Holder>) -> ChunkSet {
        let mut recipes: Vec<usize> = holders.into_iter().filter_map(Holder::recipe).collect();
        recipes.sort_unstable();
        recipes.dedup();
        let mut set = ChunkSet::new();
        for span in recipes.into_iter().flat_map(|recipe| self.all(recipe)) {
            set.insert_range(span.first..=span.first + (span.count - 1));
        }
        set
    }

    /// Returns the uncompressed and the stored bytes of chunks.
    pub fn bytes_of(&self, chunks: &ChunkSet) -> (u64, u64) {
        chunks.iter().map(|ordinal| self.table.chunk(ordinal as usize)).fold((0, 0), |(raw, stored), chunk| {
            (raw + u64::from(chunk.raw_bytes()), stored + u64::from(chunk.stored_bytes()))
        })
    }

    /// Returns the stored bytes of those chunks of a set that a holder needs.
    pub fn shared_bytes(&self, chunks: &ChunkSet, holder: &Holder) -> u64 {
        let spans = holder.recipe().map_or(&[][..], |recipe| self.all(recipe));
        let of_set = spans.iter().flat_map(|span| span.ordinals()).filter(|at| chunks.contains(*at as u32));
        of_set.map(|ordinal| u64::from(self.table.chunk(ordinal).stored_bytes())).sum()
    }

    /// Returns what the store's packs hold beside chunks, and how much of the chunks nothing needs.
    pub fn packs(&self) -> PackTotals {
        let mut needed = Needed::new(self.table.len());
        self.spans.iter().for_each(|span| needed.add(*span));
        let mut totals = self.table.totals();
        for ordinal in (0..self.table.len()).filter(|ordinal| needed.contains(*ordinal)) {
            let chunk = self.table.chunk(ordinal);
            totals.live_unique_bytes += u64::from(chunk.raw_bytes());
            totals.live_chunk_bytes += u64::from(chunk.stored_bytes());
            totals.delta_saved_bytes += u64::from(chunk.saved_bytes());
        }
        totals
    }

    /// Returns the spans of a recipe's own chunks.
    pub(crate) fn own(&self, recipe: usize) -> &[Span] {
        &self.all(recipe)[..self.recipes[recipe].own_spans as usize]
    }

    /// Returns the spans of the bases of a recipe's delta frames.
    pub(crate) fn bases(&self, recipe: usize) -> &[Span] {
        &self.all(recipe)[self.recipes[recipe].own_spans as usize..]
    }

    /// Returns all spans of a recipe.
    pub(crate) fn all(&self, recipe: usize) -> &[Span] {
        let from = self.recipes[recipe].spans_from as usize;
        let to = self.recipes.get(recipe + 1).map_or(self.spans.len(), |next| next.spans_from as usize);
        &self.spans[from..to]
    }
}

/// Where the bytes of all packs go. `live_chunk_bytes`, `dead_chunk_bytes`, `recipe_bytes`, `record_bytes` and
/// `overhead_bytes` add up to `stored_bytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PackTotals {
    /// Packs, the open one included.
    pub packs: u64,
    /// Packs whose list of frames could not be read; their bytes are in `overhead_bytes`.
    pub unread_packs: u64,
    /// Bytes of all packs.
    pub stored_bytes: u64,
    /// Bytes of frames of chunks.
    pub chunk_bytes: u64,
    /// Of these, the part of chunks that a recipe needs.
    pub live_chunk_bytes: u64,
    /// Bytes of frames of recipes, those that nobody needs any more included.
    pub recipe_bytes: u64,
    /// Bytes of frames of records.
    pub record_bytes: u64,
    /// Uncompressed bytes of all chunks.
    pub unique_bytes: u64,
    /// Of these, the chunks that a recipe needs.
    pub live_unique_bytes: u64,
    /// Bytes that delta frames save, estimated by how far the frames of their bases were compressed.
    pub delta_saved_bytes: u64,
}

impl PackTotals {
    /// Returns the stored bytes of chunks that nothing needs.
    pub fn dead_chunk_bytes(&self) -> u64 {
        self.chunk_bytes.saturating_sub(self.live_chunk_bytes)
    }

    /// Returns the bytes of headers, footers and holes.
    pub fn overhead_bytes(&self) -> u64 {
        self.stored_bytes.saturating_sub(self.chunk_bytes + self.recipe_bytes + self.record_bytes)
    }
}

/// A bit for each chunk. A plain one: spans are scattered, and it needs no search to be filled.
pub(crate) struct Needed(Vec<u64>);

impl Needed {
    pub(crate) fn new(chunks: usize) -> Self {
        Self(vec![0; chunks.div_ceil(64)])
    }

    /// Adds a chunk; returns whether it was not there.
    pub(crate) fn insert(&mut self, ordinal: usize) -> bool {
        let (word, bit) = (&mut self.0[ordinal / 64], 1 << (ordinal % 64));
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(crate) fn add(&mut self, span: Span) {
        for ordinal in span.ordinals() {
            self.0[ordinal / 64] |= 1 << (ordinal % 64);
        }
    }

    pub(crate) fn contains(&self, ordinal: usize) -> bool {
        self.0[ordinal / 64] & (1 << (ordinal % 64)) != 0
    }
}
