//! Time and randomness, as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use firn_index::UnixSeconds;

/// Tells the time.
pub trait Clock: Send + Sync {
    /// Returns the seconds since 1970-01-01 UTC.
    fn now(&self) -> UnixSeconds;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> UnixSeconds {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}

/// Draws random numbers for ids: packs and sessions are never named twice.
pub trait Entropy: Send + Sync {
    /// Returns 128 random bits.
    fn draw(&self) -> u128;
}
