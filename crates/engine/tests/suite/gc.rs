//! Retention, garbage collection and deletion.

use std::sync::Arc;

use firn_engine::{Engine, Error, GcOptions, GcReport, PathDeletion};
use firn_index::{AliasRow, Meta, PackState, PinRow, RetentionRow, Totals};
use firn_nix::StorePath;
use firn_storage::{Memory, Storage};

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::{Fixture, Pushed, cache, ingest, noise, objects, package, path, push, uploader};

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// Returns a store whose packs are small, so that each upload of 100 kB has one of its own.
fn small_packs() -> Fixture {
    let mut fixture = Fixture::new();
    fixture.options.pack_bytes = 64 << 10;
    fixture
}

fn retain(fixture: &Fixture, row: RetentionRow) {
    assert!(fixture.meta.put_retention(&cache(), &row).unwrap());
}

fn keep(fixture: &Fixture, seconds: u64) {
    retain(fixture, RetentionRow { keep_seconds: Some(seconds), ..RetentionRow::default() });
}

fn pin(fixture: &Fixture, name: &str, of: &str, expires_at: Option<u64>) {
    let row = PinRow { path: path(of), pinned_at: 1, expires_at, by: uploader("operator") };
    assert!(fixture.meta.put_pin(&cache(), &name.parse().unwrap(), &row).unwrap());
}

/// Pushes a path that refers to others.
fn push_with(engine: &Engine, name: &str, nar: &[u8], references: &[&str]) -> Pushed {
    let pushed = push(engine, nar).unwrap();
    let mut upload = pushed.as_path(name);
    upload.references = references.iter().map(|name| path(name)).collect();
    engine.commit_path(&cache(), upload).unwrap();
    pushed
}

fn options() -> GcOptions {
    GcOptions { dry_run: false, grace_seconds: 0, repack: None }
}

fn collect(engine: &Engine) -> GcReport {
    engine.collect(&options(), &|_, _| {}).unwrap().expect("no other collection is under way")
}

fn has(fixture: &Fixture, name: &str) -> bool {
    fixture.meta.path(&cache(), &path(name).hash()).unwrap().is_some()
}

fn stored(storage: &dyn Storage) -> u64 {
    objects(storage).iter().map(|(_, len)| len).sum()
}

/// Checks what is true of every store in which nothing is going on.
fn check(fixture: &Fixture, engine: &Engine, whole: &[(&str, &Pushed)]) {
    for (name, pushed) in whole {
        assert!(has(fixture, name), "{name} is gone");
        pushed.check(engine).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let rows = fixture.meta.paths(&cache(), None, 9999).unwrap();
    for (_, row) in &rows {
        let nar = fixture.meta.nar(&cache(), &row.nar_hash).unwrap().expect("a path's NAR is there");
        assert!(engine.is_restorable(&nar.recipe).unwrap(), "{}", row.path);
    }
    let totals = fixture.meta.totals().unwrap();
    let logical_bytes = rows.iter().map(|(_, row)| row.nar_size).sum();
    assert_eq!((totals.paths, totals.logical_bytes), (rows.len() as u64, logical_bytes), "the totals are exact");
    let packs = fixture.meta.packs(None, 9999).unwrap();
    let sealed: u64 = packs.iter().map(|(_, row)| row.stored_bytes).sum();
    assert_eq!(totals.stored_bytes, sealed);
    for (name, _) in objects(&*fixture.storage) {
        assert!(packs.iter().any(|(id, _)| name.ends_with(&id.to_string())), "nobody knows the object {name}");
    }
}

#[test]
fn what_no_rule_keeps_goes_and_its_bytes_come_back() {
    let fixture = small_packs();
    let engine = fixture.open();
    let old = push_with(&engine, "old", &noise(1, 100_000), &[]);
    let used = push_with(&engine, "used", &noise(2, 100_000), &[]);
    let log = push(&engine, &noise(3, 200_000)).unwrap();
    keep(&fixture, 10 * DAY);
    fixture.clock.advance(9 * DAY);
    engine.note_use(&cache(), path("used").hash());
    fixture.clock.advance(2 * DAY);
    let before = stored(&*fixture.storage);
    let report = collect(&engine);
    assert_eq!((report.caches[0].removed_paths, report.caches[0].kept_paths), (1, 1));
    assert_eq!((report.nars, report.recipes), (2, 2), "the NAR that no path ever named goes too, its lease is over");
    assert!(!has(&fixture, "old"));
    assert!(matches!(old.check(&engine), Err(Error::NotFound { .. })));
    assert!(log.check(&engine).is_err());
    assert!(report.deleted.stored_bytes >= 100_000, "{report:?}");
    // Records of what is gone were written meanwhile.
    let left = before - report.deleted.stored_bytes;
    assert!((left..left + 5000).contains(&stored(&*fixture.storage)), "what was said to be free is");
    check(&fixture, &engine, &[("used", &used)]);
    let again = collect(&engine);
    assert_eq!((again.condemned.packs, again.deleted.packs, again.recipes), (0, 0, 0), "{again:?}");
    engine.close().unwrap();
    check(&fixture, &fixture.open(), &[("used", &used)]);
}

#[test]
fn a_cache_without_rules_keeps_everything() {
    let fixture = small_packs();
    let engine = fixture.open();
    let pushed = push_with(&engine, "a", &noise(1, 100_000), &[]);
    fixture.clock.advance(5000 * DAY);
    let report = collect(&engine);
    assert_eq!((report.caches[0].removed_paths, report.recipes, report.deleted.packs), (0, 0, 0));
    check(&fixture, &engine, &[("a", &pushed)]);
}

#[test]
fn what_is_kept_keeps_what_it_refers_to() {
    let fixture = small_packs();
    let engine = fixture.open();
    let base = push_with(&engine, "base", &noise(1, 100_000), &[]);
    let middle = push_with(&engine, "middle", &noise(2, 100_000), &["base"]);
    let top = push_with(&engine, "top", &noise(3, 100_000), &["middle", "top"]);
    push_with(&engine, "other", &noise(4, 100_000), &["base"]);
    keep(&fixture, DAY);
    fixture.clock.advance(20 * DAY);
    engine.note_use(&cache(), path("top").hash());
    let report = collect(&engine);
    assert_eq!(report.caches[0].removed_paths, 1);
    assert!(!has(&fixture, "other"));
    check(&fixture, &engine, &[("base", &base), ("middle", &middle), ("top", &top)]);
}

#[test]
fn a_nar_that_is_asked_for_is_a_use_of_its_path() {
    let fixture = small_packs();
    let engine = fixture.open();
    let pushed = push_with(&engine, "a", &noise(1, 100_000), &[]);
    push_with(&engine, "b", &noise(2, 100_000), &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(20 * DAY);
    engine.note_nar_use(&cache(), &pushed.nar_hash);
    collect(&engine);
    assert!(!has(&fixture, "b"));
    check(&fixture, &engine, &[("a", &pushed)]);
}

#[test]
fn a_push_that_finds_a_path_present_is_a_use() {
    let fixture = small_packs();
    let engine = fixture.open();
    let asked = push_with(&engine, "asked", &noise(1, 100_000), &[]);
    let again = push_with(&engine, "again", &noise(2, 100_000), &[]);
    push_with(&engine, "b", &noise(3, 100_000), &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(20 * DAY);
    assert_eq!(
        engine.missing_paths(&cache(), None, &[path("asked").hash(), path("none").hash()]).unwrap(),
        [false, true]
    );
    engine.commit_path(&cache(), again.as_path("again")).unwrap();
    collect(&engine);
    assert!(!has(&fixture, "b"));
    check(&fixture, &engine, &[("asked", &asked), ("again", &again)]);
}

#[test]
fn pins_keep_until_they_expire() {
    let fixture = small_packs();
    let engine = fixture.open();
    let base = push_with(&engine, "base", &noise(1, 100_000), &[]);
    let top = push_with(&engine, "top", &noise(2, 100_000), &["base"]);
    push_with(&engine, "brief", &noise(3, 100_000), &[]);
    keep(&fixture, DAY);
    let now = 1_700_000_000;
    pin(&fixture, "release", "top", None);
    pin(&fixture, "trial", "brief", Some(now + 5 * DAY));
    fixture.clock.advance(4 * DAY);
    assert_eq!(collect(&engine).caches[0].removed_paths, 0);
    fixture.clock.advance(2 * DAY);
    assert_eq!(collect(&engine).caches[0].removed_paths, 1);
    assert!(!has(&fixture, "brief"));
    check(&fixture, &engine, &[("base", &base), ("top", &top)]);
    let explained = engine.explain(&cache(), &path("base").hash()).unwrap().unwrap();
    assert_eq!((explained.pins, explained.referrer_count), (vec!["release".to_owned()], 1));
    assert!(explained.fate.stays && explained.fate.why.contains("top"), "{:?}", explained.fate);
    assert_eq!(explained.asked_at, None, "its upload is no question for it");
    assert!(fixture.meta.remove_pin(&cache(), &"release".parse().unwrap()).unwrap());
    assert_eq!(collect(&engine).caches[0].removed_paths, 2);
}

#[test]
fn the_newest_of_each_name_stay() {
    let fixture = small_packs();
    let engine = fixture.open();
    for (seed, name) in (1..).zip(["lib-1.0", "lib-1.1", "lib-1.1-dev", "lib-2.0", "tool-0.1"]) {
        push_with(&engine, name, &noise(seed, 100_000), &[]);
        fixture.clock.advance(HOUR);
    }
    retain(&fixture, RetentionRow { keep_last: Some(2), ..RetentionRow::default() });
    fixture.clock.advance(2 * DAY);
    collect(&engine);
    let kept = ["lib-1.0", "lib-1.1", "lib-1.1-dev", "lib-2.0", "tool-0.1"].map(|name| has(&fixture, name));
    assert_eq!(kept, [false, true, true, true, true]);
}

#[test]
fn a_quota_takes_what_was_used_longest_ago() {
    let fixture = small_packs();
    let engine = fixture.open();
    let names = ["a", "b", "c", "d", "e"];
    for (seed, name) in (1..).zip(names) {
        push_with(&engine, name, &noise(seed, 100_000), if name == "e" { &["a"] } else { &[] });
        fixture.clock.advance(DAY);
    }
    engine.close().unwrap();
    let engine = fixture.open();
    pin(&fixture, "p", "b", None);
    retain(&fixture, RetentionRow { quota_bytes: Some(330_000), ..RetentionRow::default() });
    fixture.clock.advance(DAY);
    let report = collect(&engine);
    // `a` was used with `e`; `b` is pinned; so `c` and `d` go.
    assert_eq!(names.map(|name| has(&fixture, name)), [true, true, false, false, true], "{report:?}");
    let kept = report.caches[0].kept_stored_bytes.unwrap();
    assert!((240_000..=330_000).contains(&kept), "{kept}");
}

#[test]
fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let fixture = small_packs();
    let engine = fixture.open();
    let pushed = push_with(&engine, "a", &noise(1, 100_000), &[]);
    push_with(&engine, "b", &noise(2, 300_000), &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    engine.note_use(&cache(), path("a").hash());
    let before = (objects(&*fixture.storage), fixture.meta.totals().unwrap());
    let dry = engine
        .collect(&GcOptions { dry_run: true, grace_seconds: 0, repack: None }, &|_, _| panic!("nothing goes"))
        .unwrap();
    let dry = dry.unwrap();
    assert_eq!((objects(&*fixture.storage), fixture.meta.totals().unwrap()), before);
    let [removed] = &dry.caches[0].largest_removed[..] else { panic!("{dry:?}") };
    assert_eq!((&removed.path, removed.stays), (&path("b"), false));
    let [kept] = &dry.caches[0].largest_kept[..] else { panic!("{dry:?}") };
    assert!(kept.stays && kept.why.contains("used"), "{kept:?}");
    check(&fixture, &engine, &[("a", &pushed)]);
    let real = collect(&engine);
    assert_eq!((real.recipes, real.nars), (dry.recipes, dry.nars));
    let comes = real.deleted.stored_bytes + real.reclaimable_bytes;
    assert!(dry.reclaimable_bytes.abs_diff(comes) * 10 < comes, "{} said, {comes} comes", dry.reclaimable_bytes);
}

#[test]
fn an_upload_that_found_a_chunk_revives_its_pack() {
    let fixture = small_packs();
    let engine = fixture.open();
    let nar = noise(1, 300_000);
    push_with(&engine, "a", &nar, &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    // It shares every chunk, and is told so.
    let longer = ingest(&engine, &nar).unwrap();
    let pushed = Pushed::of(&longer, &nar);
    let report = collect(&engine);
    assert_eq!(report.caches[0].removed_paths, 1);
    assert_eq!(report.doomed.packs, 0, "the session is older than the condemnation");
    let outcome = engine.commit_nar(&cache(), longer, None);
    // Its recipe is gone, and the upload is told to come again, with all of its bytes still there.
    assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
    let again = push_with(&engine, "a", &nar, &[]);
    assert_eq!(again.recipe, pushed.recipe);
    let report = collect(&engine);
    check(&fixture, &engine, &[("a", &again)]);
    assert!(report.backlog.condemned.packs == 0 || report.doomed.packs > 0);
}

#[test]
fn new_content_on_old_chunks_revives_their_pack() {
    let fixture = small_packs();
    let engine = fixture.open();
    push_with(&engine, "a", &noise(1, 300_000), &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    // The same file in another NAR: another recipe, the same chunks.
    let file = firn_testkit::nar::Node::file(firn_testkit::random::Random::new(1).noise(300_000));
    let nar = firn_testkit::nar::Node::directory([("x", file)]).encode();
    let ingested = ingest(&engine, &nar).unwrap();
    assert!(ingested.stats.new_chunks < ingested.stats.chunks, "it shares chunks");
    let pushed = Pushed::of(&ingested, &nar);
    let report = collect(&engine);
    assert!(report.condemned.packs > 0 && report.doomed.packs == 0, "{report:?}");
    engine.commit_nar(&cache(), ingested, None).unwrap();
    engine.commit_path(&cache(), pushed.as_path("b")).unwrap();
    let report = collect(&engine);
    assert!(report.revived.packs > 0, "its chunks are offered again: {report:?}");
    check(&fixture, &engine, &[("b", &pushed)]);
    assert_eq!(
        fixture.meta.packs(None, 99).unwrap().iter().filter(|(_, row)| row.state == PackState::Doomed).count(),
        0
    );
    let again = ingest(&engine, &nar).unwrap();
    assert_eq!(again.stats.new_chunks, 0);
}

#[test]
fn a_restore_that_has_begun_goes_to_its_end() {
    let fixture = small_packs();
    let engine = fixture.open();
    let nar = noise(1, 1_500_000);
    let pushed = push_with(&engine, "a", &nar, &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    let mut restore = engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap();
    let mut bytes = restore.next(1000).unwrap().unwrap().to_vec();
    let report = collect(&engine);
    assert!(report.doomed.stored_bytes > 1_500_000 && report.deleted.stored_bytes < 10_000, "{report:?}");
    assert!(pushed.check(&engine).is_err(), "a new one does not begin");
    while let Some(piece) = restore.next(100_000).unwrap() {
        bytes.extend_from_slice(&piece);
    }
    assert!(bytes == nar);
    drop(restore);
    assert!(collect(&engine).deleted.packs > 0);
}

#[test]
fn a_doomed_pack_stays_for_the_grace() {
    let fixture = small_packs();
    let engine = fixture.open();
    push_with(&engine, "a", &noise(1, 100_000), &[]);
    push_with(&engine, "b", &noise(2, 100_000), &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    let options = GcOptions { dry_run: false, grace_seconds: HOUR, repack: None };
    let collect = || engine.collect(&options, &|_, _| {}).unwrap().unwrap();
    let first = collect();
    assert!(first.doomed.packs > 0 && first.deleted.packs == 0);
    assert_eq!(engine.backlog().unwrap().doomed, first.doomed);
    fixture.clock.advance(HOUR - 1);
    assert_eq!(collect().deleted.packs, 0);
    fixture.clock.advance(1);
    assert!(collect().deleted.packs >= first.doomed.packs);
}

#[test]
fn what_is_asked_for_during_a_collection_stays_with_what_it_refers_to() {
    let fixture = small_packs();
    let engine = fixture.open();
    // More than one commit removes: the first batch's end is when the question comes.
    let base = push_with(&engine, "base", &noise(1, 1000), &[]);
    let nar = push(&engine, &noise(2, 1000)).unwrap();
    for number in 0..1100 {
        engine.commit_path(&cache(), nar.as_path(&format!("path-{number}"))).unwrap();
    }
    let top = push_with(&engine, "top", &noise(3, 1000), &["base"]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    let asked = std::cell::Cell::new(false);
    let removed = |_: &_, paths: &[firn_nix::StoreHash]| {
        if !asked.replace(true) && !paths.contains(&path("top").hash()) {
            engine.note_use(&cache(), path("top").hash());
        }
    };
    let report = engine.collect(&options(), &removed).unwrap().unwrap();
    if report.caches[0].rescued_paths > 0 {
        check(&fixture, &engine, &[("base", &base), ("top", &top)]);
    } else {
        // It went with the first batch, and what it refers to after it.
        assert!(!has(&fixture, "top"));
    }
    assert!(!has(&fixture, "path-7"));
}

#[test]
fn one_collection_at_a_time() {
    let fixture = small_packs();
    let engine = fixture.open();
    assert!(fixture.meta.take_lease("gc", 7, 0, u64::MAX).unwrap());
    assert_eq!(engine.collect(&options(), &|_, _| {}).unwrap(), None);
    drop(engine);
    // Whoever held it is gone with its process.
    let engine = fixture.open();
    collect(&engine);
    collect(&engine);
}

#[test]
fn a_deleted_cache_gives_its_bytes_back() {
    let fixture = small_packs();
    let engine = fixture.open();
    push_with(&engine, "a", &noise(1, 100_000), &[]);
    assert!(fixture.meta.delete_cache(&cache()).unwrap());
    engine.record_deleted_caches().unwrap();
    assert_eq!(fixture.meta.deleted_caches().unwrap(), []);
    fixture.clock.advance(DAY);
    engine.close().unwrap();
    let engine = fixture.open();
    let report = collect(&engine);
    assert!(report.deleted.stored_bytes > 90_000, "{report:?}");
    assert_eq!(report.recipes, 1);
    check(&fixture, &engine, &[]);
}

#[test]
fn a_path_is_deleted_unless_it_is_needed() {
    let fixture = small_packs();
    let engine = fixture.open();
    push_with(&engine, "base", &noise(1, 100_000), &[]);
    push_with(&engine, "top", &noise(2, 100_000), &["base"]);
    let other = push_with(&engine, "other", &noise(3, 100_000), &[]);
    let delete =
        |name: &str, referrers| engine.delete_path(&cache(), &path(name).hash(), referrers, &|_, _| {}).unwrap();
    assert_eq!(delete("none", false), PathDeletion::Missing);
    assert_eq!(delete("base", false), PathDeletion::Needed(vec![path("top")]));
    pin(&fixture, "p", "top", None);
    assert_eq!(delete("base", true), PathDeletion::Pinned(vec!["p".to_owned()]));
    fixture.meta.remove_pin(&cache(), &"p".parse().unwrap()).unwrap();
    let gone: Vec<StorePath> = vec![path("top"), path("base")];
    assert_eq!(delete("base", true), PathDeletion::Deleted(gone));
    fixture.clock.advance(2 * DAY);
    let report = collect(&engine);
    assert_eq!((report.nars, report.recipes), (0, 2), "their NARs went with them");
    check(&fixture, &engine, &[("other", &other)]);
}

#[test]
fn a_deleted_path_takes_its_nar_along_whatever_its_lease() {
    let fixture = small_packs();
    let engine = fixture.open();
    let delete = |name: &str, referrers| {
        let deletion = engine.delete_path(&cache(), &path(name).hash(), referrers, &|_, _| {}).unwrap();
        assert!(matches!(deletion, PathDeletion::Deleted(_)), "{deletion:?}");
    };
    let has_nar = |pushed: &Pushed| fixture.meta.nar(&cache(), &pushed.nar_hash).unwrap().is_some();
    let nar = noise(1, 100_000);
    let ingested = ingest(&engine, &nar).unwrap();
    let secret = Pushed::of(&ingested, &nar);
    let alias = AliasRow { nar_hash: secret.nar_hash, compression: "xz".to_owned(), file_size: 9 };
    engine.commit_nar(&cache(), ingested, Some(("secret.nar.xz".to_owned(), alias))).unwrap();
    for name in ["secret", "same", "same-again"] {
        engine.commit_path(&cache(), secret.as_path(name)).unwrap();
    }
    let other = push_with(&engine, "other", &noise(2, 100_000), &["same"]);
    let offered = push(&engine, &noise(3, 100_000)).unwrap();
    for name in ["secret", "other"] {
        engine.commit_path(&cache(), offered.as_path(name)).unwrap();
    }

    delete("secret", false);
    assert!(has_nar(&secret), "other paths have it too");
    assert!(!has_nar(&offered), "no path has it");
    check(&fixture, &engine, &[("same", &secret), ("other", &other)]);
    // All that have it go at once.
    delete("same", true);
    delete("same-again", false);
    assert!(!has_nar(&secret) && !has_nar(&other));
    assert_eq!(fixture.meta.alias(&cache(), "secret.nar.xz").unwrap(), None);
    assert_eq!(collect(&engine).recipes, 3, "no lease keeps their bytes");
    check(&fixture, &engine, &[]);

    // It may come again.
    let again = push_with(&engine, "secret", &nar, &[]);
    check(&fixture, &engine, &[("secret", &again)]);
}

/// Fails each of the calls of a collection in turn, then opens the store again and collects to the end.
#[test]
fn a_collection_that_is_cut_short_is_finished_by_the_next() {
    let mut cuts = 0;
    for spare in 0.. {
        for when in [When::Before, When::After] {
            let mut fixture = small_packs();
            let broken = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
            let sound = Arc::clone(&fixture.meta);
            fixture.meta = Arc::clone(&broken) as Arc<dyn Meta>;
            let engine = fixture.open();
            push_with(&engine, "old", &noise(1, 100_000), &[]);
            let used = push_with(&engine, "used", &noise(2, 100_000), &["base"]);
            let base = push_with(&engine, "base", &noise(3, 70_000), &[]);
            keep(&fixture, DAY);
            fixture.clock.advance(3 * DAY);
            engine.note_use(&cache(), path("used").hash());
            engine.flush_uses().unwrap();
            broken.plan(None, spare, when);
            let outcome = engine.collect(&options(), &|_, _| {});
            let fired = broken.fired();
            broken.heal();
            drop(engine);
            if !fired {
                assert!(outcome.is_ok() && cuts > 40, "{cuts} calls are no collection");
                return;
            }
            cuts += 1;
            fixture.meta = sound;
            let engine = fixture.open();
            collect(&engine);
            collect(&engine);
            assert!(!has(&fixture, "old"), "call {spare} {when:?}");
            assert_eq!(engine.backlog().unwrap(), firn_engine::Backlog::default(), "call {spare} {when:?}");
            engine.close().unwrap();
            check(&fixture, &fixture.open(), &[("used", &used), ("base", &base)]);
        }
    }
}

#[test]
fn stored_bytes_are_never_lost_to_a_cut_of_the_power() {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.pack_bytes = 64 << 10;
    let engine = fixture.open();
    push_with(&engine, "old", &noise(1, 100_000), &[]);
    let used = push_with(&engine, "used", &package(2, 100_000), &[]);
    keep(&fixture, DAY);
    fixture.clock.advance(3 * DAY);
    engine.note_use(&cache(), path("used").hash());
    collect(&engine);
    let cut = fixture.over(memory.after_power_loss());
    drop(engine);
    let engine = cut.open();
    used.check(&engine).unwrap();
    assert_eq!(cut.meta.totals().unwrap().paths, Totals { paths: 1, ..Totals::default() }.paths);
}
