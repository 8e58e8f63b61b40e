//! Random use of a store against a simple model of it: uploads by both ways, deletions, pins, collections, repacks, squeezes,
//! scrubs, restarts, kills, losses of power and rebuilds, with uploads side by side, and what must always hold after each step.
//!
//! A run is a seed. `FIRN_SOAK=N` makes N times as many steps, `FIRN_SEED=S` takes other seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_engine::{Engine, Error, GcOptions, PathDeletion, PathOutcome, RepackOptions, SqueezeOptions};
use firn_index::{PackState, PinRow, RetentionRow};
use firn_storage::{Memory, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::client::Local;
use crate::fixture::{Fixture, Pushed, cache, ingest, path, push, push_path, uploader};
use crate::invariants::{check, check_places, factor, rebuild_indexes};

const DAY: u64 = 24 * 3600;

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
    /// Pins and the names of their paths.
    pins: BTreeMap<String, String>,
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
        Self {
            memory,
            fixture,
            engine,
            random: Random::new(seed),
            paths: BTreeMap::new(),
            pins: BTreeMap::new(),
            log: Vec::new(),
        }
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

    /// Pushes from several threads while a collection, a repack or a squeeze runs.
    fn push_together(&mut self) {
        self.fixture.clock.advance(10);
        let work: BTreeMap<String, Vec<u8>> = (0..4)
            .map(|_| {
                let name = self.name();
                let known = self.paths.get(&name).map(|pushed| pushed.bytes.clone());
                (name, known.unwrap_or_else(|| nar(&mut self.random)))
            })
            .collect();
        let (engine, pass) = (&self.engine, self.random.below(3));
        let pushed = std::thread::scope(|scope| {
            let passing = scope.spawn(move || match pass {
                0 => collect(engine),
                1 => repack(engine),
                _ => squeeze(engine),
            });
            let pushers: Vec<_> = work
                .into_iter()
                .map(|(name, nar)| scope.spawn(move || (push_until_taken(engine, &name, &nar), name)))
                .collect();
            passing.join().unwrap();
            pushers.into_iter().map(|pusher| pusher.join().unwrap()).collect::<Vec<_>>()
        });
        self.paths.extend(pushed.into_iter().map(|(pushed, name)| (name, pushed)));
    }

    fn delete(&mut self) {
        let name = self.name();
        match self.engine.delete_path(&cache(), &path(&name).hash(), true, &|_, _| {}).unwrap() {
            PathDeletion::Deleted(_) => {
                assert!(self.paths.remove(&name).is_some(), "{name} was there");
                assert_eq!(self.pins_of(&name), Vec::<String>::new(), "{name} was pinned");
            }
            PathDeletion::Missing => assert!(!self.paths.contains_key(&name), "{name} was acknowledged"),
            PathDeletion::Pinned(by) => assert_eq!(by, self.pins_of(&name), "{name}"),
            other => panic!("{other:?}"),
        }
    }

    fn pins_of(&self, path: &str) -> Vec<String> {
        self.pins.iter().filter(|(_, of)| *of == path).map(|(pin, _)| pin.clone()).collect()
    }

    /// Pins a path that is there, or takes a pin away.
    fn pin(&mut self) {
        let (pin, name) = (format!("pin-{}", self.random.below(4)), self.name());
        let meta = self.engine.meta();
        if self.paths.contains_key(&name) && self.random.below(3) > 0 {
            let row = PinRow { path: path(&name), pinned_at: 1, expires_at: None, by: uploader("operator") };
            assert!(meta.put_pin(&cache(), &pin.parse().unwrap(), &row).unwrap());
            self.pins.insert(pin, name);
        } else {
            let was_there = meta.remove_pin(&cache(), &pin.parse().unwrap()).unwrap();
            assert_eq!(was_there, self.pins.remove(&pin).is_some(), "{pin}");
        }
    }

    /// Lets everything become too old but what is pinned, and collects.
    fn expire(&mut self) {
        self.fixture.clock.advance(3 * DAY);
        let retain = |row| assert!(self.fixture.meta.put_retention(&cache(), &row).unwrap());
        retain(RetentionRow { keep_seconds: Some(DAY), ..RetentionRow::default() });
        collect(&self.engine);
        retain(RetentionRow::default());
        let pinned: BTreeSet<&String> = self.pins.values().collect();
        self.paths.retain(|name, _| pinned.contains(name));
    }

    fn reopen(&mut self) {
        self.engine = self.fixture.open();
    }

    /// Runs one step; returns what it was.
    fn step(&mut self) -> &'static str {
        let step = STEP_KINDS[self.random.below(STEP_KINDS.len())];
        match step {
            "push" => self.push(false),
            "push by a client" => self.push(true),
            "push side by side, with a pass" => self.push_together(),
            "delete" => self.delete(),
            "pin" => self.pin(),
            "expire" => self.expire(),
            "collect" => {
                self.fixture.clock.advance(2 * DAY);
                collect(&self.engine);
            }
            "repack" => repack(&self.engine),
            "squeeze" => squeeze(&self.engine),
            "scrub" => check_places(&self.engine, &|| "a step".to_owned()),
            "restart" => {
                self.engine.close().unwrap();
                self.reopen();
            }
            "loss of power" => {
                // What was synced, and a part of the rest.
                let mut half = |_: &str, bytes: usize| bytes / 2;
                let left = self.memory.after_torn_power_loss(&mut half);
                self.memory = left.clone();
                self.fixture = self.fixture.over(left);
                self.reopen();
            }
            "kill" => {
                self.kill();
                self.reopen();
            }
            "loss of a page" => {
                self.kill();
                self.lose_page();
                self.reopen();
                check_places(&self.engine, &|| "a page was lost".to_owned());
            }
            "rebuild" => self.rebuild(),
            other => panic!("there is no step {other}"),
        }
        step
    }

    /// Ends in the midst of an upload: nothing that was written is lost, but the chunk index.
    fn kill(&mut self) {
        let nar = nar(&mut self.random);
        drop(ingest(&self.engine, &nar).unwrap());
        self.fixture = self.fixture.without_chunk_index();
    }

    /// Loses a byte of each open pack that was not synced for a commit.
    fn lose_page(&mut self) {
        for (pack, row) in self.engine.meta().packs(None, 10_000).unwrap() {
            let name = format!("packs/{}/{pack}", &pack.to_string()[..2]);
            let from = row.durable_bytes.max(firn_pack::PACK_HEADER_LEN as u64);
            let len = self.memory.len(&name).unwrap_or(0);
            if row.state == PackState::Writing && len > from {
                let at = from as usize + self.random.below((len - from) as usize);
                self.memory.damage(&name, at, 1).unwrap();
            }
        }
    }

    fn rebuild(&mut self) {
        if self.random.below(2) == 0 {
            self.kill();
        } else {
            self.engine.close().unwrap();
        }
        let with_old = self.random.below(2) == 0;
        let done = rebuild_indexes(&mut self.fixture, with_old).unwrap();
        assert!(!done.is_damaged(), "{done:?}");
        if !with_old {
            // Pins are in no pack, and neither is a cache that has nothing.
            self.pins.clear();
            if self.paths.is_empty() {
                self.fixture = self.fixture.with_cache();
            }
        }
        self.reopen();
        self.engine.learn(false).unwrap();
    }
}

/// What a step may be; what stands here several times comes more often.
const STEP_KINDS: [&str; 28] = [
    "push",
    "push",
    "push",
    "push",
    "push",
    "push",
    "push by a client",
    "push by a client",
    "push by a client",
    "push side by side, with a pass",
    "push side by side, with a pass",
    "push side by side, with a pass",
    "delete",
    "delete",
    "delete",
    "pin",
    "pin",
    "expire",
    "collect",
    "collect",
    "repack",
    "squeeze",
    "scrub",
    "restart",
    "kill",
    "loss of power",
    "loss of a page",
    "rebuild",
];

/// Pushes as a client does, and returns why that was refused because something that it leaned on went.
pub(crate) fn push_if_taken(engine: &Engine, name: &str, nar: &[u8]) -> std::result::Result<Pushed, Error> {
    let pushed = push(engine, nar)
        .and_then(|pushed| engine.commit_path(&cache(), pushed.as_path(name)).map(|outcome| (pushed, outcome)));
    match pushed {
        Ok((pushed, outcome)) => {
            assert!(matches!(outcome, PathOutcome::Created | PathOutcome::Merged), "{name}: {outcome:?}");
            Ok(pushed)
        }
        // Also damaged: a chunk was found in a pack that was deleted meanwhile, as its session had ended long ago.
        Err(error @ (Error::Refused(_) | Error::WrongNar { .. } | Error::Damaged { .. })) => Err(error),
        Err(error) => panic!("{error:?}"),
    }
}

/// Pushes as clients do: what was refused because something that it leaned on went comes again.
pub(crate) fn push_until_taken(engine: &Engine, name: &str, nar: &[u8]) -> Pushed {
    let mut refusals = Vec::new();
    for _ in 0..200 {
        match push_if_taken(engine, name, nar) {
            Ok(pushed) => return pushed,
            Err(error) => refusals.push(error),
        }
    }
    panic!("200 uploads of {name} were refused, at last: {:?}", &refusals[190..]);
}

pub(crate) fn collect(engine: &Engine) {
    engine.collect(&GcOptions { dry_run: false, grace_seconds: 0, repack: None }, &|_, _| {}).unwrap();
}

pub(crate) fn repack(engine: &Engine) {
    let options = RepackOptions { max_live_percent: 80, ..RepackOptions::default() };
    engine.repack(&options, &mut |_| true).unwrap();
}

pub(crate) fn squeeze(engine: &Engine) {
    let options = SqueezeOptions { level: 5, frame_bytes: 120_000, min_age_seconds: 0, ..SqueezeOptions::default() };
    engine.squeeze(&options, &mut |_| true).unwrap();
}

fn run(seed: u64) {
    let mut world = World::new(seed);
    // Without a rule nothing goes by itself: what is deleted is deleted by hand.
    world.fixture.meta.put_retention(&cache(), &RetentionRow::default()).unwrap();
    for step in 0..STEPS * factor() {
        let what = world.step();
        world.log.push(format!("{step}: {what}"));
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(&world.fixture, &world.engine, &world.paths, &|| what.to_owned());
        }));
        if let Err(panic) = checked {
            eprintln!("seed {seed}: {:#?}", world.log);
            std::panic::resume_unwind(panic);
        }
    }
    check_places(&world.engine, &|| "in the end".to_owned());
    assert!(world.memory.list("", None, 1).is_ok());
}

fn seed(number: u64) -> u64 {
    std::env::var("FIRN_SEED").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + number
}

#[test]
fn a_store_is_what_its_model_says_1() {
    run(seed(1));
}

#[test]
fn a_store_is_what_its_model_says_2() {
    run(seed(2));
}

#[test]
fn a_store_is_what_its_model_says_3() {
    run(seed(3));
}
