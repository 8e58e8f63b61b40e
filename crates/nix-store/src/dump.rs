//! A store path as a NAR, read while others may tamper with the store.
//!
//! Every file is opened relative to the directory that it was listed in, never through a symlink, and what was opened is what is
//! looked at: nothing can be put in the place of a path's files to make us read others. Open at a time is one file for each level
//! of directories.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use firn_nix::StorePath;
use firn_nix::nar::{MAX_DEPTH, Writer};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{Error, Location, Result};

/// How much of a file is read at once: beyond this the number of calls no longer shows.
const BUFFER: usize = 256 << 10;

/// How much is gathered for the writer: it costs a call through a pointer, and some files are tiny.
const GATHERED: usize = 64 << 10;

/// What says something of the file itself. All else is a matter of the moment: files that are open, memory, a disk, a server.
const LASTING: [Errno; 10] = [
    Errno::ACCESS,
    Errno::PERM,
    Errno::LOOP,
    Errno::NAMETOOLONG,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::INVAL,
    Errno::NXIO,
    Errno::OVERFLOW,
    Errno::OPNOTSUPP,
];

/// What was dumped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dumped {
    /// The length of the NAR.
    pub bytes: u64,
}

/// Writes the NAR of a store path to `out`, in pieces of up to 256 KiB, and flushes it.
///
/// Memory is bounded by the largest directory's names. Whether the NAR has the hash that the database says is for the caller to
/// check: a store may be damaged without any file looking odd. After an error, what was written is of no use.
///
/// # Errors
/// [`Error::Vanished`], [`Error::Changed`], [`Error::Unreadable`], [`Error::Hindered`], [`Error::NotArchivable`] name the file. An
/// error of `out` is [`Error::Sink`], so that a caller can end a dump.
pub fn dump(location: &Location, path: &StorePath, out: &mut dyn Write) -> Result<Dumped> {
    let sink = Sink { out, failed: None };
    let mut dump = Dump {
        writer: Writer::new(BufWriter::with_capacity(GATHERED, sink)),
        at: location.on_disk(path),
        buffer: vec![0; BUFFER],
    };
    let name = c_string(dump.at.as_os_str().as_bytes());
    let written = dump.node(CWD, &name, FileType::Unknown, 0);
    let bytes = dump.writer.position();
    let mut buffered = dump.writer.into_inner();
    let flushed = if written.is_ok() { buffered.flush() } else { Ok(()) };
    // Without this the buffer would be written once more on drop.
    let (sink, _) = buffered.into_parts();
    match (sink.failed, flushed) {
        (Some(source), _) | (None, Err(source)) => Err(Error::Sink { source }),
        (None, Ok(())) => written.map(|()| Dumped { bytes }),
    }
}

/// Keeps a writer's error apart from what the NAR writer has to say.
struct Sink<'a> {
    out: &'a mut dyn Write,
    failed: Option<io::Error>,
}

impl Sink<'_> {
    fn note<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        result.map_err(|error| {
            let kind = error.kind();
            // An interrupted write is tried again by whoever called.
            if kind != io::ErrorKind::Interrupted {
                self.failed = Some(error);
            }
            kind.into()
        })
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes);
        self.note(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.out.flush();
        self.note(flushed)
    }
}

struct Dump<'a> {
    writer: Writer<BufWriter<Sink<'a>>>,
    /// Where we are, for messages.
    at: PathBuf,
    buffer: Vec<u8>,
}

impl Dump<'_> {
    /// Dumps what is called `name` in `parent`; the directory listing said that it is of a type.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &CString, listed: FileType, depth: usize) -> Result<()> {
        let kind = if listed == FileType::Unknown {
            let stat = self.on(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW))?;
            FileType::from_raw_mode(stat.st_mode)
        } else {
            listed
        };
        match kind {
            FileType::Symlink => self.symlink(parent, name),
            FileType::Directory if depth == MAX_DEPTH => {
                Err(self.not_archivable(format!("directories are nested more than {MAX_DEPTH} deep")))
            }
            FileType::Directory => {
                let directory = self.open(parent, name, OFlags::DIRECTORY)?;
                self.directory(directory, depth)
            }
            FileType::RegularFile => {
                // Should something else stand there by now, then opening it must not wait for it.
                let file = self.open(parent, name, OFlags::NONBLOCK | OFlags::NOCTTY)?;
                self.regular(file)
            }
            other => Err(self.not_archivable(format!("it is a {}, which no NAR can hold", called(other)))),
        }
    }

    fn symlink(&mut self, parent: BorrowedFd<'_>, name: &CString) -> Result<()> {
        let target = match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Err(Errno::INVAL) => return Err(self.changed("it was a symlink and is none")),
            result => self.on(result)?,
        };
        let written = self.writer.symlink(target.as_bytes());
        self.wrote(written)
    }

    fn directory(&mut self, directory: OwnedFd, depth: usize) -> Result<()> {
        let mut entries = self.list(directory.as_fd())?;
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let written = self.writer.directory();
        self.wrote(written)?;
        for (name, kind) in entries {
            self.at.push(Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())));
            let written = self.writer.entry(name.as_bytes());
            self.wrote(written)?;
            self.node(directory.as_fd(), &name, kind, depth + 1)?;
            self.at.pop();
        }
        let written = self.writer.end_directory();
        self.wrote(written)
    }

    fn list(&mut self, directory: BorrowedFd<'_>) -> Result<Vec<(CString, FileType)>> {
        let mut entries = Vec::new();
        for entry in self.on(Dir::read_from(directory))? {
            let entry = self.on(entry)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                entries.push((name.to_owned(), entry.file_type()));
            }
        }
        Ok(entries)
    }

    fn regular(&mut self, file: OwnedFd) -> Result<()> {
        let before = self.on(rustix::fs::fstat(&file))?;
        if FileType::from_raw_mode(before.st_mode) != FileType::RegularFile {
            return Err(self.changed("it was a file and is none"));
        }
        let size = u64::try_from(before.st_size).map_err(|_| self.not_archivable("its size is negative".to_owned()))?;
        let begun = self.writer.regular(before.st_mode & 0o100 != 0, size);
        self.wrote(begun)?;
        let mut file = File::from(file);
        self.contents(&mut file, size)?;
        let after = self.on(rustix::fs::fstat(&file))?;
        if (after.st_size, modified(&after)) == (before.st_size, modified(&before)) {
            return Ok(());
        }
        Err(self.changed("it was written to while it was read"))
    }

    fn contents(&mut self, file: &mut File, size: u64) -> Result<()> {
        let mut left = size;
        while left > 0 {
            let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let n = match file.read(&mut self.buffer[..most]) {
                Ok(0) => return Err(self.changed("it became shorter while it was read")),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.unreadable(error)),
            };
            let written = self.writer.contents(&self.buffer[..n]);
            self.wrote(written)?;
            left -= n as u64;
        }
        Ok(())
    }

    fn open(&self, parent: BorrowedFd<'_>, name: &CString, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat(parent, name, flags, Mode::empty()) {
            Err(Errno::LOOP | Errno::NOTDIR | Errno::NXIO) => Err(self.changed("something else took its place")),
            result => self.on(result),
        }
    }

    /// Explains an error of the file where we are.
    fn on<T>(&self, result: rustix::io::Result<T>) -> Result<T> {
        result.map_err(|error| match error {
            Errno::NOENT => Error::Vanished { path: self.at.clone() },
            error => self.unreadable(error.into()),
        })
    }

    fn unreadable(&self, source: io::Error) -> Error {
        let path = self.at.clone();
        match Errno::from_io_error(&source) {
            Some(errno) if LASTING.contains(&errno) => Error::Unreadable { path, source },
            _ => Error::Hindered { path, source },
        }
    }

    /// Explains an error of the NAR writer: an entry that comes twice, mostly. Those of what it writes to are known to [`Sink`].
    fn wrote(&self, result: io::Result<()>) -> Result<()> {
        result.map_err(|error| self.not_archivable(error.to_string()))
    }

    fn changed(&self, why: &'static str) -> Error {
        Error::Changed { path: self.at.clone(), why }
    }

    fn not_archivable(&self, why: String) -> Error {
        Error::NotArchivable { path: self.at.clone(), why }
    }
}

/// Returns when a file's bytes last changed. (The time of the last change of its inode would move when Nix links equal files.)
fn modified(stat: &Stat) -> (i64, i64) {
    (stat.st_mtime, stat.st_mtime_nsec.try_into().unwrap_or(i64::MAX))
}

/// Paths from arguments and store paths have no NUL; one that had is cut and not found.
fn c_string(bytes: &[u8]) -> CString {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    CString::new(&bytes[..end]).expect("cut before the first NUL")
}

fn called(kind: FileType) -> &'static str {
    match kind {
        FileType::Fifo => "named pipe",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => "file of an unknown kind",
    }
}

#[cfg(test)]
mod tests;
