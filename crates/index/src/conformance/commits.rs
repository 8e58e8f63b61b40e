//! Commits: refusals, atomicity, edges, and the order within a batch.

use super::packs::{doomed, sealed, state};
use super::samples::{
    alias_row, cache, cache_row, commit, document_row, log, nar_hash, nar_row, pack, path_row, recipe, recipe_row,
    store_hash,
};
use super::{Case, ok};
use crate::{Commit, Error, Meta, Op, PackState, Refusal, Totals};

pub(super) const CASES: &[Case] = &[
    an_empty_batch,
    missing_and_doomed_packs_refuse,
    packs_that_only_operations_name_are_checked,
    a_refused_commit_leaves_nothing,
    the_others_of_a_batch_are_applied,
    a_condemned_pack_is_revived,
    a_refused_commit_revives_nothing,
    a_writing_pack_may_be_leaned_on,
    edges_are_replaced,
    edges_are_replaced_within_a_batch,
    pages_of_recipes,
    durable_length_only_grows,
    durable_length_of_a_sealed_pack_stays,
    a_later_write_wins,
    totals_add_up,
    an_unknown_cache_refuses,
];

fn one(meta: &dyn Meta, commit: Commit) -> Result<(), Refusal> {
    let mut outcome = ok(meta.commit(100, &[commit]));
    assert_eq!(outcome.len(), 1);
    outcome.remove(0)
}

fn count(paths: u64) -> Op {
    Op::Count(Totals { paths, ..Totals::default() })
}

fn an_empty_batch(meta: &dyn Meta) {
    assert_eq!(ok(meta.commit(1, &[])), vec![]);
    assert_eq!(one(meta, commit(&[], vec![])), Ok(()));
    assert_eq!(ok(meta.totals()), Totals::default());
}

fn missing_and_doomed_packs_refuse(meta: &dyn Meta) {
    sealed(meta, [1, 2, 3]);
    doomed(meta, 2);
    let gone = Refusal::PacksGone(vec![pack(2), pack(9)]);
    assert_eq!(one(meta, commit(&[9, 1, 2, 3, 2], vec![])), Err(gone), "sorted, each once");
    ok(meta.reserve_pack(pack(4), 1));
    ok(meta.forget_pack(pack(4)));
    assert_eq!(one(meta, commit(&[4], vec![])), Err(Refusal::PacksGone(vec![pack(4)])));
}

fn packs_that_only_operations_name_are_checked(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    doomed(meta, 2);
    let recipe_op = Op::Recipe(recipe(1), recipe_row(&[1, 2]));
    assert_eq!(one(meta, commit(&[1], vec![recipe_op])), Err(Refusal::PacksGone(vec![pack(2)])));
    assert_eq!(ok(meta.recipe(&recipe(1))), None);
    assert_eq!(ok(meta.recipes_of_pack(pack(1), None, 9)), vec![]);
    let durable = Op::PackDurable(pack(7), 1);
    assert_eq!(one(meta, commit(&[], vec![durable])), Err(Refusal::PacksGone(vec![pack(7)])));
    assert_eq!(ok(meta.pack(pack(7))), None);
}

/// One operation of each kind, in cache `a`.
fn every_op() -> Vec<Op> {
    vec![
        Op::Recipe(recipe(1), recipe_row(&[1])),
        Op::Nar(cache("a"), nar_hash(1), nar_row(1)),
        Op::Alias(cache("a"), "x.nar.xz".to_owned(), alias_row(1)),
        Op::Path(cache("a"), store_hash(1), path_row(1, 10)),
        Op::Document(cache("a"), log("drv"), document_row(1)),
        Op::PackDurable(pack(1), 50),
        count(1),
    ]
}

/// Returns how many of [`every_op`]'s seven effects can be seen.
fn seen(meta: &dyn Meta) -> usize {
    let a = cache("a");
    let effects = [
        ok(meta.recipe(&recipe(1))).is_some(),
        !ok(meta.recipes_of_pack(pack(1), None, 9)).is_empty(),
        ok(meta.nar(&a, &nar_hash(1))).is_some(),
        ok(meta.alias(&a, "x.nar.xz")).is_some(),
        ok(meta.path(&a, &store_hash(1))).is_some() && !ok(meta.paths(&a, None, 9)).is_empty(),
        ok(meta.document(&a, &log("drv"))).is_some(),
        ok(meta.pack(pack(1))).is_some_and(|row| row.durable_bytes == 50),
        ok(meta.totals()).paths == 1,
    ];
    effects.into_iter().filter(|effect| *effect).count()
}

fn a_refused_commit_leaves_nothing(meta: &dyn Meta) {
    ok(meta.put_cache(&cache("a"), &cache_row(1)));
    ok(meta.reserve_pack(pack(1), 1));
    assert!(one(meta, commit(&[9], every_op())).is_err());
    assert_eq!(seen(meta), 0);
    assert_eq!(one(meta, commit(&[1], every_op())), Ok(()));
    assert_eq!(seen(meta), 8);
}

fn the_others_of_a_batch_are_applied(meta: &dyn Meta) {
    ok(meta.put_cache(&cache("a"), &cache_row(1)));
    ok(meta.reserve_pack(pack(1), 1));
    let refused = commit(&[8], vec![count(100), Op::PackDurable(pack(1), 5000)]);
    let batch = [refused.clone(), commit(&[1], every_op()), refused];
    let gone = Err(Refusal::PacksGone(vec![pack(8)]));
    assert_eq!(ok(meta.commit(1, &batch)), vec![gone.clone(), Ok(()), gone]);
    assert_eq!(seen(meta), 8);
}

fn a_condemned_pack_is_revived(meta: &dyn Meta) {
    sealed(meta, [1, 2, 3]);
    for n in [1, 2, 3] {
        assert!(ok(meta.set_pack_state(pack(n), PackState::Live, PackState::Condemned, 7)));
    }
    let batch = [commit(&[1], vec![]), commit(&[], vec![Op::Recipe(recipe(1), recipe_row(&[2]))])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!([1, 2, 3].map(|n| state(meta, n)), [PackState::Live, PackState::Live, PackState::Condemned]);
    assert_eq!(ok(meta.pack(pack(1))).map(|row| row.seq), Some(1), "it keeps its number");
}

fn a_refused_commit_revives_nothing(meta: &dyn Meta) {
    sealed(meta, [1]);
    assert!(ok(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 7)));
    assert!(one(meta, commit(&[1, 2], vec![])).is_err());
    assert_eq!(state(meta, 1), PackState::Condemned);
}

fn a_writing_pack_may_be_leaned_on(meta: &dyn Meta) {
    ok(meta.reserve_pack(pack(1), 1));
    assert_eq!(one(meta, commit(&[1], vec![Op::Recipe(recipe(1), recipe_row(&[1]))])), Ok(()));
    assert_eq!(state(meta, 1), PackState::Writing);
}

fn edges(meta: &dyn Meta) -> [usize; 3] {
    [1, 2, 3].map(|n| ok(meta.recipes_of_pack(pack(n), None, 99)).len())
}

fn edges_are_replaced(meta: &dyn Meta) {
    sealed(meta, [1, 2, 3]);
    let needs = |id, edges: &[u8]| commit(&[], vec![Op::Recipe(recipe(id), recipe_row(edges))]);
    assert_eq!(one(meta, needs(1, &[1, 2])), Ok(()));
    assert_eq!(one(meta, needs(2, &[2])), Ok(()));
    assert_eq!(edges(meta), [1, 2, 0]);
    assert_eq!(one(meta, needs(1, &[2, 3])), Ok(()));
    assert_eq!(edges(meta), [0, 2, 1]);
    assert_eq!(ok(meta.recipe(&recipe(1))), Some(recipe_row(&[2, 3])));
    assert_eq!(one(meta, needs(1, &[])), Ok(()));
    assert_eq!(edges(meta), [0, 1, 0]);
    assert_eq!(ok(meta.recipe(&recipe(2))), Some(recipe_row(&[2])));
}

fn edges_are_replaced_within_a_batch(meta: &dyn Meta) {
    sealed(meta, [1, 2, 3]);
    let op = |edges: &[u8]| Op::Recipe(recipe(1), recipe_row(edges));
    let batch = [commit(&[], vec![op(&[1]), op(&[2])]), commit(&[], vec![op(&[3])])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!(edges(meta), [0, 0, 1]);
    let batch = [commit(&[], vec![op(&[1])]), commit(&[], vec![op(&[3])])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!(edges(meta), [0, 0, 1], "an edge that was there before and again after stays");
}

fn pages_of_recipes(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    let ops = [5, 0, 255, 3].map(|n| Op::Recipe(recipe(n), recipe_row(&[1]))).to_vec();
    assert_eq!(one(meta, commit(&[], ops)), Ok(()));
    assert_eq!(one(meta, commit(&[], vec![Op::Recipe(recipe(4), recipe_row(&[2]))])), Ok(()));
    let page = |n, after: Option<u8>, limit| ok(meta.recipes_of_pack(pack(n), after.map(recipe), limit));
    assert_eq!(page(1, None, 2), [recipe(0), recipe(3)]);
    assert_eq!(page(1, Some(3), 2), [recipe(5), recipe(255)]);
    assert_eq!(page(1, Some(255), 2), []);
    assert_eq!(page(1, Some(4), 9), [recipe(5), recipe(255)], "`after` need not be there");
    assert_eq!(page(2, None, 9), [recipe(4)]);
    assert_eq!(page(0, None, 9), []);
}

fn durable_length_only_grows(meta: &dyn Meta) {
    ok(meta.reserve_pack(pack(1), 1));
    let durable = |bytes| commit(&[], vec![Op::PackDurable(pack(1), bytes)]);
    let length = || ok(meta.pack(pack(1))).map(|row| row.durable_bytes);
    assert_eq!(ok(meta.commit(1, &[durable(10), durable(30), durable(20)])), vec![Ok(()); 3]);
    assert_eq!(length(), Some(30));
    assert_eq!(one(meta, durable(29)), Ok(()));
    assert_eq!(length(), Some(30));
}

fn durable_length_of_a_sealed_pack_stays(meta: &dyn Meta) {
    sealed(meta, [1]);
    let before = ok(meta.pack(pack(1)));
    assert_eq!(one(meta, commit(&[], vec![Op::PackDurable(pack(1), 5000)])), Ok(()));
    assert_eq!(ok(meta.pack(pack(1))), before);
}

fn a_later_write_wins(meta: &dyn Meta) {
    let a = cache("a");
    ok(meta.put_cache(&a, &cache_row(1)));
    let path = |n| Op::Path(cache("a"), store_hash(1), path_row(n, 10));
    assert_eq!(one(meta, commit(&[], vec![path(1), path(2)])), Ok(()));
    assert_eq!(ok(meta.path(&a, &store_hash(1))), Some(path_row(2, 10)));
    let batch = [commit(&[], vec![path(3)]), commit(&[], vec![path(4)])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!(ok(meta.path(&a, &store_hash(1))), Some(path_row(4, 10)));
    assert_eq!(ok(meta.paths(&a, None, 9)).len(), 1);
}

fn totals_add_up(meta: &dyn Meta) {
    let one_of_each = Totals { paths: 1, logical_bytes: 2, unique_bytes: 3, stored_bytes: 4 };
    let op = || Op::Count(one_of_each);
    let batch = [commit(&[], vec![op(), op()]), commit(&[], vec![op()])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!(one(meta, commit(&[], vec![op()])), Ok(()));
    let four = Totals { paths: 4, logical_bytes: 8, unique_bytes: 12, stored_bytes: 16 };
    assert_eq!(ok(meta.totals()), four);
}

fn an_unknown_cache_refuses(meta: &dyn Meta) {
    let refused = Err(Refusal::CacheGone(cache("a")));
    for op in every_op().into_iter().filter(|op| !matches!(op, Op::Recipe(..) | Op::PackDurable(..) | Op::Count(_))) {
        assert_eq!(one(meta, commit(&[], vec![count(1), op])), refused);
    }
    ok(meta.put_cache(&cache("a"), &cache_row(1)));
    assert!(ok(meta.delete_cache(&cache("a"))));
    let path = Op::Path(cache("a"), store_hash(1), path_row(1, 10));
    assert_eq!(one(meta, commit(&[], vec![path])), refused);
    assert_eq!(ok(meta.paths(&cache("a"), None, 9)), vec![]);
    assert_eq!(ok(meta.totals()), Totals::default());
    assert!(!matches!(meta.flush(), Err(Error::Engine { .. })));
}
