//! Restore: a recipe back to its bytes, any range of them, every chunk checked.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use firn_chunk::{ChunkRef, Patcher, RecipeId};
use firn_nix::StoreHash;
use firn_pack::{ChunkLoc, FrameLoc};

use crate::engine::Shared;
use crate::frames::CheckedFrame;
use crate::in_use::InUseGuard;
use crate::placement::Run;
use crate::recipes::StoredRecipe;
use crate::{Error, Result};

/// Bytes that are copied at a time where they can't be shared: at the next patch there may be more that can.
const COPY_BYTES: usize = 64 << 10;

/// How many times its own length a shared piece may keep in memory.
const MAX_PINNED: usize = 4;

/// Bytes on their way out. Holds at most a few decoded frames beside what [`Restore::next`] returns.
pub struct Restore {
    shared: Arc<Shared>,
    /// Under which name damage is recorded, and its record; `None` while an upload is verified.
    id: Option<(RecipeId, FrameLoc)>,
    stored: Arc<StoredRecipe>,
    patcher: Patcher,
    position: u64,
    end: u64,
    at: Cursor,
    check: Check,
    /// Frames that a read brought along.
    ahead: VecDeque<(FrameLoc, Arc<CheckedFrame>)>,
    /// Frames that held bases of those read so far.
    bases: BTreeSet<FrameLoc>,
    /// Keeps the packs, which may be doomed by now, until the end.
    _in_use: InUseGuard,
}

/// What tells that chunks are right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// Their ids, each before it is given out.
    EachId,
    /// The caller, who compares the whole with the bytes that the ids were made of.
    WholeByCaller,
}

/// The chunk that holds the next byte.
#[derive(Debug, Clone, Copy, Default)]
struct Cursor {
    chunk: usize,
    /// Where the chunk begins in the whole.
    start: u64,
    run: usize,
    in_run: u32,
}

impl Restore {
    /// Prepares to restore a range. Every pack that is needed is known to be there when this returns, and the first
    /// chunk has been decoded and checked.
    pub(crate) fn open(
        shared: &Arc<Shared>,
        id: Option<(RecipeId, FrameLoc)>,
        stored: Arc<StoredRecipe>,
        slots: &[StoreHash],
        range: Range<u64>,
    ) -> Result<Self> {
        let end = range.end.min(stored.recipe.length);
        let patcher =
            Patcher::new(Arc::clone(&stored.recipe), slots).map_err(|error| Error::damaged(describe(id), error))?;
        let uses = shared.packs.in_use.begin(stored.needs.iter().map(|(pack, _)| *pack));
        let mut restore = Self {
            _in_use: uses,
            shared: Arc::clone(shared),
            id,
            stored,
            patcher,
            position: 0,
            end,
            at: Cursor::default(),
            check: Check::EachId,
            ahead: VecDeque::new(),
            bases: BTreeSet::new(),
        };
        restore.check_present()?;
        restore.seek(range.start.min(end));
        if restore.position < restore.end {
            let chunk = restore.chunk_at(restore.at.chunk)?;
            restore.read_chunk(&chunk, &mut Vec::new(), 0..0)?;
        }
        Ok(restore)
    }

    /// Leaves it to the caller to compare the whole with the very bytes that the recipe was made of, instead of hashing every
    /// chunk again. If they differ, a restore that checks ids tells which chunk is to blame.
    #[must_use]
    pub(crate) fn compared_by_caller(mut self) -> Self {
        self.check = Check::WholeByCaller;
        self
    }

    /// Checks those chunks of a recipe that lie in the wanted frames, as a restore would, and marks the recipe when one of
    /// them can't be had.
    ///
    /// # Errors
    /// [`Error::Damaged`] then. Others say nothing about what is stored.
    pub(crate) fn check(
        shared: &Arc<Shared>,
        id: (RecipeId, FrameLoc),
        stored: Arc<StoredRecipe>,
        is_wanted: &dyn Fn(&FrameLoc) -> bool,
    ) -> Result<()> {
        // What fills the patches does not matter here.
        let slots = vec![StoreHash([0; 20]); stored.recipe.patches.slot_count()];
        let runs = stored.placement.runs.clone();
        let chunks: Vec<ChunkRef> = stored.recipe.chunks.clone();
        let mut restore = Self::open(shared, Some(id), stored, &slots, 0..0)?;
        restore.end = restore.stored.recipe.length;
        let (mut chunks, mut start) = (chunks.into_iter(), 0);
        for run in runs {
            for chunk in chunks.by_ref().take(run.count as usize) {
                if is_wanted(&run.frame) {
                    restore.seek(start);
                    restore.read_chunk(&chunk, &mut Vec::new(), 0..0)?;
                }
                start += u64::from(chunk.len);
            }
        }
        Ok(())
    }

    /// Returns how many bytes are to come; exact.
    pub fn remaining(&self) -> u64 {
        self.end - self.position
    }

    /// Returns the next bytes, one at least and at most `max`, or `None` at the end. What needs no patch is a part of a
    /// decoded frame, not a copy: it keeps the frame in memory, of which it is no less than a fourth.
    ///
    /// # Errors
    /// [`Error::Damaged`] when stored bytes are gone or wrong: the recipe is marked, and what was returned before is
    /// right but short, so the transfer must be broken off. Other errors say nothing about what is stored.
    pub fn next(&mut self, max: usize) -> Result<Option<Bytes>> {
        let len = self.at_hand(max);
        if len == 0 {
            return Ok(None);
        }
        let clean = usize::try_from(self.patcher.clean(self.position)).unwrap_or(usize::MAX);
        if clean > 0
            && let Some(piece) = self.share(len.min(clean), MAX_PINNED)?
        {
            self.pass(piece.len());
            return Ok(Some(piece));
        }
        let len = len.min(COPY_BYTES);
        let mut copy = Vec::with_capacity(len);
        self.read_onto(len, &mut copy)?;
        Ok(Some(copy.into()))
    }

    /// Returns the next `len` bytes (one at least), fewer only at the end, or `None` there.
    ///
    /// # Errors
    /// As [`Restore::next`]; what came before the failure is lost.
    pub fn read(&mut self, len: usize) -> Result<Option<Bytes>> {
        if let Some(whole) = self.next_shared(len, MAX_PINNED)? {
            return Ok(Some(whole));
        }
        let len = self.at_hand(len);
        let mut whole = Vec::with_capacity(len);
        self.read_onto(len, &mut whole)?;
        Ok(Some(Bytes::from(whole)).filter(|whole| !whole.is_empty()))
    }

    /// Returns the next `len` bytes if they are a part of one decoded frame, no more than `pinned` times as long, and need no patch;
    /// else `None`, and nothing is read.
    ///
    /// # Errors
    /// As [`Restore::read`].
    pub(crate) fn next_shared(&mut self, len: usize, pinned: usize) -> Result<Option<Bytes>> {
        let len = self.at_hand(len);
        if len == 0 || self.patcher.clean(self.position) < len as u64 {
            return Ok(None);
        }
        let piece = self.share(len, pinned)?.filter(|piece| piece.len() == len);
        if let Some(piece) = &piece {
            self.pass(piece.len());
        }
        Ok(piece)
    }

    /// Adds the next `len` bytes to `out`, fewer only at the end.
    ///
    /// # Errors
    /// As [`Restore::read`].
    pub(crate) fn read_onto(&mut self, len: usize, out: &mut Vec<u8>) -> Result<()> {
        let (len, before) = (self.at_hand(len), out.len());
        if let Err(error) = self.fill(out, before + len) {
            self.rewind();
            return Err(error);
        }
        self.patcher.apply(self.position, &mut out[before..]);
        self.pass(len);
        Ok(())
    }

    /// Returns how many of `len` bytes, one at least, there are yet.
    fn at_hand(&self, len: usize) -> usize {
        usize::try_from(self.remaining()).unwrap_or(usize::MAX).min(len.max(1))
    }

    /// Notes that bytes were given out.
    fn pass(&mut self, len: usize) {
        self.position += len as u64;
        self.advance_to(self.position);
    }

    /// Goes back to where the last good bytes ended, so that asking again begins there.
    fn rewind(&mut self) {
        self.at = Cursor::default();
        self.advance_to(self.position);
    }

    /// Returns the next bytes as a part of the frame that holds them, at most `limit`, which no patch changes; `None` if
    /// the frame is more than `pinned` times as long, or damaged.
    fn share(&mut self, limit: usize, pinned: usize) -> Result<Option<Bytes>> {
        let run = self.run_at()?;
        let frame = match self.frame(run.frame) {
            Ok(frame) => frame,
            // Reading it chunk by chunk looks elsewhere.
            Err(error) if error.is_of_pack() => return Ok(None),
            Err(error) => return Err(error),
        };
        let offset = usize::try_from(self.position - self.at.start).unwrap_or(usize::MAX);
        let (mut part, mut last) = (None::<Range<usize>>, 0);
        let chunks = self.stored.recipe.chunks.get(self.at.chunk..).unwrap_or_default();
        for (chunk, nth) in chunks.iter().zip(self.at.in_run..run.count) {
            let index = u16::try_from(nth).ok().and_then(|nth| run.first.checked_add(nth));
            let Some(range) = index.and_then(|index| self.find(&frame, index, chunk)) else { break };
            let start = part.as_ref().map_or(range.start.saturating_add(offset), |part| part.start);
            last = range.end;
            part = Some(start..last);
            if last.saturating_sub(start) >= limit {
                break;
            }
        }
        let Some(part) = part else { return Ok(None) };
        let part = part.start..last.min(part.start.saturating_add(limit));
        if part.is_empty() || part.len().saturating_mul(pinned) < frame.data().len() {
            return Ok(None);
        }
        Ok(Some(frame.data().slice(part)))
    }

    /// Returns the frames that held bases of what was restored so far, sorted.
    pub(crate) fn into_bases(self) -> Vec<FrameLoc> {
        self.bases.into_iter().collect()
    }

    /// Adds the bytes from the position on, not patched, until `out` is `end` bytes long.
    fn fill(&mut self, out: &mut Vec<u8>, end: usize) -> Result<()> {
        let mut position = self.position;
        while out.len() < end {
            let chunk = self.chunk_at(self.at.chunk)?;
            let from = usize::try_from(position - self.at.start).unwrap_or(usize::MAX);
            let to = (chunk.len as usize).min(from + (end - out.len()));
            position += (to - from) as u64;
            self.read_chunk(&chunk, out, from..to)?;
            if to == chunk.len as usize {
                self.advance(&chunk);
            }
        }
        Ok(())
    }

    /// Moves to another position, at most the end.
    pub(crate) fn seek(&mut self, position: u64) {
        if position < self.at.start {
            self.at = Cursor::default();
        }
        self.position = position.min(self.end);
        self.advance_to(self.position);
    }

    /// Moves on to the chunk that holds a position, which is not before the current one.
    fn advance_to(&mut self, position: u64) {
        while let Some(chunk) = self.stored.recipe.chunks.get(self.at.chunk).copied() {
            if self.at.start + u64::from(chunk.len) > position {
                break;
            }
            self.advance(&chunk);
        }
    }

    fn advance(&mut self, chunk: &ChunkRef) {
        self.at.chunk += 1;
        self.at.start += u64::from(chunk.len);
        self.at.in_run += 1;
        if self.stored.placement.runs.get(self.at.run).is_some_and(|run| self.at.in_run == run.count) {
            self.at.run += 1;
            self.at.in_run = 0;
        }
    }

    fn chunk_at(&self, index: usize) -> Result<ChunkRef> {
        let chunk = self.stored.recipe.chunks.get(index).copied();
        chunk.ok_or_else(|| Error::Internal("restore: the recipe's chunks are shorter than it says".to_owned()))
    }

    fn run_at(&self) -> Result<Run> {
        let run = self.stored.placement.runs.get(self.at.run).copied();
        run.ok_or_else(|| Error::Internal("restore: the placement ends early".to_owned()))
    }

    /// Returns where a chunk lies in a frame, checked as is to be.
    fn find(&self, frame: &CheckedFrame, index: u16, chunk: &ChunkRef) -> Option<Range<usize>> {
        let range = match self.check {
            Check::EachId => frame.range(index, &chunk.id),
            Check::WholeByCaller => frame.range_of_item(index),
        };
        range.filter(|range| range.len() == chunk.len as usize)
    }

    /// Adds a part of the current chunk to `out`.
    fn read_chunk(&mut self, chunk: &ChunkRef, out: &mut Vec<u8>, part: Range<usize>) -> Result<()> {
        let run = self.run_at()?;
        let index = run.first + u16::try_from(self.at.in_run).unwrap_or(u16::MAX);
        let mut found = self.copy_chunk(&run, index, chunk, out, &part);
        if matches!(found, Err(Error::Storage(_))) {
            found = self.copy_chunk(&run, index, chunk, out, &part);
        }
        match found {
            Ok(None) => Ok(()),
            Ok(Some(length)) => Err(self.found_wrong_length(chunk, length)),
            Err(error) if self.is_lost(&error) => {
                let bad = ChunkLoc { frame: run.frame, index };
                self.shared.packs.forget_chunks(&[(chunk.id, bad)])?;
                if self.read_elsewhere(chunk, bad, out, part)? {
                    return Ok(());
                }
                let error = error.into_damage();
                self.found_damage(&error);
                Err(error)
            }
            // Whether it is damaged, a scrub finds out.
            Err(error) if error.is_of_pack() => {
                let bad = ChunkLoc { frame: run.frame, index };
                if self.read_elsewhere(chunk, bad, out, part)? { Ok(()) } else { Err(error) }
            }
            Err(error) => Err(error),
        }
    }

    /// Takes a chunk from where it should be. Returns its length if it is whole and not as long as the recipe says.
    fn copy_chunk(
        &mut self,
        run: &Run,
        index: u16,
        chunk: &ChunkRef,
        out: &mut Vec<u8>,
        part: &Range<usize>,
    ) -> Result<Option<usize>> {
        let frame = self.frame(run.frame)?;
        match self.find(&frame, index, chunk) {
            Some(range) => {
                out.extend_from_slice(&frame.data()[range][part.clone()]);
                Ok(None)
            }
            None => match frame.chunk(index, &chunk.id) {
                Some(whole) => Ok(Some(whole.len())),
                None => Err(Error::damaged(format!("the chunk {}", chunk.id), "its bytes are wrong")),
            },
        }
    }

    /// Returns the error for a chunk that is whole and not as long as the recipe says: the chunk is right then. A pusher's
    /// recipe is refused; one that is stored is damaged.
    fn found_wrong_length(&self, chunk: &ChunkRef, length: usize) -> Error {
        let detail = format!("its chunk {} has {length} bytes, not {}", chunk.id, chunk.len);
        if self.id.is_none() {
            return Error::BadRecipe { detail };
        }
        let error = Error::damaged(describe(self.id), detail);
        self.found_damage(&error);
        error
    }

    /// Returns whether a chunk's bytes are not to be had from where it is. An upload need not wait until it is known why they
    /// can't be read: it stores its own.
    fn is_lost(&self, error: &Error) -> bool {
        let is_unreadable = || self.id.is_none() && error.is_of_pack() && self.shared.packs.check_there().is_ok();
        error.is_damage() || is_unreadable()
    }

    /// Takes a chunk from another place that the chunk index knows, after it was not to be had from the first; returns
    /// whether there was a good one.
    fn read_elsewhere(&self, chunk: &ChunkRef, bad: ChunkLoc, out: &mut Vec<u8>, part: Range<usize>) -> Result<bool> {
        let packs = &self.shared.packs;
        let Some(other) = packs.lookup(&chunk.id)?.filter(|other| *other != bad) else { return Ok(false) };
        match self.shared.frames.get(other.frame, &self.stored.placement.bases, &mut std::iter::empty()) {
            Ok(fetched) => {
                if let Some(data) = fetched.first().and_then(|(_, frame)| frame.chunk(other.index, &chunk.id)) {
                    match data.get(part).filter(|_| data.len() == chunk.len as usize) {
                        Some(data) => out.extend_from_slice(data),
                        None => return Err(self.found_wrong_length(chunk, data.len())),
                    }
                    return Ok(true);
                }
            }
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
        packs.forget_chunks(&[(chunk.id, other)])?;
        Ok(false)
    }

    /// Returns the frame of the current run, decoded as far as this run and those behind it in the same frame want it.
    fn frame(&mut self, loc: FrameLoc) -> Result<Arc<CheckedFrame>> {
        let runs = self.stored.placement.runs.get(self.at.run..).unwrap_or_default();
        let here = runs.iter().take_while(|run| run.frame == loc);
        let items = here.map(|run| usize::from(run.first) + run.count as usize).max().unwrap_or(usize::MAX);
        while let Some((at, frame)) = self.ahead.front() {
            if *at == loc && frame.has(items) {
                return Ok(Arc::clone(frame));
            }
            self.ahead.pop_front();
        }
        let mut last = loc;
        let mut next = runs.iter().map(|run| run.frame).filter(|frame| std::mem::replace(&mut last, *frame) != *frame);
        self.ahead = self.shared.frames.get_first(loc, items, &self.stored.placement.bases, &mut next)?.into();
        self.bases.extend(self.ahead.iter().flat_map(|(_, frame)| frame.bases()));
        let frame = self.ahead.front().map(|(_, frame)| Arc::clone(frame));
        frame.ok_or_else(|| Error::Internal("read a frame: nothing came back".to_owned()))
    }

    /// Checks that every pack is as long as its last frame wants; what is not there must be somewhere else.
    fn check_present(&self) -> Result<()> {
        for &(pack, end) in &self.stored.needs {
            let len = self.shared.packs.len_of(pack)?.unwrap_or(0);
            if len >= end {
                continue;
            }
            let is_there = |frame: &FrameLoc| frame.offset.saturating_add(u64::from(frame.len)) <= len;
            let mut of_bases = self.stored.placement.bases.iter().filter(|base| base.pack == pack);
            if let Some(gone) = of_bases.find(|base| !is_there(base)) {
                let error = Error::damaged(
                    format!("a base at byte {}", gone.offset),
                    format!("pack {pack} is gone or cut short"),
                );
                self.found_damage(&error);
                return Err(error);
            }
            let mut chunks = self.stored.recipe.chunks.iter();
            for run in &self.stored.placement.runs {
                let ids: Vec<_> = chunks.by_ref().take(run.count as usize).map(|chunk| chunk.id).collect();
                if run.frame.pack == pack && !is_there(&run.frame) {
                    self.check_elsewhere(&ids, run.frame)?;
                }
            }
        }
        Ok(())
    }

    fn check_elsewhere(&self, ids: &[firn_chunk::ChunkId], gone: FrameLoc) -> Result<()> {
        for group in ids.chunks(1024) {
            let found = self.shared.packs.chunks.lookup(group)?;
            if let Some((id, _)) = group.iter().zip(&found).find(|(_, loc)| loc.is_none_or(|loc| loc.frame == gone)) {
                let error =
                    Error::damaged(format!("the chunk {id}"), format!("pack {} is gone or cut short", gone.pack));
                self.found_damage(&error);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Sees to it that the next upload of the same content repairs what this restore needs.
    fn found_damage(&self, error: &Error) {
        let recipe = self.id.map(|(id, _)| tracing::field::display(id));
        tracing::error!(recipe, %error, "stored bytes are damaged");
        if let Err(error) = self.forget_damaged_chunks() {
            tracing::error!(%error, "could not look for other damage; an upload may have to be sent twice");
        }
        if let Some((id, record)) = self.id {
            self.shared.mark_damaged(id, record);
        }
    }

    /// Makes the store forget every chunk of the recipe that is not where it should be. Reads all of them.
    fn forget_damaged_chunks(&self) -> Result<()> {
        let mut chunks = self.stored.recipe.chunks.iter();
        for run in &self.stored.placement.runs {
            let frame = match self.shared.frames.get(run.frame, &self.stored.placement.bases, &mut std::iter::empty()) {
                Ok(fetched) => fetched.into_iter().next().map(|(_, frame)| frame),
                Err(error) if self.is_lost(&error) => None,
                Err(error) => return Err(error),
            };
            let is_bad = |(chunk, index): &(&ChunkRef, u16)| {
                frame.as_ref().is_none_or(|frame| frame.chunk(*index, &chunk.id).is_none())
            };
            let bad: Vec<_> = chunks
                .by_ref()
                .take(run.count as usize)
                .zip(run.first..=u16::MAX)
                .filter(is_bad)
                .map(|(chunk, index)| (chunk.id, ChunkLoc { frame: run.frame, index }))
                .collect();
            self.shared.packs.forget_chunks(&bad)?;
        }
        Ok(())
    }
}

fn describe(id: Option<(RecipeId, FrameLoc)>) -> String {
    id.map_or_else(|| "the upload".to_owned(), |(id, _)| format!("the recipe {id}"))
}
