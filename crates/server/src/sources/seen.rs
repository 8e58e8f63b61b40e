//! The names of a store that can only be listed as a whole, remembered in eight bytes each.

use firn_nix::{StoreHash, StorePath};

/// The most names that are remembered: 16 MB.
pub(super) const MAX_NAMES: usize = 2_000_000;

/// What was there when a store was listed last. A name is taken for another one by a chance of one in 10^14 for each million.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(Vec<u64>);

impl Seen {
    /// Reads what [`Seen::encode`] wrote; anything else is as if nothing had been seen, which costs questions.
    pub(super) fn decode(bytes: &[u8]) -> Self {
        let names: Vec<u64> =
            bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(u64::from_le_bytes)).collect();
        if bytes.len().is_multiple_of(8) && names.is_sorted() { Self(names) } else { Self::default() }
    }

    pub(super) fn of<'a>(paths: impl Iterator<Item = &'a StorePath>) -> Self {
        let mut names: Vec<u64> = paths.map(|path| short(&path.hash())).collect();
        names.sort_unstable();
        names.dedup();
        Self(names)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|name| name.to_le_bytes()).collect()
    }

    pub(super) fn has(&self, path: &StorePath) -> bool {
        self.0.binary_search(&short(&path.hash())).is_ok()
    }
}

fn short(hash: &StoreHash) -> u64 {
    hash.0.iter().take(8).fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: u8) -> StorePath {
        StorePath::new(StoreHash([n; 20]), "x").unwrap()
    }

    #[test]
    fn what_was_seen_is_known_again_and_nothing_else() {
        let paths: Vec<StorePath> = [3, 1, 2, 3].map(path).into();
        let seen = Seen::of(paths.iter());
        let bytes = seen.encode();
        assert_eq!(bytes.len(), 24);
        let again = Seen::decode(&bytes);
        assert_eq!(again, seen);
        assert!(again.has(&path(1)) && again.has(&path(3)) && !again.has(&path(4)));
        for broken in [&bytes[..23], &bytes.repeat(2)[..]] {
            assert!(!Seen::decode(broken).has(&path(1)));
        }
        assert!(!Seen::decode(&[]).has(&path(1)));
    }
}
