//! Random use of a store against a simple model of it: uploads by both ways, downloads, deletions, collections, scrubs,
//! restarts, losses of power and rebuilds, with uploads side by side, and what must always hold after each step.
//!
//! A run is a seed. `FIRN_SOAK=N` makes N times as many steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_engine::{Engine, Error, GcOptions, Parts, PathDeletion, rebuild};
use firn_index::memory::{MemoryChunkIndex, MemoryMeta};
use firn_index::{PackState, RetentionRow};
use firn_storage::{Memory, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::client::Local;
use crate::fixture::{Fixture, Pushed, cache, cache_row, objects, path, push_path};

const ALL: usize = 100_000;

/// Steps of one seed.
const STEPS: u64 = 60;

/// A store that is used, and what it must hold.
struct World {
    memory: Memory,
    fixture: Fixture,
    engine: Engine,
    random: Random,
    /// What was acknowledged and not deleted.
    paths: BTreeMap<String, Pushed>,
    log: Vec<String>,
}

/// Returns a NAR that shares parts with others: files out of a small universe, at times with a byte changed.
fn nar(random: &mut Random) -> Vec<u8> {
    let files = 1 + random.below(4);
    let entries = (0..files).map(|at| {
        let mut bytes = Random::new(random.below(12) as u64).noise(20_000 + 7_000 * random.below(12));
        if random.below(3) == 0 {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1 + random.below(200) as u8;
        }
        (format!("file-{at}"), Node::file(bytes))
    });
    Node::directory(entries.collect::<Vec<_>>().iter().map(|(name, node)| (name.as_str(), node.clone()))).encode()
}

impl World {
    fn new(seed: u64) -> Self {
        let memory = Memory::new();
        let mut fixture = Fixture::on(Arc::new(memory.clone()));
        fixture.options.pack_bytes = 300_000;
        fixture.options.frame_bytes = 60_000;
        let engine = fixture.open();
        Self { memory, fixture, engine, random: Random::new(seed), paths: BTreeMap::new(), log: Vec::new() }
    }

    fn name(&mut self) -> String {
        format!("p{}", self.random.below(30))
    }

    /// Pushes a path that is not there, or once more what is there.
    fn push(&mut self, by_client: bool) {
        let name = self.name();
        let nar = match self.paths.get(&name) {
            Some(pushed) => pushed.bytes.clone(),
            None => nar(&mut self.random),
        };
        let pushed = if by_client {
            let local = Local::of(&nar);
            let pushed = local.pushed();
            local.push(&self.engine, pushed.as_path(&name)).unwrap();
            pushed
        } else {
            push_path(&self.engine, &name, &nar).unwrap()
        };
        self.paths.insert(name, pushed);
    }

    /// Pushes from several threads while a collection runs.
    fn push_together(&mut self) {
        self.fixture.clock.advance(10);
        let work: BTreeMap<String, Vec<u8>> = (0..4)
            .map(|_| {
                let name = self.name();
                let known = self.paths.get(&name).map(|pushed| pushed.bytes.clone());
                (name, known.unwrap_or_else(|| nar(&mut self.random)))
            })
            .collect();
        let engine = &self.engine;
        let pushed = std::thread::scope(|scope| {
            let collector = scope.spawn(|| collect(engine));
            let pushers: Vec<_> = work
                .into_iter()
                .map(|(name, nar)| {
                    scope.spawn(move || {
                        for _ in 0..20 {
                            match push_path(engine, &name, &nar) {
                                Ok(pushed) => return (name, pushed),
                                // What it leaned on went; it comes again, as clients do.
                                Err(Error::Refused(_) | Error::WrongNar { .. }) => {}
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                        panic!("twenty uploads were refused");
                    })
                })
                .collect();
            collector.join().unwrap();
            pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect::<Vec<_>>()
        });
        self.paths.extend(pushed);
    }

    fn delete(&mut self) {
        let name = self.name();
        match self.engine.delete_path(&cache(), &path(&name).hash(), true, &|_, _| {}).unwrap() {
            PathDeletion::Deleted(_) => assert!(self.paths.remove(&name).is_some(), "{name} was there"),
            PathDeletion::Missing => assert!(!self.paths.contains_key(&name), "{name} was acknowledged"),
            other => panic!("{other:?}"),
        }
    }

    fn reopen(&mut self) {
        self.engine = self.fixture.open();
    }

    /// Runs one step; returns what it was.
    fn step(&mut self) -> &'static str {
        match self.random.below(20) {
            0..=5 => {
                self.push(false);
                "push"
            }
            6..=8 => {
                self.push(true);
                "push by a client"
            }
            9..=10 => {
                self.push_together();
                "push side by side, with a collection"
            }
            11..=13 => {
                self.delete();
                "delete"
            }
            14..=15 => {
                self.fixture.clock.advance(2 * 24 * 3600);
                collect(&self.engine);
                "collect"
            }
            16 => {
                scrub(&self.engine);
                "scrub"
            }
            17 => {
                self.engine.close().unwrap();
                self.reopen();
                "restart"
            }
            18 => {
                // What was synced, and a part of the rest.
                let mut half = |_: &str, bytes: usize| bytes / 2;
                let left = self.memory.after_torn_power_loss(&mut half);
                self.memory = left.clone();
                self.fixture = self.fixture.over(left);
                self.reopen();
                "loss of power"
            }
            _ => {
                self.engine.close().unwrap();
                self.rebuild();
                "rebuild"
            }
        }
    }

    fn rebuild(&mut self) {
        let old = Arc::clone(&self.fixture.meta);
        self.fixture.meta = Arc::new(MemoryMeta::new());
        self.fixture.chunks = Arc::new(MemoryChunkIndex::new());
        let parts = Parts {
            storage: Arc::clone(&self.fixture.storage),
            meta: Arc::clone(&self.fixture.meta),
            chunks: Arc::clone(&self.fixture.chunks),
            old: (self.random.below(2) == 0).then_some(old),
            clock: Arc::clone(&self.fixture.clock) as _,
            entropy: Arc::clone(&self.fixture.entropy) as _,
        };
        let done = rebuild(parts, &mut |_| cache_row()).unwrap();
        assert_eq!((done.lost, done.damaged_frames), (0, 0), "{done:?}");
        self.reopen();
        self.engine.learn(false).unwrap();
    }

    /// Checks what must always hold.
    fn check(&self) {
        let meta = self.engine.meta();
        // What is visible is what was acknowledged and not deleted, and restores to its hash.
        let visible = meta.paths(&cache(), None, ALL).unwrap();
        let names: BTreeSet<String> = visible.iter().map(|(_, row)| row.path.name().to_owned()).collect();
        assert_eq!(names, self.paths.keys().cloned().collect());
        for pushed in self.paths.values() {
            pushed.check(&self.engine).unwrap();
        }
        // Sums are what a recount gives.
        let totals = self.engine.stats().unwrap().totals;
        assert_eq!(totals.paths, visible.len() as u64);
        assert_eq!(totals.logical_bytes, visible.iter().map(|(_, row)| row.nar_size).sum::<u64>());
        // Nothing that is needed is doomed, and every object is known.
        let packs: BTreeMap<_, _> = meta.packs(None, ALL).unwrap().into_iter().collect();
        for (pack, row) in &packs {
            if row.state == PackState::Doomed {
                assert_eq!(meta.recipes_of_pack(*pack, None, 1).unwrap(), []);
            }
        }
        let known: BTreeSet<String> = packs.keys().map(ToString::to_string).collect();
        for (name, _) in objects(self.fixture.storage.as_ref()) {
            let hex = name.rsplit('/').next().unwrap().to_owned();
            assert!(known.contains(&hex), "nobody knows {name}");
        }
        let sealed: u64 = packs.values().map(|row| row.stored_bytes).sum();
        assert!(totals.stored_bytes >= sealed, "{} of {sealed}", totals.stored_bytes);
    }
}

fn collect(engine: &Engine) {
    engine.collect(&GcOptions { dry_run: false, grace_seconds: 0 }, &|_, _| {}).unwrap();
}

/// Reads everything again: each place that the index knows holds what it says.
fn scrub(engine: &Engine) {
    let mut scrub = engine.scrub().unwrap();
    while scrub.step().unwrap().is_some() {}
    let pass = scrub.pass();
    assert_eq!((pass.damaged_packs, pass.damaged_frames, pass.damaged_paths, pass.unreadable_packs), (0, 0, 0, 0));
}

fn factor() -> u64 {
    std::env::var("FIRN_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    // Without a rule nothing goes by itself: what is deleted is deleted by hand.
    world.fixture.meta.put_retention(&cache(), &RetentionRow::default()).unwrap();
    for step in 0..STEPS * factor() {
        let what = world.step();
        world.log.push(format!("{step}: {what}"));
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.check()));
        if let Err(panic) = checked {
            eprintln!("seed {seed}: {:#?}", world.log);
            std::panic::resume_unwind(panic);
        }
    }
    scrub(&world.engine);
    assert!(world.memory.list("", None, 1).is_ok());
}

#[test]
fn a_store_is_what_its_model_says_1() {
    run(1);
}

#[test]
fn a_store_is_what_its_model_says_2() {
    run(2);
}

#[test]
fn a_store_is_what_its_model_says_3() {
    run(3);
}
