//! Inputs for tests, and what becomes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use firn_chunk::{Chunk, ChunkId, Chunker, Cut, Input, Patcher, Recipe, Result};
use firn_nix::nar::Writer;
use proptest::prelude::*;

/// Everything that cutting gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) chunks: Vec<(ChunkId, Vec<u8>)>,
    pub(crate) cut: Cut,
}

impl Outcome {
    /// Returns the normalised input.
    pub(crate) fn normalised(&self) -> Vec<u8> {
        self.chunks.iter().flat_map(|(_, data)| data).copied().collect()
    }

    /// Rebuilds the input from the encoded recipe, the chunks and the slots.
    pub(crate) fn restore(&self) -> Vec<u8> {
        let recipe = Recipe::decode(&self.cut.recipe.encode()).expect("what was encoded can be decoded");
        assert_eq!(recipe, self.cut.recipe);
        let mut patcher = Patcher::new(Arc::new(recipe), &self.cut.slots).expect("the slots belong to the recipe");
        let mut restored = Vec::new();
        for (_, data) in &self.chunks {
            let offset = restored.len();
            restored.extend_from_slice(data);
            patcher.apply(offset as u64, &mut restored[offset..]);
        }
        restored
    }
}

/// Cuts an input that comes in the given pieces.
pub(crate) fn cut_pieces<'a>(input: Input, pieces: impl Iterator<Item = &'a [u8]>) -> Result<Outcome> {
    let mut chunks = Vec::new();
    let mut on_chunk = |chunk: Chunk<'_>| chunks.push((chunk.id, chunk.data.to_vec()));
    let mut chunker = Chunker::new(input);
    for piece in pieces {
        chunker.push(piece, &mut on_chunk)?;
    }
    let cut = chunker.finish(&mut on_chunk)?;
    Ok(Outcome { chunks, cut })
}

/// Cuts an input that comes at once.
pub(crate) fn cut(input: Input, bytes: &[u8]) -> Result<Outcome> {
    cut_pieces(input, std::iter::once(bytes))
}

/// Splits bytes at lengths that repeat.
pub(crate) fn split<'a>(bytes: &'a [u8], lengths: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut left = bytes;
    let mut lengths = lengths.iter().cycle();
    std::iter::from_fn(move || {
        let length = lengths.next().copied().unwrap_or(left.len()).min(left.len());
        let (piece, rest) = left.split_at(length);
        left = rest;
        (!piece.is_empty() || !left.is_empty()).then_some(piece)
    })
}

/// A small generator with fixed output (SplitMix64): the golden inputs are made of it.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(length).collect()
    }

    /// Returns 32 characters of nix-base32.
    pub(crate) fn hash(&mut self) -> Vec<u8> {
        self.bytes(32).into_iter().map(|byte| BASE32[usize::from(byte % 32)]).collect()
    }
}

pub(crate) const BASE32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Store hashes that tests put into inputs: some random, some that overlap with themselves and each other.
pub(crate) fn hashes() -> Vec<Vec<u8>> {
    let mut random = Random(7);
    let mut hashes: Vec<Vec<u8>> = (0..4).map(|_| random.hash()).collect();
    hashes.push(vec![b'a'; 32]);
    hashes.push([&[b'a'; 31][..], b"b"].concat());
    hashes.push([b"b", &[b'a'; 31][..]].concat());
    hashes.push(b"abababababababababababababababab".to_vec());
    hashes.push(b"babababababababababababababababa".to_vec());
    hashes
}

/// A piece of a file's contents, a name or a target.
#[derive(Debug, Clone)]
pub(crate) enum Fragment {
    /// `/nix/store/HASH-`.
    Reference(usize),
    /// A hash with nothing around it.
    Bare(usize),
    /// The first bytes of a reference.
    Torn(usize, usize),
    /// These bytes.
    Bytes(Vec<u8>),
    /// This many pseudo-random bytes.
    Random(u64, usize),
    /// One byte so often.
    Run(u8, usize),
}

impl Fragment {
    pub(crate) fn write(&self, hashes: &[Vec<u8>], out: &mut Vec<u8>) {
        let reference = |hash: &usize| [b"/nix/store/", &hashes[hash % hashes.len()][..], b"-"].concat();
        match self {
            Self::Reference(hash) => out.extend(reference(hash)),
            Self::Bare(hash) => out.extend(&hashes[hash % hashes.len()]),
            Self::Torn(hash, length) => out.extend(&reference(hash)[..length % 44]),
            Self::Bytes(bytes) => out.extend(bytes),
            Self::Random(seed, length) => out.extend(Random(*seed).bytes(*length)),
            Self::Run(byte, length) => out.extend(std::iter::repeat_n(byte, *length)),
        }
    }
}

/// Contents that are made to confuse: hashes next to each other, torn, overlapping, bare before and after.
pub(crate) fn fragments(most: usize) -> impl Strategy<Value = Vec<Fragment>> {
    let fragment = prop_oneof![
        6 => any::<usize>().prop_map(Fragment::Reference),
        6 => any::<usize>().prop_map(Fragment::Bare),
        2 => (any::<usize>(), any::<usize>()).prop_map(|(hash, length)| Fragment::Torn(hash, length)),
        2 => "[0-9a-z/-]{0,40}".prop_map(|text| Fragment::Bytes(text.into_bytes())),
        2 => "[ab]{0,70}".prop_map(|text| Fragment::Bytes(text.into_bytes())),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Fragment::Bytes),
        1 => (any::<u64>(), 0_usize..40_000).prop_map(|(seed, length)| Fragment::Random(seed, length)),
        1 => (any::<u8>(), 0_usize..5000).prop_map(|(byte, length)| Fragment::Run(byte, length)),
    ];
    prop::collection::vec(fragment, 0..most)
}

pub(crate) fn bytes_of(fragments: &[Fragment], hashes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for fragment in fragments {
        fragment.write(hashes, &mut bytes);
    }
    bytes
}

/// A file system tree whose store hashes can be replaced.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    Regular {
        executable: bool,
        contents: Vec<Fragment>,
    },
    Symlink(usize),
    /// The bytes of a name; a hash follows if there is one.
    Directory(BTreeMap<(String, Option<usize>), Self>),
}

impl Node {
    /// Returns the NAR of the tree with these store hashes.
    pub(crate) fn nar(&self, hashes: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new());
        self.write(hashes, &mut writer);
        writer.finish().expect("the tree was written whole")
    }

    fn write(&self, hashes: &[Vec<u8>], writer: &mut Writer<Vec<u8>>) {
        let fine = "trees of tests are valid, and memory takes everything";
        match self {
            Self::Regular { executable, contents } => {
                let contents = bytes_of(contents, hashes);
                writer.regular(*executable, contents.len() as u64).expect(fine);
                writer.contents(&contents).expect(fine);
            }
            Self::Symlink(hash) => {
                writer.symlink(&[b"/nix/store/", &hashes[hash % hashes.len()][..], b"-name/bin"].concat()).expect(fine);
            }
            Self::Directory(entries) => {
                writer.directory().expect(fine);
                for ((name, hash), node) in entries {
                    let hash = hash.map(|hash| &hashes[hash % hashes.len()][..]).unwrap_or_default();
                    writer.entry(&[name.as_bytes(), hash].concat()).expect(fine);
                    node.write(hashes, writer);
                }
                writer.end_directory().expect(fine);
            }
        }
    }
}

/// Trees with files below and above the size from which they are cut on their own.
pub(crate) fn tree() -> impl Strategy<Value = Node> {
    let file = (any::<bool>(), fragments(12)).prop_map(|(executable, contents)| Node::Regular { executable, contents });
    let large = (any::<u64>(), 15_000_usize..300_000, fragments(6)).prop_map(|(seed, length, mut contents)| {
        contents.insert(contents.len() / 2, Fragment::Random(seed, length));
        Node::Regular { executable: false, contents }
    });
    let edge = (16_380_usize..16_390).prop_map(|length| Node::Regular {
        executable: false,
        contents: vec![Fragment::Random(length as u64, length)],
    });
    let leaf = prop_oneof![4 => file, 2 => large, 1 => edge, 1 => any::<usize>().prop_map(Node::Symlink)];
    leaf.prop_recursive(3, 12, 5, |inner| {
        // Two entries never have the same name before the hash: so hashes do not change the order.
        prop::collection::btree_map("[0-9a-z]{1,20}", (prop::option::of(any::<usize>()), inner), 0..5).prop_map(
            |entries| {
                let entries = entries.into_iter().map(|(name, (hash, node))| ((name + "=", hash), node));
                Node::Directory(entries.collect())
            },
        )
    })
}
