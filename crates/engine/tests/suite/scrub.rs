//! Scrub: what changed on the disk is found, named, and comes to be repaired; what is whole is left alone.

use std::sync::Arc;

use firn_engine::{Engine, Error};
use firn_index::{DocumentKey, DocumentKind, PackState, ScrubPass};
use firn_storage::{Failure, Fault, Memory, Operation, Storage};

use crate::fixture::{Fixture, Pushed, cache, noise, objects, package, path, push_path, upload_again};

/// A store in memory whose bytes can be damaged. Frames and recipes are kept in memory, as in a server: that must hide
/// nothing.
struct Store {
    memory: Memory,
    fixture: Fixture,
    engine: Engine,
}

impl Store {
    fn new() -> Self {
        Self::with_packs_of(32 << 20)
    }

    fn with_packs_of(bytes: u64) -> Self {
        let memory = Memory::new();
        let mut fixture = Fixture::on(Arc::new(memory.clone()));
        fixture.options.pack_bytes = bytes;
        let engine = fixture.open();
        Self { memory, fixture, engine }
    }

    fn reopened(mut self) -> Self {
        self.engine.close().unwrap();
        self.engine = self.fixture.open();
        self
    }

    fn packs(&self) -> Vec<(String, u64)> {
        objects(&self.memory)
    }

    fn damage(&self, pack: usize, part: f64) {
        let (name, len) = &self.packs()[pack];
        self.memory.damage(name, (*len as f64 * part) as usize, 0x10).unwrap();
    }
}

/// Runs a pass to its end and returns what it found.
fn scrub(engine: &Engine) -> ScrubPass {
    let mut scrub = engine.scrub().unwrap();
    while scrub.step().unwrap().is_some() {}
    let pass = scrub.pass().clone();
    let kept = engine.scrub_outcome().unwrap();
    assert_eq!((kept.current, kept.last), (None, Some(pass.clone())), "what was found is kept");
    pass
}

fn names(pass: &ScrubPass) -> Vec<&str> {
    pass.paths.iter().map(|found| found.path.as_str()).collect()
}

/// Returns whether a pass found nothing wrong at all.
fn is_clean(pass: &ScrubPass) -> bool {
    let ScrubPass { unreadable_packs, damaged_packs, damaged_frames, damaged_paths, .. } = pass;
    [unreadable_packs, damaged_packs, damaged_frames, damaged_paths].iter().all(|count| **count == 0)
}

#[test]
fn a_whole_store_is_read_to_the_last_byte_and_found_whole() {
    let store = Store::with_packs_of(1 << 20);
    for seed in 1..5 {
        push_path(&store.engine, &format!("p{seed}"), &noise(seed, 700_000)).unwrap();
    }
    let store = store.reopened();
    let pass = scrub(&store.engine);
    assert!(is_clean(&pass), "{pass:?}");
    let packs = store.packs();
    assert_eq!((pass.packs, pass.read_bytes), (packs.len() as u64, packs.iter().map(|(_, len)| len).sum()));
    assert!(packs.len() > 2 && pass.frames > 8);
    assert_eq!(pass.cursor.is_some(), pass.finished_at.is_some());
}

#[test]
fn damage_is_named_and_the_next_upload_repairs_it() {
    let store = Store::new();
    let bad = push_path(&store.engine, "bad", &noise(1, 2_000_000)).unwrap();
    let good = push_path(&store.engine, "good", &noise(2, 3_000_000)).unwrap();
    let store = store.reopened();
    // The frames are in memory when the disk goes bad.
    bad.check(&store.engine).unwrap();
    store.damage(0, 0.1);

    let pass = scrub(&store.engine);
    assert_eq!((pass.damaged_frames, pass.damaged_packs, pass.damaged_paths), (1, 0, 1), "{pass:?}");
    assert_eq!((names(&pass), pass.paths[0].cache.as_str()), (vec![&*path("bad").base_name()], cache().as_str()));
    assert!(matches!(bad.check(&store.engine), Err(Error::Damaged { .. })));
    good.check(&store.engine).unwrap();

    assert_eq!(upload_again(&store.engine, &bad.bytes), 1, "scrub had forgotten the damaged chunks");
    bad.check(&store.engine).unwrap();
    let pass = scrub(&store.engine);
    assert_eq!((pass.damaged_frames, pass.damaged_paths), (1, 0), "the bad frame is there yet, and nobody needs it");
    bad.check(&store.reopened().engine).unwrap();
}

#[test]
fn what_stays_damaged_is_named_again() {
    let store = Store::new();
    push_path(&store.engine, "bad", &noise(1, 500_000)).unwrap();
    let store = store.reopened();
    store.damage(0, 0.5);
    assert_eq!(scrub(&store.engine).damaged_paths, 1);
    assert_eq!(scrub(&store.engine).damaged_paths, 1);
}

#[test]
fn every_flipped_bit_of_a_sealed_pack_is_found() {
    let small = || {
        let store = Store::new();
        let pushed = push_path(&store.engine, "small", &package(1, 3_000)).unwrap();
        (store.reopened(), pushed)
    };
    let (name, len) = small().0.packs()[0].clone();
    let mut broken = 0;
    for offset in 0..len as usize {
        let (store, pushed) = small();
        store.memory.damage(&name, offset, 1 << (offset % 8)).unwrap();
        let pass = scrub(&store.engine);
        assert!(pass.damaged_frames + pass.damaged_packs > 0, "byte {offset} of {len}: {pass:?}");
        let is_lost = pushed.check(&store.engine).is_err();
        assert_eq!(is_lost, pass.damaged_paths > 0, "byte {offset} of {len}: {pass:?}");
        if is_lost {
            broken += 1;
            upload_again(&store.engine, &pushed.bytes);
            pushed.check(&store.engine).unwrap();
            assert_eq!(scrub(&store.engine).damaged_paths, 0, "byte {offset} of {len}");
        }
    }
    assert!(broken > len / 3, "{broken} of {len}");
}

#[test]
fn a_pack_that_is_gone_or_short_is_damage_and_one_that_may_go_is_not() {
    for cut in [None, Some(0), Some(700_000)] {
        let store = Store::new();
        let gone = push_path(&store.engine, "gone", &noise(1, 900_000)).unwrap();
        let store = store.reopened();
        let (name, _) = store.packs()[0].clone();
        match cut {
            None => store.memory.delete(&name).unwrap(),
            Some(len) => drop(store.memory.resume(&name, len).unwrap()),
        }
        let pass = scrub(&store.engine);
        assert_eq!((pass.damaged_packs, pass.damaged_paths), (1, 1), "cut to {cut:?}: {pass:?}");
        upload_again(&store.engine, &gone.bytes);
        gone.check(&store.engine).unwrap();
    }
}

#[test]
fn a_doomed_pack_is_nobodys_business() {
    let store = Store::new();
    // Chunks without a commit: nobody needs the pack.
    drop(crate::fixture::ingest(&store.engine, &noise(1, 900_000)).unwrap());
    let store = store.reopened();
    let (pack, _) = store.engine.meta().packs(None, 1).unwrap()[0].clone();
    for (from, to) in [(PackState::Live, PackState::Condemned), (PackState::Condemned, PackState::Doomed)] {
        assert!(store.engine.meta().set_pack_state(pack, from, to, 0).unwrap());
    }
    store.damage(0, 0.5);
    let pass = scrub(&store.engine);
    assert!(is_clean(&pass) && pass.packs == 0, "{pass:?}");
}

#[test]
fn the_open_pack_is_checked_as_far_as_it_is_durable() {
    let store = Store::new();
    let pushed = push_path(&store.engine, "open", &noise(1, 900_000)).unwrap();
    let clean = scrub(&store.engine);
    assert!(is_clean(&clean) && clean.packs == 1 && clean.frames >= 3, "{clean:?}");
    store.damage(0, 0.5);
    let pass = scrub(&store.engine);
    assert_eq!((pass.damaged_frames, pass.damaged_paths), (1, 1), "{pass:?}");
    assert_eq!(upload_again(&store.engine, &pushed.bytes), 1);
    pushed.check(&store.engine).unwrap();
}

#[test]
fn a_disk_that_fails_to_read_marks_nothing() {
    let store = Store::new();
    let pushed = push_path(&store.engine, "whole", &noise(1, 900_000)).unwrap();
    let store = store.reopened();
    let fault = Fault::new(Arc::new(store.memory.clone()));
    let engine = store.fixture.over(fault.clone()).open();
    for operation in [Operation::Read, Operation::Len] {
        for spare in 0.. {
            fault.plan(Some(operation), spare, Failure::Io);
            let pass = scrub(&engine);
            let fired = fault.fired();
            fault.heal();
            assert_eq!(pass.unreadable_packs, u64::from(fired), "{operation:?} {spare}: {pass:?}");
            assert_eq!(pass.damaged_frames + pass.damaged_packs + pass.damaged_paths, 0);
            pushed.check(&engine).unwrap();
            if !fired {
                break;
            }
        }
    }
}

/// Of a bad sector one frame is lost; the paths that need it are named, and the next upload repairs them.
#[test]
fn what_the_disk_does_not_give_beside_what_it_gives_is_damage() {
    let store = Store::new();
    let bad = push_path(&store.engine, "bad", &noise(1, 2_000_000)).unwrap();
    let good = push_path(&store.engine, "good", &noise(2, 3_000_000)).unwrap();
    let store = store.reopened();
    let fault = Fault::new(Arc::new(store.memory.clone()));
    let engine = store.fixture.over(fault.clone()).open();
    let (name, len) = &store.packs()[0];
    // In its first frame: the end of all such NARs is one chunk.
    fault.refuse(name, len / 20..len / 20 + 1);
    assert!(matches!(bad.check(&engine), Err(Error::Storage(_))), "nothing is known yet");
    let pass = scrub(&engine);
    assert_eq!((pass.damaged_frames, pass.damaged_packs, pass.unreadable_packs), (1, 0, 0), "{pass:?}");
    assert_eq!(names(&pass), [path("bad").base_name()]);
    good.check(&engine).unwrap();
    assert_eq!(upload_again(&engine, &bad.bytes), 1);
    bad.check(&engine).unwrap();
}

/// Nothing of the pack is given: it may be whole.
#[test]
fn a_pack_that_is_not_given_at_all_marks_nothing() {
    let store = Store::new();
    let pushed = push_path(&store.engine, "whole", &noise(1, 900_000)).unwrap();
    let store = store.reopened();
    let fault = Fault::new(Arc::new(store.memory.clone()));
    let engine = store.fixture.over(fault.clone()).open();
    let (name, len) = &store.packs()[0];
    fault.refuse(name, 0..*len);
    let pass = scrub(&engine);
    assert_eq!((pass.unreadable_packs, pass.damaged_paths), (1, 0), "{pass:?}");
    fault.heal();
    pushed.check(&engine).unwrap();
}

/// A pack that was away for a while and found so answers again once a scrub has seen it.
#[test]
fn marks_are_taken_back_when_the_bytes_are_there_again() {
    let store = Store::new();
    let pushed = push_path(&store.engine, "back", &noise(1, 900_000)).unwrap();
    let store = store.reopened();
    let (name, len) = store.packs()[0].clone();
    let bytes = store.memory.read(&name, 0, len as usize).unwrap();
    store.memory.delete(&name).unwrap();
    assert!(matches!(pushed.check(&store.engine), Err(Error::Damaged { .. })));
    assert_eq!(scrub(&store.engine).damaged_paths, 1);
    store.memory.put(&name, &bytes).unwrap();
    assert!(matches!(pushed.check(&store.engine), Err(Error::Damaged { .. })), "it is marked");
    let pass = scrub(&store.engine);
    assert!(is_clean(&pass), "{pass:?}");
    pushed.check(&store.engine).unwrap();
}

#[test]
fn an_interrupted_pass_goes_on_where_it_was() {
    let store = Store::with_packs_of(1 << 20);
    for seed in 1..6 {
        push_path(&store.engine, &format!("p{seed}"), &noise(seed, 900_000)).unwrap();
    }
    let store = store.reopened();
    let whole = scrub(&store.engine);
    let mut first = store.engine.scrub().unwrap();
    while first.pass().packs < 2 {
        first.step().unwrap().expect("there are more packs");
    }
    let at = first.pass().clone();
    drop(first);
    let store = store.reopened();
    assert_eq!(store.engine.scrub_outcome().unwrap().current, Some(at.clone()));
    assert_eq!(store.engine.scrub_outcome().unwrap().last, Some(whole.clone()), "the last outcome stays meanwhile");
    let second = scrub(&store.engine);
    assert_eq!((second.packs, second.frames, second.read_bytes), (whole.packs, whole.frames, whole.read_bytes));
    assert_eq!(second.started_at, at.started_at);
}

#[test]
fn who_leans_on_a_damaged_base_is_named_too() {
    let store = Store::new();
    let old = noise(1, 200_000);
    let mut new = old.clone();
    let middle = new.len() / 2;
    new[middle] ^= 1;
    let base = push_path(&store.engine, "tool-1", &old).unwrap();
    let store = store.reopened();
    let first = store.packs()[0].0.clone();
    let delta = push_path(&store.engine, "tool-2", &new).unwrap();
    let store = store.reopened();
    let at = store.packs().iter().position(|(name, _)| *name == first).unwrap();
    store.damage(at, 0.5);
    let lost: Vec<&Pushed> = {
        let pass = scrub(&store.engine);
        let lost = [&base, &delta].into_iter().filter(|pushed| pushed.check(&store.engine).is_err()).collect();
        assert_eq!(pass.damaged_paths, 2, "{pass:?}");
        lost
    };
    assert_eq!(lost.len(), 2);
    for pushed in [&base, &delta] {
        upload_again(&store.engine, &pushed.bytes);
        pushed.check(&store.engine).unwrap();
    }
}

#[test]
fn a_damaged_log_is_named() {
    let store = Store::new();
    push_path(&store.engine, "whole", &package(1, 50_000)).unwrap();
    let key = DocumentKey { kind: DocumentKind::Log, name: "abc-thing.drv".to_owned() };
    let log = firn_testkit::random::Random::new(5).noise(200_000);
    store
        .engine
        .commit_document(&cache(), key, firn_engine::DocumentContent::Inline(log), crate::fixture::uploader("b"))
        .unwrap();
    let store = store.reopened();
    store.damage(0, 0.7);
    let pass = scrub(&store.engine);
    assert_eq!((pass.damaged_paths, names(&pass)), (1, vec!["log/abc-thing.drv"]), "{pass:?}");
}

/// Bases go with the last that needs them; what was compressed with them may lie in a pack that somebody needs.
#[test]
fn what_nobody_needs_and_has_lost_its_bases_is_no_damage() {
    let mut store = Store::new();
    let build = |number: u8| {
        let mut bytes = noise(5, 150_000);
        for at in (1000..bytes.len()).step_by(30_000) {
            bytes[at..at + 20].fill(number);
        }
        bytes
    };
    push_path(&store.engine, "first-build", &build(1)).unwrap();
    store = store.reopened();
    let second = push_path(&store.engine, "second-build", &build(2)).unwrap();
    let other = push_path(&store.engine, "other", &package(9, 50_000)).unwrap();
    store = store.reopened();
    assert_eq!(store.packs().len(), 2);
    for name in ["first-build", "second-build"] {
        store.engine.delete_path(&cache(), &path(name).hash(), false, &|_, _| {}).unwrap();
    }
    let options = firn_engine::GcOptions { dry_run: false, grace_seconds: 0, repack: None };
    for _ in 0..3 {
        store.fixture.clock.advance(2 * 24 * 3600);
        store.engine.collect(&options, &|_, _| {}).unwrap();
    }
    let sealed = |store: &Store| store.packs().into_iter().filter(|(_, len)| *len > 10_000).count();
    assert_eq!(sealed(&store), 1, "the bases are gone: {:?}", store.packs());
    let pass = scrub(&store.engine);
    assert_eq!((pass.damaged_packs, pass.damaged_frames, pass.damaged_paths), (0, 0, 0), "{pass:?}");
    other.check(&store.engine).unwrap();
    // What has no bases is offered to nobody.
    let again = push_path(&store.engine, "second-build", &second.bytes).unwrap();
    again.check(&store.engine).unwrap();
    let pass = scrub(&store.engine);
    assert_eq!((pass.damaged_packs, pass.damaged_frames, pass.damaged_paths), (0, 0, 0), "{pass:?}");
}
