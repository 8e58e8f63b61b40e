//! Files that hold secrets: read only if nobody else can, written so that nobody else ever could.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::nix_settings;

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

/// Returns a file's permission bits; none if there is no such file.
pub(crate) fn mode(path: &Path) -> Option<u32> {
    fs::metadata(path).ok().map(|metadata| metadata.mode() & 0o777)
}

/// Takes all rights from everybody but a file's owner and group, which some systems need; returns whether there were any.
pub(crate) fn close(path: &Path) -> io::Result<bool> {
    let mode = fs::metadata(path)?.mode() & 0o777;
    if mode & 0o027 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, Permissions::from_mode(mode & 0o750))?;
    Ok(true)
}

/// Replaces a file atomically: it has the old text or the new one, also after a power cut. The folder is made if needed.
///
/// A symbolic link is followed, so that a configuration that lies elsewhere stays there; but not into the Nix store, where
/// nothing is ever changed: that is [`io::ErrorKind::ReadOnlyFilesystem`].
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let path = target(path)?;
    if path.starts_with(nix_settings::store_dir()) {
        return Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, format!("it is {}", path.display())));
    }
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = folder.join(name);
    let written = write_new(&temporary, &path, text, mode).and_then(|()| fs::rename(&temporary, &path));
    if let Err(error) = written {
        // The error to tell is the first one.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    File::open(folder)?.sync_all()
}

fn write_new(path: &Path, replaced: &Path, text: &str, mode: u32) -> io::Result<()> {
    // One left by a process of the same number that was killed is ours to replace.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Ok(old) = fs::metadata(replaced) {
        // Whose file it is does not change; only root can see to that, and for others it is their own already.
        let _ = fchown(&file, Some(old.uid()), Some(old.gid()));
    }
    file.set_permissions(Permissions::from_mode(mode))?;
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_cannot_be_written_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        fs::create_dir(&path).expect("a folder in the way");
        fs::write(path.join("x"), "old").expect("written");
        replace(&path, "new", 0o600).expect_err("a folder is no file");
        assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1);
        let below_a_file = path.join("x/y");
        replace(&below_a_file, "new", 0o600).expect_err("a file is no folder");
    }

    #[test]
    fn a_new_file_has_its_mode_whatever_the_umask_says() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a/b/file");
        for (mode, text) in [(0o644, "one"), (0o600, "two"), (0o646, "three")] {
            replace(&path, text, mode).expect("written");
            let contents = read(&path).expect("read");
            assert_eq!((contents.mode, contents.text.as_str()), (mode, text));
            assert_eq!(contents.is_private(), mode == 0o600);
        }
        assert!(close(&path).expect("closed") && !close(&path).expect("closed before"));
        assert_eq!(mode(&path), Some(0o640));
    }

    #[test]
    fn links_are_followed_and_circles_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        symlink("two", at("one")).expect("linked");
        symlink(at("three"), at("two")).expect("linked");
        replace(&at("one"), "text", 0o600).expect("written through links to what was not there");
        assert_eq!(fs::read_to_string(at("three")).expect("read"), "text");
        assert!(at("one").is_symlink() && at("two").is_symlink());
        symlink("circle", at("circle")).expect("linked");
        replace(&at("circle"), "text", 0o600).expect_err("a circle");
    }

    #[test]
    fn a_file_without_end_is_not_read() {
        assert_eq!(read(Path::new("/dev/zero")).expect_err("endless").kind(), io::ErrorKind::FileTooLarge);
    }
}
