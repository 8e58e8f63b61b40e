//! Delta frames: what is like a stored chunk costs what differs, comes back as it was, and needs what it leans on.

use std::sync::Arc;

use firn_chunk::ChunkId;
use firn_chunk::Input;
use firn_engine::{Delta, Engine, GcOptions, Ingested};
use firn_index::Meta;
use firn_pack::{Footer, FrameEntry, FrameKind, FrameLoc, PackId};
use firn_storage::{Memory, Meter, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::{Fixture, Pushed, cache, ingest, noise, objects, push, restore, upload_again};
use crate::invariants::rebuild_indexes;

pub(crate) const FILE_BYTES: usize = 400_000;

/// Returns the contents of a file, with a build id here and there that depends on the build.
pub(crate) fn contents(seed: u64, build: u8) -> Vec<u8> {
    let mut bytes = Random::new(seed).noise(FILE_BYTES);
    for at in (1000..FILE_BYTES).step_by(20_000) {
        bytes[at..at + 20].fill(build);
    }
    bytes
}

/// Returns a NAR with one larger file under a name.
pub(crate) fn build_as(name: &str, seed: u64, build: u8) -> Vec<u8> {
    Node::directory([(name, Node::file(contents(seed, build)))]).encode()
}

pub(crate) fn build(seed: u64, build: u8) -> Vec<u8> {
    build_as("libx.so.1.0", seed, build)
}

/// A store in memory with small packs, so that a rebuild lies in another pack than what it leans on.
pub(crate) fn store(delta: Delta) -> (Memory, Fixture) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.delta = delta;
    fixture.options.pack_bytes = 300_000;
    fixture.options.frame_bytes = 150_000;
    fixture.options.frame_cache_bytes = 0;
    fixture.options.recipe_cache_bytes = 0;
    (memory, fixture)
}

pub(crate) fn stored_bytes(engine: &Engine) -> u64 {
    engine.stats().unwrap().totals.stored_bytes
}

/// Pushes a NAR and returns it with the bytes that it took.
fn push_counted(engine: &Engine, nar: &[u8]) -> (Pushed, u64) {
    let before = stored_bytes(engine);
    let pushed = push(engine, nar).unwrap();
    (pushed, stored_bytes(engine) - before)
}

/// Returns the footers of all packs of a closed store, with the objects' names.
pub(crate) fn footers(storage: &dyn Storage) -> Vec<(String, Footer)> {
    let open = |(name, len): (String, u64)| {
        let footer = Footer::open(|at, len| storage.read(&name, at, len).map_err(std::io::Error::other), len).unwrap();
        (name, footer)
    };
    objects(storage).into_iter().map(open).collect()
}

#[test]
fn a_rebuild_costs_what_differs() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (first, first_bytes) = push_counted(&engine, &build(1, 1));
    let (second, second_bytes) = push_counted(&engine, &build(1, 2));
    // Under another version of its name, and then under another name, found by what it is made of.
    let (third, third_bytes) = push_counted(&engine, &build_as("libx.so.2.11", 1, 3));
    let (fourth, fourth_bytes) = push_counted(&engine, &build_as("moved", 1, 4));
    assert!(first_bytes > FILE_BYTES as u64, "noise does not compress: {first_bytes}");
    for bytes in [second_bytes, third_bytes, fourth_bytes] {
        assert!(bytes < first_bytes / 20, "{bytes} of {first_bytes}");
    }
    for pushed in [&first, &second, &third, &fourth] {
        pushed.check(&engine).unwrap();
        assert_eq!(restore(&engine, pushed, 123_456..234_567).unwrap(), pushed.bytes[123_456..234_567]);
    }
}

#[test]
fn nothing_is_made_when_it_is_off_and_what_is_there_is_read() {
    let (_, mut fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (first, _) = push_counted(&engine, &build(1, 1));
    let (second, _) = push_counted(&engine, &build(1, 2));
    engine.close().unwrap();
    fixture.options.delta = Delta::Off;
    let engine = fixture.open();
    let (third, third_bytes) = push_counted(&engine, &build(1, 3));
    assert!(third_bytes > FILE_BYTES as u64 / 2, "{third_bytes}");
    for pushed in [&first, &second, &third] {
        pushed.check(&engine).unwrap();
    }
}

#[test]
fn other_content_at_the_same_place_is_stored_plain() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    push(&engine, &build(1, 1)).unwrap();
    let other = push(&engine, &build(2, 1)).unwrap();
    other.check(&engine).unwrap();
    engine.close().unwrap();
    let footers = footers(&memory);
    assert!(footers.iter().flat_map(|(_, footer)| &footer.frames).all(|(_, entry)| entry.bases.is_empty()));
}

/// Builds of which each is like the one before: all of them lean on the first.
fn builds(engine: &Engine) -> Vec<Pushed> {
    (1..6).map(|n| push(engine, &build(1, n)).unwrap()).collect()
}

#[test]
fn a_base_lies_in_a_frame_without_bases_and_its_packs_are_edges() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let pushed = builds(&engine);
    engine.close().unwrap();

    let footers = footers(&memory);
    let frames =
        || footers.iter().flat_map(|(_, footer)| footer.frames.iter().map(move |(_, entry)| (footer.id, entry)));
    let pack_of = |id: &[u8; 32]| -> PackId {
        let holds = |(_, entry): &(PackId, &firn_pack::FrameEntry)| entry.items.iter().any(|item| item.id == *id);
        let (pack, entry) = frames().find(holds).expect("a base is stored");
        assert_eq!(entry.bases, <[[u8; 32]; 0]>::default());
        pack
    };
    let deltas: Vec<_> = frames().filter(|(_, entry)| !entry.bases.is_empty()).collect();
    assert!(deltas.len() >= 4, "{} delta frames", deltas.len());
    assert!(deltas.iter().all(|(_, entry)| entry.kind == FrameKind::Chunks && entry.bases.len() <= 64));
    for pushed in &pushed[1..] {
        let edges = fixture.meta.recipe(&pushed.recipe).unwrap().unwrap().edges;
        let of_bases: Vec<_> = deltas.iter().flat_map(|(_, entry)| entry.bases.iter().map(pack_of)).collect();
        assert!(of_bases.iter().any(|pack| edges.contains(pack)));
        assert!(of_bases.iter().all(|pack| edges.contains(pack)), "all of them lean on the first build");
    }
}

#[test]
fn a_chunk_takes_a_bounded_number_of_reads() {
    let memory = Memory::new();
    let meter = Arc::new(Meter::new(Arc::new(memory)));
    let mut fixture = Fixture::on(Arc::clone(&meter) as Arc<dyn Storage>);
    // Many small files of one build each: as many frames as can be.
    fixture.options.frame_bytes = 20_000;
    fixture.options.frame_cache_bytes = 0;
    let engine = fixture.open();
    push(&engine, &build(1, 1)).unwrap();
    fixture.options.frame_bytes = 1 << 20;
    engine.close().unwrap();
    let engine = fixture.open();
    let second = push(&engine, &build(1, 2)).unwrap();

    let before = meter.counts();
    restore(&engine, &second, 200_000..200_001).unwrap();
    let counts = meter.counts().since(&before);
    // The chunk's frame twice (as a whole and when it is read), for each the frames of its bases; the recipe.
    assert!(counts.reads <= 2 * (1 + 8) + 2, "{counts:?}");
}

#[test]
fn damage_in_a_base_is_damage_of_what_leans_on_it_and_an_upload_heals_it() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let pushed = builds(&engine);
    engine.close().unwrap();
    let (name, footer) = footers(&memory).into_iter().next().expect("there are packs");
    let (offset, entry) = footer.frames.first().expect("the pack has frames");
    assert!(entry.bases.is_empty());
    memory.damage(&name, *offset as usize + entry.len as usize / 2, 0x10).unwrap();

    let engine = fixture.open();
    for pushed in &pushed {
        let error = pushed.check(&engine).expect_err("damage must be noticed");
        assert!(error.is_damage(), "{error}");
        assert!(!engine.is_restorable(&pushed.recipe).unwrap());
    }
    for pushed in pushed.iter().rev() {
        upload_again(&engine, &pushed.bytes);
    }
    for pushed in &pushed {
        pushed.check(&engine).unwrap();
    }
}

#[test]
fn a_pack_of_bases_that_is_gone_is_known_before_the_first_byte() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let pushed = builds(&engine);
    engine.close().unwrap();
    let (first, _) =
        footers(&memory).into_iter().find(|(_, footer)| footer.frames[0].1.kind == FrameKind::Chunks).unwrap();
    memory.delete(&first).unwrap();

    let engine = fixture.open();
    for pushed in &pushed {
        let Err(error) = engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX) else {
            panic!("a base is gone");
        };
        assert!(error.is_damage(), "{error}");
    }
    for pushed in &pushed {
        upload_again(&engine, &pushed.bytes);
        pushed.check(&engine).unwrap();
    }
}

#[test]
fn bases_are_found_without_a_chunk_index() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let pushed = builds(&engine);
    engine.close().unwrap();
    // A footer that can't be read: its chunks are not offered, but recipes know where they are.
    for (name, len) in objects(&memory) {
        memory.damage(&name, len as usize - 1, 1).unwrap();
    }
    let engine = fixture.without_chunk_index().open();
    assert_eq!(engine.stats().unwrap().chunks, 0);
    for pushed in &pushed {
        pushed.check(&engine).unwrap();
    }
}

#[test]
fn a_torn_pack_of_delta_frames_is_recovered() {
    for pack_bytes in [300_000, 32 << 20] {
        let (memory, mut fixture) = store(Delta::Inline);
        fixture.options.pack_bytes = pack_bytes;
        let engine = fixture.open();
        let pushed = builds(&engine);
        drop(ingest(&engine, &build(3, 1)).unwrap());
        let left = memory.after_power_loss();
        let fixture = fixture.over(left.clone()).without_chunk_index();
        let engine = fixture.open();
        for pushed in &pushed {
            pushed.check(&engine).unwrap();
        }
        let (_, more) = push_counted(&engine, &build(1, 9));
        assert!(more > 0);
        engine.close().unwrap();
        let deltas = footers(&left)
            .iter()
            .flat_map(|(_, footer)| footer.frames.clone())
            .filter(|(_, e)| !e.bases.is_empty())
            .count();
        assert!(deltas >= 4, "recovery keeps them: {deltas}");
    }
}

/// Pushes a build that is another one's base, what keeps the pack of a rebuild's frames, and the rebuild; no path has either
/// build. Lets two days pass and returns what is kept, and the rebuild.
fn leave_a_rebuild(fixture: &Fixture, engine: &Engine) -> (Pushed, Vec<u8>) {
    push(engine, &build(1, 1)).unwrap();
    let kept = push(engine, &noise(2, 30_000)).unwrap();
    engine.commit_path(&cache(), kept.as_path("kept")).unwrap();
    let rebuilt = build(1, 2);
    push(engine, &rebuilt).unwrap();
    fixture.clock.advance(48 * 3600);
    (kept, rebuilt)
}

/// Options by which what nothing needs goes at once.
fn at_once() -> GcOptions {
    GcOptions { grace_seconds: 0, repack: None, ..GcOptions::default() }
}

#[test]
fn a_delta_frame_that_nothing_needs_is_not_offered_once_its_bases_can_go() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (kept, rebuilt) = leave_a_rebuild(&fixture, &engine);
    let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
    assert_eq!(report.recipes, 2);
    assert!(report.deleted.packs > 0, "the pack of the bases is gone: {report:?}");
    assert!(has_delta_frames(&*fixture.storage), "the pack of the rebuild's frames is not");
    push(&engine, &rebuilt).unwrap().check(&engine).unwrap();
    kept.check(&engine).unwrap();
}

#[test]
fn what_leans_on_what_is_gone_does_not_come_back_with_a_new_index() {
    for is_rebuilt in [false, true] {
        let (_, mut fixture) = store(Delta::Inline);
        let engine = fixture.open();
        let (kept, rebuilt) = leave_a_rebuild(&fixture, &engine);
        let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
        assert!(report.deleted.packs > 0, "the pack of the bases is gone: {report:?}");
        if is_rebuilt {
            engine.close().unwrap();
            rebuild_indexes(&mut fixture, true).unwrap();
        } else {
            // As after a crash, and then made anew from what packs hold.
            fixture = fixture.without_chunk_index();
        }
        let engine = fixture.open();
        push(&engine, &rebuilt).unwrap().check(&engine).unwrap();
        kept.check(&engine).unwrap();
    }
}

#[test]
fn what_a_crash_has_the_index_offer_again_goes_with_its_bases() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (kept, rebuilt) = leave_a_rebuild(&fixture, &engine);
    engine.begin_session().unwrap();
    let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
    assert!(report.condemned.packs > 0 && report.doomed.packs == 0, "a session may have been told of it: {report:?}");
    engine.close().unwrap();
    // What the chunk index forgot since it was last written is not forgotten.
    for (_, footer) in footers(&memory) {
        let loc = |(offset, entry): &(u64, FrameEntry)| FrameLoc { pack: footer.id, offset: *offset, len: entry.len };
        let chunks = footer.frames.iter().filter(|(_, entry)| entry.kind == FrameKind::Chunks);
        let chunks = chunks.flat_map(|frame| frame.1.locations(loc(frame)).map(|(id, loc)| (ChunkId(id), loc)));
        fixture.chunks.apply(&chunks.collect::<Vec<_>>()).unwrap();
    }
    fixture.clock.advance(48 * 3600);
    let engine = fixture.open();
    let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
    assert!(report.deleted.packs > 0, "the pack of the bases is gone: {report:?}");
    push(&engine, &rebuilt).unwrap().check(&engine).unwrap();
    kept.check(&engine).unwrap();
}

/// Uploads a NAR, in the midst of which bases that its first chunks need are condemned.
fn upload_over_a_condemnation(engine: &Engine, nar: &[u8]) -> Ingested {
    let (most, rest) = nar.split_at(nar.len() - 1000);
    let mut upload = engine.ingest(Input::Nar).unwrap();
    upload.write(most).unwrap();
    let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
    assert!(report.condemned.packs > 0 && report.doomed.packs == 0, "the upload is under way: {report:?}");
    upload.write(rest).unwrap();
    upload.finish().unwrap()
}

/// Stores a build that nothing needs, and uploads a rebuild of it: bases for its first chunks are chosen, then they are
/// condemned, then what leans on them is written. Returns the rebuild.
fn rebuild_over_a_condemnation(fixture: &Fixture, engine: &Engine) -> (Ingested, Vec<u8>) {
    push(engine, &build(1, 1)).unwrap();
    fixture.clock.advance(48 * 3600);
    let rebuilt = build(1, 2);
    (upload_over_a_condemnation(engine, &rebuilt), rebuilt)
}

/// Commits what was uploaded over a condemnation, as a path, and sees to it that this brings packs back.
fn commit_and_revive(engine: &Engine, ingested: Ingested, nar: &[u8]) -> Pushed {
    let pushed = Pushed::of(&ingested, nar);
    engine.commit_nar(&cache(), ingested, None).unwrap();
    engine.commit_path(&cache(), pushed.as_path("rebuilt")).unwrap();
    let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
    assert!(report.revived.packs > 0, "{report:?}");
    pushed
}

fn has_delta_frames(storage: &dyn Storage) -> bool {
    footers(storage).iter().any(|(_, footer)| footer.frames.iter().any(|(_, entry)| !entry.bases.is_empty()))
}

#[test]
fn an_upload_brings_back_the_bases_that_were_condemned_meanwhile() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (ingested, rebuilt) = rebuild_over_a_condemnation(&fixture, &engine);
    let pushed = commit_and_revive(&engine, ingested, &rebuilt);
    pushed.check(&engine).unwrap();
    engine.close().unwrap();
    assert!(has_delta_frames(&memory));
    pushed.check(&fixture.open()).unwrap();
}

#[test]
fn an_upload_that_was_told_of_a_frame_before_its_bases_were_condemned_brings_them_back() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (kept, rebuilt) = leave_a_rebuild(&fixture, &engine);
    let ingested = upload_over_a_condemnation(&engine, &rebuilt);
    let pushed = commit_and_revive(&engine, ingested, &rebuilt);
    engine.close().unwrap();
    let engine = fixture.open();
    pushed.check(&engine).unwrap();
    kept.check(&engine).unwrap();
}

#[test]
fn what_an_upload_that_ended_wrote_on_condemned_bases_goes_with_them() {
    for is_reopened in [false, true] {
        let (memory, fixture) = store(Delta::Inline);
        let mut engine = fixture.open();
        let (ingested, rebuilt) = rebuild_over_a_condemnation(&fixture, &engine);
        drop(ingested);
        let kept = push(&engine, &noise(2, 30_000)).unwrap();
        engine.commit_path(&cache(), kept.as_path("kept")).unwrap();
        if is_reopened {
            engine.close().unwrap();
            engine = fixture.open();
        }
        let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
        assert!(report.deleted.packs > 0, "the pack of the bases is gone: {report:?}");
        push(&engine, &rebuilt).unwrap().check(&engine).unwrap();
        kept.check(&engine).unwrap();
        engine.close().unwrap();
        assert!(has_delta_frames(&memory), "what the upload wrote is still there");
    }
}

#[test]
fn what_leans_on_doomed_bases_is_looked_for_again_after_a_failure() {
    let (_, mut fixture) = store(Delta::Inline);
    let meta = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
    fixture.meta = Arc::clone(&meta) as Arc<dyn Meta>;
    let engine = fixture.open();
    let (ingested, rebuilt) = rebuild_over_a_condemnation(&fixture, &engine);
    drop(ingested);
    let kept = push(&engine, &noise(2, 30_000)).unwrap();
    engine.commit_path(&cache(), kept.as_path("kept")).unwrap();
    // The packs are doomed by then, and what was sealed since is not listed.
    meta.plan(Some("sealed_packs"), 0, When::Before);
    engine.collect(&at_once(), &|_, _| {}).unwrap_err();
    assert!(meta.fired());
    let report = engine.collect(&at_once(), &|_, _| {}).unwrap().unwrap();
    assert!(report.doomed.packs == 0 && report.deleted.packs > 0, "they were doomed before: {report:?}");
    push(&engine, &rebuilt).unwrap().check(&engine).unwrap();
    kept.check(&engine).unwrap();
}

#[test]
fn a_frame_in_memory_forgets_the_packs_that_held_its_bases_when_they_go() {
    let (_, mut fixture) = store(Delta::Inline);
    fixture.options.frame_cache_bytes = 16 << 20;
    let engine = fixture.open();
    // Shares a pack with the bases, and goes.
    push(&engine, &noise(2, 140_000)).unwrap();
    for (name, nar) in [("first", build(1, 1)), ("second", build(1, 2))] {
        let pushed = push(&engine, &nar).unwrap();
        engine.commit_path(&cache(), pushed.as_path(name)).unwrap();
        pushed.check(&engine).unwrap();
    }
    fixture.clock.advance(48 * 3600);
    let options = GcOptions { grace_seconds: 0, ..GcOptions::default() };
    let report = engine.collect(&options, &|_, _| {}).unwrap().unwrap();
    assert!(report.repacked.emptied_packs > 0 && report.deleted.packs > 0, "the bases have moved: {report:?}");
    let extra = Node::file(noise(3, 50_000));
    let third = Node::directory([("extra", extra), ("libx.so.1.0", Node::file(contents(1, 2)))]).encode();
    push(&engine, &third).unwrap().check(&engine).unwrap();
}
