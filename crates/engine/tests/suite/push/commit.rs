//! Paths with their NARs, many at a time.

use std::sync::Arc;

use firn_engine::{Engine, Error, PathOutcome, PathUpload, Scope};
use firn_index::{ConflictPolicy, PathRow, ReferencePolicy, Refusal};
use firn_storage::{Memory, Meter};
use firn_testkit::nar::Node;

use crate::fixture::client::{Local, error_of};
use crate::fixture::{Fixture, cache, noise, package, package_with, path, push, push_path, upload_again};

fn row(engine: &Engine, name: &str) -> Option<PathRow> {
    engine.meta().path(&cache(), &path(name).hash()).unwrap()
}

#[test]
fn what_is_pushed_comes_back() {
    let engine = Fixture::new().open();
    for (seed, len) in [(1, 0), (2, 1), (3, 20_000), (4, 3_000_000)] {
        let local = Local::of(&package_with(seed, len, &[path("glibc"), path("bash")]));
        let name = format!("tool-{seed}");
        assert_eq!(local.push(&engine, local.pushed().as_path(&name)).unwrap(), PathOutcome::Created);
        local.pushed().check(&engine).unwrap();
        assert_eq!(row(&engine, &name).unwrap().nar_hash, local.nar_hash);
        // The same again changes nothing.
        let before = engine.stats().unwrap().totals;
        assert_eq!(local.push(&engine, local.pushed().as_path(&name)).unwrap(), PathOutcome::Merged);
        assert_eq!(engine.stats().unwrap().totals, before);
    }
}

#[test]
fn pushes_and_stock_uploads_share_everything() {
    let engine = Fixture::new().open();
    let local = Local::of(&package(1, 2_000_000));
    push_path(&engine, "stock", &local.nar).unwrap();
    let before = engine.stats().unwrap().totals;
    let session = engine.begin_session().unwrap();
    assert_eq!(engine.missing_chunks(&Scope::Store, &local.ids()).unwrap(), vec![false; local.chunks.len()]);
    assert_eq!(engine.known_recipes(&Scope::Store, &[local.known().recipe]).unwrap(), [true]);
    let assembled = engine.assemble(session, &Scope::Store, &cache(), local.known()).unwrap();
    let outcomes = engine.commit_pushed(&cache(), vec![(local.pushed().as_path("pushed"), Some(assembled))]);
    assert!(matches!(outcomes[..], [Ok(PathOutcome::Created)]));
    let after = engine.stats().unwrap().totals;
    assert_eq!(after.unique_bytes, before.unique_bytes);
    assert!(after.stored_bytes < before.stored_bytes + 400, "it is one record");

    let other = Local::of(&package(2, 2_000_000));
    other.push(&engine, other.pushed().as_path("first")).unwrap();
    let before = engine.stats().unwrap().totals.unique_bytes;
    push_path(&engine, "then", &other.nar).unwrap();
    assert_eq!(engine.stats().unwrap().totals.unique_bytes, before);
}

/// Returns a chain of paths, each of which refers to the one before it.
fn chain(length: usize) -> Vec<(Local, PathUpload)> {
    let link = |n: usize| {
        let references: Vec<_> = n.checked_sub(1).map(|before| path(&format!("link-{before}"))).into_iter().collect();
        let local = Local::of(&package_with(n as u64, 10_000, &references));
        let references_policy = ReferencePolicy::Strict;
        let upload = PathUpload { references, references_policy, ..local.pushed().as_path(&format!("link-{n}")) };
        (local, upload)
    };
    (0..length).map(link).collect()
}

#[test]
fn a_batch_waits_for_the_disk_once_and_refers_to_itself() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let engine = Fixture::on(Arc::new(meter.clone())).open();
    let session = engine.begin_session().unwrap();
    let assemble = |(local, upload): (Local, PathUpload)| {
        (upload, Some(local.assemble(&engine, session, &Scope::Store, &cache()).unwrap()))
    };
    let batch: Vec<_> = chain(600).into_iter().map(assemble).collect();
    let before = meter.counts();
    let outcomes = engine.commit_pushed(&cache(), batch);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(PathOutcome::Created))));
    assert_eq!(meter.counts().since(&before).syncs, 1);
    assert_eq!(engine.stats().unwrap().totals.paths, 600);
    let hashes: Vec<_> = (0..601).map(|n| path(&format!("link-{n}")).hash()).collect();
    let missing = engine.missing_paths(&cache(), None, &hashes).unwrap();
    assert_eq!(missing.iter().position(|missing| *missing), Some(600));
}

#[test]
fn who_refers_to_what_failed_fails_and_the_others_stand() {
    let engine = Fixture::new().open();
    let session = engine.begin_session().unwrap();
    let mut batch = Vec::new();
    for (n, (local, upload)) in chain(4).into_iter().enumerate() {
        let assembled = local.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
        // The second claims a reference that its NAR does not have.
        let upload = if n == 1 { PathUpload { references: vec![path("other")], ..upload } } else { upload };
        batch.push((upload, Some(assembled)));
    }
    let alone = Local::of(&package(9, 10_000));
    let assembled = alone.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
    batch.push((alone.pushed().as_path("alone"), Some(assembled)));
    let outcomes = engine.commit_pushed(&cache(), batch);
    assert!(matches!(outcomes[0], Ok(PathOutcome::Created)));
    assert!(matches!(&outcomes[1], Err(Error::ForeignReferences(paths)) if *paths == [path("other")]));
    assert!(matches!(&outcomes[2], Err(Error::MissingReferences(paths)) if *paths == [path("link-1")]));
    assert!(matches!(&outcomes[3], Err(Error::MissingReferences(paths)) if *paths == [path("link-2")]));
    assert!(matches!(outcomes[4], Ok(PathOutcome::Created)));
    let there = ["link-0", "link-1", "link-2", "link-3", "alone"].map(|name| row(&engine, name).is_some());
    assert_eq!(there, [true, false, false, false, true]);
    // What was refused left no NAR behind.
    for (local, _) in &chain(4)[1..] {
        assert!(engine.meta().nar(&cache(), &local.nar_hash).unwrap().is_none());
    }
}

#[test]
fn references_may_be_proven_to_be_elsewhere() {
    let engine = Fixture::new().open();
    let local = Local::of(&package_with(1, 10_000, &[path("glibc"), path("bash")]));
    let references = vec![path("glibc"), path("bash")];
    let offer = |elsewhere: Vec<_>| PathUpload {
        references: references.clone(),
        references_policy: ReferencePolicy::Strict,
        elsewhere,
        ..local.pushed().as_path("tool")
    };
    let error = error_of(local.push(&engine, offer(vec![path("glibc")])));
    assert!(matches!(error, Error::MissingReferences(paths) if paths == [path("bash")]));
    assert!(row(&engine, "tool").is_none());
    local.push(&engine, offer(vec![path("glibc"), path("bash"), path("unrelated")])).unwrap();
    assert_eq!(row(&engine, "tool").unwrap().references.len(), 2);
}

/// A hash that occurs alone is no slot: the NAR is read, which no cache has yet.
#[test]
fn references_are_looked_for_in_what_is_not_yet_committed() {
    let engine = Fixture::new().open();
    push_path(&engine, "glibc", &noise(1, 100)).unwrap();
    let mut contents = vec![b'.'; 1_500_000];
    contents[700_000..700_032].copy_from_slice(&path("glibc").hash().to_ascii());
    let local = Local::of(&Node::file(contents).encode());
    assert!(local.slots.is_empty());
    let offer = |name: &str| PathUpload {
        references: vec![path(name)],
        references_policy: ReferencePolicy::Strict,
        ..local.pushed().as_path("tool")
    };
    assert!(matches!(error_of(local.push(&engine, offer("bash"))), Error::ForeignReferences(_)));
    assert_eq!(local.push(&engine, offer("glibc")).unwrap(), PathOutcome::Created);
}

#[test]
fn one_nar_under_two_paths_of_a_batch() {
    let engine = Fixture::new().open();
    let local = Local::of(&package(1, 50_000));
    let session = engine.begin_session().unwrap();
    let assembled = local.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
    let second = local.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
    let offer = |name| local.pushed().as_path(name);
    let batch = vec![(offer("a"), Some(assembled)), (offer("b"), Some(second)), (offer("c"), None)];
    assert!(engine.commit_pushed(&cache(), batch).iter().all(|outcome| matches!(outcome, Ok(PathOutcome::Created))));
    assert_eq!(engine.stats().unwrap().totals.paths, 3);
    // Without a NAR that the cache has, there is none.
    let other = Local::of(&package(2, 50_000));
    let outcome = engine.commit_pushed(&cache(), vec![(other.pushed().as_path("d"), None)]).remove(0);
    assert!(matches!(outcome, Err(Error::WrongNar { .. })));
}

#[test]
fn a_conflict_keeps_the_first_and_nothing_of_the_second() {
    let engine = Fixture::new().open();
    let (first, second) = (Local::of(&package(1, 50_000)), Local::of(&package(2, 60_000)));
    first.push(&engine, first.pushed().as_path("tool")).unwrap();
    assert_eq!(second.push(&engine, second.pushed().as_path("tool")).unwrap(), PathOutcome::KeptFirst);
    let reject = PathUpload { on_conflict: ConflictPolicy::Reject, ..second.pushed().as_path("tool") };
    assert_eq!(second.push(&engine, reject).unwrap(), PathOutcome::Rejected);
    let row = row(&engine, "tool").unwrap();
    assert_eq!((row.nar_hash, row.conflicts.len()), (first.nar_hash, 1));
    assert!(engine.meta().nar(&cache(), &second.nar_hash).unwrap().is_none());
    assert!(engine.meta().recipe(&second.known().recipe).unwrap().is_none());
}

#[test]
fn what_was_assembled_for_one_path_or_cache_is_for_no_other() {
    let fixture = Fixture::new();
    let other_cache = "other".parse().unwrap();
    fixture.meta.put_cache(&other_cache, &crate::fixture::cache_row()).unwrap();
    let engine = fixture.open();
    let (local, other) = (Local::of(&package(1, 50_000)), Local::of(&package(2, 60_000)));
    let session = engine.begin_session().unwrap();
    let assemble = || local.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
    let cases = [
        (cache(), other.pushed().as_path("tool")),
        (other_cache.clone(), local.pushed().as_path("tool")),
        (cache(), PathUpload { nar_size: 1, ..local.pushed().as_path("tool") }),
    ];
    for (cache, upload) in cases {
        let outcome = engine.commit_pushed(&cache, vec![(upload, Some(assemble()))]).remove(0);
        assert!(matches!(outcome, Err(Error::WrongNar { .. })), "{outcome:?}");
    }
    assert_eq!(engine.stats().unwrap().totals.paths, 0);
}

#[test]
fn an_expired_session_commits_nothing() {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let expired = |error: Error| assert!(matches!(error, Error::Refused(Refusal::SessionExpired)), "{error:?}");
    let local = Local::of(&package(1, 50_000));
    let session = engine.begin_session().unwrap();
    for _ in 0..3 {
        fixture.clock.advance(fixture.options.session_lease_seconds - 1);
        engine.renew_session(session).unwrap();
    }
    let assembled = local.assemble(&engine, session, &Scope::Store, &cache()).unwrap();
    fixture.clock.advance(fixture.options.session_lease_seconds);
    expired(error_of(engine.renew_session(session)));
    expired(error_of(local.send(&engine, session, &cache())));
    expired(error_of(engine.assemble(session, &Scope::Store, &cache(), local.claim())));
    let batch = vec![(local.pushed().as_path("tool"), Some(assembled))];
    expired(error_of(engine.commit_pushed(&cache(), batch).remove(0)));
    assert!(row(&engine, "tool").is_none());

    let ended = engine.begin_session().unwrap();
    engine.end_session(ended);
    engine.end_session(ended);
    expired(error_of(local.send(&engine, ended, &cache())));
    let session = fixture.open().begin_session().unwrap();
    engine.renew_session(session).unwrap();
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
}

/// What was whole when it was assembled may be found damaged before it is committed.
#[test]
fn what_was_found_damaged_since_is_asked_for() {
    let memory = Memory::new();
    let mut fixture = Fixture::on(Arc::new(memory.clone()));
    fixture.options.frame_cache_bytes = 0;
    fixture.options.recipe_cache_bytes = 0;
    let other_cache = "other".parse().unwrap();
    fixture.meta.put_cache(&other_cache, &crate::fixture::cache_row()).unwrap();
    let engine = fixture.open();
    let local = Local::of(&noise(1, 500_000));
    let pushed = push(&engine, &local.nar).unwrap();
    let session = engine.begin_session().unwrap();
    let assembled = engine.assemble(session, &Scope::Store, &other_cache, local.known()).unwrap();
    memory.damage(&crate::fixture::objects(&memory)[0].0, 100_000, 1).unwrap();
    assert!(pushed.check(&engine).is_err());
    let batch = vec![(local.pushed().as_path("tool"), Some(assembled))];
    let error = error_of(engine.commit_pushed(&other_cache, batch).remove(0));
    assert!(matches!(error, Error::RecipeUnknown), "{error:?}");
    assert!(engine.meta().nar(&other_cache, &local.nar_hash).unwrap().is_none());
    assert_eq!(upload_again(&engine, &local.nar), 1);
}
