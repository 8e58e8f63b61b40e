//! What goes, and what is left of it.

use super::packs::{doomed, sealed, state};
use super::samples::{
    alias_row, cache, cache_row, commit, document_row, issued_row, log, nar_hash, nar_row, pack, path_row, pin_name,
    pin_row, recipe, recipe_row, retention_row, store_hash, upstreams_row,
};
use super::{Case, ok};
use crate::{Meta, Op, PackState, Refusal, RetentionRow, TokenId, Totals, use_of_nar};

pub(super) const CASES: &[Case] = &[
    what_is_deleted_is_gone,
    deleting_what_is_not_there_changes_nothing,
    totals_follow_deleted_paths_within_a_batch,
    a_deleted_recipe_frees_its_packs,
    a_doomed_pack_is_removed_and_its_bytes_are_taken_off,
    a_pack_that_is_not_doomed_is_not_removed,
    times_of_packs,
    the_record_order_only_grows,
    uses_are_noted_and_go_with_their_path,
    numbers_of_keys_only_go_up,
    pins_and_retention_belong_to_a_cache,
    issued_tokens_come_and_go,
    a_lease_is_one_holders,
    deleted_caches_are_known_until_packs_say_so,
];

fn one(meta: &dyn Meta, ops: Vec<Op>) {
    assert_eq!(ok(meta.commit(100, &[commit(&[], ops)])), vec![Ok(())]);
}

fn count(logical_bytes: u64) -> Op {
    Op::Count(Totals { paths: 1, logical_bytes, ..Totals::default() })
}

fn what_is_deleted_is_gone(meta: &dyn Meta) {
    let a = cache("a");
    ok(meta.put_cache(&a, &cache_row(1)));
    for n in [1, 2] {
        let ops = vec![
            Op::Nar(a.clone(), nar_hash(n), nar_row(n)),
            Op::Alias(a.clone(), n.to_string(), alias_row(n)),
            Op::Path(a.clone(), store_hash(n), path_row(n, 10)),
            Op::Document(a.clone(), log(&n.to_string()), document_row(n)),
            count(10),
        ];
        one(meta, ops);
    }
    let ops = vec![
        Op::DeletePath(a.clone(), store_hash(1)),
        Op::DeleteNar(a.clone(), nar_hash(1)),
        Op::DeleteAlias(a.clone(), "1".to_owned()),
        Op::DeleteDocument(a.clone(), log("1")),
    ];
    one(meta, ops);
    assert_eq!(ok(meta.path(&a, &store_hash(1))), None);
    assert_eq!(ok(meta.paths(&a, None, 9)), [(store_hash(2), path_row(2, 10))]);
    assert_eq!(ok(meta.nars(&a, None, 9)), [(nar_hash(2), nar_row(2))]);
    assert_eq!(ok(meta.aliases(&a, None, 9)), [("2".to_owned(), alias_row(2))]);
    assert_eq!(ok(meta.documents(&a, None, 9)), [(log("2"), document_row(2))]);
    assert_eq!(ok(meta.totals()), Totals { paths: 1, logical_bytes: 10, ..Totals::default() });
}

fn deleting_what_is_not_there_changes_nothing(meta: &dyn Meta) {
    let a = cache("a");
    one(meta, vec![count(5)]);
    let before = ok(meta.totals());
    let ops = vec![
        Op::DeletePath(a.clone(), store_hash(1)),
        Op::DeleteNar(a.clone(), nar_hash(1)),
        Op::DeleteAlias(a.clone(), "1".to_owned()),
        Op::DeleteDocument(a, log("1")),
        Op::DeleteRecipe(recipe(1)),
    ];
    one(meta, ops);
    assert_eq!(ok(meta.totals()), before);
}

fn totals_follow_deleted_paths_within_a_batch(meta: &dyn Meta) {
    let a = cache("a");
    ok(meta.put_cache(&a, &cache_row(1)));
    let path = |size| Op::Path(a.clone(), store_hash(1), path_row(1, size));
    let delete = || Op::DeletePath(a.clone(), store_hash(1));
    one(meta, vec![path(10), count(10), delete(), delete()]);
    assert_eq!(ok(meta.totals()), Totals::default());
    assert_eq!(ok(meta.path(&a, &store_hash(1))), None);
    let batch = [commit(&[], vec![path(7), count(7)]), commit(&[], vec![delete(), path(9), count(9)])];
    assert_eq!(ok(meta.commit(1, &batch)), vec![Ok(()), Ok(())]);
    assert_eq!(ok(meta.totals()), Totals { paths: 1, logical_bytes: 9, ..Totals::default() });
    assert_eq!(ok(meta.path(&a, &store_hash(1))), Some(path_row(1, 9)));
}

fn a_deleted_recipe_frees_its_packs(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    one(meta, vec![Op::Recipe(recipe(1), recipe_row(&[1, 2])), Op::Recipe(recipe(2), recipe_row(&[2]))]);
    one(meta, vec![Op::DeleteRecipe(recipe(1))]);
    assert_eq!(ok(meta.recipe(&recipe(1))), None);
    assert_eq!(ok(meta.recipes(None, 9)), [(recipe(2), recipe_row(&[2]))]);
    assert_eq!(ok(meta.recipes_of_pack(pack(1), None, 9)), []);
    assert_eq!(ok(meta.recipes_of_pack(pack(2), None, 9)), [recipe(2)]);
    one(meta, vec![Op::Recipe(recipe(3), recipe_row(&[1])), Op::DeleteRecipe(recipe(3))]);
    assert_eq!(ok(meta.recipes_of_pack(pack(1), None, 9)), [], "within a batch as well");
    one(meta, vec![Op::DeleteRecipe(recipe(2)), Op::Recipe(recipe(2), recipe_row(&[1]))]);
    assert_eq!([1, 2].map(|n| ok(meta.recipes_of_pack(pack(n), None, 9)).len()), [1, 0]);
}

fn a_doomed_pack_is_removed_and_its_bytes_are_taken_off(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    doomed(meta, 1);
    assert!(ok(meta.remove_pack(pack(1))));
    assert_eq!(ok(meta.pack(pack(1))), None);
    assert_eq!(ok(meta.pack_since(pack(1))), None);
    assert_eq!(ok(meta.sealed_packs(0, 9)), [(2, pack(2))]);
    assert_eq!(ok(meta.totals()), Totals { stored_bytes: 1000, unique_bytes: 2000, ..Totals::default() });
    assert!(!ok(meta.remove_pack(pack(1))), "once");
    let refused = ok(meta.commit(1, &[commit(&[1], vec![])]));
    assert_eq!(refused, [Err(Refusal::PacksGone(vec![pack(1)]))]);
    sealed(meta, [3]);
    assert_eq!(ok(meta.sealed_packs(0, 9)), [(2, pack(2)), (3, pack(3))], "a number is never given again");
}

fn a_pack_that_is_not_doomed_is_not_removed(meta: &dyn Meta) {
    sealed(meta, [1, 2]);
    ok(meta.reserve_pack(pack(3), 1));
    assert!(ok(meta.set_pack_state(pack(2), PackState::Live, PackState::Condemned, 7)));
    for n in [1, 2, 3] {
        assert!(!ok(meta.remove_pack(pack(n))));
        assert!(ok(meta.pack(pack(n))).is_some());
    }
    assert!(!ok(meta.remove_pack(pack(9))));
}

fn times_of_packs(meta: &dyn Meta) {
    sealed(meta, [1]);
    let since = || ok(meta.pack_since(pack(1)));
    assert_eq!(since(), None);
    assert!(ok(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 300)));
    assert_eq!(since(), Some(300));
    assert!(ok(meta.set_pack_state(pack(1), PackState::Condemned, PackState::Live, 301)));
    assert_eq!(since(), None);
    assert!(ok(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 302)));
    assert_eq!(ok(meta.commit(303, &[commit(&[1], vec![])])), [Ok(())]);
    assert_eq!((state(meta, 1), since()), (PackState::Live, Some(302)), "a commit leaves the time");
    assert!(!ok(meta.set_pack_state(pack(1), PackState::Condemned, PackState::Doomed, 304)));
    assert_eq!(since(), Some(302), "what was not done changes nothing");
    doomed(meta, 1);
    assert!(since().is_some());
}

fn the_record_order_only_grows(meta: &dyn Meta) {
    assert_eq!(ok(meta.record_order()), 0);
    one(meta, vec![Op::RecordOrder(5), Op::RecordOrder(3)]);
    assert_eq!(ok(meta.record_order()), 5);
    one(meta, vec![Op::RecordOrder(4)]);
    assert_eq!(ok(meta.record_order()), 5);
    let refused = commit(&[9], vec![Op::RecordOrder(6)]);
    assert!(ok(meta.commit(1, &[refused]))[0].is_err());
    assert_eq!(ok(meta.record_order()), 5);
}

fn uses_are_noted_and_go_with_their_path(meta: &dyn Meta) {
    let (a, b) = (cache("a"), cache("b"));
    ok(meta.put_cache(&a, &cache_row(1)));
    ok(meta.note_uses(&a, &[(store_hash(2), 5), (store_hash(1), 6)]));
    ok(meta.note_uses(&b, &[(store_hash(1), 7)]));
    ok(meta.note_uses(&a, &[(store_hash(2), 8)]));
    assert_eq!(ok(meta.uses(&a, None, 9)), [(store_hash(1), 6), (store_hash(2), 8)]);
    assert_eq!(ok(meta.uses(&a, Some(store_hash(1)), 9)), [(store_hash(2), 8)]);
    assert_eq!(ok(meta.last_use(&b, &store_hash(1))), Some(7));
    one(meta, vec![Op::Path(a.clone(), store_hash(1), path_row(1, 1)), count(1)]);
    one(meta, vec![Op::DeletePath(a.clone(), store_hash(1))]);
    assert_eq!(ok(meta.last_use(&a, &store_hash(1))), None);
    assert!(ok(meta.delete_cache(&a)));
    assert_eq!(ok(meta.uses(&a, None, 9)), []);
    assert_eq!(ok(meta.uses(&b, None, 9)), [(store_hash(1), 7)]);
    ok(meta.note_uses(&b, &[(use_of_nar(&nar_hash(3)), 9)]));
    one(meta, vec![Op::DeleteNar(b.clone(), nar_hash(3))]);
    assert_eq!(ok(meta.uses(&b, None, 9)), [(store_hash(1), 7)], "a NAR's use goes with the NAR");
    assert_eq!(ok(meta.uses_since()), None);
    ok(meta.set_uses_since(300));
    assert_eq!(ok(meta.uses_since()), Some(300));
}

fn numbers_of_keys_only_go_up(meta: &dyn Meta) {
    assert_eq!(ok(meta.key_numbers()), []);
    for (stem, number) in [("a", 2), ("a-b", 7), ("a", 3), ("a", 1)] {
        ok(meta.note_key_number(stem, number));
    }
    let a = cache("a");
    ok(meta.put_cache(&a, &cache_row(1)));
    assert!(ok(meta.delete_cache(&a)));
    assert_eq!(ok(meta.key_numbers()), [("a".to_owned(), 3), ("a-b".to_owned(), 7)], "they outlive the cache");
    assert_eq!(ok(meta.deleted_caches()), [a]);
}

fn pins_and_retention_belong_to_a_cache(meta: &dyn Meta) {
    let a = cache("a");
    assert!(!ok(meta.put_pin(&a, &pin_name(1), &pin_row(1))), "there is no such cache");
    assert!(!ok(meta.put_retention(&a, &retention_row(1))));
    assert_eq!(ok(meta.retention(&a)), RetentionRow::default());
    assert!(!ok(meta.put_upstreams(&a, &upstreams_row(1))));
    for name in ["a", "a-"] {
        ok(meta.put_cache(&cache(name), &cache_row(1)));
        assert!(ok(meta.put_pin(&cache(name), &pin_name(2), &pin_row(2))));
        assert!(ok(meta.put_pin(&cache(name), &pin_name(1), &pin_row(9))));
        assert!(ok(meta.put_pin(&cache(name), &pin_name(1), &pin_row(1))));
        assert!(ok(meta.put_retention(&cache(name), &retention_row(4))));
        assert!(ok(meta.put_upstreams(&cache(name), &upstreams_row(2))));
    }
    assert_eq!(ok(meta.upstreams(&a)), upstreams_row(2));
    assert_eq!(ok(meta.pins(&a)), [(pin_name(1), pin_row(1)), (pin_name(2), pin_row(2))]);
    assert!(ok(meta.remove_pin(&a, &pin_name(1))));
    assert!(!ok(meta.remove_pin(&a, &pin_name(1))));
    assert_eq!(ok(meta.pins(&a)), [(pin_name(2), pin_row(2))]);
    assert!(ok(meta.delete_cache(&a)));
    assert_eq!(ok(meta.pins(&a)), []);
    assert_eq!(ok(meta.retention(&a)), RetentionRow::default());
    assert_eq!(ok(meta.upstreams(&a)), upstreams_row(0));
    assert_eq!(ok(meta.pins(&cache("a-"))).len(), 2);
    assert_eq!(ok(meta.upstreams(&cache("a-"))), upstreams_row(2));
    assert_eq!(ok(meta.retention(&cache("a-"))), retention_row(4));
}

fn issued_tokens_come_and_go(meta: &dyn Meta) {
    assert_eq!(ok(meta.issued()), []);
    for n in [3, 1, 2] {
        ok(meta.put_issued(&TokenId(n), &issued_row(1)));
    }
    ok(meta.put_issued(&TokenId(2), &issued_row(2)));
    assert_eq!(
        ok(meta.issued()),
        [(TokenId(1), issued_row(1)), (TokenId(2), issued_row(2)), (TokenId(3), issued_row(1))]
    );
    assert_eq!(ok(meta.tokens()), []);
    ok(meta.remove_issued(&[TokenId(1), TokenId(3), TokenId(9)]));
    assert_eq!(ok(meta.issued()), [(TokenId(2), issued_row(2))]);
}

fn a_lease_is_one_holders(meta: &dyn Meta) {
    assert!(ok(meta.take_lease("gc", 1, 100, 110)));
    assert!(!ok(meta.take_lease("gc", 2, 109, 120)));
    assert!(ok(meta.take_lease("other", 2, 109, 120)), "each name is a lease of its own");
    assert!(ok(meta.take_lease("gc", 1, 109, 115)), "its holder may prolong it");
    assert!(!ok(meta.take_lease("gc", 2, 114, 120)));
    assert!(ok(meta.take_lease("gc", 2, 115, 120)), "it had ended");
    assert!(!ok(meta.take_lease("gc", 1, 116, 130)));
    ok(meta.end_lease("gc", 1));
    assert!(!ok(meta.take_lease("gc", 1, 116, 130)), "it was not its to end");
    ok(meta.end_lease("gc", 2));
    assert!(ok(meta.take_lease("gc", 1, 116, 130)));
    ok(meta.end_any_lease("gc"));
    assert!(ok(meta.take_lease("gc", 2, 117, 130)));
    ok(meta.end_any_lease("no such lease"));
}

fn deleted_caches_are_known_until_packs_say_so(meta: &dyn Meta) {
    for name in ["a", "b"] {
        ok(meta.put_cache(&cache(name), &cache_row(1)));
        assert_eq!(ok(meta.deleted_caches()), if name == "a" { vec![] } else { vec![cache("a")] });
        assert!(ok(meta.delete_cache(&cache(name))));
    }
    assert!(!ok(meta.delete_cache(&cache("c"))));
    assert_eq!(ok(meta.deleted_caches()), [cache("a"), cache("b")]);
    one(meta, vec![Op::CacheGoneRecorded(cache("a"))]);
    assert_eq!(ok(meta.deleted_caches()), [cache("b")]);
}
