//! Narinfos: what a binary cache says of one store path.
//!
//! [`NarInfo::parse`] takes what every Nix takes and refuses what any of them refuses, [`NarInfo::to_text`] prints it in the order in
//! which Nix prints. The parser goes line by line (`parse.rs`); the values with a syntax of their own are in `values.rs`.

mod address;
mod parse;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeSet;
use std::fmt::Write as _;

pub use values::{Compression, ContentAddress};

use crate::{PublicKey, SecretKey, Sha256, Signature, StorePath};

/// The longest narinfo that is parsed, in bytes: room for some 50,000 references.
pub const MAX_NARINFO_LEN: usize = 4 << 20;

/// What a binary cache says of one store path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The path.
    pub store_path: StorePath,
    /// Where the NAR is, relative to the cache or absolute; it is not empty, and has no blanks or control characters.
    pub url: String,
    /// How the file at `url` is compressed.
    pub compression: Compression,
    /// The hash of the file at `url`.
    pub file_hash: Option<Sha256>,
    /// The length of the file at `url` in bytes.
    pub file_size: Option<u64>,
    /// The hash of the NAR.
    pub nar_hash: Sha256,
    /// The length of the NAR in bytes, not 0.
    pub nar_size: u64,
    /// The paths that this one needs; itself too, if it contains its own name.
    pub references: BTreeSet<StorePath>,
    /// The derivation that it was built from.
    pub deriver: Option<StorePath>,
    /// Signatures of the fingerprint; parsing does not verify them.
    pub signatures: BTreeSet<Signature>,
    /// From what the path was computed, if from its contents.
    pub ca: Option<ContentAddress>,
}

impl NarInfo {
    /// Returns what a signature signs: path, hash, size and references.
    ///
    /// `store_dir` has no slash at its end. Where the file is and how it is compressed is not signed, nor who built it.
    #[must_use]
    pub fn fingerprint(&self, store_dir: &str) -> String {
        let Self { store_path, nar_hash, nar_size, .. } = self;
        let mut text = format!("1;{store_dir}/{store_path};{nar_hash};{nar_size};");
        for (i, reference) in self.references.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let _ = write!(text, "{comma}{store_dir}/{reference}");
        }
        text
    }

    /// Adds the signature by `key`. Any other signature in the same key's name is taken away: it can only be wrong.
    pub fn sign(&mut self, key: &SecretKey, store_dir: &str) {
        let signature = key.sign(self.fingerprint(store_dir).as_bytes());
        self.signatures.retain(|other| other.key_name() != key.name());
        self.signatures.insert(signature);
    }

    /// Says if there is a genuine signature by `key`.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey, store_dir: &str) -> bool {
        let fingerprint = self.fingerprint(store_dir);
        self.signatures.iter().any(|signature| key.verify(fingerprint.as_bytes(), signature))
    }

    /// Returns the text as Nix prints it, in the order in which Nix prints it.
    #[must_use]
    pub fn to_text(&self, store_dir: &str) -> String {
        let mut text = String::with_capacity(640 + 64 * self.references.len());
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(text, "{key}: {value}");
        };
        line("StorePath", &format_args!("{store_dir}/{}", self.store_path));
        line("URL", &self.url);
        line("Compression", &self.compression);
        if let Some(hash) = self.file_hash {
            line("FileHash", &hash);
        }
        if let Some(size) = self.file_size {
            line("FileSize", &size);
        }
        line("NarHash", &self.nar_hash);
        line("NarSize", &self.nar_size);
        line("References", &Joined(&self.references));
        if let Some(deriver) = &self.deriver {
            line("Deriver", deriver);
        }
        for signature in &self.signatures {
            line("Sig", signature);
        }
        if let Some(ca) = &self.ca {
            line("CA", ca);
        }
        text
    }
}

/// Paths with blanks between them.
struct Joined<'a>(&'a BTreeSet<StorePath>);

impl std::fmt::Display for Joined<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, path) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_char(' ')?;
            }
            write!(f, "{path}")?;
        }
        Ok(())
    }
}
