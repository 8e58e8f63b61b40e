//! Collections that repack: what is needed by nothing comes back, as a dry run said, and nothing else is touched.

use std::sync::Arc;

use firn_engine::{Delta, Engine, GcOptions, GcReport, RepackOptions};
use firn_index::{Meta, RetentionRow};
use firn_storage::{Memory, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::{Fixture, Pushed, cache, noise, objects, path, push_path};

const DAY: u64 = 24 * 3600;

/// Small packs and frames, so that little content fills several; nothing in memory that hides the storage.
fn store() -> (Memory, Fixture) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 200_000;
    fixture.options.frame_bytes = 40_000;
    fixture.options.frame_cache_bytes = 0;
    fixture.options.recipe_cache_bytes = 0;
    (memory, fixture)
}

/// Returns the NAR of a build of a program: other builds differ in a few bytes here and there.
fn build(program: u64, build: u8) -> Vec<u8> {
    let mut bytes = Random::new(program).noise(150_000);
    for at in (1000..bytes.len()).step_by(30_000) {
        bytes[at..at + 20].fill(build);
    }
    Node::directory([("program", Node::file(bytes))]).encode()
}

fn options(max_bytes: u64) -> GcOptions {
    let repack = RepackOptions { max_live_percent: 80, max_bytes };
    GcOptions { dry_run: false, grace_seconds: 0, repack: Some(repack) }
}

fn collect(engine: &Engine) -> GcReport {
    engine.collect(&options(u64::MAX), &|_, _| {}).unwrap().expect("no other collection is under way")
}

fn dry_run(engine: &Engine) -> GcReport {
    let options = GcOptions { dry_run: true, ..options(u64::MAX) };
    engine.collect(&options, &|_, _| panic!("nothing goes")).unwrap().expect("no other collection is under way")
}

fn stored(storage: &dyn Storage) -> u64 {
    objects(storage).iter().map(|(_, len)| len).sum()
}

/// Lets everything go that is not used within a day, and a few days pass.
fn expire(fixture: &Fixture) {
    let row = RetentionRow { keep_seconds: Some(DAY), ..RetentionRow::default() };
    assert!(fixture.meta.put_retention(&cache(), &row).unwrap());
    fixture.clock.advance(5 * DAY);
}

/// Fills a store with paths, every third of which is used after all have expired. Returns these.
fn filled(fixture: &Fixture) -> (Engine, Vec<(String, Pushed)>) {
    let engine = fixture.open();
    let mut all = Vec::new();
    for number in 0..18_u8 {
        let nar = match number % 3 {
            0 => noise(u64::from(number), 60_000),
            1 => build(u64::from(number) % 2, number),
            _ => Node::directory([
                ("own", Node::file(Random::new(500 + u64::from(number)).noise(50_000))),
                ("shared", Node::file(Random::new(77).noise(90_000))),
            ])
            .encode(),
        };
        let name = format!("package-{number}");
        all.push((name.clone(), push_path(&engine, &name, &nar).unwrap()));
    }
    engine.close().unwrap();
    let engine = fixture.open();
    expire(fixture);
    let kept: Vec<_> = all.into_iter().enumerate().filter(|(number, _)| number % 4 == 1).map(|(_, it)| it).collect();
    for (name, _) in &kept {
        engine.note_use(&cache(), path(name).hash());
    }
    (engine, kept)
}

fn check(engine: &Engine, kept: &[(String, Pushed)]) {
    for (name, pushed) in kept {
        assert!(engine.meta().path(&cache(), &path(name).hash()).unwrap().is_some(), "{name} is gone");
        pushed.check(engine).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn what_a_dry_run_says_comes_back() {
    let (memory, fixture) = store();
    let (engine, kept) = filled(&fixture);
    let before = stored(&memory);
    let dry = dry_run(&engine);
    assert_eq!(stored(&memory), before);
    assert!(dry.sparse.len() > 1 && dry.condemned.packs > 0, "both kinds are there: {dry:?}");
    let real = collect(&engine);
    assert_eq!((real.recipes, real.nars), (dry.recipes, dry.nars));
    assert_eq!(real.sparse.len(), dry.sparse.len());
    assert_eq!(real.repacked.emptied_packs, dry.sparse.len() as u64, "{real:?}");
    assert_eq!((real.reclaimable_bytes, real.stuck.len()), (0, 0), "{real:?}");
    engine.close().unwrap();
    let freed = before - stored(&memory);
    // What replaces it: headers and footers of new packs, records of what is gone, frames that are cut otherwise.
    let removed = real.recipes + real.nars + real.caches[0].removed_paths;
    let overhead = real.repacked.written_bytes / 50 + 200 * removed + 1000;
    let said = dry.reclaimable_bytes;
    assert!(
        freed + overhead >= said && freed <= said + dry.record_bytes + overhead,
        "{freed} came back, {said} and some of {} were said, give or take {overhead}",
        dry.record_bytes
    );
    assert!(overhead * 10 < said, "the bound says something: {overhead} of {said}");
    let engine = fixture.open();
    check(&engine, &kept);
    let again = collect(&engine);
    assert_eq!((again.repacked.written_bytes, again.sparse.len()), (0, 0), "nothing is sparse any more: {again:?}");
    check(&fixture.without_chunk_index().open(), &kept);
}

#[test]
fn a_dry_run_says_what_each_path_has_of_its_own() {
    let (_, fixture) = store();
    let (engine, _) = filled(&fixture);
    let dry = dry_run(&engine);
    let fates = &dry.caches[0];
    let of = |name: &str| {
        let mut all = fates.largest_kept.iter().chain(&fates.largest_removed);
        all.find(|fate| fate.path == path(name)).unwrap().alone_bytes.unwrap()
    };
    // Noise is its own; of what is shared, only its own file is.
    assert!((60_000..62_000).contains(&of("package-0")), "{}", of("package-0"));
    assert!((50_000..53_000).contains(&of("package-2")), "{}", of("package-2"));
    // The first build is the base of the others.
    assert!(of("package-7") < 20_000, "{}", of("package-7"));
    let mark = engine.mark(&|| false).unwrap().unwrap();
    let alone = mark.freed_by(|holder| holder.hash == path("package-2").hash()).stored_bytes;
    assert_eq!(of("package-2"), alone, "counted in two ways");
}

#[test]
fn repacking_keeps_to_its_budget_and_goes_on() {
    let (memory, fixture) = store();
    let (engine, kept) = filled(&fixture);
    let mut last = u64::MAX;
    for run in 0.. {
        assert!(run < 50, "it comes to an end");
        let report = engine.collect(&options(1), &|_, _| {}).unwrap().unwrap();
        check(&engine, &kept);
        let left = report.sparse.len() as u64 - report.repacked.emptied_packs;
        assert!(report.repacked.done_packs <= 1, "one pack is more than the budget: {report:?}");
        assert!(stored(&memory) <= last.saturating_add(5000), "every run gives something back");
        last = stored(&memory);
        if left == 0 && report.repack_problem.is_none() {
            assert!(run > 1, "there was more to do than for one run");
            return;
        }
        assert!(
            report.repack_problem.is_some() || report.sparse.len() == 1,
            "it is told that some are left: {report:?}"
        );
    }
}

#[test]
fn a_collection_that_is_told_to_stop_leaves_the_rest_to_the_next() {
    let (_, fixture) = store();
    let (engine, kept) = filled(&fixture);
    let mut asked = 0;
    let mut stop = |_: &_| {
        asked += 1;
        asked < 3
    };
    let report = engine.collect_paced(&options(u64::MAX), &|_, _| {}, &mut stop).unwrap().unwrap();
    assert!(report.repacked.is_stopped && report.repack_problem.is_some(), "{report:?}");
    assert!(report.reclaimable_bytes > 0, "what is left is told");
    check(&engine, &kept);
    let next = collect(&engine);
    assert_eq!((next.repacked.is_stopped, next.reclaimable_bytes), (false, 0), "{next:?}");
    check(&engine, &kept);
}

#[test]
fn a_frame_that_cannot_be_read_is_reported_and_its_path_comes_to_be_repaired() {
    let (memory, fixture) = store();
    let engine = fixture.open();
    let nar = noise(1, 60_000);
    let kept = push_path(&engine, "kept", &nar).unwrap();
    let other = push_path(&engine, "other", &noise(2, 20_000)).unwrap();
    push_path(&engine, "gone", &noise(3, 90_000)).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    expire(&fixture);
    engine.note_use(&cache(), path("kept").hash());
    engine.note_use(&cache(), path("other").hash());
    // The first frame behind the header is of the first path.
    let (name, _) = objects(&memory).remove(0);
    memory.damage(&name, 2000, 0x40).unwrap();
    let report = collect(&engine);
    let [stuck] = &report.stuck[..] else { panic!("{report:?}") };
    assert!(name.ends_with(&stuck.pack.to_string()) && stuck.why.contains("can't be read"), "{stuck:?}");
    assert!(report.repacked.unreadable_frames > 0);
    other.check(&engine).unwrap();
    assert!(kept.check(&engine).is_err_and(|error| error.is_damage()));
    assert!(!engine.is_restorable(&kept.recipe).unwrap(), "it answers as missing");

    let again = push_path(&engine, "kept", &nar).unwrap();
    let report = collect(&engine);
    assert_eq!(report.stuck, []);
    assert!(!objects(&memory).iter().any(|(object, _)| *object == name), "the pack went: {report:?}");
    check(&engine, &[("kept".to_owned(), again), ("other".to_owned(), other)]);
}

#[test]
fn records_that_cannot_be_read_do_not_keep_their_pack() {
    let (memory, fixture) = store();
    let engine = fixture.open();
    let gone = push_path(&engine, "gone", &noise(3, 90_000)).unwrap();
    let record = fixture.meta.recipe(&gone.recipe).unwrap().unwrap().record;
    engine.close().unwrap();
    let engine = fixture.open();
    expire(&fixture);
    let (name, _) = objects(&memory).remove(0);
    // The frame behind the recipe's holds the NAR's record; its header has 40 bytes and more.
    memory.damage(&name, usize::try_from(record.offset).unwrap() + record.len as usize + 80, 0x40).unwrap();
    let report = collect(&engine);
    assert!(report.lost_record_frames > 0 && report.failed.packs == 0, "{report:?}");
    assert!(!objects(&memory).iter().any(|(object, _)| *object == name), "{report:?}");
}

#[test]
fn a_base_goes_with_the_last_that_needs_it() {
    let (memory, mut fixture) = store();
    fixture.options.delta = Delta::Inline;
    let engine = fixture.open();
    push_path(&engine, "program-1", &build(1, 1)).unwrap();
    let second = push_path(&engine, "program-2", &build(1, 2)).unwrap();
    let other = push_path(&engine, "other", &noise(9, 50_000)).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    expire(&fixture);
    let use_of = |names: &[&str]| names.iter().for_each(|name| engine.note_use(&cache(), path(name).hash()));
    use_of(&["program-2", "other"]);
    assert_eq!(collect(&engine).caches[0].removed_paths, 1);
    second.check(&engine).unwrap();
    assert!(stored(&memory) > 200_000, "what the second build was compressed with is there yet");
    fixture.clock.advance(5 * DAY);
    use_of(&["other"]);
    let report = collect(&engine);
    assert_eq!(report.caches[0].removed_paths, 1);
    assert!(stored(&memory) < 80_000, "{} are left: {report:?}", stored(&memory));
    other.check(&engine).unwrap();
}

#[test]
fn a_quota_counts_what_is_shared_once() {
    let (_, fixture) = store();
    let engine = fixture.open();
    let shared = || ("shared", Node::file(Random::new(7).noise(90_000)));
    for number in 0..4 {
        let own = ("own", Node::file(Random::new(100 + number).noise(30_000)));
        push_path(&engine, &format!("p-{number}"), &Node::directory([own, shared()]).encode()).unwrap();
        fixture.clock.advance(DAY);
    }
    engine.close().unwrap();
    let engine = fixture.open();
    // All four need 210 kB together, three of them 180 kB.
    for (quota, removed) in [(215_000, 0), (205_000, 1), (130_000, 2)] {
        let row = RetentionRow { quota_bytes: Some(quota), ..RetentionRow::default() };
        fixture.meta.put_retention(&cache(), &row).unwrap();
        fixture.clock.advance(DAY);
        let fates = collect(&engine).caches.remove(0);
        assert_eq!(fates.removed_paths, removed, "{quota}: {fates:?}");
        let mark = engine.mark(&|| false).unwrap().unwrap();
        let usage = mark.usage_by(firn_engine::Dimension::Cache, 0).remove(0).1;
        // Frames were written anew meanwhile, in other company.
        let kept = fates.kept_stored_bytes.unwrap();
        assert!(kept.abs_diff(usage.stored_bytes) < 1000, "as a usage report has it: {kept}, {usage:?}");
        assert!(kept <= quota);
    }
}

/// Fails each of the calls of a collection that repacks in turn, then opens the store again and collects to the end.
#[test]
fn a_repacking_collection_that_is_cut_short_loses_nothing() {
    let mut cuts = 0;
    for spare in (0..).step_by(3) {
        for when in [When::Before, When::After] {
            let (_, mut fixture) = store();
            let sound = Arc::clone(&fixture.meta);
            let engine = fixture.open();
            let kept = push_path(&engine, "kept", &noise(1, 30_000)).unwrap();
            push_path(&engine, "old", &noise(2, 90_000)).unwrap();
            engine.close().unwrap();
            let broken = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
            fixture.meta = Arc::clone(&broken) as Arc<dyn Meta>;
            let engine = fixture.open();
            expire(&fixture);
            engine.note_use(&cache(), path("kept").hash());
            engine.flush_uses().unwrap();
            broken.plan(None, spare, when);
            let outcome = engine.collect(&options(u64::MAX), &|_, _| {});
            let fired = broken.fired();
            broken.heal();
            drop(engine);
            if !fired {
                assert!(outcome.is_ok_and(|report| report.unwrap().repacked.recipes > 0) && cuts > 40, "{cuts} cuts");
                return;
            }
            cuts += 1;
            fixture.meta = Arc::clone(&sound);
            let engine = fixture.open();
            collect(&engine);
            // A session that was not ended protects what it may have been told of.
            fixture.clock.advance(2 * 3600);
            collect(&engine);
            assert!(engine.meta().path(&cache(), &path("old").hash()).unwrap().is_none(), "call {spare} {when:?}");
            assert_eq!(engine.backlog().unwrap(), firn_engine::Backlog::default(), "call {spare} {when:?}");
            engine.close().unwrap();
            check(&fixture.open(), &[("kept".to_owned(), kept)]);
        }
    }
}
