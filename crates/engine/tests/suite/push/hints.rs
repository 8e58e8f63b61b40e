//! Frames that come with hints: what is like stored chunks is stored as what differs, and a wrong hint does no harm.

use std::sync::Arc;

use firn_chunk::{Hint, Origin};
use firn_engine::{Delta, Engine, Error, FramesTaken, GcOptions, PushedFrames, Result, Scope};
use firn_storage::{Memory, Meter, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::delta::{FILE_BYTES, build, build_as, contents, footers, store, stored_bytes};
use crate::fixture::client::{Body, Local, error_of, frame};
use crate::fixture::{Fixture, cache, cache_row, push};

/// Pushes a NAR as a path and returns it with the bytes that it took.
fn push_counted(engine: &Engine, name: &str, nar: &[u8]) -> (Local, u64) {
    let (local, before) = (Local::of(nar), stored_bytes(engine));
    local.push(engine, local.pushed().as_path(name)).unwrap();
    (local, stored_bytes(engine) - before)
}

fn take(engine: &Engine, frames: &[u8], hints: &[Hint]) -> Result<FramesTaken> {
    engine.take_frames(engine.begin_session()?, &Scope::Store, &cache(), PushedFrames { frames, hints })
}

/// Returns the one request that a NAR takes.
fn body_of(local: &Local) -> Body {
    let mut bodies = local.bodies(|_| true);
    assert_eq!(bodies.len(), 1);
    bodies.remove(0)
}

#[test]
fn a_pushed_rebuild_costs_what_differs() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (first, first_bytes) = push_counted(&engine, "first", &build(1, 1));
    let (second, second_bytes) = push_counted(&engine, "second", &build(1, 2));
    // Under another version of its name, and then under another name, found by what it is made of.
    let (third, third_bytes) = push_counted(&engine, "third", &build_as("libx.so.2.11", 1, 3));
    let (fourth, fourth_bytes) = push_counted(&engine, "fourth", &build_as("moved", 1, 4));
    // And by stock Nix.
    let before = stored_bytes(&engine);
    let fifth = push(&engine, &build(1, 5)).unwrap();
    let fifth_bytes = stored_bytes(&engine) - before;
    assert!(first_bytes > FILE_BYTES as u64, "noise does not compress: {first_bytes}");
    for bytes in [second_bytes, third_bytes, fourth_bytes, fifth_bytes] {
        assert!(bytes < first_bytes / 20, "{bytes} of {first_bytes}");
    }
    for local in [&first, &second, &third, &fourth] {
        local.pushed().check(&engine).unwrap();
    }
    fifth.check(&engine).unwrap();
}

#[test]
fn what_came_by_stock_nix_is_a_base_of_what_is_pushed() {
    let (memory, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    push(&engine, &build(1, 1)).unwrap();
    let (second, bytes) = push_counted(&engine, "second", &build(1, 2));
    assert!(bytes < FILE_BYTES as u64 / 20, "{bytes}");
    second.pushed().check(&engine).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    second.pushed().check(&engine).unwrap();
    engine.close().unwrap();
    let deltas: Vec<_> = footers(&memory)
        .into_iter()
        .flat_map(|(_, footer)| footer.frames)
        .filter(|(_, entry)| !entry.bases.is_empty())
        .collect();
    assert!(!deltas.is_empty());
}

#[test]
fn without_hints_or_with_delta_frames_off_nothing_has_bases() {
    for (delta, is_hinted) in [(Delta::Inline, false), (Delta::Background, true), (Delta::Off, true)] {
        let (memory, fixture) = store(delta);
        let engine = fixture.open();
        for build_id in [1, 2] {
            let mut local = Local::of(&build(1, build_id));
            if !is_hinted {
                local.hints.fill(Hint::default());
            }
            local.push(&engine, local.pushed().as_path(&format!("build-{build_id}"))).unwrap();
            local.pushed().check(&engine).unwrap();
        }
        engine.close().unwrap();
        let footers = footers(&memory);
        let has_bases = footers.iter().flat_map(|(_, footer)| &footer.frames).any(|(_, entry)| !entry.bases.is_empty());
        assert!(!has_bases, "{delta:?}");
    }
}

#[test]
fn a_wrong_hint_costs_bytes_at_most() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (_, _) = push_counted(&engine, "first", &build(1, 1));
    // Everything is said to be like the beginning of what is there.
    let hint = Local::of(&build(1, 1)).hints[1];
    let origin = hint.origin.expect("it is the file's first chunk");
    assert_eq!(origin.offset, 0);
    let beyond = Hint { origin: Some(Origin { offset: u64::MAX - 1, ..origin }), ..hint };
    for (seed, wrong) in [(2, hint), (3, beyond)] {
        let mut other = Local::of(&build_as("other", seed, 1));
        other.hints.fill(wrong);
        other.push(&engine, other.pushed().as_path(&format!("other-{seed}"))).unwrap();
        other.pushed().check(&engine).unwrap();
    }
}

#[test]
fn hints_cost_a_bounded_number_of_reads() {
    let meter = Arc::new(Meter::new(Arc::new(Memory::new())));
    let mut fixture = Fixture::on(Arc::clone(&meter) as Arc<dyn Storage>);
    fixture.options.frame_bytes = 20_000;
    fixture.options.frame_cache_bytes = 0;
    let engine = fixture.open();
    push(&engine, &build(1, 1)).unwrap();
    let hint = Local::of(&build(1, 1)).hints[1];
    // Each of a thousand short chunks is said to be like all that is there.
    let chunks: Vec<Vec<u8>> = (0..1000u32).map(|n| Random::new(n.into()).noise(500)).collect();
    let frames = frame(&chunks.iter().map(|chunk| &chunk[..]).collect::<Vec<_>>());
    let before = meter.counts();
    take(&engine, &frames, &vec![hint; chunks.len()]).unwrap();
    let counts = meter.counts().since(&before);
    assert!((500..4 * 1000).contains(&counts.reads), "{counts:?}");
}

#[test]
fn hints_are_as_many_as_chunks() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let local = Local::of(&build(1, 1));
    let Body { frames, hints } = body_of(&local);
    let more = [&hints[..], &hints[..1]].concat();
    let error = error_of(take(&engine, &frames, &more));
    assert!(matches!(error, Error::BadFrame { offset, .. } if offset == frames.len() as u64), "{error:?}");
    let error = error_of(take(&engine, &frames, &hints[1..]));
    assert!(matches!(error, Error::BadFrame { offset: 0, .. }), "{error:?}");
    // The frames before it stay, here all.
    assert!(engine.missing_chunks(&Scope::Store, &local.ids()).unwrap().iter().all(|is_missing| !is_missing));
    take(&engine, &frames, &hints).unwrap();
}

#[test]
fn a_frame_of_which_little_is_like_something_stays_as_it_was_made() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    push_counted(&engine, "first", &build(1, 1));
    let noise = Random::new(7).noise(3 * FILE_BYTES / 2);
    let mixed = |kept: usize| {
        let little = contents(1, 9)[..kept].to_vec();
        let files = [("libx.so.1.0", Node::file(little)), ("new", Node::file(noise.clone()))];
        Local::of(&Node::directory(files).encode())
    };
    let local = mixed(60_000);
    let Body { frames, hints } = body_of(&local);
    assert_eq!(take(&engine, &frames, &hints).unwrap().stored_bytes, frames.len() as u64);
    let half = mixed(FILE_BYTES);
    let Body { frames, hints } = body_of(&half);
    let taken = take(&engine, &frames, &hints).unwrap();
    assert!(taken.stored_bytes < frames.len() as u64 / 2, "{} of {}", taken.stored_bytes, frames.len());
    for local in [&local, &half] {
        local.push(&engine, local.pushed().as_path(&format!("p{}", local.nar.len()))).unwrap();
        local.pushed().check(&engine).unwrap();
    }
}

#[test]
fn what_a_pusher_is_told_says_nothing_of_caches_that_it_may_not_read() {
    let (_, fixture) = store(Delta::Inline);
    let secret = "secret".parse().unwrap();
    fixture.meta.put_cache(&secret, &cache_row()).unwrap();
    let engine = fixture.open();
    let session = engine.begin_session().unwrap();
    let first = Local::of(&build(1, 1));
    let assembled = first.assemble(&engine, session, &Scope::Store, &secret).unwrap();
    engine.commit_pushed(&secret, vec![(first.pushed().as_path("tool"), Some(assembled))]).remove(0).unwrap();
    let scope = Scope::Caches(vec![cache()]);
    for like in [Local::of(&build(1, 2)), first] {
        let Body { frames, hints } = body_of(&like);
        let pushed = PushedFrames { frames: &frames, hints: &hints };
        let taken = engine.take_frames(session, &scope, &cache(), pushed).unwrap();
        assert_eq!((taken.new_chunks, taken.stored_bytes), (like.chunks.len() as u64, frames.len() as u64));
    }
}

#[test]
fn bases_that_go_before_the_commit_cost_another_sending() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let (first, _) = push_counted(&engine, "first", &build(1, 1));
    let second = Local::of(&build(1, 2));
    let Body { frames, hints } = body_of(&second);
    let taken = take(&engine, &frames, &hints).unwrap();
    assert!(taken.stored_bytes < FILE_BYTES as u64 / 20, "it leans on the first: {taken:?}");
    let gone = first.pushed().as_path("first").path.hash();
    engine.delete_path(&cache(), &gone, false, &|_, _| {}).unwrap();
    fixture.clock.advance(48 * 3600);
    let options = GcOptions { grace_seconds: 0, repack: None, ..GcOptions::default() };
    let report = engine.collect(&options, &|_, _| {}).unwrap().unwrap();
    assert!(report.deleted.packs > 0, "{report:?}");
    second.push(&engine, second.pushed().as_path("second")).unwrap();
    second.pushed().check(&engine).unwrap();
}
