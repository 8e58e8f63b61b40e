//! Two NARs for one path: what differs is recorded, however the second one came, and goes with its path.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use firn_engine::{Clock, Engine, GcOptions, PathOutcome, PathUpload};
use firn_index::{Content, DifferenceRow, EntryFacts, EntryKind, FileDifference, RetentionRow, UnixSeconds};
use firn_nix::Sha256;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::client::Local;
use crate::fixture::{Fixture, cache, path, push, push_path, uploader};

const DAY: u64 = 24 * 3600;

/// A build of `tool`: it differs from other builds in its stamp, and from an `odd` one in kinds and modes too.
fn build(stamp: &str, odd: bool) -> Vec<u8> {
    let script = Node::Regular { executable: odd, contents: b"#!/bin/sh\n".to_vec() };
    let link: Node = if odd { Node::file("a") } else { Node::Symlink { target: b"a".to_vec() } };
    let mut entries = vec![
        ("big", Node::file(Random::new(1).noise(400_000))),
        ("link", link),
        ("script", script),
        ("stamp", Node::file(stamp)),
    ];
    if odd {
        entries.push(("extra", Node::directory([("deep", Node::file(Random::new(2).noise(90_000)))])));
    }
    Node::directory(entries).encode()
}

fn recorded(engine: &Engine, first: &Sha256, offered: &Sha256) -> Option<DifferenceRow> {
    engine.recorded_difference(&cache(), &path("tool").hash(), first, offered).unwrap()
}

fn difference(path: &str, from: Option<EntryFacts>, to: Option<EntryFacts>, new_bytes: u64) -> FileDifference {
    FileDifference { path: path.as_bytes().to_vec(), from, to, new_bytes }
}

/// What the odd build differs in, whatever its small files share chunks with.
fn check_odd(found: &DifferenceRow) {
    let facts = |kind, bytes| Some(EntryFacts { kind, bytes });
    use EntryKind::{Directory, Executable, File, Symlink};
    let mut files = found.files.clone();
    for file in &mut files {
        if !file.path.ends_with(b"deep") {
            file.new_bytes = 0;
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let expected = [
        difference("extra", None, facts(Directory, 0), 0),
        difference("extra/deep", None, facts(File, 90_000), 90_000),
        difference("link", facts(Symlink, 0), facts(File, 1), 0),
        difference("script", facts(File, 10), facts(Executable, 10), 0),
        difference("stamp", facts(File, 3), facts(File, 4), 0),
    ];
    assert_eq!((files, found.total), (expected.to_vec(), 5));
    assert_eq!(found.files[0].path, b"extra/deep", "what is new comes first");
    assert!((90_000..200_000).contains(&found.new_bytes), "{}", found.new_bytes);
}

#[test]
fn what_differs_is_recorded_for_each_nar_however_it_came() {
    let engine = Fixture::new().open();
    let first = push_path(&engine, "tool", &build("one", false)).unwrap();
    // As Nix uploads.
    let second = push(&engine, &build("four", true)).unwrap();
    assert_eq!(engine.commit_path(&cache(), second.as_path("tool")).unwrap(), PathOutcome::KeptFirst);
    check_odd(&recorded(&engine, &first.nar_hash, &second.nar_hash).unwrap());
    // As firn's client does; nothing of the NAR itself is kept.
    let third = Local::of(&build("zwei", false));
    assert_eq!(third.push(&engine, third.pushed().as_path("tool")).unwrap(), PathOutcome::KeptFirst);
    let found = recorded(&engine, &first.nar_hash, &third.nar_hash).unwrap();
    let names: Vec<&[u8]> = found.files.iter().map(|file| file.path.as_slice()).collect();
    assert_eq!((names, found.total), (vec![&b"stamp"[..]], 1));
    assert!(engine.meta().nar(&cache(), &third.nar_hash).unwrap().is_none());

    // A record is about the first NAR that it was made of.
    assert_eq!(recorded(&engine, &second.nar_hash, &third.nar_hash), None);
    let documents = || engine.meta().documents(&cache(), None, 10).unwrap();
    let before = documents();
    assert_eq!(before.len(), 2);
    assert_eq!(third.push(&engine, third.pushed().as_path("tool")).unwrap(), PathOutcome::KeptFirst);
    assert_eq!(documents(), before, "offered again, it is recorded already");
}

/// A recipe that the store knows by another path is pushed without its chunks.
#[test]
fn a_known_recipe_is_compared_too() {
    let engine = Fixture::new().open();
    let first = push_path(&engine, "tool", &build("one", false)).unwrap();
    let other = Local::of(&build("four", true));
    push_path(&engine, "elsewhere", &other.nar).unwrap();
    let session = engine.begin_session().unwrap();
    let scope = firn_engine::Scope::Store;
    let assembled = engine.assemble(session, &scope, &cache(), other.known()).unwrap();
    let batch = vec![(other.pushed().as_path("tool"), Some(assembled))];
    assert!(matches!(engine.commit_pushed(&cache(), batch).remove(0), Ok(PathOutcome::KeptFirst)));
    check_odd(&recorded(&engine, &first.nar_hash, &other.nar_hash).unwrap());
}

/// Where log lines go.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Returns what this thread logs while it works.
fn logged(work: impl FnOnce()) -> String {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = std::mem::take(&mut *lines.0.lock().unwrap());
    String::from_utf8(bytes).unwrap()
}

const ALARM: &str = "two different NARs were pushed for one path: the first stays";

#[test]
fn the_alarm_says_who_made_what() {
    let engine = Fixture::new().open();
    let first = push_path(&engine, "tool", &build("one", false)).unwrap();
    let second = push(&engine, &build("four", true)).unwrap();
    let offer = || PathUpload { uploader: uploader("other"), ..second.as_path("tool") };
    let push_other = || assert_eq!(engine.commit_path(&cache(), offer()).unwrap(), PathOutcome::KeptFirst);
    let log = logged(push_other);
    let alarms: Vec<&str> = log.lines().filter(|line| line.contains(ALARM)).collect();
    assert_eq!(alarms.len(), 1, "{log}");
    for part in [
        " WARN ".to_owned(),
        "cache=main".to_owned(),
        format!("path={}", path("tool")),
        format!("first_nar={} first_builder=\"builder\"", first.nar_hash),
        format!("other_nar={} other_builder=\"other\"", second.nar_hash),
        "differing_files=5 is_partial=false files=\"extra/deep, ".to_owned(),
    ] {
        assert!(alarms[0].contains(&part), "{part}: {}", alarms[0]);
    }
    let again = logged(push_other);
    assert!(!again.contains(ALARM), "once for each NAR: {again}");
}

/// Each call of the index fails once while a conflict is committed and recorded.
#[test]
fn a_comparison_that_fails_is_logged_and_harms_nothing() {
    let mut unrecorded = 0;
    for spare in 0.. {
        let mut fixture = Fixture::new();
        let meta = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
        fixture.meta = Arc::clone(&meta) as _;
        let engine = fixture.open();
        let first = push_path(&engine, "tool", &build("one", false)).unwrap();
        let second = push(&engine, &build("four", true)).unwrap();
        let mut outcome = None;
        meta.plan(None, spare, When::Before);
        let log = logged(|| outcome = Some(engine.commit_path(&cache(), second.as_path("tool"))));
        let has_failed = meta.fired();
        meta.heal();
        let is_recorded = || recorded(&engine, &first.nar_hash, &second.nar_hash).is_some();
        if let Some(Ok(outcome)) = outcome {
            assert_eq!(outcome, PathOutcome::KeptFirst);
            assert!(is_recorded() || log.contains("was not recorded"), "{log}");
            unrecorded += usize::from(!is_recorded());
        }
        drop(engine);
        let engine = fixture.open();
        first.check(&engine).unwrap();
        assert_eq!(engine.commit_path(&cache(), second.as_path("tool")).unwrap(), PathOutcome::KeptFirst);
        check_odd(&recorded(&engine, &first.nar_hash, &second.nar_hash).unwrap());
        if !has_failed {
            break;
        }
    }
    assert!(unrecorded >= 3, "only {unrecorded} calls of the index were made after the commit");
}

/// A clock by which a second passes whenever somebody looks.
struct Hasty(AtomicU64);

impl Clock for Hasty {
    fn now(&self) -> UnixSeconds {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

#[test]
fn a_push_with_many_conflicts_waits_for_some_comparisons_only() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let names: Vec<String> = (0..40).map(|n| format!("tool-{n}")).collect();
    let firsts: Vec<_> =
        names.iter().map(|name| push_path(&engine, name, &build(&format!("1 {name}"), false)).unwrap()).collect();
    let others: Vec<_> = names.iter().map(|name| push(&engine, &build(&format!("2 {name}"), true)).unwrap()).collect();
    engine.close().unwrap();

    let hasty = Arc::new(Hasty(AtomicU64::new(fixture.clock.now())));
    let engine = fixture.open_with(hasty);
    let is_recorded = |engine: &Engine, n: usize| {
        let (first, other) = (&firsts[n].nar_hash, &others[n].nar_hash);
        engine.recorded_difference(&cache(), &path(&names[n]).hash(), first, other).unwrap().is_some()
    };
    let offer = |engine: &Engine| {
        let batch = names.iter().zip(&others).map(|(name, other)| (other.as_path(name), None)).collect();
        let outcomes = engine.commit_pushed(&cache(), batch);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(PathOutcome::KeptFirst))), "{outcomes:?}");
    };
    let log = logged(|| offer(&engine));
    assert_eq!(log.matches(ALARM).count(), 40, "the alarm is raised for each");
    assert!(is_recorded(&engine, 0) && !is_recorded(&engine, 39));
    let late = log.matches("had no time left").count();
    assert!((20..40).contains(&late), "{late}");
    engine.close().unwrap();

    let engine = fixture.open();
    offer(&engine);
    assert!((0..40).all(|n| is_recorded(&engine, n)), "the next offer makes up for it");
}

#[test]
fn what_only_refers_elsewhere_is_no_other_nar() {
    let engine = Fixture::new().open();
    let first = push_path(&engine, "tool", &build("one", false)).unwrap();
    let offer = PathUpload { references: vec![path("tool")], ..first.as_path("tool") };
    let log = logged(|| assert_eq!(engine.commit_path(&cache(), offer).unwrap(), PathOutcome::KeptFirst));
    assert!(!log.contains(ALARM), "{log}");
    let row = engine.meta().path(&cache(), &path("tool").hash()).unwrap().unwrap();
    assert_eq!((row.references.len(), row.conflicts[0].nar_hash), (0, first.nar_hash), "it is recorded");
    assert!(engine.meta().documents(&cache(), None, 10).unwrap().is_empty());
}

#[test]
fn what_differs_in_many_files_is_cut_and_read_back() {
    let engine = Fixture::new().open();
    let tree = |stamp: &str| {
        let file = |n: u32| (format!("{n:03}-{}", "x".repeat(150)), Node::file(format!("{stamp}{n}")));
        Node::directory((0..300).map(file)).encode()
    };
    let first = push_path(&engine, "tool", &tree("a")).unwrap();
    let other = Local::of(&tree("b"));
    other.push(&engine, other.pushed().as_path("tool")).unwrap();
    let found = recorded(&engine, &first.nar_hash, &other.nar_hash).unwrap();
    assert_eq!((found.total, found.files.len()), (300, DifferenceRow::MAX_BYTES / (154 + 48)));
    let row = engine.meta().documents(&cache(), None, 10).unwrap().remove(0).1;
    assert!(matches!(row.content, Content::Recipe { length, .. } if length < 20_000), "more than a row holds itself");
}

#[test]
fn the_record_stays_as_long_as_its_path() {
    let fixture = Fixture::new();
    let retention = RetentionRow { keep_seconds: Some(10 * DAY), ..RetentionRow::default() };
    assert!(fixture.meta.put_retention(&cache(), &retention).unwrap());
    let engine = fixture.open();
    let collect = || {
        let options = GcOptions { dry_run: false, grace_seconds: 0, repack: None };
        engine.collect(&options, &|_, _| {}).unwrap().expect("no other collection is under way")
    };
    let first = push_path(&engine, "tool", &build("one", false)).unwrap();
    let other = Local::of(&build("four", true));
    other.push(&engine, other.pushed().as_path("tool")).unwrap();
    for _ in 0..3 {
        fixture.clock.advance(8 * DAY);
        // A use keeps the path, and the record with it, which is older than what the cache keeps by then.
        engine.commit_path(&cache(), first.as_path("tool")).unwrap();
        assert_eq!(collect().documents, 0);
        check_odd(&recorded(&engine, &first.nar_hash, &other.nar_hash).unwrap());
    }
    fixture.clock.advance(20 * DAY);
    assert_eq!(collect().documents, 1);
    assert!(engine.meta().path(&cache(), &path("tool").hash()).unwrap().is_none());
    assert_eq!(recorded(&engine, &first.nar_hash, &other.nar_hash), None);
}
