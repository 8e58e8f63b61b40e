//! Copies of a whole store: made while it is used, each run copying only what is new, and put back.
//!
//! Packs never change once they are sealed, so a backup is a growing set of them and one index. What makes it consistent
//! is the order: first nothing may be deleted any more (the lease of garbage collection is held), then the index is
//! copied as it is at one moment, then every pack that this index knows; a pack that is being written is copied as far as
//! it is, which is further than the index relies on. The manifest, which names every file with its length and hash, is
//! replaced last and at once: until then, the earlier backup is whole. What no manifest names any more goes after that.
//!
//! ```text
//! manifest.jsonl      a line for the backup, one for each file, and the hash of these lines
//! index-N/            the index of the run N
//! packs/ab/abcd…      sealed packs, as in the store
//! tails/abcd….LENGTH  packs that were being written
//! ```

mod create;
#[cfg(test)]
mod faults;
mod files;
mod manifest;
mod restore;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

pub use create::{Created, Source, create};
#[doc(hidden)]
pub use manifest::fuzz_manifest;
pub use manifest::{Entry, Head, Manifest};
pub use restore::{Restored, Verified, find, restore, verify};

/// Why a backup was not made, or is not good.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
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
    /// The folder holds something else.
    #[error("use {} as a backup: {detail}", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// What it is instead.
        detail: String,
    },
    /// Files are not what the manifest says.
    #[error("read the backup {}: {}", path.display(), list(.problems))]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// Each file that is wrong, with what is wrong with it; the first 20.
        problems: Vec<String>,
    },
    /// A pack of the store is gone, or not as long as the index says.
    #[error("copy pack {pack}: {detail}: `firnd scrub` says what it concerns")]
    Pack {
        /// Which.
        pack: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The index of the store, or of the backup, doesn't open.
    #[error("read the index in {}", path.display())]
    Index {
        /// Its folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: firn_index::Error,
    },
    /// Whoever keeps packs from being deleted does so no longer.
    #[error("keep the store's packs while they are copied: {detail}")]
    Released {
        /// Why.
        detail: String,
    },
}

/// Problems that are named; the others are only counted.
const MAX_PROBLEMS: usize = 20;

fn list(problems: &[String]) -> String {
    problems.join("; ")
}

/// Does something to a file or folder; everything that a backup or a restore does goes through here, so that tests can let
/// each fail in turn.
fn file<T>(doing: &'static str, path: &Path, work: impl FnOnce() -> io::Result<T>) -> Result<T, BackupError> {
    #[cfg(test)]
    let work = || faults::pass(work);
    work().map_err(|source| BackupError::Io { doing, path: path.to_owned(), source })
}
