//! Files that hold secrets: read only if nobody else can, written so that nobody else ever could.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The longest file that is read, in bytes.
pub(crate) const MAX_FILE_BYTES: u64 = 1 << 20;

/// A file's text, and who may read it.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The text.
    pub(crate) text: String,
    /// The permission bits, as in `chmod`.
    pub(crate) mode: u32,
}

impl Contents {
    /// Says if only the owner may read or write the file.
    pub(crate) fn is_private(&self) -> bool {
        self.mode & 0o077 == 0
    }
}

/// Reads a text file of at most [`MAX_FILE_BYTES`], with the mode of the very file that was read.
pub(crate) fn read(path: &Path) -> io::Result<Contents> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut text = String::new();
    // A pipe is fine, as shells make for `<(…)`; a directory fails when it is read.
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(Contents { text, mode: metadata.mode() & 0o7777 })
}

/// Replaces a file atomically: it has the old text or the new one, also after a power cut. The folder is made if needed.
///
/// A symbolic link is followed, so that a configuration that lies elsewhere stays there.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let path = target(path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(name);
    let written = write_new(&temporary, text, mode).and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        // The error to tell is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    // One left by a process of the same number that was killed is ours to replace.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Follows symbolic links, also to a file that is not there yet.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..40 {
        match fs::read_link(&path) {
            Ok(next) => path = path.parent().unwrap_or(Path::new("")).join(next),
            // Not a link, or not there.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(path);
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}
