//! Sessions and their leases.

use super::samples::commit;
use super::{Case, ok};
use crate::{Commit, Meta, Op, Refusal, SessionId, Totals};

pub(super) const CASES: &[Case] = &[a_lease_ends_on_time, renewing, ending, the_oldest, a_commit_wants_a_live_session];

const A: SessionId = SessionId(u128::MAX);
const B: SessionId = SessionId(1);

fn a_lease_ends_on_time(meta: &dyn Meta) {
    assert_eq!(ok(meta.oldest_session(0)), None);
    ok(meta.begin_session(A, 10, 20));
    assert_eq!(ok(meta.oldest_session(19)), Some(10));
    assert_eq!(ok(meta.oldest_session(20)), None);
}

fn renewing(meta: &dyn Meta) {
    assert!(!ok(meta.renew_session(A, 10, 100)), "never begun");
    ok(meta.begin_session(A, 10, 20));
    assert!(ok(meta.renew_session(A, 19, 30)));
    assert!(ok(meta.renew_session(A, 29, 40)));
    assert!(!ok(meta.renew_session(A, 40, 50)), "its lease is over");
    assert!(!ok(meta.renew_session(A, 41, 60)), "a refused renewal renews nothing");
}

fn ending(meta: &dyn Meta) {
    ok(meta.end_session(A));
    ok(meta.begin_session(A, 10, 20));
    ok(meta.begin_session(B, 11, 20));
    ok(meta.end_session(A));
    ok(meta.end_session(A));
    assert!(!ok(meta.renew_session(A, 12, 100)));
    assert!(ok(meta.renew_session(B, 12, 100)));
}

fn the_oldest(meta: &dyn Meta) {
    ok(meta.begin_session(A, 12, 30));
    ok(meta.begin_session(B, 10, 20));
    assert_eq!(ok(meta.oldest_session(15)), Some(10));
    assert_eq!(ok(meta.oldest_session(25)), Some(12));
}

fn a_commit_wants_a_live_session(meta: &dyn Meta) {
    let under = |session| Commit { session, ..commit(&[], vec![Op::Count(Totals { paths: 1, ..Totals::default() })]) };
    ok(meta.begin_session(A, 10, 20));
    let batch = [under(Some(A)), under(Some(B)), under(None)];
    assert_eq!(ok(meta.commit(19, &batch)), vec![Ok(()), Err(Refusal::SessionExpired), Ok(())]);
    assert_eq!(ok(meta.totals()).paths, 2);
    assert_eq!(ok(meta.commit(20, &batch[..1])), vec![Err(Refusal::SessionExpired)]);
    ok(meta.begin_session(B, 20, 30));
    ok(meta.end_session(B));
    assert_eq!(ok(meta.commit(21, &batch[1..2])), vec![Err(Refusal::SessionExpired)]);
    assert_eq!(ok(meta.totals()).paths, 2);
}
