//! What things cost, counted: a regression here is paid on every upload and every download.

use std::sync::Arc;

use firn_engine::{Engine, SqueezeOptions};
use firn_storage::{Memory, Meter, Metered};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::{Fixture, Pushed, cache, ingest, noise, package, push, restore};

/// A store whose storage is counted.
struct Store {
    meter: Meter,
    fixture: Fixture,
    engine: Engine,
}

impl Store {
    fn new() -> Self {
        let meter = Meter::new(Arc::new(Memory::new()));
        let fixture = Fixture::on(Arc::new(meter.clone()));
        let engine = fixture.open();
        Self { meter, fixture, engine }
    }

    /// Returns the same store with nothing in memory.
    fn reopened(self) -> Self {
        self.engine.close().unwrap();
        let engine = self.fixture.open();
        Self { engine, ..self }
    }

    /// Returns what a step cost, without the bytes.
    fn cost<T>(&self, step: impl FnOnce(&Engine) -> T) -> (T, Metered) {
        let before = self.meter.counts();
        let made = step(&self.engine);
        let counted = self.meter.counts().since(&before);
        (made, Metered { read_bytes: 0, written_bytes: 0, ..counted })
    }
}

#[test]
fn opening_a_store_that_was_closed_costs_one_read_and_one_list() {
    let store = Store::new();
    push(&store.engine, &package(1, 100_000)).unwrap();
    store.engine.close().unwrap();
    let before = store.meter.counts();
    let engine = store.fixture.open();
    let cost = store.meter.counts().since(&before);
    assert_eq!(
        cost,
        Metered { reads: 1, read_bytes: 33, lists: 1, ..Metered::default() },
        "whose packs these are, and which"
    );
    let ((), cost) = Store { engine, ..store }.cost(|engine| engine.close().unwrap());
    assert_eq!(cost, Metered::default(), "nothing was written, so there is nothing to seal");
}

#[test]
fn an_upload_waits_for_the_disk_once() {
    let store = Store::new();
    // The first upload opens the pack.
    let (ingested, cost) = store.cost(|engine| ingest(engine, &package(1, 600_000)).unwrap());
    // Header and frame; a look for room, one at the pack before it is verified, and its one frame read.
    assert_eq!(cost, Metered { creates: 1, appends: 2, looks: 2, reads: 1, ..Metered::default() });
    let pushed = Pushed::of(&ingested, &package(1, 600_000));
    let ((), cost) = store.cost(|engine| engine.commit_nar(&cache(), ingested, None).unwrap());
    // The recipe and the record.
    assert_eq!(cost, Metered { appends: 2, syncs: 1, ..Metered::default() });
    let (_, cost) = store.cost(|engine| engine.commit_path(&cache(), pushed.as_path("a")).unwrap());
    assert_eq!(cost, Metered { appends: 1, syncs: 1, ..Metered::default() });

    let nar = noise(2, 5_500_000);
    let (ingested, cost) = store.cost(|engine| ingest(engine, &nar).unwrap());
    // Six frames of up to 1 MiB, each read once to be verified.
    assert_eq!(cost, Metered { appends: 6, looks: 2, reads: 6, ..Metered::default() });
    drop(ingested);
}

#[test]
fn an_upload_of_what_is_known_reads_and_writes_almost_nothing() {
    let store = Store::new();
    let nar = package(1, 600_000);
    let pushed = push(&store.engine, &nar).unwrap();
    let store = store.reopened();
    let (ingested, cost) = store.cost(|engine| ingest(engine, &nar).unwrap());
    assert_eq!(cost, Metered { looks: 1, ..Metered::default() });
    let ((), cost) = store.cost(|engine| engine.commit_nar(&cache(), ingested, None).unwrap());
    // A record, in a pack that was opened for it.
    assert_eq!(cost, Metered { creates: 1, appends: 2, syncs: 1, ..Metered::default() });
    let (_, cost) = store.cost(|engine| engine.commit_path(&cache(), pushed.as_path("a")).unwrap());
    assert_eq!(cost, Metered { appends: 1, syncs: 1, ..Metered::default() });
}

#[test]
fn a_restore_reads_each_frame_once_and_nothing_twice() {
    let store = Store::new();
    let small = push(&store.engine, &package(1, 600_000)).unwrap();
    let large = push(&store.engine, &noise(2, 5_500_000)).unwrap();
    let store = store.reopened();
    let ((), cost) = store.cost(|engine| small.check(engine).unwrap());
    assert_eq!(
        cost,
        Metered { reads: 3, looks: 2, ..Metered::default() },
        "its recipe, its pack's list, and its frame"
    );
    let ((), cost) = store.cost(|engine| small.check(engine).unwrap());
    assert_eq!(cost, Metered { looks: 1, ..Metered::default() }, "it is in memory");
    let ((), cost) = store.cost(|engine| large.check(engine).unwrap());
    assert_eq!(cost, Metered { reads: 7, looks: 1, ..Metered::default() }, "a recipe and six frames of the same pack");

    let before = store.meter.counts().read_bytes;
    let engine = store.fixture.open();
    large.check(&engine).unwrap();
    let read = store.meter.counts().read_bytes - before;
    assert!(read < 5_500_000 + 64 * 1024 + 20_000, "{read} bytes were read to restore 5.5 MB");
}

#[test]
fn small_frames_that_lie_together_are_read_together() {
    let mut store = Store::new();
    store.fixture.options.frame_bytes = 100_000;
    let store = store.reopened();
    let pushed = push(&store.engine, &package(2, 2_000_000)).unwrap();
    let store = store.reopened();
    let ((), cost) = store.cost(|engine| pushed.check(engine).unwrap());
    assert_eq!(cost, Metered { reads: 2 + 6, looks: 2, ..Metered::default() }, "some twenty frames, four in a read");
}

#[test]
fn a_frame_is_decoded_as_far_as_it_is_wanted_and_then_once_more() {
    let store = Store::new();
    let text = |seed| Random::new(seed).noise(50_000).iter().map(|byte| b'a' + byte % 16).collect::<Vec<u8>>();
    let nar = |(n, name): (u64, char)| Node::directory([(name.to_string(), Node::file(text(n)))]).encode();
    let all: Vec<_> = (0..).zip('a'..='h').map(|file| push(&store.engine, &nar(file)).unwrap()).collect();
    let options = SqueezeOptions { level: 4, min_age_seconds: 0, ..SqueezeOptions::default() };
    store.engine.squeeze(&options, &mut |_| true).unwrap().unwrap();
    let mut store = store.reopened();
    let check = |n: usize| {
        let ((), cost) = store.cost(|engine| all[n].check(engine).unwrap());
        (cost.reads, store.engine.stats().unwrap().frame_cache_bytes)
    };
    let (reads, part) = check(2);
    assert!(reads == 3 && (150_000..180_000).contains(&part), "a recipe, its pack's list, and three of eight: {part}");
    assert_eq!(check(1), (1, part), "a recipe: the chunks before are there");
    let (reads, whole) = check(3);
    assert!(reads == 2 && (400_000..430_000).contains(&whole), "a recipe, and all of the frame this time: {whole}");
    assert_eq!(check(7), (1, whole));
    store = store.reopened();
    let ((), cost) = store.cost(|engine| all[7].check(engine).unwrap());
    assert_eq!((cost.reads, store.engine.stats().unwrap().frame_cache_bytes), (3, whole), "what is last takes all");
}

#[test]
fn a_range_reads_what_it_needs() {
    let store = Store::new();
    let pushed = push(&store.engine, &noise(2, 5_500_000)).unwrap();
    let store = store.reopened();
    let before = store.meter.counts();
    let part = restore(&store.engine, &pushed, 3_000_000..3_000_100).unwrap();
    assert!(part == pushed.bytes[3_000_000..3_000_100]);
    let cost = store.meter.counts().since(&before);
    assert!(cost.reads == 3 && cost.read_bytes < 1_200_000, "its recipe, the pack's list and one frame: {cost:?}");
}

#[test]
fn a_listing_reads_past_large_contents() {
    let store = Store::new();
    let file = |seed, bytes| Node::file(Random::new(seed).noise(bytes));
    let tree = Node::directory([
        ("a-small", file(1, 100)),
        ("b-large", file(2, 30_000_000)),
        ("c-small", file(3, 5_000)),
        ("d-large", file(4, 20_000_000)),
        ("e-small", file(5, 0)),
    ]);
    let pushed = push(&store.engine, &tree.encode()).unwrap();
    let store = store.reopened();
    let before = store.meter.counts();
    let listing = store.engine.listing(&pushed.recipe, &pushed.slots).unwrap();
    let cost = store.meter.counts().since(&before);
    assert_eq!(listing.entry_count(), 6);
    let Some(firn_nix::nar::Node::Regular { offset, size, .. }) = listing.find([&b"c-small"[..]]) else {
        panic!("it is there");
    };
    let found = restore(&store.engine, &pushed, offset..offset + size).unwrap();
    assert!(found == Random::new(3).noise(5_000));
    assert!(cost.reads == 6 && cost.read_bytes < 3_300_000, "its recipe, two packs' lists and three frames: {cost:?}");

    let (again, cost) = store.cost(|engine| engine.listing(&pushed.recipe, &pushed.slots).unwrap());
    assert_eq!(cost, Metered::default(), "it is in memory");
    assert!(Arc::ptr_eq(&again, &listing));
}

#[test]
fn whether_something_can_be_restored_is_asked_of_the_index_alone() {
    let store = Store::new();
    let pushed = push(&store.engine, &package(1, 100_000)).unwrap();
    let store = store.reopened();
    let (is_restorable, cost) = store.cost(|engine| engine.is_restorable(&pushed.recipe).unwrap());
    assert!(is_restorable);
    assert_eq!(cost, Metered::default());
}

#[test]
fn what_is_kept_in_memory_has_a_limit() {
    let mut store = Store::new();
    store.fixture.options.frame_cache_bytes = 3_000_000;
    let store = store.reopened();
    let pushed: Vec<_> = (0..8).map(|seed| push(&store.engine, &noise(seed, 2_000_000)).unwrap()).collect();
    for pushed in &pushed {
        pushed.check(&store.engine).unwrap();
        let kept = store.engine.stats().unwrap().frame_cache_bytes;
        assert!((1_000_000..=3_000_000).contains(&kept), "{kept}");
    }
}
