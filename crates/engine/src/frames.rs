//! Decoded frames: read, checked, and kept in memory up to a limit of bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use firn_chunk::ChunkId;
use firn_pack::{
    Chain, ChunkLoc, DecodedFrame, FrameDecoder, FrameEntry, FrameHead, FrameLoc, MAX_BASE_BYTES, PackId, frame_bases,
};
use quick_cache::sync::{Cache, DefaultLifecycle, GuardResult};
use quick_cache::{DefaultHashBuilder, OptionsBuilder};

use crate::measures::MemoryUse;
use crate::pack_chunks::ListedChunks;
use crate::packs::{Packs, object_name};
use crate::placement::{Placement, Run};
use crate::pool::Pool;
use crate::{Error, Result};

/// How many stored bytes one read takes at most when the frames behind the wanted one are wanted next.
const READ_BYTES: u64 = 1 << 20;

/// Bytes between two frames that are read and thrown away rather than read around.
const GAP_BYTES: u64 = 128 << 10;

/// The header of nearly every frame: 64 bases and 500 items.
const HEADER_BYTES: u64 = 4 << 10;

/// How many steps it may take from a frame to one without bases. Writers make one; another comes to be when a base is
/// rewritten while an upload leans on it, until that is rewritten too.
pub(crate) const BASE_STEPS: u8 = 3;

/// How many frames one read brings at most: what a restore holds beside the shared memory.
const READ_FRAMES: usize = 4;

/// The part of the memory that is kept for frames that were used more than once. The rest is for new ones: what a client sent
/// waits there for the commit that reads it, and bases for the next frames that need them. quick_cache's own 3 % would hold
/// three frames.
const HOT_PART: f64 = 0.5;

/// All items of a frame.
const ALL: usize = usize::MAX;

/// A decoded frame, or its first chunks, which are checked against their ids when first used.
pub(crate) struct CheckedFrame {
    /// The items, one behind the other; parts of it are sent without being copied.
    data: Bytes,
    /// Where each item ends, those that were not decoded included.
    ends: Vec<u32>,
    ids: Vec<OnceLock<ChunkId>>,
    /// The frames that hold its bases, and theirs.
    bases: Vec<FrameLoc>,
}

impl CheckedFrame {
    fn new(frame: DecodedFrame, bases: Vec<FrameLoc>) -> Self {
        let ids = frame.ends.iter().map(|_| OnceLock::new()).collect();
        Self { data: frame.data.into(), ends: frame.ends, ids, bases }
    }

    /// Returns the frames that hold what this one was decompressed with, and theirs, sorted; none for most.
    pub(crate) fn bases(&self) -> &[FrameLoc] {
        &self.bases
    }

    /// Returns the length of all its chunks, uncompressed.
    pub(crate) fn raw_bytes(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    /// Returns whether its first `items` chunks were decoded.
    pub(crate) fn has(&self, items: usize) -> bool {
        let last = items.min(self.ends.len()).checked_sub(1).and_then(|last| self.ends.get(last));
        last.is_none_or(|end| *end as usize <= self.data.len())
    }

    /// Returns where in [`Self::data`] a chunk lies, or `None` when the item at `index` is not that chunk.
    pub(crate) fn range(&self, index: u16, id: &ChunkId) -> Option<Range<usize>> {
        let range = self.range_of_item(index)?;
        let found = self.ids.get(usize::from(index))?.get_or_init(|| ChunkId::of(&self.data[range.clone()]));
        (found == id).then_some(range)
    }

    /// Returns where in [`Self::data`] an item lies, whatever it is.
    pub(crate) fn range_of_item(&self, index: u16) -> Option<Range<usize>> {
        let index = usize::from(index);
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        (start <= end && end <= self.data.len()).then_some(start..end)
    }

    /// Returns a frame whose chunks' ids were computed already.
    fn known(frame: DecodedFrame, ids: impl Iterator<Item = ChunkId>) -> Self {
        let ids = ids.map(OnceLock::from).collect();
        Self { data: frame.data.into(), ends: frame.ends, ids, bases: Vec::new() }
    }

    /// Returns a chunk wherever it is in the frame.
    fn find(&self, id: &ChunkId) -> Option<&[u8]> {
        (0..=u16::MAX).take(self.ids.len()).find_map(|index| self.chunk(index, id))
    }

    /// Returns a chunk, or `None` when the item at `index` is not that chunk.
    pub(crate) fn chunk(&self, index: u16, id: &ChunkId) -> Option<&[u8]> {
        self.data.get(self.range(index, id)?)
    }

    /// Returns all items, one behind the other.
    pub(crate) fn data(&self) -> &Bytes {
        &self.data
    }

    fn weight(&self) -> u64 {
        (self.data.len() + self.ids.len() * 48 + 256) as u64
    }
}

#[derive(Clone)]
struct Weight;

impl quick_cache::Weighter<(FrameLoc,), Arc<CheckedFrame>> for Weight {
    fn weight(&self, _: &(FrameLoc,), frame: &Arc<CheckedFrame>) -> u64 {
        frame.weight()
    }
}

/// Where bases are looked for that the chunk index does not know.
#[derive(Debug, Clone, Copy)]
struct Elsewhere<'a> {
    /// Frames that may hold them.
    hints: &'a [FrameLoc],
    /// How many steps are left to a frame without bases.
    steps: u8,
    /// Whether packs that are condemned may hold them too.
    condemned: bool,
}

impl<'a> Elsewhere<'a> {
    /// Nothing but these frames.
    fn only(hints: &'a [FrameLoc]) -> Self {
        Self { hints, steps: BASE_STEPS, condemned: false }
    }

    /// The same, with so many steps left.
    fn after(self, steps: u8) -> Self {
        Self { steps, ..self }
    }
}

/// Reads frames from storage through a memory of the most used ones.
pub(crate) struct Frames {
    packs: Arc<Packs>,
    memory: Cache<(FrameLoc,), Arc<CheckedFrame>, Weight>,
    decoders: Pool<FrameDecoder>,
    listed: ListedChunks,
}

/// Frames that one read brought: the wanted one, and those behind it.
pub(crate) type Fetched = Vec<(FrameLoc, Arc<CheckedFrame>)>;

impl Frames {
    /// Returns a reader that keeps up to `bytes` of decoded frames.
    pub(crate) fn new(packs: Arc<Packs>, bytes: u64) -> Self {
        let frames = usize::try_from(bytes >> 20).unwrap_or(usize::MAX).max(16);
        let decoders = Pool::new(|| FrameDecoder::new().map_err(|error| Error::Internal(error.to_string())));
        let options = OptionsBuilder::new()
            .shards(1)
            .hot_allocation(HOT_PART)
            .estimated_items_capacity(frames)
            .weight_capacity(bytes)
            .build()
            .expect("both capacities are set");
        let memory = Cache::with_options(options, Weight, DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self { packs, memory, decoders, listed: ListedChunks::new() }
    }

    /// Returns what the memory holds.
    pub(crate) fn memory_use(&self) -> MemoryUse {
        MemoryUse::of("frames", &self.memory, true)
    }

    /// Returns the bytes of decoded frames in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory.weight()
    }

    /// Keeps a frame in memory that was decoded before it was stored, with the ids of its chunks.
    pub(crate) fn keep(&self, loc: FrameLoc, frame: DecodedFrame, ids: impl Iterator<Item = ChunkId>) {
        self.memory.insert((loc,), Arc::new(CheckedFrame::known(frame, ids)));
    }

    /// Gives up the memory of frames of which a placement takes every item: they were kept for a NAR that was just
    /// assembled, and others that wait for theirs need the room.
    pub(crate) fn release(&self, placement: &Placement) {
        let mut taken: BTreeMap<FrameLoc, usize> = BTreeMap::new();
        for run in &placement.runs {
            *taken.entry(run.frame).or_default() += run.count as usize;
        }
        for (loc, items) in taken {
            if self.memory.peek(&(loc,)).is_some_and(|frame| frame.ends.len() <= items) {
                self.memory.remove(&(loc,));
            }
        }
    }

    /// Decodes a frame that is not stored; the inner error is about its bytes.
    pub(crate) fn decode_unstored(&self, bytes: &[u8]) -> Result<firn_pack::Result<DecodedFrame>> {
        self.decoders.lend(|decoder| Ok(decoder.decode(bytes)))
    }

    /// Returns a frame, and others of `next` (those wanted after it, in order) that the same read brought.
    ///
    /// Callers that want the same frame at the same time read and decode it once. What it takes to decode a frame with
    /// bases is looked for by id; `bases` are frames that may hold it when the chunk index does not know.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the pack is gone or short, or the frame is not what was written.
    pub(crate) fn get(
        &self,
        loc: FrameLoc,
        bases: &[FrameLoc],
        next: &mut dyn Iterator<Item = FrameLoc>,
    ) -> Result<Fetched> {
        self.get_first(loc, ALL, bases, next)
    }

    /// Does as [`Frames::get`] for whoever wants no more than the first `items` chunks: the others may not be decoded.
    ///
    /// # Errors
    /// As [`Frames::get`].
    pub(crate) fn get_first(
        &self,
        loc: FrameLoc,
        mut items: usize,
        bases: &[FrameLoc],
        next: &mut dyn Iterator<Item = FrameLoc>,
    ) -> Result<Fetched> {
        loop {
            match self.memory.get_value_or_guard(&(loc,), None) {
                GuardResult::Value(frame) if frame.has(items) => return Ok(vec![(loc, frame)]),
                GuardResult::Value(_) => {
                    // All of it now, so that no order of wishes makes it decoded more than twice.
                    self.memory.remove_if(&(loc,), |frame| !frame.has(items));
                    items = ALL;
                }
                GuardResult::Timeout => return Err(Error::Internal("wait for a frame without a limit".to_owned())),
                GuardResult::Guard(guard) => {
                    let fetched = self.fetch(loc, items, bases, next)?;
                    if let Some(((_, first), rest)) = fetched.split_first() {
                        // An insertion fails only when the entry was removed meanwhile.
                        let _ = guard.insert(Arc::clone(first));
                        for (loc, frame) in rest {
                            self.memory.insert((*loc,), Arc::clone(frame));
                        }
                    }
                    return Ok(fetched);
                }
            }
        }
    }

    /// Returns the bases that a frame names, given where it lies; reads its header and no more.
    ///
    /// # Errors
    /// As [`Frames::get`].
    pub(crate) fn bases_of(&self, loc: FrameLoc) -> Result<Vec<ChunkId>> {
        let head = self.read(loc, u64::from(loc.len).min(HEADER_BYTES))?;
        let bases = match frame_bases(&head) {
            Err(firn_pack::Error::Corrupt { .. }) if u64::from(loc.len) > HEADER_BYTES => {
                frame_bases(&self.read(loc, u64::from(loc.len))?)
            }
            other => other,
        };
        let bases = bases.map_err(|error| Error::damaged(describe(&loc), error))?;
        Ok(bases.into_iter().map(ChunkId).collect())
    }

    /// Returns the bytes of a frame as they are stored, unchecked.
    pub(crate) fn stored(&self, loc: FrameLoc) -> Result<Bytes> {
        self.read(loc, u64::from(loc.len))
    }

    /// Returns the ids of the chunks of a placement, in order: from footers, or, where these can't be read, from the chunks.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a chunk is not to be had from where it is placed.
    pub(crate) fn chunks_of(&self, placement: &Placement) -> Result<Vec<ChunkId>> {
        let mut ids = Vec::new();
        // Looked for once: a footer that can't be read would be read again for each run.
        let mut unlisted = BTreeSet::new();
        for run in &placement.runs {
            let listed = match unlisted.contains(&run.frame.pack) {
                true => None,
                false => self.listed.with_frame(&self.packs, run.frame.pack, run.frame.offset)?,
            };
            if listed.is_none() {
                unlisted.insert(run.frame.pack);
            }
            let items = usize::from(run.first)..usize::from(run.first) + run.count as usize;
            match listed.as_ref().and_then(|listed| listed.frame(run.frame.offset)?.get(items)) {
                Some(listed) => ids.extend_from_slice(listed),
                None => self.hash_chunks(run, &placement.bases, &mut ids).inspect_err(|error| {
                    if error.is_damage() {
                        self.packs.note_unreadable(run.frame);
                    }
                })?,
            }
        }
        Ok(ids)
    }

    fn hash_chunks(&self, run: &Run, bases: &[FrameLoc], ids: &mut Vec<ChunkId>) -> Result<()> {
        let fetched = self.get(run.frame, bases, &mut std::iter::empty())?;
        let (_, frame) = fetched.first().ok_or_else(|| Error::Internal("a read brought no frame".to_owned()))?;
        for index in (run.first..=u16::MAX).take(run.count as usize) {
            let chunk = frame.range_of_item(index).and_then(|range| frame.data().get(range));
            let chunk = chunk.ok_or_else(|| Error::damaged(describe(&run.frame), "it has fewer chunks"))?;
            ids.push(ChunkId::of(chunk));
        }
        Ok(())
    }

    /// Returns the items of a recipe's frame, past the memory.
    pub(crate) fn read_record(&self, loc: FrameLoc) -> Result<DecodedFrame> {
        let bytes = self.read(loc, u64::from(loc.len))?;
        self.decode(&loc, &bytes, &[], ALL)
    }

    /// Returns a frame's bytes and its items, read from the storage whatever is in memory; its bases may come from there.
    /// `chain` has seen the record frames before it in the pack, and sees this one.
    ///
    /// # Errors
    /// As [`Frames::get`].
    pub(crate) fn read_anew(&self, loc: FrameLoc, chain: &mut Chain) -> Result<(Bytes, DecodedFrame)> {
        let damaged = |error: firn_pack::Error| Error::damaged(describe(&loc), error);
        let read = self.read(loc, u64::from(loc.len));
        let read = read.and_then(|bytes| Ok((FrameHead::read(&bytes).map_err(damaged)?, bytes)));
        // It may have held records.
        let (head, bytes) = read.inspect_err(|_| chain.tear())?;
        let decoded = self.decode_behind(&loc, &head, &bytes, chain);
        // Chunks that can't be read keep nobody from the records behind them.
        chain.pass(head.kind, head.codec, decoded.as_ref().ok().map(|frame| &*frame.data));
        Ok((bytes, decoded?))
    }

    fn decode_behind(&self, loc: &FrameLoc, head: &FrameHead, bytes: &[u8], chain: &Chain) -> Result<DecodedFrame> {
        let ids = frame_bases(bytes).map_err(|error| Error::damaged(describe(loc), error))?;
        let ids: Vec<ChunkId> = ids.into_iter().map(ChunkId).collect();
        let (prefix, _) = self.prefix(loc, &ids, Elsewhere::only(&[]))?;
        let prefix = if ids.is_empty() { chain.prefix_of(head.codec) } else { &prefix };
        self.decode(loc, bytes, prefix, ALL)
    }

    /// Returns whether a frame has bases that are not to be had by their ids alone. One whose header is damaged has none.
    ///
    /// # Errors
    /// Those of the storage and the index.
    pub(crate) fn lacks_bases(&self, loc: FrameLoc) -> Result<bool> {
        let found = self.bases_of(loc).map(|ids| self.prefix(&loc, &ids, Elsewhere::only(&[])).map(drop));
        match found {
            Ok(Ok(())) => Ok(false),
            Ok(Err(error)) if error.is_damage() => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Ok(Err(error)) | Err(error) => Err(error),
        }
    }

    /// Reads a frame from the storage, whatever is in memory, with bases from frames that may hold them; returns whether it
    /// decodes to what a footer says of it, if one does.
    ///
    /// # Errors
    /// Those of the storage and the index.
    pub(crate) fn is_whole(&self, loc: FrameLoc, entry: Option<&FrameEntry>, bases: &[FrameLoc]) -> Result<bool> {
        let bytes = self.read(loc, u64::from(loc.len));
        match bytes.and_then(|bytes| self.decode_with_bases(&loc, &bytes, ALL, Elsewhere::only(bases))) {
            Ok(frame) => {
                Ok(entry.is_none_or(|entry| entry.locations(loc).all(|(id, _)| frame.find(&ChunkId(id)).is_some())))
            }
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Forgets frames that lie in these packs, or whose bases do.
    pub(crate) fn drop_packs(&self, gone: &[PackId]) {
        let is_gone = |frame: &FrameLoc| gone.contains(&frame.pack);
        self.memory.retain(|(loc,), frame| !is_gone(loc) && !frame.bases().iter().any(is_gone));
    }

    /// Forgets a frame that turned out not to be what it was.
    pub(crate) fn drop(&self, loc: FrameLoc) {
        self.memory.remove(&(loc,));
    }

    fn fetch(
        &self,
        loc: FrameLoc,
        items: usize,
        bases: &[FrameLoc],
        next: &mut dyn Iterator<Item = FrameLoc>,
    ) -> Result<Fetched> {
        let mut wanted = vec![loc];
        let mut end = loc.offset.saturating_add(u64::from(loc.len));
        for candidate in next {
            let gap = candidate.offset.checked_sub(end);
            let to = candidate.offset.saturating_add(u64::from(candidate.len));
            let is_near = candidate.pack == loc.pack && gap.is_some_and(|gap| gap <= GAP_BYTES);
            if !is_near || to - loc.offset > READ_BYTES || wanted.len() == READ_FRAMES {
                break;
            }
            if self.memory.peek(&(candidate,)).is_some() {
                break;
            }
            wanted.push(candidate);
            end = to;
        }
        let bytes = match self.read(loc, end - loc.offset) {
            // The frames behind are a guess; only the wanted one's absence says something.
            Err(error) if error.is_of_pack() && wanted.len() > 1 => {
                wanted.truncate(1);
                self.read(loc, u64::from(loc.len))?
            }
            other => other?,
        };
        let mut fetched = Vec::with_capacity(wanted.len());
        for at in wanted {
            let start = usize::try_from(at.offset - loc.offset).unwrap_or(usize::MAX);
            let part = bytes.get(start..).and_then(|rest| rest.get(..at.len as usize)).unwrap_or_default();
            let items = if fetched.is_empty() { items } else { ALL };
            // Condemned packs as well: an upload may have been told of the frame before its bases were, and brings them back.
            let elsewhere = Elsewhere { hints: bases, steps: BASE_STEPS, condemned: true };
            match self.decode_with_bases(&at, part, items, elsewhere) {
                Ok(frame) => fetched.push((at, Arc::new(frame))),
                Err(error) if fetched.is_empty() => return Err(error),
                Err(_) => break,
            }
        }
        Ok(fetched)
    }

    /// Decodes the first chunks of a frame, with its bases if it has any: at most 64 chunks of 4 MiB together, of which each may take a read
    /// and the decoding of a frame. firn makes frames whose bases are in [`crate::run::MAX_BASE_FRAMES`] at most, and
    /// these without bases; where that is not so, as many [steps](BASE_STEPS) as are left are taken.
    fn decode_with_bases(
        &self,
        loc: &FrameLoc,
        bytes: &[u8],
        items: usize,
        elsewhere: Elsewhere<'_>,
    ) -> Result<CheckedFrame> {
        let damaged = |error: firn_pack::Error| Error::damaged(describe(loc), error);
        let ids: Vec<ChunkId> = frame_bases(bytes).map_err(damaged)?.into_iter().map(ChunkId).collect();
        if ids.is_empty() {
            return Ok(CheckedFrame::new(self.decode(loc, bytes, &[], items)?, Vec::new()));
        }
        let (prefix, frames) = self.prefix(loc, &ids, elsewhere)?;
        Ok(CheckedFrame::new(self.decode(loc, bytes, &prefix, items)?, frames))
    }

    /// Returns the bytes of a frame's bases, one behind the other, and the frames that hold them and theirs, sorted; takes as
    /// many steps as are left.
    fn prefix(&self, loc: &FrameLoc, ids: &[ChunkId], elsewhere: Elsewhere<'_>) -> Result<(Vec<u8>, Vec<FrameLoc>)> {
        let Some(steps) = elsewhere.steps.checked_sub(1) else {
            return Err(Error::damaged(describe(loc), "its bases have bases without end"));
        };
        let (mut prefix, mut frames, mut condemned) = (Vec::new(), Vec::new(), None);
        let places = self.packs.find_all(ids)?;
        for (id, place) in ids.iter().zip(&places) {
            let of_frame =
                places.iter().flatten().filter(|other| place.is_some_and(|place| place.frame == other.frame));
            let items = of_frame.map(|other| usize::from(other.index) + 1).max().unwrap_or(ALL);
            let (is_known, place) = (place.is_some(), place.map(|place| (place, items)));
            let mut found = self.add_base(id, place, elsewhere.after(0), &mut prefix)?;
            if found.is_none() && steps > 0 {
                found = self.add_base(id, place, elsewhere.after(steps), &mut prefix)?;
            }
            if found.is_none() && !is_known && elsewhere.condemned {
                let hints = match &condemned {
                    Some(frames) => frames,
                    None => {
                        let unknown = ids.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(id, _)| *id);
                        condemned.insert(self.packs.condemned_frames_with(unknown)?)
                    }
                };
                found = self.add_base(id, None, Elsewhere { hints, steps, condemned: true }, &mut prefix)?;
            }
            let (at, frame) =
                found.ok_or_else(|| Error::damaged(describe(loc), format!("its base {id} is gone or wrong")))?;
            frames.push(at);
            frames.extend(frame.bases());
        }
        frames.sort_unstable();
        frames.dedup();
        Ok((prefix, frames))
    }

    /// Adds a base's bytes to a prefix, from where the index has it or from one of the other frames, which may have bases
    /// if there are steps left; returns which. Of the index's frame, so many first chunks are wanted by and by.
    fn add_base(
        &self,
        id: &ChunkId,
        place: Option<(ChunkLoc, usize)>,
        elsewhere: Elsewhere<'_>,
        prefix: &mut Vec<u8>,
    ) -> Result<Option<(FrameLoc, Arc<CheckedFrame>)>> {
        let place = place.map(|(place, items)| (place.frame, items, Some(place.index)));
        for (loc, items, index) in place.into_iter().chain(elsewhere.hints.iter().map(|hint| (*hint, ALL, None))) {
            let frame = match self.of_base(loc, items, elsewhere) {
                Ok(frame) => frame,
                Err(error) if error.is_damage() => continue,
                Err(error) => return Err(error),
            };
            // To look for it is to hash all chunks before it.
            let data = match index {
                Some(index) => frame.chunk(index, id),
                None => frame.find(id),
            };
            if let Some(data) = data.filter(|data| prefix.len() + data.len() <= MAX_BASE_BYTES) {
                prefix.extend_from_slice(data);
                return Ok(Some((loc, frame)));
            }
        }
        Ok(None)
    }

    /// Returns the first chunks of a frame that must not have bases but for the steps that are left. It waits for nobody:
    /// whoever calls may hold up others already.
    fn of_base(&self, loc: FrameLoc, items: usize, elsewhere: Elsewhere<'_>) -> Result<Arc<CheckedFrame>> {
        let known = self.memory.get(&(loc,));
        if let Some(frame) = known.as_ref().filter(|frame| frame.has(items)) {
            let may_be = frame.bases.is_empty() || elsewhere.steps > 0;
            return if may_be {
                Ok(Arc::clone(frame))
            } else {
                Err(Error::damaged(describe(&loc), "it has bases itself"))
            };
        }
        let bytes = self.read(loc, u64::from(loc.len))?;
        let items = if known.is_some() { ALL } else { items };
        let frame = Arc::new(self.decode_with_bases(&loc, &bytes, items, elsewhere)?);
        self.memory.insert((loc,), Arc::clone(&frame));
        Ok(frame)
    }

    fn read(&self, loc: FrameLoc, len: u64) -> Result<Bytes> {
        let name = object_name(loc.pack);
        let len = usize::try_from(len).map_err(|_| Error::Internal("read more than memory holds".to_owned()))?;
        self.packs.storage.read(&name, loc.offset, len).map_err(|error| self.packs.fault(describe(&loc), error))
    }

    fn decode(&self, loc: &FrameLoc, bytes: &[u8], prefix: &[u8], items: usize) -> Result<DecodedFrame> {
        self.decoders.lend(|decoder| {
            decoder.decode_first(bytes, prefix, items).map_err(|error| match error {
                firn_pack::Error::Corrupt { .. } | firn_pack::Error::NeedsBases => Error::damaged(describe(loc), error),
                other => Error::Internal(other.to_string()),
            })
        })
    }
}

fn describe(loc: &FrameLoc) -> String {
    format!("the frame at byte {} of pack {}", loc.offset, loc.pack)
}
