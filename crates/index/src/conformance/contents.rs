//! What the store and its caches hold.

use super::samples::{
    alias_row, cache, cache_row, commit, document_row, log, nar_hash, nar_row, path_row, recipe, recipe_row,
    store_hash, store_info, token_row,
};
use super::{Case, ok};
use crate::{DocumentKey, DocumentKind, Meta, Op, TokenId, Totals};

pub(super) const CASES: &[Case] = &[
    a_new_index_is_empty,
    the_identity,
    rows_come_back_whole,
    caches_are_apart,
    documents_are_apart,
    pages_of_paths,
    pages_of_everything_else,
    caches_and_tokens_are_listed_in_order,
    deleting_a_cache,
    deleting_a_cache_spares_names_that_begin_alike,
];

fn a_new_index_is_empty(meta: &dyn Meta) {
    let a = cache("a");
    assert_eq!(ok(meta.store_info()), None);
    assert_eq!(ok(meta.totals()), Totals::default());
    assert_eq!(ok(meta.recipe(&recipe(1))), None);
    assert_eq!(ok(meta.nar(&a, &nar_hash(1))), None);
    assert_eq!(ok(meta.alias(&a, "x")), None);
    assert_eq!(ok(meta.path(&a, &store_hash(1))), None);
    assert_eq!(ok(meta.paths(&a, None, 9)), vec![]);
    assert_eq!(ok(meta.document(&a, &log("x"))), None);
    assert_eq!(ok(meta.cache(&a)), None);
    assert_eq!(ok(meta.caches()), vec![]);
    assert!(!ok(meta.delete_cache(&a)));
    assert_eq!(ok(meta.token(&TokenId(1))), None);
    assert_eq!(ok(meta.tokens()), vec![]);
    ok(meta.flush());
}

fn the_identity(meta: &dyn Meta) {
    ok(meta.set_store_info(&store_info(1)));
    assert_eq!(ok(meta.store_info()), Some(store_info(1)));
    ok(meta.set_store_info(&store_info(2)));
    assert_eq!(ok(meta.store_info()), Some(store_info(2)));
}

/// Writes one row of each kind to a cache, which is made as well.
fn fill(meta: &dyn Meta, name: &str, n: u8) {
    let to = cache(name);
    ok(meta.put_cache(&to, &cache_row(u32::from(n))));
    let ops = vec![
        Op::Recipe(recipe(n), recipe_row(&[])),
        Op::Nar(to.clone(), nar_hash(1), nar_row(n)),
        Op::Alias(to.clone(), "x.nar.xz".to_owned(), alias_row(n)),
        Op::Path(to.clone(), store_hash(1), path_row(n, 1000)),
        Op::Path(to.clone(), store_hash(255), path_row(n, 100)),
        Op::Document(to, log("drv"), document_row(n)),
        Op::Count(Totals { paths: 2, logical_bytes: 1100, unique_bytes: 70, stored_bytes: 7 }),
    ];
    assert_eq!(ok(meta.commit(1, &[commit(&[], ops)])), vec![Ok(())]);
}

/// Checks that a cache holds what [`fill`] wrote to it.
#[track_caller]
fn assert_filled(meta: &dyn Meta, name: &str, n: u8) {
    let of = cache(name);
    assert_eq!(ok(meta.cache(&of)), Some(cache_row(u32::from(n))));
    assert_eq!(ok(meta.nar(&of, &nar_hash(1))), Some(nar_row(n)));
    assert_eq!(ok(meta.alias(&of, "x.nar.xz")), Some(alias_row(n)));
    assert_eq!(ok(meta.path(&of, &store_hash(1))), Some(path_row(n, 1000)));
    assert!(meta.path_may_exist(&of, &store_hash(1)), "what exists may exist");
    let all = vec![(store_hash(1), path_row(n, 1000)), (store_hash(255), path_row(n, 100))];
    assert_eq!(ok(meta.paths(&of, None, 9)), all);
    assert_eq!(ok(meta.document(&of, &log("drv"))), Some(document_row(n)));
}

/// Checks that nothing of a cache is left.
#[track_caller]
fn assert_nothing_left(meta: &dyn Meta, name: &str) {
    let of = cache(name);
    assert_eq!(ok(meta.cache(&of)), None);
    assert_eq!(ok(meta.nar(&of, &nar_hash(1))), None);
    assert_eq!(ok(meta.alias(&of, "x.nar.xz")), None);
    assert_eq!(ok(meta.path(&of, &store_hash(1))), None);
    assert_eq!(ok(meta.paths(&of, None, 9)), vec![]);
    assert_eq!(ok(meta.document(&of, &log("drv"))), None);
}

fn rows_come_back_whole(meta: &dyn Meta) {
    fill(meta, "a", 3);
    assert_filled(meta, "a", 3);
    assert_eq!(ok(meta.recipe(&recipe(3))), Some(recipe_row(&[])));
    assert_eq!(ok(meta.path(&cache("a"), &store_hash(2))), None);
    assert_eq!(ok(meta.alias(&cache("a"), "x.nar.x")), None);
    assert_eq!(ok(meta.alias(&cache("a"), "x.nar.xz2")), None);
}

fn caches_are_apart(meta: &dyn Meta) {
    for (name, n) in [("a", 1), ("ab", 2), ("a-b", 3), ("b", 4)] {
        fill(meta, name, n);
    }
    for (name, n) in [("a", 1), ("ab", 2), ("a-b", 3), ("b", 4)] {
        assert_filled(meta, name, n);
    }
}

fn documents_are_apart(meta: &dyn Meta) {
    let a = cache("a");
    ok(meta.put_cache(&a, &cache_row(1)));
    let kinds = [
        DocumentKind::Log,
        DocumentKind::Realisation,
        DocumentKind::BuildTrace,
        DocumentKind::DebugInfo,
        DocumentKind::Difference,
    ];
    let key = |kind| DocumentKey { kind, name: "same!out".to_owned() };
    let ops = kinds.iter().zip(1..).map(|(kind, n)| Op::Document(a.clone(), key(*kind), document_row(n))).collect();
    assert_eq!(ok(meta.commit(1, &[commit(&[], ops)])), vec![Ok(())]);
    for (kind, n) in kinds.into_iter().zip(1..) {
        assert_eq!(ok(meta.document(&a, &key(kind))), Some(document_row(n)));
    }
    assert_eq!(ok(meta.document(&a, &log("same!"))), None);
}

fn pages_of_paths(meta: &dyn Meta) {
    for name in ["a", "aa", "b"] {
        ok(meta.put_cache(&cache(name), &cache_row(1)));
    }
    let path = |name, n| Op::Path(cache(name), store_hash(n), path_row(n, 1));
    let ops = vec![path("a", 7), path("a", 0), path("a", 255), path("a", 2), path("aa", 3), path("b", 4)];
    assert_eq!(ok(meta.commit(1, &[commit(&[], ops)])), vec![Ok(())]);
    let page = |after: Option<u8>, limit| -> Vec<u8> {
        let rows = ok(meta.paths(&cache("a"), after.map(store_hash), limit));
        rows.into_iter().map(|(hash, _)| hash.0[0]).collect()
    };
    assert_eq!(page(None, 2), [0, 2]);
    assert_eq!(page(Some(2), 2), [7, 255]);
    assert_eq!(page(Some(255), 2), [0; 0]);
    assert_eq!(page(Some(1), 99), [2, 7, 255]);
    assert_eq!(page(None, 0), [0; 0]);
}

fn pages_of_everything_else(meta: &dyn Meta) {
    let (a, documents) =
        (cache("a"), [log("x"), log("y"), DocumentKey { kind: DocumentKind::DebugInfo, name: "a".to_owned() }]);
    for name in ["a", "aa", "b"] {
        fill(meta, name, 9);
    }
    let nar = |n| Op::Nar(a.clone(), nar_hash(n), nar_row(n));
    let document = |key: &DocumentKey| Op::Document(a.clone(), key.clone(), document_row(1));
    let recipe_of = |n| Op::Recipe(recipe(n), recipe_row(&[]));
    let mut ops = vec![nar(7), nar(0), nar(255), recipe_of(3), recipe_of(200)];
    ops.extend(documents.iter().map(document));
    assert_eq!(ok(meta.commit(1, &[commit(&[], ops)])), vec![Ok(())]);

    let nars = |after: Option<u8>, limit| -> Vec<u8> {
        ok(meta.nars(&a, after.map(nar_hash), limit)).into_iter().map(|(hash, _)| hash.0[0]).collect()
    };
    assert_eq!(nars(None, 9), [0, 1, 7, 255]);
    assert_eq!(nars(Some(1), 1), [7]);
    assert_eq!(nars(Some(255), 9), [0; 0]);

    let recipes = |after: Option<u8>, limit| -> Vec<u8> {
        ok(meta.recipes(after.map(recipe), limit)).into_iter().map(|(id, _)| id.0[0]).collect()
    };
    assert_eq!(recipes(None, 9), [3, 9, 200]);
    assert_eq!(recipes(Some(3), 1), [9]);
    assert_eq!(recipes(Some(200), 9), [0; 0]);

    let names = |after: Option<&DocumentKey>, limit| -> Vec<String> {
        ok(meta.documents(&a, after, limit)).into_iter().map(|(key, _)| key.name).collect()
    };
    assert_eq!(names(None, 9), ["drv", "x", "y", "a"]);
    assert_eq!(names(Some(&documents[0]), 1), ["y"]);
    assert_eq!(names(Some(&documents[2]), 9), [""; 0]);
}

fn caches_and_tokens_are_listed_in_order(meta: &dyn Meta) {
    for name in ["b", "a-z", "a"] {
        ok(meta.put_cache(&cache(name), &cache_row(1)));
    }
    ok(meta.put_cache(&cache("b"), &cache_row(2)));
    let names: Vec<_> = ok(meta.caches()).into_iter().map(|(name, row)| (name.to_string(), row.priority)).collect();
    assert_eq!(names, [("a".to_owned(), 1), ("a-z".to_owned(), 1), ("b".to_owned(), 2)]);

    for n in [300, 2, u64::MAX] {
        ok(meta.put_token(&TokenId(n), &token_row(1)));
    }
    ok(meta.put_token(&TokenId(2), &token_row(9)));
    let tokens: Vec<_> = ok(meta.tokens()).into_iter().map(|(id, row)| (id.0, row.secret_hash[0])).collect();
    assert_eq!(tokens, [(2, 9), (300, 1), (u64::MAX, 1)]);
    assert_eq!(ok(meta.token(&TokenId(2))), Some(token_row(9)));
}

fn deleting_a_cache(meta: &dyn Meta) {
    fill(meta, "a", 1);
    fill(meta, "b", 2);
    assert!(ok(meta.delete_cache(&cache("a"))));
    assert_nothing_left(meta, "a");
    assert_filled(meta, "b", 2);
    assert_eq!(ok(meta.recipe(&recipe(1))), Some(recipe_row(&[])), "recipes stay");
    let left = Totals { paths: 2, logical_bytes: 1100, unique_bytes: 140, stored_bytes: 14 };
    assert_eq!(ok(meta.totals()), left);

    assert!(!ok(meta.delete_cache(&cache("a"))));
    assert_eq!(ok(meta.totals()), left);
    fill(meta, "a", 5);
    assert_filled(meta, "a", 5);
}

fn deleting_a_cache_spares_names_that_begin_alike(meta: &dyn Meta) {
    for (name, n) in [("a", 1), ("aa", 2), ("a-", 3), ("b", 4)] {
        fill(meta, name, n);
    }
    assert!(ok(meta.delete_cache(&cache("a"))));
    assert_nothing_left(meta, "a");
    for (name, n) in [("aa", 2), ("a-", 3), ("b", 4)] {
        assert_filled(meta, name, n);
    }
}
