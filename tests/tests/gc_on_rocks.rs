//! The engine's tests of garbage collection, its model test and its races, over RocksDB. The engine's own programs run them
//! over indexes in memory, which is quicker and does not need RocksDB.

#[path = "../../crates/engine/tests/fixture/mod.rs"]
mod fixture;
#[path = "../../crates/engine/tests/suite/gc.rs"]
mod gc;
#[path = "../../crates/engine/tests/suite/invariants.rs"]
mod invariants;
#[path = "../../crates/engine/tests/suite/model.rs"]
mod model;
#[path = "../../crates/engine/tests/suite/races.rs"]
mod races;

/// The indexes that stores of this program have.
mod indexes {
    use std::fs;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, OnceLock};

    use firn_index::{ChunkIndex, Meta};
    use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};

    /// Returns a new folder. What the last run left is removed first: databases stay open to the end of this one.
    fn folder() -> PathBuf {
        static ROOT: OnceLock<PathBuf> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let root = ROOT.get_or_init(|| {
            let root = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gc_on_rocks");
            let _ = fs::remove_dir_all(&root);
            root
        });
        let folder = root.join(NEXT.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir_all(&folder).expect("the target folder can be written");
        folder
    }

    pub(crate) fn new_meta() -> Arc<dyn Meta> {
        Arc::new(RocksMeta::open(&folder(), &MetaOptions { cache_bytes: 1 << 20 }).expect("a new index"))
    }

    pub(crate) fn new_chunks() -> Arc<dyn ChunkIndex> {
        let options = ChunkIndexOptions { cache_bytes: 1 << 20, ..ChunkIndexOptions::default() };
        Arc::new(RocksChunkIndex::open(&folder(), &options).expect("a new index"))
    }
}
