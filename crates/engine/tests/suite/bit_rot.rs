//! Each byte of a small store flips in turn, also of one with delta frames, of one that was repacked, and of one that was
//! squeezed: what comes out is right, or said to be damaged. Plain stores, and repairs, are in `damage`.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_engine::Error;
use firn_index::{Commit, Op};
use firn_pack::{Codec, Footer};
use firn_storage::{Memory, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::client::Local;
use crate::fixture::{Fixture, Pushed, cache, noise, objects, path, push_path};
use crate::invariants::factor;
use crate::model::{collect, repack, squeeze};

/// How a store came to be as it is.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Delta,
    Repacked,
    Squeezed,
}

/// Returns a build of a program, of which others differ in a few bytes.
fn build(build: u8) -> Vec<u8> {
    let mut bytes = Random::new(1).noise(17_000);
    bytes[9_000..9_020].fill(build);
    Node::directory([("program", Node::file(bytes))]).encode()
}

/// Returns a closed store, what is in it, and whether it has delta frames.
fn store(kind: Kind) -> (Memory, Fixture, BTreeMap<String, Pushed>) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.frame_cache_bytes = 0;
    fixture.options.recipe_cache_bytes = 0;
    let engine = fixture.open();
    let mut pushed = BTreeMap::new();
    for n in 1..3 {
        let (name, nar) = (format!("build-{n}"), build(n));
        let done = if matches!(kind, Kind::Squeezed) {
            // Stored as the client compressed it, without bases.
            let local = Local::of(&nar);
            local.push(&engine, local.pushed().as_path(&name)).unwrap();
            local.pushed()
        } else {
            push_path(&engine, &name, &nar).unwrap()
        };
        pushed.insert(name, done);
    }
    push_path(&engine, "old", &noise(9, 60_000)).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    match kind {
        Kind::Delta => {}
        Kind::Repacked => {
            engine.delete_path(&cache(), &path("old").hash(), false, &|_, _| {}).unwrap();
            fixture.clock.advance(2 * 24 * 3600);
            collect(&engine);
            repack(&engine);
            collect(&engine);
        }
        Kind::Squeezed => {
            squeeze(&engine);
            collect(&engine);
        }
    }
    engine.delete_path(&cache(), &path("old").hash(), false, &|_, _| {}).unwrap();
    engine.close().unwrap();
    (memory, fixture, pushed)
}

/// Flips a byte of a pack, restores everything and puts the byte and the index back; returns whether anything was damaged.
fn flip(
    kind: Kind,
    memory: &Memory,
    fixture: &Fixture,
    pushed: &BTreeMap<String, Pushed>,
    name: &str,
    at: usize,
) -> bool {
    let what = || format!("{kind:?}, byte {at} of {name}");
    let rows: Vec<_> = pushed
        .values()
        .map(|pushed| (pushed.recipe, fixture.meta.recipe(&pushed.recipe).unwrap().expect("it is there")))
        .collect();
    let mask = 1 << (at % 8);
    memory.damage(name, at, mask).unwrap();
    let fixture = fixture.without_chunk_index();
    let engine = fixture.try_open().unwrap_or_else(|error| panic!("{error:?}: {}", what()));
    let mut is_damaged = false;
    for pushed in pushed.values() {
        // Panics on a wrong byte.
        if let Err(error) = pushed.check(&engine) {
            assert!(matches!(error, Error::Damaged { .. }), "{error:?}: {}", what());
            assert!(!engine.is_restorable(&pushed.recipe).unwrap(), "{}", what());
            is_damaged = true;
        }
    }
    engine.close().unwrap();
    memory.damage(name, at, mask).unwrap();
    let ops = rows.into_iter().map(|(recipe, row)| Op::Recipe(recipe, row)).collect();
    fixture.meta.commit(1, &[Commit { session: None, packs: Vec::new(), ops }]).unwrap();
    is_damaged
}

fn flip_all(kind: Kind) {
    let (memory, fixture, pushed) = store(kind);
    let packs = objects(&memory);
    let codecs: Vec<Codec> = packs
        .iter()
        .flat_map(|(name, len)| {
            let read = |at, len| memory.read(name, at, len).map_err(std::io::Error::other);
            Footer::open(read, *len).unwrap().frames.into_iter().map(|(_, entry)| entry.codec).collect::<Vec<_>>()
        })
        .collect();
    assert!(codecs.contains(&Codec::Delta), "{kind:?}: there is no delta frame: {codecs:?}");
    // Noise is like itself everywhere: a part of it will do, but not of what says where it is and how to read it.
    let (edge, stride) = if factor() > 1 { (400, 1) } else { (150, 311) };
    let (mut tried, mut damaged) = (0, 0);
    for (name, len) in &packs {
        let len = *len as usize;
        let ends = (0..edge.min(len)).chain(len.saturating_sub(edge)..len);
        for at in ends.chain((edge..len.saturating_sub(edge)).step_by(stride)) {
            tried += 1;
            damaged += usize::from(flip(kind, &memory, &fixture, &pushed, name, at));
        }
    }
    assert!(damaged > tried / 8 && damaged < tried, "{kind:?}: {damaged} of {tried} flips were noticed");
    let engine = fixture.open();
    for pushed in pushed.values() {
        pushed.check(&engine).unwrap();
    }
}

#[test]
fn no_flipped_bit_of_delta_frames_comes_out_as_a_wrong_byte() {
    flip_all(Kind::Delta);
}

#[test]
fn no_flipped_bit_of_a_repacked_store_comes_out_as_a_wrong_byte() {
    flip_all(Kind::Repacked);
}

#[test]
fn no_flipped_bit_of_a_squeezed_store_comes_out_as_a_wrong_byte() {
    flip_all(Kind::Squeezed);
}
