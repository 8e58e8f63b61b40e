use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use firn_index::Refusal;
use firn_storage::{Memory, Meter};

use super::*;
use crate::fixture::{Fixture, Pushed, cache, ingest, package, path, push, uploader};
use crate::{Engine, Ingested, PathUpload};

/// Commits changes as one group, as if all of them had been waiting, and returns what became of them.
fn commit_together(engine: &Engine, changes: Vec<Change>) -> Vec<Result<PathOutcome>> {
    let (queue, requests) = sync_channel(QUEUE);
    let ask = |change| {
        let (reply, answer) = sync_channel(1);
        queue.send(Request { changes: vec![change], reply }).unwrap();
        answer
    };
    let answers: Vec<Receiver<_>> = changes.into_iter().map(ask).collect();
    drop(queue);
    run(&engine.shared.packs, RecordEncoder::new().unwrap(), &requests, &crate::measures::Commits::default());
    answers.into_iter().map(|answer| answer.recv().unwrap()?.remove(0)).collect()
}

fn nar(ingested: Ingested) -> Change {
    let Ingested { nar_hash: hash, recipe, slots, length, new_recipe, session, .. } = ingested;
    let row = NarRow { recipe, slots, nar_size: length, uploaded_at: 1, lease_until: 2 };
    Change::Nar { cache: cache(), hash, row, alias: None, new: Stored { new_recipe, session } }
}

fn path_of(upload: PathUpload) -> Change {
    Change::Path { cache: cache(), upload: Box::new(upload) }
}

#[test]
fn commits_that_wait_share_one_sync_and_one_record_frame() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let engine = Fixture::on(Arc::new(meter.clone())).open();
    let nars: Vec<_> = (0..GROUP as u64).map(|seed| package(seed, 500)).collect();
    let ingested: Vec<_> = nars.iter().map(|bytes| ingest(&engine, bytes).unwrap()).collect();
    let pushed: Vec<_> = ingested.iter().zip(&nars).map(|(ingested, bytes)| Pushed::of(ingested, bytes)).collect();
    let before = meter.counts();

    let outcomes = commit_together(&engine, ingested.into_iter().map(nar).collect());
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(PathOutcome::Created))));
    let counted = meter.counts().since(&before);
    assert_eq!((counted.syncs, counted.appends), (1, GROUP as u64 + 1), "a recipe each, and the records in one frame");
    assert_eq!((counted.reads, counted.looks), (0, 0));

    let before = meter.counts();
    let paths = pushed.iter().enumerate().map(|(n, pushed)| path_of(pushed.as_path(&format!("path-{n}"))));
    assert!(commit_together(&engine, paths.collect()).iter().all(Result::is_ok));
    let counted = meter.counts().since(&before);
    assert_eq!((counted.syncs, counted.appends), (1, 1));
    for pushed in &pushed {
        pushed.check(&engine).unwrap();
    }
    assert_eq!(engine.stats().unwrap().totals.paths, GROUP as u64);
}

#[test]
fn what_does_not_fit_a_group_makes_another() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let engine = Fixture::on(Arc::new(meter.clone())).open();
    let pushed = push(&engine, &package(1, 500)).unwrap();
    let before = meter.counts();
    let paths = (0..=GROUP).map(|n| path_of(pushed.as_path(&format!("path-{n}"))));
    assert_eq!(commit_together(&engine, paths.collect()).len(), GROUP + 1);
    assert_eq!(meter.counts().since(&before).syncs, 2);
}

#[test]
fn a_refusal_takes_nothing_else_of_its_group_along() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let bytes = package(1, 20_000);
    // Both store the same recipe, and only the first would write it.
    let expired = ingest(&engine, &bytes).unwrap();
    fixture.clock.advance(fixture.options.session_lease_seconds / 2 + 1);
    let alive = ingest(&engine, &bytes).unwrap();
    fixture.clock.advance(fixture.options.session_lease_seconds / 2 + 1);
    let pushed = Pushed::of(&alive, &bytes);

    let outcomes = commit_together(&engine, vec![nar(expired), nar(alive)]);
    assert!(matches!(outcomes[0], Err(Error::Refused(Refusal::SessionExpired))), "{:?}", outcomes[0]);
    assert!(outcomes[1].is_ok(), "{:?}", outcomes[1]);
    pushed.check(&engine).unwrap();
    let (_, pack) = fixture.meta.packs(None, 1).unwrap().remove(0);
    assert_eq!(
        pack.durable_bytes,
        engine.shared.packs.open_bytes().stored_bytes,
        "the index must know what is durable"
    );
}

#[test]
fn uploads_of_the_same_content_in_one_group_store_its_recipe_once() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let engine = Fixture::on(Arc::new(meter.clone())).open();
    let bytes = package(1, 20_000);
    let both = vec![ingest(&engine, &bytes).unwrap(), ingest(&engine, &bytes).unwrap()];
    let before = meter.counts();
    let outcomes = commit_together(&engine, both.into_iter().map(nar).collect());
    assert!(outcomes.iter().all(Result::is_ok));
    assert_eq!(meter.counts().since(&before).appends, 2, "one recipe, one frame of records");
}

#[test]
fn later_changes_of_a_group_see_the_earlier_ones() {
    let engine = Fixture::new().open();
    let [first, second] = [1, 2].map(|seed| push(&engine, &package(seed, 500)).unwrap());
    let depends = PathUpload {
        references: vec![path("library")],
        references_policy: ReferencePolicy::Present,
        ..second.as_path("program")
    };
    let early = PathUpload { path: path("early"), ..depends.clone() };
    let changes = [early, first.as_path("library"), depends, second.as_path("library"), first.as_path("library")];
    let outcomes = commit_together(&engine, changes.into_iter().map(path_of).collect());
    assert!(matches!(&outcomes[0], Err(Error::MissingReferences(missing)) if *missing == [path("library")]));
    let expected = [PathOutcome::Created, PathOutcome::Created, PathOutcome::KeptFirst, PathOutcome::Merged];
    assert_eq!(outcomes.into_iter().skip(1).map(Result::unwrap).collect::<Vec<_>>(), expected);
    let row = engine.meta().path(&cache(), &path("library").hash()).unwrap().unwrap();
    assert_eq!((row.nar_hash, row.conflicts.len()), (first.nar_hash, 1));
    assert_eq!(engine.stats().unwrap().totals.paths, 2);
}

#[test]
fn a_nar_goes_with_its_path_unless_a_commit_named_it_or_the_path_stays() {
    let engine = Fixture::new().open();
    let watch = &engine.shared.packs.watch;
    let pushed: Vec<Pushed> = (0..4).map(|seed| push(&engine, &package(seed, 500)).unwrap()).collect();
    for (n, pushed) in pushed.iter().enumerate() {
        engine.commit_path(&cache(), pushed.as_path(&format!("path-{n}"))).unwrap();
    }
    let watching = watch.begin();
    watch.name_asked_nar(&cache(), pushed[1].nar_hash);
    nar_again(&engine, &pushed[2]);
    watch.name_path(&cache(), path("path-3").hash());
    let hashes: Vec<StoreHash> = (0..4).map(|n| path(&format!("path-{n}")).hash()).collect();
    let mut items: Vec<Removal> = hashes.iter().map(|hash| Removal::Path(cache(), *hash)).collect();
    items.extend(pushed.iter().zip(&hashes).map(|(pushed, path)| Removal::NarOf {
        cache: cache(),
        hash: pushed.nar_hash,
        aliases: Vec::new(),
        paths: vec![*path],
    }));
    let removals = Removals::new(items, watching.since(), Rescued::new());
    assert!(commit_together(&engine, vec![Change::Remove(Arc::clone(&removals))])[0].is_ok());
    assert_eq!(removals.outcome().removed, [true, true, true, false, true, true, false, false]);
    let stay = pushed.iter().map(|pushed| engine.meta().nar(&cache(), &pushed.nar_hash).unwrap().is_some());
    assert_eq!(stay.collect::<Vec<_>>(), [false, false, true, true]);
}

fn nar_again(engine: &Engine, pushed: &Pushed) {
    engine.commit_nar(&cache(), ingest(engine, &pushed.bytes).unwrap(), None).unwrap();
}

/// What is logged, whoever holds which copy.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn other_references_are_warned_of() {
    let engine = Fixture::new().open();
    let pushed = push(&engine, &package(1, 500)).unwrap();
    let offer = |names: [&str; 2], builder: &str| PathUpload {
        references: names.map(path).to_vec(),
        uploader: uploader(builder),
        ..pushed.as_path("tool")
    };
    engine.commit_path(&cache(), offer(["a", "b"], "one")).unwrap();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    let outcomes = tracing::subscriber::with_default(subscriber, || {
        commit_together(&engine, vec![path_of(offer(["b", "c"], "two"))])
    });
    assert!(matches!(outcomes[0], Ok(PathOutcome::KeptFirst)));
    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let differs = format!("lacking=1 other=1 lacks=\"{}\" has=\"{}\"", path("a"), path("c"));
    for part in [" WARN ", "first_builder=\"one\" other_builder=\"two\"", &differs] {
        assert!(log.contains(part), "{part}: {log}");
    }
}

#[test]
fn records_are_divided_so_that_each_frame_can_be_read() {
    let records = |lens: &[usize]| lens.iter().map(|len| vec![0; *len]).collect::<Vec<_>>();
    let runs = |lens: &[usize]| frames_of(&records(lens)).map(<[_]>::len).collect::<Vec<_>>();
    const MOST: usize = RECORD_FRAME_BYTES;
    assert_eq!(runs(&[]), [0; 0]);
    assert_eq!(runs(&[1, 2, 3]), [3]);
    assert_eq!(runs(&[MOST, 1]), [1, 1]);
    assert_eq!(runs(&[MOST - 1, 1, 1]), [2, 1]);
    assert_eq!(runs(&[MOST + 1, 2 * MOST, 1, 1]), [1, 1, 2]);
}

#[test]
fn a_group_with_long_rows_is_committed() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let pushed = push(&engine, &package(1, 500)).unwrap();
    let long: Vec<_> = (0..40_000).map(|n| path(&format!("{n}-{}", "x".repeat(180)))).collect();
    let paths =
        (0..8).map(|n| path_of(PathUpload { references: long.clone(), ..pushed.as_path(&format!("path-{n}")) }));
    assert!(commit_together(&engine, paths.collect()).iter().all(Result::is_ok));
    engine.close().unwrap();
    pushed.check(&fixture.open()).unwrap();
}
