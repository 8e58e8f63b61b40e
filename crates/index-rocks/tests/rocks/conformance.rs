//! RocksDB's engines against the suites, ended cleanly and as a crash would.

use crate::folders::Folders;
use firn_index::conformance::{self, Open, model};
use firn_index::{ChunkIndex, Meta};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};
use proptest::prelude::*;

fn open_meta(folders: &mut Folders, open: Open) -> Box<dyn Meta> {
    let folder = folders.folder_for(open);
    Box::new(RocksMeta::open(folder, &MetaOptions::default()).expect("opens"))
}

fn open_chunks(folders: &mut Folders, open: Open) -> Box<dyn ChunkIndex> {
    // Small, so that buffers are also written in the middle of a suite.
    let options = ChunkIndexOptions { cache_bytes: 1 << 20, write_buffer_bytes: 64 << 10 };
    Box::new(RocksChunkIndex::open(folders.folder_for(open), &options).expect("opens"))
}

#[test]
fn meta_keeps_its_word() {
    let folders = std::cell::RefCell::new(Folders::default());
    conformance::meta(&|| open_meta(&mut folders.borrow_mut(), Open::Fresh));
}

#[test]
fn meta_is_durable() {
    let mut folders = Folders::default();
    conformance::durable_meta(&mut |open| open_meta(&mut folders, open));
}

#[test]
fn chunk_index_keeps_its_word() {
    let folders = std::cell::RefCell::new(Folders::default());
    conformance::chunk_index(&|| open_chunks(&mut folders.borrow_mut(), Open::Fresh));
}

#[test]
fn chunk_index_is_durable_as_promised() {
    let mut folders = Folders::default();
    conformance::durable_chunk_index(&mut |open| open_chunks(&mut folders, open));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn meta_does_as_the_model(steps in model::steps(60, true)) {
        let mut folders = Folders::default();
        model::meta(&mut |open| open_meta(&mut folders, open), &steps)?;
    }

    #[test]
    fn chunk_index_does_as_the_model(steps in model::chunk_steps(40)) {
        let mut folders = Folders::default();
        model::chunk_index(&*open_chunks(&mut folders, Open::Fresh), &steps)?;
    }
}
