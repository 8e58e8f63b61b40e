//! Runs: new chunks of one ingest, gathered until they make a frame.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use firn_chunk::ChunkId;
use firn_pack::{ChunkLoc, FrameKind};

use crate::in_flight::{Claim, InFlight};
use crate::packs::Packs;
use crate::{Error, Result};

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
        if self.loc.get().is_none() {
            self.run.flush(packs)?;
        }
        self.loc.get().copied().ok_or_else(|| {
            Error::Internal("store the upload: another upload of the same content failed: upload again".to_owned())
        })
    }
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
        inner.data.extend_from_slice(data);
        inner.lens.push(u32::try_from(data.len()).expect("a chunk has at most 256 KiB"));
        inner.chunks.push((id, Arc::clone(&pending)));
        Ok((pending, true))
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
    fn clear(&mut self) {
        self.data.clear();
        self.lens.clear();
        self.chunks.clear();
    }
}
