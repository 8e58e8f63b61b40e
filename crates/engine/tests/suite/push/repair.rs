//! Damage that a push finds, and repairs.

use std::sync::Arc;

use firn_engine::{Engine, Error, Scope};
use firn_index::memory::MemoryChunkIndex;
use firn_index::{ChunkIndex, PackState};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use super::rebuilt;
use crate::fixture::client::{Local, error_of};
use crate::fixture::{Fixture, cache, objects, path};

fn file(seed: u64) -> Node {
    Node::file(Random::new(seed).noise(1_000_000))
}

fn is_visible(engine: &Engine, name: &str) -> bool {
    !engine.missing_paths(&cache(), None, &[path(name).hash()]).unwrap()[0]
}

#[test]
fn a_known_recipe_with_a_damaged_chunk_is_repaired_by_a_push() {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let (local, other) = (rebuilt(1), rebuilt(2));
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    memory.damage(&objects(&memory)[0].0, 100_000, 4).unwrap();
    // A rebuild of it is restored once, and so the damage is found.
    let session = engine.begin_session().unwrap();
    let error = error_of(engine.assemble(session, &Scope::Store, &cache(), other.known()));
    let Error::MissingChunks(missing) = error else { panic!("{error:?}") };
    assert_eq!(missing.len(), local.chunks.len());
    let count = missing.iter().filter(|missing| **missing).count();
    assert!(count > 0, "the damaged frame's chunks are asked for");
    assert!(!is_visible(&engine, "tool"), "what is damaged is missing");
    assert_eq!(engine.known_recipes(&Scope::Store, &[local.known().recipe]).unwrap(), [false]);

    local.send_some(&engine, session, &cache(), |n| missing[n]).unwrap();
    assert!(matches!(error_of(engine.assemble(session, &Scope::Store, &cache(), local.known())), Error::RecipeUnknown));
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    assert!(is_visible(&engine, "tool"));
    local.pushed().check(&engine).unwrap();
}

#[test]
fn a_new_recipe_that_shares_a_damaged_chunk_asks_for_it() {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let old = Local::of(&Node::directory([("a", file(1))]).encode());
    old.push(&engine, old.pushed().as_path("old")).unwrap();
    memory.damage(&objects(&memory)[0].0, 500_000, 4).unwrap();
    let new = Local::of(&Node::directory([("a", file(1)), ("b", file(2))]).encode());
    let session = engine.begin_session().unwrap();
    let error = error_of(engine.assemble(session, &Scope::Store, &cache(), new.claim()));
    let Error::MissingChunks(missing) = error else { panic!("{error:?}") };
    new.send_some(&engine, session, &cache(), |n| missing[n]).unwrap();
    // All is there now, as far as anybody knows.
    let error = error_of(engine.assemble(session, &Scope::Store, &cache(), new.claim()));
    let Error::MissingChunks(damaged) = error else { panic!("{error:?}") };
    assert!(missing.iter().zip(&damaged).any(|(missing, damaged)| !missing && *damaged));
    new.push(&engine, new.pushed().as_path("new")).unwrap();
    new.pushed().check(&engine).unwrap();
    // The old one's recipe knows the damaged place only, and finds the new one.
    old.pushed().check(&engine).unwrap();
}

#[test]
fn a_chunk_of_which_there_is_another_copy_is_taken_from_there() {
    let (memory, mut fixture) = Fixture::bare();
    let engine = fixture.open();
    let local = Local::of(&file(1).encode());
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    engine.close().unwrap();
    // An index that has forgotten the first pack makes the store keep the same chunks twice.
    let forgetful = MemoryChunkIndex::new();
    forgetful.set_watermark(1).unwrap();
    fixture.chunks = Arc::new(forgetful);
    let engine = fixture.open();
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    memory.damage(&objects(&memory)[0].0, 500_000, 4).unwrap();
    let other = "other".parse().unwrap();
    fixture.meta.put_cache(&other, &crate::fixture::cache_row()).unwrap();
    engine.assemble(session, &Scope::Store, &other, local.known()).map(drop).unwrap();
}

#[test]
fn a_record_that_is_damaged_is_asked_for() {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let local = Local::of(&file(1).encode());
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    let row = engine.meta().recipe(&local.known().recipe).unwrap().unwrap();
    memory.damage(&objects(&memory)[0].0, row.record.offset as usize + 60, 4).unwrap();
    let session = engine.begin_session().unwrap();
    let assemble = |claim| engine.assemble(session, &Scope::Store, &cache(), claim);
    assert!(matches!(error_of(assemble(local.known())), Error::RecipeUnknown));
    let assembled = assemble(local.claim()).unwrap();
    let outcome = engine.commit_pushed(&cache(), vec![(local.pushed().as_path("tool"), Some(assembled))]).remove(0);
    outcome.unwrap();
    local.pushed().check(&engine).unwrap();
    assert!(is_visible(&engine, "tool"));
}

#[test]
fn an_error_of_the_disk_is_not_damage() {
    use firn_storage::{Failure, Fault, Operation};
    let (memory, fixture) = Fixture::bare();
    let fault = Fault::new(Arc::new(memory.clone()));
    let engine = fixture.over(fault.clone()).open();
    let local = Local::of(&file(1).encode());
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    fault.plan(Some(Operation::Read), 0, Failure::Io);
    engine.assemble(session, &Scope::Store, &cache(), local.claim()).map(drop).unwrap();
    assert!(fault.fired(), "what fails once is asked for once more");
}

/// A bad sector must not keep a path out for ever: what can't be read is asked for and stored anew.
#[test]
fn what_the_disk_does_not_give_is_asked_for() {
    let (memory, fixture) = Fixture::bare();
    let fault = firn_storage::Fault::new(Arc::new(memory.clone()));
    let engine = fixture.over(fault.clone()).open();
    let local = Local::of(&file(1).encode());
    let session = engine.begin_session().unwrap();
    local.send(&engine, session, &cache()).unwrap();
    let (name, len) = &objects(&memory)[0];
    fault.refuse(name, 0..*len);
    let error = error_of(engine.assemble(session, &Scope::Store, &cache(), local.claim()));
    assert!(matches!(error, Error::MissingChunks(_)), "{error:?}");
    local.send(&engine, session, &cache()).unwrap();
    engine.assemble(session, &Scope::Store, &cache(), local.claim()).map(drop).unwrap();
}

/// A pack may be taken away between the restore and the commit: whoever refers to what is refused is refused as well.
#[test]
fn what_leans_on_packs_that_are_gone_is_refused_with_all_that_refers_to_it() {
    let (_, fixture) = Fixture::bare();
    let engine = fixture.open();
    let base = Local::of(&file(1).encode());
    let session = engine.begin_session().unwrap();
    base.send(&engine, session, &cache()).unwrap();
    engine.close().unwrap();
    let (pack, _) = fixture.meta.packs(None, 1).unwrap().remove(0);
    let engine = fixture.open();
    let session = engine.begin_session().unwrap();
    let tool = Local::of(&file(2).encode());
    let offer = |local: &Local, name: &str, references: &[&str]| {
        let mut upload = local.pushed().as_path(name);
        upload.references = references.iter().map(|name| path(name)).collect();
        upload.references_policy = firn_index::ReferencePolicy::Present;
        let assembled = local.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
        (upload, Some(assembled))
    };
    let batch = vec![
        offer(&base, "base", &[]),
        offer(&tool, "tool", &["base"]),
        offer(&tool, "top", &["tool"]),
        offer(&tool, "alone", &[]),
    ];
    for (from, to) in [(PackState::Live, PackState::Condemned), (PackState::Condemned, PackState::Doomed)] {
        assert!(fixture.meta.set_pack_state(pack, from, to, 7).unwrap());
    }
    let outcomes = engine.commit_pushed(&cache(), batch);
    for outcome in &outcomes[..3] {
        assert!(matches!(outcome, Err(Error::Refused(firn_index::Refusal::PacksGone(_)))), "{outcome:?}");
    }
    let visible = ["base", "tool", "top"].map(|name| is_visible(&engine, name));
    assert_eq!(visible, [false; 3]);
}
