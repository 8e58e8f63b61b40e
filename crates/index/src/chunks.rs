use firn_chunk::ChunkId;
use firn_pack::ChunkLoc;

use crate::{PackSeq, Result};

/// Maps chunk ids to locations; rebuildable from pack footers, possibly behind [`crate::Meta`].
///
/// Writes need not be durable when a call returns: what a crash loses is applied again from the packs
/// whose sequence number is above [`ChunkIndex::watermark`].
pub trait ChunkIndex: Send + Sync {
    /// Returns, for each id, a location where a copy of the chunk was seen, or `None`.
    ///
    /// One call takes at most 4096 ids. The answer has as many entries as `ids`.
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>>;

    /// Records locations; a later location replaces an earlier one of the same chunk.
    fn apply(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()>;

    /// Removes the entry of each chunk that still points at the given location; others stay.
    fn forget(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()>;

    /// Returns the sequence number up to which every sealed pack has been applied; 0 for none.
    fn watermark(&self) -> Result<PackSeq>;

    /// Declares that every sealed pack up to `seq` has been applied. Never becomes durable before the
    /// entries that were applied before the call.
    fn set_watermark(&self, seq: PackSeq) -> Result<()>;

    /// Makes everything applied so far durable.
    fn flush(&self) -> Result<()>;

    /// Returns roughly how many chunks are known (an estimate is enough: it is shown to people).
    fn estimated_chunks(&self) -> Result<u64>;
}
