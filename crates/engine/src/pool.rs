//! Idle contexts of zstd, kept for the next use: making one costs more than a small frame does.

use std::sync::{Mutex, PoisonError};

use crate::Result;

/// Contexts that are kept while nobody uses them; more than these are dropped.
const IDLE: usize = 16;

/// Idle things of one kind.
pub(crate) struct Pool<T> {
    idle: Mutex<Vec<T>>,
    make: fn() -> Result<T>,
}

impl<T> Pool<T> {
    /// Returns an empty pool whose things are made by `make`.
    pub(crate) fn new(make: fn() -> Result<T>) -> Self {
        Self { idle: Mutex::default(), make }
    }

    /// Lends a thing for a call.
    pub(crate) fn lend<R>(&self, work: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let idle = self.lock().pop();
        let mut thing = match idle {
            Some(thing) => thing,
            None => (self.make)()?,
        };
        let outcome = work(&mut thing);
        let mut idle = self.lock();
        if idle.len() < IDLE {
            idle.push(thing);
        }
        outcome
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
