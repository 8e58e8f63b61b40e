//! What upstreams are proven to have.

use std::collections::HashSet;

use firn_api::Proof;
use firn_nix::StorePath;
use quick_cache::sync::Cache as Lru;

use crate::caches::Cache;

/// How many proofs are remembered, over all caches; about 150 bytes each. A client sends again what was forgotten.
const REMEMBERED: usize = 65_536;

/// Paths that were proven to be upstream's, by cache.
///
/// A cache's generation is part of the key: what was proven by keys that it knows no longer counts for nothing.
pub(super) struct Proofs {
    remembered: Lru<(u64, StorePath), ()>,
}

/// What came of a commit's proofs.
#[derive(Debug, Default)]
pub(super) struct Checked {
    proven: HashSet<StorePath>,
    refused: HashSet<StorePath>,
}

impl Proofs {
    pub(super) fn new() -> Self {
        Self { remembered: Lru::new(REMEMBERED) }
    }

    /// Verifies proofs and remembers those that hold; about 50 µs each.
    pub(super) fn check(&self, cache: &Cache, proofs: Vec<Proof>) -> Checked {
        let mut checked = Checked::default();
        for proof in proofs {
            let key = (cache.generation, proof.path.clone());
            let holds = self.remembered.get(&key).is_some()
                || cache.upstreams.iter().any(|upstream| proof.is_by(upstream, &cache.row.store_dir));
            if holds {
                self.remembered.insert(key, ());
                checked.proven.insert(proof.path);
            } else {
                checked.refused.insert(proof.path);
            }
        }
        checked
    }

    /// Returns which of these paths are proven to be upstream's, by this commit or an earlier one.
    pub(super) fn elsewhere(
        &self,
        cache: &Cache,
        checked: &Checked,
        references: impl Iterator<Item = StorePath>,
    ) -> Vec<StorePath> {
        references
            .filter(|path| {
                checked.proven.contains(path) || self.remembered.get(&(cache.generation, path.clone())).is_some()
            })
            .collect()
    }
}

impl Checked {
    /// Returns one of these paths whose proof does not hold.
    pub(super) fn refused<'a>(&self, paths: &'a [StorePath]) -> Option<&'a StorePath> {
        paths.iter().find(|path| self.refused.contains(path))
    }
}
