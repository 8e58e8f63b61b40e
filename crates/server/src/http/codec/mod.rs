//! The compressions in which Nix sends and expects files: their names, how to tell them apart, decoders and encoders.
//!
//! Everything streams through bounded memory: a decoder refuses a stream that wants a larger window or dictionary than
//! [`MAX_DECODER_MEMORY`]. How many bytes come out is for the caller to limit.

mod compress;
mod decode;
mod encode;
mod lzip;
#[cfg(test)]
mod tests;

pub use decode::decoder;
pub use encode::Encoder;

/// The most memory that one decoder may use: xz at its highest preset needs 65 MiB, and the zstd window that Nix
/// accepts is 128 MiB.
pub const MAX_DECODER_MEMORY: u64 = 160 << 20;
/// The largest window of a zstd stream, as a power of two; Nix refuses larger ones too.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;

/// A compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// None: the bytes as they are.
    Identity,
    /// zstd, any number of frames.
    Zstd,
    /// xz, any number of streams.
    Xz,
    /// bzip2, any number of streams.
    Bzip2,
    /// gzip, any number of members.
    Gzip,
    /// Brotli.
    Brotli,
    /// LZ4 frames, any number.
    Lz4,
    /// lzip, any number of members.
    Lzip,
    /// The old format of the LZMA programs.
    Lzma,
    /// LZW of the Unix program `compress`.
    Compress,
}

/// A compression that we don't do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the compression '{0}' is not supported")]
pub struct Unsupported(pub String);

impl Codec {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Identity,
        Self::Zstd,
        Self::Xz,
        Self::Bzip2,
        Self::Gzip,
        Self::Brotli,
        Self::Lz4,
        Self::Lzip,
        Self::Lzma,
        Self::Compress,
    ];

    /// Returns the name that a narinfo's `Compression` has for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "none",
            Self::Zstd => "zstd",
            Self::Xz => "xz",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Brotli => "br",
            Self::Lz4 => "lz4",
            Self::Lzip => "lzip",
            Self::Lzma => "lzma",
            Self::Compress => "compress",
        }
    }

    /// Reads the name that a narinfo's `Compression` has.
    pub fn from_name(name: &str) -> Result<Self, Unsupported> {
        Self::ALL.into_iter().find(|codec| codec.name() == name).ok_or_else(|| Unsupported(name.to_owned()))
    }

    /// Reads what follows `.nar.` in a file's name; nothing gives `None`, because Nix leaves the extension away for
    /// several compressions: see [`Codec::sniff`].
    pub fn from_extension(extension: &str) -> Result<Option<Self>, Unsupported> {
        match extension {
            "" => Ok(None),
            "zst" | "zstd" => Ok(Some(Self::Zstd)),
            "xz" => Ok(Some(Self::Xz)),
            "bz2" => Ok(Some(Self::Bzip2)),
            "gz" => Ok(Some(Self::Gzip)),
            "br" => Ok(Some(Self::Brotli)),
            "lz4" => Ok(Some(Self::Lz4)),
            "lzip" | "lz" => Ok(Some(Self::Lzip)),
            "lzma" => Ok(Some(Self::Lzma)),
            "Z" => Ok(Some(Self::Compress)),
            other => Err(Unsupported(other.to_owned())),
        }
    }

    /// Reads a token of a `Content-Encoding` header.
    pub fn from_content_encoding(token: &str) -> Result<Self, Unsupported> {
        match token.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            "br" => Ok(Self::Brotli),
            "xz" => Ok(Self::Xz),
            "bzip2" => Ok(Self::Bzip2),
            other => Err(Unsupported(other.to_owned())),
        }
    }

    /// Tells from its first bytes how a NAR was compressed; 16 bytes are enough, all of a shorter file too.
    ///
    /// Brotli can't be told from noise, so it is never found; Nix gives it an extension.
    pub fn sniff(head: &[u8]) -> Result<Self, Unsupported> {
        const KNOWN: [(&[u8], Codec); 9] = [
            (b"\x0d\0\0\0\0\0\0\0nix-arch", Codec::Identity),
            (b"\x28\xb5\x2f\xfd", Codec::Zstd),
            (b"\xfd7zXZ\0", Codec::Xz),
            (b"BZh", Codec::Bzip2),
            (b"\x1f\x8b", Codec::Gzip),
            (b"\x04\x22\x4d\x18", Codec::Lz4),
            (b"LZIP", Codec::Lzip),
            // Properties lc=3 lp=0 pb=2, which every encoder uses by default, and a dictionary of whole 64 KiB.
            (b"\x5d\0\0", Codec::Lzma),
            (b"\x1f\x9d", Codec::Compress),
        ];
        const REFUSED: [(&[u8], &str); 4] =
            [(b"\x89LZO\0", "lzop"), (b"LRZI", "lrzip"), (b"GRZipII\0", "grzip"), (b"begin ", "uuencode")];
        let found = KNOWN.iter().find(|(magic, _)| head.starts_with(magic));
        let refused = REFUSED.iter().find(|(magic, _)| head.starts_with(magic));
        match (found, refused) {
            (Some((_, codec)), _) => Ok(*codec),
            (None, Some((_, name))) => Err(Unsupported((*name).to_owned())),
            (None, None) => Err(Unsupported("unknown".to_owned())),
        }
    }
}
