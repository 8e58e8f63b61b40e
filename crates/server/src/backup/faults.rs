//! Operations on files that fail when a test tells them to, on its thread.

use std::cell::RefCell;
use std::io;

/// How an operation fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is not done, nor is anything after it: the process has ended.
    End,
    /// It is done, and nothing after it.
    EndAfter,
    /// It is not done, and what comes after it is.
    Once,
}

struct Plan {
    spare: usize,
    failure: Failure,
    fired: bool,
}

thread_local! {
    static PLAN: RefCell<Option<Plan>> = const { RefCell::new(None) };
}

/// Lets the operation after so many others fail.
pub(super) fn plan(spare: usize, failure: Failure) {
    PLAN.set(Some(Plan { spare, failure, fired: false }));
}

/// Lets everything succeed again; returns whether an operation failed.
pub(super) fn heal() -> bool {
    PLAN.take().is_some_and(|plan| plan.fired)
}

/// Does an operation, or not.
pub(super) fn pass<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let failure = PLAN.with_borrow_mut(|plan| {
        let plan = plan.as_mut()?;
        if plan.fired {
            return (plan.failure != Failure::Once).then_some(Failure::End);
        }
        if plan.spare > 0 {
            plan.spare -= 1;
            return None;
        }
        plan.fired = true;
        Some(plan.failure)
    });
    let failed = || Err(io::Error::other("this failure was planned"));
    match failure {
        None => work(),
        Some(Failure::End | Failure::Once) => failed(),
        Some(Failure::EndAfter) => work().and_then(|_| failed()),
    }
}
