//! The engine as its callers see it.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use firn_chunk::{Input, RecipeId};
use firn_index::{
    AliasRow, CacheName, ChunkIndex, Content, DocumentKey, DocumentRow, LineageKey, LineageRow, Meta, NarRow,
    RecipeRow, Refusal, Totals, Uploader,
};
use firn_nix::nar::Listing;
use firn_nix::{Sha256, StoreHash};
use firn_pack::FrameEncoder;
use firn_pack::FrameLoc;
use firn_storage::Storage;

use crate::commit::{DocumentContent, PathOutcome, PathUpload};
use crate::committer::{self, Change, Request, Stored};
use crate::frames::Frames;
use crate::gc::leaned_on;
use crate::ingest::{Ingest, Ingested};
use crate::likeness::Likeness;
use crate::mark::{self, Mark};
use crate::measures::{Commits, MemoryUse};
use crate::packs::{LOOKUP_IDS, Packs};
use crate::pool::Pool;
use crate::recipes::Recipes;
use crate::records::RecordEncoder;
use crate::restore::Restore;
use crate::transport::{TransportSizes, ZstdRestore};
use crate::{Clock, Entropy, Error, Result, acknowledged, files, recovery, spans};

/// Bytes that a document row may hold itself.
const MAX_INLINE_BYTES: usize = 4096;

/// When delta frames are made. Those that are there are read in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Delta {
    /// While an upload is taken in.
    #[default]
    Inline,
    /// Later, by [`Engine::squeeze`]: uploads are stored plain.
    Background,
    /// Never.
    Off,
}

/// How an engine works. The values are bounds or preferences; none of them changes a format.
#[derive(Debug, Clone)]
pub struct Options {
    /// The zstd level of chunk frames.
    pub compression_level: i32,
    /// Whether new chunks are compressed with others that are like them.
    pub delta: Delta,
    /// Bytes at which a pack is sealed.
    pub pack_bytes: u64,
    /// Bytes of new chunks in one frame, uncompressed.
    pub frame_bytes: usize,
    /// Bytes of decoded frames kept in memory.
    pub frame_cache_bytes: u64,
    /// Bytes of decoded recipes kept in memory.
    pub recipe_cache_bytes: u64,
    /// How long a NAR is kept that no path names yet.
    pub nar_lease_seconds: u64,
    /// How long an upload's session lives without a sign of life.
    pub session_lease_seconds: u64,
    /// The longest input.
    pub max_nar_bytes: u64,
    /// Free bytes on the disk below which uploads are refused.
    pub min_free_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            compression_level: 3,
            delta: Delta::Inline,
            pack_bytes: 32 << 20,
            frame_bytes: 1 << 20,
            frame_cache_bytes: 64 << 20,
            recipe_cache_bytes: 16 << 20,
            nar_lease_seconds: 24 * 3600,
            session_lease_seconds: 3600,
            max_nar_bytes: 64 << 30,
            min_free_bytes: 64 << 20,
        }
    }
}

/// What a store holds and what the engine keeps in memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Sums over the store, the open pack included.
    pub totals: Totals,
    /// Bytes of decoded frames in memory.
    pub frame_cache_bytes: u64,
    /// Chunks that are on their way to the disk.
    pub chunks_in_flight: usize,
    /// Chunks known to the chunk index, roughly.
    pub chunks: u64,
}

/// What all parts share.
pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) packs: Arc<Packs>,
    pub(crate) frames: Frames,
    pub(crate) recipes: Recipes,
    pub(crate) likeness: Likeness,
    pub(crate) transport_sizes: TransportSizes,
    listings: files::Listings,
    /// Held by the one that rewrites.
    pub(crate) rewriting: Mutex<()>,
    /// Whether some pack may be sparse: what repacking looks at is counted only then.
    pub(crate) has_sparse: AtomicBool,
    queue: Mutex<Option<SyncSender<Request>>>,
    pub(crate) commits: Arc<Commits>,
    committer: Mutex<Option<JoinHandle<()>>>,
}

/// A store: takes bytes in and gives them back. Cheap to clone; every method may block on a disk.
#[derive(Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

impl Engine {
    /// Opens a store: checks that this program can use it, recovers what a crash left, brings the chunk index up to
    /// date, and starts the committer thread. What it did is logged.
    ///
    /// # Errors
    /// [`Error::Unusable`] for a store of a newer format or another chunker; errors of storage and index.
    pub fn open(
        storage: Arc<dyn Storage>,
        meta: Arc<dyn Meta>,
        chunks: Arc<dyn ChunkIndex>,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
        options: Options,
    ) -> Result<Self> {
        let packs = Arc::new(Packs {
            storage,
            meta,
            chunks,
            in_flight: Default::default(),
            watch: Default::default(),
            uses: Default::default(),
            in_use: Default::default(),
            unreadable: Default::default(),
            is_named: Default::default(),
            interrupted: Default::default(),
            opened_at: clock.now(),
            withdrawals: Mutex::default(),
            encoders: Pool::new(|| FrameEncoder::new().map_err(|error| Error::Internal(error.to_string()))),
            clock,
            entropy,
            pack_bytes: options.pack_bytes,
            state: Mutex::default(),
        });
        recovery::identify(&packs)?;
        acknowledged::check(&packs)?;
        recovery::prepare_collection(&packs)?;
        // Before packs are recovered, whose frames may have bases in others.
        let mut leaning = recovery::catch_up(&packs)?;
        recovery::seal_torn_packs(&packs)?;
        leaning.append(&mut recovery::catch_up(&packs)?);
        recovery::withdraw_baseless(&packs, &leaning)?;
        let (queue, requests) = sync_channel(committer::QUEUE);
        let commits = Arc::new(Commits::default());
        let thread = {
            let (packs, encoder) = (Arc::clone(&packs), RecordEncoder::new()?);
            let commits = Arc::clone(&commits);
            std::thread::Builder::new()
                .name("firn-commit".to_owned())
                .spawn(move || committer::run(&packs, encoder, &requests, &commits))
                .map_err(|error| Error::Unusable(format!("its committer thread could not be started: {error}")))?
        };
        let shared = Shared {
            frames: Frames::new(Arc::clone(&packs), options.frame_cache_bytes),
            recipes: Recipes::new(options.recipe_cache_bytes),
            likeness: Likeness::default(),
            transport_sizes: TransportSizes::new(4 << 20),
            listings: files::memory(),
            options,
            packs,
            rewriting: Mutex::new(()),
            has_sparse: AtomicBool::new(true),
            queue: Mutex::new(Some(queue)),
            commits,
            committer: Mutex::new(Some(thread)),
        };
        let engine = Self { shared: Arc::new(shared) };
        // A store with room for the index's own files and no more opens, if only to be read; an index that can't be read does not.
        if !engine.meta().deleted_caches()?.is_empty()
            && let Err(error) = engine.record_deleted_caches()
        {
            tracing::warn!(%error, "packs could not be told which caches were deleted: the next start tries again");
        }
        Ok(engine)
    }

    /// Writes to the open pack which caches were deleted from the index, so that an index that is made from packs does not
    /// bring them back. To be called after [`Meta::delete_cache`], and before a cache of that name is made again; the next opening does it else.
    /// A cache that is there again all the same is left out: what it holds by now must not be taken for what was deleted.
    pub fn record_deleted_caches(&self) -> Result<()> {
        let deleted = self.meta().deleted_caches()?;
        for some in deleted.chunks(committer::REQUEST_CHANGES) {
            for outcome in self.shared.submit_all(some.iter().cloned().map(Change::CacheGone).collect())? {
                outcome?;
            }
        }
        Ok(())
    }

    /// Returns the index of caches, tokens and rows.
    pub fn meta(&self) -> &dyn Meta {
        self.shared.packs.meta.as_ref()
    }

    /// Returns where ids come from.
    pub fn entropy(&self) -> &dyn Entropy {
        self.shared.packs.entropy.as_ref()
    }

    /// Starts to take in an upload.
    ///
    /// # Errors
    /// [`Error::StorageFull`] when less is free than the store keeps; [`Error::WritesStopped`].
    pub fn ingest(&self, input: Input) -> Result<Ingest> {
        Ingest::begin(&self.shared, input)
    }

    /// Returns how long an upload's session lives without a sign of life, in seconds.
    pub fn session_lease_seconds(&self) -> u64 {
        self.shared.options.session_lease_seconds
    }

    /// Returns an error when nothing can be written now; for readiness checks and before a body is read.
    pub fn check_room(&self) -> Result<()> {
        self.shared.check_room()
    }

    /// Makes an ingested NAR part of a cache, durably, without a path yet; `file` is the name under which it was sent.
    ///
    /// # Errors
    /// [`Error::Refused`] when garbage collection took what it leans on: upload it again.
    pub fn commit_nar(&self, cache: &CacheName, nar: Ingested, file: Option<(String, AliasRow)>) -> Result<()> {
        let now = self.shared.packs.clock.now();
        let row = NarRow {
            recipe: nar.recipe,
            slots: nar.slots,
            nar_size: nar.length,
            uploaded_at: now,
            lease_until: now.saturating_add(self.shared.options.nar_lease_seconds),
        };
        let (recipe, chunks, lineage) = (nar.recipe, nar.chunks, nar.lineage);
        let new = Stored { new_recipe: nar.new_recipe, session: nar.session };
        self.submit(Change::Nar { cache: cache.clone(), hash: nar.nar_hash, row, alias: file, new })?;
        self.shared.note_lineage(&recipe, &lineage);
        self.shared.note_committed(cache, None, &recipe, chunks);
        Ok(())
    }

    /// Makes a path visible, or merges it with what the cache has; atomic and durable. If the cache has another NAR of it,
    /// what differs is recorded afterwards, as [`Engine::recorded_difference`] returns it.
    ///
    /// # Errors
    /// [`Error::WrongNar`] when the NAR is missing or of another length, [`Error::MissingReferences`] and
    /// [`Error::ForeignReferences`] by the cache's policy. Nothing is visible then.
    pub fn commit_path(&self, cache: &CacheName, mut upload: PathUpload) -> Result<PathOutcome> {
        self.check_content(cache, &mut upload)?;
        let (path, offered) = (upload.path.hash(), upload.nar_hash);
        let outcome = self.submit(Change::Path { cache: cache.clone(), upload: Box::new(upload) })?;
        self.note_conflict(cache, &path, &offered, outcome, None, self.comparing_until());
        Ok(outcome)
    }

    /// Writes a document, replacing an earlier one; atomic and durable.
    pub fn commit_document(
        &self,
        cache: &CacheName,
        key: DocumentKey,
        content: DocumentContent,
        uploader: Uploader,
    ) -> Result<()> {
        let mut seen = None;
        let (content, new) = match content {
            DocumentContent::Inline(bytes) if bytes.len() <= MAX_INLINE_BYTES => (Content::Inline(bytes), None),
            DocumentContent::Inline(bytes) => {
                let mut ingest = self.ingest(Input::Bytes)?;
                ingest.write(&bytes)?;
                return self.commit_document(cache, key, DocumentContent::Ingested(ingest.finish()?), uploader);
            }
            DocumentContent::Ingested(done) => {
                seen = Some((done.recipe, done.chunks));
                let new = Stored { new_recipe: done.new_recipe, session: done.session };
                let content = Content::Recipe { recipe: done.recipe, slots: done.slots, length: done.length };
                (content, Some((done.recipe, new)))
            }
        };
        let row = DocumentRow { content, written_at: self.shared.packs.clock.now(), uploader };
        self.submit(Change::Document { cache: cache.clone(), key, row, new })?;
        if let Some((recipe, chunks)) = seen {
            self.shared.note_committed(cache, None, &recipe, chunks);
        }
        Ok(())
    }

    /// Prepares to restore a range of what a recipe rebuilds.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such recipe; [`Error::Damaged`] when something that it needs is known to be
    /// gone or wrong, the first chunk of the range included.
    pub fn restore(&self, recipe: &RecipeId, slots: &[StoreHash], range: Range<u64>) -> Result<Restore> {
        let mut row = self.whole_recipe(recipe)?;
        loop {
            match self.restore_as(recipe, &row, slots, range.clone()) {
                Err(error) if error.is_damage() => match self.meta().recipe(recipe)? {
                    // It was moved since the row was read, and what was there before deleted.
                    Some(again) if again.record != row.record && again.damaged_at.is_none() => row = again,
                    _ => return Err(error),
                },
                other => return other,
            }
        }
    }

    /// Prepares to restore a range, as a row says.
    fn restore_as(
        &self,
        recipe: &RecipeId,
        row: &RecipeRow,
        slots: &[StoreHash],
        range: Range<u64>,
    ) -> Result<Restore> {
        let stored = self.shared.recipes.get(&self.shared.frames, recipe, row).inspect_err(|error| {
            if error.is_damage() {
                self.shared.mark_damaged(*recipe, row.record);
            }
        })?;
        Restore::open(&self.shared, Some((*recipe, row.record)), stored, slots, range)
    }

    /// Returns the row of a recipe that is not marked damaged.
    fn whole_recipe(&self, recipe: &RecipeId) -> Result<RecipeRow> {
        let row = self.meta().recipe(recipe)?;
        let row = row.ok_or_else(|| Error::NotFound { what: format!("the recipe {recipe}") })?;
        if row.damaged_at.is_some() {
            return Err(Error::damaged(format!("the recipe {recipe}"), "it was found damaged before: upload it again"));
        }
        Ok(row)
    }

    /// Prepares to restore a NAR in its zstd form, from byte `start` of that form on.
    ///
    /// From the middle it needs to know the form's length, and encodes the whole NAR once if it does not.
    pub fn restore_zstd(
        &self,
        nar_hash: &Sha256,
        recipe: &RecipeId,
        slots: &[StoreHash],
        start: u64,
    ) -> Result<ZstdRestore> {
        ZstdRestore::open(&self.shared, *nar_hash, start, &|from| self.restore(recipe, slots, from..u64::MAX))
    }

    /// Returns what is inside a NAR. Reads its structure and small files only.
    pub fn listing(&self, recipe: &RecipeId, slots: &[StoreHash]) -> Result<Arc<Listing>> {
        let found = self.listing_while(recipe, slots, &mut |_| true)?;
        found.ok_or_else(|| Error::Internal("list a NAR: it was not read to its end".to_owned()))
    }

    /// Returns how many bytes the listing of a NAR takes if it is in memory.
    pub fn known_listing_bytes(&self, recipe: &RecipeId, slots: &[StoreHash]) -> Option<u64> {
        self.shared.listings.peek(&(*recipe, slots.to_vec())).map(|listing| listing.memory_bytes())
    }

    /// Does as [`Engine::listing`]; `None` when `may_go_on`, which is told how many bytes came with each step, said no.
    pub(crate) fn listing_while(
        &self,
        recipe: &RecipeId,
        slots: &[StoreHash],
        may_go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Option<Arc<Listing>>> {
        let key = (*recipe, slots.to_vec());
        let made = self.shared.listings.get_or_insert_with(&key, || {
            let whole = self.restore(recipe, slots, 0..u64::MAX).map_err(Some)?;
            files::list(whole, may_go_on).map_err(Some)?.map(Arc::new).ok_or(None)
        });
        match made {
            Ok(listing) => Ok(Some(listing)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }

    /// Returns whether a recipe is there and not marked damaged. Reads no pack.
    pub fn is_restorable(&self, recipe: &RecipeId) -> Result<bool> {
        Ok(self.meta().recipe(recipe)?.is_some_and(|row| row.damaged_at.is_none()))
    }

    /// Counts who needs which bytes: reads every row, every pack's footer and every recipe that is held. `None` when `stop`,
    /// which is asked now and then, said so.
    ///
    /// # Errors
    /// Errors of storage and index. Damage is none: what can't be read is counted as missing.
    pub fn mark(&self, stop: &dyn Fn() -> bool) -> Result<Option<Mark>> {
        mark::collect(&self.shared, stop)
    }

    /// Returns what the store holds.
    pub fn stats(&self) -> Result<Stats> {
        let mut totals = self.meta().totals()?;
        let open = self.shared.packs.open_bytes();
        totals.stored_bytes += open.stored_bytes;
        totals.unique_bytes += open.unique_bytes;
        Ok(Stats {
            totals,
            frame_cache_bytes: self.shared.frames.memory_bytes(),
            chunks_in_flight: self.shared.packs.in_flight.len(),
            chunks: self.shared.packs.chunks.estimated_chunks()?,
        })
    }

    /// Returns what the chunk index tells of itself, by names with units.
    pub fn chunk_index_measures(&self) -> Vec<(&'static str, u64)> {
        self.shared.packs.chunks.measures()
    }

    /// Ends the committer, seals the open pack and flushes the indexes. Later writes fail; reads go on. Closing again does
    /// nothing.
    pub fn close(&self) -> Result<()> {
        drop(self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.shared.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            return Err(Error::Internal("close the store: the committer had panicked".to_owned()));
        }
        if let Err(error) = self.flush_uses() {
            tracing::warn!(%error, "could not note which paths were used last");
        }
        // A pack that can't be sealed now is sealed at the next start; the indexes must not suffer from it.
        let sealed = self.shared.packs.close();
        self.shared.packs.meta.flush()?;
        self.shared.packs.chunks.flush()?;
        sealed
    }

    fn submit(&self, change: Change) -> Result<PathOutcome> {
        let _span = spans::commit(1);
        self.shared.submit(change)
    }
}

impl Drop for Shared {
    /// Waits for the committer, which uses the index: an index that is still open when the process ends may abort it.
    fn drop(&mut self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.committer.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Not by the committer: whoever asked holds the engine until it has let go. A thread can't wait for itself.
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != std::thread::current().id()) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Returns what the memory of listings holds.
    pub(crate) fn listings_use(&self) -> MemoryUse {
        MemoryUse::of("listings", &self.listings, true)
    }

    pub(crate) fn check_room(&self) -> Result<()> {
        if let Some(why) = self.packs.stopped() {
            return Err(Error::WritesStopped(why));
        }
        match self.packs.storage.free_bytes()? {
            Some(free) if free < self.options.min_free_bytes => Err(Error::StorageFull),
            _ => Ok(()),
        }
    }

    /// Records that a recipe can't be restored, so that it answers as missing until it is uploaded again; `record` says
    /// which one it is about, should it have been uploaded again meanwhile.
    pub(crate) fn mark_damaged(&self, recipe: RecipeId, record: FrameLoc) {
        if let Err(error) = self.submit(Change::Damaged { recipe, record }) {
            tracing::error!(%recipe, %error, "could not record that a recipe is damaged");
        }
    }

    fn submit(&self, change: Change) -> Result<PathOutcome> {
        let outcome = self.submit_all(vec![change])?.pop();
        outcome.unwrap_or_else(|| Err(Error::Internal("commit: no outcome came back".to_owned())))
    }

    /// Notes where later uploads may find bases in a recipe that is committed. What is lost of that costs bytes.
    pub(crate) fn note_lineage(&self, recipe: &RecipeId, lineage: &[(LineageKey, u32)]) {
        let row = |&(key, chunk): &(LineageKey, u32)| (key, LineageRow { recipe: *recipe, chunk });
        for some in lineage.chunks(LOOKUP_IDS) {
            if let Err(error) = self.packs.chunks.add_lineage(&some.iter().map(row).collect::<Vec<_>>()) {
                tracing::warn!(%recipe, %error, "could not note a lineage: what is like it will take more room");
                return;
            }
        }
    }

    /// Commits changes together, in their order; there is an outcome for each.
    pub(crate) fn submit_all(&self, changes: Vec<Change>) -> Result<Vec<Result<PathOutcome>>> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let queue = queue.ok_or_else(|| Error::WritesStopped("the store is closed".to_owned()))?;
        let count = changes.len() as u64;
        let leaned: Vec<_> = changes.iter().map(leaned_on).collect();
        self.commits.begin(count);
        let outcomes = committer::submit(&queue, changes);
        self.commits.end(count);
        for (outcome, leaned) in outcomes.iter().flatten().zip(leaned) {
            if let Err(Error::Refused(Refusal::PacksGone(gone))) = outcome {
                // Decoded frames remember where their bases were: the next try must find out where these are now.
                self.frames.drop_packs(gone);
                if let Err(error) = self.packs.forget_gone(gone, &leaned) {
                    tracing::warn!(%error, "could not forget chunks of packs that are gone: uploads of them may be refused again");
                }
            }
        }
        outcomes
    }
}
