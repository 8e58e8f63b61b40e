//! Bytes that changed on the disk: never given out, always reported, and repaired by the next upload.

use std::sync::Arc;

use firn_chunk::{ChunkId, Chunker, Input};
use firn_engine::{Engine, Error, Options, PathUpload};
use firn_index::memory::MemoryChunkIndex;
use firn_index::{ChunkIndex, ReferencePolicy};
use firn_storage::{Failure, Fault, Memory, Meter, Operation, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::{
    Fixture, Pushed, cache, ingest, noise, objects, package, package_with, path, push, push_path, restore, upload_again,
};

/// A store in memory whose bytes can be damaged, with an open engine.
struct Store {
    memory: Memory,
    fixture: Fixture,
    engine: Engine,
}

impl Store {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(set: impl FnOnce(&mut Options)) -> Self {
        let memory = Memory::new();
        let mut fixture = Fixture::on(Arc::new(memory.clone()));
        // Nothing in memory may hide what is on the disk.
        fixture.options.frame_cache_bytes = 0;
        fixture.options.recipe_cache_bytes = 0;
        set(&mut fixture.options);
        let engine = fixture.open();
        Self { memory, fixture, engine }
    }

    /// Closes the store and opens it again.
    fn reopened(mut self) -> Self {
        self.engine.close().unwrap();
        self.engine = self.fixture.open();
        self
    }

    fn packs(&self) -> Vec<(String, u64)> {
        objects(&self.memory)
    }

    /// Flips a bit of the only pack, at a part of its length.
    fn damage_at(&self, part: f64) {
        let packs = self.packs();
        assert_eq!(packs.len(), 1);
        let (name, len) = &packs[0];
        self.memory.damage(name, (*len as f64 * part) as usize, 0x10).unwrap();
    }

    /// Says that something can't be restored, once found and from then on.
    fn assert_damaged(&self, pushed: &Pushed) {
        for _ in 0..2 {
            let error = pushed.check(&self.engine).expect_err("damage must be noticed");
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
            assert!(!self.engine.is_restorable(&pushed.recipe).unwrap());
        }
        // Not even where a part is whole: nobody may begin what can't be ended.
        assert!(matches!(restore(&self.engine, pushed, 0..1), Err(Error::Damaged { .. })));
    }
}

/// How a store is when a bit of it flips.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Mode {
    Closed,
    /// Closed, and the chunk index is lost besides.
    ClosedWithoutIndex,
    /// Killed with its pack still open.
    Killed,
}

/// Builds the same small store every time.
fn small_store() -> (Store, Vec<Pushed>) {
    let store = Store::with(|options| options.frame_bytes = 1500);
    let references = [path("glibc"), path("bash")];
    let nars = [(1, 2000, &references[..]), (1, 2000, &references[..1]), (2, 3000, &[])];
    let push = |&(seed, len, references): &_| push(&store.engine, &package_with(seed, len, references)).unwrap();
    let pushed = nars.iter().map(push).collect();
    (store, pushed)
}

/// Flips one byte, restores everything, uploads again what is damaged; returns whether anything was.
fn survive_flip(mode: Mode, offset: usize) -> bool {
    let (store, pushed) = small_store();
    if mode != Mode::Killed {
        store.engine.close().unwrap();
    }
    store.memory.damage(&store.packs()[0].0, offset, 1 << (offset % 8)).unwrap();
    let mut fixture = store.fixture;
    if mode == Mode::ClosedWithoutIndex {
        fixture = fixture.without_chunk_index();
    }
    let engine = fixture.try_open().unwrap_or_else(|error| panic!("{mode:?}, byte {offset}: {error:?}"));
    let mut is_damaged = false;
    for pushed in &pushed {
        // Panics on a wrong byte.
        let Err(error) = pushed.check(&engine) else { continue };
        assert!(matches!(error, Error::Damaged { .. }), "{mode:?}, byte {offset}: {error:?}");
        assert!(!engine.is_restorable(&pushed.recipe).unwrap(), "{mode:?}, byte {offset}");
        assert_eq!(upload_again(&engine, &pushed.bytes), 1, "{mode:?}, byte {offset}");
        pushed.check(&engine).unwrap_or_else(|error| panic!("{mode:?}, byte {offset}: {error:?}"));
        is_damaged = true;
    }
    for pushed in &pushed {
        pushed.check(&engine).unwrap_or_else(|error| panic!("{mode:?}, byte {offset}, in the end: {error:?}"));
    }
    is_damaged
}

#[test]
fn no_flipped_bit_ever_comes_out_as_a_wrong_byte() {
    for mode in [Mode::Closed, Mode::ClosedWithoutIndex, Mode::Killed] {
        let (store, _) = small_store();
        if mode != Mode::Killed {
            store.engine.close().unwrap();
        }
        let len = store.packs()[0].1 as usize;
        let damaged = (0..len).filter(|offset| survive_flip(mode, *offset)).count();
        // Records, footer and the pack's header are not needed to restore.
        assert!(damaged > len / 3 && damaged < len, "{mode:?}: {damaged} of {len} flips were noticed");
    }
}

#[test]
fn damage_before_the_first_byte_is_known_before_the_first_byte() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.1);
    assert!(matches!(store.engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX), Err(Error::Damaged { .. })));
    store.assert_damaged(&pushed);
}

#[test]
fn damage_in_mid_stream_breaks_off_after_right_bytes() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(1, 5_000_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.9);

    let mut restore = store.engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap();
    let mut got = Vec::new();
    let error = loop {
        match restore.next(10_000) {
            Ok(piece) => got.extend_from_slice(&piece.expect("it must not end as if it were whole")),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(got.len() > 3_000_000 && pushed.bytes.starts_with(&got));
    assert!(restore.next(10_000).is_err(), "asking again must not make it good");
    assert_eq!(restore.remaining(), (pushed.bytes.len() - got.len()) as u64);
    store.assert_damaged(&pushed);

    assert_eq!(upload_again(&store.engine, &pushed.bytes), 1);
    pushed.check(&store.engine).unwrap();
    pushed.check(&store.reopened().engine).unwrap();
}

#[test]
fn the_zstd_form_breaks_off_too() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.9);
    let open = |start| store.engine.restore_zstd(&pushed.nar_hash, &pushed.recipe, &pushed.slots, start);
    let mut whole = open(0).unwrap();
    let error = loop {
        match whole.next() {
            Ok(piece) => assert!(piece.is_some(), "it must not end as if it were whole"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Damaged { .. }), "{error:?}");
    assert!(matches!(open(0), Err(Error::Damaged { .. })));
    assert!(matches!(open(1_000), Err(Error::Damaged { .. })));
}

#[test]
fn one_upload_repairs_however_much_is_damaged() {
    let store = Store::with(|options| options.frame_bytes = 200_000);
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    for part in [0.05, 0.3, 0.5, 0.7, 0.95] {
        store.damage_at(part);
    }
    store.assert_damaged(&pushed);
    assert_eq!(upload_again(&store.engine, &pushed.bytes), 1);
    pushed.check(&store.engine).unwrap();
}

#[test]
fn a_repair_leaves_what_is_whole_alone() {
    let store = Store::with(|options| options.frame_bytes = 200_000);
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.5);
    store.assert_damaged(&pushed);
    let repair = ingest(&store.engine, &pushed.bytes).unwrap();
    assert!((1..=400_000).contains(&repair.stats.unique_bytes), "{:?}", repair.stats);
}

/// Nobody restored it, so nobody knows: the upload that leans on it finds out, and the next one stores it anew.
#[test]
fn an_upload_that_leans_on_damage_finds_it() {
    let store = Store::with(|options| options.frame_bytes = 200_000);
    let old = noise(1, 1_000_000);
    push(&store.engine, &old).unwrap();
    let store = store.reopened();
    for part in [0.3, 0.6] {
        store.damage_at(part);
    }
    let contents = |nar: &[u8]| Node::file(nar[96..1_000_000].to_vec());
    let new = Node::directory([("a", contents(&old)), ("b", contents(&noise(2, 1_000_000)))]).encode();
    assert_eq!(upload_again(&store.engine, &new), 2);
    push(&store.engine, &new).unwrap().check(&store.engine).unwrap();
}

#[test]
fn an_upload_that_is_not_reproduced_is_not_committed() {
    let store = Store::new();
    let nar = noise(1, 3_000_000);
    let mut ingest = store.engine.ingest(Input::Nar).unwrap();
    ingest.write(&nar).unwrap();
    // Its first frames are written by now.
    let (pack, len) = store.packs()[0].clone();
    assert!(len > 1_000_000);
    store.memory.damage(&pack, 500_000, 1).unwrap();
    assert!(matches!(ingest.finish(), Err(Error::Damaged { .. })));

    let pushed = push(&store.engine, &nar).expect("what was damaged is stored again");
    pushed.check(&store.engine).unwrap();
    let fixture = store.reopened().fixture.without_chunk_index();
    pushed.check(&fixture.open()).unwrap();
}

#[test]
fn a_pack_that_is_gone_or_cut_short_is_damage_until_it_is_uploaded_again() {
    for cut in [None, Some(0), Some(40), Some(1_200_000)] {
        let store = Store::new();
        let gone = push(&store.engine, &noise(1, 3_000_000)).unwrap();
        let store = store.reopened();
        let (name, _) = store.packs()[0].clone();
        let other = push(&store.engine, &package(2, 400_000)).unwrap();
        match cut {
            None => store.memory.delete(&name).unwrap(),
            Some(len) => drop(store.memory.resume(&name, len).unwrap()),
        }
        store.assert_damaged(&gone);
        other.check(&store.engine).unwrap();
        // The recipe's record is gone as well: only the upload that leans on its chunks finds out that they are.
        assert_eq!(upload_again(&store.engine, &gone.bytes), 2, "cut to {cut:?}");
        gone.check(&store.engine).unwrap();
        other.check(&store.engine).unwrap();
    }
}

#[test]
fn a_chunk_that_lies_elsewhere_too_is_taken_from_there() {
    let mut store = Store::new();
    let first = push(&store.engine, &noise(1, 2_000_000)).unwrap();
    store.engine.close().unwrap();
    let (first_pack, _) = store.packs()[0].clone();
    // An index that has forgotten the first pack makes the store keep the same chunks twice.
    let forgetful = MemoryChunkIndex::new();
    forgetful.set_watermark(1).unwrap();
    store.fixture.chunks = Arc::new(forgetful);
    store.engine = store.fixture.open();
    let contents = first.bytes[96..2_000_096].to_vec();
    let second = Node::directory([("copy", Node::file(contents))]).encode();
    let second = push(&store.engine, &second).unwrap();

    for offset in [100_000, 1_000_000, 1_900_000] {
        store.memory.damage(&first_pack, offset, 4).unwrap();
    }
    // What the second does not share lies between the frames' ends: restore what it does.
    let middle = 300_000..1_700_000;
    let expected = &first.bytes[middle.start as usize..middle.end as usize];
    assert!(restore(&store.engine, &first, middle).unwrap() == expected);
    assert!(store.engine.is_restorable(&first.recipe).unwrap(), "what can be had is not damaged");
    second.check(&store.engine).unwrap();
}

#[test]
fn a_disk_that_fails_to_read_says_nothing_about_what_is_stored() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    let fault = Fault::new(Arc::new(store.memory.clone()));
    let engine = store.fixture.over(fault.clone()).open();

    for operation in [Operation::Read, Operation::Len] {
        fault.plan(Some(operation), 0, Failure::Io);
        assert!(matches!(pushed.check(&engine), Err(Error::Storage(_))), "{operation:?}");
        assert!(engine.is_restorable(&pushed.recipe).unwrap());
        pushed.check(&engine).unwrap();
    }
    let mut restore = engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap();
    fault.plan(Some(Operation::Read), 0, Failure::Io);
    let (mut got, mut failures) = (Vec::new(), 0);
    loop {
        match restore.next(700_000) {
            Ok(Some(piece)) => got.extend_from_slice(&piece),
            Ok(None) => break,
            Err(_) => failures += 1,
        }
    }
    assert!(fault.fired() && failures == 0, "what fails once is asked for once more");
    assert!(got == pushed.bytes);

    let mut restore = engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap();
    let (name, len) = &store.packs()[0];
    fault.refuse(name, len / 2..len / 2 + 1);
    let mut got = Vec::new();
    while let Ok(Some(piece)) = restore.next(700_000) {
        got.extend_from_slice(&piece);
    }
    assert!(matches!(restore.next(1), Err(Error::Storage(_))), "it is not known that it is damaged");
    fault.heal();
    while let Some(piece) = restore.next(700_000).unwrap() {
        got.extend_from_slice(&piece);
    }
    assert!(got == pushed.bytes, "asking again goes on where the last good bytes ended");
}

/// Returns the ids of a NAR's chunks.
fn chunk_ids(nar: &[u8]) -> Vec<ChunkId> {
    let (mut chunker, mut ids) = (Chunker::new(Input::Nar), Vec::new());
    chunker.push(nar, &mut |chunk| ids.push(chunk.id)).unwrap();
    chunker.finish(&mut |chunk| ids.push(chunk.id)).unwrap();
    ids
}

#[test]
fn a_slow_reader_of_the_damaged_copy_does_not_condemn_the_repaired_one() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    let mut slow = store.engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap();
    store.damage_at(0.9);
    store.assert_damaged(&pushed);
    assert_eq!(upload_again(&store.engine, &pushed.bytes), 1);

    // Without the chunk index it can't find the new copies.
    for id in chunk_ids(&pushed.bytes) {
        let loc = store.fixture.chunks.lookup(&[id]).unwrap()[0].unwrap();
        store.fixture.chunks.forget(&[(id, loc)]).unwrap();
    }
    assert!(slow.read(usize::MAX).is_err());
    assert!(store.engine.is_restorable(&pushed.recipe).unwrap());
    pushed.check(&store.engine).unwrap();
}

#[test]
fn what_is_known_to_be_damaged_costs_no_more_looking() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.5);
    let meter = Meter::new(Arc::new(store.memory.clone()));
    let engine = store.fixture.over(meter.clone()).open();
    push(&engine, &package(5, 10_000)).unwrap();
    assert!(pushed.check(&engine).is_err());
    let before = meter.counts();
    for _ in 0..10 {
        assert!(matches!(pushed.check(&engine), Err(Error::Damaged { .. })));
    }
    assert_eq!(meter.counts(), before);
}

#[test]
fn a_damaged_path_stays_until_its_nar_comes_again() {
    let store = Store::new();
    let pushed = push_path(&store.engine, "tool", &noise(1, 500_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.5);
    store.assert_damaged(&pushed);
    let row = |store: &Store| store.engine.meta().path(&cache(), &path("tool").hash()).unwrap();
    assert!(row(&store).is_some());
    push_path(&store.engine, "tool", &pushed.bytes).unwrap();
    assert_eq!(row(&store).unwrap().nar_hash, pushed.nar_hash);
    pushed.check(&store.engine).unwrap();
    assert_eq!(store.engine.stats().unwrap().totals.paths, 1);
}

#[test]
fn a_listing_needs_only_the_structure() {
    let store = Store::new();
    let large = Node::file(Random::new(1).noise(6_000_000));
    let tree = Node::directory([("a", Node::file("a")), ("b", large), ("c", Node::file("c"))]);
    let pushed = push(&store.engine, &tree.encode()).unwrap();
    let store = store.reopened();
    store.damage_at(0.5);
    let listing = store.engine.listing(&pushed.recipe, &pushed.slots).unwrap();
    assert_eq!(listing.entry_count(), 4);
    store.damage_at(0.01);
    let engine = store.fixture.open();
    assert!(matches!(engine.listing(&pushed.recipe, &pushed.slots), Err(Error::Damaged { .. })));
    assert!(!engine.is_restorable(&pushed.recipe).unwrap());
}

#[test]
fn references_can_not_be_looked_for_in_what_is_damaged() {
    let store = Store::new();
    push_path(&store.engine, "bash", &package(7, 1_000)).unwrap();
    let pushed = push(&store.engine, &noise(1, 3_000_000)).unwrap();
    let store = store.reopened();
    store.damage_at(0.9);
    let upload = PathUpload {
        references: vec![path("bash")],
        references_policy: ReferencePolicy::Strict,
        ..pushed.as_path("tool")
    };
    assert!(matches!(store.engine.commit_path(&cache(), upload), Err(Error::Damaged { .. })));
    assert!(store.engine.meta().path(&cache(), &path("tool").hash()).unwrap().is_none());
    assert!(!store.engine.is_restorable(&pushed.recipe).unwrap());
}

/// A frame that is whole and right, and another one: what a disk makes that writes to the wrong place.
#[test]
fn another_frame_in_the_place_of_one_is_damage() {
    let store = Store::new();
    let [first, second] = [1, 2].map(|seed| push(&store.engine, &noise(seed, 10_000)).unwrap());
    let store = store.reopened();
    let (name, len) = store.packs()[0].clone();
    let pack = store.memory.read(&name, 0, len as usize).unwrap();
    let at = |pushed: &Pushed| {
        let chunk = chunk_ids(&pushed.bytes);
        let loc = store.fixture.chunks.lookup(&chunk).unwrap()[0].unwrap();
        loc.frame.offset as usize..loc.frame.offset as usize + loc.frame.len as usize
    };
    let (to, from) = (at(&first), at(&second));
    assert_eq!(to.len(), from.len());
    for (to, from) in to.zip(from) {
        store.memory.damage(&name, to, pack[to] ^ pack[from]).unwrap();
    }
    second.check(&store.engine).unwrap();
    store.assert_damaged(&first);
    assert_eq!(upload_again(&store.engine, &first.bytes), 1);
    first.check(&store.engine).unwrap();
}

/// The chunk index is only a hint: what it says is checked before anything leans on it.
#[test]
fn a_chunk_index_that_points_to_another_chunk_is_found_out() {
    let store = Store::new();
    let known = push(&store.engine, &noise(1, 10_000)).unwrap();
    let loc = store.fixture.chunks.lookup(&chunk_ids(&known.bytes)).unwrap()[0].unwrap();
    let nar = noise(2, 10_000);
    let wrong: Vec<_> = chunk_ids(&nar).into_iter().map(|id| (id, loc)).collect();
    store.fixture.chunks.apply(&wrong).unwrap();
    assert_eq!(upload_again(&store.engine, &nar), 2);
    push(&store.engine, &nar).unwrap().check(&store.engine).unwrap();
    known.check(&store.engine).unwrap();
}

/// It is as long as the right one, and not the first: only comparing the whole tells.
#[test]
fn a_wrong_chunk_in_the_middle_is_found_out_and_forgotten() {
    let store = Store::new();
    let plain = |byte: u8| Node::file(vec![byte; 1_000_000]).encode();
    let (known, nar) = (push(&store.engine, &plain(b'x')).unwrap(), plain(b'y'));
    let (right, wrong) = (chunk_ids(&nar)[1], chunk_ids(&known.bytes)[1]);
    let loc = store.fixture.chunks.lookup(&[wrong]).unwrap()[0].unwrap();
    store.fixture.chunks.apply(&[(right, loc)]).unwrap();
    assert_eq!(upload_again(&store.engine, &nar), 2);
    push(&store.engine, &nar).unwrap().check(&store.engine).unwrap();
    known.check(&store.engine).unwrap();
}

#[test]
fn that_the_last_frame_is_gone_is_known_before_the_first_byte() {
    let store = Store::new();
    let nar = noise(1, 3_000_000);
    drop(ingest(&store.engine, &nar).unwrap());
    let store = store.reopened();
    let (chunks, len) = store.packs()[0].clone();
    // Its recipe comes into another pack, and is whole.
    let pushed = push(&store.engine, &nar).unwrap();
    assert_eq!(store.packs().len(), 2);
    drop(store.memory.resume(&chunks, len - 100_000).unwrap());
    let opened = store.engine.restore(&pushed.recipe, &pushed.slots, 0..1);
    assert!(matches!(opened.err(), Some(Error::Damaged { .. })));
    store.assert_damaged(&pushed);
    assert_eq!(upload_again(&store.engine, &nar), 1);
    pushed.check(&store.engine).unwrap();
}
