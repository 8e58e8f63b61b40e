//! What firn knows about its bytes, as two traits.
//!
//! * [`Meta`] is the small transactional truth: packs, recipes, NARs, paths, sessions, caches, tokens.
//!   It holds rows per pack, per NAR and per path, never per chunk.
//! * [`ChunkIndex`] maps a chunk's id to where a copy of it lies. It is a view that can always be rebuilt
//!   from the packs and may lag behind: a stale answer costs a duplicate chunk, never a wrong byte.
//!
//! Both are synchronous and may block on a disk; callers keep them off async threads. [`memory`] holds
//! engines for tests, [`conformance`] the suites that every engine must pass.

pub mod conformance;
pub mod memory;

mod chunks;
mod meta;
mod rows;

pub use chunks::ChunkIndex;
pub use meta::{Commit, Error, Meta, Op, Refusal, Result};
pub use rows::{
    AliasRow, CacheName, CacheRow, Conflict, Content, DocumentKey, DocumentKind, DocumentRow,
    Grant, NarRow, PackRow, PackSeq, PackState, PathRow, RecipeRow, ReferencePolicy, SessionId,
    SessionRow, StoreInfo, TokenId, TokenRow, Totals, Transport, UnixSeconds, Uploader, Verb,
    ConflictPolicy, RowError, Row,
};
