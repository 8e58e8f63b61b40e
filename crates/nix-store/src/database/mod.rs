//! The database of a Nix store, read while Nix writes it.
//!
//! Every read is a short transaction of its own, so that Nix's checkpoints are never held back for long. Nothing is written,
//! and the file is not taken for immutable: its write-ahead log is read as well.

mod closure;
mod open;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use firn_nix::StorePath;
use rusqlite::Connection;

pub use open::DbIdentity;

use crate::{Error, Location, PathInfo, Result, Selection, UnreadableRow};

/// The most paths that one question to a [`Database`] answers: some 10 MB, and 0.1 s that a checkpoint of Nix may have to wait.
pub const MAX_PAGE: usize = 10_000;

/// How long a question waits for a lock. Readers of a write-ahead log wait only while it is recovered or truncated; without one
/// (`use-sqlite-wal = false`) they wait for each commit.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The database of a Nix store, opened for reading.
///
/// Rows have ids that grow in the order of their commits, so that "everything after this id" misses nothing: SQLite has one writer
/// at a time and Nix's table is `AUTOINCREMENT`. A path that is deleted and registered again has a new id; one that is only changed
/// (signatures) keeps its own.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
    store_dir: String,
    identity: DbIdentity,
}

impl Database {
    /// Opens the database of a store.
    ///
    /// # Errors
    /// [`Error::NoDatabase`], [`Error::Denied`], [`Error::Schema`], [`Error::Corrupt`], [`Error::Locked`] after 10 s.
    pub fn open(location: &Location) -> Result<Self> {
        open::open(location, BUSY_TIMEOUT)
    }

    /// Returns what the database was when it was opened. Every later read fails with [`Error::Replaced`] if it is another by then.
    #[must_use]
    pub fn identity(&self) -> DbIdentity {
        self.identity
    }

    /// Returns the highest id that was ever given out, 0 in a new database. It never falls, whatever is deleted: if it is below an
    /// id that was seen before, the database was rebuilt.
    pub fn max_id(&self) -> Result<i64> {
        self.read(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'ValidPaths'")?;
            let mut rows = statement.query([])?;
            rows.next()?.map_or(Ok(0), |row| row.get(0))
        })
    }

    /// Returns the valid paths with ids above `after_id`, in the order of ids; at most `limit`, and at most [`MAX_PAGE`].
    ///
    /// An empty selection is the end. Go on after [`Selection::last_id`], which counts unreadable rows as well. Within one
    /// registration of Nix's, referrers may come before their references.
    pub fn valid_after(&self, after_id: i64, limit: usize) -> Result<Selection> {
        let limit = limit.min(MAX_PAGE);
        self.read(|connection| rows::page(connection, &self.store_dir, after_id, limit))
    }

    /// Returns the same as [`Self::valid_after`]: with `after_id` 0, and then the last id of each page, it is all that is valid.
    pub fn all(&self, after_id: i64, limit: usize) -> Result<Selection> {
        self.valid_after(after_id, limit)
    }

    /// Returns what is known of a path, or `None` if it is not valid.
    pub fn info(&self, path: &StorePath) -> Result<Option<PathInfo>> {
        let mut found = self.infos(std::slice::from_ref(path))?;
        match (found.paths.pop(), found.unreadable.pop()) {
            (Some(info), _) => Ok(Some(info)),
            (None, Some(row)) => Err(Error::UnreadableRow { path: self.path.clone(), row }),
            (None, None) => Ok(None),
        }
    }

    /// Returns what is known of paths, in no particular order, each once however often it is named. There is no limit; every few
    /// hundred paths are a transaction of their own.
    pub fn infos(&self, paths: &[StorePath]) -> Result<Selection> {
        let mut all = Selection::default();
        for batch in paths.chunks(rows::BATCH) {
            self.read(|connection| rows::named(connection, &self.store_dir, batch, &mut all))?;
        }
        closure::keep_first_of_each(&mut all);
        Ok(all)
    }

    /// Returns the closure of paths: them and all that they refer to, references before their referrers, otherwise in the order of
    /// `paths` and of references.
    ///
    /// Of cycles, which Nix does not allow, one reference is out of order. What is deleted in between is `absent`.
    pub fn closure(&self, paths: &[StorePath]) -> Result<Selection> {
        closure::of(self, paths)
    }

    /// Returns the outputs of a derivation by their names, whether they are valid or not. There are none where Nix doesn't know them
    /// before they are built: of derivations that are addressed by their contents, and of what is no derivation.
    pub fn outputs(&self, derivation: &StorePath) -> Result<BTreeMap<String, StorePath>> {
        let mut outputs = BTreeMap::new();
        for (name, text) in
            self.read(|connection| rows::outputs(connection, &derivation.to_absolute(&self.store_dir)))?
        {
            let path = StorePath::parse_absolute(&text, &self.store_dir).map_err(|error| Error::UnreadableRow {
                path: self.path.clone(),
                row: UnreadableRow { id: 0, path: text.clone(), why: format!("it is no store path: {error}") },
            })?;
            outputs.insert(name, path);
        }
        Ok(outputs)
    }

    /// Reads in one transaction, of the file that was opened and no other.
    fn read<T>(&self, question: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        if open::look_at(&self.path)?.is_none_or(|file| !file.is(&self.identity)) {
            return Err(Error::Replaced { path: self.path.clone() });
        }
        let answer = self.connection.unchecked_transaction().and_then(|transaction| {
            let answer = question(&transaction)?;
            transaction.commit()?;
            Ok(answer)
        });
        answer.map_err(|source| open::explain(&self.path, source))
    }
}
