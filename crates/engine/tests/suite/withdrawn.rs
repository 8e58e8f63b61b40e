//! What a collection took is not offered to uploads, also when a crash came.

use std::sync::Arc;

use firn_chunk::ChunkId;
use firn_engine::{Engine, Error, GcOptions, PathDeletion};
use firn_index::{PackState, Refusal};
use firn_pack::{ChunkLoc, Footer, FrameKind, FrameLoc};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenChunks, When};
use crate::fixture::{Fixture, cache, path, push, push_path};

const DAY: u64 = 24 * 3600;

fn build(n: u8) -> Vec<u8> {
    let mut bytes = Random::new(1).noise(200_000);
    bytes[100_000..100_020].fill(n);
    Node::file(bytes).encode()
}

/// Returns a NAR that has nothing at the place where builds have a file.
fn other(seed: u64) -> Vec<u8> {
    Node::directory([("other", Node::file(Random::new(seed).noise(100_000)))]).encode()
}

/// A store with a pack that only the path `base` needs, and a live one: `kept` needs it, and `variant`, some of whose frames have
/// bases in the first.
fn filled() -> Fixture {
    let fixture = Fixture::new();
    let engine = fixture.open();
    push_path(&engine, "base", &build(1)).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    engine.learn(true).unwrap();
    push_path(&engine, "variant", &build(2)).unwrap();
    push_path(&engine, "kept", &other(5)).unwrap();
    engine.close().unwrap();
    fixture
}

/// Deletes the paths that go, and collects; packs stay doomed for a while.
fn collect(fixture: &Fixture, engine: &Engine) -> firn_engine::Result<()> {
    for name in ["base", "variant"] {
        let deleted = engine.delete_path(&cache(), &path(name).hash(), false, &|_, _| {}).unwrap();
        assert!(matches!(deleted, PathDeletion::Deleted(_)), "{deleted:?}");
    }
    fixture.clock.advance(2 * DAY);
    let options = GcOptions { dry_run: false, grace_seconds: DAY, repack: None };
    engine.collect(&options, &|_, _| {}).map(|report| assert!(report.is_some()))
}

fn states(fixture: &Fixture) -> Vec<PackState> {
    let mut packs = fixture.meta.packs(None, 100).unwrap();
    packs.sort_by_key(|(_, row)| (row.state == PackState::Writing, row.seq));
    packs.into_iter().map(|(_, row)| row.state).collect()
}

/// Returns all chunks of the first two packs.
fn chunks(fixture: &Fixture) -> Vec<(ChunkId, ChunkLoc)> {
    let mut chunks = Vec::new();
    for (_, pack) in fixture.meta.sealed_packs(0, 2).unwrap() {
        let hex = pack.to_string();
        let name = format!("packs/{}/{hex}", &hex[..2]);
        let read = |at, len| fixture.storage.read(&name, at, len).map_err(std::io::Error::other);
        let footer = Footer::open(read, fixture.storage.len(&name).unwrap()).unwrap();
        for (offset, entry) in footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks) {
            let loc = FrameLoc { pack, offset: *offset, len: entry.len };
            chunks.extend(entry.locations(loc).map(|(id, loc)| (ChunkId(id), loc)));
        }
    }
    chunks
}

#[test]
fn an_upload_of_what_a_crash_brought_back_is_refused_once() {
    for (again, is_refused) in [(build(1), true), (build(2), true), (other(5), false), (other(6), false)] {
        let fixture = filled();
        let engine = fixture.open();
        collect(&fixture, &engine).unwrap();
        assert_eq!(states(&fixture)[..2], [PackState::Doomed, PackState::Live]);
        drop(engine);
        // A chunk index from before the collection.
        fixture.chunks.apply(&chunks(&fixture)).unwrap();
        let engine = fixture.open();
        let first = push(&engine, &again);
        if is_refused {
            assert!(matches!(first, Err(Error::Refused(Refusal::PacksGone(_)))), "{first:?}");
        } else {
            first.unwrap().check(&engine).unwrap();
        }
        push(&engine, &again).unwrap().check(&engine).unwrap();
        assert_eq!(states(&fixture)[..2], [PackState::Doomed, PackState::Live], "no collection was needed");
    }
}

#[test]
fn chunks_are_forgotten_durably_before_their_pack_is_condemned() {
    let fixture = filled();
    let broken = Arc::new(BrokenChunks::new(Arc::clone(&fixture.chunks)));
    let engine = Fixture { chunks: Arc::clone(&broken) as _, ..fixture.clone() }.open();
    broken.plan(Some("flush"), 0, When::Before);
    assert!(matches!(collect(&fixture, &engine), Err(Error::Index(_))));
    assert!(broken.fired());
    assert_eq!(states(&fixture)[..2], [PackState::Live; 2]);
    collect_again(&fixture, &engine);
    push(&engine, &build(1)).unwrap().check(&engine).unwrap();
}

fn collect_again(fixture: &Fixture, engine: &Engine) {
    let options = GcOptions { dry_run: false, grace_seconds: DAY, repack: None };
    engine.collect(&options, &|_, _| {}).unwrap().unwrap();
    assert_eq!(states(fixture)[..2], [PackState::Doomed, PackState::Live]);
}
