//! Objects as files in a folder. All of the project's `fsync` logic is in this module.
//!
//! An object's name is its path below the folder. Two names that no object can have lie beside them:
//! `.lock`, held while a [`Disk`] is open, and `.tmp`, where [`Storage::put`] writes before it renames, and
//! which is emptied when the folder is opened.

mod files;
mod folders;
mod listing;
mod writer;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use self::files::OpenFiles;
use self::folders::Folders;
use self::writer::DiskWriter;
use crate::{Error, ObjectEntry, ObjectWriter, Result, Storage, check_name};

const LOCK: &str = ".lock";
const TEMPORARY: &str = ".tmp";

/// Nobody but the service's own user has business with the bytes of private caches.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Reads of more than this look at the object's length before they take memory.
const TRUSTED_READ: usize = 1 << 20;

/// Keeps objects as files in a folder.
///
/// The folder belongs to one `Disk` at a time, and files in it whose names no object can have are left alone.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    folders: Arc<Folders>,
    files: OpenFiles,
    temporary: AtomicU64,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl Disk {
    /// Opens the storage in a folder, which is made if it is not there, and removes what interrupted writes of
    /// an earlier process left in `.tmp`.
    ///
    /// # Errors
    /// [`Error::Locked`] when it is open already, here or in another process; [`Error::Io`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root = root.into();
        let fail = |doing| {
            let name = root.display().to_string();
            move |source| Error::Io { doing, name, source }
        };
        let folders = Folders::open(root.clone()).map_err(fail("make the folder"))?;
        let lock = lock(&root)?;
        let temporary = root.join(TEMPORARY);
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&temporary).map_err(fail("make '.tmp' in"))?;
        for entry in fs::read_dir(&temporary).map_err(fail("list '.tmp' in"))? {
            entry.and_then(|entry| fs::remove_file(entry.path())).map_err(fail("empty '.tmp' in"))?;
        }
        Ok(Self {
            files: OpenFiles::new(),
            folders: Arc::new(folders),
            temporary: AtomicU64::new(0),
            _lock: lock,
            root,
        })
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.root.join(name))
    }

    fn open_file(&self, name: &str) -> Result<Arc<File>> {
        let path = self.path(name)?;
        self.files.get(name, &path).map_err(|error| reading_error("open", name, error))
    }

    /// Writes a temporary file and makes its bytes durable.
    fn write_temporary(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
        file.write_all(bytes)?;
        file.sync_data()
    }
}

impl Storage for Disk {
    fn create(&self, name: &str) -> Result<Box<dyn ObjectWriter>> {
        let path = self.path(name)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        let opened = self.folders.with_folder_of(name, || options.open(&path));
        let file = opened.map_err(|error| naming_error("create the object", name, error))?;
        Ok(Box::new(DiskWriter::new(name, file, 0, Arc::clone(&self.folders))))
    }

    fn resume(&self, name: &str, len: u64) -> Result<Box<dyn ObjectWriter>> {
        let path = self.path(name)?;
        let fail = |error| reading_error("resume the object", name, error);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(fail)?;
        let got = file_len(&file).map_err(fail)?;
        if got < len {
            return Err(Error::Short { name: name.to_owned(), wanted: len, got });
        }
        if got > len {
            file.set_len(len).map_err(fail)?;
        }
        Ok(Box::new(DiskWriter::new(name, file, len, Arc::clone(&self.folders))))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.path(name)?;
        let number = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.root.join(TEMPORARY).join(number.to_string());
        let done = Self::write_temporary(&temporary, bytes)
            .and_then(|()| self.folders.with_folder_of(name, || rename_new(&temporary, &path)));
        if let Err(error) = done {
            // If this fails as well, the next open removes it.
            let _ = fs::remove_file(&temporary);
            return Err(naming_error("write the object", name, error));
        }
        self.folders.sync_name(name).map_err(|error| Error::from_io("sync the folder of", name, error))
    }

    fn read(&self, name: &str, offset: u64, len: usize) -> Result<Bytes> {
        let file = self.open_file(name)?;
        let wanted = u64::try_from(len).unwrap_or(u64::MAX);
        let short = |got| Error::Short { name: name.to_owned(), wanted, got };
        let fail = |error| Error::from_io("read the object", name, error);
        // The system takes no positions above 2^63.
        let end = offset.checked_add(wanted).and_then(|end| i64::try_from(end).ok());
        if len > TRUSTED_READ || end.is_none() {
            let has = file_len(&file).map_err(fail)?.saturating_sub(offset);
            if has < wanted {
                return Err(short(has));
            }
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let got = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            let Some(at) = offset.checked_add(got) else {
                return Err(short(got));
            };
            match read_some(&file, &mut bytes, at) {
                Ok(0) => return Err(short(got)),
                Ok(_) => {}
                Err(error) => return Err(fail(error)),
            }
        }
        bytes.truncate(len);
        Ok(Bytes::from(bytes))
    }

    fn len(&self, name: &str) -> Result<u64> {
        let path = self.path(name)?;
        let fail = |error| reading_error("look at the object", name, error);
        let metadata = fs::metadata(path).map_err(fail)?;
        if metadata.is_file() { Ok(metadata.len()) } else { Err(Error::not_found(name)) }
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<ObjectEntry>> {
        listing::list(&self.root, prefix, after, limit).map_err(|source| Error::Io {
            doing: "list the objects of",
            name: self.root.display().to_string(),
            source,
        })
    }

    fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name)?;
        fs::remove_file(path).map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory => Error::not_found(name),
            _ => Error::from_io("delete the object", name, error),
        })?;
        self.files.forget(name);
        self.folders.sync_folder_of(name).map_err(|error| Error::from_io("sync the folder of", name, error))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let fail =
            |error: Errno| Error::from_io("look at the file system of", &self.root.display().to_string(), error.into());
        let system = rustix::fs::statvfs(&self.root).map_err(fail)?;
        Ok(Some(system.f_bavail.saturating_mul(system.f_frsize)))
    }
}

fn lock(root: &Path) -> Result<File> {
    let folder = root.display().to_string();
    let fail = |source| Error::Io { doing: "lock the folder", name: folder.clone(), source };
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(FILE_MODE);
    let file = options.open(root.join(LOCK)).map_err(fail)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => Err(Error::Locked { folder }),
        Err(error) => Err(fail(error.into())),
    }
}

/// Renames a file to a name that must be free, atomically.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can: a link fails on a name that is taken just as well.
        Err(Errno::INVAL | Errno::NOSYS) => {
            fs::hard_link(from, to)?;
            fs::remove_file(from)
        }
        done => Ok(done?),
    }
}

/// Appends what one call reads to the buffer's spare room; returns 0 at the end of the file.
fn read_some(file: &File, bytes: &mut Vec<u8>, at: u64) -> io::Result<usize> {
    loop {
        match rustix::io::pread(file, rustix::buffer::spare_capacity(bytes), at) {
            Err(Errno::INTR) => {}
            done => return Ok(done?),
        }
    }
}

/// Returns the length of an open file, and `NotFound` for a folder.
fn file_len(file: &File) -> io::Result<u64> {
    let metadata = file.metadata()?;
    if metadata.is_file() { Ok(metadata.len()) } else { Err(io::ErrorKind::NotFound.into()) }
}

/// Returns the error for an object that was to be there.
fn reading_error(doing: &'static str, name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::IsADirectory => Error::not_found(name),
        _ => Error::from_io(doing, name, error),
    }
}

/// Returns the error for an object that was to be made.
fn naming_error(doing: &'static str, name: &str, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::NotADirectory => {
            Error::InvalidName { name: name.to_owned(), reason: "a part of it is an object's name" }
        }
        _ => Error::from_io(doing, name, error),
    }
}
