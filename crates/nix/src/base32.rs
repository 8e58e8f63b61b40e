//! Nix's own base-32: 32 characters without `e`, `o`, `t` and `u`, the most significant first.
//!
//! The number that the characters spell has its *least* significant byte first in the bytes. `data-encoding` knows this
//! bit order, only the characters come out in reverse.

use std::sync::LazyLock;

use data_encoding::{BitOrder, Encoding, Specification};

use crate::{Error, Result};

/// The 32 characters, in the order of their values (and of their bytes).
pub(crate) const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Marks what is no character in [`VALUE_OF`]; larger than any value.
pub(crate) const NO_VALUE: u8 = 0x80;

/// The value of each character, or [`NO_VALUE`].
pub(crate) const VALUE_OF: [u8; 256] = {
    let mut table = [NO_VALUE; 256];
    let mut value = 0;
    while value < 32 {
        table[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    table
};

/// Says of each byte if it is a character of the alphabet.
pub const IS_CHAR: [bool; 256] = {
    let mut table = [false; 256];
    let mut value = 0;
    while value < 32 {
        table[ALPHABET[value] as usize] = true;
        value += 1;
    }
    table
};

static REVERSED: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.extend(ALPHABET.iter().map(|&c| char::from(c)));
    specification.bit_order = BitOrder::LeastSignificantFirst;
    specification.encoding().expect("32 distinct ASCII characters")
});

/// Returns the characters for `bytes`: one for each started 5 bits.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    REVERSED.encode(bytes).chars().rev().collect()
}

/// Returns the bytes that `text` spells.
///
/// There is one spelling for any bytes: characters outside of the alphabet (it has no capitals), a length that no bytes
/// have, and bits beyond the last byte are refused.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    let reversed: Vec<u8> = text.bytes().rev().collect();
    REVERSED.decode(&reversed).map_err(|_| Error::invalid("nix-base32", "not nix-base32"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_no_bytes_encode_to() {
        for bad in ["e", "0", "z", "0E", "zz", "010", "é", "0 ", "00\n", "00="] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn spells_as_nix_does() {
        // sha256 of nothing, by `nix-hash --flat --base32 --type sha256 /dev/null`.
        let nothing = crate::Sha256::of(b"");
        assert_eq!(encode(&nothing.0), "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73");
        assert_eq!(encode(&[]), "");
        assert_eq!(encode(&[0x1f]), "0z");
        assert_eq!(decode("7z").unwrap(), [0xff]);
    }

    #[test]
    fn tables_agree_with_the_alphabet() {
        for byte in 0..=255u8 {
            assert_eq!(IS_CHAR[usize::from(byte)], ALPHABET.contains(&byte));
            assert_eq!(VALUE_OF[usize::from(byte)] == NO_VALUE, !ALPHABET.contains(&byte));
        }
    }

    proptest! {
        #[test]
        fn decodes_what_it_encodes(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            prop_assert_eq!(decode(&encode(&bytes)).unwrap(), bytes);
        }

        #[test]
        fn has_one_spelling(text in "[0-9a-df-np-sv-z]{0,60}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
