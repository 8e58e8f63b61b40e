//! Rewriting: the live content of packs is stored anew, and the recipes that need it are moved along.
//!
//! [`Engine::repack`] empties sparse packs, [`Engine::squeeze`] compresses again what was stored in a hurry. Both take some
//! packs at a time, a *window* ([`window`]), write what recipes need of it to new frames ([`writer`]), and then move these
//! recipes, each by itself ([`moves`]). The order is that of an upload: frames are appended, read back and checked; synced;
//! offered by the chunk index; then a recipe's record, placement and edges change in one step, if the recipe is still
//! what was read. Until then it needs the old packs, afterwards it does not: at any moment every recipe can be restored,
//! and what a crash leaves is frames that nothing needs. A pack that lost its last edge is garbage collection's.
//!
//! Bases: what a frame elsewhere, or one that is copied, has as a base stays in a frame without bases. An upload may take
//! one as a base that is just being rewritten: a restore then takes one [step](crate::frames::BASE_STEPS) more, and the old
//! pack stays.

mod choose;
mod left;
mod moves;
mod reencode;
mod regroup;
mod survey;
mod window;
mod writer;

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError, TryLockError};

use firn_pack::PackId;

use crate::engine::Shared;
use crate::gc::PackSum;
use crate::packs::Lane;
use crate::{Engine, Result, spans};

use choose::Candidate;
pub(crate) use choose::Sparse;
use window::Window;
use writer::Writer;

/// What a rewrite looks at together, in stored bytes, unless one pack is larger.
const WINDOW_BYTES: u64 = 256 << 20;

/// How many chunks these packs have at most, unless one pack has more: some 200 bytes of memory each.
const WINDOW_CHUNKS: usize = 200_000;

/// How often recipes are looked for that came to need a window's packs while it was rewritten.
const ROUNDS: usize = 3;

/// Which packs are repacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RepackOptions {
    /// Packs of which at most this part is needed are sparse, in percent of their bytes.
    pub max_live_percent: u8,
    /// Bytes that one run reads and writes, roughly: it ends with the pack that is under way.
    pub max_bytes: u64,
}

impl Default for RepackOptions {
    fn default() -> Self {
        Self { max_live_percent: 60, max_bytes: 8 << 30 }
    }
}

/// How packs are compressed again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqueezeOptions {
    /// The zstd level, 1 to 22. Packs that were squeezed with this one or a higher one are left alone.
    pub level: u8,
    /// Uncompressed bytes of a frame without bases; 1 MiB or more. Whoever wants a chunk decodes what is before it as well.
    pub frame_bytes: usize,
    /// How old a pack is at least.
    pub min_age_seconds: u64,
    /// Bytes that one run reads, roughly: it ends with the window that is under way.
    pub max_read_bytes: u64,
}

impl Default for SqueezeOptions {
    fn default() -> Self {
        Self { level: 18, frame_bytes: 8 << 20, min_age_seconds: 24 * 3600, max_read_bytes: u64::MAX }
    }
}

/// A pack that could not be emptied, read or deleted, and stays for that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StuckPack {
    /// Which.
    pub pack: PackId,
    /// Its bytes.
    pub stored_bytes: u64,
    /// Recipes that need it yet.
    pub recipes: u64,
    /// Why it stays, and what to do.
    pub why: String,
}

/// What a rewrite has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// Packs that were to be looked at when it began.
    pub packs: u64,
    /// Those that were.
    pub done_packs: u64,
    /// Those of them that nothing needs any more.
    pub emptied_packs: u64,
    /// Bytes of these.
    pub emptied_bytes: u64,
    /// Bytes of frames that were read to be moved.
    pub read_bytes: u64,
    /// Bytes of frames that were written.
    pub written_bytes: u64,
    /// Chunks that were moved.
    pub chunks: u64,
    /// Recipes that were moved.
    pub recipes: u64,
    /// Frames that could not be read.
    pub unreadable_frames: u64,
    /// Packs that could not be emptied; at most 100 are named.
    pub stuck: Vec<StuckPack>,
    /// Whether it was told to stop before it was through.
    pub is_stopped: bool,
}

/// Is told before each frame how far a rewrite got, waits as long as it likes, and says whether it goes on: how a rewrite
/// is slowed down, watched and stopped. When it stops, what was written is made use of.
pub type Pace<'a> = dyn FnMut(&Rewritten) -> bool + 'a;

impl Engine {
    /// Stores the live content of sparse packs anew, the sparsest first, so that nothing needs them any more. Frames of
    /// which everything is needed are copied; of others, what is needed is compressed again as it was, with the same bases.
    /// Uploads and downloads go on meanwhile. Returns `None`, at once, while another rewrite is under way.
    ///
    /// # Errors
    /// [`crate::Error::StorageFull`], [`crate::Error::WritesStopped`], errors of storage and index. Nothing is lost
    /// by them; what was moved by then stays moved.
    pub fn repack(&self, options: &RepackOptions, pace: &mut Pace<'_>) -> Result<Option<Rewritten>> {
        let Some(_turn) = self.shared.begin_rewrite() else { return Ok(None) };
        let Some(mark) = self.mark(&|| false)? else { return Ok(None) };
        let live = mark.live_bytes(|_| false);
        drop(mark);
        let (sparse, _) = self.shared.sparse_packs(live, options.max_live_percent)?;
        self.shared.repack_these(options, &sparse, pace).map(Some)
    }

    /// Compresses packs again, the oldest first, that were not compressed with as much effort: what is like other content
    /// with that as its base, also if it was pushed without, and the rest at a higher level in longer runs. Uploads and
    /// downloads go on meanwhile. Run again, it goes on where it stopped. Returns `None`, at once, while another rewrite
    /// is under way.
    ///
    /// # Errors
    /// As [`Engine::repack`].
    pub fn squeeze(&self, options: &SqueezeOptions, pace: &mut Pace<'_>) -> Result<Option<Rewritten>> {
        let Some(_turn) = self.shared.begin_rewrite() else { return Ok(None) };
        let _span = tracing::info_span!(target: spans::TARGET, "squeeze").entered();
        self.shared.has_sparse.store(true, Ordering::SeqCst);
        if options.min_age_seconds == 0 {
            self.shared.packs.end(Lane::Ingest)?;
        }
        let cold = self.shared.cold_packs(options)?;
        let mut so_far = Rewritten { packs: cold.len() as u64, ..Rewritten::default() };
        let mut rest = &cold[..];
        while !rest.is_empty() && so_far.read_bytes < options.max_read_bytes && !so_far.is_stopped {
            let window = Window::of(&self.shared, rest, WINDOW_BYTES)?;
            rest = &rest[window.taken()..];
            let frame_bytes = options.frame_bytes.max(self.shared.options.frame_bytes);
            let mut writer = Writer::new(&self.shared, options.level.into(), frame_bytes, options.level, so_far, pace)?;
            reencode::rewrite(&mut writer, &window)?;
            so_far = writer.finish(&window)?;
        }
        self.shared.packs.end(Lane::Rewrite(options.level))?;
        Ok(Some(so_far))
    }

    /// Sums up the packs that [`Engine::squeeze`] would take now. Reads the row of every pack.
    ///
    /// # Errors
    /// Errors of the index.
    pub fn squeeze_backlog(&self, options: &SqueezeOptions) -> Result<PackSum> {
        let mut sum = PackSum::default();
        self.shared.cold_packs(options)?.iter().for_each(|candidate| sum.add(candidate.stored_bytes));
        Ok(sum)
    }
}

impl Shared {
    /// Stores the live content of these packs anew, as far as the budget goes.
    pub(crate) fn repack_these(
        self: &Arc<Self>,
        options: &RepackOptions,
        sparse: &[Sparse],
        pace: &mut Pace<'_>,
    ) -> Result<Rewritten> {
        let sparse: Vec<Candidate> = sparse.iter().map(Candidate::from).collect();
        let mut so_far = Rewritten { packs: sparse.len() as u64, ..Rewritten::default() };
        let mut rest = &sparse[..];
        while !rest.is_empty() && !so_far.is_stopped {
            let done = so_far.read_bytes.saturating_add(so_far.written_bytes);
            let Some(budget) = options.max_bytes.checked_sub(done).filter(|budget| *budget > 0) else { break };
            let effort = rest[0].effort;
            // What was squeezed and what was not don't come to the same packs.
            let alike = rest.iter().take_while(|candidate| candidate.effort == effort).count();
            let window = Window::of(self, &rest[..alike], budget.min(WINDOW_BYTES))?;
            rest = &rest[window.taken()..];
            let level = if effort == 0 { self.options.compression_level } else { effort.into() };
            let mut writer = Writer::new(self, level, self.options.frame_bytes, effort, so_far, pace)?;
            regroup::rewrite(&mut writer, &window)?;
            so_far = writer.finish(&window)?;
        }
        self.packs.end(Lane::Rewrite(0))?;
        Ok(so_far)
    }

    /// Returns the turn to rewrite, which one has at a time.
    pub(crate) fn begin_rewrite(&self) -> Option<MutexGuard<'_, ()>> {
        match self.rewriting.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(PoisonError::into_inner(turn)),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
