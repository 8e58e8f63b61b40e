//! What storage can fail with.

use std::io;

/// Why an operation on objects failed. The variants say what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no object of this name.
    #[error("find the object {name}: there is none")]
    NotFound {
        /// The object's name.
        name: String,
    },
    /// The name is taken; names are never reused.
    #[error("create the object {name}: it exists already")]
    AlreadyExists {
        /// The object's name.
        name: String,
    },
    /// There is no room (device, quota or the configured capacity); nothing of the operation remains.
    #[error("write the object {name}: no space left")]
    Full {
        /// The object's name.
        name: String,
    },
    /// The object ends before the range that was asked for does.
    #[error("read the object {name}: it has {got} of the {wanted} bytes asked for")]
    Short {
        /// The object's name.
        name: String,
        /// How many bytes were asked for.
        wanted: u64,
        /// How many of them the object has.
        got: u64,
    },
    /// The name breaks the rules of [`check_name`](crate::check_name).
    #[error("name an object {name:?}: {reason}")]
    InvalidName {
        /// The name.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// An earlier failure left the writer's object in an unknown state. The writer refuses everything from
    /// then on; the object may be resumed at a length that was synced before.
    #[error("write the object {name}: an earlier failure left it in an unknown state")]
    Poisoned {
        /// The object's name.
        name: String,
    },
    /// Another process, or another [`Disk`](crate::Disk) of this one, has the folder open.
    #[error("open the storage {folder}: another process is using it")]
    Locked {
        /// The storage's folder.
        folder: String,
    },
    /// The operating system failed for another reason.
    #[error("{doing} {name}")]
    Io {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// The object's or folder's name.
        name: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
}

/// The result of an operation on objects.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn not_found(name: &str) -> Self {
        Self::NotFound { name: name.to_owned() }
    }

    pub(crate) fn already_exists(name: &str) -> Self {
        Self::AlreadyExists { name: name.to_owned() }
    }

    pub(crate) fn full(name: &str) -> Self {
        Self::Full { name: name.to_owned() }
    }

    pub(crate) fn poisoned(name: &str) -> Self {
        Self::Poisoned { name: name.to_owned() }
    }

    /// Returns the error for what the operating system said while `doing` something to an object.
    pub(crate) fn from_io(doing: &'static str, name: &str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound => Self::not_found(name),
            io::ErrorKind::AlreadyExists => Self::already_exists(name),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::full(name),
            _ => Self::Io { doing, name: name.to_owned(), source },
        }
    }
}
