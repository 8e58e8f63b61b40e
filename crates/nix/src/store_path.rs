//! Store hashes and store paths.

use std::fmt;
use std::str::FromStr;

use crate::base32::{ALPHABET, NO_VALUE, VALUE_OF};
use crate::{Error, Result};

const WHAT: &str = "store path";

/// The most characters that a store path's name may have; Nix's limit (255 for a file name, less hash, dash and `.lock`).
pub const MAX_NAME_LEN: usize = 211;

/// The 160 bits that the 32 characters before a store path's name spell.
///
/// The bytes are in the order of the characters, so that hashes sort like their texts, as numbers, as keys of an index and in
/// a directory alike, and a prefix of the text is a range. (Nix's own decoding, [`crate::base32::decode`], gives them in reverse.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreHash(
    /// The bits, the first character's five first.
    pub [u8; 20],
);

/// Two characters for each 10 bits: half as many steps for [`StoreHash::to_ascii`].
const PAIRS: [[u8; 2]; 1024] = {
    let mut table = [[0; 2]; 1024];
    let mut value = 0;
    while value < 1024 {
        table[value] = [ALPHABET[value >> 5], ALPHABET[value & 31]];
        value += 1;
    }
    table
};

impl StoreHash {
    /// Returns the hash that 32 characters of nix-base32 spell, or `None` if one of them is no such character.
    #[must_use]
    pub fn from_ascii(text: &[u8; 32]) -> Option<Self> {
        let mut bytes = [0; 20];
        let mut seen = 0;
        let (eights, _) = text.as_chunks::<8>();
        let (fives, _) = bytes.as_chunks_mut::<5>();
        for (eight, five) in eights.iter().zip(fives) {
            let mut bits = 0u64;
            for &character in eight {
                let value = VALUE_OF[usize::from(character)];
                seen |= value;
                bits = bits << 5 | u64::from(value);
            }
            five.copy_from_slice(&bits.to_be_bytes()[3..]);
        }
        (seen & NO_VALUE == 0).then_some(Self(bytes))
    }

    /// Returns the 32 characters.
    #[must_use]
    pub fn to_ascii(&self) -> [u8; 32] {
        let mut text = [0; 32];
        let (fives, _) = self.0.as_chunks::<5>();
        let (eights, _) = text.as_chunks_mut::<8>();
        for (&[a, b, c, d, e], eight) in fives.iter().zip(eights) {
            let bits = u64::from_be_bytes([0, 0, 0, a, b, c, d, e]);
            for (pair, shift) in eight.chunks_exact_mut(2).zip([30, 20, 10, 0]) {
                pair.copy_from_slice(&PAIRS[(bits >> shift & 1023) as usize]);
            }
        }
        text
    }
}

impl FromStr for StoreHash {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let ascii = text.as_bytes().try_into().map_err(|_| Error::invalid("store hash", "not 32 characters"))?;
        Self::from_ascii(ascii).ok_or(Error::invalid("store hash", "not nix-base32"))
    }
}

impl fmt::Display for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(std::str::from_utf8(&self.to_ascii()).expect("the alphabet is ASCII"))
    }
}

serde_bytes_or_text!(StoreHash, 20);

/// A store path without its store directory; sorts like its base name.
///
/// `Display` and serde give the base name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    hash: StoreHash,
    name: String,
}

impl StorePath {
    /// Returns the path of `hash` and `name`, or an error if Nix refuses the name.
    ///
    /// Names have 1 to [`MAX_NAME_LEN`] characters out of `A-Za-z0-9+-._?=`, and their part before the first `-` is neither `.`
    /// nor `..` (which Nix 2.8 allowed and later versions do not). A leading dot is fine otherwise.
    pub fn new(hash: StoreHash, name: &str) -> Result<Self> {
        check_name(name)?;
        Ok(Self { hash, name: name.to_owned() })
    }

    /// Parses `<hash>-<name>`.
    pub fn from_base_name(base_name: &str) -> Result<Self> {
        let (hash, rest) = base_name.as_bytes().split_first_chunk().ok_or(Error::invalid(WHAT, "too short"))?;
        let hash = StoreHash::from_ascii(hash).ok_or(Error::invalid(WHAT, "hash is not nix-base32"))?;
        if rest.first() != Some(&b'-') {
            return Err(Error::invalid(WHAT, "no dash after the hash"));
        }
        let name = base_name.get(33..).ok_or(Error::invalid(WHAT, "no name"))?;
        Self::new(hash, name)
    }

    /// Parses `<store_dir>/<hash>-<name>`; `store_dir` has no slash at its end.
    pub fn parse_absolute(path: &str, store_dir: &str) -> Result<Self> {
        let base_name = path.strip_prefix(store_dir).and_then(|rest| rest.strip_prefix('/'));
        Self::from_base_name(base_name.ok_or(Error::invalid(WHAT, "not in the store directory"))?)
    }

    /// Returns the 160 bits of the hash.
    #[must_use]
    pub fn hash(&self) -> StoreHash {
        self.hash
    }

    /// Returns the part after the hash and its dash.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the package: the name up to where its version begins, which is the first dash that no letter follows.
    ///
    /// That is Nix's own rule (`builtins.parseDrvName`); the outputs of a package have the same.
    #[must_use]
    pub fn package(&self) -> &str {
        Self::package_of(&self.name)
    }

    /// Returns the package of what stands after a hash and its dash, by the rule of [`StorePath::package`]; of any text.
    #[must_use]
    pub fn package_of(name: &str) -> &str {
        let bytes = name.as_bytes();
        let is_version = |pair: &[u8]| pair[0] == b'-' && !pair[1].is_ascii_alphabetic();
        let version = bytes.windows(2).position(is_version);
        &name[..version.unwrap_or(bytes.len())]
    }

    /// Returns `<hash>-<name>`.
    #[must_use]
    pub fn base_name(&self) -> String {
        self.to_string()
    }

    /// Returns `<store_dir>/<hash>-<name>`.
    #[must_use]
    pub fn to_absolute(&self, store_dir: &str) -> String {
        format!("{store_dir}/{self}")
    }
}

fn check_name(name: &str) -> Result<()> {
    let invalid = |why| Err(Error::invalid(WHAT, why));
    if name.is_empty() {
        return invalid("empty name");
    }
    if name.len() > MAX_NAME_LEN {
        return invalid("name of more than 211 characters");
    }
    if !name.bytes().all(|c| c.is_ascii_alphanumeric() || b"+-._?=".contains(&c)) {
        return invalid("name with characters that Nix does not allow");
    }
    match name.split('-').next() {
        Some("." | "..") => invalid("name that starts with `.-` or `..-` or is `.` or `..`"),
        _ => Ok(()),
    }
}

impl FromStr for StorePath {
    type Err = Error;

    /// Parses a base name.
    fn from_str(base_name: &str) -> Result<Self> {
        Self::from_base_name(base_name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.hash, self.name)
    }
}

serde_text!(StorePath);
debug_is_display!(StoreHash, StorePath);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc";

    #[test]
    fn packages_are_names_without_versions() {
        let cases = [
            ("hello-2.12.1", "hello"),
            ("hello", "hello"),
            ("gcc-wrapper-13.3.0", "gcc-wrapper"),
            ("python3.12-numpy-1.26.4-dev", "python3.12-numpy"),
            ("a-", "a-"),
            ("-1", ""),
            ("linux-6.6.30-modules", "linux"),
            ("nix-2.24pre20240101_abc", "nix"),
            ("x-_y", "x"),
        ];
        for (name, package) in cases {
            let path = StorePath::new(HASH.parse().unwrap(), name).unwrap();
            assert_eq!(path.package(), package, "{name}");
        }
    }

    #[test]
    fn refuses_hashes_that_are_not_nix_base32() {
        for bad in ["", &HASH[1..], &format!("{HASH}0"), &HASH.to_uppercase(), &HASH.replace('0', "e")] {
            assert!(bad.parse::<StoreHash>().is_err(), "{bad:?}");
        }
        for position in 0..32 {
            for byte in 0..=255 {
                let mut text: [u8; 32] = HASH.as_bytes().try_into().unwrap();
                text[position] = byte;
                assert_eq!(StoreHash::from_ascii(&text).is_some(), crate::base32::IS_CHAR[usize::from(byte)]);
            }
        }
    }

    #[test]
    fn refuses_names_that_nix_refuses() {
        let long = "x".repeat(212);
        for bad in ["", ".", "..", ".-", "..-", ".-a", "..-a", "a b", "a/b", "a\0", "é", "a\n", "a!", "a~", &long] {
            assert!(StorePath::from_base_name(&format!("{HASH}-{bad}")).is_err(), "{bad:?}");
        }
        for good in ["a", ".a", "...", "...-x", ".a-b", "-", "--", "+-._?=", "A9", &long[1..]] {
            let path = StorePath::from_base_name(&format!("{HASH}-{good}")).unwrap();
            assert_eq!((path.name(), path.hash().to_string().as_str()), (good, HASH));
        }
    }

    #[test]
    fn refuses_other_forms() {
        for bad in [
            "",
            HASH,
            &format!("{HASH}_a"),
            &format!("{HASH}a"),
            &format!("/nix/store/{HASH}-a"),
            &format!("é{HASH}-a"),
        ] {
            assert!(StorePath::from_base_name(bad).is_err(), "{bad:?}");
        }
        for bad in ["/nix/storex/", "/nix/store//", "nix/store/", ""] {
            assert!(StorePath::parse_absolute(&format!("{bad}{HASH}-a"), "/nix/store").is_err(), "{bad:?}");
        }
        assert!(StorePath::parse_absolute(&format!("/nix/store/{HASH}-a/b"), "/nix/store").is_err());
    }

    #[test]
    fn parses_what_it_prints() {
        let absolute = format!("/gnu/store/{HASH}-a-1.0");
        let path = StorePath::parse_absolute(&absolute, "/gnu/store").unwrap();
        assert_eq!(path.to_absolute("/gnu/store"), absolute);
        let json = serde_json::to_string(&path).unwrap();
        assert_eq!(json, format!("\"{HASH}-a-1.0\""));
        assert_eq!(serde_json::from_str::<StorePath>(&json).unwrap(), path);
    }

    proptest! {
        #[test]
        fn hashes_sort_like_their_texts(a in any::<[u8; 20]>(), b in any::<[u8; 20]>()) {
            let (a, b) = (StoreHash(a), StoreHash(b));
            prop_assert_eq!(a.cmp(&b), a.to_ascii().cmp(&b.to_ascii()));
            prop_assert_eq!(StoreHash::from_ascii(&a.to_ascii()), Some(a));
            let mut reversed = crate::base32::decode(&a.to_string()).unwrap();
            reversed.reverse();
            prop_assert_eq!(reversed, a.0);
        }
    }
}
