//! The indexes that stores of this program have: RocksDB's, each in a folder of its own that goes when it does.

use std::path::Path;
use std::sync::Arc;

use firn_index::{ChunkIndex, Meta};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};
use tempfile::TempDir;

use crate::fixture::broken::{BrokenChunks, BrokenMeta};

/// Of the calls that may fail, one in so many does: to make and open indexes takes long here.
pub(crate) const STRIDE: usize = 7;

/// Memory for blocks, in bytes: hardly anything.
const CACHE_BYTES: usize = 1 << 20;

/// Makes a folder, in memory where the system has such a place: hundreds of indexes are made, and no disk is tried here.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.unwrap()
}

pub(crate) fn new_meta() -> Arc<dyn Meta> {
    let folder = folder();
    let meta = RocksMeta::open(folder.path(), &MetaOptions { cache_bytes: CACHE_BYTES }).unwrap();
    Arc::new(BrokenMeta::new(Arc::new(meta)).keeping(folder))
}

pub(crate) fn new_chunks() -> Arc<dyn ChunkIndex> {
    let folder = folder();
    let options = ChunkIndexOptions { cache_bytes: CACHE_BYTES, ..ChunkIndexOptions::default() };
    let chunks = RocksChunkIndex::open(folder.path(), &options).unwrap();
    Arc::new(BrokenChunks::new(Arc::new(chunks)).keeping(folder))
}
