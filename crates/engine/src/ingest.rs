//! Ingest: bytes to chunks to packs, verified before anything can see them.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_chunk::{Chunk, ChunkId, Chunker, Cut, Hint, Input, Recipe, RecipeId};
use firn_index::{LineageKey, SeenId, SessionId, UnixSeconds};
use firn_nix::{Sha256, StoreHash};
use firn_pack::{ChunkLoc, FrameLoc};
use sha2::Digest;
use tracing::field::Empty;
use xxhash_rust::xxh3::Xxh3;

use crate::bases::{self, Base, BaseFinder};
use crate::engine::{Delta, Shared};
use crate::lineage::Lineage;
use crate::placement::Placement;
use crate::recipes::StoredRecipe;
use crate::restore::Restore;
use crate::run::{Pending, Run};
use crate::scatter::{Scatter, follows};
use crate::{Error, Result, spans};

/// Bytes that the verification restores at a time.
const VERIFY_BYTES: usize = 1 << 20;

/// Scattered chunks in a row that are worth to be stored again.
const MIN_GATHERED: usize = 4;

/// One upload being taken in. Memory is bounded: a frame's worth of new chunks, the chunker's buffer, and some 80 bytes
/// for each chunk of the input.
///
/// Nothing of it is visible until [`Ingested`] is committed. Dropping it abandons the upload; chunks that were stored by
/// then serve the next attempt.
pub struct Ingest {
    shared: Arc<Shared>,
    chunker: Option<Chunker>,
    sha256: sha2::Sha256,
    fingerprint: Fingerprint,
    cutting: Cutting,
    session: Session,
    length: u64,
    span: tracing::Span,
}

/// What becomes of the chunks.
struct Cutting {
    shared: Arc<Shared>,
    run: Arc<Run>,
    /// The chunks with bases wait in a run of their own.
    delta: Arc<Run>,
    finder: BaseFinder,
    lineage: Lineage,
    places: Vec<Place>,
    scatter: Scatter,
    /// Chunks whose places are not decided yet, at most [`MIN_GATHERED`] and one.
    held: Vec<Held>,
    /// Whether the chunks before those were stored again.
    is_gathering: bool,
    stats: IngestStats,
}

enum Place {
    At(ChunkLoc),
    Pending(Arc<Pending>),
}

/// A chunk that is stored, but far from the one before it: those behind it decide whether it is stored again.
struct Held {
    id: ChunkId,
    data: Vec<u8>,
    loc: ChunkLoc,
}

/// What an ingest did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestStats {
    /// Chunks of the input.
    pub chunks: u64,
    /// Chunks that were not stored before.
    pub new_chunks: u64,
    /// Bytes of those, uncompressed.
    pub unique_bytes: u64,
    /// Bytes of the frames that hold them.
    pub stored_bytes: u64,
    /// Whether the whole recipe was stored before.
    pub known_recipe: bool,
}

/// An upload that is stored and was reproduced once, ready to be committed.
pub struct Ingested {
    /// SHA-256 of the bytes.
    pub nar_hash: Sha256,
    /// How many bytes.
    pub length: u64,
    /// What rebuilds them, but for their store hashes.
    pub recipe: RecipeId,
    /// Their store hashes.
    pub slots: Vec<StoreHash>,
    /// What the ingest did.
    pub stats: IngestStats,
    pub(crate) new_recipe: Option<NewRecipe>,
    /// Its chunks, unless they have to be read from the recipe.
    pub(crate) chunks: Option<Vec<SeenId>>,
    /// Where later uploads may find bases in it; nothing if the recipe was stored before.
    pub(crate) lineage: Vec<(LineageKey, u32)>,
    pub(crate) session: Session,
}

/// A recipe that the index does not have.
#[derive(Debug)]
pub(crate) struct NewRecipe {
    pub(crate) encoded: Vec<u8>,
    pub(crate) placement: Placement,
    pub(crate) length: u64,
    pub(crate) chunks: u64,
}

/// A session that ends when it is dropped; a crash ends all of them.
pub(crate) struct Session {
    shared: Arc<Shared>,
    pub(crate) id: SessionId,
    renew_at: UnixSeconds,
}

impl Session {
    pub(crate) fn begin(shared: &Arc<Shared>) -> Result<Self> {
        let (now, lease) = (shared.packs.clock.now(), shared.options.session_lease_seconds);
        let id = SessionId(shared.packs.entropy.draw());
        shared.packs.meta.begin_session(id, now, now.saturating_add(lease))?;
        Ok(Self { shared: Arc::clone(shared), id, renew_at: now.saturating_add(lease / 2) })
    }

    pub(crate) fn renew(&mut self) -> Result<()> {
        let (now, lease) = (self.shared.packs.clock.now(), self.shared.options.session_lease_seconds);
        if now < self.renew_at {
            return Ok(());
        }
        if !self.shared.packs.meta.renew_session(self.id, now, now.saturating_add(lease))? {
            return Err(Error::Refused(firn_index::Refusal::SessionExpired));
        }
        self.renew_at = now.saturating_add(lease / 2);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Only thrift: the lease ends it too.
        let _ = self.shared.packs.meta.end_session(self.id);
    }
}

impl Ingest {
    pub(crate) fn begin(shared: &Arc<Shared>, input: Input) -> Result<Self> {
        shared.check_room()?;
        let run = || Run::new(shared.options.frame_bytes, shared.options.compression_level);
        Ok(Self {
            shared: Arc::clone(shared),
            chunker: Some(Chunker::new(input)),
            sha256: sha2::Sha256::new(),
            fingerprint: Fingerprint::new(shared.packs.entropy.draw()),
            cutting: Cutting {
                shared: Arc::clone(shared),
                run: run(),
                delta: run(),
                finder: BaseFinder::default(),
                lineage: Lineage::default(),
                places: Vec::new(),
                scatter: Scatter::default(),
                held: Vec::new(),
                is_gathering: false,
                stats: IngestStats::default(),
            },
            session: Session::begin(shared)?,
            length: 0,
            span: tracing::info_span!(target: spans::TARGET, "ingest", firn.bytes = Empty, firn.known = Empty),
        })
    }

    /// Takes the next bytes; how they are split does not matter.
    ///
    /// # Errors
    /// [`Error::Nar`] as soon as the bytes can't be a NAR any more, [`Error::TooLarge`], [`Error::StorageFull`]. After
    /// an error the ingest can only be dropped.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.session.renew()?;
        self.length = self.length.saturating_add(bytes.len() as u64);
        let limit = self.shared.options.max_nar_bytes;
        if self.length > limit {
            return Err(Error::TooLarge { limit });
        }
        self.sha256.update(bytes);
        self.fingerprint.update(bytes);
        let Self { chunker, cutting, .. } = self;
        let chunker = chunker.as_mut().ok_or_else(after_error)?;
        let mut failed = None;
        let pushed = chunker.push(bytes, &mut |chunk| cutting.take(&chunk, &mut failed));
        let outcome = failed.map_or(pushed.map_err(Error::from), Err);
        if outcome.is_err() {
            self.chunker = None;
        }
        outcome
    }

    /// Returns the SHA-256 and the number of the bytes so far: with it a caller knows whether they are what was promised before
    /// [`Ingest::finish`] takes its time.
    #[must_use]
    pub fn so_far(&self) -> (Sha256, u64) {
        (Sha256(self.sha256.clone().finalize().into()), self.length)
    }

    /// Ends the input, stores what is left, and restores the whole once to compare it with what came in.
    ///
    /// # Errors
    /// As [`Ingest::write`]; [`Error::Nar`] when the NAR is cut short; [`Error::Damaged`] when a chunk that was stored
    /// before turned out damaged: it is forgotten then, so that a second upload stores it anew.
    pub fn finish(mut self) -> Result<Ingested> {
        let span = self.span.clone();
        let _entered = span.enter();
        let chunker = self.chunker.take().ok_or_else(after_error)?;
        let cutting = &mut self.cutting;
        let mut failed = None;
        let cut = chunker.finish(&mut |chunk| cutting.take(&chunk, &mut failed));
        let cut = failed.map_or(cut.map_err(Error::from), Err)?;
        let nar_hash = Sha256(std::mem::take(&mut self.sha256).finalize().into());
        let mut placement = self.cutting.settle()?;
        let encoded = cut.recipe.encode();
        let recipe = RecipeId::of(&encoded);

        let mut stats = self.cutting.stats;
        stats.chunks = cut.recipe.chunks.len() as u64;
        stats.stored_bytes = self.cutting.run.stored_bytes() + self.cutting.delta.stored_bytes();
        stats.known_recipe = self.shared.packs.meta.recipe(&recipe)?.is_some_and(|row| row.damaged_at.is_none());
        span.record("firn.bytes", spans::number(cut.length)).record("firn.known", stats.known_recipe);
        let chunks = Some(cut.recipe.chunks.iter().map(|chunk| SeenId::from(&chunk.id)).collect());
        let (mut new_recipe, mut lineage) = (None, Vec::new());
        if !stats.known_recipe {
            placement.bases = self.verify(cut.recipe, placement.clone(), &cut.slots)?;
            lineage = self.cutting.lineage.finish();
            new_recipe = Some(NewRecipe { encoded, placement, length: cut.length, chunks: stats.chunks });
        }
        let Self { session, .. } = self;
        let Cut { slots, length, .. } = cut;
        Ok(Ingested { nar_hash, length, recipe, slots, stats, new_recipe, chunks, lineage, session })
    }

    /// Restores the upload once; returns the frames that hold bases of what it needs.
    fn verify(&self, recipe: Recipe, placement: Placement, slots: &[StoreHash]) -> Result<Vec<FrameLoc>> {
        let _span = tracing::info_span!(target: spans::TARGET, "verify").entered();
        let stored = StoredRecipe::new(recipe, placement)
            .ok_or_else(|| Error::Internal("place the upload's chunks: their number is wrong".to_owned()))?;
        let stored = Arc::new(stored);
        let open = || Restore::open(&self.shared, None, Arc::clone(&stored), slots, 0..stored.recipe.length);
        let mut restore = open()?.compared_by_caller();
        let mut restored = self.fingerprint.another();
        while let Some(piece) = restore.next(VERIFY_BYTES)? {
            restored.update(&piece);
        }
        if restored.digest() == self.fingerprint.digest() {
            return Ok(restore.into_bases());
        }
        // So that the chunks to blame are forgotten, and the next upload stores them anew.
        let mut restore = open()?;
        while restore.next(VERIFY_BYTES)?.is_some() {}
        Err(Error::Internal("reproduce the upload: other bytes came back; nothing was committed".to_owned()))
    }
}

/// Tells whether the bytes that came in and those that come back are the same: XXH3 of 128 bits with a seed that is drawn
/// for each upload. Its tenth of SHA-256's cost is enough, as no uploader can aim at a seed that it does not know.
struct Fingerprint {
    seed: u64,
    hasher: Xxh3,
}

impl Fingerprint {
    fn new(drawn: u128) -> Self {
        Self::seeded((drawn >> 64) as u64 ^ drawn as u64)
    }

    fn seeded(seed: u64) -> Self {
        Self { seed, hasher: Xxh3::with_seed(seed) }
    }

    /// Returns an empty one with the same seed.
    fn another(&self) -> Self {
        Self::seeded(self.seed)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    fn digest(&self) -> u128 {
        self.hasher.digest128()
    }
}

impl Cutting {
    /// Finds or makes a place for the next chunk. The first failure is kept, and everything after it skipped.
    fn take(&mut self, chunk: &Chunk<'_>, failed: &mut Option<Error>) {
        if failed.is_none() {
            *failed = self.place(chunk).err();
        }
    }

    fn place(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        if self.shared.options.delta == Delta::Inline {
            self.lineage.pass(chunk.origin, chunk.data.len() as u64);
        }
        let packs = &self.shared.packs;
        let pending = packs.in_flight.get(&chunk.id);
        let loc = match &pending {
            Some(pending) => pending.loc(),
            None => packs.lookup(&chunk.id)?,
        };
        let frame = loc.map(|loc| loc.frame);
        let is_lone = pending.is_none() && frame.is_some_and(|frame| !self.scatter.may_share(frame));
        self.scatter.note(frame);
        self.place_held(frame, is_lone)?;
        match (pending, loc) {
            (Some(pending), _) => self.places.push(Place::Pending(pending)),
            (None, Some(loc)) if is_lone => self.held.push(Held { id: chunk.id, data: chunk.data.to_vec(), loc }),
            (None, Some(loc)) => self.places.push(Place::At(loc)),
            (None, None) => self.store_new(chunk)?,
        }
        Ok(())
    }

    /// Decides about the chunks that are held, now that it is known where the next one was found, and whether it is one
    /// of those that should be stored again.
    fn place_held(&mut self, next: Option<FrameLoc>, is_lone: bool) -> Result<()> {
        let in_order = self.held.pop_if(|last| next.is_some_and(|next| follows(last.loc.frame, next)));
        // Too few of them would be as scattered in their new place, and be stored again by every later upload.
        let is_worth_it = self.is_gathering || self.held.len() >= MIN_GATHERED;
        if is_lone && in_order.is_none() && !is_worth_it {
            return Ok(());
        }
        self.is_gathering = is_lone && in_order.is_none();
        for held in std::mem::take(&mut self.held) {
            if is_worth_it {
                self.take_note(held.data.len(), self.run.take_again(held.id, &held.data, &self.shared.packs)?);
            } else {
                self.places.push(Place::At(held.loc));
            }
        }
        self.places.extend(in_order.map(|held| Place::At(held.loc)));
        Ok(())
    }

    /// Stores a chunk, unless another upload has it in hand or the index knows it by now.
    fn store_new(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        let bases = match self.shared.options.delta {
            Delta::Inline => self.find_bases(chunk)?,
            Delta::Background | Delta::Off => Vec::new(),
        };
        let run = if bases.is_empty() { &self.run } else { &self.delta };
        let taken = run.take(chunk.id, chunk.data, &bases, &self.shared.packs)?;
        self.take_note(chunk.data.len(), taken);
        Ok(())
    }

    fn find_bases(&mut self, chunk: &Chunk<'_>) -> Result<Vec<Base>> {
        let (hint, shared) = (Hint::of(chunk), &self.shared);
        let bases = self.finder.find(shared, &hint, chunk.data.len(), &mut |id| bases::fetch(shared, id))?;
        if let Some(features) = hint.features.filter(|_| bases.is_empty()) {
            self.lineage.note_features(features);
        }
        Ok(bases)
    }

    fn take_note(&mut self, len: usize, (pending, is_mine): (Arc<Pending>, bool)) {
        if is_mine {
            self.stats.new_chunks += 1;
            self.stats.unique_bytes += len as u64;
        }
        self.places.push(Place::Pending(pending));
    }

    fn settle(&mut self) -> Result<Placement> {
        self.place_held(None, false)?;
        self.run.flush(&self.shared.packs)?;
        self.delta.flush(&self.shared.packs)?;
        let (mut placement, mut bases) = (Placement::default(), BTreeSet::new());
        for place in self.places.drain(..) {
            placement.push(match place {
                Place::At(loc) => loc,
                Place::Pending(pending) => {
                    let loc = pending.settle(&self.shared.packs)?;
                    bases.extend(pending.bases());
                    loc
                }
            });
        }
        placement.bases = bases.into_iter().collect();
        Ok(placement)
    }
}

impl Drop for Cutting {
    fn drop(&mut self) {
        // Other uploads may lean on what waits in the run. If it can't be stored, they are told.
        for run in [&self.run, &self.delta] {
            if run.flush(&self.shared.packs).is_err() {
                run.abandon(&self.shared.packs.in_flight);
            }
        }
    }
}

fn after_error() -> Error {
    Error::Internal("go on with an upload that failed: start it again".to_owned())
}
