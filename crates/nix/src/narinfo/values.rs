//! Values of a narinfo that have a syntax of their own.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use data_encoding::HEXLOWER_PERMISSIVE;

use crate::{Error, Result, base32};

/// How a NAR is compressed, by all names that Nix has for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Compression {
    None,
    Brotli,
    Bzip2,
    Compress,
    Grzip,
    Gzip,
    Lrzip,
    Lz4,
    Lzip,
    Lzma,
    Lzop,
    Xz,
    Zstd,
}

impl Compression {
    const ALL: [Self; 13] = [
        Self::None,
        Self::Brotli,
        Self::Bzip2,
        Self::Compress,
        Self::Grzip,
        Self::Gzip,
        Self::Lrzip,
        Self::Lz4,
        Self::Lzip,
        Self::Lzma,
        Self::Lzop,
        Self::Xz,
        Self::Zstd,
    ];

    /// Returns the name, as in a narinfo and as the value of `nix copy`'s `compression=`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Brotli => "br",
            Self::Bzip2 => "bzip2",
            Self::Compress => "compress",
            Self::Grzip => "grzip",
            Self::Gzip => "gzip",
            Self::Lrzip => "lrzip",
            Self::Lz4 => "lz4",
            Self::Lzip => "lzip",
            Self::Lzma => "lzma",
            Self::Lzop => "lzop",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        }
    }

    /// Returns what Nix puts behind `.nar` in the name of an uploaded file: nothing for several.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Brotli => ".br",
            Self::Bzip2 => ".bz2",
            Self::Lz4 => ".lz4",
            Self::Lzip => ".lzip",
            Self::Xz => ".xz",
            Self::Zstd => ".zst",
            Self::None | Self::Compress | Self::Grzip | Self::Gzip | Self::Lrzip | Self::Lzma | Self::Lzop => "",
        }
    }
}

impl FromStr for Compression {
    type Err = Error;

    /// Parses a name; the empty one means bzip2, as no line at all does.
    fn from_str(name: &str) -> Result<Self> {
        let name = if name.is_empty() { "bzip2" } else { name };
        let found = Self::ALL.into_iter().find(|compression| compression.name() == name);
        found.ok_or(Error::invalid("Compression", "not known to Nix"))
    }
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// From what contents a path was computed: `text:`, `fixed:` or `fixed:r:`, and a hash.
///
/// Only the forms that every Nix knows: to an older one a narinfo with any other is corrupt. If it belongs to the path or to the
/// NAR is not checked. Kept with the hash in nix-base32, as Nix prints it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentAddress(String);

impl ContentAddress {
    /// Returns the text, as in a narinfo.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContentAddress {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why| Error::invalid("content address", why);
        let (method, hash) = if let Some(hash) = text.strip_prefix("fixed:r:") {
            ("fixed:r", hash)
        } else {
            text.split_once(':').ok_or(invalid("no colon"))?
        };
        let (algorithm, digits) = hash.split_once(':').ok_or(invalid("no algorithm"))?;
        let len = match (method, algorithm) {
            ("text" | "fixed" | "fixed:r", "sha256") => 32,
            ("fixed" | "fixed:r", "md5") => 16,
            ("fixed" | "fixed:r", "sha1") => 20,
            ("fixed" | "fixed:r", "sha512") => 64,
            _ => return Err(invalid("a method or algorithm that not every Nix knows")),
        };
        let hash = decode_hash(digits, len).ok_or(invalid("malformed hash"))?;
        Ok(Self(format!("{method}:{algorithm}:{}", base32::encode(&hash))))
    }
}

/// Decodes `len` bytes in hexadecimal, nix-base32 or base64, which the length of the text tells apart.
fn decode_hash(text: &str, len: usize) -> Option<Vec<u8>> {
    let decoded = if text.len() == 2 * len {
        HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
    } else if text.len() == (8 * len).div_ceil(5) {
        base32::decode(text).ok()
    } else {
        BASE64.decode(text).ok()
    };
    decoded.filter(|bytes| bytes.len() == len)
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

serde_text!(Compression, ContentAddress);
debug_is_display!(ContentAddress);
