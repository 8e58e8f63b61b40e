//! When a request is tried again.

use std::time::{Duration, SystemTime};

/// Randomness, so that many clients don't come back at the same moment.
pub trait Jitter: Send + Sync {
    /// Returns a number from 0 up to, not including, 1.
    fn fraction(&self) -> f64;
}

/// The wall clock.
pub trait Clock: Send + Sync {
    /// Returns what it shows.
    fn now(&self) -> SystemTime;
}

/// The kernel's randomness.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemJitter;

impl Jitter for SystemJitter {
    fn fraction(&self) -> f64 {
        // Without randomness the middle is as good as any.
        let bits = getrandom::u32().unwrap_or(1 << 31);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}

/// The system's wall clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// How long to wait between tries, and for how long to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The longest wait before the second try; it doubles from try to try.
    pub first: Duration,
    /// The longest wait of all, unless the server asks for more.
    pub longest: Duration,
    /// The most that a server's `Retry-After` is followed.
    pub retry_after_limit: Duration,
    /// A request that didn't succeed after this time since its first try is given up.
    pub give_up_after: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            longest: Duration::from_secs(30),
            retry_after_limit: Duration::from_secs(120),
            give_up_after: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// Returns a policy that never tries again.
    #[must_use]
    pub fn never() -> Self {
        Self { give_up_after: Duration::ZERO, ..Self::default() }
    }

    /// Returns how long to wait after the try number `tries` (from 1) failed: anything up to the exponential limit ("full
    /// jitter"), or what the server asked for and up to a tenth more.
    #[must_use]
    pub fn wait(&self, tries: u32, retry_after: Option<Duration>, jitter: &dyn Jitter) -> Duration {
        let doubled = 1u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX);
        let limit = self.first.saturating_mul(doubled).min(self.longest);
        let backoff = part(limit, jitter);
        match retry_after {
            None => backoff,
            Some(asked) => {
                let asked = asked.min(self.retry_after_limit);
                (asked + part(asked / 10, jitter)).max(backoff)
            }
        }
    }
}

/// Returns a random part of a wait.
fn part(wait: Duration, jitter: &dyn Jitter) -> Duration {
    let fraction = jitter.fraction();
    // Whatever comes in from outside, a wait is never longer than it may be.
    wait.mul_f64(if fraction.is_finite() { fraction.clamp(0.0, 1.0) } else { 0.0 })
}

/// Reads a `Retry-After` header: seconds, or a date, which `now` is subtracted from.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at = httpdate::parse_http_date(value.trim()).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
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
    fn waits_double_up_to_a_limit() {
        let policy = RetryPolicy::default();
        let most = Fixed(1.0);
        let waits: Vec<_> = (1..=8).map(|tries| policy.wait(tries, None, &most).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(policy.wait(u32::MAX, None, &most), policy.longest);
        assert_eq!(policy.wait(3, None, &Fixed(0.0)), Duration::ZERO);
        assert_eq!(policy.wait(3, None, &Fixed(f64::NAN)).as_secs(), 0);
    }

    #[test]
    fn servers_are_obeyed_within_reason() {
        let policy = RetryPolicy::default();
        let asked = |seconds| policy.wait(1, Some(Duration::from_secs(seconds)), &Fixed(0.5));
        assert_eq!(asked(10), Duration::from_millis(10_500));
        assert_eq!(asked(0), Duration::from_millis(250));
        assert_eq!(asked(1 << 40), Duration::from_secs(126));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(parse_retry_after("7", now), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:47 GMT", now), Some(Duration::from_secs(10)));
        assert_eq!(parse_retry_after("Sun, 06 Nov 1994 08:49:27 GMT", now), Some(Duration::ZERO));
        for bad in ["", "-1", "soon", "1e3", "99999999999999999999"] {
            assert_eq!(parse_retry_after(bad, now), None, "{bad}");
        }
    }
}
