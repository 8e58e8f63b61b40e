//! An index that lacks what packs say was acknowledged is refused; one that a crash left is not.

use std::sync::Arc;

use firn_engine::{Error, rebuild};
use firn_index::{Commit, Meta, Op};
use firn_pack::PackId;
use firn_storage::Memory;

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::{Fixture, Pushed, cache_row, objects, package, push, upload_again};
use crate::indexes;
use crate::invariants::parts;

/// Returns a store that was killed with its pack open, what had been acknowledged, and the index's last number after each.
fn killed() -> (Fixture, Vec<Pushed>, Vec<u64>) {
    let fixture = Fixture::new();
    let engine = fixture.open();
    let push = |seed| (push(&engine, &package(seed, 30_000)).unwrap(), fixture.meta.record_order().unwrap());
    let (pushed, orders) = (1..6).map(push).unzip();
    (fixture, pushed, orders)
}

/// Returns the store with an index that knows the packs and this number, and nothing else.
fn with_index(fixture: &Fixture, packs: &[PackId], order: u64) -> Fixture {
    let meta = indexes::new_meta();
    for pack in packs {
        meta.reserve_pack(*pack, 1).unwrap();
    }
    meta.commit(1, &[Commit { session: None, packs: vec![], ops: vec![Op::RecordOrder(order)] }]).unwrap();
    Fixture { meta, ..fixture.clone() }.without_chunk_index().with_cache()
}

#[track_caller]
fn assert_refused(fixture: &Fixture, what: &str) {
    let before = (objects(&*fixture.storage), fixture.meta.packs(None, 99).unwrap());
    for _ in 0..2 {
        match fixture.try_open().err() {
            Some(error @ Error::Unusable(_)) => {
                let message = error.to_string();
                let why = ["were acknowledged", "index is missing or empty"].iter().any(|why| message.contains(why));
                assert!(why && message.contains("firnd rebuild-index"), "{message}");
            }
            other => panic!("{what}: {other:?}"),
        }
        assert_eq!((objects(&*fixture.storage), fixture.meta.packs(None, 99).unwrap()), before, "{what}");
    }
}

#[test]
fn an_index_that_lost_more_than_the_last_group_is_refused() {
    let (fixture, _, orders) = killed();
    let packs: Vec<PackId> = fixture.meta.packs(None, 99).unwrap().into_iter().map(|(pack, _)| pack).collect();
    let groups = orders.len();
    for (nth, order) in orders.into_iter().enumerate() {
        // A crash may come between the sync of a pack and that of the index.
        if nth + 2 >= groups {
            with_index(&fixture, &packs, order).open();
            continue;
        }
        assert_refused(&with_index(&fixture, &packs, order), &format!("of {groups} groups, after group {nth}"));
    }
}

#[test]
fn packs_that_a_lost_index_knew_are_not_taken_for_nothing() {
    let (fixture, pushed, _) = killed();
    assert_refused(&with_index(&fixture, &[], 0), "the whole index is gone");
    fixture.open().close().unwrap();
    let empty = Fixture { meta: indexes::new_meta(), ..fixture.clone() }.without_chunk_index();
    assert_refused(&empty, "and the pack has its footer");

    let made = Fixture { meta: indexes::new_meta(), ..fixture.clone() }.without_chunk_index();
    rebuild(parts(&made, None), &mut |_| cache_row()).unwrap();
    let engine = made.open();
    for pushed in &pushed {
        pushed.check(&engine).unwrap();
    }
}

/// Groups that fail have records in packs too, as many as there are uploads while the index can't be written to.
#[test]
fn groups_that_failed_are_no_proof() {
    for when in [When::Before, When::After] {
        let mut fixture = Fixture::on(Arc::new(Memory::new()));
        let broken = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
        fixture.meta = Arc::clone(&broken) as Arc<dyn Meta>;
        let engine = fixture.open();
        let pushed = push(&engine, &package(1, 20_000)).unwrap();
        for seed in 2..9 {
            // The commit that begins an opening's numbers comes before that of the group.
            for spare in [0, 1] {
                broken.plan(Some("commit"), spare, when);
                let failed = push(&engine, &package(seed, 20_000));
                assert!(failed.is_err() || !broken.fired(), "upload {seed}");
                broken.heal();
            }
        }
        // Killed: the pack is open.
        let engine = fixture.open();
        pushed.check(&engine).unwrap();
        upload_again(&engine, &package(3, 20_000));
        drop(engine);
        fixture.open();
    }
}
