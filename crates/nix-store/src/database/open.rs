//! Opening, and what SQLite's errors mean here.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{Database, rows};
use crate::{Error, Location, Result};

/// The layout that every Nix from 2.0 to 2.34 has.
const SCHEMA: u32 = 10;

/// Extended result codes of SQLite for a write-ahead log or journal that would have to be recovered by somebody who may write.
const READ_ONLY_RECOVERY: [i32; 4] = [264, 520, 776, 1288];

/// Tells one database from another at the same place. If it changes, the ids are other ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DbIdentity {
    /// The device that the file is on. Many file systems get another number each time that they are mounted.
    pub device: u64,
    /// Its number there. File systems use these again soon, hence `born_at_ns`.
    pub inode: u64,
    /// When the file was created, in nanoseconds since 1970; 0 where the file system does not say.
    pub born_at_ns: u64,
    /// The version of its layout.
    pub schema: u32,
}

/// A file as it is found at the database's place.
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    born_at_ns: u64,
}

impl FileIdentity {
    pub(super) fn is(&self, database: &DbIdentity) -> bool {
        (self.device, self.inode, self.born_at_ns) == (database.device, database.inode, database.born_at_ns)
    }
}

/// Returns what is at `path`. It must not be opened for that: closing a file drops this process's locks on it, SQLite's too.
pub(super) fn look_at(path: &Path) -> Result<Option<FileIdentity>> {
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(no_access(path, error)),
    };
    let born = metadata.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let born_at_ns = born.and_then(|age| u64::try_from(age.as_nanos()).ok()).unwrap_or(0);
    Ok(Some(FileIdentity { device: metadata.dev(), inode: metadata.ino(), born_at_ns }))
}

pub(super) fn open(location: &Location, busy_timeout: Duration) -> Result<Database> {
    let path = location.database();
    let no_database = || Error::NoDatabase { path: path.clone() };
    let before = look_at(&path)?.ok_or_else(no_database)?;
    let schema = schema_of(&path)?;
    // What the file system keeps from us SQLite would call "unable to open", like much else.
    rustix::fs::access(&path, rustix::fs::Access::READ_OK).map_err(|error| no_access(&path, error.into()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)
        .and_then(|connection| {
            connection.busy_timeout(busy_timeout)?;
            connection.set_prepared_statement_cache_capacity(16);
            rows::probe(&connection)?;
            Ok(connection)
        })
        .map_err(|source| explain(&path, source))?;
    let identity = DbIdentity { device: before.device, inode: before.inode, born_at_ns: before.born_at_ns, schema };
    if look_at(&path)?.is_none_or(|file| !file.is(&identity)) {
        return Err(Error::Replaced { path });
    }
    Ok(Database { connection, path, store_dir: location.store_dir.clone(), identity })
}

/// Returns the version in the file beside the database, which Nix itself goes by.
fn schema_of(database: &Path) -> Result<u32> {
    let path = database.with_file_name("schema");
    let found = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).trim().chars().take(32).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => "not recorded".to_owned(),
        Err(error) => return Err(no_access(&path, error)),
    };
    match found.parse() {
        Ok(SCHEMA) => Ok(SCHEMA),
        _ => Err(Error::Schema { path: database.to_owned(), found }),
    }
}

fn no_access(path: &Path, error: io::Error) -> Error {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => Error::Denied { path, source: error.into() },
        _ => Error::Io { doing: "look at", path, source: error },
    }
}

/// Returns what a user can do about an error of SQLite's.
pub(super) fn explain(path: &Path, source: rusqlite::Error) -> Error {
    let path = path.to_owned();
    let (failure, message) = match &source {
        rusqlite::Error::SqliteFailure(failure, message) => (failure, message.as_deref().unwrap_or_default()),
        rusqlite::Error::SqlInputError { error, msg, .. } => (error, msg.as_str()),
        _ => return Error::Database { path, source },
    };
    match failure.code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Error::Locked { path, source },
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Error::Corrupt { path, source },
        ErrorCode::CannotOpen | ErrorCode::PermissionDenied => Error::Denied { path, source: source.into() },
        ErrorCode::ReadOnly if READ_ONLY_RECOVERY.contains(&failure.extended_code) => {
            Error::Denied { path, source: source.into() }
        }
        // Our statements are right for the layout that is known.
        ErrorCode::Unknown if message.starts_with("no such ") => {
            Error::Schema { path, found: format!("10 without what belongs to it ({message})") }
        }
        _ => Error::Database { path, source },
    }
}
