//! What packs and frames can fail with.

use std::io;

/// Why a frame or a pack was not written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The bytes are not what was written: the disk, the transport or another program changed them.
    #[error("read a {what}: it is corrupt: {detail}")]
    Corrupt {
        /// Which part of the format.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The bytes are whole, but this firn does not know how to read them.
    #[error("read a {what}: its {field} is {found}, which this firn does not know: upgrade firn")]
    Unsupported {
        /// Which part of the format.
        what: &'static str,
        /// The field with the unknown value.
        field: &'static str,
        /// The value.
        found: u32,
    },
    /// The object does not end in a pack's trailer: it is still growing, or was torn by a crash.
    #[error("open a pack: it has no footer")]
    NoFooter,
    /// The object ends inside the pack's header, or the header was never written: it holds no frame.
    #[error("recover a pack: its header was never written")]
    NoHeader,
    /// The frame has bases, and none were given.
    #[error("read a frame: it can't be decompressed without its bases")]
    NeedsBases,
    /// What was to be written is not a frame.
    #[error("write a frame: {0}")]
    Invalid(String),
    /// The closure that reads the object failed.
    #[error("read {len} bytes at {offset} of a pack")]
    Read {
        /// The position that was asked for.
        offset: u64,
        /// The number of bytes that was asked for.
        len: usize,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The zstd library failed for another reason than its input.
    #[error("set up zstd")]
    Zstd(#[source] io::Error),
}

impl Error {
    pub(crate) fn corrupt(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Corrupt { what, detail: detail.into() }
    }
}

/// The result of an operation on packs or frames.
pub type Result<T> = std::result::Result<T, Error>;
