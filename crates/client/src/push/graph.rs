//! Which paths of a push refer to which, and what became of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_nix::StorePath;
use firn_nix_store::PathInfo;

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Done,
    Failed,
}

/// The references among the paths of a push, by their places in its order, and what became of them.
#[derive(Debug)]
pub(crate) struct Graph {
    names: Vec<StorePath>,
    references: Vec<Vec<usize>>,
    states: Mutex<Vec<State>>,
}

impl Graph {
    /// Returns the graph of paths in an order that has references before referrers. Where it hasn't (a cycle can't be, but
    /// what comes in from outside might have one) the reference is left out.
    pub(crate) fn new(paths: &[Arc<PathInfo>]) -> Self {
        let places: HashMap<&StorePath, usize> =
            paths.iter().enumerate().map(|(place, info)| (&info.path, place)).collect();
        let of = |(place, info): (usize, &Arc<PathInfo>)| {
            let references = info.references.iter().filter_map(|reference| places.get(reference).copied());
            references.filter(|&reference| reference < place).collect()
        };
        let references = paths.iter().enumerate().map(of).collect();
        let names = paths.iter().map(|info| info.path.clone()).collect();
        Self { names, references, states: Mutex::new(vec![State::Open; paths.len()]) }
    }

    /// Notes that a path is in the cache.
    pub(crate) fn set_done(&self, place: usize) {
        self.set(place, State::Done);
    }

    /// Notes that a path was not pushed.
    pub(crate) fn set_failed(&self, place: usize) {
        self.set(place, State::Failed);
    }

    /// Returns a reference of a path that was not pushed.
    pub(crate) fn failed_reference(&self, place: usize) -> Option<StorePath> {
        let states = self.states();
        let failed = self.of(place).iter().copied().find(|&reference| states.get(reference) == Some(&State::Failed));
        failed.and_then(|reference| self.names.get(reference).cloned())
    }

    /// Says if each reference of a path is in the cache, or `is_with_it`.
    pub(crate) fn can_follow(&self, place: usize, is_with_it: impl Fn(usize) -> bool) -> bool {
        let states = self.states();
        self.of(place).iter().all(|&reference| states.get(reference) == Some(&State::Done) || is_with_it(reference))
    }

    fn of(&self, place: usize) -> &[usize] {
        self.references.get(place).map_or(&[], Vec::as_slice)
    }

    fn set(&self, place: usize, state: State) {
        if let Some(slot) = self.states().get_mut(place) {
            *slot = state;
        }
    }

    fn states(&self) -> MutexGuard<'_, Vec<State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::samples::{info, path};

    #[test]
    fn references_come_first_and_what_failed_blocks() {
        let mut paths = vec![info("a", 1), info("b", 1), info("c", 1)];
        paths[1].references = vec![path("a"), path("b"), path("elsewhere")];
        paths[2].references = vec![path("a"), path("b")];
        paths[0].references = vec![path("c")];
        let paths: Vec<_> = paths.into_iter().map(Arc::new).collect();
        let graph = Graph::new(&paths);
        assert!(graph.can_follow(0, |_| false));
        assert!(!graph.can_follow(1, |_| false) && graph.can_follow(1, |place| place == 0));
        graph.set_done(0);
        assert!(graph.can_follow(1, |_| false) && !graph.can_follow(2, |_| false));
        graph.set_failed(1);
        assert_eq!((graph.failed_reference(2), graph.failed_reference(0)), (Some(path("b")), None));
    }
}
