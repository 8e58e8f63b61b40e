//! Signing keys and signatures: ed25519, each with the name of its key before a colon, the rest in base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// The most bytes that a key's name may have.
pub const MAX_KEY_NAME_LEN: usize = 255;

/// Splits `name:base64` of exactly `N` bytes.
fn parse_named<const N: usize>(what: &'static str, text: &str) -> Result<(String, Zeroizing<[u8; N]>)> {
    let (name, encoded) = text.split_once(':').ok_or(Error::invalid(what, "no colon after the name"))?;
    check_key_name(what, name)?;
    let decoded = BASE64.decode(encoded).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| Error::invalid(what, "not base64 with padding"))?;
    let bytes = decoded.as_slice().try_into().map_err(|_| Error::invalid(what, "wrong length"))?;
    Ok((name.to_owned(), Zeroizing::new(bytes)))
}

/// Refuses names that break a narinfo's lines, or the blank-separated lists in which Nix keeps signatures and keys.
fn check_key_name(what: &'static str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > MAX_KEY_NAME_LEN {
        return Err(Error::invalid(what, "key name is empty or longer than 255 bytes"));
    }
    if name.chars().any(|c| c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid(what, "key name with a colon, a blank or a control character"));
    }
    Ok(())
}

/// A signing key. It never shows itself by `Debug`, and its memory is cleared when it is dropped.
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

impl SecretKey {
    /// Returns the key called `name` that belongs to 32 random bytes.
    pub fn generate(name: &str, seed: [u8; 32]) -> Result<Self> {
        check_key_name("secret key", name)?;
        let seed = Zeroizing::new(seed);
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(&seed) })
    }

    /// Parses what `nix key generate-secret` prints: the name, and the seed and public key in base64; a newline may follow.
    ///
    /// Halves that do not belong together are refused.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, bytes) = parse_named::<64>("secret key", text.trim_ascii_end())?;
        let key = SigningKey::from_keypair_bytes(&bytes);
        let key = key.map_err(|_| Error::invalid("secret key", "its halves do not belong together"))?;
        Ok(Self { name, key })
    }

    /// Returns what [`Self::parse`] takes, without a newline.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new(self.key.to_keypair_bytes());
        let encoded = Zeroizing::new(BASE64.encode(bytes.as_slice()));
        Zeroizing::new(format!("{}:{}", self.name, *encoded))
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the key that verifies what this one signs.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// Signs the bytes of a fingerprint.
    #[must_use]
    pub fn sign(&self, fingerprint: &[u8]) -> Signature {
        Signature { key_name: self.name.clone(), bytes: self.key.sign(fingerprint).to_bytes() }
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A key that verifies; `Display`, `FromStr` and serde spell it as in `trusted-public-keys`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

impl PublicKey {
    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Says if `signature` is of these bytes by this key, name included.
    #[must_use]
    pub fn verify(&self, fingerprint: &[u8], signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        signature.key_name == self.name && self.key.verify_strict(fingerprint, &bytes).is_ok()
    }
}

impl FromStr for PublicKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, bytes) = parse_named::<32>("public key", text)?;
        let key = VerifyingKey::from_bytes(&bytes);
        let key = key.map_err(|_| Error::invalid("public key", "not a point of the curve"))?;
        if key.is_weak() {
            return Err(Error::invalid("public key", "anybody can sign for it"));
        }
        Ok(Self { name, key })
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

/// A signature and the name of its key; `Display`, `FromStr` and serde spell it as in a narinfo.
///
/// Parsed, it has the right form; if it is genuine only [`PublicKey::verify`] can say.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature {
    key_name: String,
    bytes: [u8; 64],
}

impl Signature {
    /// Returns the name of the key that it claims to be by.
    #[must_use]
    pub fn key_name(&self) -> &str {
        &self.key_name
    }

    /// Returns the signature's base64, the part after the key's name.
    #[must_use]
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.bytes)
    }
}

impl FromStr for Signature {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (key_name, bytes) = parse_named("signature", text)?;
        Ok(Self { key_name, bytes: *bytes })
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.key_name, self.to_base64())
    }
}

debug_is_display!(PublicKey, Signature);
serde_text!(PublicKey, Signature);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SecretKey {
        SecretKey::generate("cache-1", [7; 32]).unwrap()
    }

    #[test]
    fn refuses_names_that_break_lines_and_lists() {
        let long = "x".repeat(256);
        for name in ["", "a b", "a:b", "a\nb", "a\u{85}b", "a\u{2028}b", "\t", &long] {
            assert!(SecretKey::generate(name, [0; 32]).is_err(), "{name:?}");
        }
    }

    #[test]
    fn refuses_malformed_keys_and_signatures() {
        let text = key().to_text();
        for bad in ["", "cache-1", "cache-1:", &text[..text.len() - 4], &text.replace('=', ""), &format!(" {}", *text)]
        {
            assert!(SecretKey::parse(bad).is_err(), "{bad:?}");
        }
        let public = key().public().to_string();
        let signature = key().sign(b"x").to_string();
        for bad in [public.replace("cache-1", ""), public.replace('=', ""), format!("{public}\n"), signature.clone()] {
            assert!(bad.parse::<PublicKey>().is_err(), "{bad:?}");
        }
        for bad in [signature.replace(':', " "), signature.replace("==", ""), format!("{signature} "), public] {
            assert!(bad.parse::<Signature>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn refuses_a_secret_key_whose_halves_differ() {
        let mut bytes = key().key.to_keypair_bytes();
        bytes[40] ^= 1;
        assert!(SecretKey::parse(&format!("cache-1:{}", BASE64.encode(bytes))).is_err());
    }

    #[test]
    fn refuses_a_public_key_that_verifies_anything() {
        let mut identity = [0; 32];
        identity[0] = 1;
        assert!(format!("cache-1:{}", BASE64.encode(identity)).parse::<PublicKey>().is_err());
    }

    #[test]
    fn verifies_only_its_own_signatures() {
        let signature = key().sign(b"fingerprint");
        assert!(key().public().verify(b"fingerprint", &signature));
        assert!(!key().public().verify(b"Fingerprint", &signature));
        let other_material = SecretKey::generate("cache-1", [8; 32]).unwrap();
        assert!(!other_material.public().verify(b"fingerprint", &signature));
        let other_name = SecretKey::generate("cache-2", [7; 32]).unwrap();
        assert!(!other_name.public().verify(b"fingerprint", &signature));
        let mut flipped = signature.clone();
        flipped.bytes[0] ^= 1;
        assert!(!key().public().verify(b"fingerprint", &flipped));
    }

    #[test]
    fn parses_what_it_prints() {
        let secret = SecretKey::parse(&format!("{}\n", *key().to_text())).unwrap();
        assert_eq!(*secret.to_text(), *key().to_text());
        assert_eq!(secret.public().to_string().parse::<PublicKey>().unwrap(), key().public());
        let signature = secret.sign(b"x");
        assert_eq!(signature.to_string().parse::<Signature>().unwrap(), signature);
        assert_eq!(serde_json::to_string(&signature).unwrap(), format!("\"{signature}\""));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let text = key().to_text();
        let shown = format!("{:?}", key());
        assert_eq!(shown, r#"SecretKey { name: "cache-1", .. }"#);
        assert!(!shown.contains(&text[8..20]));
    }
}
