//! A seeded generator of bytes that look like what builds produce: the same seed gives the same bytes for ever.

/// SplitMix64 (Steele, Lea, Flood 2014): small, seedable with any number, good enough for test data.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Returns the generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next 64 bits.
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `limit`; 0 if `limit` is 0.
    pub fn below(&mut self, limit: usize) -> usize {
        let limit = limit as u64;
        usize::try_from(self.word() % limit.max(1)).expect("it is below a usize")
    }

    /// Returns bytes that no compressor makes smaller.
    pub fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.word().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }

    /// Returns lines of words out of a small vocabulary, which compress about as source text does.
    pub fn text(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 24] = [
            "struct",
            "return",
            "if",
            "else",
            "const",
            "static",
            "lib",
            "share",
            "include",
            "include_dirs",
            "version",
            "0x00",
            "0x7f",
            "->",
            "{",
            "}",
            "();",
            "==",
            "prefix=",
            "exec",
            "NULL",
            "size_t",
            "buffer",
            "length",
        ];
        let mut bytes = Vec::with_capacity(len + 16);
        while bytes.len() < len {
            let word = WORDS.get(self.below(WORDS.len())).copied().unwrap_or("word");
            bytes.extend_from_slice(word.as_bytes());
            bytes.push(if self.below(9) == 0 { b'\n' } else { b' ' });
        }
        bytes.truncate(len);
        bytes
    }

    /// Returns 32 characters of nix-base32, as they stand in a store path.
    pub fn store_hash(&mut self) -> String {
        (0..32).map(|_| char::from(NIX32.get(self.below(32)).copied().unwrap_or(b'0'))).collect()
    }
}

/// The characters of nix-base32: digits and letters without e, o, t and u.
pub const NIX32: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        assert_eq!(Random::new(7).noise(100), Random::new(7).noise(100));
        assert_ne!(Random::new(7).noise(100), Random::new(8).noise(100));
        // The first output of SplitMix64 for seed 0, as published.
        assert_eq!(Random::new(0).word(), 0xe220_a839_7b1d_cdaf);
    }

    #[test]
    fn lengths_are_exact() {
        for len in [0, 1, 7, 8, 9, 1000] {
            assert_eq!(Random::new(1).noise(len).len(), len);
            assert_eq!(Random::new(1).text(len).len(), len);
        }
    }
}
