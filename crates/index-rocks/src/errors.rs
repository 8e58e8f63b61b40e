//! What RocksDB's errors mean to a caller.

use std::fmt::Display;
use std::io;
use std::path::Path;

use firn_index::Error;
use rocksdb::ErrorKind;

/// Returns a mapping of RocksDB's errors; `doing` is a verb phrase.
pub(crate) fn failed(doing: impl Display) -> impl FnOnce(rocksdb::Error) -> Error {
    move |error| {
        // RocksDB's C interface gives kinds as the first words of a message, and finer ones in its text.
        let message: &str = error.as_ref();
        match error.kind() {
            ErrorKind::IOError if message.contains("No space left on device") => Error::Full,
            ErrorKind::IOError if message.contains("LOCK") => Error::Locked,
            ErrorKind::Corruption => {
                Error::Corrupt { what: format!("RocksDB's files in order to {doing}"), detail: message.to_owned() }
            }
            _ => Error::Engine { doing: doing.to_string(), source: Box::new(error) },
        }
    }
}

/// Does as [`failed`] for the opening of a database that is there: a file that it lacks is damage, too.
pub(crate) fn failed_open(doing: impl Display) -> impl FnOnce(rocksdb::Error) -> Error {
    move |error| {
        let message: &str = error.as_ref();
        if error.kind() == ErrorKind::IOError && message.contains("No such file or directory") {
            return Error::Corrupt { what: format!("RocksDB's files in order to {doing}"), detail: message.to_owned() };
        }
        failed(doing)(error)
    }
}

/// Returns a mapping of errors of the file system.
pub(crate) fn failed_io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |error| match error.kind() {
        io::ErrorKind::StorageFull => Error::Full,
        _ => Error::Engine { doing: format!("{doing} {}", path.display()), source: Box::new(error) },
    }
}

/// Returns the error for a key that can't be one.
pub(crate) fn corrupt_key(family: &str, key: &[u8]) -> Error {
    Error::Corrupt { what: format!("a key of '{family}'"), detail: format!("{key:02x?} is none") }
}
