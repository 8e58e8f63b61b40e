//! One bit for each of the things that were asked about, in their order.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::{Error, Result};

const WHAT: &str = "a bitmap";

/// Bits in the order of a question: bit `i` is in byte `i / 8`, its value there `1 << (i % 8)`; the last byte's rest is zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bitmap {
    bytes: Vec<u8>,
    len: usize,
}

impl Bitmap {
    /// Returns the bitmap of these bits.
    #[must_use]
    pub fn from_bools(bits: &[bool]) -> Self {
        let pack = |eight: &[bool]| eight.iter().rev().fold(0, |byte, &bit| byte << 1 | u8::from(bit));
        Self { bytes: bits.chunks(8).map(pack).collect(), len: bits.len() }
    }

    /// Reads a bitmap of exactly `len` bits; another length or bits behind the last one are an error.
    pub fn decode(bytes: &[u8], len: usize) -> Result<Self> {
        if bytes.len() != len.div_ceil(8) {
            let detail = format!("{} bytes for {len} bits", bytes.len());
            return Err(Error::malformed(WHAT, detail));
        }
        let used = len % 8;
        if used != 0 && bytes.last().is_some_and(|last| last >> used != 0) {
            return Err(Error::malformed(WHAT, "bits are set behind the last one"));
        }
        Ok(Self { bytes: bytes.to_vec(), len })
    }

    /// Reads a bitmap of exactly `len` bits in base64 with padding.
    pub fn from_base64(text: &str, len: usize) -> Result<Self> {
        let bytes = BASE64.decode(text).map_err(|error| Error::malformed(WHAT, error.to_string()))?;
        Self::decode(&bytes, len)
    }

    /// Returns the bytes.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns the bytes in base64 with padding.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(&self.bytes)
    }

    /// Returns the number of bits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Says if it has no bits at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns bit `i`; what is behind the last one is not set.
    #[must_use]
    pub fn get(&self, i: usize) -> bool {
        self.bytes.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1)
    }

    /// Returns all bits in order.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        (0..self.len).map(|i| self.get(i))
    }

    /// Returns the places of the bits that are set, in order.
    pub fn ones(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.len).filter(|&i| self.get(i))
    }

    /// Returns how many bits are set.
    #[must_use]
    pub fn count_ones(&self) -> usize {
        self.bytes.iter().map(|byte| byte.count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_wrong_lengths_and_padding() {
        for (bytes, len) in
            [(&[][..], 1), (&[0], 0), (&[0], 9), (&[0, 0], 8), (&[2], 1), (&[0x80], 7), (&[0xff, 0x10], 12)]
        {
            assert!(Bitmap::decode(bytes, len).is_err(), "{bytes:?} {len}");
        }
        for text in ["AQ", "AQ=", "A===", "AR==", " AQ==", "AQ==\n", "*"] {
            assert!(Bitmap::from_base64(text, 1).is_err(), "{text}");
        }
    }

    #[test]
    fn puts_the_first_bit_lowest() {
        let mut bits = [false; 10];
        (bits[0], bits[3], bits[9]) = (true, true, true);
        let bitmap = Bitmap::from_bools(&bits);
        assert_eq!(bitmap.clone().into_bytes(), [0b1001, 0b10]);
        assert_eq!(bitmap.to_base64(), "CQI=");
        assert_eq!((bitmap.len(), bitmap.count_ones(), bitmap.get(3), bitmap.get(10)), (10, 3, true, false));
        assert!(Bitmap::from_bools(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn comes_back(bits in proptest::collection::vec(any::<bool>(), 0..70)) {
            let bitmap = Bitmap::from_bools(&bits);
            prop_assert_eq!(bitmap.iter().collect::<Vec<_>>(), bits.clone());
            prop_assert_eq!(bitmap.ones().count(), bitmap.count_ones());
            prop_assert_eq!(&Bitmap::from_base64(&bitmap.to_base64(), bits.len()).unwrap(), &bitmap);
            prop_assert_eq!(Bitmap::decode(&bitmap.clone().into_bytes(), bits.len()).unwrap(), bitmap);
        }

        #[test]
        fn reads_only_what_it_writes(bytes in proptest::collection::vec(any::<u8>(), 0..4), len in 0..40usize) {
            if let Ok(bitmap) = Bitmap::decode(&bytes, len) {
                prop_assert_eq!(bitmap.into_bytes(), bytes);
            }
        }
    }
}
