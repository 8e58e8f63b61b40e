use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use firn_nix::StorePath;
use rustix::fs::{FlockOperation, fdatasync, flock};

use super::error::{Error, Result};

/// How long the spool may get: some 100,000 paths. Nobody empties it where no agent runs.
pub const MAX_SPOOL_BYTES: u64 = 8 * 1024 * 1024;

/// How long one attempt for the lock waits.
const LOCK_STEP: Duration = Duration::from_millis(5);

/// A file that the hook appends paths to while no agent answers, and that the agent empties.
///
/// One base name a line. Writers and the agent take a lock on it, so lines of two hooks never mix; a line that a crash
/// cut short is passed over when it is read, and the next writer starts a line of its own.
#[derive(Debug)]
pub struct Spool {
    file: PathBuf,
}

/// What a spool held. It is emptied by [`Spooled::done`], after the paths are safe elsewhere.
#[derive(Debug)]
#[must_use]
pub struct Spooled {
    /// The paths, in their order; some may come twice.
    pub paths: Vec<StorePath>,
    /// Lines that are no store path.
    pub unreadable: u64,
    /// Holds the lock until the spool is emptied.
    open: File,
    file: PathBuf,
}

impl Spool {
    /// Returns the spool of a queue's directory. Nothing is created before the first line.
    #[must_use]
    pub fn of(directory: &Path) -> Self {
        Self { file: directory.join("spool") }
    }

    /// Appends paths; they are durable when it returns. Waits at most until `deadline` for the lock.
    pub fn append(&self, paths: &[StorePath], deadline: Instant) -> Result<()> {
        let directory = self.file.parent().unwrap_or(Path::new("/"));
        let fail = |doing| move |source| Error::of_io(doing, &self.file, source);
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail("create the folder of"))?;
        let mut options = OpenOptions::new();
        let mut open =
            options.read(true).append(true).create(true).mode(0o600).open(&self.file).map_err(fail("open"))?;
        self.lock(&open, deadline)?;
        let bytes = open.metadata().map_err(fail("look at"))?.len();
        // The blank line in front ends a line that a crash cut short.
        let mut lines = String::from("\n");
        for path in paths {
            lines += &path.base_name();
            lines.push('\n');
        }
        if bytes.saturating_add(lines.len() as u64) > MAX_SPOOL_BYTES {
            return Err(Error::SpoolFull { file: self.file.clone(), bytes });
        }
        open.write_all(lines.as_bytes()).map_err(fail("write"))?;
        fdatasync(&open).map_err(|errno| fail("sync")(errno.into()))?;
        if bytes == 0 {
            sync_directory(directory)?;
        }
        Ok(())
    }

    /// Reads what is there and keeps the lock; `None` if there is nothing, or a hook is writing at the moment.
    pub fn read(&self) -> Result<Option<Spooled>> {
        let fail = |doing| move |source| Error::of_io(doing, &self.file, source);
        let mut open = match OpenOptions::new().read(true).write(true).open(&self.file) {
            Ok(open) => open,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail("open")(error)),
        };
        match flock(&open, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(fail("lock")(errno.into())),
        }
        let mut bytes = Vec::new();
        open.seek(SeekFrom::Start(0)).map_err(fail("read"))?;
        (&open).take(MAX_SPOOL_BYTES + 1).read_to_end(&mut bytes).map_err(fail("read"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let (mut paths, mut unreadable) = (Vec::new(), 0);
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match std::str::from_utf8(line).ok().and_then(|line| line.parse().ok()) {
                Some(path) => paths.push(path),
                None => unreadable += 1,
            }
        }
        Ok(Some(Spooled { paths, unreadable, open, file: self.file.clone() }))
    }

    fn lock(&self, open: &File, deadline: Instant) -> Result<()> {
        loop {
            match flock(open, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < deadline => std::thread::sleep(LOCK_STEP),
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Busy { file: self.file.clone() }),
                Err(errno) => return Err(Error::of_io("lock", &self.file, errno.into())),
            }
        }
    }
}

impl Spooled {
    /// Empties the spool and lets go of it. Call it when the paths are durable in the queue: a crash in between only
    /// brings them a second time.
    pub fn done(self) -> Result<()> {
        self.open.set_len(0).map_err(|source| Error::of_io("empty", &self.file, source))
    }
}

fn sync_directory(directory: &Path) -> Result<()> {
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(|source| Error::of_io("sync", directory, source))
}
