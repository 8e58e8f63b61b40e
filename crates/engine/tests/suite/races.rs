//! What runs at the same time, by name, with threads. `FIRN_SOAK=N` makes N times as many rounds. The protocol's steps in
//! every order are in `gc_protocol`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;

use firn_engine::{Engine, PathDeletion};
use firn_storage::Memory;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::{Fixture, Pushed, cache, path, push_path, restore};
use crate::invariants::{check, check_places, factor};
use crate::model::{collect, push_if_taken, push_until_taken, repack, squeeze};

const ROUNDS: u64 = 12;
const PUSHERS: u64 = 3;

fn store() -> (Memory, Fixture) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 120_000;
    fixture.options.frame_bytes = 40_000;
    fixture.options.frame_cache_bytes = 0;
    (memory, fixture)
}

/// Returns a NAR of two of six files: nearly everything is there already, in packs that come and go.
fn overlapping(random: &mut Random) -> Vec<u8> {
    let mut file = |name: &'static str| (name, Node::file(Random::new(random.below(6) as u64).noise(30_000)));
    Node::directory([file("a"), file("b")]).encode()
}

/// Sets a flag when it goes, by a panic too: whoever waits for it would wait for ever.
struct Sets<'a>(&'a AtomicBool);

impl Drop for Sets<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Pushes and deletes paths from several threads while `pass` runs again and again; everything that was acknowledged and
/// not deleted is there at each moment and in the end.
fn push_against(pass: impl Fn(&Engine) + Sync) {
    let (_, fixture) = store();
    let engine = fixture.open();
    let (is_done, passes) = (AtomicBool::new(false), RwLock::new(()));
    let all: BTreeMap<String, Pushed> = thread::scope(|scope| {
        let passing = scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let _pass = passes.read().unwrap();
                // Every session ends, and so do the leases of NARs without a path.
                fixture.clock.advance(24 * 3600 + 1);
                pass(&engine);
            }
        });
        let pushers: Vec<_> = (0..PUSHERS)
            .map(|pusher| {
                let (engine, passes) = (&engine, &passes);
                scope.spawn(move || {
                    let mut random = Random::new(pusher);
                    let mut mine = BTreeMap::new();
                    for round in 0..ROUNDS * factor() {
                        let name = format!("{pusher}-{}", round % 5);
                        // A path has one NAR: it goes before it comes with another.
                        if mine.remove(&name).is_some() {
                            delete_until_gone(engine, &name);
                        }
                        let pushed = push_against_passes(engine, passes, &name, &overlapping(&mut random));
                        pushed.check(engine).unwrap();
                        mine.insert(name, pushed);
                        for pushed in mine.values() {
                            pushed.check(engine).unwrap();
                        }
                    }
                    mine
                })
            })
            .collect();
        let ended = Sets(&is_done);
        let all = pushers.into_iter().flat_map(|pusher| pusher.join().unwrap()).collect();
        drop(ended);
        passing.join().unwrap();
        all
    });
    check(&fixture, &engine, &all, &|| "afterwards".to_owned());
    engine.close().unwrap();
    let engine = fixture.without_chunk_index().open();
    check(&fixture, &engine, &all, &|| "opened again".to_owned());
    check_places(&engine, &|| "opened again".to_owned());
}

/// Pushes until it is taken. A pass takes sessions and leases with it, and threads that get the processor seldom may be refused
/// again and again: after 100 times no pass begins until it is taken, and what is refused even then is wrong.
fn push_against_passes(engine: &Engine, passes: &RwLock<()>, name: &str, nar: &[u8]) -> Pushed {
    if let Some(pushed) = (0..100).find_map(|_| push_if_taken(engine, name, nar).ok()) {
        return pushed;
    }
    let _calm = passes.write().unwrap();
    push_until_taken(engine, name, nar)
}

/// Deletes a path; one that was named in the middle of it stays, and goes at the next try.
fn delete_until_gone(engine: &Engine, name: &str) {
    for _ in 0..200 {
        match engine.delete_path(&cache(), &path(name).hash(), false, &|_, _| {}).unwrap() {
            PathDeletion::Deleted(_) => return,
            PathDeletion::InUse(_) => {}
            other => panic!("{name} was acknowledged, and its deletion says {other:?}"),
        }
    }
    panic!("200 times something named {name}");
}

#[test]
fn dedup_hit_against_sweep() {
    push_against(collect);
}

#[test]
fn commit_against_repack() {
    push_against(|engine| {
        repack(engine);
        collect(engine);
    });
}

#[test]
fn commit_against_squeeze() {
    push_against(|engine| {
        squeeze(engine);
        collect(engine);
    });
}

/// Two collections of one store at once: the second is turned away, and neither does harm.
#[test]
fn sweep_against_sweep() {
    push_against(|engine| {
        thread::scope(|scope| {
            scope.spawn(|| collect(engine));
            scope.spawn(|| repack(engine));
            collect(engine);
        });
    });
}

#[test]
fn squeeze_against_restore() {
    let (_, fixture) = store();
    let engine = fixture.open();
    let all: Vec<Pushed> = (0..6)
        .map(|n| {
            let mut bytes = Random::new(1).noise(100_000);
            bytes[50_000..50_020].fill(n);
            push_path(&engine, &format!("build-{n}"), &Node::file(bytes).encode()).unwrap()
        })
        .collect();
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut read = 0;
                    while !is_done.load(Ordering::SeqCst) || read == 0 {
                        for pushed in &all {
                            pushed.check(&engine).unwrap();
                            let part = restore(&engine, pushed, 40_000..60_000).unwrap();
                            assert!(part == pushed.bytes[40_000..60_000], "a part is as the whole");
                            read += 1;
                        }
                    }
                    read
                })
            })
            .collect();
        let ended = Sets(&is_done);
        for level in 1..2 + 3 * factor().min(5) {
            let options = firn_engine::SqueezeOptions {
                level: u8::try_from(level).unwrap(),
                frame_bytes: 90_000,
                min_age_seconds: 0,
                ..Default::default()
            };
            engine.squeeze(&options, &mut |_| true).unwrap().expect("nobody else rewrites");
            fixture.clock.advance(24 * 3600);
            collect(&engine);
        }
        drop(ended);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    engine.close().unwrap();
    let engine = fixture.open();
    for pushed in &all {
        pushed.check(&engine).unwrap();
    }
    check_places(&engine, &|| "opened again".to_owned());
}
