//! Counters, sums of days, and where paths came from.

use super::samples::{cache, cache_row, commit, nar_hash, push_record, store_hash};
use super::{Case, ok};
use crate::{Day, Meta, Op, Refusal, SummaryRow, UsageKey, UsageRow};

pub(super) const CASES: &[Case] = &[
    nothing_at_first,
    counters_add_up,
    counters_come_in_order_and_pages,
    old_days_are_forgotten,
    sums_of_days,
    pushes_are_recorded,
    pushes_of_a_refused_commit_are_not,
    only_so_many_pushes_are_kept,
    provenance_goes_with_its_cache,
];

fn key(day: Day, of: &str, builder: &str) -> UsageKey {
    UsageKey { day, cache: cache(of), builder: builder.to_owned() }
}

fn row(paths: u64) -> UsageRow {
    UsageRow { paths, last_at: paths, ..UsageRow::default() }
}

fn nothing_at_first(meta: &dyn Meta) {
    assert_eq!(ok(meta.usage(0, None, 9)), vec![]);
    assert_eq!(ok(meta.summaries(0)), vec![]);
    assert_eq!(ok(meta.last_report()), None);
    assert_eq!(ok(meta.provenance(&cache("a"), &store_hash(1))), None);
    ok(meta.add_usage(&[]));
    ok(meta.forget_usage(7));
}

fn counters_add_up(meta: &dyn Meta) {
    ok(meta.add_usage(&[(key(1, "a", "x"), row(1)), (key(1, "a", "x"), row(2))]));
    ok(meta.add_usage(&[(key(1, "a", "x"), UsageRow { paths: 4, hits: u64::MAX, last_at: 1, ..UsageRow::default() })]));
    ok(meta.add_usage(&[(key(1, "a", "x"), UsageRow { hits: 1, ..UsageRow::default() })]));
    let sum = UsageRow { paths: 7, hits: u64::MAX, last_at: 2, ..UsageRow::default() };
    assert_eq!(ok(meta.usage(0, None, 9)), vec![(key(1, "a", "x"), sum)]);
}

fn counters_come_in_order_and_pages(meta: &dyn Meta) {
    let all = [key(1, "b", "z"), key(2, "a", ""), key(2, "a", "x"), key(2, "a-", "x"), key(300, "a", "y")];
    for (key, paths) in all.iter().rev().zip(1..) {
        ok(meta.add_usage(&[(key.clone(), row(paths))]));
    }
    let page = |from, after: Option<&UsageKey>, limit| -> Vec<UsageKey> {
        ok(meta.usage(from, after, limit)).into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(page(0, None, 9), all);
    assert_eq!(page(2, None, 2), all[1..3]);
    assert_eq!(page(2, Some(&all[2]), 9), all[3..]);
    assert_eq!(page(300, Some(&all[0]), 9), all[4..]);
    assert_eq!(page(301, None, 9), []);
    assert_eq!(page(0, None, 0), []);
}

fn old_days_are_forgotten(meta: &dyn Meta) {
    for day in [1, 2, 300] {
        ok(meta.add_usage(&[(key(day, "a", "x"), row(1))]));
        ok(meta.put_summary(day, &SummaryRow { paths: day.into(), ..SummaryRow::default() }, b"report"));
    }
    ok(meta.forget_usage(300));
    assert_eq!(ok(meta.usage(0, None, 9)), vec![(key(300, "a", "x"), row(1))]);
    assert_eq!(ok(meta.summaries(0)).into_iter().map(|(day, _)| day).collect::<Vec<_>>(), [300]);
    assert_eq!(ok(meta.last_report()), Some(b"report".to_vec()), "the newest report stays");
}

fn sums_of_days(meta: &dyn Meta) {
    let sums = |paths| SummaryRow { at: 9, paths, stored_bytes: 7, ..SummaryRow::default() };
    ok(meta.put_summary(20, &sums(1), b"first"));
    ok(meta.put_summary(3, &sums(2), b"second"));
    ok(meta.put_summary(20, &sums(3), b""));
    assert_eq!(ok(meta.summaries(0)), vec![(3, sums(2)), (20, sums(3))]);
    assert_eq!(ok(meta.summaries(4)), vec![(20, sums(3))]);
    assert_eq!(ok(meta.last_report()), Some(Vec::new()));
    assert_eq!(ok(meta.usage(0, None, 9)), vec![], "counters are other keys");
}

fn pushes_are_recorded(meta: &dyn Meta) {
    ok(meta.put_cache(&cache("a"), &cache_row(1)));
    let op = |n| Op::Pushed(cache("a"), store_hash(1), push_record(n));
    assert_eq!(ok(meta.commit(1, &[commit(&[], vec![op(1), op(2)]), commit(&[], vec![op(3)])])), [Ok(()), Ok(())]);
    assert_eq!(ok(meta.commit(1, &[commit(&[], vec![op(4)])])), [Ok(())]);
    let row = ok(meta.provenance(&cache("a"), &store_hash(1))).expect("it was written");
    assert_eq!(row.pushes, [1, 2, 3, 4].map(push_record));
    assert_eq!(ok(meta.provenance(&cache("a"), &store_hash(2))), None);
}

fn pushes_of_a_refused_commit_are_not(meta: &dyn Meta) {
    let op = Op::Pushed(cache("a"), store_hash(1), push_record(1));
    assert_eq!(ok(meta.commit(1, &[commit(&[], vec![op])])), [Err(Refusal::CacheGone(cache("a")))]);
    assert_eq!(ok(meta.provenance(&cache("a"), &store_hash(1))), None);
}

fn only_so_many_pushes_are_kept(meta: &dyn Meta) {
    ok(meta.put_cache(&cache("a"), &cache_row(1)));
    for n in 0..30 {
        let op = Op::Pushed(cache("a"), store_hash(1), push_record(n));
        assert_eq!(ok(meta.commit(1, &[commit(&[], vec![op])])), [Ok(())]);
    }
    let row = ok(meta.provenance(&cache("a"), &store_hash(1))).expect("it was written");
    let kept: Vec<_> = row.pushes.iter().map(|push| push.nar_hash).collect();
    let expected: Vec<_> = (0..4).chain(18..30).map(nar_hash).collect();
    assert_eq!(kept, expected, "the first and the newest");
}

fn provenance_goes_with_its_cache(meta: &dyn Meta) {
    for name in ["a", "ab"] {
        ok(meta.put_cache(&cache(name), &cache_row(1)));
        let op = Op::Pushed(cache(name), store_hash(1), push_record(1));
        assert_eq!(ok(meta.commit(1, &[commit(&[], vec![op])])), [Ok(())]);
    }
    assert!(ok(meta.delete_cache(&cache("a"))));
    assert_eq!(ok(meta.provenance(&cache("a"), &store_hash(1))), None);
    assert!(ok(meta.provenance(&cache("ab"), &store_hash(1))).is_some());
}
