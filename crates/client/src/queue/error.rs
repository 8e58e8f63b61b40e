use std::io;
use std::path::{Path, PathBuf};

use rusqlite::{ErrorCode, ffi};

/// What SQLite says of files beside the database that it could not write, for want of room or for any other reason.
const FAILED_WRITES: [i32; 4] =
    [ffi::SQLITE_IOERR_SHMSIZE, ffi::SQLITE_IOERR_SHMMAP, ffi::SQLITE_IOERR_WRITE, ffi::SQLITE_IOERR_FSYNC];

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with the durable queue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process owns the queue.
    #[error(
        "use the queue in {directory}: another agent owns it; stop that one, or give this one another state directory"
    )]
    Owned {
        /// The queue's directory.
        directory: PathBuf,
    },
    /// There is no queue in the directory.
    #[error("read the queue in {directory}: there is none yet; an agent makes it when it first runs")]
    Absent {
        /// The queue's directory.
        directory: PathBuf,
    },
    /// The queue was written by a newer firn.
    #[error(
        "use the queue {file}: its format is {found} and this program knows {known}; use the newer firn that wrote it"
    )]
    Newer {
        /// The database file.
        file: PathBuf,
        /// The format that it has.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// The file is no queue, or is damaged.
    #[error(
        "read the queue {file}: it is damaged ({what}); move it away and start the agent again, then `firn watch-store backfill --all` finds what it held"
    )]
    Corrupt {
        /// The database file.
        file: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The disk is full.
    #[error("write {file}: the disk is full; nothing was changed, and all goes on when there is space")]
    Full {
        /// The file that should have grown.
        file: PathBuf,
    },
    /// The spool holds as much as it may.
    #[error("write {file}: it holds {bytes} bytes, and nobody empties it; start the agent")]
    SpoolFull {
        /// The spool.
        file: PathBuf,
        /// How long it is.
        bytes: u64,
    },
    /// The file stayed locked for too long.
    #[error("use {file}: another process keeps it locked")]
    Busy {
        /// The file.
        file: PathBuf,
    },
    /// The queue's files were deleted or replaced while it was open: whatever is written is lost.
    #[error(
        "keep the queue in {directory}: its files were deleted or moved away under the agent, and what waited there is \
         forgotten; start the agent again, then `firn watch-store backfill --since 7d` finds what was registered lately"
    )]
    Gone {
        /// The queue's directory.
        directory: PathBuf,
    },
    /// SQLite said something else.
    #[error("{doing} in the queue {file}")]
    Database {
        /// What was being done.
        doing: &'static str,
        /// The database file.
        file: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The operating system refused.
    #[error("{doing} {path}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Returns what to call an error of SQLite: what the caller can do about it decides.
    pub(super) fn of_sqlite(doing: &'static str, file: &Path, source: rusqlite::Error) -> Self {
        Self::told(doing, file, source, is_full)
    }

    fn told(doing: &'static str, file: &Path, source: rusqlite::Error, is_full: impl Fn(&Path) -> bool) -> Self {
        let file = file.to_owned();
        let writing = source.sqlite_error().is_some_and(|error| FAILED_WRITES.contains(&error.extended_code));
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { file },
            Some(_) if writing && is_full(&file) => Self::Full { file },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { file, what: source.to_string() }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { file },
            _ => Self::Database { doing, file, source },
        }
    }

    pub(super) fn of_io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { file: path.to_owned() },
            _ => Self::Io { doing, path: path.to_owned(), source },
        }
    }
}

/// Says if a file's disk has no room for this process.
fn is_full(file: &Path) -> bool {
    let disk = rustix::fs::statvfs(file.parent().unwrap_or(file));
    disk.is_ok_and(|disk| disk.f_blocks > 0 && disk.f_bavail == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_for_want_of_room_is_told_so() {
        let told = |code, full| {
            let source = rusqlite::Error::SqliteFailure(ffi::Error::new(code), None);
            Error::told("read the format", Path::new("/q"), source, |_| full)
        };
        for code in FAILED_WRITES {
            assert!(matches!(told(code, true), Error::Full { .. }), "{code}");
            assert!(matches!(told(code, false), Error::Database { .. }), "{code}");
        }
        assert!(matches!(told(ffi::SQLITE_FULL, false), Error::Full { .. }));
        assert!(matches!(told(ffi::SQLITE_IOERR_READ, true), Error::Database { .. }));
        assert!(matches!(told(ffi::SQLITE_CORRUPT, true), Error::Corrupt { .. }));
        assert!(!is_full(Path::new("/nonexistent/file")));
    }
}
