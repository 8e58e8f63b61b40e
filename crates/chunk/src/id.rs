//! Names of chunks, recipes and of the way in which inputs are cut.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A text that is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("parse {what}: wanted {wanted}")]
pub struct IdError {
    what: &'static str,
    wanted: &'static str,
}

macro_rules! blake3_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// Returns the id of the bytes: their BLAKE3 hash.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(*blake3::hash(bytes).as_bytes())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(blake3::Hash::from_bytes(self.0).to_hex().as_str())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Reads 64 lower-case hexadecimal digits.
            fn from_str(text: &str) -> Result<Self, IdError> {
                let fail = IdError { what: $what, wanted: "64 lower-case hexadecimal digits" };
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(fail);
                }
                blake3::Hash::from_hex(text).map(|hash| Self(*hash.as_bytes())).map_err(|_| fail)
            }
        }

        /// Writes hexadecimal digits in formats for people and 32 bytes in others.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() { serializer.collect_str(self) } else { self.0.serialize(serializer) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

blake3_id! {
    /// The name of a chunk: BLAKE3 of its normalised, uncompressed bytes.
    ChunkId, "a chunk id"
}

blake3_id! {
    /// The name of a recipe: BLAKE3 of its encoding, which does not say where the chunks lie.
    RecipeId, "a recipe id"
}

/// How inputs are read before they are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Input {
    /// A NAR: anything else is refused, and cutting starts anew at the borders of larger files.
    Nar,
    /// Any bytes, cut as one stream.
    Bytes,
}

/// The way from bytes to chunks: everything that a cut point depends on.
///
/// Two inputs share chunks only if they were cut in the same way, so this is fixed for the life of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ChunkerId {
    /// The version of the rules: what is normalised and its limits, where files are cut, the normalisation level
    /// of FastCDC.
    pub version: u16,
    /// No chunk is smaller, in bytes, unless it is the last before a border.
    pub min: u32,
    /// Around this many bytes cuts become more likely.
    pub avg: u32,
    /// No chunk is larger, in bytes.
    pub max: u32,
}

impl ChunkerId {
    /// The only way in which this version of firn cuts.
    ///
    /// Sizes: smaller chunks find a little more duplicates and cost an id, an index entry and a footer entry
    /// (about 130 bytes) each.
    pub const CURRENT: Self = Self { version: 1, min: 16 << 10, avg: 64 << 10, max: 256 << 10 };

    /// Tells whether sizes are in order and within what a recipe may hold.
    pub(crate) const fn is_sane(&self) -> bool {
        0 < self.min && self.min <= self.avg && self.avg <= self.max && self.max <= 1 << 30
    }
}

/// Writes for example `nar-fastcdc-v2020/16384-65536-262144/1`.
impl fmt::Display for ChunkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, min, avg, max } = self;
        write!(f, "nar-fastcdc-v2020/{min}-{avg}-{max}/{version}")
    }
}

impl FromStr for ChunkerId {
    type Err = IdError;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self, IdError> {
        let parse = || {
            let (sizes, version) = text.strip_prefix("nar-fastcdc-v2020/")?.split_once('/')?;
            let mut sizes = sizes.split('-').map(|size| size.parse().ok());
            let (min, avg, max) = (sizes.next()??, sizes.next()??, sizes.next()??);
            let id = Self { version: version.parse().ok()?, min, avg, max };
            (id.is_sane() && id.to_string() == text).then_some(id)
        };
        parse().ok_or(IdError { what: "a chunker id", wanted: "nar-fastcdc-v2020/MIN-AVG-MAX/VERSION" })
    }
}
