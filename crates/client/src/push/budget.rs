//! One limit for the bytes of NARs in memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What is counted in: a permit for each would be too many to count otherwise.
const UNIT_BYTES: u64 = 1024;

/// The bytes that a push may hold at a time. Whoever wants some waits, first come, first served.
#[derive(Debug, Clone)]
pub(crate) struct ByteBudget {
    free: Arc<Semaphore>,
    units: u32,
}

impl ByteBudget {
    /// Returns a budget of so many bytes, at least 1 MiB and at most 1 TiB.
    pub(crate) fn new(bytes: u64) -> Self {
        let units = u32::try_from(bytes.clamp(1 << 20, 1 << 40) / UNIT_BYTES).expect("2^40 / 2^10 fits");
        Self { free: Arc::new(Semaphore::new(usize::try_from(units).unwrap_or(usize::MAX))), units }
    }

    /// Waits for so many bytes; for all there are, if it is more.
    pub(crate) async fn reserve(&self, bytes: u64) -> Reserved {
        let permit = self.free.clone().acquire_many_owned(self.units_of(bytes)).await;
        Reserved(Some(permit.expect("the budget's semaphore is never closed")))
    }

    /// Returns so many bytes if they are there and nobody waits.
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reserved> {
        let permit = self.free.clone().try_acquire_many_owned(self.units_of(bytes)).ok()?;
        Some(Reserved(Some(permit)))
    }

    fn units_of(&self, bytes: u64) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX).min(self.units)
    }
}

/// Bytes of a budget, given back when dropped.
#[derive(Debug, Default)]
pub(crate) struct Reserved(Option<OwnedSemaphorePermit>);

impl Reserved {
    /// Returns so many of the bytes as a part of their own; fewer if there are not so many.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        let Some(permit) = &mut self.0 else { return Self(None) };
        let units = usize::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(usize::MAX).min(permit.num_permits());
        Self(permit.split(units))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_reserved_comes_back() {
        let budget = ByteBudget::new(1 << 20);
        let mut first = budget.reserve(1000 << 10).await;
        assert!(budget.try_reserve(25 << 10).is_none());
        let part = first.split(100 << 10);
        drop(part);
        let second = budget.try_reserve(124 << 10).expect("a part was given back");
        drop((first, second));
        drop(budget.try_reserve(u64::MAX).expect("more than there is means all"));
        assert!(budget.try_reserve(1 << 20).is_some());
    }
}
