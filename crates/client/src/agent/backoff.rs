use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::queue::MAX_WAIT_MILLIS;
use crate::remote::{Clock, Jitter};

/// The shortest wait before another try, in milliseconds.
const MIN_WAIT_MILLIS: u64 = 1000;

/// Returns the milliseconds since 1970.
pub(crate) fn now(clock: &dyn Clock) -> u64 {
    millis(clock.now())
}

fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns how long to wait after `failures` failures in a row (from 1): "full jitter", anything from a second up to a limit
/// that doubles each time, from 2 s to 15 min. A server's `Retry-After` is the least then, up to the same 15 min.
pub(crate) fn wait(failures: u32, retry_after: Option<Duration>, jitter: &dyn Jitter) -> Duration {
    let doubled = MIN_WAIT_MILLIS.saturating_mul(1u64.checked_shl(failures).unwrap_or(u64::MAX));
    let limit = doubled.clamp(MIN_WAIT_MILLIS, MAX_WAIT_MILLIS);
    let fraction = Some(jitter.fraction()).filter(|fraction| (0.0..=1.0).contains(fraction)).unwrap_or_default();
    let spread = Duration::from_millis(limit - MIN_WAIT_MILLIS).mul_f64(fraction);
    let asked = retry_after.unwrap_or_default().min(Duration::from_millis(MAX_WAIT_MILLIS));
    (Duration::from_millis(MIN_WAIT_MILLIS) + spread).max(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(f64);

    impl Jitter for Fixed {
        fn fraction(&self) -> f64 {
            self.0
        }
    }

    #[test]
    fn waits_are_between_a_second_and_a_limit_that_doubles() {
        let longest: Vec<_> = (1..13).map(|failures| wait(failures, None, &Fixed(1.0)).as_secs()).collect();
        assert_eq!(longest, [2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!(wait(u32::MAX, None, &Fixed(1.0)).as_secs(), 900);
        for failures in [0, 1, 20, 63, 64, u32::MAX] {
            assert_eq!(wait(failures, None, &Fixed(0.0)).as_secs(), 1, "{failures}");
        }
        assert_eq!(wait(5, None, &Fixed(f64::NAN)).as_secs(), 1);
    }

    #[test]
    fn servers_are_obeyed_within_reason() {
        assert_eq!(wait(1, Some(Duration::from_secs(60)), &Fixed(0.5)).as_secs(), 60);
        assert_eq!(wait(1, Some(Duration::ZERO), &Fixed(0.0)).as_secs(), 1);
        assert_eq!(wait(1, Some(Duration::MAX), &Fixed(0.5)).as_secs(), 900);
    }
}
