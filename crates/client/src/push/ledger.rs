//! Which chunks are there, and who is about to send which: a chunk is asked for and sent once a push.
//!
//! What is remembered as being there is a saving and may be forgotten or wrong: the commit is what tells. What is claimed
//! is exact. Invariant: a claim is settled when its owner drops it, so nobody waits for ever.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_chunk::ChunkId;
use tokio::sync::watch;

/// How many chunks are remembered to be there: about 18 MB at most. Then all are forgotten.
const MAX_THERE: usize = 1 << 19;

/// The bytes of an id that are remembered of a chunk that is there.
type Short = [u8; 16];

#[derive(Debug, Default)]
struct Inner {
    there: HashSet<Short>,
    claimed: HashMap<ChunkId, watch::Receiver<bool>>,
}

/// The chunks of a push.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ledger(Arc<Mutex<Inner>>);

/// What is to be done about the chunks of a path.
#[derive(Debug)]
pub(crate) struct Sorted {
    /// What this path has to ask for and send, by place in its list of chunks; each chunk only once.
    pub(crate) mine: Vec<usize>,
    /// The claim to these; dropping it settles it.
    pub(crate) claim: Claim,
    /// Others who are about to send some of the chunks.
    pub(crate) others: Vec<watch::Receiver<bool>>,
}

/// A path's claim to send some chunks.
#[derive(Debug)]
pub(crate) struct Claim {
    ledger: Ledger,
    ids: Vec<ChunkId>,
    done: watch::Sender<bool>,
}

impl Ledger {
    /// Claims what nobody has claimed and nobody knows to be there. With `doubt`, what was said to be there doesn't count.
    pub(crate) fn sort(&self, ids: impl IntoIterator<Item = ChunkId>, doubt: bool) -> Sorted {
        let (done, settled) = watch::channel(false);
        let (mut mine, mut mine_ids, mut others) = (Vec::new(), Vec::new(), Vec::<watch::Receiver<bool>>::new());
        let mut inner = self.lock();
        let Inner { there, claimed } = &mut *inner;
        for (place, id) in ids.into_iter().enumerate() {
            if !doubt && there.contains(&short(&id)) {
                continue;
            }
            match claimed.entry(id) {
                Entry::Vacant(vacant) => {
                    vacant.insert(settled.clone());
                    mine.push(place);
                    mine_ids.push(id);
                }
                Entry::Occupied(other) => {
                    let other = other.get();
                    let is_listed =
                        other.same_channel(&settled) || others.last().is_some_and(|last| last.same_channel(other));
                    if !is_listed {
                        others.push(other.clone());
                    }
                }
            }
        }
        drop(inner);
        Sorted { mine, claim: Claim { ledger: self.clone(), ids: mine_ids, done }, others }
    }

    /// Forgets what is there: the server may have forgotten it too.
    pub(crate) fn doubt_all(&self) {
        self.lock().there.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// Returns the chunks.
    pub(crate) fn ids(&self) -> &[ChunkId] {
        &self.ids
    }

    /// Notes that all its chunks are there, and tells those who wait.
    pub(crate) fn fulfil(self) {
        let mut inner = self.ledger.lock();
        if inner.there.len() + self.ids.len() > MAX_THERE {
            inner.there.clear();
        }
        inner.there.extend(self.ids.iter().map(short));
        drop(inner);
        self.done.send_replace(true);
    }
}

/// Gives the claim up: whoever waits sees the channel close, and claims the chunks itself.
impl Drop for Claim {
    fn drop(&mut self) {
        let mut inner = self.ledger.lock();
        for id in &self.ids {
            inner.claimed.remove(id);
        }
    }
}

/// Waits until a claim of somebody else is settled, and tells whether its chunks are there.
pub(crate) async fn settled(mut other: watch::Receiver<bool>) -> bool {
    other.wait_for(|done| *done).await.is_ok()
}

fn short(id: &ChunkId) -> Short {
    *id.0.first_chunk().expect("an id has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(numbers: &[u8]) -> Vec<ChunkId> {
        numbers.iter().map(|&number| ChunkId([number; 32])).collect()
    }

    #[tokio::test]
    async fn a_chunk_is_claimed_once_and_there_afterwards() {
        let ledger = Ledger::default();
        let first = ledger.sort(ids(&[1, 2, 1]), false);
        assert_eq!((first.mine.as_slice(), first.others.len()), (&[0, 1][..], 0));
        let second = ledger.sort(ids(&[2, 3, 2, 1]), false);
        assert_eq!((second.mine.as_slice(), second.others.len()), (&[1][..], 1));
        first.claim.fulfil();
        let other = second.others.into_iter().next().unwrap();
        assert!(settled(other).await);
        assert!(ledger.sort(ids(&[1, 2]), false).mine.is_empty());
        assert_eq!(ledger.sort(ids(&[1, 2]), true).mine, [0, 1]);
        ledger.doubt_all();
        assert_eq!(ledger.sort(ids(&[1]), false).mine, [0]);
    }

    #[tokio::test]
    async fn a_claim_that_is_given_up_frees_its_chunks() {
        let ledger = Ledger::default();
        let first = ledger.sort(ids(&[1]), false);
        let second = ledger.sort(ids(&[1]), false);
        drop(first);
        let other = second.others.into_iter().next().unwrap();
        assert!(!settled(other).await);
        assert_eq!(ledger.sort(ids(&[1]), false).mine, [0]);
    }

    #[test]
    fn memory_is_bounded() {
        let ledger = Ledger::default();
        for round in 0..3u8 {
            let many = (0..400_000u32).map(|number| {
                let mut id = [round; 32];
                id[..4].copy_from_slice(&number.to_le_bytes());
                ChunkId(id)
            });
            ledger.sort(many, false).claim.fulfil();
        }
        assert!(ledger.lock().there.len() <= MAX_THERE && ledger.lock().claimed.is_empty());
    }
}
