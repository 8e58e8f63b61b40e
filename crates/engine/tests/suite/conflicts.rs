//! Two NARs for one path: what differs is recorded, however the second one came, and goes with its path.

use firn_engine::{Engine, GcOptions, PathOutcome, PathUpload};
use firn_index::{Content, DifferenceRow, EntryFacts, EntryKind, FileDifference, RetentionRow};
use firn_nix::Sha256;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::client::Local;
use crate::fixture::{Fixture, cache, path, push, push_path};

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

#[test]
fn what_only_refers_elsewhere_is_no_other_nar() {
    let engine = Fixture::new().open();
    let first = push_path(&engine, "tool", &build("one", false)).unwrap();
    let offer = PathUpload { references: vec![path("tool")], ..first.as_path("tool") };
    assert_eq!(engine.commit_path(&cache(), offer).unwrap(), PathOutcome::KeptFirst);
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
