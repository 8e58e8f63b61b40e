//! Sources, and what is remembered of them.

use super::samples::{source_name, source_row, source_state};
use super::{Case, ok};
use crate::{Meta, SourceStateRow};

pub(super) const CASES: &[Case] = &[
    there_are_none_at_first,
    they_come_in_order_and_may_be_changed,
    what_is_remembered_goes_with_its_source,
    settings_change_without_what_is_remembered,
];

fn there_are_none_at_first(meta: &dyn Meta) {
    assert_eq!(ok(meta.sources()), vec![]);
    assert_eq!(ok(meta.source(&source_name(1))), None);
    assert!(!ok(meta.remove_source(&source_name(1))));
    assert_eq!(ok(meta.source_state(&source_name(1))), SourceStateRow::default());
    assert_eq!(ok(meta.source_seen(&source_name(1))), Vec::<u8>::new());
    assert!(!ok(meta.put_source_state(&source_name(1), &source_state(1), Some(b"x"))), "there is no such source");
    assert_eq!(ok(meta.source_state(&source_name(1))), SourceStateRow::default());
    assert_eq!(ok(meta.source_seen(&source_name(1))), Vec::<u8>::new());
}

fn they_come_in_order_and_may_be_changed(meta: &dyn Meta) {
    for n in [3, 1, 2] {
        ok(meta.put_source(&source_name(n), &source_row(9)));
    }
    ok(meta.put_source(&source_name(2), &source_row(2)));
    let all = [(1, 9), (2, 2), (3, 9)].map(|(name, row)| (source_name(name), source_row(row)));
    assert_eq!(ok(meta.sources()), all);
    assert_eq!(ok(meta.source(&source_name(2))), Some(source_row(2)));
}

fn what_is_remembered_goes_with_its_source(meta: &dyn Meta) {
    for n in [1, 2] {
        ok(meta.put_source(&source_name(n), &source_row(n)));
        assert!(ok(meta.put_source_state(&source_name(n), &source_state(n), Some(&[n; 4]))));
    }
    assert!(ok(meta.remove_source(&source_name(1))));
    ok(meta.put_source(&source_name(1), &source_row(1)));
    assert_eq!(ok(meta.source_state(&source_name(1))), SourceStateRow::default());
    assert_eq!(ok(meta.source_seen(&source_name(1))), Vec::<u8>::new());
    assert_eq!(ok(meta.source_state(&source_name(2))), source_state(2));
    assert_eq!(ok(meta.source_seen(&source_name(2))), vec![2; 4]);
    assert_eq!(ok(meta.sources()).len(), 2);
}

fn settings_change_without_what_is_remembered(meta: &dyn Meta) {
    let name = source_name(1);
    ok(meta.put_source(&name, &source_row(1)));
    assert!(ok(meta.put_source_state(&name, &source_state(1), Some(b"seen"))));
    ok(meta.put_source(&name, &source_row(2)));
    assert!(ok(meta.put_source_state(&name, &source_state(3), None)));
    assert_eq!(ok(meta.source_state(&name)), source_state(3));
    assert_eq!(ok(meta.source_seen(&name)), b"seen");
    assert!(ok(meta.put_source_state(&name, &source_state(3), Some(b""))));
    assert_eq!(ok(meta.source_seen(&name)), b"");
}
