//! Every operation of storage and indexes fails once: what was acknowledged stays, nothing is half there, and the store
//! goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_engine::{Engine, Error, Options};
use firn_nix::{StoreHash, StorePath};
use firn_storage::{Failure, Fault, Memory, Operation};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenChunks, BrokenMeta, When};
use crate::fixture::{
    Fixture, Pushed, cache, ingest, is_write_failure, noise, objects, package, package_with, path, push, push_path,
};

/// What a scenario uploads: names with their NARs. Some share chunks, one shares a recipe.
fn uploads() -> BTreeMap<String, Vec<u8>> {
    let dependency = |seed: u8| StorePath::new(StoreHash([seed; 20]), "glibc").unwrap();
    let file = |seed, bytes| Node::file(Random::new(seed).noise(bytes));
    let nars = [
        package(1, 40_000),
        package_with(2, 60_000, &[dependency(1)]),
        package_with(2, 60_000, &[dependency(2)]),
        Node::directory([("a", file(3, 50_000))]).encode(),
        Node::directory([("a", file(3, 50_000)), ("b", file(4, 70_000))]).encode(),
    ];
    nars.into_iter().enumerate().map(|(n, nar)| (format!("upload-{n}"), nar)).collect()
}

/// Small packs and frames, so that a few uploads open and seal several; and nothing in memory that hides the disk.
fn options(options: Options) -> Options {
    Options { pack_bytes: 90_000, frame_bytes: 30_000, frame_cache_bytes: 0, recipe_cache_bytes: 0, ..options }
}

fn fixture(memory: &Memory) -> Fixture {
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options = options(fixture.options);
    fixture
}

/// Uploads everything, whatever fails, and returns what was acknowledged.
fn run(engine: &Engine) -> Vec<(String, Pushed)> {
    let try_one = |(name, nar): (String, Vec<u8>)| match push_path(engine, &name, &nar) {
        Ok(pushed) => Some((name, pushed)),
        Err(error) => {
            let is_fine = is_write_failure(&error) || matches!(error, Error::Index(_));
            assert!(is_fine, "{name}: {error:?}");
            None
        }
    };
    uploads().into_iter().filter_map(try_one).collect()
}

/// Checks that what was acknowledged is there and whole, and that so is everything else that can be seen.
fn check(engine: &Engine, acknowledged: &[(String, Pushed)], what: &dyn Fn() -> String) {
    let uploads = uploads();
    for (name, pushed) in acknowledged {
        let row = engine.meta().path(&cache(), &path(name).hash()).unwrap();
        assert!(row.is_some_and(|row| row.nar_hash == pushed.nar_hash), "{name} is gone: {}", what());
        pushed.check(engine).unwrap_or_else(|error| panic!("{name}: {error:?}: {}", what()));
    }
    for (_, row) in engine.meta().paths(&cache(), None, 100).unwrap() {
        let Some(bytes) = uploads.get(row.path.name()) else { continue };
        let nar = engine.meta().nar(&cache(), &row.nar_hash).unwrap().expect("a visible path has a NAR");
        let visible = Pushed { nar_hash: row.nar_hash, recipe: nar.recipe, slots: nar.slots, bytes: bytes.clone() };
        visible.check(engine).unwrap_or_else(|error| panic!("{} is half there: {error:?}: {}", row.path, what()));
    }
}

/// Checks that a store takes everything, also what it has, and still has it when opened again without a chunk index.
fn check_goes_on(fixture: &Fixture, engine: Engine, what: &dyn Fn() -> String) {
    let acknowledged = run(&engine);
    assert_eq!(acknowledged.len(), uploads().len(), "{}", what());
    check(&engine, &acknowledged, what);
    assert_eq!(engine.stats().unwrap().totals.paths, uploads().len() as u64, "{}", what());
    engine.close().unwrap();
    check(&fixture.without_chunk_index().open(), &acknowledged, what);
}

/// What is left when a process ends.
#[derive(Debug, Clone, Copy)]
enum Left {
    Everything,
    Synced,
    /// What was synced and a part of the rest.
    Torn,
}

impl Left {
    fn of(self, memory: &Memory) -> Memory {
        match self {
            // A copy, so that writers that the old process still holds can't reach it.
            Self::Everything => memory.after_torn_power_loss(&mut |_, unsynced| unsynced),
            Self::Synced => memory.after_power_loss(),
            Self::Torn => {
                memory.after_torn_power_loss(&mut |name, unsynced| unsynced * (name.len() % 7) / 7 + unsynced / 2)
            }
        }
    }
}

const LEFT: [Left; 3] = [Left::Everything, Left::Synced, Left::Torn];

/// Runs a function for n = 0, 1, … until it says that the n-th failure never came; returns how often.
fn for_every_n(mut run: impl FnMut(u64) -> bool) -> u64 {
    (0..10_000).find(|n| !run(*n)).expect("the scenario has an end")
}

/// What a scenario calls.
const OPERATIONS: [Operation; 6] =
    [Operation::Create, Operation::Append, Operation::Sync, Operation::Read, Operation::Len, Operation::FreeBytes];

#[test]
fn any_failing_storage_call_is_survived() {
    for (operation, failure) in
        OPERATIONS.iter().flat_map(|of| [Failure::Full, Failure::Io, Failure::Late].map(|failure| (*of, failure)))
    {
        let tried = for_every_n(|n| {
            let what = || format!("{operation:?} {n}: {failure:?}");
            let memory = Memory::new();
            let fixture = fixture(&memory);
            let fault = Fault::new(Arc::new(memory.clone()));
            let engine = fixture.over(fault.clone()).open();
            fault.plan(Some(operation), n, failure);
            let acknowledged = run(&engine);
            if !fault.fired() {
                assert_eq!(acknowledged.len(), uploads().len());
                return false;
            }
            fault.heal();
            check(&engine, &acknowledged, &what);
            // Only what may have left the disk in an unknown state stops writing.
            let may_stop = operation == Operation::Sync || (operation, failure) == (Operation::Append, Failure::Late);
            match push(&engine, &package(9, 20_000)) {
                Ok(pushed) => pushed.check(&engine).unwrap(),
                Err(error) => {
                    assert!(may_stop && matches!(error, Error::WritesStopped(_)), "{error:?}: {}", what());
                    let is_told = matches!(engine.check_room(), Err(Error::WritesStopped(_)));
                    assert!(is_told, "who asks beforehand must be told: {}", what());
                }
            }
            let left = fixture.over(LEFT[n as usize % 3].of(&memory));
            let engine = left.open();
            check(&engine, &acknowledged, &what);
            check_goes_on(&left, engine, &what);
            true
        });
        assert!(tried > 2, "{operation:?}: {tried}");
    }
}

#[test]
fn a_crash_at_any_storage_call_loses_nothing_acknowledged() {
    for left in LEFT {
        for failure in [Failure::Crash, Failure::Torn(1), Failure::Torn(300)] {
            let tried = for_every_n(|n| {
                let what = || format!("{failure:?} at call {n}, {left:?} is left");
                let memory = Memory::new();
                let fixture = fixture(&memory);
                let fault = Fault::new(Arc::new(memory.clone()));
                let engine = fixture.over(fault.clone()).open();
                fault.plan(None, n, failure);
                let acknowledged = run(&engine);
                if !fault.fired() {
                    return false;
                }
                let left = fixture.over(left.of(&memory));
                let engine = left.open();
                check(&engine, &acknowledged, &what);
                check_goes_on(&left, engine, &what);
                true
            });
            assert!(tried > 40, "{tried}");
        }
    }
}

#[test]
fn a_crash_during_recovery_is_recovered_from() {
    for left in LEFT {
        for failure in [Failure::Crash, Failure::Torn(5), Failure::Io, Failure::Late, Failure::Full] {
            for_every_n(|n| {
                let what = || format!("{failure:?} at call {n} of recovery, {left:?} is left");
                let memory = Memory::new();
                let fixture = fixture(&memory);
                let acknowledged = run(&fixture.open());
                assert_eq!(acknowledged.len(), uploads().len());

                let memory = left.of(&memory);
                let fault = Fault::new(Arc::new(memory.clone()));
                fault.plan(None, n, failure);
                // The index may be lost too.
                let second = fixture.without_chunk_index().over(fault.clone());
                let opened = second.try_open();
                fault.heal();
                if !fault.fired() {
                    check(&opened.unwrap(), &acknowledged, &what);
                    return false;
                }
                if let Ok(engine) = opened {
                    check(&engine, &acknowledged, &what);
                }
                let third = fixture.over(Left::Synced.of(&memory));
                let engine = third.open();
                check(&engine, &acknowledged, &what);
                check_goes_on(&third, engine, &what);
                true
            });
        }
    }
}

#[test]
fn any_failing_index_call_is_survived() {
    for when in [When::Before, When::After] {
        let tried = for_every_n(|n| {
            let what = || format!("{when:?} call {n} of the index");
            let memory = Memory::new();
            let fixture = fixture(&memory);
            let broken = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
            let engine = Fixture { meta: broken.clone(), ..fixture.clone() }.open();
            broken.plan(None, n, when);
            let acknowledged = run(&engine);
            if !broken.fired() {
                return false;
            }
            check(&engine, &acknowledged, &what);
            push(&engine, &package(9, 20_000)).unwrap().check(&engine).unwrap();

            let left = fixture.over(LEFT[n as usize % 3].of(&memory));
            let engine = left.open();
            check(&engine, &acknowledged, &what);
            check_goes_on(&left, engine, &what);
            true
        });
        assert!(tried > 30, "{tried}");
    }
}

#[test]
fn any_failing_chunk_index_call_is_survived_and_leaves_nothing_out() {
    let unique_bytes = |engine: &Engine| engine.stats().unwrap().totals.unique_bytes;
    let whole = {
        let engine = fixture(&Memory::new()).open();
        run(&engine);
        unique_bytes(&engine)
    };
    for when in [When::Before, When::After] {
        let tried = for_every_n(|n| {
            let what = || format!("{when:?} call {n} of the chunk index");
            let fixture = fixture(&Memory::new());
            let broken = Arc::new(BrokenChunks::new(Arc::clone(&fixture.chunks)));
            let engine = Fixture { chunks: broken.clone(), ..fixture.clone() }.open();
            broken.plan(None, n, when);
            let acknowledged = run(&engine);
            if !broken.fired() {
                return false;
            }
            check(&engine, &acknowledged, &what);
            for (_, nar) in uploads() {
                push(&engine, &nar).unwrap();
            }
            engine.close().unwrap();
            assert_eq!(unique_bytes(&engine), whole, "nothing may be stored twice: {}", what());
            // Whatever the packs hold must be known.
            let engine = fixture.open();
            for nar in uploads().into_values() {
                assert_eq!(ingest(&engine, &nar).unwrap().stats.new_chunks, 0, "{}", what());
            }
            true
        });
        assert!(tried > 20, "{tried}");
    }
}

#[test]
fn a_failed_fsync_stops_writing_and_nothing_else_until_the_store_is_opened_again() {
    let memory = Memory::new();
    let fixture = fixture(&memory);
    let fault = Fault::new(Arc::new(memory.clone()));
    let engine = fixture.over(fault.clone()).open();
    let first = push_path(&engine, "first", &package(1, 40_000)).unwrap();
    let begun = ingest(&engine, &package(2, 40_000)).unwrap();
    fault.plan(Some(Operation::Sync), 0, Failure::Io);
    assert!(push(&engine, &package(3, 40_000)).is_err());
    fault.heal();

    let is_stopped = |error: Error| matches!(error, Error::WritesStopped(_));
    assert!(is_stopped(engine.check_room().unwrap_err()));
    assert!(is_stopped(engine.ingest(firn_chunk::Input::Nar).err().unwrap()));
    assert!(is_stopped(engine.commit_nar(&cache(), begun, None).unwrap_err()));
    assert!(is_stopped(engine.commit_path(&cache(), first.as_path("second")).unwrap_err()));
    first.check(&engine).unwrap();

    let left = fixture.over(memory.after_power_loss());
    let engine = left.open();
    first.check(&engine).unwrap();
    push_path(&engine, "second", &package(3, 40_000)).unwrap().check(&engine).unwrap();
}

#[test]
fn a_full_disk_refuses_uploads_and_serves_on() {
    let memory = Memory::new();
    let fixture = fixture(&memory);
    let engine = fixture.open();
    let first = push(&engine, &package(1, 40_000)).unwrap();
    let used: u64 = objects(&memory).iter().map(|(_, len)| len).sum();
    for spare in [0, 1, 40, 500, 5_000, 20_000, 50_000] {
        memory.set_capacity(Some(used + spare));
        assert!(matches!(push(&engine, &noise(2, 90_000)), Err(Error::StorageFull)), "{spare}");
        first.check(&engine).unwrap();
    }
    memory.set_capacity(None);
    push(&engine, &noise(2, 90_000)).unwrap().check(&engine).unwrap();
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0, "uploads that failed must not stay in memory");
    check_goes_on(&fixture, engine, &|| "once there is room again".to_owned());
}

#[test]
fn uploads_are_refused_before_the_disk_is_full() {
    let memory = Memory::with_capacity(1_000_000);
    let mut fixture = fixture(&memory);
    fixture.options.min_free_bytes = 900_000;
    let engine = fixture.open();
    push(&engine, &noise(1, 150_000)).unwrap();
    assert!(matches!(engine.check_room(), Err(Error::StorageFull)));
    assert!(matches!(engine.ingest(firn_chunk::Input::Nar), Err(Error::StorageFull)));
}

#[test]
fn a_full_disk_does_not_keep_the_store_from_opening() {
    let memory = Memory::new();
    let fixture = fixture(&memory);
    let acknowledged = run(&fixture.open());
    // Killed: the open pack needs a footer, for which there is no room.
    let left = Left::Everything.of(&memory);
    left.set_capacity(Some(objects(&left).iter().map(|(_, len)| len).sum()));
    let full = fixture.over(left.clone());
    let engine = full.open();
    check(&engine, &acknowledged, &|| "on a full disk".to_owned());
    assert!(matches!(push(&engine, &noise(9, 50_000)), Err(Error::StorageFull)));
    left.set_capacity(None);
    let engine = full.open();
    check_goes_on(&full, engine, &|| "once there is room again".to_owned());
}

#[test]
fn after_closing_nothing_is_written_and_everything_read() {
    let memory = Memory::new();
    let fixture = fixture(&memory);
    let engine = fixture.open();
    let pushed = push(&engine, &package(1, 40_000)).unwrap();
    let mut late = engine.ingest(firn_chunk::Input::Nar).unwrap();
    engine.close().unwrap();
    let before = objects(&memory);
    assert!(matches!(engine.check_room(), Err(Error::WritesStopped(_))));
    assert!(matches!(engine.ingest(firn_chunk::Input::Nar), Err(Error::WritesStopped(_))));
    assert!(late.write(&noise(2, 3_000_000)).is_err());
    drop(late);
    assert_eq!(objects(&memory), before);
    pushed.check(&engine).unwrap();
    engine.close().unwrap();
    pushed.check(&fixture.open()).unwrap();
}

#[test]
fn closing_flushes_the_indexes_also_when_the_pack_can_not_be_sealed() {
    let memory = Memory::new();
    let fixture = fixture(&memory);
    let meta = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
    let chunks = Arc::new(BrokenChunks::new(Arc::clone(&fixture.chunks)));
    let fault = Fault::new(Arc::new(memory.clone()));
    let broken = Fixture { meta: meta.clone(), chunks: chunks.clone(), ..fixture.over(fault.clone()) };
    let engine = broken.open();
    let pushed = push(&engine, &package(1, 40_000)).unwrap();
    fault.plan(Some(Operation::Sync), 0, Failure::Io);
    chunks.plan(Some("flush"), 0, When::After);
    assert!(matches!(engine.close(), Err(Error::Index(_))));
    assert!(fault.fired() && chunks.fired(), "both were tried");
    assert!(matches!(engine.close(), Err(Error::WritesStopped(_))));
    pushed.check(&fixture.open()).unwrap();
}
