//! SHA-256 in all the spellings that Nix has for it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::Digest as _;

use crate::{Error, Result, base32};

const WHAT: &str = "sha256 hash";

/// A SHA-256 hash; `Display` spells it as narinfos do: `sha256:` and 52 characters of nix-base32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(
    /// The 32 bytes, as the algorithm gives them.
    pub [u8; 32],
);

impl Sha256 {
    /// Returns the hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// Returns the 52 characters of nix-base32, without `sha256:`.
    #[must_use]
    pub fn to_nix32(self) -> String {
        base32::encode(&self.0)
    }

    /// Returns the 64 lower-case hexadecimal digits, without `sha256:`.
    #[must_use]
    pub fn to_hex(self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Returns the spelling of "subresource integrity": `sha256-` and base64 with padding.
    #[must_use]
    pub fn to_sri(self) -> String {
        format!("sha256-{}", BASE64.encode(self.0))
    }

    /// Decodes a hash without prefix; its length tells the base.
    fn from_bare(text: &str) -> Result<Self> {
        match text.len() {
            52 => base32::decode(text)?.try_into().map_err(|_| Error::invalid(WHAT, "not 32 bytes")).map(Self),
            64 => Self::filled(HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()),
            44 => Self::filled(BASE64.decode(text).ok()),
            _ => Err(Error::invalid(WHAT, "neither 52 (nix32), 64 (hex) nor 44 (base64) characters")),
        }
    }

    fn filled(bytes: Option<Vec<u8>>) -> Result<Self> {
        let bytes = bytes.ok_or(Error::invalid(WHAT, "characters outside of the alphabet"))?;
        bytes.try_into().map(Self).map_err(|_| Error::invalid(WHAT, "not 32 bytes"))
    }
}

/// Parses any of Nix's spellings: `sha256:` and nix-base32, hexadecimal or base64, `sha256-` and base64, or any of the three
/// bare. Other algorithms are refused.
impl FromStr for Sha256 {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(bare) = text.strip_prefix("sha256:") {
            return Self::from_bare(bare);
        }
        if let Some(bare) = text.strip_prefix("sha256-") {
            return Self::filled(BASE64.decode(bare).ok());
        }
        Self::from_bare(text)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.to_nix32())
    }
}

serde_bytes_or_text!(Sha256, 32);
debug_is_display!(Sha256);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What `nix hash to-base32`, `to-base16` and `to-sri` say of `nix hash file` over the five bytes of "hello".
    const HELLO: [&str; 3] = [
        "sha256:094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic",
        "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
        "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
    ];

    #[test]
    fn refuses_other_algorithms_lengths_and_alphabets() {
        let nix32 = Sha256::of(b"hello").to_nix32();
        for bad in [
            "",
            "sha256:",
            "sha256-",
            &format!("sha512:{nix32}"),
            &format!("SHA256:{nix32}"),
            &format!("sha256-{nix32}"),
            &format!("sha256:{}", nix32.to_uppercase()),
            &format!("sha256:{nix32} "),
            &format!("sha256:{}", &nix32[1..]),
            &format!("sha256:z{}", &nix32[1..]),
            "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ",
            "sha256-LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCR=",
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b982g",
        ] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn parses_every_spelling() {
        let hello = Sha256::of(b"hello");
        for spelling in HELLO {
            assert_eq!(spelling.parse::<Sha256>().unwrap(), hello, "{spelling}");
            assert_eq!(spelling[7..].parse::<Sha256>().unwrap(), hello, "{spelling}");
        }
        assert_eq!(HELLO[1].to_uppercase().replace("SHA", "sha").parse::<Sha256>().unwrap(), hello);
        assert_eq!("sha256:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=".parse::<Sha256>().unwrap(), hello);
        assert_eq!([hello.to_string(), format!("sha256:{}", hello.to_hex()), hello.to_sri()], HELLO);
    }

    #[test]
    fn serialises_as_text_where_people_read() {
        let hello = Sha256::of(b"hello");
        let json = serde_json::to_string(&hello).unwrap();
        assert_eq!(json, format!("{:?}", HELLO[0]));
        assert_eq!(serde_json::from_str::<Sha256>(&json).unwrap(), hello);
        assert!(serde_json::from_str::<Sha256>("\"sha256:\"").is_err());
    }

    proptest! {
        #[test]
        fn parses_what_it_prints(bytes in any::<[u8; 32]>()) {
            let hash = Sha256(bytes);
            for text in [hash.to_string(), hash.to_nix32(), hash.to_hex(), hash.to_sri()] {
                prop_assert_eq!(text.parse::<Sha256>().unwrap(), hash);
            }
        }
    }
}
