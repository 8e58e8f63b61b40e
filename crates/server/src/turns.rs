//! Turns that many wait for, and of which no one asker has more than half.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

/// A limited number of turns, shared by askers that have keys of type `K`.
///
/// An asker has at most half of the turns, rounded up: whoever holds his for as long as he is let, or for ever, leaves the others the
/// rest. What is remembered of askers is bounded by the turns and those who wait.
pub struct Turns<K: Hash + Eq> {
    all: Arc<Semaphore>,
    share: usize,
    askers: Arc<Askers<K>>,
}

type Askers<K> = Mutex<HashMap<K, Arc<Semaphore>>>;

/// One turn or several, given back when it is dropped.
pub struct Turn<K: Hash + Eq> {
    _turn: OwnedSemaphorePermit,
    _share: Option<Share<K>>,
}

impl<K: Hash + Eq + Clone> Turns<K> {
    /// Makes so many turns.
    pub fn new(number: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(number)), share: number.div_ceil(2), askers: Arc::default() }
    }

    /// Returns how many turns one asker may have at once.
    pub fn share(&self) -> usize {
        self.share
    }

    /// Returns how many turns nobody has.
    pub fn available(&self) -> usize {
        self.all.available_permits()
    }

    /// Gives no turn any more: whoever waits, or asks later, is refused.
    pub fn close(&self) {
        self.all.close();
    }

    /// Waits for `number` turns, at most [`Turns::share`]; of whom nothing is known may have all.
    ///
    /// # Errors
    /// After [`Turns::close`].
    pub async fn take(&self, asker: Option<&K>, number: u32) -> Result<Turn<K>, AcquireError> {
        let mut share = asker.map(|asker| self.share_of(asker));
        if let Some(share) = &mut share {
            share.permit = Some(Arc::clone(&share.turns).acquire_many_owned(number).await?);
        }
        let turn = Arc::clone(&self.all).acquire_many_owned(number).await?;
        Ok(Turn { _turn: turn, _share: share })
    }

    /// Takes a turn if one is free at once.
    ///
    /// # Errors
    /// When all turns, or all of the asker's, are taken.
    pub fn try_take(&self, asker: Option<&K>) -> Result<Turn<K>, TryAcquireError> {
        let mut share = asker.map(|asker| self.share_of(asker));
        if let Some(share) = &mut share {
            share.permit = Some(Arc::clone(&share.turns).try_acquire_owned()?);
        }
        Ok(Turn { _turn: Arc::clone(&self.all).try_acquire_owned()?, _share: share })
    }

    fn share_of(&self, asker: &K) -> Share<K> {
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        let turns = askers.entry(asker.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.share)));
        Share { turns: Arc::clone(turns), permit: None, asker: asker.clone(), askers: Arc::clone(&self.askers) }
    }
}

/// What an asker has of his turns, or waits for.
struct Share<K: Hash + Eq> {
    turns: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    asker: K,
    askers: Arc<Askers<K>>,
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        self.permit = None;
        let mut askers = self.askers.lock().unwrap_or_else(PoisonError::into_inner);
        // The map's and this one: clones are made under the lock only, or kept in permits of other shares.
        if askers.get(&self.asker).is_some_and(|turns| Arc::strong_count(turns) == 2) {
            askers.remove(&self.asker);
        }
    }
}

/// Returns whose turns those of an address are: of IPv6, a network of 64 bits is one asker.
pub fn asker_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Polls once: `None` is one that waits.
    fn now<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            std::task::Poll::Ready(done) => Some(done),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn nobody_has_more_than_half() {
        let turns = Turns::new(5);
        let mut held: Vec<_> = (0..3).map(|_| turns.try_take(Some(&'a')).unwrap()).collect();
        assert!(turns.try_take(Some(&'a')).is_err() && now(turns.take(Some(&'a'), 1)).is_none());
        held.extend([turns.try_take(Some(&'b')).unwrap(), now(turns.take(None, 1)).unwrap().unwrap()]);
        assert!(turns.try_take(Some(&'c')).is_err(), "all are taken");
        held.remove(0);
        assert_eq!(turns.available(), 1);
        held.push(now(turns.take(Some(&'a'), 1)).unwrap().unwrap());
        assert_eq!(turns.available(), 0);
    }

    #[test]
    fn askers_are_forgotten_with_their_turns() {
        let turns = Turns::new(4);
        let held = now(turns.take(Some(&'a'), 2)).unwrap().unwrap();
        {
            let mut waiting = pin!(turns.take(Some(&'a'), 1));
            assert!(waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            drop(held);
            assert_eq!(turns.askers.lock().unwrap().len(), 1, "somebody waits");
        }
        assert_eq!((turns.askers.lock().unwrap().len(), turns.available()), (0, 4));
    }

    #[test]
    fn one_is_alone_where_there_is_one_turn() {
        let turns = Turns::new(1);
        let held = turns.try_take(Some(&'a')).unwrap();
        assert!(turns.try_take(Some(&'b')).is_err());
        drop(held);
        assert!(turns.try_take(Some(&'b')).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_asker() {
        let asker = |text: &str| asker_of(text.parse().unwrap());
        assert_eq!(asker("2001:db8:1:2:3:4:5:6"), asker("2001:db8:1:2::9"));
        assert_ne!(asker("2001:db8:1:2::"), asker("2001:db8:1:3::"));
        assert_eq!(asker("::ffff:192.0.2.1"), asker("192.0.2.1"));
        assert_ne!(asker("192.0.2.1"), asker("192.0.2.2"));
    }
}
