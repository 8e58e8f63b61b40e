//! A cache as a folder of files, as stock Nix reads and writes it (`file://…`): written from a cache, or read into one.
//!
//! Both look at what is there already and do the rest, so that an interrupted run is simply run again. NARs are written
//! before the narinfos that name them, and taken in in the order of their references.

mod documents;
mod export;
mod folder;
mod import;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, TryLockError};

use firn_index::CacheName;
use firn_nix::{CacheInfo, NarInfo, StoreHash};
use firn_nix_store::PathInfo;
use serde::{Deserialize, Serialize};

pub use documents::DocumentCounts;
pub use export::{Exported, export};
pub(crate) use folder::Folder;
pub use import::{Imported, import};

use crate::http::codec::Codec;

/// Rows read at a time.
const PAGE: usize = 1000;

/// Bytes passed on at a time.
const PIECE_BYTES: usize = 256 << 10;

/// Paths that are named in a report; the others are only counted.
const MAX_NAMED: usize = 100;

/// Which paths of a cache are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// All.
    All,
    /// These, with all that they refer to, as far as it is there.
    Closure(Vec<StoreHash>),
}

/// Compressions that every Nix reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are those of the option")]
pub enum Compression {
    Zstd,
    Xz,
    None,
}

impl From<Compression> for Codec {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::Zstd => Self::Zstd,
            Compression::Xz => Self::Xz,
            Compression::None => Self::Identity,
        }
    }
}

/// What those share who write and read files in a running server: one at a time does.
#[derive(Debug, Default)]
pub struct Turns {
    turn: Mutex<()>,
    is_over: AtomicBool,
}

impl Turns {
    /// Takes the turn, unless somebody has it.
    pub fn take(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            // It keeps nothing that a panic could have left half done.
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Ends what is under way, at its next piece.
    pub fn end(&self) {
        self.is_over.store(true, Ordering::SeqCst);
    }

    pub(crate) fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::SeqCst)
    }
}

/// Why paths were not written or not read.
#[derive(Debug, thiserror::Error)]
pub enum FileCacheError {
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
    /// The store failed.
    #[error("use the store")]
    Engine(#[source] Box<firn_engine::Error>),
    /// There is no such cache.
    #[error("find the cache '{0}': there is none; `firnd cache list` shows all")]
    NoSuchCache(CacheName),
    /// A path that was asked for is not there.
    #[error("find {path} in {place}")]
    NoSuchPath {
        /// Its store hash.
        path: StoreHash,
        /// Where it was looked for.
        place: String,
    },
    /// The folder is of another store directory.
    #[error("use {}: its store directory is {found}, and the cache's is {wanted}", path.display())]
    StoreDir {
        /// The folder.
        path: PathBuf,
        /// The folder's.
        found: String,
        /// The cache's.
        wanted: String,
    },
    /// The store failed, or has no room, when a document came.
    #[error("take {}: the store failed, or the disk is nearly full; the log says more", path.display())]
    Failed {
        /// The document's file.
        path: PathBuf,
    },
    /// The server ends.
    #[error("use files: the server ends; run it again, what was done stays")]
    Ended,
    /// A file is not what it should be.
    #[error("read {}: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

impl From<firn_engine::Error> for FileCacheError {
    fn from(error: firn_engine::Error) -> Self {
        Self::Engine(Box::new(error))
    }
}

impl From<firn_index::Error> for FileCacheError {
    fn from(error: firn_index::Error) -> Self {
        firn_engine::Error::from(error).into()
    }
}

fn io_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileCacheError {
    let path = path.to_owned();
    move |source| FileCacheError::Io { doing, path, source }
}

/// Refuses a folder of another store directory.
fn check_store_dir(info: CacheInfo, wanted: &str, root: &Path) -> Result<(), FileCacheError> {
    match info.store_dir {
        Some(found) if found != wanted => {
            Err(FileCacheError::StoreDir { path: root.to_owned(), found, wanted: wanted.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Returns what a narinfo says as a store would.
pub(crate) fn path_info(info: &NarInfo) -> PathInfo {
    PathInfo {
        id: 0,
        path: info.store_path.clone(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        registered_at: 0,
        deriver: info.deriver.clone(),
        ultimate: false,
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ca: info.ca.as_ref().map(|ca| ca.as_str().to_owned()),
        references: info.references.iter().cloned().collect(),
    }
}
