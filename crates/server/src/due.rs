//! Whether the time has come for what is done from time to time.

use firn_index::UnixSeconds;

/// How many seconds the clock may be set back without anything being done sooner.
const SLACK: u64 = 3600;

/// Returns whether it is known that something was done at this time: a clock that was ahead may have written it, and nothing
/// would be done until then.
pub(crate) fn is_past(at: UnixSeconds, now: UnixSeconds) -> bool {
    at <= now.saturating_add(SLACK)
}

/// Returns whether a time has come that is at most `longest` seconds after something that was done.
pub(crate) fn has_come(at: UnixSeconds, longest: u64, now: UnixSeconds) -> bool {
    at <= now || !is_past(at.saturating_sub(longest), now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_that_a_wrong_clock_wrote_has_come() {
        let now = 1_000_000;
        assert!(has_come(now, 600, now) && has_come(now - 1, 600, now));
        assert!(!has_come(now + 1, 600, now) && !has_come(now + 600, 600, now));
        // The clock was set right by some seconds.
        assert!(!has_come(now + 605, 600, now));
        assert!(has_come(now + 600 + SLACK + 1, 600, now) && has_come(u64::MAX, 600, now));
    }
}
