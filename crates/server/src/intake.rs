//! A path into a cache that no upload brings, by the same steps as one: the NAR is stored, restored once and compared, then the path is
//! committed.

use std::io::{self, Write};

use firn_chunk::Input;
use firn_engine::{Engine, Error as EngineError, Ingest, PathOutcome, PathUpload};
use firn_index::{AliasRow, Uploader};
use firn_nix::{NarInfo, Sha256, StorePath};
use firn_nix_store::PathInfo;

use crate::app::App;
use crate::caches::Cache;
use crate::error_chain;

/// Where paths go, and under whose name.
pub(crate) struct Intake<'a> {
    pub(crate) engine: &'a Engine,
    /// The server that has to hear of it, if one runs.
    pub(crate) app: Option<&'a App>,
    pub(crate) cache: &'a Cache,
    pub(crate) builder: &'a str,
}

/// Why a path was not taken.
#[derive(Debug)]
pub(crate) enum NotTaken<E> {
    /// Its NAR did not come.
    Fetch(E),
    /// It won't be taken, however often it is tried.
    Refused(String),
    /// It may be another time.
    Broken(String),
    /// Nothing can be stored.
    Store(EngineError),
}

impl<E> From<EngineError> for NotTaken<E> {
    fn from(error: EngineError) -> Self {
        use EngineError as E;
        match error {
            E::Nar(_) | E::Damaged { .. } | E::Refused(_) | E::MissingReferences(_) => {
                Self::Broken(error_chain(&error))
            }
            E::TooLarge { .. } | E::ForeignReferences(_) | E::WrongNar { .. } => Self::Refused(error_chain(&error)),
            _ => Self::Store(error),
        }
    }
}

impl<E> From<firn_index::Error> for NotTaken<E> {
    fn from(error: firn_index::Error) -> Self {
        EngineError::from(error).into()
    }
}

/// The name under which a NAR's file may be asked for as well.
pub(crate) type Alias = (String, AliasRow);

/// Writes a path's NAR, and tells what else its file is called.
pub(crate) type Fetch<'a, E> = dyn FnMut(&mut dyn Write) -> Result<Option<Alias>, E> + 'a;

impl Intake<'_> {
    /// Returns whether the cache has a path that can be had.
    pub(crate) fn has(&self, path: &StorePath) -> Result<bool, EngineError> {
        match self.engine.meta().path(&self.cache.name, &path.hash())? {
            Some(row) => self.has_nar(&row.nar_hash, row.nar_size),
            None => Ok(false),
        }
    }

    fn has_nar(&self, hash: &Sha256, size: u64) -> Result<bool, EngineError> {
        match self.engine.meta().nar(&self.cache.name, hash)? {
            Some(nar) => Ok(nar.nar_size == size && self.engine.is_restorable(&nar.recipe)?),
            None => Ok(false),
        }
    }

    /// Takes a path; `fetch` is called if its NAR is not known. `elsewhere` are references that an
    /// upstream has. Returns whether the path is new or was there.
    pub(crate) fn take<E>(
        &self,
        info: &PathInfo,
        elsewhere: &[StorePath],
        fetch: &mut Fetch<'_, E>,
    ) -> Result<PathOutcome, NotTaken<E>> {
        let uploader = Uploader { token: None, builder: self.builder.to_owned() };
        let ca = info.ca.as_ref().and_then(|ca| ca.parse().ok());
        let narinfo = NarInfo { ca, ..info.narinfo() };
        let sent: Vec<String> = narinfo.signatures.iter().map(ToString::to_string).collect();
        let upload = PathUpload {
            elsewhere: info.references.iter().filter(|path| elsewhere.contains(path)).cloned().collect(),
            ..self.cache.upload(narinfo, uploader)
        };
        if !self.has_nar(&info.nar_hash, info.nar_size)? {
            self.nar(info, fetch)?;
        } else if self.knows(&upload)? {
            return Ok(PathOutcome::Merged);
        }
        let outcome = self.engine.commit_path(&self.cache.name, upload)?;
        if let Some(app) = self.app {
            app.http.forget_path(&self.cache.name, &info.path.hash());
            app.usage.counters.of(&self.cache.name, self.builder).outcome(outcome, info.nar_size);
        }
        match outcome {
            PathOutcome::Created | PathOutcome::Merged => {
                self.cache.note_left_out(self.engine.meta(), &info.path, &sent);
                Ok(outcome)
            }
            PathOutcome::KeptFirst | PathOutcome::Rejected => Err(NotTaken::Refused(
                "the cache has this path with another NAR or other references, which stay".to_owned(),
            )),
        }
    }

    /// Returns whether the cache has a path with these references and all its signatures.
    fn knows(&self, upload: &PathUpload) -> Result<bool, EngineError> {
        let known = self.engine.meta().path(&self.cache.name, &upload.path.hash())?;
        Ok(known.is_some_and(|known| {
            known.nar_hash == upload.nar_hash
                && known.references == upload.references
                && upload.signatures.iter().all(|signature| known.signatures.contains(signature))
        }))
    }

    fn nar<E>(&self, info: &PathInfo, fetch: &mut Fetch<'_, E>) -> Result<(), NotTaken<E>> {
        let mut sink = Sink { ingest: self.engine.ingest(Input::Nar)?, failed: None };
        let fetched = fetch(&mut sink);
        if let Some(error) = sink.failed {
            return Err(error.into());
        }
        let alias = fetched.map_err(NotTaken::Fetch)?;
        let ingested = sink.ingest.finish()?;
        if ingested.nar_hash != info.nar_hash || ingested.length != info.nar_size {
            return Err(NotTaken::Broken(format!(
                "its NAR is sha256:{} of {} bytes, and should be sha256:{} of {}",
                ingested.nar_hash.to_nix32(),
                ingested.length,
                info.nar_hash.to_nix32(),
                info.nar_size
            )));
        }
        Ok(self.engine.commit_nar(&self.cache.name, ingested, alias)?)
    }
}

/// Writes to an ingest, and keeps its error apart.
struct Sink {
    ingest: Ingest,
    failed: Option<EngineError>,
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
