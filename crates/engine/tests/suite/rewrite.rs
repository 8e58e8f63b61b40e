//! Rewriting: whatever happens meanwhile, every path can be restored, and what was rewritten needs the old packs no more.

use std::sync::Arc;

use firn_engine::{Delta, Engine, RepackOptions, Rewritten, SqueezeOptions};
use firn_index::{Commit, Op, PackState, RecipeRow};
use firn_pack::{Codec, Footer};
use firn_storage::{Failure, Fault, Memory, Meter, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

use crate::fixture::client::Local;
use crate::fixture::{Fixture, Pushed, noise, push, push_path, restore};

const FILE_BYTES: usize = 200_000;

/// Returns the NAR of a build of a program: other builds differ in a few bytes here and there.
fn build(program: u64, build: u8) -> Vec<u8> {
    let mut bytes = Random::new(program).noise(FILE_BYTES);
    for at in (1000..FILE_BYTES).step_by(30_000) {
        bytes[at..at + 20].fill(build);
    }
    let text = format!("program {program}, ").repeat(3000).into_bytes();
    Node::directory([("README", Node::file(text)), ("program", Node::file(bytes))]).encode()
}

/// Small packs and frames, so that little content fills several; nothing in memory that hides the storage.
fn store(delta: Delta) -> (Memory, Fixture) {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.delta = delta;
    fixture.options.pack_bytes = 150_000;
    fixture.options.frame_bytes = 80_000;
    fixture.options.frame_cache_bytes = 0;
    fixture.options.recipe_cache_bytes = 0;
    (memory, fixture)
}

fn squeeze_options() -> SqueezeOptions {
    SqueezeOptions { level: 5, frame_bytes: 120_000, min_age_seconds: 0, ..SqueezeOptions::default() }
}

fn squeeze(engine: &Engine) -> Rewritten {
    engine.squeeze(&squeeze_options(), &mut |_| true).unwrap().expect("nobody else rewrites")
}

fn repack(engine: &Engine) -> Rewritten {
    let options = RepackOptions { max_live_percent: 80, ..RepackOptions::default() };
    engine.repack(&options, &mut |_| true).unwrap().expect("nobody else rewrites")
}

/// Pushes as firn's own client does: stored as the client compressed it, without bases.
fn push_compressed(engine: &Engine, name: &str, nar: &[u8]) -> Pushed {
    let local = Local::of(nar);
    let pushed = local.pushed();
    local.push(engine, pushed.as_path(name)).unwrap();
    pushed
}

/// Does what the deletion of a recipe does to packs: they are needed by it no longer.
fn forget(fixture: &Fixture, pushed: &Pushed) {
    let row = fixture.meta.recipe(&pushed.recipe).unwrap().unwrap();
    let row = RecipeRow { edges: Vec::new(), damaged_at: Some(1), ..row };
    let commit = Commit { session: None, packs: Vec::new(), ops: vec![Op::Recipe(pushed.recipe, row)] };
    assert_eq!(fixture.meta.commit(1, &[commit]).unwrap(), [Ok(())]);
}

/// Deletes the sealed packs that no recipe needs, as garbage collection does, and returns the bytes of the others.
fn collect(fixture: &Fixture) -> u64 {
    let mut left = 0;
    for (pack, row) in fixture.meta.packs(None, 10_000).unwrap() {
        let needed = !fixture.meta.recipes_of_pack(pack, None, 1).unwrap().is_empty();
        if row.state == PackState::Live && !needed {
            let hex = pack.to_string();
            match fixture.storage.delete(&format!("packs/{}/{hex}", &hex[..2])) {
                Err(firn_storage::Error::NotFound { .. }) | Ok(()) => {}
                Err(error) => panic!("{error}"),
            }
        }
        left += if needed { row.stored_bytes } else { 0 };
    }
    left
}

fn check_all(engine: &Engine, all: &[Pushed], what: &dyn Fn() -> String) {
    for (n, pushed) in all.iter().enumerate() {
        pushed.check(engine).unwrap_or_else(|error| panic!("number {n}: {error:?}: {}", what()));
    }
}

/// Bytes of packs that something needs, once the store is closed.
fn needed_bytes(fixture: &Fixture) -> u64 {
    let packs = fixture.meta.packs(None, 10_000).unwrap().into_iter();
    let needed = packs.filter(|(pack, _)| !fixture.meta.recipes_of_pack(*pack, None, 1).unwrap().is_empty());
    needed.map(|(_, row)| row.stored_bytes).sum()
}

#[test]
fn what_was_pushed_plain_becomes_as_small_as_what_was_compared_at_once() {
    let nars: Vec<_> = (1..6).map(|n| build(1, n)).chain((1..4).map(|n| build(2, n))).collect();
    let (_, inline) = store(Delta::Inline);
    let engine = inline.open();
    for nar in &nars {
        push(&engine, nar).unwrap();
    }
    engine.close().unwrap();

    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let all: Vec<_> =
        nars.iter().enumerate().map(|(n, nar)| push_compressed(&engine, &format!("p-{n}"), nar)).collect();
    let done = squeeze(&engine);
    check_all(&engine, &all, &|| "after the squeeze".to_owned());
    assert_eq!((done.done_packs, done.emptied_packs), (done.packs, done.packs));
    assert!(!done.is_stopped && done.recipes == all.len() as u64, "{done:?}");
    engine.close().unwrap();

    let squeezed = collect(&fixture);
    let bound = needed_bytes(&inline) * 105 / 100;
    assert!(squeezed <= bound, "{squeezed}, and at once {bound}");
    for fixture in [fixture.clone(), fixture.without_chunk_index()] {
        check_all(&fixture.open(), &all, &|| "without the old packs".to_owned());
    }
}

#[test]
fn background_delta_is_plain_until_it_is_squeezed() {
    let (_, fixture) = store(Delta::Background);
    let engine = fixture.open();
    let all: Vec<_> = (1..4).map(|n| push(&engine, &build(1, n)).unwrap()).collect();
    let before = engine.stats().unwrap().totals.stored_bytes;
    assert!(before > 2 * FILE_BYTES as u64, "{before}");
    squeeze(&engine);
    engine.close().unwrap();
    let after = collect(&fixture);
    assert!(after < FILE_BYTES as u64 * 3 / 2, "{after} of {before}");
    check_all(&fixture.open(), &all, &|| "squeezed".to_owned());
}

#[test]
fn squeezing_again_does_nothing_and_a_higher_level_does() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let all: Vec<_> = (1..4).map(|n| push(&engine, &build(1, n)).unwrap()).collect();
    assert!(squeeze(&engine).packs > 0);
    assert_eq!(squeeze(&engine), Rewritten::default());
    let higher = SqueezeOptions { level: 9, ..squeeze_options() };
    let done = engine.squeeze(&higher, &mut |_| true).unwrap().unwrap();
    assert!(done.packs > 0 && done.emptied_packs == done.packs, "{done:?}");
    let young = SqueezeOptions { level: 19, min_age_seconds: 60, ..squeeze_options() };
    assert_eq!(engine.squeeze(&young, &mut |_| true).unwrap(), Some(Rewritten::default()), "they are not old enough");
    check_all(&engine, &all, &|| "squeezed twice".to_owned());
}

/// Returns the NAR of a program that is machine code for other places each time: this one, without as many bytes of its front.
fn program(without: usize) -> Vec<u8> {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let middle = program.len() / 3 + without;
    Node::directory([("program", Node::file(program[middle..middle + 600_000].to_vec()))]).encode()
}

#[test]
fn programs_are_filtered_when_squeezed_and_may_be_bases() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let mut all = vec![push_compressed(&engine, "one", &program(0)), push_compressed(&engine, "other", &build(1, 0))];
    squeeze(&engine);
    engine.close().unwrap();
    collect(&fixture);
    let codecs = |fixture: &Fixture| -> Vec<Codec> {
        let packs =
            fixture.meta.packs(None, 10_000).unwrap().into_iter().filter(|(_, row)| row.state == PackState::Live);
        let footers = packs.flat_map(|(pack, row)| {
            let hex = pack.to_string();
            let name = format!("packs/{}/{hex}", &hex[..2]);
            let read = |at, len| fixture.storage.read(&name, at, len).map_err(std::io::Error::other);
            Footer::open(read, row.stored_bytes).map(|footer| footer.frames).unwrap_or_default()
        });
        footers.map(|(_, entry)| entry.codec).collect()
    };
    assert!(codecs(&fixture).contains(&Codec::Filtered), "{:?}", codecs(&fixture));
    for fixture in [fixture.clone(), fixture.without_chunk_index()] {
        check_all(&fixture.open(), &all, &|| "squeezed".to_owned());
    }

    // A program that is a little longer leans on what was filtered.
    let engine = fixture.open();
    all.push(push(&engine, &program(5)).unwrap());
    engine.close().unwrap();
    assert!(codecs(&fixture).contains(&Codec::Delta));
    let engine = fixture.open();
    check_all(&engine, &all, &|| "with another build".to_owned());
    squeeze(&engine);
    check_all(&engine, &all, &|| "squeezed once more".to_owned());
}

#[test]
fn what_came_together_stays_together() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let all: Vec<Pushed> = (0..12).map(|n| push_path(&engine, &format!("p{n}"), &build(n, 0)).unwrap()).collect();
    let places = || -> Vec<_> {
        let place = |pushed: &Pushed| {
            let record = fixture.meta.recipe(&pushed.recipe).unwrap().unwrap().record;
            (fixture.meta.pack(record.pack).unwrap().unwrap().seq, record.offset)
        };
        all.iter().map(place).collect()
    };
    let before = places();
    assert_eq!(squeeze(&engine).recipes, 12);
    let after = places();
    assert!(
        after.is_sorted() && after[0] > before[11],
        "records are rewritten in the order in which they came: {after:?}"
    );
    check_all(&engine, &all, &|| "squeezed".to_owned());
}

#[test]
fn one_rewrite_at_a_time() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    push(&engine, &build(1, 1)).unwrap();
    let mut asked = 0;
    let inner = engine.clone();
    engine
        .squeeze(&squeeze_options(), &mut |_| {
            asked += 1;
            assert_eq!(inner.squeeze(&squeeze_options(), &mut |_| true).unwrap(), None);
            assert_eq!(inner.repack(&RepackOptions::default(), &mut |_| true).unwrap(), None);
            true
        })
        .unwrap();
    assert!(asked > 0);
}

#[test]
fn sparse_packs_are_emptied_and_what_is_needed_of_them_stays() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let mut all: Vec<_> = (0..12).map(|n| push(&engine, &noise(n, 30_000)).unwrap()).collect();
    all.extend((1..5).map(|n| push(&engine, &build(1, n)).unwrap()));
    engine.close().unwrap();
    let gone: Vec<_> = (0..12).filter(|n| n % 4 != 0).collect();
    for n in gone.iter().rev() {
        forget(&fixture, &all.remove(*n as usize));
    }
    // The first build is gone: the others have it as a base.
    forget(&fixture, &all.remove(3));

    let engine = fixture.open();
    let before = needed_bytes(&fixture);
    let done = repack(&engine);
    assert!(done.packs > 1 && done.emptied_packs == done.packs, "{done:?}");
    check_all(&engine, &all, &|| "after repacking".to_owned());
    assert_eq!(repack(&engine).packs, 0, "nothing is sparse any more");
    engine.close().unwrap();
    let after = collect(&fixture);
    assert!(after < before * 3 / 4, "{after} of {before}");
    check_all(&fixture.without_chunk_index().open(), &all, &|| "without the old packs".to_owned());
}

#[test]
fn a_base_goes_with_the_last_that_needs_it() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let first = push(&engine, &build(1, 1)).unwrap();
    let second = push(&engine, &build(1, 2)).unwrap();
    let other = push(&engine, &build(2, 1)).unwrap();
    engine.close().unwrap();
    forget(&fixture, &first);
    let kept = collect(&fixture);
    assert!(kept > 2 * FILE_BYTES as u64, "the second build needs what it was compressed with: {kept}");
    second.check(&fixture.open()).unwrap();

    forget(&fixture, &second);
    let engine = fixture.open();
    repack(&engine);
    engine.close().unwrap();
    let left = collect(&fixture);
    assert!(left < FILE_BYTES as u64 * 5 / 4, "{left}");
    other.check(&fixture.open()).unwrap();
}

#[test]
fn uploads_and_downloads_go_on_meanwhile() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let mut all: Vec<_> = (1..4).map(|n| push_compressed(&engine, &format!("p-{n}"), &build(1, n))).collect();
    let mut under_way: Vec<_> = all
        .iter()
        .map(|pushed| (engine.restore(&pushed.recipe, &pushed.slots, 0..u64::MAX).unwrap(), 0, pushed.clone()))
        .collect();
    let (inner, mut n, mut more) = (engine.clone(), 10, Vec::new());
    let mut step = |_: &Rewritten| {
        // What is like the content that is just being rewritten, and the same once more.
        n += 1;
        more.push(push(&inner, &build(1, n)).unwrap());
        more.push(push(&inner, &build(1, n % 3 + 1)).unwrap());
        for (restore, at, pushed) in &mut under_way {
            if let Some(piece) = restore.next(10_000).unwrap() {
                assert!(pushed.bytes[*at..].starts_with(&piece));
                *at += piece.len();
            }
        }
        check_all(&inner, &more, &|| format!("step {n}"));
        true
    };
    engine.squeeze(&squeeze_options(), &mut step).unwrap().unwrap();
    assert!(n > 14, "{n}");
    for (mut restore, mut at, pushed) in under_way {
        while let Some(piece) = restore.next(50_000).unwrap() {
            assert!(pushed.bytes[at..].starts_with(&piece));
            at += piece.len();
        }
        assert_eq!(at, pushed.bytes.len(), "a download that was under way goes to its end");
    }
    all.append(&mut more);
    check_all(&engine, &all, &|| "afterwards".to_owned());
    squeeze(&engine);
    engine.close().unwrap();
    collect(&fixture);
    for fixture in [fixture.clone(), fixture.without_chunk_index()] {
        check_all(&fixture.open(), &all, &|| "opened again".to_owned());
    }
}

#[test]
fn stopped_anywhere_it_goes_on_where_it_stopped() {
    let nars: Vec<_> = (1..4).map(|n| build(1, n)).collect();
    let mut stops = 0;
    for after in 0.. {
        let (_, fixture) = store(Delta::Inline);
        let engine = fixture.open();
        let all: Vec<_> =
            nars.iter().enumerate().map(|(n, nar)| push_compressed(&engine, &format!("p-{n}"), nar)).collect();
        let mut left = after;
        let mut stop = |_: &Rewritten| {
            left -= 1;
            left >= 0
        };
        let done = engine.squeeze(&squeeze_options(), &mut stop).unwrap().unwrap();
        check_all(&engine, &all, &|| format!("stopped after {after}"));
        engine.close().unwrap();
        collect(&fixture);
        let engine = fixture.open();
        check_all(&engine, &all, &|| format!("stopped after {after}, opened again"));
        if !done.is_stopped {
            break;
        }
        stops += 1;
        let rest = squeeze(&engine);
        assert_eq!(rest.emptied_packs, rest.packs, "stopped after {after}: {rest:?}");
        engine.close().unwrap();
        collect(&fixture);
        check_all(&fixture.without_chunk_index().open(), &all, &|| format!("stopped after {after}, then finished"));
    }
    assert!(stops > 3, "{stops}");
}

/// Runs a rewrite with the n-th storage call failing, for every n until none fails.
fn with_every_failure(failure: Failure, run: impl Fn(&Engine) -> firn_engine::Result<Option<Rewritten>>) {
    let mut tried = 0;
    for n in 0.. {
        let what = || format!("{failure:?} at call {n}");
        let (memory, fixture) = store(Delta::Inline);
        let engine = fixture.open();
        let mut all: Vec<_> = (1..3).map(|n| push_compressed(&engine, &format!("p-{n}"), &build(1, n))).collect();
        all.push(push_path(&engine, "third", &build(1, 3)).unwrap());
        let sparse = push(&engine, &noise(9, 60_000)).unwrap();
        all.push(push(&engine, &noise(8, 20_000)).unwrap());
        engine.close().unwrap();
        forget(&fixture, &sparse);

        let fault = Fault::new(Arc::new(memory.clone()));
        let engine = fixture.over(fault.clone()).open();
        fault.plan(None, n, failure);
        let outcome = run(&engine);
        let fired = fault.fired();
        assert!(fired || outcome.is_ok(), "{outcome:?}");
        fault.heal();
        drop(engine);
        // What a loss of power leaves, without a chunk index as well.
        let left = memory.after_power_loss();
        let fixture = fixture.over(left);
        let engine = fixture.open();
        check_all(&engine, &all, &what);
        engine.close().unwrap();
        check_all(&fixture.without_chunk_index().open(), &all, &what);
        let engine = fixture.open();
        run(&engine).unwrap();
        check_all(&engine, &all, &what);
        engine.close().unwrap();
        collect(&fixture);
        check_all(&fixture.open(), &all, &what);
        if !fired {
            break;
        }
        tried += 1;
    }
    assert!(tried > 10, "{tried}");
}

#[test]
fn any_failing_or_last_storage_call_of_a_squeeze_is_survived() {
    for failure in [Failure::Io, Failure::Crash, Failure::Torn(300)] {
        with_every_failure(failure, |engine| engine.squeeze(&squeeze_options(), &mut |_| true));
    }
}

#[test]
fn any_failing_or_last_storage_call_of_a_repack_is_survived() {
    let options = RepackOptions { max_live_percent: 100, ..RepackOptions::default() };
    for failure in [Failure::Io, Failure::Crash] {
        with_every_failure(failure, |engine| engine.repack(&options, &mut |_| true));
    }
}

#[test]
fn a_chunk_takes_a_bounded_number_of_reads_after_a_squeeze() {
    let memory = Memory::new();
    let meter = Arc::new(Meter::new(Arc::new(memory)));
    let mut fixture = Fixture::on(Arc::clone(&meter) as Arc<dyn Storage>);
    fixture.options.frame_cache_bytes = 0;
    fixture.options.frame_bytes = 20_000;
    let engine = fixture.open();
    let all: Vec<_> = (1..5).map(|n| push(&engine, &build(1, n)).unwrap()).collect();
    engine.close().unwrap();
    fixture.options.frame_bytes = 1 << 20;
    let engine = fixture.open();
    engine.squeeze(&SqueezeOptions { frame_bytes: 30_000, ..squeeze_options() }, &mut |_| true).unwrap();
    for pushed in &all {
        let before = meter.counts();
        restore(&engine, pushed, 150_000..150_001).unwrap();
        let counts = meter.counts().since(&before);
        // The chunk's frame twice (when it is opened and when it is read), each time with the frames of its bases; the recipe.
        assert!(counts.reads <= 2 * (1 + 8) + 2, "{counts:?}");
    }
}

#[test]
fn a_budget_ends_a_run() {
    let (_, fixture) = store(Delta::Inline);
    let engine = fixture.open();
    let all: Vec<_> = (1..4).map(|n| push(&engine, &build(n, 1)).unwrap()).collect();
    let options = SqueezeOptions { max_read_bytes: 0, ..squeeze_options() };
    let done = engine.squeeze(&options, &mut |_| true).unwrap().unwrap();
    assert!(done.packs > 0 && done.done_packs == 0, "{done:?}");
    check_all(&engine, &all, &|| "after nothing".to_owned());
}

/// Something that is done to a store.
#[derive(Debug, Clone)]
enum Step {
    Push(u64, u8),
    PushCompressed(u64, u8),
    Forget(u8),
    /// Squeezes until it has been asked so often.
    Squeeze(u8),
    Repack(u8),
    Collect,
    OpenAgain(bool),
}

fn take_steps(steps: Vec<Step>) {
    let (memory, mut fixture) = store(Delta::Inline);
    let mut engine = fixture.open();
    let mut all: Vec<Pushed> = Vec::new();
    for step in steps {
        match step {
            Step::Push(program, n) => all.push(push(&engine, &build(program, n)).unwrap()),
            Step::PushCompressed(program, n) => {
                all.push(push_compressed(&engine, &format!("p-{program}-{n}"), &build(program, n)));
            }
            Step::Forget(n) if !all.is_empty() => {
                let pushed = all.swap_remove(usize::from(n) % all.len());
                all.retain(|other| other.recipe != pushed.recipe);
                forget(&fixture, &pushed);
            }
            Step::Squeeze(limit) => {
                let mut left = limit;
                let level = SqueezeOptions { level: 3 + limit % 5, ..squeeze_options() };
                let mut pace = |_: &Rewritten| {
                    left = left.saturating_sub(1);
                    left > 0
                };
                engine.squeeze(&level, &mut pace).unwrap();
            }
            Step::Repack(percent) => {
                let options = RepackOptions { max_live_percent: percent % 101, ..RepackOptions::default() };
                engine.repack(&options, &mut |_| true).unwrap();
            }
            Step::Collect => {
                engine.close().unwrap();
                collect(&fixture);
                // Garbage collection sees to it that nothing is offered any more that is deleted.
                fixture = fixture.without_chunk_index();
                engine = fixture.open();
            }
            Step::OpenAgain(with_index) => {
                drop(engine);
                fixture = fixture.over(memory.clone());
                if !with_index {
                    fixture = fixture.without_chunk_index();
                }
                engine = fixture.open();
            }
            Step::Forget(_) => {}
        }
        check_all(&engine, &all, &|| "after a step".to_owned());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn every_path_can_be_restored_after_any_steps(steps in proptest::collection::vec(prop_oneof![
        3 => (0..3_u64, 0..6_u8).prop_map(|(program, n)| Step::Push(program, n)),
        3 => (0..3_u64, 0..6_u8).prop_map(|(program, n)| Step::PushCompressed(program, n)),
        2 => any::<u8>().prop_map(Step::Forget),
        3 => any::<u8>().prop_map(Step::Squeeze),
        2 => any::<u8>().prop_map(Step::Repack),
        1 => Just(Step::OpenAgain(true)),
        1 => Just(Step::OpenAgain(false)),
        1 => Just(Step::Collect),
    ], 1..14)) {
        take_steps(steps);
    }
}
