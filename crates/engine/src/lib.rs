//! Ingest and restore: what firn does with chunks, packs and the index.
//!
//! [`Engine`] takes bytes in through [`Ingest`], stores what is new in packs, and gives them back through
//! [`Restore`]. It knows nothing of HTTP, tokens or the environment, and not which storage or index it got.
//! Everything blocks: callers keep it off async threads.
//!
//! The order that makes it safe: pack bytes are synced, then the index is, then a path is visible; and no NAR is
//! committed that was not reproduced once, byte for byte, through the code that serves it.

#[cfg(test)]
extern crate self as firn_engine;

mod acknowledged;
mod bases;
mod carry;
mod clock;
mod commit;
mod committer;
mod conflict;
mod difference;
mod engine;
mod error;
mod files;
#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
mod frames;
#[doc(hidden)]
pub mod fuzz;
mod gc;
mod in_flight;
mod in_use;
#[cfg(test)]
#[path = "../tests/fixture/indexes.rs"]
mod indexes;
mod ingest;
mod likeness;
mod lineage;
mod mark;
mod measures;
mod occurrence;
mod orders;
mod pack_chunks;
mod packs;
mod placement;
mod pool;
mod presence;
mod push;
mod rebuild;
mod recipes;
mod records;
mod recovery;
mod restore;
mod reuse;
mod rewrite;
mod run;
mod scatter;
mod scrub;
pub mod spans;
mod torn;
mod transport;
mod usage;
mod uses;
mod watch;

/// The name of the lease under which packs are deleted: whoever holds it keeps all that are there.
pub const DELETION_LEASE: &str = "gc";

pub use clock::{Clock, Entropy, SystemClock};
pub use commit::{DocumentContent, MAX_SIGNATURES, PathOutcome, PathUpload};
pub use difference::Difference;
pub use engine::{Delta, Engine, Options, Stats};
pub use error::{Error, Result};
/// How reports name packs.
pub use firn_pack::PackId;
pub use gc::{Backlog, CacheFates, Explanation, Fate, GcOptions, GcReport, PackSum, PathDeletion, SparsePack};
pub use ingest::{Ingest, IngestStats, Ingested};
pub use mark::{
    ChunkSet, Freed, Holder, HolderKind, Kept, MAX_CONFLICTS, Mark, MarkedConflict, Names, PackBytes, PackTotals,
};
pub use measures::{CommitQueue, MemoryUse, PacksOfState};
pub use push::{
    Assembled, FramesTaken, MAX_PUSHED_CHUNKS, MAX_PUSHED_FRAME_BYTES, MAX_PUSHED_FRAMES, NarClaim, PushedFrames, Scope,
};
pub use rebuild::{Parts, Rebuilt, rebuild};
pub use restore::Restore;
pub use rewrite::{Pace, RepackOptions, Rewritten, SqueezeOptions, StuckPack};
pub use scrub::Scrub;
pub use transport::{SMALL_NAR_BYTES, TransportEncoder, TransportPiece, ZstdRestore};
pub use usage::{Dimension, Usage, day_name};
