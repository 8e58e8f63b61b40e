//! A source's path into a cache, by the same steps as an upload: the NAR is stored, restored once and compared, then the path is committed.

use std::io::{self, Write};

use firn_chunk::Input;
use firn_engine::{Engine, Ingest, PathOutcome, PathUpload};
use firn_index::Uploader;
use firn_nix::StorePath;
use firn_nix_store::PathInfo;

use super::peer::{NarError, SyncError};
use crate::app::App;
use crate::caches::Cache;

/// Where paths go, and under whose name.
pub(super) struct Intake<'a> {
    pub(super) engine: &'a Engine,
    /// The server that has to hear of it, if one runs.
    pub(super) app: Option<&'a App>,
    pub(super) cache: &'a Cache,
    pub(super) builder: &'a str,
}

/// Why a path did not come.
#[derive(Debug)]
pub(super) enum Failed {
    /// It is gone from the source.
    Gone(String),
    /// It won't come, however often it is tried.
    Refused(String),
    /// It may come another time.
    Broken(String),
    /// The connection was lost.
    Lost(String),
    /// Nothing can be stored.
    Fatal(SyncError),
}

impl From<NarError> for Failed {
    fn from(error: NarError) -> Self {
        match error {
            NarError::Gone(why) => Self::Gone(why),
            NarError::Broken(why) => Self::Broken(why),
            NarError::Lost(why) => Self::Lost(why),
        }
    }
}

impl From<firn_engine::Error> for Failed {
    fn from(error: firn_engine::Error) -> Self {
        use firn_engine::Error as E;
        let text = crate::error_chain(&error);
        match error {
            E::Nar(_) | E::Damaged { .. } => Self::Broken(text),
            E::Refused(_) | E::MissingReferences(_) => Self::Broken(text),
            E::TooLarge { .. } | E::ForeignReferences(_) | E::WrongNar { .. } => Self::Refused(text),
            _ => Self::Fatal(SyncError::Store(text)),
        }
    }
}

impl From<firn_index::Error> for Failed {
    fn from(error: firn_index::Error) -> Self {
        firn_engine::Error::from(error).into()
    }
}

impl Intake<'_> {
    /// Returns whether the cache has a path that can be had.
    pub(super) fn has(&self, path: &StorePath) -> Result<bool, SyncError> {
        let meta = self.engine.meta();
        let Some(row) = meta.path(&self.cache.name, &path.hash())? else { return Ok(false) };
        self.has_nar(&row.nar_hash).map_err(|error| match error {
            Failed::Fatal(error) => error,
            other => SyncError::Store(format!("{other:?}")),
        })
    }

    fn has_nar(&self, hash: &firn_nix::Sha256) -> Result<bool, Failed> {
        match self.engine.meta().nar(&self.cache.name, hash)? {
            Some(nar) => Ok(self.engine.is_restorable(&nar.recipe)?),
            None => Ok(false),
        }
    }

    /// Takes a path; `fetch` writes its NAR if that is not known. `elsewhere` are references that an upstream signed.
    pub(super) fn take(
        &self,
        info: &PathInfo,
        elsewhere: &[StorePath],
        fetch: &mut dyn FnMut(&mut dyn Write) -> Result<(), NarError>,
    ) -> Result<(), Failed> {
        if !self.has_nar(&info.nar_hash)? {
            self.nar(info, fetch)?;
        }
        let row = &self.cache.row;
        let mut signatures = self.cache.sign(&info.fingerprint(&row.store_dir));
        // Nix refuses a narinfo with a malformed one.
        signatures.extend(info.signatures.iter().filter(|text| text.parse::<firn_nix::Signature>().is_ok()).cloned());
        let upload = PathUpload {
            path: info.path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.clone(),
            elsewhere: info.references.iter().filter(|path| elsewhere.contains(path)).cloned().collect(),
            deriver: info.deriver.clone(),
            ca: info.ca.clone(),
            signatures,
            uploader: Uploader { token: None, builder: self.builder.to_owned() },
            address: None,
            on_conflict: row.on_conflict,
            references_policy: row.references,
        };
        let outcome = self.engine.commit_path(&self.cache.name, upload)?;
        if let Some(app) = self.app {
            app.http.forget_path(&self.cache.name, &info.path.hash());
            app.usage.counters.of(&self.cache.name, self.builder).outcome(outcome, info.nar_size);
        }
        match outcome {
            PathOutcome::Created | PathOutcome::Merged => Ok(()),
            PathOutcome::KeptFirst | PathOutcome::Rejected => {
                Err(Failed::Refused("the cache has this path with another NAR, which stays".to_owned()))
            }
        }
    }

    fn nar(
        &self,
        info: &PathInfo,
        fetch: &mut dyn FnMut(&mut dyn Write) -> Result<(), NarError>,
    ) -> Result<(), Failed> {
        let mut sink = Sink { ingest: self.engine.ingest(Input::Nar)?, failed: None };
        let fetched = fetch(&mut sink);
        if let Some(error) = sink.failed {
            return Err(error.into());
        }
        fetched?;
        let ingested = sink.ingest.finish()?;
        if ingested.nar_hash != info.nar_hash || ingested.length != info.nar_size {
            return Err(Failed::Broken(format!(
                "its NAR is sha256:{} of {} bytes, and the source says sha256:{} of {}",
                ingested.nar_hash.to_nix32(),
                ingested.length,
                info.nar_hash.to_nix32(),
                info.nar_size
            )));
        }
        Ok(self.engine.commit_nar(&self.cache.name, ingested, None)?)
    }
}

/// Writes to an ingest, and keeps its error apart.
struct Sink {
    ingest: Ingest,
    failed: Option<firn_engine::Error>,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.ingest.write(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(error) => {
                let text = error.to_string();
                self.failed.get_or_insert(error);
                Err(io::Error::other(text))
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
