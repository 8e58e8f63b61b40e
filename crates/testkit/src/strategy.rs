//! Proptest strategies for NARs, weighted towards what breaks parsers, normalisation and cuts.

use std::ops::Range;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use crate::nar::Node;
use crate::random::{NIX32, Random};

/// Generates trees of at most four levels: every kind of node, names and targets of any bytes, contents as [`contents`].
pub fn tree() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        5 => (any::<bool>(), contents()).prop_map(|(executable, contents)| Node::Regular { executable, contents }),
        1 => symlink_target().prop_map(|target| Node::Symlink { target }),
        1 => Just(Node::Directory(std::collections::BTreeMap::new())),
    ];
    leaf.prop_recursive(4, 24, 6, |node| btree_map(name(), node, 0..6).prop_map(Node::Directory))
}

/// Generates names of directory entries: any bytes but NUL and slash, neither `.` nor `..`, 1 to 40 bytes long.
pub fn name() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = any::<u8>().prop_filter("NUL and slash cannot be in a name", |byte| *byte != 0 && *byte != b'/');
    prop_oneof![
        3 => "[a-z][a-z0-9.+_-]{0,20}".prop_map(String::into_bytes),
        1 => vec(any_byte, 1..40),
        1 => store_path().prop_map(|path| path.rsplit('/').next().unwrap_or("x").as_bytes().to_vec()),
    ]
    .prop_filter("reserved", |name| name != b"." && name != b"..")
}

/// Generates targets of links: relative names, store paths, any bytes but NUL.
pub fn symlink_target() -> impl Strategy<Value = Vec<u8>> {
    let any_byte = any::<u8>().prop_filter("NUL cannot be in a target", |byte| *byte != 0);
    prop_oneof![
        "\\.\\./[a-z]{1,12}(/[a-z]{1,12}){0,3}".prop_map(String::into_bytes),
        (store_path(), "/[a-z]{1,8}").prop_map(|(path, rest)| (path + &rest).into_bytes()),
        vec(any_byte, 1..60),
    ]
}

/// Generates a store path of a small set of hashes, so that the same one occurs several times.
pub fn store_path() -> impl Strategy<Value = String> {
    (0u64..6, "[a-z]{1,8}").prop_map(|(seed, name)| format!("/nix/store/{}-{name}", Random::new(seed).store_hash()))
}

/// Generates a file's bytes: pieces of text, noise, zeros, store paths, and things that only nearly are store paths.
pub fn contents() -> impl Strategy<Value = Vec<u8>> {
    vec(piece(), 0..8).prop_map(|pieces| pieces.concat())
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (any::<u64>(), 0usize..400).prop_map(|(seed, len)| Random::new(seed).text(len)),
        3 => (any::<u64>(), 0usize..400).prop_map(|(seed, len)| Random::new(seed).noise(len)),
        1 => (any::<u64>(), around_sizes()).prop_map(|(seed, len)| Random::new(seed).noise(len)),
        1 => (0usize..300).prop_map(|len| vec![0; len]),
        4 => store_path().prop_map(String::into_bytes),
        2 => near_reference(),
        2 => (0u64..6).prop_map(|seed| Random::new(seed).store_hash().into_bytes()),
    ]
}

/// Generates lengths just below, at and above the borders that the format cares for (small file, chunk, frame).
pub fn around_sizes() -> impl Strategy<Value = usize> {
    let border = prop_oneof![
        4 => Just(16usize << 10),
        3 => Just(64usize << 10),
        2 => Just(256usize << 10),
        1 => Just(1usize << 20),
    ];
    (border, 0usize..17).prop_map(|(border, off)| border + off - 8)
}

/// Generates what nearly is a reference: cut anywhere, a wrong character in the hash, no dash, prefixes in a row, zeros
/// in place of the hash (which is how a normalised one looks).
fn near_reference() -> impl Strategy<Value = Vec<u8>> {
    let hash = (0u64..6).prop_map(|seed| Random::new(seed).store_hash());
    prop_oneof![
        (store_path(), 0usize..60).prop_map(|(path, cut)| path.as_bytes().iter().copied().take(cut).collect()),
        (store_path(), 11usize..43, any::<u8>()).prop_map(|(path, at, byte)| {
            let mut bytes = path.into_bytes();
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            bytes
        }),
        hash.clone().prop_map(|hash| format!("/nix/store/{hash}").into_bytes()),
        hash.prop_map(|hash| format!("/nix/store//nix/store/{hash}-a-/nix/store/").into_bytes()),
        Just([&b"/nix/store/"[..], &[0; 32], b"-zeros"].concat()),
        Just(NIX32.repeat(2)),
    ]
}

/// Generates sizes of consecutive reads, to be repeated until the input ends: single bytes up to `limit`.
pub fn read_sizes(limit: usize) -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![Just(1usize), 1usize..16, 16usize..4096, 1usize..limit.max(2)];
    vec(size, 1..12)
}

/// Cuts `bytes` into consecutive pieces of the given sizes, taken round and round.
pub fn pieces<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut sizes = sizes.iter().copied().map(|size| size.max(1)).cycle();
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = sizes.next().unwrap_or(usize::MAX).min(rest.len());
        let (piece, after) = rest.split_at(size);
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Generates damage of a byte string: where, and what is to happen there. See [`Damage::apply`].
pub fn damage() -> impl Strategy<Value = Damage> {
    let kind = prop_oneof![
        (1u8..=255).prop_map(DamageKind::Flip),
        Just(DamageKind::Truncate),
        vec(any::<u8>(), 1..20).prop_map(DamageKind::Insert),
        (1usize..64).prop_map(DamageKind::Remove),
    ];
    (any::<prop::sample::Index>(), kind).prop_map(|(at, kind)| Damage { at, kind })
}

/// One change to a byte string, wherever its length puts it.
#[derive(Debug, Clone)]
pub struct Damage {
    at: prop::sample::Index,
    kind: DamageKind,
}

#[derive(Debug, Clone)]
enum DamageKind {
    Flip(u8),
    Truncate,
    Insert(Vec<u8>),
    Remove(usize),
}

impl Damage {
    /// Returns the damaged copy; always different from `bytes`, unless that is empty.
    pub fn apply(&self, bytes: &[u8]) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        if bytes.is_empty() {
            return damaged;
        }
        let at = self.at.index(bytes.len());
        match &self.kind {
            DamageKind::Flip(bits) => {
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= bits;
                }
            }
            DamageKind::Truncate => damaged.truncate(at),
            DamageKind::Insert(extra) => drop(damaged.splice(at..at, extra.iter().copied())),
            DamageKind::Remove(count) => {
                let end = (at + count).min(damaged.len());
                let removed: Range<usize> = at..end;
                drop(damaged.drain(removed));
            }
        }
        damaged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn pieces_add_up(bytes in vec(any::<u8>(), 0..5000), sizes in read_sizes(700)) {
            prop_assert_eq!(pieces(&bytes, &sizes).collect::<Vec<_>>().concat(), bytes);
        }

        #[test]
        fn damage_damages(bytes in vec(any::<u8>(), 1..200), damage in damage()) {
            prop_assert_ne!(damage.apply(&bytes), bytes);
        }

        #[test]
        fn trees_encode_to_whole_words(tree in tree()) {
            prop_assert_eq!(tree.encode().len() % 8, 0);
        }
    }
}
