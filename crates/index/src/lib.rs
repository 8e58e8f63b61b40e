//! What firn knows about its bytes, as two traits.
//!
//! * [`Meta`] is the small transactional truth: packs, recipes, NARs, paths, sessions, caches, tokens.
//!   It holds rows per pack, per NAR and per path, never per chunk.
//! * [`ChunkIndex`] maps a chunk's id to where a copy of it lies. It is a view that can always be rebuilt
//!   from the packs and may lag behind: a stale answer costs a duplicate chunk, never a wrong byte.
//!
//! Both are synchronous and may block on a disk; callers keep them off async threads. [`memory`] holds
//! engines for tests; with the feature `conformance`, a module of that name holds the suites that every engine must pass.
//!
//! ```
//! use firn_index::memory::MemoryMeta;
//! use firn_index::{Commit, Meta, Op, Totals};
//!
//! # fn main() -> Result<(), firn_index::Error> {
//! let meta = MemoryMeta::new();
//! let ops = vec![Op::Count(Totals { unique_bytes: 7, ..Totals::default() })];
//! let outcomes = meta.commit(0, &[Commit { session: None, packs: vec![], ops }])?;
//! assert_eq!(outcomes, [Ok(())]);
//! assert_eq!(meta.totals()?.unique_bytes, 7);
//! # Ok(())
//! # }
//! ```

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
pub mod memory;

mod chunks;
mod meta;
mod rows;
mod sessions;
mod sources;

pub use chunks::{ChunkIndex, LINEAGE_ROWS, LineageKey, LineageRow, SeenId};
pub use meta::{Commit, Error, Meta, Op, Refusal, Result, use_of_nar};
pub use rows::{
    AliasRow, CacheName, CacheRow, CollectionFailure, CollectionPass, CollectionRow, Conflict, ConflictPolicy, Content,
    DamagedPath, Day, DifferenceRow, DocumentKey, DocumentKind, DocumentRow, EntryFacts, EntryKind, FileDifference,
    Grant, IssuedRow, LeaseRow, NarRow, PackRow, PackSeq, PackState, PathRow, PinName, PinRow, ProvenanceRow,
    PushOutcome, PushRecord, RecipeRow, ReferencePolicy, RetentionRow, Row, RowError, ScrubPass, ScrubRow, SessionId,
    SessionRow, SourceCounts, SourceCursor, SourceFilter, SourceName, SourceProblem, SourceRow, SourceStateRow,
    SourceTrust, StoreInfo, StuckRow, SummaryRow, TokenId, TokenOrigin, TokenRow, Totals, Transport, UnixSeconds,
    Uploader, UpstreamMode, UpstreamRow, UpstreamsRow, UsageKey, UsageRow, Verb,
};
pub use sessions::Sessions;
pub use sources::Sources;
