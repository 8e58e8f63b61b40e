//! Files of a backup: written so that a crash leaves a whole one or none.

use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{BackupError, file};

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
    file("make the folder", path, || DirBuilder::new().recursive(true).mode(0o700).create(path))
}

/// Makes a folder's names durable.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    file("sync the folder", path, || File::open(path)?.sync_all())
}

/// Copies at most `limit` bytes of a file to a new name, durably, but for the name: see [`sync_folder`]. With `link`, the
/// file gets a second name instead, if both are on one file system. Reads all of it in either case.
pub(super) fn copy(from: &Path, to: &Path, limit: u64, link: bool) -> Result<Copied, BackupError> {
    let temporary = temporary(to);
    remove_file(&temporary)?;
    if link && file("link", from, || fs::hard_link(from, &temporary)).is_ok() {
        let copied = hash(&temporary, limit)?;
        rename(&temporary, to)?;
        return Ok(copied);
    }
    let source = file("open", from, || File::open(from))?;
    let mut out = create(&temporary)?;
    let copied = file("copy", from, || pump(source.take(limit), |piece| out.write_all(piece)))?;
    file("sync", &temporary, || out.sync_all())?;
    rename(&temporary, to)?;
    Ok(copied)
}

/// Writes a file under a new name, durably, name included.
pub(super) fn write(to: &Path, bytes: &[u8]) -> Result<(), BackupError> {
    let temporary = temporary(to);
    remove_file(&temporary)?;
    let mut out = create(&temporary)?;
    file("write", &temporary, || out.write_all(bytes).and_then(|()| out.sync_all()))?;
    rename(&temporary, to)?;
    sync_folder(to.parent().unwrap_or(Path::new(".")))
}

/// Returns the hash of at most `limit` bytes of a file.
pub(super) fn hash(path: &Path, limit: u64) -> Result<Copied, BackupError> {
    let source = file("open", path, || File::open(path))?;
    file("read", path, || pump(source.take(limit), |_| Ok(())))
}

/// Removes a file; one that is not there is no error.
pub(super) fn remove_file(path: &Path) -> Result<(), BackupError> {
    file("remove", path, || gone_is_fine(fs::remove_file(path)))
}

/// Removes a folder with all that is in it; one that is not there is no error.
pub(super) fn remove_folder(path: &Path) -> Result<(), BackupError> {
    file("remove", path, || gone_is_fine(fs::remove_dir_all(path)))
}

/// Returns the length of a file; `None` if it is not there.
pub(super) fn length(path: &Path) -> Result<Option<u64>, BackupError> {
    file("look at", path, || match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => Ok(Some(found?.len())),
    })
}

/// Returns the files below a folder, as paths from `root` on, sorted; none if it is not there.
pub(super) fn below(root: &Path, folder: &str) -> Result<Vec<String>, BackupError> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from(folder)];
    while let Some(at) = folders.pop() {
        let path = root.join(&at);
        for entry in list(&path)? {
            let is_folder = file("look at", &entry.path(), || entry.file_type())?.is_dir();
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

/// Returns what is in a folder; nothing if it is not there.
pub(super) fn list(path: &Path) -> Result<Vec<DirEntry>, BackupError> {
    file("list the folder", path, || match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.collect(),
    })
}

fn create(path: &Path) -> Result<File, BackupError> {
    file("create", path, || OpenOptions::new().write(true).create_new(true).mode(0o600).open(path))
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

/// Gives a file or folder another name, at once, and durably after [`sync_folder`].
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), BackupError> {
    file("rename", from, || fs::rename(from, to))
}

fn gone_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
