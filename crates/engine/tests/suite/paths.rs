//! Which paths a cache takes: what they refer to, what they claim, and what is there already.

use std::sync::Arc;

use firn_engine::{Engine, Error, PathOutcome, PathUpload};
use firn_index::{CacheName, ConflictPolicy, PathRow, ReferencePolicy};
use firn_nix::StorePath;
use firn_storage::Memory;
use firn_testkit::nar::Node;

use crate::fixture::{
    Fixture, Pushed, cache, cache_row, ingest, noise, objects, package, package_with, path, push, push_path, uploader,
};

fn row(engine: &Engine, name: &str) -> Option<PathRow> {
    engine.meta().path(&cache(), &path(name).hash()).unwrap()
}

/// Returns the answer to an offer that refers to paths, under a policy.
fn offer(
    engine: &Engine,
    pushed: &Pushed,
    name: &str,
    references: &[&str],
    references_policy: ReferencePolicy,
) -> firn_engine::Result<PathOutcome> {
    let references = references.iter().map(|name| path(name)).collect();
    engine.commit_path(&cache(), PathUpload { references, references_policy, ..pushed.as_path(name) })
}

/// What is to become of an offer.
#[derive(Debug, PartialEq)]
enum Answer {
    Taken,
    /// The first of those that are not in the cache, and how many.
    Missing(&'static str, usize),
    /// Those that do not occur in the NAR.
    Foreign(&'static [&'static str]),
}

#[test]
fn references_are_there_and_occur() {
    use ReferencePolicy::{Any, Present, Strict};
    // It mentions itself, one that the cache has, and one that it lacks; not bash.
    let nar = package_with(5, 400_000, &[path("tool"), path("glibc"), path("absent")]);
    let cases: [(&[&str], ReferencePolicy, Answer); 14] = [
        (&[], Strict, Answer::Taken),
        (&["glibc"], Strict, Answer::Taken),
        (&["tool"], Strict, Answer::Taken),
        (&["glibc", "tool", "glibc"], Strict, Answer::Taken),
        (&["absent"], Strict, Answer::Missing("absent", 1)),
        (&["glibc", "absent"], Strict, Answer::Missing("absent", 1)),
        (&["bash"], Strict, Answer::Foreign(&["bash"])),
        (&["bash", "glibc", "nowhere"], Strict, Answer::Foreign(&["bash", "nowhere"])),
        (&["bash"], Present, Answer::Taken),
        (&["tool"], Present, Answer::Taken),
        (&["absent", "nowhere"], Present, Answer::Missing("absent", 2)),
        (&["bash"], Any, Answer::Taken),
        (&["absent"], Any, Answer::Taken),
        (&["nowhere"], Any, Answer::Taken),
    ];
    for (references, policy, answer) in cases {
        let what = format!("{references:?} under {policy:?}");
        let engine = engine_with_dependencies();
        let pushed = push(&engine, &nar).unwrap();
        let got = match offer(&engine, &pushed, "tool", references, policy) {
            Ok(outcome) => {
                assert_eq!(outcome, PathOutcome::Created, "{what}");
                Answer::Taken
            }
            Err(Error::MissingReferences(missing)) => {
                assert_eq!(answer, Answer::Missing(name_of(&missing[0]), missing.len()), "{what}");
                assert!(row(&engine, "tool").is_none(), "{what}");
                continue;
            }
            Err(Error::ForeignReferences(foreign)) => {
                let names: Vec<_> = foreign.iter().map(StorePath::name).collect();
                assert!(matches!(answer, Answer::Foreign(expected) if expected == names), "{what}: {names:?}");
                assert!(row(&engine, "tool").is_none(), "{what}");
                continue;
            }
            Err(error) => panic!("{what}: {error:?}"),
        };
        assert_eq!(got, answer, "{what}");
        let mut expected: Vec<_> = references.iter().map(|name| path(name)).collect();
        expected.sort_by_key(StorePath::base_name);
        expected.dedup();
        assert_eq!(row(&engine, "tool").unwrap().references, expected, "{what}");
    }
}

fn name_of(path: &StorePath) -> &'static str {
    ["absent", "nowhere", "glibc", "bash"].into_iter().find(|name| *name == path.name()).unwrap()
}

fn engine_with_dependencies() -> Engine {
    let engine = Fixture::new().open();
    for name in ["glibc", "bash"] {
        push_path(&engine, name, &noise(1, 100)).unwrap();
    }
    engine
}

#[test]
fn a_reference_is_found_wherever_it_lies() {
    let engine = engine_with_dependencies();
    let hash = String::from_utf8(path("glibc").hash().to_ascii().to_vec()).unwrap();
    // Bare hashes are no slots, so the NAR is read; pieces of 1 MiB end in the middle of some of these.
    for at in [
        0,
        1,
        31,
        32,
        5_000,
        (1 << 20) - 140,
        (1 << 20) - 120,
        (1 << 20) - 100,
        (1 << 20) - 97,
        (1 << 20) - 96,
        2_000_000,
    ] {
        let mut contents = vec![b'.'; 2_100_000];
        contents[at..at + 32].copy_from_slice(hash.as_bytes());
        let pushed = push(&engine, &Node::file(contents).encode()).unwrap();
        assert!(pushed.slots.is_empty());
        offer(&engine, &pushed, &format!("tool-{at}"), &["glibc"], ReferencePolicy::Strict).unwrap();
        let foreign = offer(&engine, &pushed, &format!("other-{at}"), &["glibc", "bash"], ReferencePolicy::Strict);
        assert!(matches!(foreign, Err(Error::ForeignReferences(paths)) if paths == [path("bash")]), "at {at}");
    }
}

#[test]
fn a_reference_is_a_path_and_not_only_its_hash() {
    let engine = engine_with_dependencies();
    let pushed = push(&engine, &package_with(5, 50_000, &[path("glibc")])).unwrap();
    let renamed = StorePath::new(path("glibc").hash(), "not-glibc").unwrap();
    let upload = PathUpload {
        references: vec![renamed.clone()],
        references_policy: ReferencePolicy::Strict,
        ..pushed.as_path("tool")
    };
    let error = engine.commit_path(&cache(), upload).unwrap_err();
    assert!(matches!(error, Error::MissingReferences(missing) if missing == [renamed]));
}

#[test]
fn a_path_needs_its_nar_in_its_own_cache() {
    let fixture = Fixture::new();
    let other: CacheName = "other".parse().unwrap();
    fixture.meta.put_cache(&other, &cache_row()).unwrap();
    let engine = fixture.open();
    let pushed = push(&engine, &package(1, 50_000)).unwrap();
    let wrong = |outcome| matches!(outcome, Err(Error::WrongNar { .. }));
    assert!(wrong(engine.commit_path(&other, pushed.as_path("tool"))));
    let size = pushed.bytes.len() as u64;
    for nar_size in [0, size - 1, size + 1] {
        assert!(wrong(engine.commit_path(&cache(), PathUpload { nar_size, ..pushed.as_path("tool") })));
    }
    let unknown = PathUpload { nar_hash: firn_nix::Sha256([1; 32]), ..pushed.as_path("tool") };
    assert!(wrong(engine.commit_path(&cache(), unknown)));
    assert!(row(&engine, "tool").is_none());

    // The other cache has the content without another byte, once it was uploaded there.
    let again = ingest(&engine, &pushed.bytes).unwrap();
    assert!(again.stats.known_recipe);
    engine.commit_nar(&other, again, None).unwrap();
    engine.commit_path(&other, pushed.as_path("tool")).unwrap();
    assert!(row(&engine, "tool").is_none());
    assert_eq!(engine.stats().unwrap().totals.paths, 1);
}

#[test]
fn the_first_nar_stays_and_others_are_recorded() {
    let engine = Fixture::new().open();
    let first = push_path(&engine, "tool", &package(1, 50_000)).unwrap();
    let second = push(&engine, &package(2, 60_000)).unwrap();
    let offer = |on_conflict, who: &str| {
        let upload = PathUpload { on_conflict, uploader: uploader(who), ..second.as_path("tool") };
        engine.commit_path(&cache(), upload).unwrap()
    };
    assert_eq!(offer(ConflictPolicy::KeepFirst, "a"), PathOutcome::KeptFirst);
    assert_eq!(offer(ConflictPolicy::Reject, "b"), PathOutcome::Rejected);
    let row = row(&engine, "tool").unwrap();
    assert_eq!(row.nar_hash, first.nar_hash);
    assert_eq!(row.conflicts.len(), 1);
    assert_eq!((row.conflicts[0].nar_hash, &*row.conflicts[0].uploader.builder), (second.nar_hash, "a"));
    assert_eq!(engine.stats().unwrap().totals.logical_bytes, first.bytes.len() as u64);
}

#[test]
fn a_narinfo_comes_again_with_more_signatures() {
    let engine = Fixture::new().open();
    let pushed = push(&engine, &package(1, 50_000)).unwrap();
    for signatures in [vec!["a:1"], vec!["b:2", "a:1"], vec![]] {
        let signatures = signatures.into_iter().map(str::to_owned).collect();
        engine.commit_path(&cache(), PathUpload { signatures, ..pushed.as_path("tool") }).unwrap();
    }
    assert_eq!(row(&engine, "tool").unwrap().signatures, ["a:1", "b:2"]);
    assert_eq!(engine.stats().unwrap().totals.paths, 1);
}

#[test]
fn what_nobody_can_get_any_more_is_replaced() {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.frame_cache_bytes = 0;
    let engine = fixture.open();
    let first = push_path(&engine, "tool", &noise(1, 500_000)).unwrap();
    let second = push(&engine, &package(2, 60_000)).unwrap();
    let upload = second.as_path("tool");
    assert_eq!(engine.commit_path(&cache(), upload.clone()).unwrap(), PathOutcome::KeptFirst);

    let pack = objects(&memory)[0].0.clone();
    memory.damage(&pack, 200_000, 1).unwrap();
    // As long as nobody noticed, it stays.
    assert_eq!(engine.commit_path(&cache(), upload.clone()).unwrap(), PathOutcome::KeptFirst);
    assert!(first.check(&engine).is_err());
    assert_eq!(engine.commit_path(&cache(), upload).unwrap(), PathOutcome::Created);
    let row = row(&engine, "tool").unwrap();
    assert_eq!(row.nar_hash, second.nar_hash);
    second.check(&engine).unwrap();
    assert_eq!(engine.stats().unwrap().totals.paths, 1, "it takes the first one's place");
}

#[test]
fn a_hash_belongs_to_one_name() {
    let engine = Fixture::new().open();
    let pushed = push_path(&engine, "tool", &package(1, 50_000)).unwrap();
    let renamed = StorePath::new(path("tool").hash(), "other").unwrap();
    let offer = PathUpload { path: renamed, ..pushed.as_path("tool") };
    assert_eq!(engine.commit_path(&cache(), offer.clone()).unwrap(), PathOutcome::KeptFirst);
    let offer = PathUpload { on_conflict: ConflictPolicy::Reject, ..offer };
    assert_eq!(engine.commit_path(&cache(), offer).unwrap(), PathOutcome::Rejected);
    let row = row(&engine, "tool").unwrap();
    assert_eq!((row.path, row.conflicts.len()), (path("tool"), 1));
}
