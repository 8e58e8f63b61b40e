use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_index::UnixSeconds;

/// Failures in a row after which an upstream is left alone: fewer happen by chance.
const FAILURES: u32 = 3;
/// For how long the first time, in seconds; twice as long each further time.
const FIRST_REST: u64 = 10;
/// For how long at most.
const LONGEST_REST: u64 = 300;

/// Tells when an upstream that fails again and again is worth another try.
///
/// After `FAILURES` in a row nobody asks for a while; then one may try, and the others wait for how that goes.
#[derive(Debug, Default)]
pub struct Breaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    /// How long the last rest was; 0 if all is well.
    rest: u64,
    until: UnixSeconds,
    /// Whether somebody tries after the rest.
    is_tried: bool,
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment after the other, none of which panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether to ask. Of those who come after a rest, only the first is told to; the others wait as long again.
    pub fn may_ask(&self, now: UnixSeconds) -> bool {
        let mut state = self.lock();
        if state.rest == 0 {
            return true;
        }
        if now < state.until {
            return false;
        }
        state.until = now.saturating_add(state.rest);
        state.is_tried = true;
        true
    }

    /// Notes that an answer came.
    pub fn succeeded(&self) {
        *self.lock() = State::default();
    }

    /// Notes a failure; returns until when nobody asks, if a rest begins.
    pub fn failed(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let mut state = self.lock();
        state.failures = state.failures.saturating_add(1);
        if state.failures < FAILURES {
            return None;
        }
        // What was under way when the rest began does not prolong it.
        if state.rest > 0 && !std::mem::take(&mut state.is_tried) {
            return None;
        }
        state.rest = if state.rest == 0 { FIRST_REST } else { (state.rest * 2).min(LONGEST_REST) };
        state.until = now.saturating_add(state.rest);
        Some(state.until)
    }

    /// Returns until when nobody asks, if that is so.
    pub fn rests_until(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        let state = self.lock();
        Some(state.until).filter(|until| state.rest > 0 && *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_after_failures_in_a_row_and_lets_one_try() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            assert!(breaker.failed(100).is_none());
            breaker.succeeded();
            assert!(breaker.failed(100).is_none() && breaker.failed(100).is_none() && breaker.may_ask(100));
            breaker.succeeded();
        }
        assert_eq!([breaker.failed(100), breaker.failed(100), breaker.failed(100)], [None, None, Some(110)]);
        // Others that were under way: the rest stays as it is.
        assert_eq!(breaker.failed(101), None);
        assert!(!breaker.may_ask(109) && breaker.rests_until(109) == Some(110));
        assert!(breaker.may_ask(110) && !breaker.may_ask(110) && !breaker.may_ask(119), "one tries, the others wait");
        assert_eq!(breaker.failed(112), Some(132), "twice as long");
        assert!(breaker.may_ask(132));
        breaker.succeeded();
        assert!(breaker.may_ask(132) && breaker.may_ask(132) && breaker.rests_until(132).is_none());
    }

    #[test]
    fn rests_no_longer_than_its_limit() {
        let breaker = Breaker::default();
        let mut now = 100;
        for _ in 0..20 {
            while breaker.failed(now).is_none() {}
            now = breaker.rests_until(now).expect("it rests");
            assert!(breaker.may_ask(now));
        }
        assert!(breaker.failed(now).is_some_and(|until| until - now == LONGEST_REST));
    }
}
