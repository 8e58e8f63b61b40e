//! Every call of storage and indexes fails once while a store is collected, repacked, squeezed, scrubbed and repaired, or
//! rebuilt; or the process ends there. What was acknowledged stays, and the next pass comes to its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_engine::{Engine, GcOptions, RepackOptions, Result, SqueezeOptions, rebuild};
use firn_index::{ChunkIndex, Meta};
use firn_storage::{Failure, Fault, Memory, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenChunks, BrokenMeta, When};
use crate::fixture::{Fixture, Pushed, cache, cache_row, noise, objects, path, push_path};
use crate::indexes;
use crate::invariants::{check, check_places, parts, rebuild_indexes};

/// What goes over a whole store.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pass {
    Collect,
    Repack,
    Squeeze,
    ScrubAndRepair,
    Rebuild,
}

/// What fails.
#[derive(Debug, Clone, Copy)]
enum Place {
    Storage(Failure),
    Meta(When),
    Chunks(When),
}

const PLACES: [Place; 9] = [
    Place::Storage(Failure::Full),
    Place::Storage(Failure::Io),
    Place::Storage(Failure::Late),
    Place::Storage(Failure::Crash),
    Place::Storage(Failure::Torn(100)),
    Place::Meta(When::Before),
    Place::Meta(When::After),
    Place::Chunks(When::Before),
    Place::Chunks(When::After),
];

/// A store that is closed, with something to do for every pass.
struct Prepared {
    memory: Memory,
    fixture: Fixture,
    kept: BTreeMap<String, Pushed>,
}

/// Returns a build of a program, of which others differ in a few bytes.
fn build(build: u8) -> Vec<u8> {
    let mut bytes = Random::new(1).noise(18_000);
    bytes[9_000..9_020].fill(build);
    Node::directory([("program", Node::file(bytes))]).encode()
}

fn prepare(pass: Pass) -> Prepared {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 60_000;
    fixture.options.frame_bytes = 16_000;
    fixture.options.frame_cache_bytes = 0;
    fixture.options.recipe_cache_bytes = 0;
    let engine = fixture.open();
    let mut kept = BTreeMap::new();
    let mut push = |name: &str, nar: &[u8]| {
        let pushed = push_path(&engine, name, nar).unwrap();
        if !name.starts_with("old") {
            kept.insert(name.to_owned(), pushed);
        }
    };
    push("first-build", &build(1));
    push("old-beside", &noise(10, 14_000));
    push("second-build", &build(2));
    push("old", &noise(11, 70_000));
    push("whole", &noise(12, 5_000));
    for old in ["old", "old-beside"] {
        engine.delete_path(&cache(), &path(old).hash(), false, &|_, _| {}).unwrap();
    }
    fixture.clock.advance(2 * 24 * 3600);
    if pass != Pass::Collect {
        collect(&engine).unwrap();
    }
    engine.close().unwrap();
    if pass == Pass::ScrubAndRepair {
        damage_every_pack(&memory);
    }
    Prepared { memory, fixture, kept }
}

/// Flips a bit of the first frame of each pack.
fn damage_every_pack(memory: &Memory) {
    for (name, _) in objects(memory) {
        memory.damage(&name, 200, 0x10).unwrap();
    }
}

fn collect(engine: &Engine) -> Result<()> {
    // One to condemn and doom, one more for what the first waits for.
    for _ in 0..2 {
        engine.collect(&GcOptions { dry_run: false, grace_seconds: 0, repack: None }, &|_, _| {})?;
    }
    Ok(())
}

/// Pushes as clients do, which come again when what is stored is damaged. A chunk index that was lost offers it once more,
/// although scrub had forgotten it.
fn push_until_whole(engine: &Engine, name: &str, nar: &[u8]) -> Result<()> {
    for _ in 0..2 {
        match push_path(engine, name, nar) {
            Err(error) if error.is_damage() => {}
            other => return other.map(drop),
        }
    }
    push_path(engine, name, nar).map(drop)
}

/// Runs a pass over a store, which opens it.
fn run(pass: Pass, fixture: &Fixture, kept: &BTreeMap<String, Pushed>) -> Result<()> {
    if pass == Pass::Rebuild {
        rebuild(parts(fixture, None), &mut |_| cache_row())?;
        return fixture.try_open()?.learn(true);
    }
    let engine = fixture.try_open()?;
    match pass {
        Pass::Collect => collect(&engine),
        Pass::Repack => {
            let options = RepackOptions { max_live_percent: 100, ..RepackOptions::default() };
            engine.repack(&options, &mut |_| true).map(drop)
        }
        Pass::Squeeze => {
            let options =
                SqueezeOptions { level: 4, frame_bytes: 30_000, min_age_seconds: 0, ..SqueezeOptions::default() };
            engine.squeeze(&options, &mut |_| true).map(drop)
        }
        Pass::ScrubAndRepair => {
            let mut scrub = engine.scrub()?;
            while scrub.step()?.is_some() {}
            kept.iter().try_for_each(|(name, pushed)| push_until_whole(&engine, name, &pushed.bytes))
        }
        Pass::Rebuild => unreachable!("it is done above"),
    }
}

/// Runs a pass whose `n`-th call at a place fails, then what an operator does next; returns whether the call came.
fn fail(pass: Pass, place: Place, n: u64) -> bool {
    let what = || format!("{pass:?}: {place:?} at call {n}");
    let Prepared { memory, mut fixture, kept } = prepare(pass);
    if pass == Pass::Rebuild {
        (fixture.meta, fixture.chunks) = (indexes::new_meta(), indexes::new_chunks());
    }
    let fault = Fault::new(Arc::new(memory.clone()));
    let meta = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
    let chunks = Arc::new(BrokenChunks::new(Arc::clone(&fixture.chunks)));
    match place {
        Place::Storage(failure) => fault.plan(None, n, failure),
        Place::Meta(when) => meta.plan(None, n, when),
        Place::Chunks(when) => chunks.plan(None, n, when),
    }
    let failing = Fixture {
        storage: Arc::new(fault.clone()) as Arc<dyn Storage>,
        meta: Arc::clone(&meta) as Arc<dyn Meta>,
        chunks: Arc::clone(&chunks) as Arc<dyn ChunkIndex>,
        ..fixture.clone()
    };
    let outcome = run(pass, &failing, &kept);
    let fired = fault.fired() || meta.fired() || chunks.fired();
    assert!(fired || outcome.is_ok(), "{outcome:?}: {}", what());
    drop(failing);
    // The process ends. What was not synced is lost, wholly, in part or not at all.
    let left = match n % 3 {
        0 => memory.after_power_loss(),
        1 => memory.after_torn_power_loss(&mut |_, unsynced| unsynced / 2),
        _ => memory.after_torn_power_loss(&mut |_, unsynced| unsynced),
    };
    let mut fixture = fixture.over(left);
    if n % 2 == 1 {
        fixture = fixture.without_chunk_index();
    }
    if pass == Pass::Rebuild {
        rebuild_indexes(&mut fixture, false).unwrap_or_else(|error| panic!("{error:?}: {}", what()));
    } else {
        run(pass, &fixture, &kept).unwrap_or_else(|error| panic!("{error:?}: {}", what()));
    }
    let engine = fixture.open();
    check(&fixture, &engine, &kept, &what);
    push_path(&engine, "whole", &kept["whole"].bytes).unwrap();
    collect(&engine).unwrap();
    check(&fixture, &engine, &kept, &what);
    engine.close().unwrap();
    let engine = fixture.without_chunk_index().open();
    check(&fixture, &engine, &kept, &what);
    if pass != Pass::ScrubAndRepair {
        check_places(&engine, &what);
    }
    fired
}

/// Fails every call of a pass at every place; at least so many calls of storage there are.
fn fail_everywhere(pass: Pass, at_least: u64) {
    for place in PLACES {
        let mut calls = (0..10_000).step_by(indexes::STRIDE);
        let calls = calls.find(|n| !fail(pass, place, *n)).expect("a pass has an end");
        let enough = if matches!(place, Place::Storage(_)) { calls >= at_least } else { calls > 3 };
        assert!(enough, "{pass:?}: {place:?}: {calls} calls are no pass");
    }
}

#[test]
fn any_failing_call_of_a_collection_is_survived() {
    fail_everywhere(Pass::Collect, 10);
}

#[test]
fn any_failing_call_of_a_repack_is_survived() {
    fail_everywhere(Pass::Repack, 10);
}

#[test]
fn any_failing_call_of_a_squeeze_is_survived() {
    fail_everywhere(Pass::Squeeze, 10);
}

#[test]
fn any_failing_call_of_scrub_and_repair_is_survived() {
    fail_everywhere(Pass::ScrubAndRepair, 10);
}

#[test]
fn any_failing_call_of_a_rebuild_is_survived() {
    fail_everywhere(Pass::Rebuild, 5);
}
