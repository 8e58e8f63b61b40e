//! The data directory: what lies where, who may use it, and how its store is opened.
//!
//! One process at a time: it holds an exclusive lock on `lock`, where it wrote its process id and what it is. Whoever
//! only wants to administer talks to a running server through `firnd.sock` instead.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use firn_engine::{Engine, Entropy, SystemClock};
use firn_index::{ChunkIndex, Meta};
use firn_storage::{Disk, Storage};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::config::Config;

mod owner;
mod renewal;

pub use renewal::OldIndex;

/// What a server writes into the lock file; any other holder is a command that will be done soon.
pub const SERVER: &str = "firnd serve";

/// How long to wait for a command that holds the lock.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The memory for the index's blocks when only an administrator's command needs it, in bytes.
const COMMAND_INDEX_CACHE: usize = 8 << 20;

/// Where everything of a store lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir {
    root: PathBuf,
}

/// Why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// Another process holds it.
    #[error("lock the data directory {}: {holder} is using it", data.display())]
    Held {
        /// The data directory.
        data: PathBuf,
        /// Who.
        holder: Holder,
    },
    /// It is another user's, and this is root.
    #[error("use the data directory {}: it is {owner}'s, who could not use what root makes in it", data.display())]
    Foreign {
        /// The data directory.
        data: PathBuf,
        /// Whose it is, as `sudo -u` takes it.
        owner: String,
    },
    /// The file system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was being done, as a verb phrase.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The index doesn't open.
    #[error("open the index in {}", path.display())]
    Index {
        /// Its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: firn_index::Error,
    },
    /// The packs' storage doesn't open.
    #[error("open the storage in {}", path.display())]
    Storage {
        /// Its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: firn_storage::Error,
    },
    /// The store doesn't open, or can't be brought into order after a crash.
    #[error("open the store in {}", path.display())]
    Engine {
        /// The data directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<firn_engine::Error>,
    },
}

/// The process that holds a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Its id, if it has written it yet.
    pub pid: Option<u32>,
    /// What it is, like `firnd serve`.
    pub name: String,
}

impl Holder {
    /// Says whether it is a server (or one that is just starting).
    pub fn is_server(&self) -> bool {
        self.name == SERVER
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "process {pid} ({})", self.name),
            None => f.write_str("another process"),
        }
    }
}

/// The exclusive right to a data directory, as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // So that nobody is told of a process that is gone. The lock itself ends with the file.
        let _ = self.file.set_len(0);
    }
}

/// The parts of a store that administration needs, opened without a server.
pub struct OpenIndex {
    /// Caches, tokens, totals.
    pub meta: Arc<dyn Meta>,
    index: PathBuf,
    lock: Lock,
}

impl OpenIndex {
    /// Leaves the index in good order for whoever opens it next.
    pub fn close(self) -> Result<(), DataError> {
        self.into_lock().map(drop)
    }

    /// Leaves the index in good order for this process, which still holds the data directory.
    pub fn into_lock(self) -> Result<Lock, DataError> {
        let Self { meta, index, lock } = self;
        let flushed = meta.flush().map_err(|source| DataError::Index { path: index, source });
        // The index has a lock of its own, which must end first.
        drop(meta);
        flushed.map(|()| lock)
    }
}

/// The files of an open index.
#[derive(Clone)]
pub struct IndexFiles {
    meta: Arc<firn_index_rocks::RocksMeta>,
    chunks: Arc<firn_index_rocks::RocksChunkIndex>,
}

impl IndexFiles {
    /// Makes a copy, as it is at one moment, in a folder that is not there yet.
    ///
    /// # Errors
    /// Those of the index.
    pub fn checkpoint(&self, folder: &Path) -> Result<(), DataError> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|source| DataError::Io {
            doing: "make the folder",
            path: folder.to_owned(),
            source,
        })?;
        let failed = |source| DataError::Index { path: folder.to_owned(), source };
        // In this order: the chunk index may lag behind the truth, and must not be ahead of it.
        self.chunks.checkpoint(folder).map_err(failed)?;
        self.meta.checkpoint(folder).map_err(failed)
    }
}

/// A store, opened by a server.
pub struct OpenStore {
    /// Ingest and restore over it.
    pub engine: Engine,
    /// Where its packs are.
    pub storage: Arc<dyn Storage>,
    /// The files of its index.
    pub index: IndexFiles,
    lock: Lock,
}

impl OpenStore {
    /// Ends the use of the data directory. The engine must be closed, and no clone of it used any more.
    pub fn release(self) {
        drop(self.engine);
        drop(self.index);
        drop(self.lock);
    }
}

/// Draws from the kernel's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn draw(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("Linux gives random bytes to every process once it has booted");
        u128::from_le_bytes(bytes)
    }
}

fn is_folder(path: &Path) -> Result<bool, DataError> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(found.is_dir()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(DataError::Io { doing: "look at", path: path.to_owned(), source }),
    }
}

impl DataDir {
    /// Names a data directory, which need not exist yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns its path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the lock file's path.
    pub fn lock_file(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Returns the path of the socket on which a running server is administered.
    pub fn socket(&self) -> PathBuf {
        self.root.join("firnd.sock")
    }

    /// Returns the folder of files that matter only while a source is synced.
    pub fn sources(&self) -> PathBuf {
        self.root.join("sources")
    }

    /// Returns the folder of the indexes.
    pub fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Returns the folder of the packs' storage.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Says whether a store was ever made here.
    ///
    /// # Errors
    /// [`DataError::Io`] if that can't be seen: whoever may not enter the directory is not told that it is empty.
    pub fn exists(&self) -> Result<bool, DataError> {
        is_folder(&self.index())
    }

    /// Says whether there is a data directory, with a store or without.
    ///
    /// # Errors
    /// [`DataError::Io`] if that can't be seen.
    pub fn is_there(&self) -> Result<bool, DataError> {
        is_folder(&self.root)
    }

    /// Takes the directory for this process, making it if need be; `name` tells others who holds it.
    ///
    /// Waits a few seconds for a command to be done, and not at all for a server.
    pub fn lock(&self, name: &str) -> Result<Lock, DataError> {
        let until = Instant::now() + LOCK_WAIT;
        loop {
            match self.try_lock(name)? {
                Ok(lock) => return Ok(lock),
                Err(holder) if holder.is_server() || Instant::now() >= until => {
                    return Err(DataError::Held { data: self.root.clone(), holder });
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Tries once; the inner error says who holds it.
    pub fn try_lock(&self, name: &str) -> Result<Result<Lock, Holder>, DataError> {
        self.check_owner(name)?;
        self.make(&self.root)?;
        let path = self.lock_file();
        let io = |doing| {
            let path = path.clone();
            move |source| DataError::Io { doing, path, source }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io("open"))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Err(read_holder(&mut file))),
            Err(error) => return Err(io("lock")(error.into())),
        }
        file.set_len(0).and_then(|()| file.rewind()).map_err(io("write"))?;
        writeln!(file, "{} {name}", std::process::id()).map_err(io("write"))?;
        Ok(Ok(Lock { file }))
    }

    /// Makes a folder that only its owner may enter: signing keys lie below.
    fn make(&self, path: &Path) -> Result<(), DataError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| DataError::Io {
            doing: "make the folder",
            path: path.to_owned(),
            source,
        })
    }

    /// Opens what administration needs.
    pub fn open_index(&self, lock: Lock) -> Result<OpenIndex, DataError> {
        Ok(OpenIndex { meta: self.open_meta(COMMAND_INDEX_CACHE)?, index: self.index(), lock })
    }

    fn open_meta(&self, cache_bytes: usize) -> Result<Arc<firn_index_rocks::RocksMeta>, DataError> {
        self.check_packs_have_index()?;
        let path = self.index();
        self.make(&path)?;
        let meta = firn_index_rocks::RocksMeta::open(&path, &firn_index_rocks::MetaOptions { cache_bytes })
            .map_err(|source| DataError::Index { path, source })?;
        Ok(Arc::new(meta))
    }

    /// Refuses packs of which no index tells: one that is made now would not know of them.
    fn check_packs_have_index(&self) -> Result<(), DataError> {
        let has_packs = fs::read_dir(self.store().join("packs")).is_ok_and(|mut packs| packs.next().is_some());
        if !has_packs || self.index().join("meta").exists() {
            return Ok(());
        }
        let source = Box::new(firn_engine::Error::packs_without_index());
        Err(DataError::Engine { path: self.root.clone(), source })
    }

    fn open_index_files(&self, cache_bytes: usize) -> Result<IndexFiles, DataError> {
        // The rows of packs, paths and recipes are asked for more often than single chunks.
        let half = cache_bytes / 2;
        let path = self.index();
        let meta = match self.open_meta(half) {
            Err(DataError::Index { source: error @ firn_index::Error::Corrupt { .. }, .. })
                if self.renew_usage().unwrap_or(false) =>
            {
                tracing::error!(
                    %error, "usage counters and reports are damaged and begin anew: the disk may be failing"
                );
                self.open_meta(half)?
            }
            other => other?,
        };
        let options = firn_index_rocks::ChunkIndexOptions { cache_bytes: half, ..Default::default() };
        let (chunks, damage) = firn_index_rocks::RocksChunkIndex::open_or_renew(&path, &options)
            .map_err(|source| DataError::Index { path: path.clone(), source })?;
        if let Some(error) = damage {
            tracing::error!(
                %error, moved_to = %path.join("chunks.damaged").display(),
                "the chunk index is damaged and made anew from the packs: the disk may be failing"
            );
        }
        Ok(IndexFiles { meta, chunks: Arc::new(chunks) })
    }

    fn renew_usage(&self) -> Result<bool, firn_index::Error> {
        let options = firn_index_rocks::MetaOptions { cache_bytes: COMMAND_INDEX_CACHE };
        firn_index_rocks::RocksMeta::renew_usage(&self.index(), &options)
    }

    /// Returns the folder where a copy of the index lies while a backup is made.
    pub fn backup_index(&self) -> PathBuf {
        self.root.join("index.backup")
    }

    /// Removes what a backup left there.
    pub fn remove_backup_index(&self) -> Result<(), DataError> {
        remove_folder(&self.backup_index())
    }

    /// Makes a copy of the index of a store that no server uses; the caller holds the lock.
    pub fn copy_index(&self, folder: &Path) -> Result<(), DataError> {
        self.open_index_files(COMMAND_INDEX_CACHE)?.checkpoint(folder)
    }

    /// Opens the whole store, and brings it into order if the last server was killed.
    pub fn open_store(&self, lock: Lock, config: &Config) -> Result<OpenStore, DataError> {
        // A machine of 32 bits could not use more anyway.
        let cache_bytes = usize::try_from(config.store.index_cache.0).unwrap_or(usize::MAX);
        let index = self.open_index_files(cache_bytes)?;
        let path = self.store();
        self.make(&path)?;
        let disk = Disk::open(&path).map_err(|source| DataError::Storage { path, source })?;
        let storage = crate::kill::with_kill(Arc::new(disk));
        let engine = Engine::open(
            Arc::clone(&storage),
            Arc::clone(&index.meta) as Arc<dyn Meta>,
            Arc::clone(&index.chunks) as Arc<dyn ChunkIndex>,
            Arc::new(SystemClock),
            Arc::new(SystemEntropy),
            engine_options(config),
        )
        .map_err(|source| DataError::Engine { path: self.root.clone(), source: Box::new(source) })?;
        Ok(OpenStore { engine, storage, index, lock })
    }

    /// Returns the bytes that the indexes take on the disk.
    pub fn index_bytes(&self) -> Result<u64, DataError> {
        bytes_below(&self.index())
    }

    /// Returns the free bytes of its file system, if that tells.
    pub fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.root).ok()?;
        found.f_bavail.checked_mul(found.f_frsize)
    }

    /// Sets who may use a file: only its owner.
    pub(crate) fn make_private(path: &Path) -> Result<(), DataError> {
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(|source| DataError::Io {
            doing: "set the permissions of",
            path: path.to_owned(),
            source,
        })
    }
}

fn engine_options(config: &Config) -> firn_engine::Options {
    let store = &config.store;
    firn_engine::Options {
        compression_level: store.compression_level,
        delta: config.ingest.delta.into(),
        pack_bytes: store.pack_size.0,
        frame_cache_bytes: store.frame_cache.0,
        recipe_cache_bytes: store.recipe_cache.0,
        nar_lease_seconds: store.nar_lease.0.as_secs(),
        max_nar_bytes: store.max_nar_size.0,
        min_free_bytes: store.min_free.0,
        ..firn_engine::Options::default()
    }
}

fn read_holder(file: &mut File) -> Holder {
    let mut text = String::new();
    let mut holder = Holder { pid: None, name: String::new() };
    if file.take(256).read_to_string(&mut text).is_ok()
        && let Some((pid, name)) = text.trim().split_once(' ')
    {
        holder.pid = pid.parse().ok();
        name.clone_into(&mut holder.name);
    }
    holder
}

/// Removes a folder with all that is in it; one that is not there is no error.
fn remove_folder(path: &Path) -> Result<(), DataError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DataError::Io { doing: "remove the folder", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Adds up the disk blocks below a folder, as `du` does; files that vanish meanwhile don't count.
pub(crate) fn bytes_below(root: &Path) -> Result<u64, DataError> {
    use std::os::unix::fs::MetadataExt;
    let io = |path: &Path, source| DataError::Io { doing: "measure", path: path.to_owned(), source };
    let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let mut bytes: u64 = 0;
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if gone(&error) => continue,
            Err(error) => return Err(io(&folder, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| io(&folder, error))?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes = bytes.saturating_add(found.blocks().saturating_mul(512)),
                Err(error) if gone(&error) => {}
                Err(error) => return Err(io(&entry.path(), error)),
            }
        }
    }
    Ok(bytes)
}
