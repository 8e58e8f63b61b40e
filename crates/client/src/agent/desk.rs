use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::filter::Filter;
use super::lane::Aside;
use super::pins::{PinTotals, Pins};
use super::service::Settings;
use super::store::Store;
use crate::queue::{Queue, Spool};
use crate::remote::{Clock, Jitter};

/// What an agent knows and doesn't keep on disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    /// How many ids of Nix's database had not been taken in when it was last looked at.
    pub(crate) behind: u64,
    pub(crate) last_scan_at: u64,
    pub(crate) last_push_at: u64,
    /// When the paths of dead letters were last looked for.
    pub(crate) dead_seen_at: u64,
    /// Paths that are being asked for or pushed, by lane.
    pub(crate) in_flight: [u64; 2],
    /// Paths that only the long lane takes.
    pub(super) aside: Aside,
    /// Why the store or the queue can't be used.
    pub(crate) intake_error: Option<String>,
    pub(crate) pin_error: Option<String>,
    /// Why nothing is pushed at the moment, by lane.
    pub(crate) halts: [Option<Halt>; 2],
    /// How much was pinned when that could last be seen.
    pub(crate) last_pinned: PinTotals,
}

impl State {
    /// Returns why nothing is pushed at the moment.
    pub(crate) fn halt(&self) -> Option<&Halt> {
        self.halts.iter().flatten().next()
    }
}

/// Why nothing is pushed at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Halt {
    pub(crate) kind: HaltKind,
    pub(crate) message: String,
    pub(crate) since: u64,
    pub(crate) until: u64,
}

/// What kind of trouble halts the pushes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HaltKind {
    /// The server is not reached.
    Unreachable,
    /// The token is refused, or the quota used up.
    Denied,
    /// The store or the queue can't be used.
    Local,
}

/// What the parts of an agent share. Everything here blocks.
///
/// Locks are taken in the order of the fields, and none is held while the server is waited for.
pub(crate) struct Desk<S> {
    pub(crate) store: S,
    /// Where the cache is.
    pub(crate) url: String,
    pub(crate) filter: Filter,
    pub(crate) spool: Spool,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) jitter: Arc<dyn Jitter>,
    pub(super) scanning: Mutex<()>,
    pins: Mutex<Pins>,
    queue: Mutex<Queue>,
    state: Mutex<State>,
}

impl<S: Store> Desk<S> {
    pub(crate) fn new(
        store: S,
        queue: Queue,
        spool: Spool,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        jitter: Arc<dyn Jitter>,
    ) -> Self {
        let pins = Mutex::new(Pins::new(settings.pins));
        let (queue, state) = (Mutex::new(queue), Mutex::new(State::default()));
        let (url, filter) = (settings.url.clone(), settings.filter.clone());
        Self { store, url, filter, spool, clock, jitter, scanning: Mutex::new(()), pins, queue, state }
    }

    pub(crate) fn pins(&self) -> MutexGuard<'_, Pins> {
        // Pins that a panic left behind at worst hold too much, until the next epoch.
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the pins if nobody has them at the moment.
    pub(crate) fn try_pins(&self) -> Option<MutexGuard<'_, Pins>> {
        match self.pins.try_lock() {
            Ok(pins) => Some(pins),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    pub(crate) fn queue(&self) -> MutexGuard<'_, Queue> {
        // A transaction that a panic cut short was rolled back.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
