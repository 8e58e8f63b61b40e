//! What a rebuild of the index makes of packs that lack something: it says so, and takes from the earlier index what that has.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_engine::{Error, Rebuilt};
use firn_index::{Commit, Op};
use firn_pack::{Footer, FrameKind};
use firn_storage::{Failure, Fault, Memory, Operation, Storage};

use crate::fixture::{Fixture, Pushed, cache, noise, objects, package, path, push_path};
use crate::invariants::rebuild_indexes;

/// A closed store with a few packs, and its paths `p0`, `p1`, ….
fn filled() -> (Memory, Fixture, Vec<Pushed>) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 400_000;
    let engine = fixture.open();
    let push = |seed| push_path(&engine, &format!("p{seed}"), &noise(seed, 60_000)).unwrap();
    let pushed = (0..16).map(push).collect();
    engine.close().unwrap();
    assert!(objects(&memory).len() > 2);
    (memory, fixture, pushed)
}

fn footer(storage: &dyn Storage, name: &str, len: u64) -> Footer {
    Footer::open(|at, len| storage.read(name, at, len).map_err(std::io::Error::other), len).unwrap()
}

/// Flips a bit in the first record frame of a pack.
fn damage_records(memory: &Memory, (name, len): &(String, u64)) {
    let footer = footer(memory, name, *len);
    let (at, entry) = footer.frames.iter().find(|(_, entry)| entry.kind == FrameKind::Record).unwrap();
    memory.damage(name, *at as usize + entry.len as usize - 3, 1).unwrap();
}

fn again(fixture: &Fixture, with_old: bool) -> (Fixture, Rebuilt) {
    let mut new = fixture.clone();
    let done = rebuild_indexes(&mut new, with_old).unwrap();
    (new, done)
}

/// Returns the names of the paths that are visible, and checks that all of these can be had.
fn whole(fixture: &Fixture, pushed: &[Pushed]) -> BTreeSet<String> {
    let engine = fixture.open();
    let mut names = BTreeSet::new();
    for (nth, one) in pushed.iter().enumerate() {
        let Some(row) = fixture.meta.path(&cache(), &path(&format!("p{nth}")).hash()).unwrap() else { continue };
        if one.check(&engine).is_ok() {
            names.insert(row.path.name().to_owned());
        }
    }
    engine.close().unwrap();
    names
}

fn all(pushed: &[Pushed]) -> BTreeSet<String> {
    (0..pushed.len()).map(|nth| format!("p{nth}")).collect()
}

#[test]
fn rows_whose_records_are_damaged_come_from_the_earlier_index_and_get_records() {
    let (memory, fixture, pushed) = filled();
    for pack in objects(&memory) {
        damage_records(&memory, &pack);
    }
    let (alone, without) = again(&fixture, false);
    assert!(without.damaged_frames > 0 && without.is_damaged(), "{without:?}");
    assert!(whole(&alone, &pushed).len() < pushed.len(), "packs alone have lost some");
    let (new, done) = again(&fixture, true);
    assert_eq!((done.lost, done.paths, done.unrecorded, done.incomplete), (0, 16, 0, 0), "{done:?}");
    assert!(done.damaged_frames > 0 && done.is_damaged() && done.kept >= 2, "{done:?}");
    assert_eq!(done.packs, objects(&memory).len() as u64);
    assert_eq!(whole(&new, &pushed), all(&pushed));
    let (anew, done) = again(&new, false);
    assert_eq!((done.lost, done.paths, done.kept), (0, 16, 0), "packs alone are enough again: {done:?}");
    assert_eq!(whole(&anew, &pushed), all(&pushed));
    let (_, done) = again(&new, true);
    assert_eq!((done.lost, done.paths, done.kept), (0, 16, 0), "and nothing is written twice: {done:?}");
}

#[test]
fn what_went_with_a_pack_is_named() {
    for nth in 0..3 {
        let (memory, fixture, pushed) = filled();
        memory.delete(&objects(&memory)[nth].0).unwrap();
        let (new, done) = again(&fixture, true);
        let lost: BTreeSet<String> =
            done.lost_paths.iter().map(|line| line.rsplit('-').next().unwrap().to_owned()).collect();
        let there = whole(&new, &pushed);
        assert_eq!(done.lost, lost.len() as u64);
        assert!(done.is_damaged() && there.len() + lost.len() + done.incomplete as usize == pushed.len(), "{done:?}");
        assert!(there.is_disjoint(&lost), "{done:?}");
        assert_eq!(done.paths + done.lost, pushed.len() as u64, "{done:?}");
    }
}

#[test]
fn rows_that_a_full_storage_has_no_room_to_record_are_there_and_counted() {
    let (memory, fixture, pushed) = filled();
    for pack in objects(&memory) {
        damage_records(&memory, &pack);
    }
    let full = Fault::new(Arc::new(memory.clone()));
    full.plan(Some(Operation::Create), 0, Failure::Full);
    let (new, done) = again(&fixture.over(full), true);
    assert!(done.kept > 0 && done.unrecorded == done.kept, "{done:?}");
    let new = new.over(memory.clone());
    assert_eq!(whole(&new, &pushed), all(&pushed));
    let (new, done) = again(&new, true);
    assert!(done.kept > 0 && done.unrecorded == 0, "the next one does it: {done:?}");
    assert_eq!(again(&new, false).1.paths, 16);
}

#[test]
fn caches_that_an_index_of_another_store_does_not_have_are_made_anew() {
    let (_, fixture, pushed) = filled();
    let fresh = Fixture { meta: crate::indexes::new_meta(), ..fixture.clone() };
    let (new, done) = again(&fresh, true);
    assert_eq!((done.paths, done.lost), (16, 0), "{done:?}");
    assert_eq!(whole(&new, &pushed), all(&pushed));
}

/// A store that was killed with its only pack open, and damaged at a byte.
fn killed(at: usize) -> (Memory, Fixture, Vec<Pushed>) {
    let memory = Memory::new();
    let fixture = Fixture::on(Arc::new(memory.clone()));
    let engine = fixture.open();
    let push = |seed| push_path(&engine, &format!("p{seed}"), &package(seed, 30_000)).unwrap();
    let pushed: Vec<Pushed> = (0..8).map(push).collect();
    drop(engine);
    memory.damage(&objects(&memory)[0].0, at, 1).unwrap();
    (memory, fixture, pushed)
}

/// Checks that all paths but the first are there and whole, and that damage was told.
fn check_all_but_the_first(new: &Fixture, done: &Rebuilt, pushed: &[Pushed], what: &str) {
    let mut expected = all(pushed);
    expected.remove("p0");
    assert!(done.is_damaged() && done.paths == pushed.len() as u64, "{what}: {done:?}");
    assert_eq!(whole(new, pushed), expected, "{what}: {done:?}");
}

#[test]
fn a_damaged_header_in_a_torn_pack_costs_what_its_frame_held() {
    // The frame at byte 40 holds chunks of the first path.
    for at in [40, 56, 60, 70] {
        for (is_opened, with_old) in [(false, false), (false, true), (true, false), (true, true)] {
            let (_, fixture, pushed) = killed(at);
            if is_opened {
                fixture.open().close().unwrap();
            }
            let (new, done) = again(&fixture, with_old);
            check_all_but_the_first(&new, &done, &pushed, &format!("{at}, opened {is_opened}, old {with_old}"));
        }
    }
}

#[test]
fn what_a_footer_leaves_out_is_found() {
    for with_old in [false, true] {
        let (memory, fixture, pushed) = killed(60);
        let (name, len) = objects(&memory)[0].clone();
        let read = |at, len| memory.read(&name, at, len).map_err(std::io::Error::other);
        let short = firn_pack::recover(read, len, 0, &mut |_| Ok(None)).unwrap().builder;
        assert_eq!(short.frames(), 0);
        memory.resume(&name, len).unwrap().append(&[&short.finish()]).unwrap();
        let (new, done) = again(&fixture, with_old);
        assert_eq!(done.sealed, 1, "{done:?}");
        check_all_but_the_first(&new, &done, &pushed, "the first time");
        let (new, done) = again(&new, with_old);
        assert_eq!(done.sealed, 0, "{done:?}");
        check_all_but_the_first(&new, &done, &pushed, "the second time");
    }
}

/// A store whose cache was deleted without packs being told, and made again; `p0` was in the first, the others are in the
/// second.
fn made_again() -> (Fixture, Vec<Pushed>) {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let push = |seed: u64| push_path(&engine, &format!("p{seed}"), &noise(seed, 60_000)).unwrap();
    let first = push(0);
    assert!(fixture.meta.delete_cache(&cache()).unwrap());
    fixture.with_cache();
    let pushed = std::iter::once(first).chain((1..4).map(push)).collect();
    engine.close().unwrap();
    (fixture, pushed)
}

#[test]
fn a_cache_that_was_made_again_before_packs_were_told_keeps_what_came_to_it() {
    let (fixture, pushed) = made_again();
    let mut second = all(&pushed);
    second.remove("p0");
    // Each start tries to tell packs.
    for _ in 0..2 {
        fixture.open().close().unwrap();
    }
    let (alone, done) = again(&fixture, false);
    assert!(second.is_subset(&whole(&alone, &pushed)), "{done:?}");
    let (new, done) = again(&fixture, true);
    assert_eq!((done.paths, done.lost), (3, 0), "{done:?}");
    assert_eq!(whole(&new, &pushed), second);
    assert_eq!(new.meta.deleted_caches().unwrap(), [], "packs are told");
    let (alone, done) = again(&new, false);
    assert_eq!(whole(&alone, &pushed), second, "{done:?}");
}

#[test]
fn a_deleted_cache_that_packs_were_not_told_of_stays_deleted() {
    for is_full in [false, true] {
        let fixture = Fixture::new();
        let engine = fixture.open();
        push_path(&engine, "p0", &noise(0, 60_000)).unwrap();
        engine.close().unwrap();
        assert!(fixture.meta.delete_cache(&cache()).unwrap());
        let broken = Fault::new(Arc::clone(&fixture.storage));
        broken.plan(is_full.then_some(Operation::Create), if is_full { 0 } else { u64::MAX }, Failure::Full);
        let (new, _) = again(&fixture.over(broken), true);
        assert_eq!(new.meta.caches().unwrap(), []);
        assert_eq!(new.meta.deleted_caches().unwrap().len(), usize::from(is_full));
        let new = Fixture { storage: Arc::clone(&fixture.storage), ..new };
        new.open().close().unwrap();
        assert_eq!(again(&new, false).0.meta.caches().unwrap(), []);
    }
}

#[test]
fn what_an_index_has_is_not_gone_with_a_cache_of_its_name() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let pushed: Vec<Pushed> =
        (0..3).map(|n| push_path(&engine, &format!("p{n}"), &noise(n, 60_000)).unwrap()).collect();
    engine.close().unwrap();
    let (kept, _) = again(&fixture, true);
    // As earlier versions wrote it behind the rows of a cache that had been made again.
    let engine = fixture.open();
    assert!(fixture.meta.delete_cache(&cache()).unwrap());
    engine.record_deleted_caches().unwrap();
    engine.close().unwrap();
    let order = Op::RecordOrder(fixture.meta.record_order().unwrap());
    kept.meta.commit(0, &[Commit { session: None, packs: Vec::new(), ops: vec![order] }]).unwrap();
    let (new, done) = again(&kept, true);
    assert_eq!((done.paths, done.lost), (3, 0), "{done:?}");
    assert_eq!(whole(&new, &pushed), all(&pushed));
    assert_eq!(whole(&again(&new, false).0, &pushed), all(&pushed));
}

#[test]
fn a_pack_that_is_not_given_out_is_named_with_what_to_do() {
    let (memory, fixture, _) = filled();
    let packs: Vec<String> = objects(&memory).into_iter().map(|(name, _)| name).collect();
    for operation in [Operation::Read, Operation::Len] {
        for n in 0.. {
            let broken = Fault::new(Arc::new(memory.clone()));
            broken.plan(Some(operation), n, Failure::Io);
            let outcome = rebuild_indexes(&mut fixture.over(broken.clone()), true);
            if !broken.fired() {
                assert!(n > 2 * packs.len() as u64, "{operation:?}: {n}");
                break;
            }
            let error = outcome.expect_err("it is not given out");
            // Whose packs these are is read first.
            if operation == Operation::Read && n < 2 {
                assert!(matches!(error, Error::Storage(_)), "{error:?}");
                continue;
            }
            let said = error.to_string();
            let named = packs.iter().filter(|name| said.contains(*name)).count();
            assert!(named == 1 && said.contains("Copy what can be read") && said.contains("move it out"), "{said}");
        }
    }
}
