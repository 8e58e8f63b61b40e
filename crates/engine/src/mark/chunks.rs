//! Every stored copy of a chunk, by ordinal.

use std::collections::HashMap;
use std::ops::Range;

use firn_pack::{ChunkLoc, Footer, FrameEntry, FrameKind, FrameLoc, PackId};

use super::{PackTotals, Span};
use crate::{Error, Result};

/// A pack and how many of its bytes are needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackBytes {
    /// Which pack.
    pub pack: PackId,
    /// Its length.
    pub stored_bytes: u64,
    /// Bytes of its chunks that are needed, as shares of their frames; without recipes and records.
    pub live_bytes: u64,
    /// Bytes of its frames of chunks.
    pub chunk_bytes: u64,
    /// Bytes of its frames of recipes that are needed.
    pub live_recipe_bytes: u64,
    /// Bytes of its frames of recipes.
    pub recipe_bytes: u64,
    /// Bytes of its frames of records, whether or not these count.
    pub record_bytes: u64,
}

impl PackBytes {
    /// Returns how many of its bytes hold chunks and recipes that nothing needs: what writing the rest anew gives back.
    pub fn dead_bytes(&self) -> u64 {
        self.chunk_bytes.saturating_sub(self.live_bytes) + self.recipe_bytes.saturating_sub(self.live_recipe_bytes)
    }
}

/// The sizes of a chunk in 8 bytes: uncompressed, its share of its frame, and what its delta frame saves of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sizes(u64);

const SIZE_BITS: u32 = 21;
const MAX_SIZE: u32 = (1 << SIZE_BITS) - 1;

impl Sizes {
    /// Each must be at most 2 MiB less 1: a chunk has 256 KiB at most, and a frame takes hardly more than its chunks.
    fn new(raw_bytes: u32, stored_bytes: u32) -> Self {
        Self(u64::from(raw_bytes.min(MAX_SIZE)) | u64::from(stored_bytes.min(MAX_SIZE)) << SIZE_BITS)
    }

    fn set_saved(&mut self, saved_bytes: u32) {
        self.0 |= u64::from(saved_bytes.min(MAX_SIZE)) << (2 * SIZE_BITS);
    }

    pub(crate) fn raw_bytes(self) -> u32 {
        self.0 as u32 & MAX_SIZE
    }

    pub(crate) fn stored_bytes(self) -> u32 {
        (self.0 >> SIZE_BITS) as u32 & MAX_SIZE
    }

    pub(crate) fn saved_bytes(self) -> u32 {
        (self.0 >> (2 * SIZE_BITS)) as u32 & MAX_SIZE
    }
}

/// A frame of chunks.
#[derive(Debug, Clone, Copy)]
struct TableFrame {
    offset: u64,
    len: u32,
    /// The ordinal of its first chunk.
    first: u32,
    /// Where its bases begin in [`ChunkTable::bases`]; those of the next frame end them.
    bases_from: u32,
}

#[derive(Debug, Clone)]
struct TablePack {
    id: PackId,
    stored_bytes: u64,
    chunk_bytes: u64,
    recipe_bytes: u64,
    record_bytes: u64,
    frames: Range<u32>,
}

/// All packs, their frames of chunks, and the sizes of all chunks.
#[derive(Default)]
pub(crate) struct ChunkTable {
    packs: Vec<TablePack>,
    numbers: HashMap<PackId, u32>,
    frames: Vec<TableFrame>,
    chunks: Vec<Sizes>,
    /// Ordinals of the bases of delta frames; [`NO_CHUNK`] for one that is in no pack.
    bases: Vec<u32>,
    totals: PackTotals,
}

/// The ordinal of a chunk that is in no pack.
const NO_CHUNK: u32 = u32::MAX;

/// The number of a pack that is not there.
pub(super) const NO_PACK: u32 = u32::MAX;

impl ChunkTable {
    /// Adds a pack whose frames can't be listed.
    pub(super) fn add_unread(&mut self, stored_bytes: u64) {
        self.totals.packs += 1;
        self.totals.unread_packs += 1;
        self.totals.stored_bytes += stored_bytes;
    }

    /// Adds a pack; bases are given as ids, to be found by [`ChunkTable::resolve`].
    pub(super) fn add(&mut self, footer: &Footer, stored_bytes: u64, bases: &mut BaseIds) -> Result<()> {
        let first = small(self.frames.len())?;
        let (mut chunk_bytes, mut recipe_bytes, mut record_bytes) = (0, 0, 0);
        for (offset, entry) in &footer.frames {
            let len = u64::from(entry.len);
            match entry.kind {
                FrameKind::Chunks => {
                    chunk_bytes += len;
                    self.totals.unique_bytes += u64::from(entry.raw_len);
                    let (first, bases_from) = (small(self.chunks.len())?, small(bases.0.len())?);
                    self.frames.push(TableFrame { offset: *offset, len: entry.len, first, bases_from });
                    self.chunks.extend(shares(entry));
                    bases.0.extend(entry.bases.iter().map(short));
                }
                FrameKind::Recipe => recipe_bytes += len,
                FrameKind::Record => record_bytes += len,
            }
        }
        self.totals.recipe_bytes += recipe_bytes;
        self.totals.record_bytes += record_bytes;
        self.totals.packs += 1;
        self.totals.stored_bytes += stored_bytes;
        self.totals.chunk_bytes += chunk_bytes;
        self.numbers.insert(footer.id, small(self.packs.len())?);
        let frames = first..small(self.frames.len())?;
        self.packs.push(TablePack { id: footer.id, stored_bytes, chunk_bytes, recipe_bytes, record_bytes, frames });
        Ok(())
    }

    /// Returns an index in which bases can be looked up, to be filled by [`BaseIndex::fill`].
    pub(super) fn base_index(ids: &BaseIds) -> BaseIndex {
        BaseIndex(ids.0.iter().map(|id| (*id, NO_CHUNK)).collect())
    }

    /// Replaces ids of bases by ordinals, and estimates what each delta frame saves; returns how many are in no pack.
    pub(super) fn resolve(&mut self, ids: BaseIds, index: &BaseIndex) -> u64 {
        self.bases = ids.0.iter().map(|id| index.0.get(id).copied().unwrap_or(NO_CHUNK)).collect();
        for number in 0..self.frames.len() {
            let (mut raw, mut stored) = (0u64, 0u64);
            for base in self.bases_of(number).iter().filter_map(|base| self.chunks.get(*base as usize)) {
                raw += u64::from(base.raw_bytes());
                stored += u64::from(base.stored_bytes());
            }
            if raw == 0 {
                continue;
            }
            for chunk in self.chunks_of(number) {
                let sizes = &mut self.chunks[chunk];
                let plain = u64::from(sizes.raw_bytes()) * stored / raw;
                let saved = plain.saturating_sub(u64::from(sizes.stored_bytes()));
                sizes.set_saved(u32::try_from(saved).unwrap_or(u32::MAX));
            }
        }
        self.bases.iter().filter(|base| **base == NO_CHUNK).count() as u64
    }

    /// Returns the frame at a place, if there is one.
    pub(super) fn frame(&self, loc: &FrameLoc) -> Option<usize> {
        let pack = &self.packs[*self.numbers.get(&loc.pack)? as usize];
        let frames = pack.frames.start as usize..pack.frames.end as usize;
        let at = self.frames[frames.clone()].binary_search_by_key(&loc.offset, |frame| frame.offset).ok()?;
        Some(frames.start + at)
    }

    /// Returns the ordinals of some items of a frame; `None` when it has not so many.
    pub(super) fn span(&self, frame: usize, first: u16, count: u32) -> Option<Span> {
        let of_frame = self.chunks_of(frame);
        let first = of_frame.start + usize::from(first);
        let is_within = first + count as usize <= of_frame.end;
        is_within.then_some(Span { first: u32::try_from(first).ok()?, count })
    }

    /// Returns the frame and the ordinal of a chunk at a place.
    pub(super) fn find(&self, loc: &ChunkLoc) -> Option<(usize, Span)> {
        let frame = self.frame(&loc.frame)?;
        Some((frame, self.span(frame, loc.index, 1)?))
    }

    /// Adds the bases of a frame to a recipe's spans.
    pub(super) fn add_bases(&self, frame: usize, spans: &mut Vec<Span>) {
        let there = self.bases_of(frame).iter().filter(|base| **base != NO_CHUNK);
        spans.extend(there.map(|base| Span { first: *base, count: 1 }));
    }

    pub(crate) fn len(&self) -> usize {
        self.chunks.len()
    }

    pub(crate) fn chunk(&self, ordinal: usize) -> Sizes {
        self.chunks[ordinal]
    }

    pub(super) fn totals(&self) -> PackTotals {
        self.totals
    }

    /// Returns the number of a pack; [`NO_PACK`] for one that is not there.
    pub(super) fn number_of(&self, pack: &PackId) -> u32 {
        self.numbers.get(pack).copied().unwrap_or(NO_PACK)
    }

    /// Returns all packs, in order of their numbers.
    pub(super) fn pack_bytes(&self, is_live: impl Fn(usize) -> bool) -> Vec<PackBytes> {
        let of_pack = |pack: &TablePack| {
            let live = self.ordinals(pack).filter(|ordinal| is_live(*ordinal));
            PackBytes {
                pack: pack.id,
                stored_bytes: pack.stored_bytes,
                live_bytes: live.map(|ordinal| u64::from(self.chunks[ordinal].stored_bytes())).sum(),
                chunk_bytes: pack.chunk_bytes,
                live_recipe_bytes: 0,
                recipe_bytes: pack.recipe_bytes,
                record_bytes: pack.record_bytes,
            }
        };
        self.packs.iter().map(of_pack).collect()
    }

    pub(super) fn ordinals_of(&self, pack: &PackId) -> Option<Range<u32>> {
        let ordinals = self.ordinals(&self.packs[*self.numbers.get(pack)? as usize]);
        Some(u32::try_from(ordinals.start).ok()?..u32::try_from(ordinals.end).ok()?)
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        let sizes = self.chunks.capacity() * size_of::<Sizes>()
            + self.frames.capacity() * size_of::<TableFrame>()
            + self.bases.capacity() * size_of::<u32>()
            + self.packs.capacity() * (size_of::<TablePack>() + 32);
        sizes as u64
    }

    fn ordinals(&self, pack: &TablePack) -> Range<usize> {
        self.first_of(pack.frames.start as usize)..self.first_of(pack.frames.end as usize)
    }

    fn chunks_of(&self, frame: usize) -> Range<usize> {
        self.first_of(frame)..self.first_of(frame + 1)
    }

    fn first_of(&self, frame: usize) -> usize {
        self.frames.get(frame).map_or(self.chunks.len(), |frame| frame.first as usize)
    }

    fn bases_of(&self, frame: usize) -> &[u32] {
        let from = |frame: usize| self.frames.get(frame).map_or(self.bases.len(), |frame| frame.bases_from as usize);
        &self.bases[from(frame)..from(frame + 1)]
    }

    /// Returns the length of a frame as it is stored.
    pub(super) fn frame_len(&self, frame: usize) -> u32 {
        self.frames[frame].len
    }
}

/// The bases of all delta frames, one frame's behind the other's. Half of an id is enough to find a chunk by.
#[derive(Default)]
pub(super) struct BaseIds(Vec<u128>);

/// Where bases lie.
pub(super) struct BaseIndex(HashMap<u128, u32>);

impl BaseIndex {
    /// Returns whether no frame has bases.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the chunks of a pack that was added to the table. Of a base that is stored more than once, the first counts.
    pub(super) fn fill(&mut self, table: &ChunkTable, footer: &Footer) {
        let Some(ordinals) = table.ordinals_of(&footer.id) else { return };
        // A base lies in a frame that has none itself.
        let frames = footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks);
        let items = frames.flat_map(|(_, entry)| entry.items.iter().map(|item| (entry.bases.is_empty(), item)));
        for (ordinal, (is_plain, item)) in ordinals.zip(items) {
            if is_plain && let Some(place) = self.0.get_mut(&short(&item.id)).filter(|place| **place == NO_CHUNK) {
                *place = ordinal;
            }
        }
    }
}

fn short(id: &[u8; 32]) -> u128 {
    u128::from_le_bytes(*id.first_chunk().expect("16 of 32 bytes"))
}

fn small(n: usize) -> Result<u32> {
    let too_many = |_| Error::Unusable(format!("it has more chunks or frames ({n}) than can be counted"));
    u32::try_from(n).ok().filter(|n| *n != NO_CHUNK).ok_or(()).map_err(too_many)
}

/// Divides a frame among its chunks by their lengths; the shares add up to the frame's length.
fn shares(entry: &FrameEntry) -> impl Iterator<Item = Sizes> + '_ {
    let (len, raw_len) = (u64::from(entry.len), u64::from(entry.raw_len.max(1)));
    let (mut raw, mut shared) = (0u64, 0u64);
    let last = entry.items.len().saturating_sub(1);
    entry.items.iter().enumerate().map(move |(index, item)| {
        raw += u64::from(item.len);
        let until = if index == last { len } else { len * raw / raw_len };
        let share = until.saturating_sub(shared);
        shared = until;
        Sizes::new(item.len, u32::try_from(share).unwrap_or(u32::MAX))
    })
}

#[cfg(test)]
mod tests {
    use firn_pack::{Codec, Item};

    use super::*;

    #[test]
    fn sizes_stay_apart() {
        let mut sizes = Sizes::new(1 << 18, 77);
        sizes.set_saved(1 << 20);
        assert_eq!((sizes.raw_bytes(), sizes.stored_bytes(), sizes.saved_bytes()), (1 << 18, 77, 1 << 20));
        let mut most = Sizes::new(u32::MAX, u32::MAX);
        most.set_saved(u32::MAX);
        assert_eq!((most.raw_bytes(), most.stored_bytes(), most.saved_bytes()), (MAX_SIZE, MAX_SIZE, MAX_SIZE));
    }

    #[test]
    fn shares_of_a_frame_add_up_to_it() {
        for (len, lens) in [(1000, vec![1, 2, 3]), (7, vec![5; 100]), (44, vec![1]), (100_000, vec![33_333; 3])] {
            let raw_len = lens.iter().sum();
            let items: Vec<_> = lens.iter().map(|len| Item { id: [0; 32], len: *len }).collect();
            let entry =
                FrameEntry { kind: FrameKind::Chunks, codec: Codec::Zstd, len, raw_len, items, bases: Vec::new() };
            let all: Vec<_> = shares(&entry).collect();
            assert_eq!(all.iter().map(|sizes| sizes.stored_bytes()).sum::<u32>(), len);
            assert_eq!(all.iter().map(|sizes| sizes.raw_bytes()).collect::<Vec<_>>(), lens);
        }
    }
}
