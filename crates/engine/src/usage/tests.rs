use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use firn_chunk::RecipeId;
use firn_index::{CacheName, CacheRow, DocumentKey, DocumentKind};
use firn_pack::{ChunkLoc, Footer, FrameKind};
use firn_storage::Memory;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use super::*;
use crate::fixture::{Fixture, cache, cache_row, ingest, objects, package, path, push, push_path, uploader};
use crate::{DocumentContent, Engine, Freed};

/// What a NAR needs, counted without ordinals, spans or tables: places of chunks with their lengths and shares.
type Need = BTreeMap<ChunkLoc, (u64, f64)>;

/// The footers of all packs of a store whose packs are sealed.
fn footers(memory: &Memory) -> Vec<Footer> {
    let read = |name: &str, at, len| firn_storage::Storage::read(memory, name, at, len).map_err(std::io::Error::other);
    objects(memory).iter().map(|(name, len)| Footer::open(|at, len| read(name, at, len), *len).unwrap()).collect()
}

/// Finds what a recipe needs by walking footers, one chunk after the other.
fn need(engine: &Engine, footers: &[Footer], recipe: &RecipeId) -> (Need, Need) {
    let row = engine.meta().recipe(recipe).unwrap().unwrap();
    let stored = engine.shared.recipes.get(&engine.shared.frames, recipe, &row).unwrap();
    let (mut own, mut bases) = (Need::new(), Need::new());
    for run in &stored.placement.runs {
        let footer = footers.iter().find(|footer| footer.id == run.frame.pack).unwrap();
        let (_, entry) = footer.frames.iter().find(|(offset, _)| *offset == run.frame.offset).unwrap();
        for index in u32::from(run.first)..u32::from(run.first) + run.count {
            let len = u64::from(entry.items[index as usize].len);
            let share = f64::from(entry.len) * len as f64 / f64::from(entry.raw_len);
            own.insert(ChunkLoc { frame: run.frame, index: index as u16 }, (len, share));
        }
        for id in &entry.bases {
            let loc = engine.shared.packs.lookup(&firn_chunk::ChunkId(*id)).unwrap().unwrap();
            let footer = footers.iter().find(|footer| footer.id == loc.frame.pack).unwrap();
            let (_, base) = footer.frames.iter().find(|(offset, _)| *offset == loc.frame.offset).unwrap();
            let len = u64::from(base.items[usize::from(loc.index)].len);
            bases.insert(loc, (len, f64::from(base.len) * len as f64 / f64::from(base.raw_len)));
        }
    }
    (own, bases)
}

fn memory_store() -> (Memory, Fixture) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 400_000;
    fixture.options.frame_bytes = 150_000;
    (memory, fixture)
}

/// A store with what matters: NARs that share chunks, delta frames, recipes of several paths, two caches and builders,
/// a NAR without a path, a log, several packs. Returns it closed and opened again, so that every pack has a footer.
fn store() -> (Memory, Engine) {
    let (memory, fixture) = memory_store();
    let other: CacheName = "other".parse().unwrap();
    fixture.meta.put_cache(&other, &CacheRow { public: true, ..cache_row() }).unwrap();
    let engine = fixture.open();
    let build = |n: u8| {
        let mut bytes = Random::new(77).noise(300_000);
        (1000..300_000).step_by(20_000).for_each(|at| bytes[at..at + 20].fill(n));
        Node::directory([("libx.so", Node::file(bytes))]).encode()
    };
    let shared = Random::new(5).noise(200_000);
    let with_shared = |seed| {
        let own = Random::new(seed).noise(60_000);
        Node::directory([("own", Node::file(own)), ("shared", Node::file(shared.clone()))]).encode()
    };
    push_path(&engine, "libx-1.0", &build(1)).unwrap();
    fixture.clock.advance(86_400);
    push_path(&engine, "libx-1.1", &build(2)).unwrap();
    push_path(&engine, "app-2", &with_shared(1)).unwrap();
    fixture.clock.advance(86_400);
    let second = push(&engine, &with_shared(2)).unwrap();
    let mut offer = second.as_path("app-3");
    offer.uploader = uploader("elsewhere");
    engine.commit_path(&cache(), offer).unwrap();
    // The same NAR under another name, and in another cache.
    engine.commit_path(&cache(), second.as_path("copy")).unwrap();
    let again = ingest(&engine, &second.bytes).unwrap();
    engine.commit_nar(&other, again, None).unwrap();
    engine.commit_path(&other, second.as_path("app-3")).unwrap();
    push_path(&engine, "texts-1", &package(9, 200_000)).unwrap();
    push(&engine, &package(10, 50_000)).unwrap();
    let key = DocumentKey { kind: DocumentKind::Log, name: "x.drv".to_owned() };
    let log = DocumentContent::Inline(Random::new(3).text(30_000));
    engine.commit_document(&cache(), key, log, uploader("builder")).unwrap();
    engine.close().unwrap();
    (memory, fixture.open())
}

fn mark(engine: &Engine) -> Mark {
    engine.mark(&|| false).unwrap().unwrap()
}

/// The recipe of each holder, as the index has it, in the order of [`Mark::holders`].
fn recipes(engine: &Engine, mark: &Mark) -> Vec<RecipeId> {
    let of_path = |holder: &Holder| {
        let cache = &mark.names().caches[usize::from(holder.cache)];
        let path = engine.meta().path(cache, &holder.hash).unwrap().unwrap();
        engine.meta().nar(cache, &path.nar_hash).unwrap().unwrap().recipe
    };
    let all = engine.meta().recipes(None, 99).unwrap();
    let rest = |holder: &Holder| all.iter().find(|(_, row)| row.length == holder.bytes).unwrap().0;
    let recipe = |holder: &Holder| if holder.kind == HolderKind::Path { of_path(holder) } else { rest(holder) };
    mark.holders().iter().map(recipe).collect()
}

/// Checks that sums of shares, which are whole bytes on one side, are about the same.
#[track_caller]
fn about(found: u64, expected: f64, chunks: usize) {
    assert!((found as f64 - expected).abs() <= 2.0 + chunks as f64, "{found} is not about {expected}");
}

fn stored(need: &Need) -> f64 {
    need.values().map(|(_, share)| share).sum()
}

#[test]
fn every_group_is_what_a_plain_count_says() {
    let (memory, engine) = store();
    let (mark, footers) = (mark(&engine), footers(&memory));
    assert_eq!((mark.missing_chunks, mark.missing_recipes), (0, 0));
    let recipes = recipes(&engine, &mark);
    let mut had_bases = false;
    for dimension in [Dimension::Store, Dimension::Cache, Dimension::Builder, Dimension::Package, Dimension::Day] {
        let group_of = |holder: &Holder| match dimension {
            Dimension::Store => String::new(),
            Dimension::Cache => mark.names().caches[usize::from(holder.cache)].to_string(),
            Dimension::Builder => mark.names().builders[holder.builder as usize].clone(),
            Dimension::Package => mark.names().packages[holder.package as usize].clone(),
            Dimension::Day => day_name(holder.at),
        };
        let mut groups: BTreeMap<String, (u64, u64, Need, Need, BTreeSet<RecipeId>)> = BTreeMap::new();
        for (holder, recipe) in mark.holders().iter().zip(&recipes) {
            let group = groups.entry(group_of(holder)).or_default();
            group.0 += u64::from(holder.kind == HolderKind::Path);
            group.1 += holder.bytes;
            let (own, bases) = need(&engine, &footers, recipe);
            group.2.extend(own);
            group.3.extend(bases);
            group.4.insert(*recipe);
        }
        let found: BTreeMap<_, _> = mark.usage_by(dimension, 0).into_iter().collect();
        assert_eq!(found.keys().collect::<Vec<_>>(), groups.keys().collect::<Vec<_>>());
        let record = |recipe: &RecipeId| f64::from(engine.meta().recipe(recipe).unwrap().unwrap().record.len);
        for (name, (paths, logical, own, bases, held)) in &groups {
            let usage = &found[name];
            let mut all = own.clone();
            all.extend(bases.clone());
            let others: Vec<_> = groups.iter().filter(|(other, _)| *other != name).map(|(_, group)| group).collect();
            let needed_by = |loc: &ChunkLoc| {
                others.iter().filter(|group| group.2.contains_key(loc) || group.3.contains_key(loc)).count()
            };
            let records: f64 = held.iter().map(record).sum();
            let own_records = held.iter().filter(|id| !others.iter().any(|group| group.4.contains(id)));
            let exclusive: Need = all.clone().into_iter().filter(|(loc, _)| needed_by(loc) == 0).collect();
            assert_eq!((usage.paths, usage.logical_bytes), (*paths, *logical), "{name}");
            assert_eq!(usage.unique_bytes, own.values().map(|(len, _)| len).sum::<u64>(), "{name}");
            about(usage.stored_bytes, stored(&all) + records, all.len());
            about(usage.exclusive_bytes, stored(&exclusive) + own_records.map(record).sum::<f64>(), all.len());
            let amortised: f64 = all.iter().map(|(loc, (_, share))| share / (1 + needed_by(loc)) as f64).sum();
            let of_records =
                |id: &RecipeId| record(id) / (1 + others.iter().filter(|group| group.4.contains(id)).count()) as f64;
            about(usage.amortised_bytes, amortised + held.iter().map(of_records).sum::<f64>(), all.len());
            let only_bases: Need = bases.clone().into_iter().filter(|(loc, _)| !own.contains_key(loc)).collect();
            about(usage.base_bytes, stored(&only_bases), all.len());
            had_bases |= usage.base_bytes > 0;
        }
    }
    assert!(had_bases, "the store must have delta frames whose bases are another group's");
}

#[test]
fn what_groups_need_adds_up_to_what_is_stored() {
    let (memory, engine) = store();
    let mark = mark(&engine);
    let packs = mark.packs();
    let on_disk: u64 = objects(&memory).iter().map(|(_, len)| len).sum();
    assert_eq!(packs.stored_bytes, on_disk);
    assert_eq!(packs.packs, objects(&memory).len() as u64);
    let frames = footers(&memory).into_iter().flat_map(|footer| footer.frames);
    let of_chunks = frames.filter(|(_, entry)| entry.kind == FrameKind::Chunks).map(|(_, entry)| u64::from(entry.len));
    assert_eq!(packs.chunk_bytes, of_chunks.sum::<u64>());
    let totals = engine.meta().totals().unwrap();
    assert_eq!((packs.unique_bytes, packs.stored_bytes), (totals.unique_bytes, totals.stored_bytes));
    let store = mark.usage_by(Dimension::Store, 0).pop().unwrap().1;
    assert_eq!(store.paths, totals.paths);
    assert_eq!(store.stored_bytes, packs.live_chunk_bytes + packs.recipe_bytes, "every recipe is held");
    assert_eq!(store.exclusive_bytes, store.stored_bytes);
    assert_eq!((packs.dead_chunk_bytes(), packs.live_unique_bytes), (0, packs.unique_bytes));
    assert!(packs.delta_saved_bytes > 200_000, "{packs:?}");
    assert_eq!(store.delta_saved_bytes, packs.delta_saved_bytes);
    for dimension in [Dimension::Cache, Dimension::Builder, Dimension::Package, Dimension::Day] {
        let all = mark.usage_by(dimension, 0);
        let sum = |of: fn(&Usage) -> u64| all.iter().map(|(_, usage)| of(usage)).sum::<u64>();
        assert_eq!((sum(|usage| usage.paths), sum(|usage| usage.logical_bytes)), (store.paths, store.logical_bytes));
        assert!(sum(|usage| usage.amortised_bytes).abs_diff(store.stored_bytes) <= all.len() as u64, "{dimension:?}");
    }
}

#[test]
fn an_open_pack_counts_as_far_as_it_is() {
    let (memory, fixture) = memory_store();
    let engine = fixture.open();
    push_path(&engine, "a-1", &package(1, 100_000)).unwrap();
    let mark = mark(&engine);
    let packs = mark.packs();
    assert_eq!(packs.stored_bytes, objects(&memory)[0].1);
    let stats = engine.stats().unwrap().totals;
    assert_eq!((packs.unique_bytes, packs.stored_bytes), (stats.unique_bytes, stats.stored_bytes));
    assert_eq!(mark.missing_chunks, 0);
}

#[test]
fn freed_is_the_difference_between_two_stores() {
    let (_, engine) = store();
    let mark = mark(&engine);
    let everything = mark.freed_by(|_| true);
    assert_eq!(everything.paths, 7);
    let packages = &mark.names().packages;
    let named = |name: &'static str| move |holder: &Holder| packages[holder.package as usize] == name;
    // Both builds: nothing else needs them or their bases.
    let libx = mark.freed_by(named("libx"));
    let usage: BTreeMap<_, _> = mark.usage_by(Dimension::Package, 0).into_iter().collect();
    assert_eq!((libx.paths, libx.stored_bytes), (2, usage["libx"].exclusive_bytes));
    assert!(libx.unique_bytes > 600_000, "{libx:?}");
    // The older build alone: its chunks are bases of the newer one's.
    let old = mark.freed_by(|holder| holder.hash == path("libx-1.0").hash());
    assert!(old.unique_bytes < 10_000 && old.paths == 1, "{old:?}");
    // A copy of a NAR that another path has.
    let copy = mark.freed_by(|holder| holder.hash == path("copy").hash());
    assert_eq!((copy.paths, copy.stored_bytes, copy.chunks), (1, 0, 0));
    assert_eq!(mark.freed_by(|_| false), Freed::default());
    // All packs' live bytes fall by what is freed, recipes aside.
    let live =
        |goes: &dyn Fn(&Holder) -> bool| -> u64 { mark.live_bytes(goes).iter().map(|pack| pack.live_bytes).sum() };
    let recipes: u64 = recipes(&engine, &mark)
        .iter()
        .zip(mark.holders())
        .filter(|(_, holder)| named("libx")(holder))
        .map(|(id, _)| u64::from(engine.meta().recipe(id).unwrap().unwrap().record.len))
        .sum();
    assert_eq!(live(&|_| false) - live(&named("libx")), libx.stored_bytes - recipes);
    assert_eq!(live(&|_| false), mark.packs().live_chunk_bytes);
}

#[test]
fn what_shares_chunks_is_found() {
    let (_, engine) = store();
    let mark = mark(&engine);
    let app = mark.path(&cache(), &path("app-2").hash()).unwrap();
    let chunks = mark.chunks_of([app]);
    let (raw, stored) = mark.bytes_of(&chunks);
    assert!(raw > 260_000 && stored > 260_000, "noise: {raw} {stored}");
    let of = |name: &str| mark.shared_bytes(&chunks, mark.path(&cache(), &path(name).hash()).unwrap());
    assert!((200_000..230_000).contains(&of("app-3")), "{}", of("app-3"));
    assert_eq!(of("texts-1"), 0);
    assert_eq!(of("app-2"), stored);
    assert_eq!(mark.path(&cache(), &path("none").hash()), None);
}

#[test]
fn growth_counts_what_was_not_there_before() {
    let (_, engine) = store();
    let mark = mark(&engine);
    let last_day = mark.holders().iter().map(|holder| holder.at).max().unwrap();
    let usage: BTreeMap<_, _> = mark.usage_by(Dimension::Package, last_day).into_iter().collect();
    let app = &usage["app"];
    assert!((60_000..80_000).contains(&app.recent_bytes), "only its own file is new: {app:?}");
    assert_eq!(usage["libx"].recent_bytes, 0);
    assert_eq!(usage["texts"].recent_bytes, usage["texts"].stored_bytes);
}

#[test]
fn overlapping_groups_and_what_is_in_none() {
    let (_, engine) = store();
    let mark = mark(&engine);
    let at = |name: &str| {
        let hash = path(name).hash();
        mark.holders().iter().position(|holder| holder.hash == hash && holder.kind == HolderKind::Path).unwrap() as u32
    };
    let (first, both) = ([at("libx-1.0")], [at("libx-1.0"), at("libx-1.1")]);
    let found = mark.usage_of(&[&first, &both], 0);
    assert_eq!(found[0].exclusive_bytes, 0, "the other group needs it too");
    assert_eq!(found[1].stored_bytes - found[1].exclusive_bytes, found[0].stored_bytes);
    // A group alone, against all that is in none.
    let alone = mark.usage_of(&[&[at("app-2")]], 0)[0];
    assert!(alone.shared_bytes() >= 200_000 && alone.exclusive_bytes >= 60_000, "{alone:?}");
}

#[test]
fn a_damaged_store_is_counted_as_far_as_it_can_be_read() {
    let (memory, fixture) = memory_store();
    let engine = fixture.open();
    push_path(&engine, "a-1", &package(1, 300_000)).unwrap();
    push_path(&engine, "b-1", &package(2, 300_000)).unwrap();
    engine.close().unwrap();
    let whole = mark(&fixture.open());
    // Half of the first pack and its footer are gone.
    let (name, len) = objects(&memory).into_iter().max_by_key(|(_, len)| *len).unwrap();
    let cut = fixture.over(memory.clone());
    drop(firn_storage::Storage::resume(&memory, &name, len / 2).unwrap());
    let found = mark(&cut.open());
    assert!(found.missing_chunks > 0 || found.missing_recipes > 0);
    assert_eq!(found.packs().unread_packs, 1);
    assert_eq!(found.packs().stored_bytes, whole.packs().stored_bytes - (len - len / 2));
    assert_eq!(found.paths(), whole.paths());
    let logical = |mark: &Mark| mark.usage_by(Dimension::Store, 0)[0].1.logical_bytes;
    assert_eq!(logical(&found), logical(&whole));
}

#[test]
fn a_pass_can_be_stopped() {
    let (_, engine) = store();
    assert!(engine.mark(&|| true).unwrap().is_none());
}

#[test]
fn ratios_of_nothing_are_one() {
    let nothing = Usage::default();
    assert_eq!((nothing.dedup_factor(), nothing.compression_factor()), (1.0, 1.0));
    let some = Usage { logical_bytes: 10, unique_bytes: 5, stored_bytes: 4, base_bytes: 2, ..nothing };
    assert_eq!((some.dedup_factor(), some.compression_factor()), (2.0, 2.5));
}

#[test]
fn days_have_their_names() {
    for (at, name) in [
        (0, "1970-01-01"),
        (86_399, "1970-01-01"),
        (951_782_400, "2000-02-29"),
        (1_795_824_000, "2026-11-28"),
        (4_107_542_400, "2100-03-01"),
    ] {
        assert_eq!(day_name(at), name);
    }
}
