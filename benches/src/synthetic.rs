//! NARs made on the fly: the same seed and length give the same bytes, a part of which compresses as builds do.

use std::io::{self, Write};

use anyhow::Context;
use firn_nix::nar::Writer;
use firn_nix::{Compression, NarInfo, Sha256, StoreHash, StorePath};
use sha2::Digest as _;

/// How much is made at a time.
const BLOCK_BYTES: usize = 64 << 10;
/// The length of all files but the first and the last.
const FILE_BYTES: u64 = 16 << 20;
/// What text is put together from.
const DICTIONARY_BYTES: usize = 64 << 10;

/// A NAR of a directory: one file with half of the bytes, and many of 16 MiB.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Synthetic {
    /// What the bytes depend on.
    pub(crate) seed: u64,
    /// The bytes of all files together.
    pub(crate) contents_bytes: u64,
}

impl Synthetic {
    /// Writes the NAR.
    pub(crate) fn write(&self, out: impl Write) -> io::Result<()> {
        let mut source = Source::new(self.seed);
        let mut nar = Writer::new(out);
        nar.directory()?;
        let (mut left, mut number) = (self.contents_bytes, 0);
        while left > 0 {
            let size = if number == 0 { left.div_ceil(2) } else { left.min(FILE_BYTES) };
            nar.entry(format!("part-{number:06}").as_bytes())?;
            nar.regular(false, size)?;
            let mut rest = size;
            while rest > 0 {
                let take = rest.min(BLOCK_BYTES as u64) as usize;
                nar.contents(&source.block()[..take])?;
                rest -= take as u64;
            }
            (left, number) = (left - size, number + 1);
        }
        nar.end_directory()?;
        nar.finish()?.flush()
    }

    /// Computes the narinfo of a path of this NAR; makes the whole NAR for it.
    pub(crate) fn narinfo(&self) -> anyhow::Result<NarInfo> {
        let mut tally = Tally::default();
        self.write(&mut tally)?;
        let (nar_hash, nar_size) = tally.finish();
        let hash = Sha256::of(format!("synthetic {} {}", self.seed, self.contents_bytes).as_bytes());
        let hash: [u8; 20] = hash.0.first_chunk().copied().context("a hash is longer than 20 bytes")?;
        Ok(NarInfo {
            store_path: StorePath::new(StoreHash(hash), "synthetic")?,
            url: format!("nar/{}.nar", nar_hash.to_nix32()),
            compression: Compression::None,
            file_hash: Some(nar_hash),
            file_size: Some(nar_size),
            nar_hash,
            nar_size,
            references: Default::default(),
            deriver: None,
            signatures: Default::default(),
            ca: None,
        })
    }
}

/// Counts and hashes what is written.
#[derive(Default)]
pub(crate) struct Tally {
    hash: sha2::Sha256,
    bytes: u64,
}

impl Tally {
    /// Returns the hash and the count.
    pub(crate) fn finish(self) -> (Sha256, u64) {
        (Sha256(self.hash.finalize().into()), self.bytes)
    }
}

impl Write for Tally {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Blocks of noise, text and zeros; of eight blocks about three, four and one.
struct Source {
    state: u64,
    dictionary: Vec<u8>,
    block: Vec<u8>,
}

impl Source {
    fn new(seed: u64) -> Self {
        let mut source = Self { state: seed, dictionary: Vec::new(), block: vec![0; BLOCK_BYTES] };
        source.dictionary =
            (0..DICTIONARY_BYTES).map(|_| b"etaoinshrdlucmf_(){};=.0 \n"[(source.word() % 26) as usize]).collect();
        source
    }

    /// The next 64 bits of SplitMix64 (Steele, Lea, Flood 2014).
    fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn block(&mut self) -> &[u8] {
        let mut block = std::mem::take(&mut self.block);
        match self.word() % 8 {
            0 => block.fill(0),
            1..=3 => block.chunks_mut(8).for_each(|eight| {
                let word = self.word().to_le_bytes();
                eight.copy_from_slice(&word[..eight.len()]);
            }),
            _ => self.text(&mut block),
        }
        self.block = block;
        &self.block
    }

    /// Fills with short pieces of the dictionary: zstd makes a quarter of it, and no two chunks are equal.
    fn text(&mut self, block: &mut [u8]) {
        let mut at = 0;
        while at < block.len() {
            let word = self.word();
            let len = (4 + (word % 16) as usize).min(block.len() - at);
            let from = (word >> 8) as usize % (DICTIONARY_BYTES - 32);
            block[at..at + len].copy_from_slice(&self.dictionary[from..from + len]);
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: u64, contents_bytes: u64) -> Vec<u8> {
        let mut nar = Vec::new();
        Synthetic { seed, contents_bytes }.write(&mut nar).expect("memory takes it");
        nar
    }

    #[test]
    fn it_is_a_nar_and_a_function_of_its_seed() {
        let nar = bytes(1, 300_001);
        assert_eq!(nar, bytes(1, 300_001));
        assert_ne!(nar, bytes(2, 300_001));
        let mut decoder = firn_nix::nar::Decoder::new();
        let mut contents = 0;
        let mut on = |event: firn_nix::nar::Event<'_>| {
            if let firn_nix::nar::Event::Contents(piece) = event {
                contents += piece.len();
            }
        };
        decoder.push(&nar, &mut on).expect("a NAR");
        decoder.finish().expect("a whole NAR");
        assert_eq!(contents, 300_001);
    }

    #[test]
    fn its_narinfo_is_true() {
        let synthetic = Synthetic { seed: 3, contents_bytes: 100_000 };
        let (info, nar) = (synthetic.narinfo().expect("a narinfo"), bytes(3, 100_000));
        assert_eq!((info.nar_hash, info.nar_size), (Sha256::of(&nar), nar.len() as u64));
    }

    #[test]
    fn it_compresses_by_half_or_so() {
        let nar = bytes(4, 8 << 20);
        let packed = zstd::bulk::compress(&nar, 3).expect("zstd").len();
        assert!((nar.len() / 4..nar.len() * 3 / 4).contains(&packed), "{packed} of {}", nar.len());
    }
}
