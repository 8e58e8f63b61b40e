//! Runs: new chunks of one ingest, gathered until they make a frame.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use firn_chunk::ChunkId;
use firn_pack::{Bases, ChunkLoc, DecodedFrame, Frame, FrameEntry, FrameKind, FrameLoc, MAX_BASES};

use crate::bases::Base;
use crate::in_flight::{Claim, InFlight};
use crate::packs::{Lane, Packs};
use crate::{Error, Result};

/// A frame is stored as its client made it when at most one part in so many of it is known: that is twice on the disk
/// then, and compressing the rest again would take longer than everything else about it.
pub(crate) const KEPT_WITH: usize = 4;

/// The frames that hold the bases of one frame, at most: with [`MAX_PREFIX_BYTES`] it bounds what a chunk costs to restore,
/// which is to read and decode its own frame and these. With 16 no corpus gets smaller.
pub(crate) const MAX_BASE_FRAMES: usize = 8;

/// The bytes of all bases of one frame, at most.
pub(crate) const MAX_PREFIX_BYTES: usize = 2 << 20;

/// What a delta frame must be under, in percent of the same chunks without bases. What is not becomes a base of others.
pub(crate) const WORTH_PERCENT: usize = 60;

/// What naming a base takes, in the frame and in the pack's footer.
pub(crate) const BASE_BYTES: usize = 64;

/// A chunk that an ingest took on itself to store, until its bytes are durable.
pub(crate) struct Pending {
    run: Arc<Run>,
    loc: OnceLock<ChunkLoc>,
    /// The frames that hold its frame's bases, once it has a frame with any.
    bases: OnceLock<Arc<[FrameLoc]>>,
}

impl Pending {
    fn new(run: Arc<Run>) -> Self {
        Self { run, loc: OnceLock::new(), bases: OnceLock::new() }
    }

    /// Returns one of a run in which nothing waits, with the place that it knows.
    #[cfg(test)]
    pub(crate) fn knowing(loc: Option<ChunkLoc>) -> Arc<Self> {
        let pending = Self::new(Run::new(1, 1));
        Arc::new(Self { loc: loc.map(OnceLock::from).unwrap_or_default(), ..pending })
    }

    /// Returns where the chunk lies, if it was stored already.
    pub(crate) fn loc(&self) -> Option<ChunkLoc> {
        self.loc.get().copied()
    }

    /// Returns the frames that hold bases of what the chunk was stored with: a collection may stop to offer those before
    /// the upload is over.
    pub(crate) fn bases(&self) -> &[FrameLoc] {
        self.bases.get().map_or(&[], |bases| bases)
    }

    /// Returns where the chunk lies, storing the run that it waits in first, whichever ingest that belongs to: a slow
    /// upload never holds up another.
    pub(crate) fn settle(&self, packs: &Packs) -> Result<ChunkLoc> {
        self.try_settle(packs)?.ok_or_else(|| {
            Error::Internal("store the upload: another upload of the same content failed: upload again".to_owned())
        })
    }

    /// Does as [`Pending::settle`]; returns `None` when the ingest that had the chunk in hand could not store it.
    pub(crate) fn try_settle(&self, packs: &Packs) -> Result<Option<ChunkLoc>> {
        if self.loc.get().is_none() {
            self.run.flush(packs)?;
        }
        Ok(self.loc())
    }
}

/// A frame of chunks that somebody else compressed.
pub(crate) struct MadeFrame<'a> {
    /// The frame as it may be appended to a pack.
    pub(crate) bytes: &'a [u8],
    /// Its entry, with the ids of its chunks as computed from them.
    pub(crate) entry: &'a FrameEntry,
    /// Its chunks.
    pub(crate) decoded: &'a DecodedFrame,
    /// Which of them somebody has taken already; empty if none.
    pub(crate) is_taken: &'a [bool],
}

/// What became of a frame that somebody else compressed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TakenFrame {
    /// How many of its chunks were new.
    pub(crate) new_chunks: u64,
    /// Where it lies, if it was stored as it is.
    pub(crate) loc: Option<FrameLoc>,
}

/// A chunk of a frame that is this run's to store.
struct Claimed {
    item: usize,
    id: ChunkId,
    pending: Arc<Pending>,
}

/// The new chunks of one ingest, at most a frame's worth.
pub(crate) struct Run {
    limit: usize,
    level: i32,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    data: Vec<u8>,
    lens: Vec<u32>,
    chunks: Vec<(ChunkId, Arc<Pending>)>,
    bases: Prefix,
    stored_bytes: u64,
}

/// The bases of a run's chunks.
#[derive(Default)]
struct Prefix {
    ids: Vec<[u8; 32]>,
    data: Vec<u8>,
    frames: Vec<FrameLoc>,
    /// What the run's chunks would take without bases, as far as their bases tell.
    plain_bytes: usize,
}

impl Run {
    /// Returns an empty run that makes frames of up to `limit` bytes (one chunk at least) at a zstd level.
    pub(crate) fn new(limit: usize, level: i32) -> Arc<Self> {
        Arc::new(Self { limit, level, inner: Mutex::default() })
    }

    /// Takes a chunk and what may serve as its bases, unless another ingest has it in hand or the index knows it.
    ///
    /// Claiming and taking are one step under the run's lock, so that whoever finds the claim finds the chunk too. The
    /// index is asked after the claim: a chunk that another ingest had in hand a moment ago is in the index by now.
    pub(crate) fn take(
        self: &Arc<Self>,
        id: ChunkId,
        data: &[u8],
        bases: &[Base],
        packs: &Packs,
    ) -> Result<(Arc<Pending>, bool)> {
        self.take_if(id, data, bases, true, packs)
    }

    /// Takes a chunk that the index knows and that is to be stored once more, unless another ingest has it in hand.
    pub(crate) fn take_again(
        self: &Arc<Self>,
        id: ChunkId,
        data: &[u8],
        packs: &Packs,
    ) -> Result<(Arc<Pending>, bool)> {
        self.take_if(id, data, &[], false, packs)
    }

    fn take_if(
        self: &Arc<Self>,
        id: ChunkId,
        data: &[u8],
        bases: &[Base],
        may_share: bool,
        packs: &Packs,
    ) -> Result<(Arc<Pending>, bool)> {
        let mut inner = self.lock();
        let is_over = inner.data.len() + data.len() > self.limit || !inner.bases.has_room(bases);
        if !inner.data.is_empty() && is_over {
            self.store(&mut inner, packs)?;
        }
        let mine = Arc::new(Pending::new(Arc::clone(self)));
        let pending = match packs.in_flight.claim(id, Arc::clone(&mine)) {
            Claim::Theirs(pending) => return Ok((pending, false)),
            Claim::Mine(pending) => pending,
        };
        if may_share {
            match packs.lookup(&id) {
                Ok(None) => {}
                Ok(Some(loc)) => {
                    // Whoever found the claim meanwhile finds the place in it.
                    let _ = pending.loc.set(loc);
                    packs.in_flight.remove(std::iter::once(&id));
                    return Ok((pending, false));
                }
                Err(error) => {
                    packs.in_flight.remove(std::iter::once(&id));
                    return Err(error);
                }
            }
        }
        inner.bases.add(bases, data.len());
        inner.push(id, data, Arc::clone(&pending));
        Ok((pending, true))
    }

    /// Takes the chunks of a frame that nobody has: the frame as it is if most of it is new, else the new chunks alone,
    /// which wait in this run.
    ///
    /// As in [`Run::take`], claiming and taking are one step, and the index is asked in between. What can't be stored
    /// is in nobody's hands afterwards.
    pub(crate) fn take_frame(self: &Arc<Self>, made: &MadeFrame<'_>, packs: &Packs) -> Result<TakenFrame> {
        let mut inner = self.lock();
        let is_taken = |item: usize| made.is_taken.get(item) == Some(&true);
        let items = || (0..).zip(&made.entry.items).filter(|(number, _)| !is_taken(*number));
        let ids = || items().map(|(number, item)| (number, ChunkId(item.id)));
        let mine = || Arc::new(Pending::new(Arc::clone(self)));
        let claims = packs.in_flight.claim_all(ids().map(|(_, id)| id), mine);
        let claims = ids().zip(claims);
        let mut claimed: Vec<_> =
            claims.filter_map(|((item, id), pending)| Some(Claimed { item, id, pending: pending? })).collect();
        let taken = self.take_claimed(&mut inner, made, &mut claimed, packs);
        if taken.is_err() {
            packs.in_flight.remove(claimed.iter().map(|chunk| &chunk.id));
        }
        taken
    }

    /// Stores claimed chunks or makes them wait in the run; those that are left when it fails are still claimed.
    fn take_claimed(
        &self,
        inner: &mut Inner,
        made: &MadeFrame<'_>,
        claimed: &mut Vec<Claimed>,
        packs: &Packs,
    ) -> Result<TakenFrame> {
        let ids: Vec<ChunkId> = claimed.iter().map(|chunk| chunk.id).collect();
        let mut known = packs.lookup_all(&ids)?.into_iter();
        claimed.retain(|chunk| {
            let Some(loc) = known.next().flatten() else { return true };
            // Whoever found the claim meanwhile finds the place in it.
            let _ = chunk.pending.loc.set(loc);
            packs.in_flight.remove(std::iter::once(&chunk.id));
            false
        });
        let new_chunks = claimed.len() as u64;
        let data = |item: usize| made.decoded.item(item).unwrap_or_default();
        let new_bytes: usize = claimed.iter().map(|chunk| data(chunk.item).len()).sum();
        let known_bytes = made.decoded.data.len().saturating_sub(new_bytes);
        if !claimed.is_empty() && known_bytes <= made.decoded.data.len() / KEPT_WITH {
            let loc = packs.append_parts(Lane::Ingest, made.bytes, made.entry)?;
            for chunk in claimed.drain(..) {
                let index = u16::try_from(chunk.item).expect("a frame has at most 65,535 items");
                let _ = chunk.pending.loc.set(ChunkLoc { frame: loc, index });
            }
            inner.stored_bytes += u64::from(loc.len);
            return Ok(TakenFrame { new_chunks, loc: Some(loc) });
        }
        claimed.reverse();
        while let Some(chunk) = claimed.last() {
            let data = data(chunk.item);
            if !inner.data.is_empty() && inner.data.len() + data.len() > self.limit {
                self.store(inner, packs)?;
            }
            inner.push(chunk.id, data, Arc::clone(&chunk.pending));
            claimed.pop();
        }
        Ok(TakenFrame { new_chunks, loc: None })
    }

    /// Stores what the run holds as one frame.
    pub(crate) fn flush(&self, packs: &Packs) -> Result<()> {
        self.store(&mut self.lock(), packs)
    }

    /// Forgets what the run holds, after a failure to store it.
    pub(crate) fn abandon(&self, in_flight: &InFlight) {
        let mut inner = self.lock();
        in_flight.remove(inner.chunks.iter().map(|(id, _)| id));
        inner.clear();
    }

    /// Returns the bytes of the frames that the run has become so far.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.lock().stored_bytes
    }

    fn store(&self, inner: &mut Inner, packs: &Packs) -> Result<()> {
        if inner.chunks.is_empty() {
            return Ok(());
        }
        let ids: Vec<[u8; 32]> = inner.chunks.iter().map(|(id, _)| id.0).collect();
        let frame = self.encode(inner, &ids, packs)?;
        let loc = packs.append(Lane::Ingest, &frame)?;
        let bases: Option<Arc<[FrameLoc]>> =
            (!frame.entry.bases.is_empty()).then(|| inner.bases.frames.as_slice().into());
        for ((_, pending), index) in inner.chunks.iter().zip(0..=u16::MAX) {
            // Only this run sets them, once, under its lock.
            if let Some(bases) = &bases {
                let _ = pending.bases.set(Arc::clone(bases));
            }
            let _ = pending.loc.set(ChunkLoc { frame: loc, index });
        }
        inner.stored_bytes += u64::from(loc.len);
        inner.clear();
        Ok(())
    }

    /// Makes the run's frame: with its bases if that gains enough.
    fn encode(&self, inner: &Inner, ids: &[[u8; 32]], packs: &Packs) -> Result<Frame> {
        let frame = packs.encoders.lend(|encoder| {
            if let Some(limit) = inner.bases.limit() {
                let bases = Bases { ids: &inner.bases.ids, data: &inner.bases.data };
                let delta = encoder.encode_delta(&inner.data, &inner.lens, ids, &bases, limit, self.level);
                if let Some(frame) = delta.map_err(|error| Error::Internal(error.to_string()))? {
                    return Ok(frame);
                }
            }
            let frame = encoder.encode(FrameKind::Chunks, &inner.data, &inner.lens, ids, self.level);
            frame.map_err(|error| Error::Internal(error.to_string()))
        })?;
        Ok(frame)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn push(&mut self, id: ChunkId, data: &[u8], pending: Arc<Pending>) {
        self.data.extend_from_slice(data);
        self.lens.push(u32::try_from(data.len()).expect("a chunk has at most 256 KiB"));
        self.chunks.push((id, pending));
    }

    fn clear(&mut self) {
        self.data.clear();
        self.lens.clear();
        self.chunks.clear();
        self.bases = Prefix::default();
    }
}

impl Prefix {
    /// Returns whether these bases fit, too. The first ones always do.
    fn has_room(&self, bases: &[Base]) -> bool {
        let new = || bases.iter().filter(|base| !self.ids.contains(&base.id.0));
        let mut frames: Vec<FrameLoc> = new().map(|base| base.loc).filter(|loc| !self.frames.contains(loc)).collect();
        frames.sort_unstable();
        frames.dedup();
        let bytes: usize = new().map(|base| base.data().len()).sum();
        self.ids.len() + new().count() <= MAX_BASES
            && self.frames.len() + frames.len() <= MAX_BASE_FRAMES
            && self.data.len() + bytes <= MAX_PREFIX_BYTES
    }

    /// Adds the bases of a chunk of `len` bytes that are not there yet, as far as there is room.
    fn add(&mut self, bases: &[Base], len: usize) {
        for base in bases {
            if self.has_room(std::slice::from_ref(base)) && !self.ids.contains(&base.id.0) {
                self.ids.push(base.id.0);
                self.data.extend_from_slice(base.data());
                if !self.frames.contains(&base.loc) {
                    self.frames.push(base.loc);
                }
            }
        }
        if let Some(first) = bases.first() {
            self.plain_bytes += len * first.loc.len as usize / first.raw_bytes.max(1);
        }
    }

    /// Returns what a delta frame's payload must be under to be worth it; `None` without bases.
    fn limit(&self) -> Option<usize> {
        if self.ids.is_empty() {
            return None;
        }
        Some((self.plain_bytes * WORTH_PERCENT / 100).saturating_sub(self.ids.len() * BASE_BYTES))
    }
}
