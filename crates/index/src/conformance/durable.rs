//! What a [`Meta`] still knows when it is opened again.

use super::packs::sealed;
use super::samples::{
    cache, cache_row, collection_row, commit, issued_row, nar_hash, nar_row, pack, path_row, recipe, recipe_row,
    source_name, source_row, source_state, store_hash, store_info, token_row, upstreams_row,
};
use super::{Open, ok};
use crate::{CollectionRow, Meta, Op, SessionId, TokenId, Totals};

/// Checks that everything that returned is there after a clean end and after a crash, but for sessions.
///
/// # Panics
/// Where the engine breaks the trait's word.
pub fn durable_meta(open: &mut dyn FnMut(Open) -> Box<dyn Meta>) {
    for end in [Open::Reopened, Open::Crashed] {
        each_write_is_kept(open, end);
        numbers_go_on(open, end);
        a_deleted_cache_stays_deleted(open, end);
        a_flushed_index_goes_on(open, end);
    }
}

/// Ends an engine and opens what is left.
fn end_and_open(meta: Box<dyn Meta>, open: &mut dyn FnMut(Open) -> Box<dyn Meta>, end: Open) -> Box<dyn Meta> {
    if end == Open::Crashed {
        let crashed = open(end);
        drop(meta);
        return crashed;
    }
    drop(meta);
    open(end)
}

fn each_write_is_kept(open: &mut dyn FnMut(Open) -> Box<dyn Meta>, end: Open) {
    let a = cache("a");
    let meta = open(Open::Fresh);
    ok(meta.set_store_info(&store_info(1)));
    let mut meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.store_info()), Some(store_info(1)), "{end:?}");

    ok(meta.put_cache(&a, &cache_row(1)));
    meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.cache(&a)), Some(cache_row(1)), "{end:?}");

    ok(meta.put_token(&TokenId(1), &token_row(1)));
    meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.token(&TokenId(1))), Some(token_row(1)), "{end:?}");

    ok(meta.put_source(&source_name(1), &source_row(1)));
    assert!(ok(meta.put_source_state(&source_name(1), &source_state(1), Some(b"seen"))));
    meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.sources()), vec![(source_name(1), source_row(1))], "{end:?}");
    assert_eq!(ok(meta.source_state(&source_name(1))), source_state(1), "{end:?}");
    assert_eq!(ok(meta.source_seen(&source_name(1))), b"seen", "{end:?}");
    assert!(ok(meta.put_upstreams(&a, &upstreams_row(2))));
    ok(meta.put_issued(&TokenId(2), &issued_row(2)));
    meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.upstreams(&a)), upstreams_row(2), "{end:?}");
    assert_eq!(ok(meta.issued()), [(TokenId(2), issued_row(2))], "{end:?}");

    assert_eq!(ok(meta.collection()), CollectionRow::default(), "{end:?}");
    ok(meta.set_collection(&collection_row(1)));
    meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.collection()), collection_row(1), "{end:?}");

    ok(meta.reserve_pack(pack(1), 5));
    meta = end_and_open(meta, open, end);
    assert!(ok(meta.pack(pack(1))).is_some(), "{end:?}");

    ok(meta.begin_session(SessionId(1), 1, 1000));
    let ops = vec![
        Op::Recipe(recipe(1), recipe_row(&[1])),
        Op::Nar(a.clone(), nar_hash(1), nar_row(1)),
        Op::Path(a.clone(), store_hash(1), path_row(1, 10)),
        Op::PackDurable(pack(1), 50),
        Op::Count(Totals { paths: 1, logical_bytes: 10, ..Totals::default() }),
    ];
    assert_eq!(ok(meta.commit(2, &[commit(&[1], ops)])), vec![Ok(())]);
    meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.recipe(&recipe(1))), Some(recipe_row(&[1])), "{end:?}");
    assert_eq!(ok(meta.recipes_of_pack(pack(1), None, 9)), [recipe(1)], "{end:?}");
    assert_eq!(ok(meta.nar(&a, &nar_hash(1))), Some(nar_row(1)), "{end:?}");
    assert_eq!(ok(meta.path(&a, &store_hash(1))), Some(path_row(1, 10)), "{end:?}");
    assert_eq!(ok(meta.pack(pack(1))).map(|row| row.durable_bytes), Some(50), "{end:?}");
    assert_eq!(ok(meta.totals()).logical_bytes, 10, "{end:?}");
    assert_eq!(ok(meta.oldest_session(3)), None, "a restart ends every session");
}

fn numbers_go_on(open: &mut dyn FnMut(Open) -> Box<dyn Meta>, end: Open) {
    let meta = open(Open::Fresh);
    sealed(&*meta, [1, 2]);
    let meta = end_and_open(meta, open, end);
    sealed(&*meta, [3]);
    let meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.sealed_packs(0, 9)), [(1, pack(1)), (2, pack(2)), (3, pack(3))], "{end:?}");
    assert_eq!(ok(meta.seal_pack(pack(2), 0, 0)), 2, "{end:?}");
}

fn a_deleted_cache_stays_deleted(open: &mut dyn FnMut(Open) -> Box<dyn Meta>, end: Open) {
    let a = cache("a");
    let meta = open(Open::Fresh);
    ok(meta.put_cache(&a, &cache_row(1)));
    let op = || Op::Path(cache("a"), store_hash(1), path_row(1, 10));
    assert_eq!(ok(meta.commit(2, &[commit(&[], vec![op()])])), vec![Ok(())]);
    ok(meta.flush());
    assert!(ok(meta.delete_cache(&a)));
    let meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.cache(&a)), None, "{end:?}");
    assert_eq!(ok(meta.path(&a, &store_hash(1))), None, "{end:?}");
    ok(meta.put_cache(&a, &cache_row(2)));
    assert_eq!(ok(meta.paths(&a, None, 9)), vec![], "{end:?}");
    assert_eq!(ok(meta.commit(2, &[commit(&[], vec![op()])])), vec![Ok(())]);
    let meta = end_and_open(meta, open, end);
    assert_eq!(ok(meta.path(&a, &store_hash(1))), Some(path_row(1, 10)), "{end:?}");
}

fn a_flushed_index_goes_on(open: &mut dyn FnMut(Open) -> Box<dyn Meta>, end: Open) {
    let a = cache("a");
    let mut meta = open(Open::Fresh);
    ok(meta.put_cache(&a, &cache_row(1)));
    for n in 0..20 {
        let op = Op::Path(a.clone(), store_hash(n), path_row(n, 1));
        assert_eq!(ok(meta.commit(2, &[commit(&[], vec![op])])), vec![Ok(())]);
        if n % 3 == 0 {
            ok(meta.flush());
        }
        if n % 5 == 0 {
            meta = end_and_open(meta, open, end);
        }
    }
    let all: Vec<_> = (0..20).map(|n| (store_hash(n), path_row(n, 1))).collect();
    assert_eq!(ok(meta.paths(&a, None, 99)), all, "{end:?}");
}
