//! Runs: new chunks of one ingest, gathered until they make a frame.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use firn_chunk::ChunkId;
use firn_pack::{ChunkLoc, DecodedFrame, FrameEntry, FrameKind, FrameLoc};

use crate::in_flight::{Claim, InFlight};
use crate::packs::Packs;
use crate::{Error, Result};

/// A frame is stored as its client made it when at most one part in so many of it is known: that is twice on the disk
/// then, and compressing the rest again would take longer than everything else about it.
const KEPT_WITH: usize = 4;

/// A chunk that an ingest took on itself to store, until its bytes are durable.
pub(crate) struct Pending {
    run: Arc<Run>,
    loc: OnceLock<ChunkLoc>,
}

impl Pending {
    /// Returns where the chunk lies, if it was stored already.
    pub(crate) fn loc(&self) -> Option<ChunkLoc> {
        self.loc.get().copied()
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

struct Inner {
    data: Vec<u8>,
    lens: Vec<u32>,
    chunks: Vec<(ChunkId, Arc<Pending>)>,
    stored_bytes: u64,
}

impl Run {
    /// Returns an empty run that makes frames of up to `limit` bytes (one chunk at least) at a zstd level.
    pub(crate) fn new(limit: usize, level: i32) -> Arc<Self> {
        let inner = Inner { data: Vec::new(), lens: Vec::new(), chunks: Vec::new(), stored_bytes: 0 };
        Arc::new(Self { limit, level, inner: Mutex::new(inner) })
    }

    /// Takes a chunk, unless another ingest has it in hand or, with `may_share`, the index knows it.
    ///
    /// Claiming and taking are one step under the run's lock, so that whoever finds the claim finds the chunk too. The
    /// index is asked after the claim: a chunk that another ingest had in hand a moment ago is in the index by now.
    pub(crate) fn take(
        self: &Arc<Self>,
        id: ChunkId,
        data: &[u8],
        may_share: bool,
        packs: &Packs,
    ) -> Result<(Arc<Pending>, bool)> {
        let mut inner = self.lock();
        if !inner.data.is_empty() && inner.data.len() + data.len() > self.limit {
            self.store(&mut inner, packs)?;
        }
        let mine = Arc::new(Pending { run: Arc::clone(self), loc: OnceLock::new() });
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
        let ids = || made.entry.items.iter().map(|item| ChunkId(item.id));
        let mine = || Arc::new(Pending { run: Arc::clone(self), loc: OnceLock::new() });
        let claims = packs.in_flight.claim_all(ids(), mine);
        let claims = (0..).zip(ids()).zip(claims);
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
            let loc = packs.append_parts(made.bytes, made.entry)?;
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
        let frame = packs.encoders.lend(|encoder| {
            let frame = encoder.encode(FrameKind::Chunks, &inner.data, &inner.lens, &ids, self.level);
            frame.map_err(|error| Error::Internal(error.to_string()))
        })?;
        let loc = packs.append(&frame)?;
        for ((_, pending), index) in inner.chunks.iter().zip(0..=u16::MAX) {
            // Only this run sets it, once, under its lock.
            let _ = pending.loc.set(ChunkLoc { frame: loc, index });
        }
        inner.stored_bytes += u64::from(loc.len);
        inner.clear();
        Ok(())
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
    }
}
