//! Files of a backup: written so that a crash leaves a whole one or none.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BackupError, io_error};

/// Bytes copied at a time.
const COPY_BYTES: usize = 1 << 20;

/// What was copied: length and BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Copied {
    pub(super) bytes: u64,
    pub(super) hash: blake3::Hash,
}

/// Makes a folder that only its owner may enter, with those above it.
pub(super) fn make_folder(path: &Path) -> Result<(), BackupError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io_error("make the folder", path))
}

/// Makes a folder's names durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder", path))
}

/// Copies at most `limit` bytes of a file to a new name, durably, but for the name: see [`sync_folder`]. With `link`, the
/// file gets a second name instead, if both are on one file system. Reads all of it in either case.
pub(super) fn copy(from: &Path, to: &Path, limit: u64, link: bool) -> Result<Copied, BackupError> {
    let temporary = temporary(to);
    remove_file(&temporary)?;
    if link && fs::hard_link(from, &temporary).is_ok() {
        let copied = hash(&temporary, limit)?;
        rename(&temporary, to)?;
        return Ok(copied);
    }
    let file = File::open(from).map_err(io_error("open", from))?;
    let mut out = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io_error("create", &temporary))?;
    let copied = pump(file.take(limit), |piece| out.write_all(piece)).map_err(io_error("copy", from))?;
    out.sync_all().map_err(io_error("sync", &temporary))?;
    rename(&temporary, to)?;
    Ok(copied)
}

/// Writes a file under a new name, durably, name included.
pub(super) fn write(to: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let temporary = temporary(to);
    remove_file(&temporary)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut out = options.open(&temporary).map_err(io_error("create", &temporary))?;
    out.write_all(bytes).and_then(|()| out.sync_all()).map_err(io_error("write", &temporary))?;
    rename(&temporary, to)?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// Returns the hash of at most `limit` bytes of a file.
pub(super) fn hash(path: &Path, limit: u64) -> Result<Copied, BackupError> {
    let file = File::open(path).map_err(io_error("open", path))?;
    pump(file.take(limit), |_| Ok(())).map_err(io_error("read", path))
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), BackupError> {
    gone_is_fine(fs::remove_file(path)).map_err(io_error("remove", path))
}

/// Removes a folder with all that is in it; one that is not there is no error.
pub(super) fn remove_folder(path: &Path) -> Result<(), BackupError> {
    gone_is_fine(fs::remove_dir_all(path)).map_err(io_error("remove", path))
}

/// Returns the files below a folder, as paths from `root` on, sorted; none if it is not there.
pub(super) fn below(root: &Path, folder: &str) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(at) = folders.pop() {
        let path = root.join(&at);
        let entries = match fs::read_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(io_error("list the folder", &path))?,
        };
        for entry in entries {
            let entry = entry.map_err(io_error("list the folder", &path))?;
            let is_folder = entry.file_type().map_err(io_error("look at", &entry.path()))?.is_dir();
            let name = at.join(entry.file_name());
            if is_folder {
                folders.push(name);
            } else {
                found.push(name.to_string_lossy().into_owned());
            }
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn pump(mut from: impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<Copied> {
    let (mut hasher, mut buffer, mut bytes) = (blake3::Hasher::new(), vec![0; COPY_BYTES], 0);
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(Copied { bytes, hash: hasher.finalize() }),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                take(&buffer[..count])?;
                bytes += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    fs::rename(from, to).map_err(io_error("rename", from))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
