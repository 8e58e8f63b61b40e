use std::collections::HashMap;

use firn_nix::StorePath;
use firn_nix_store::Result;

use super::store::{Pinner, Store};

/// How many paths are pinned at most: Nix reads the whole list each time that it collects garbage.
const MAX_PATHS: usize = 100_000;

/// How many pins may be of no use before a new connection lets go of them, if they are also half of all.
const MIN_STALE: usize = 64;

/// How much of a builder's disk pins may keep from Nix's garbage collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PinLimits {
    /// The lengths of the pinned paths' NARs, in bytes. What they refer to is kept as well and not counted.
    pub max_bytes: u64,
    /// Paths that have waited for longer than this are no longer pinned, in milliseconds.
    pub max_age_millis: u64,
}

impl Default for PinLimits {
    fn default() -> Self {
        Self { max_bytes: 64 << 30, max_age_millis: 24 * 3600 * 1000 }
    }
}

/// What came of pinning a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pinned {
    /// It stays.
    Held,
    /// It is not valid any more.
    Gone,
    /// It may be collected before it is pushed: there is no daemon, or the limits are reached.
    Unprotected,
}

/// How many paths are pinned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct PinTotals {
    pub(crate) paths: u64,
    pub(crate) bytes: u64,
}

/// The paths that Nix's garbage collector is kept from.
///
/// Nix's temporary roots last as long as the connection that made them, and can't be given back one by one. So paths are
/// let go of by *epochs*: a new connection pins what still waits, then the old one is closed.
pub(crate) struct Pins {
    limits: PinLimits,
    epoch: Option<Box<dyn Pinner>>,
    held: HashMap<StorePath, u64>,
    held_bytes: u64,
    /// Pins of this epoch whose path was settled.
    stale: usize,
    /// When the path that has waited longest came in, of those held.
    oldest_at: Option<u64>,
    /// Whether nobody is connected to, so that what waits is not pinned: only a renewal tries again.
    down: bool,
    /// Whether something was not pinned because of the limits.
    overfull: bool,
}

impl Pins {
    /// Returns an empty one. Nothing is pinned before the first renewal.
    pub(crate) fn new(limits: PinLimits) -> Self {
        let (held, held_bytes, stale) = (HashMap::new(), 0, 0);
        Self { limits, epoch: None, held, held_bytes, stale, oldest_at: None, down: true, overfull: false }
    }

    /// Pins a path that came in at `since`, and says whether it is still there.
    pub(crate) fn pin(&mut self, path: &StorePath, nar_bytes: u64, since: u64) -> Pinned {
        if self.held.contains_key(path) {
            return Pinned::Held;
        }
        if self.down {
            return Pinned::Unprotected;
        }
        let bytes = self.held_bytes.saturating_add(nar_bytes);
        if bytes > self.limits.max_bytes || self.held.len() >= MAX_PATHS {
            self.overfull = true;
            return Pinned::Unprotected;
        }
        match self.ask(path) {
            Ok(true) => {
                self.held.insert(path.clone(), nar_bytes);
                self.held_bytes = bytes;
                self.oldest_at = Some(self.oldest_at.map_or(since, |oldest| oldest.min(since)));
                Pinned::Held
            }
            Ok(false) => Pinned::Gone,
            Err(error) => {
                tracing::debug!(%error, "the Nix daemon pins nothing");
                self.lose_epoch();
                Pinned::Unprotected
            }
        }
    }

    /// Says that a path needs its pin no longer. The collector may have it when the epoch ends.
    pub(crate) fn release(&mut self, path: &StorePath) {
        if let Some(bytes) = self.held.remove(path) {
            self.held_bytes = self.held_bytes.saturating_sub(bytes);
            self.stale += 1;
        }
    }

    /// Says whether it is time for a new epoch. Asks the daemon whether the old one still stands.
    pub(crate) fn want_renewal(&mut self, now: u64) -> bool {
        if let (Some(epoch), Some(path)) = (&mut self.epoch, self.held.keys().next())
            && epoch.is_valid(path).is_err()
        {
            self.lose_epoch();
        }
        let expired = self.oldest_at.is_some_and(|oldest| now.saturating_sub(oldest) > self.limits.max_age_millis);
        let enough = if self.overfull { MIN_STALE } else { MIN_STALE.max(self.held.len()) };
        let useless = self.stale > 0 && (self.held.is_empty() || self.stale >= enough);
        self.down || expired || useless
    }

    /// Begins a new epoch with the paths that wait, then ends the old one. `waiting` calls back with each path, its length
    /// and when it came in, in order of importance.
    ///
    /// An error says that there is no daemon; the old epoch stays if there is one.
    pub(crate) fn renew<E: From<firn_nix_store::Error>>(
        &mut self,
        store: &impl Store,
        now: u64,
        waiting: impl FnOnce(&mut dyn FnMut(&StorePath, u64, u64)) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let mut next = Self { epoch: Some(store.pinner()?), down: false, ..Self::new(self.limits) };
        waiting(&mut |path, nar_bytes, since| {
            if now.saturating_sub(since) <= self.limits.max_age_millis {
                next.pin(path, nar_bytes, since);
            }
        })?;
        *self = next;
        Ok(())
    }

    pub(crate) fn totals(&self) -> PinTotals {
        PinTotals { paths: self.held.len() as u64, bytes: self.held_bytes }
    }

    /// Pins first, asks then: what is valid afterwards was not collected in between.
    fn ask(&mut self, path: &StorePath) -> Result<bool> {
        let Some(epoch) = &mut self.epoch else { return Ok(true) };
        epoch.keep(path)?;
        epoch.is_valid(path)
    }

    fn lose_epoch(&mut self) {
        *self = Self::new(self.limits);
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeStore, path};
    use super::*;

    fn pins(max_bytes: u64) -> Pins {
        Pins::new(PinLimits { max_bytes, max_age_millis: 1000 })
    }

    fn renew(pins: &mut Pins, store: &FakeStore, now: u64, waiting: &[(u32, u64)]) -> Result<()> {
        pins.renew(store, now, |each| {
            for (number, since) in waiting {
                each(&path(*number), 10, *since);
            }
            Ok(())
        })
    }

    #[test]
    fn what_is_gone_is_told_from_what_is_unprotected() {
        let store = FakeStore::with(1..4);
        let mut pins = pins(25);
        assert_eq!(pins.pin(&path(1), 10, 0), Pinned::Unprotected, "before anybody is connected to");
        renew(&mut pins, &store, 0, &[]).unwrap();
        assert_eq!(pins.pin(&path(1), 10, 0), Pinned::Held);
        assert_eq!(pins.pin(&path(9), 10, 0), Pinned::Gone);
        assert_eq!(pins.pin(&path(2), 10, 0), Pinned::Held);
        assert_eq!(pins.pin(&path(2), 10, 0), Pinned::Held);
        assert_eq!(pins.pin(&path(3), 10, 0), Pinned::Unprotected);
        assert_eq!(pins.totals(), PinTotals { paths: 2, bytes: 20 });
        assert_eq!(store.pinned(), [path(1), path(2), path(9)]);
        store.stop_daemon();
        pins.release(&path(1));
        assert_eq!(pins.pin(&path(3), 10, 0), Pinned::Unprotected);
        assert_eq!(pins.totals(), PinTotals::default(), "a lost connection pins nothing");
    }

    #[test]
    fn an_epoch_lets_go_of_what_was_settled() {
        let store = FakeStore::with(1..4);
        let mut pins = pins(100);
        renew(&mut pins, &store, 0, &[(1, 0), (2, 0)]).unwrap();
        assert!(!pins.want_renewal(0));
        pins.release(&path(1));
        assert!(!pins.want_renewal(0), "not for one of two");
        pins.release(&path(2));
        assert!(pins.want_renewal(0));
        assert_eq!(store.pinned(), [path(1), path(2)]);
        renew(&mut pins, &store, 0, &[]).unwrap();
        assert!(store.pinned().is_empty());
        assert!(!pins.want_renewal(0));
    }

    #[test]
    fn pins_grow_too_old() {
        let store = FakeStore::with(1..4);
        let mut pins = pins(100);
        renew(&mut pins, &store, 500, &[(1, 0), (2, 500)]).unwrap();
        assert!(!pins.want_renewal(1000));
        assert!(pins.want_renewal(1001));
        renew(&mut pins, &store, 1001, &[(1, 0), (2, 500)]).unwrap();
        assert_eq!(store.pinned(), [path(2)]);
    }

    #[test]
    fn a_daemon_that_restarted_is_noticed_and_pinned_with_again() {
        let store = FakeStore::with(1..4);
        let mut pins = pins(100);
        renew(&mut pins, &store, 0, &[(1, 0)]).unwrap();
        store.stop_daemon();
        assert!(pins.want_renewal(0));
        assert!(renew(&mut pins, &store, 0, &[(1, 0)]).is_err());
        assert!(pins.want_renewal(0));
        store.start_daemon();
        renew(&mut pins, &store, 0, &[(1, 0)]).unwrap();
        assert!(!pins.want_renewal(0));
        assert_eq!(store.pinned(), [path(1)]);
    }
}
