//! Caches to files and files to caches, by a running server or without one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::execute::Admin;
use super::{Answer, Failure};
use crate::error_chain;
use crate::file_cache::{self, Compression, FileCacheError, Selection};

/// What of a cache is to be written, or read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesRequest {
    /// The cache.
    pub cache: String,
    /// Which paths.
    pub selection: Selection,
    /// The folder, from the root on: a server stands elsewhere than who asks.
    pub dir: String,
}

impl From<FileCacheError> for Failure {
    fn from(error: FileCacheError) -> Self {
        let detail = error_chain(&error);
        match error {
            FileCacheError::NoSuchCache(name) => Self::NoSuchCache { name: name.to_string() },
            FileCacheError::NoSuchPath { .. } => Self::NotThere { detail },
            FileCacheError::StoreDir { .. } | FileCacheError::Invalid { .. } => Self::Invalid { detail },
            FileCacheError::Ended => Self::Busy { detail },
            FileCacheError::Io { .. } | FileCacheError::Engine(_) | FileCacheError::Failed { .. } => {
                Self::Store { detail }
            }
        }
    }
}

impl Admin<'_> {
    /// Writes files.
    pub(super) fn export(&self, asked: &FilesRequest, compression: Compression) -> Result<Answer, Failure> {
        let ((name, _), dir) = (self.find_cache(&asked.cache)?, folder(asked)?);
        let engine = self.engine()?;
        self.alone(|goes_on| {
            file_cache::export(engine, &name, &asked.selection, compression, &dir, goes_on).map(Answer::Exported)
        })
    }

    /// Reads files.
    pub(super) fn import(&self, asked: &FilesRequest) -> Result<Answer, Failure> {
        let ((name, _), dir) = (self.find_cache(&asked.cache)?, folder(asked)?);
        let engine = self.engine()?;
        self.alone(|goes_on| {
            file_cache::import(engine, self.app, &name, &asked.selection, &dir, goes_on).map(Answer::Imported)
        })
    }

    /// Does one thing with files at a time, as long as the server runs.
    fn alone<W>(&self, work: W) -> Result<Answer, Failure>
    where
        W: FnOnce(&dyn Fn() -> bool) -> Result<Answer, FileCacheError>,
    {
        let Some(app) = self.app else { return Ok(work(&|| true)?) };
        let Some(_turn) = app.files.take() else {
            let detail = "use files: the server writes or reads another cache as files; try again when it is done";
            return Err(Failure::Busy { detail: detail.to_owned() });
        };
        Ok(work(&|| app.files.goes_on())?)
    }
}

fn folder(asked: &FilesRequest) -> Result<PathBuf, Failure> {
    let path = Path::new(&asked.dir);
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    Err(Failure::Invalid { detail: format!("use the folder '{}': give it from the root on", asked.dir) })
}
