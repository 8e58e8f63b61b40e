//! The protocol of uploads and garbage collection, as steps of many parties in any order.
//!
//! Uploaders find chunks that others stored, stall past their lease, or die; two collections remove recipes and packs. A
//! party does one thing at a time and a seeded scheduler says whose turn it is, so that a run can be had again. After each
//! step every recipe that was acknowledged and not removed must find its packs. The same schedule is run on the index
//! itself and on a model of it; the model's broken variants each leave out one rule and must lose something.

use std::collections::{BTreeMap, BTreeSet};

use firn_chunk::RecipeId;
use firn_index::memory::MemoryMeta;
use firn_index::{Commit, Meta, Op, PackState, RecipeRow, SessionId};
use firn_pack::{FrameLoc, PackId};
use firn_testkit::random::Random;

/// Steps that a session lives without a sign of life.
const LEASE: u64 = 60;

/// Different chunks that there are: few, so that almost everything is shared.
const CHUNKS: u64 = 40;

/// Steps of one run.
const STEPS: u64 = 6000;

/// Runs, each with another seed.
const SEEDS: u64 = 12;

/// What the parties ask of the index.
trait Truth {
    fn begin(&mut self, session: u64, now: u64);
    fn oldest_session(&self, now: u64) -> Option<u64>;
    fn reserve(&mut self, pack: u64, now: u64);
    fn seal(&mut self, pack: u64);
    /// Commits a recipe; returns whether it was.
    fn commit(&mut self, session: u64, now: u64, new: Option<u64>, needs: &BTreeSet<u64>, recipe: u64) -> bool;
    fn remove_recipe(&mut self, recipe: u64, now: u64);
    fn has_edge(&self, pack: u64) -> bool;
    fn state(&self, pack: u64) -> Option<PackState>;
    fn since(&self, pack: u64) -> u64;
    fn packs(&self) -> Vec<u64>;
    fn set_state(&mut self, pack: u64, from: PackState, to: PackState, now: u64) -> bool;
    fn remove_pack(&mut self, pack: u64);
}

fn pack_id(pack: u64) -> PackId {
    PackId(u128::from(pack).to_be_bytes())
}

fn recipe_id(recipe: u64) -> RecipeId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&recipe.to_be_bytes());
    RecipeId(id)
}

/// The index itself.
struct Index(MemoryMeta);

impl Index {
    fn commit_ops(&self, session: Option<u64>, now: u64, ops: Vec<Op>) -> bool {
        let session = session.map(|id| SessionId(id.into()));
        self.0.commit(now, &[Commit { session, packs: Vec::new(), ops }]).unwrap()[0].is_ok()
    }
}

impl Truth for Index {
    fn begin(&mut self, session: u64, now: u64) {
        self.0.begin_session(SessionId(session.into()), now, now + LEASE).unwrap();
    }
    fn oldest_session(&self, now: u64) -> Option<u64> {
        self.0.oldest_session(now).unwrap()
    }
    fn reserve(&mut self, pack: u64, now: u64) {
        self.0.reserve_pack(pack_id(pack), now).unwrap();
    }
    fn seal(&mut self, pack: u64) {
        // One that was doomed meanwhile can't be: its upload will be refused.
        let _ = self.0.seal_pack(pack_id(pack), 1, 1);
    }
    fn commit(&mut self, session: u64, now: u64, _: Option<u64>, needs: &BTreeSet<u64>, recipe: u64) -> bool {
        let edges: Vec<PackId> = needs.iter().copied().map(pack_id).collect();
        let record = FrameLoc { pack: edges[0], offset: 0, len: 1 };
        let row = RecipeRow { record, length: 1, chunks: 1, edges, damaged_at: None };
        self.commit_ops(Some(session), now, vec![Op::Recipe(recipe_id(recipe), row)])
    }
    fn remove_recipe(&mut self, recipe: u64, now: u64) {
        assert!(self.commit_ops(None, now, vec![Op::DeleteRecipe(recipe_id(recipe))]));
    }
    fn has_edge(&self, pack: u64) -> bool {
        !self.0.recipes_of_pack(pack_id(pack), None, 1).unwrap().is_empty()
    }
    fn state(&self, pack: u64) -> Option<PackState> {
        self.0.pack(pack_id(pack)).unwrap().map(|row| row.state)
    }
    fn since(&self, pack: u64) -> u64 {
        self.0.pack_since(pack_id(pack)).unwrap().unwrap_or(0)
    }
    fn packs(&self) -> Vec<u64> {
        let number = |id: PackId| u64::try_from(u128::from_be_bytes(id.0)).unwrap();
        self.0.packs(None, usize::MAX).unwrap().into_iter().map(|(id, _)| number(id)).collect()
    }
    fn set_state(&mut self, pack: u64, from: PackState, to: PackState, now: u64) -> bool {
        self.0.set_pack_state(pack_id(pack), from, to, now).unwrap()
    }
    fn remove_pack(&mut self, pack: u64) {
        self.0.remove_pack(pack_id(pack)).unwrap();
    }
}

/// A rule that is left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Variant {
    /// None.
    Whole,
    /// Collections do not wait for older sessions. That loses nothing, and refuses uploads.
    NoWait,
    /// To doom a pack and to look whether it has edges are two steps.
    DoomsWithoutLooking,
    /// A commit does not look whether its session is alive, which protects the packs that it wrote itself.
    NoFence,
    /// A commit does not look whether the packs of others that it leans on are still there.
    NoCheck,
    /// Packs are deleted while a commit may still revive them.
    DeletesCondemned,
}

/// A model of the index, perhaps with a rule left out.
struct Model {
    variant: Variant,
    sessions: BTreeMap<u64, (u64, u64)>,
    packs: BTreeMap<u64, (PackState, u64)>,
    edges: BTreeSet<(u64, u64)>,
}

impl Model {
    fn new(variant: Variant) -> Self {
        Self { variant, sessions: BTreeMap::new(), packs: BTreeMap::new(), edges: BTreeSet::new() }
    }

    fn stands(&self, pack: u64) -> bool {
        self.state(pack).is_some_and(|state| state != PackState::Doomed)
    }
}

impl Truth for Model {
    fn begin(&mut self, session: u64, now: u64) {
        self.sessions.insert(session, (now, now + LEASE));
    }
    fn oldest_session(&self, now: u64) -> Option<u64> {
        self.sessions.values().filter(|(_, end)| *end > now).map(|(start, _)| *start).min()
    }
    fn reserve(&mut self, pack: u64, _: u64) {
        self.packs.insert(pack, (PackState::Writing, 0));
    }
    fn seal(&mut self, pack: u64) {
        if let Some((state @ PackState::Writing, _)) = self.packs.get_mut(&pack) {
            *state = PackState::Live;
        }
    }
    fn commit(&mut self, session: u64, now: u64, new: Option<u64>, needs: &BTreeSet<u64>, recipe: u64) -> bool {
        let is_fenced = self.variant != Variant::NoFence;
        if is_fenced && self.sessions.get(&session).is_none_or(|(_, end)| *end <= now) {
            return false;
        }
        let is_checked = |pack: u64| if new == Some(pack) { is_fenced } else { self.variant != Variant::NoCheck };
        if needs.iter().any(|pack| is_checked(*pack) && !self.stands(*pack)) {
            return false;
        }
        for pack in needs {
            if let Some((state @ PackState::Condemned, _)) = self.packs.get_mut(pack) {
                *state = PackState::Live;
            }
            self.edges.insert((*pack, recipe));
        }
        true
    }
    fn remove_recipe(&mut self, recipe: u64, _: u64) {
        self.edges.retain(|(_, of)| *of != recipe);
    }
    fn has_edge(&self, pack: u64) -> bool {
        self.edges.range((pack, 0)..=(pack, u64::MAX)).next().is_some()
    }
    fn state(&self, pack: u64) -> Option<PackState> {
        self.packs.get(&pack).map(|(state, _)| *state)
    }
    fn since(&self, pack: u64) -> u64 {
        self.packs.get(&pack).map_or(0, |(_, since)| *since)
    }
    fn packs(&self) -> Vec<u64> {
        self.packs.keys().copied().collect()
    }
    fn set_state(&mut self, pack: u64, from: PackState, to: PackState, now: u64) -> bool {
        let looks = self.variant != Variant::DoomsWithoutLooking;
        if to == PackState::Doomed && looks && self.has_edge(pack) {
            return false;
        }
        match self.packs.get_mut(&pack) {
            Some((state, since)) if *state == from => {
                (*state, *since) = (to, now);
                true
            }
            // Who looked a while ago does not see what was done since.
            Some((state, since)) if !looks && to == PackState::Doomed && *state == PackState::Live => {
                (*state, *since) = (to, now);
                true
            }
            _ => false,
        }
    }
    fn remove_pack(&mut self, pack: u64) {
        self.packs.remove(&pack);
    }
}

/// Everything beside the index.
#[derive(Default)]
struct World {
    now: u64,
    next: u64,
    objects: BTreeSet<u64>,
    /// Where a chunk was seen.
    chunks: BTreeMap<u64, u64>,
    /// The same a while ago, as a crash may leave it, or a server that lags behind.
    stale: BTreeMap<u64, u64>,
    /// When the session ends that is to write a pack.
    writers: BTreeMap<u64, u64>,
    /// When sessions began.
    began: BTreeMap<u64, u64>,
    /// What was acknowledged and not removed, with the packs that it needs.
    acknowledged: BTreeMap<u64, BTreeSet<u64>>,
    commits: u64,
    refused: u64,
}

impl World {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn is_whole(&self) -> bool {
        self.acknowledged.values().flatten().all(|pack| self.objects.contains(pack))
    }
}

/// Where an uploader is.
#[derive(Debug, Clone)]
enum Upload {
    Idle,
    Asked { session: u64, needs: BTreeSet<u64>, missing: BTreeSet<u64> },
    Reserved { session: u64, needs: BTreeSet<u64>, missing: BTreeSet<u64>, pack: u64 },
    Stored { session: u64, needs: BTreeSet<u64>, pack: Option<u64> },
}

fn below(random: &mut Random, limit: u64) -> u64 {
    random.below(usize::try_from(limit).unwrap()) as u64
}

fn upload(step: Upload, truth: &mut dyn Truth, world: &mut World, random: &mut Random) -> Upload {
    match step {
        Upload::Idle => {
            let session = world.number();
            truth.begin(session, world.now);
            world.began.insert(session, world.now);
            let (mut needs, mut missing) = (BTreeSet::new(), BTreeSet::new());
            let chunks = if below(random, 4) == 0 { &world.stale } else { &world.chunks };
            for _ in 0..3 {
                let chunk = below(random, CHUNKS);
                match chunks.get(&chunk) {
                    Some(pack) => _ = needs.insert(*pack),
                    None => _ = missing.insert(chunk),
                }
            }
            Upload::Asked { session, needs, missing }
        }
        Upload::Asked { session, needs, missing } if missing.is_empty() => {
            Upload::Stored { session, needs, pack: None }
        }
        Upload::Asked { session, needs, missing } => {
            let pack = world.number();
            truth.reserve(pack, world.now);
            world.writers.insert(pack, world.began[&session] + LEASE);
            Upload::Reserved { session, needs, missing, pack }
        }
        Upload::Reserved { session, mut needs, missing, pack } => {
            world.objects.insert(pack);
            truth.seal(pack);
            world.chunks.extend(missing.into_iter().map(|chunk| (chunk, pack)));
            needs.insert(pack);
            Upload::Stored { session, needs, pack: Some(pack) }
        }
        Upload::Stored { session, needs, pack } => {
            let recipe = world.number();
            if truth.commit(session, world.now, pack, &needs, recipe) {
                world.commits += 1;
                world.acknowledged.insert(recipe, needs);
            } else {
                world.refused += 1;
            }
            Upload::Idle
        }
    }
}

/// Where a collection is: what it has found to be without edges, and is about to doom.
#[derive(Default)]
struct Collector {
    found: Vec<u64>,
}

impl Collector {
    fn step(&mut self, truth: &mut dyn Truth, world: &mut World, random: &mut Random, variant: Variant) {
        let now = world.now;
        let packs = truth.packs();
        match below(random, 6) {
            0 => {
                let recipes: Vec<u64> = world.acknowledged.keys().copied().collect();
                if recipes.len() > 8 {
                    let recipe = recipes[random.below(recipes.len())];
                    truth.remove_recipe(recipe, now);
                    world.acknowledged.remove(&recipe);
                }
            }
            1 => {
                for pack in packs {
                    if truth.state(pack) == Some(PackState::Live) && !truth.has_edge(pack) {
                        world.chunks.retain(|_, at| *at != pack);
                        truth.set_state(pack, PackState::Live, PackState::Condemned, now);
                    }
                }
            }
            2 => {
                let waits = variant != Variant::NoWait;
                let oldest = truth.oldest_session(now).filter(|_| waits);
                let is_over = |pack: u64, truth: &dyn Truth| oldest.is_none_or(|oldest| oldest > truth.since(pack));
                self.found = packs
                    .into_iter()
                    .filter(|pack| truth.state(*pack) == Some(PackState::Condemned) && !truth.has_edge(*pack))
                    .filter(|pack| is_over(*pack, truth))
                    .collect();
            }
            3 => {
                for pack in std::mem::take(&mut self.found) {
                    truth.set_state(pack, PackState::Condemned, PackState::Doomed, now);
                }
            }
            4 => {
                for pack in packs {
                    let state = truth.state(pack);
                    let early = variant == Variant::DeletesCondemned && state == Some(PackState::Condemned);
                    if state == Some(PackState::Doomed) || early {
                        world.objects.remove(&pack);
                        truth.remove_pack(pack);
                        if early {
                            // The row stays until the pack is found again.
                            truth.reserve(pack, now);
                            truth.seal(pack);
                        }
                    }
                }
            }
            _ => {
                for pack in packs {
                    let is_over = world.writers.get(&pack).is_some_and(|end| *end <= now);
                    if is_over && truth.state(pack) == Some(PackState::Writing) {
                        truth.set_state(pack, PackState::Writing, PackState::Doomed, now);
                    }
                }
            }
        }
    }
}

/// Takes many steps; returns whether everything that was acknowledged was there after each, and what was counted.
fn run(truth: &mut dyn Truth, seed: u64, variant: Variant) -> (bool, World) {
    let mut random = Random::new(seed);
    let mut world = World::default();
    let mut uploads = vec![Upload::Idle; 6];
    let mut asleep = [0_u64; 6];
    let mut collectors = [Collector::default(), Collector::default()];
    for now in 1..=STEPS {
        world.now = now;
        if now % 150 == 0 {
            world.stale = world.chunks.clone();
        }
        let turn = random.below(10);
        match turn {
            0..6 if asleep[turn] > now => {}
            0..6 => {
                match random.below(40) {
                    // It dies, and another takes its place.
                    0 => uploads[turn] = Upload::Idle,
                    1 => asleep[turn] = now + below(&mut random, 3 * LEASE),
                    _ => {
                        let step = std::mem::replace(&mut uploads[turn], Upload::Idle);
                        uploads[turn] = upload(step, truth, &mut world, &mut random);
                    }
                }
            }
            _ => collectors[turn % 2].step(truth, &mut world, &mut random, variant),
        }
        if !world.is_whole() {
            return (false, world);
        }
    }
    (true, world)
}

#[test]
fn the_whole_protocol_loses_nothing() {
    for seed in 0..SEEDS {
        let (whole, of_index) = run(&mut Index(MemoryMeta::new()), seed, Variant::Whole);
        assert!(whole, "seed {seed}, step {}", of_index.now);
        assert!(of_index.commits > 300, "{} commits are no trial", of_index.commits);
        let (whole, of_model) = run(&mut Model::new(Variant::Whole), seed, Variant::Whole);
        assert!(whole, "seed {seed}: the model, step {}", of_model.now);
        assert_eq!(
            (of_index.commits, of_index.refused, of_index.objects),
            (of_model.commits, of_model.refused, of_model.objects),
            "the model does what the index does"
        );
    }
}

#[test]
fn without_the_wait_uploads_are_refused_and_nothing_is_lost() {
    let refused = |variant| {
        let runs = (0..SEEDS).map(|seed| run(&mut Index(MemoryMeta::new()), seed, variant));
        runs.map(|(whole, world)| {
            assert!(whole, "step {}", world.now);
            world.refused
        })
        .sum::<u64>()
    };
    let (with, without) = (refused(Variant::Whole), refused(Variant::NoWait));
    assert!(without > with, "refused {with} with the wait, {without} without");
}

#[test]
fn every_rule_is_needed() {
    for variant in [Variant::DoomsWithoutLooking, Variant::NoFence, Variant::NoCheck, Variant::DeletesCondemned] {
        let lost = (0..SEEDS).filter(|seed| !run(&mut Model::new(variant), *seed, variant).0).count();
        assert!(lost > 0, "{variant:?} lost nothing in {SEEDS} runs");
    }
}
