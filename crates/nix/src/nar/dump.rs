//! A file system tree as a NAR.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Writer;

const BUFFER: usize = 256 << 10;

/// Says at which file a dump failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {path:?}", path = .path)]
pub struct DumpError {
    /// What was tried, as in "read".
    pub doing: &'static str,
    /// With which file.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl<W: Write> Writer<W> {
    /// Writes the file, directory or symlink at `path` as the root, or as the entry just named.
    ///
    /// Of a file's permissions only the owner's right to execute counts. Other kinds of files, and files that change while they are
    /// read, are errors.
    pub fn dump_path(&mut self, path: &Path) -> Result<(), DumpError> {
        let mut buffer = vec![0; BUFFER];
        self.dump_node(&mut path.to_owned(), &mut buffer)
    }

    /// Dumps one node; recursion ends at [`super::MAX_DEPTH`]. `path` is the same again after success.
    fn dump_node(&mut self, path: &mut PathBuf, buffer: &mut [u8]) -> Result<(), DumpError> {
        let kind = at(path, "look at", fs::symlink_metadata(&*path))?.file_type();
        if kind.is_dir() {
            return self.dump_directory(path, buffer);
        }
        if kind.is_file() {
            let result = self.dump_regular(path, buffer);
            return at(path, "dump", result);
        }
        if kind.is_symlink() {
            let target = at(path, "read symlink", fs::read_link(&*path))?;
            return at(path, "dump symlink", self.symlink(target.as_os_str().as_bytes()));
        }
        at(path, "dump", Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file, directory or symlink")))
    }

    fn dump_directory(&mut self, path: &mut PathBuf, buffer: &mut [u8]) -> Result<(), DumpError> {
        let names = fs::read_dir(&*path)
            .and_then(|entries| entries.map(|entry| Ok(entry?.file_name().into_vec())).collect::<io::Result<Vec<_>>>());
        let mut names = at(path, "read directory", names)?;
        names.sort_unstable();
        at(path, "dump directory", self.directory())?;
        for name in names {
            let named = self.entry(&name);
            path.push(OsString::from_vec(name));
            at(path, "dump", named)?;
            self.dump_node(path, buffer)?;
            path.pop();
        }
        at(path, "dump directory", self.end_directory())
    }

    fn dump_regular(&mut self, path: &Path, buffer: &mut [u8]) -> io::Result<()> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it was replaced while it was read"));
        }
        let executable = metadata.permissions().mode() & 0o100 != 0;
        self.regular(executable, metadata.len())?;
        let mut left = metadata.len();
        while left > 0 {
            let most = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
            let n = file.read(&mut buffer[..most])?;
            if n == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
            }
            self.contents(&buffer[..n])?;
            left -= n as u64;
        }
        if file.read(&mut buffer[..1])? > 0 {
            return Err(io::Error::other("it became longer while it was read"));
        }
        Ok(())
    }
}

fn at<T>(path: &Path, doing: &'static str, result: io::Result<T>) -> Result<T, DumpError> {
    result.map_err(|source| DumpError { doing, path: path.to_owned(), source })
}
