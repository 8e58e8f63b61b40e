//! Two lanes: a path that takes long holds up only what refers to it.

use std::collections::HashSet;

use firn_nix::StorePath;
use firn_nix_store::PathInfo;

/// From which length of its NAR on a path has the long lane to itself: some 20 s over a link of 100 Mbit/s, where nothing of it
/// is known.
pub(crate) const LONG_BYTES: u64 = 256 << 20;

/// How many paths may be put aside for the long lane. What is beyond takes the usual one, and is as slow there.
const MAX_ASIDE: usize = 1 << 16;

/// Where paths are pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// Nearly all; it also decides who takes the other one.
    Usual,
    /// The long ones that the cache lacks, and what refers to them.
    Long,
}

/// Returns which paths of a closure, references first, can't be in the cache before one of `long` is: these, and what refers
/// to them.
pub(super) fn behind(long: HashSet<StorePath>, closure: &[PathInfo]) -> HashSet<StorePath> {
    let mut behind = long;
    for info in closure {
        if info.references.iter().any(|reference| *reference != info.path && behind.contains(reference)) {
            behind.insert(info.path.clone());
        }
    }
    behind
}

/// Paths that were put aside for the long lane and have not had their turn there.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside(HashSet<StorePath>);

impl Aside {
    /// Puts paths aside; returns whether there was room.
    pub(super) fn put<'a>(&mut self, paths: impl ExactSizeIterator<Item = &'a StorePath>) -> bool {
        let has_room = self.0.len() + paths.len() <= MAX_ASIDE;
        if has_room {
            self.0.extend(paths.cloned());
        }
        has_room
    }

    /// Says if a path was put aside.
    pub(super) fn has(&self, path: &StorePath) -> bool {
        self.0.contains(path)
    }

    /// Returns how many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Gives all back to the usual lane, which sees what is to be done about them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{info, path};
    use super::*;

    #[test]
    fn whatever_leads_to_a_long_one_is_behind_it() {
        let closure = [info(1, &[1]), info(2, &[]), info(3, &[1, 2]), info(4, &[3]), info(5, &[2, 5])];
        assert_eq!(behind([path(1)].into(), &closure), [path(1), path(3), path(4)].into());
        assert_eq!(behind(HashSet::new(), &closure), HashSet::new());
    }

    #[test]
    fn there_is_room_for_so_many() {
        let mut aside = Aside::default();
        let many: Vec<_> = (0..u32::try_from(MAX_ASIDE).unwrap()).map(path).collect();
        assert!(aside.put(many.iter()) && !aside.put([path(70_000)].iter()));
        assert!(aside.has(&path(5)) && !aside.has(&path(70_000)));
        assert_eq!(aside.len(), MAX_ASIDE);
        aside.clear();
        assert!(!aside.has(&path(5)) && aside.len() == 0);
    }
}
