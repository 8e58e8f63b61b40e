//! How long a push will take from what it did so far.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use firn_client::push::Totals;

/// What counts is what was done within this time: a link may become faster, and frames go in bursts of seconds.
const WINDOW: Duration = Duration::from_secs(60);

/// How far apart samples are kept at least.
const STEP: Duration = Duration::from_secs(1);

/// Nothing is said before this: the first answers tell nothing of the rest.
const FIRST: Duration = Duration::from_secs(2);

/// How far a push was at some time.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    read: u64,
    settled: u64,
}

/// What is left of a push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Nobody can say yet.
    Unknown,
    /// About so long.
    About(Duration),
    /// Everything is on the server, which checks it and makes it visible.
    Commits,
}

/// Estimates from the samples of the last minute.
#[derive(Debug, Default)]
pub(crate) struct Eta(VecDeque<Sample>);

impl Eta {
    /// Takes note of how far a push of `all` bytes is, and returns what is left.
    pub(crate) fn left(&mut self, totals: &Totals, all: u64, now: Instant) -> Left {
        let sample = Sample { at: now, read: totals.read_bytes, settled: totals.settled_bytes };
        if self.0.back().is_none_or(|last| now.duration_since(last.at) >= STEP) {
            self.0.push_back(sample);
        }
        while self.0.len() > 2 && self.0.get(1).is_some_and(|second| now.duration_since(second.at) >= WINDOW) {
            self.0.pop_front();
        }
        if sample.settled >= all {
            return Left::Commits;
        }
        let Some(first) = self.0.front().filter(|first| now.duration_since(first.at) >= FIRST) else {
            return Left::Unknown;
        };
        let seconds = now.duration_since(first.at).as_secs_f64();
        // Both go on side by side: the slower one decides.
        let of = |left: u64, done: u64| match (left, done) {
            (0, _) => Some(0.0),
            (_, 0) => None,
            (left, done) => Some(left as f64 * seconds / done as f64),
        };
        let reading = of(all.saturating_sub(sample.read), sample.read.saturating_sub(first.read));
        let sending = of(all - sample.settled, sample.settled.saturating_sub(first.settled));
        match (reading, sending) {
            (Some(reading), Some(sending)) => Left::About(Duration::from_secs_f64(reading.max(sending).min(1e8))),
            _ => Left::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays how far a push of 1000 bytes is, second by second.
    fn play(steps: impl IntoIterator<Item = (u64, u64)>) -> Left {
        let (mut eta, begun) = (Eta::default(), Instant::now());
        let mut left = Left::Unknown;
        for (second, (read_bytes, settled_bytes)) in (0..).zip(steps) {
            let totals = Totals { read_bytes, settled_bytes, ..Totals::default() };
            left = eta.left(&totals, 1000, begun + Duration::from_secs(second));
        }
        left
    }

    fn about(seconds: u64) -> Left {
        Left::About(Duration::from_secs(seconds))
    }

    #[test]
    fn the_slower_of_reading_and_sending_decides() {
        assert_eq!(play([(0, 0), (100, 10), (200, 20), (300, 30), (400, 40)]), about(96));
        assert_eq!(play([(0, 0), (100, 100), (200, 200), (300, 300)]), about(7));
        assert_eq!(play((0..=20).map(|second| (1000, second * 20))), about(30));
    }

    #[test]
    fn nothing_is_promised_that_nobody_knows() {
        assert_eq!(play([(0, 0), (500, 400)]), Left::Unknown, "too early");
        assert_eq!(play([(0, 0), (500, 0), (900, 0), (1000, 0)]), Left::Unknown, "nothing was sent yet");
        // What was sent long ago says nothing about a link that stands still.
        assert_eq!(play((0..=200).map(|second| (1000, (second * 20).min(400)))), Left::Unknown);
        assert_eq!(play([(0, 0), (500, 500), (1000, 1000)]), Left::Commits);
    }

    #[test]
    fn the_last_minute_counts() {
        let slow_then_fast = |second: u64| if second <= 60 { second } else { 60 + (second - 60) * 8 };
        // 400 bytes are left, at 8 a second.
        assert_eq!(play((0..=128).map(|second| (1000, slow_then_fast(second).saturating_sub(4)))), about(50));
    }
}
