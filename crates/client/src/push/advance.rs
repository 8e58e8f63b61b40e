//! How far one path is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::event::{Counters, add};

/// How much of a path was read and how much is settled, as parts of the sums over the push. Neither goes back: what is done
/// again is not counted again. Both are whole when this is dropped, whatever became of the path.
#[derive(Debug)]
pub(crate) struct Advance {
    counters: Arc<Counters>,
    nar_bytes: u64,
    read: AtomicU64,
    settled: AtomicU64,
}

impl Advance {
    /// Returns what counts for a path of that length.
    pub(crate) fn new(counters: Arc<Counters>, nar_bytes: u64) -> Self {
        Self { counters, nar_bytes, read: AtomicU64::new(0), settled: AtomicU64::new(0) }
    }

    /// Counts bytes that were read.
    pub(crate) fn read(&self, bytes: u64) {
        add(&self.counters.read_bytes, self.grow(&self.read, bytes));
    }

    /// Counts bytes that the server has.
    pub(crate) fn settle(&self, bytes: u64) {
        add(&self.counters.settled_bytes, self.grow(&self.settled, bytes));
    }

    /// Adds to a part and returns by how much it grew.
    fn grow(&self, part: &AtomicU64, bytes: u64) -> u64 {
        let grown = |part: u64| part.saturating_add(bytes).min(self.nar_bytes);
        let before = part.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |part| Some(grown(part)));
        let before = before.unwrap_or_else(|part| part);
        grown(before) - before
    }
}

impl Drop for Advance {
    fn drop(&mut self) {
        self.read(self.nar_bytes);
        self.settle(self.nar_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_twice_and_all_of_it_once() {
        let counters = Arc::new(Counters::default());
        let sums = || {
            let totals = counters.totals(crate::remote::Wire::default());
            (totals.read_bytes, totals.settled_bytes)
        };
        let (one, other) = (Advance::new(counters.clone(), 100), Advance::new(counters.clone(), 10));
        one.read(60);
        one.settle(30);
        other.read(7);
        assert_eq!(sums(), (67, 30));
        one.read(60);
        one.settle(u64::MAX);
        assert_eq!(sums(), (107, 100));
        drop((one, other));
        assert_eq!(sums(), (110, 110));
    }
}
