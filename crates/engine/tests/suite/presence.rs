//! A storage that is not there, or is another store's, is not taken for one that lost its packs.

use std::sync::Arc;

use firn_engine::{Entropy, Error, GcOptions};
use firn_index::memory::MemoryMeta;
use firn_storage::{Memory, Storage};

use crate::fixture::{Fixture, noise, objects, push_path};

/// Takes all objects away, as unmounting a file system does; returns them.
fn unmount(memory: &Memory) -> Vec<(String, Vec<u8>)> {
    let all = memory.list("", None, 1000).unwrap();
    let taken = all.into_iter().map(|object| {
        let bytes = memory.read(&object.name, 0, object.len as usize).unwrap();
        memory.delete(&object.name).unwrap();
        (object.name, bytes.to_vec())
    });
    taken.collect()
}

fn mount(memory: &Memory, objects: &[(String, Vec<u8>)]) {
    for (name, bytes) in objects {
        memory.put(name, bytes).unwrap();
    }
}

fn why(fixture: &Fixture) -> String {
    match fixture.try_open() {
        Err(Error::Unusable(why)) => why,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("it was opened"),
    }
}

#[test]
fn a_storage_that_goes_away_is_no_damage() {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let pushed = push_path(&engine, "p", &noise(1, 500_000)).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    let away = unmount(&memory);
    assert!(matches!(pushed.check(&engine), Err(Error::Storage(_))));
    assert!(matches!(engine.collect(&GcOptions::default(), &|_, _| {}), Err(Error::Storage(_))));
    let mut scrub = engine.scrub().unwrap();
    while scrub.step().unwrap().is_some() {}
    assert_eq!((scrub.pass().damaged_packs, scrub.pass().damaged_paths, scrub.pass().unreadable_packs), (0, 0, 1));
    mount(&memory, &away);
    pushed.check(&engine).unwrap();
}

#[test]
fn a_store_without_its_packs_is_not_opened() {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let pushed = push_path(&engine, "p", &noise(1, 500_000)).unwrap();
    engine.close().unwrap();
    let away = unmount(&memory);
    assert!(why(&fixture).contains("mounted"));
    assert_eq!(memory.list("", None, 9).unwrap(), [], "nothing was written where they are not");
    mount(&memory, &away);
    pushed.check(&fixture.open()).unwrap();
}

#[test]
fn packs_without_their_index_are_not_taken_for_a_new_store() {
    let (memory, mut fixture) = Fixture::bare();
    push_path(&fixture.open(), "p", &noise(1, 500_000)).unwrap();
    fixture.meta = Arc::new(MemoryMeta::default());
    assert!(why(&fixture).contains("firnd rebuild-index"));
    unmount(&memory);
    fixture.open();
}

#[test]
fn the_packs_of_another_store_are_refused() {
    let (memory, fixture) = Fixture::bare();
    push_path(&fixture.open(), "p", &noise(1, 500_000)).unwrap();
    let away = unmount(&memory);
    let (other, another) = Fixture::bare();
    another.entropy.draw();
    another.open().close().unwrap();
    unmount(&other);
    mount(&other, &away);
    assert!(why(&another).contains("those of store"));
}

/// Stores of firn 0.1 say nothing of themselves beside their packs.
#[test]
fn an_unnamed_storage_is_named() {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let pushed = push_path(&engine, "p", &noise(1, 500_000)).unwrap();
    engine.close().unwrap();
    memory.delete("store").unwrap();
    pushed.check(&fixture.open()).unwrap();
    assert_eq!(memory.len("store").unwrap(), 33);
    assert_eq!(objects(&memory).len(), 1);
}
