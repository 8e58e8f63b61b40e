//! A binary cache in a folder: narinfos by the time of their last change.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write};
use std::path::Path;

use firn_index::SourceCursor;
use firn_nix::{NarInfo, StoreHash, StorePath};
use firn_nix_store::{PathInfo, Selection, UnreadableRow};

use super::peer::{Listing, NarError, Peer, SyncError, source_error, steps_by_time};
use super::seen::Seen;
use crate::file_cache::{FileCacheError, Folder, path_info};

/// How far back is looked beyond the last look, in seconds: a file that is renamed into place keeps the time of its last byte.
const OVERLAP: u64 = 300;

/// Narinfos that are kept in memory between what is asked of a path and its NAR.
const KEPT: usize = 4000;

pub(super) struct FileCache {
    folder: Folder,
    /// What was read of late.
    infos: BTreeMap<StoreHash, NarInfo>,
    metadata_bytes: u64,
}

impl FileCache {
    pub(super) fn open(root: &Path, store_dir: &str) -> Result<Self, SyncError> {
        let folder = Folder::open(root, store_dir).map_err(|error| source_error(&error))?;
        Ok(Self { folder, infos: BTreeMap::new(), metadata_bytes: 0 })
    }

    /// Reads a narinfo; `None` if there is none.
    fn narinfo(&mut self, hash: &StoreHash) -> Result<Option<NarInfo>, FileCacheError> {
        if let Some(info) = self.infos.get(hash) {
            return Ok(Some(info.clone()));
        }
        let Some((info, bytes)) = self.folder.narinfo(hash)? else { return Ok(None) };
        self.metadata_bytes += bytes;
        if self.infos.len() >= KEPT {
            self.infos.clear();
        }
        self.infos.insert(*hash, info.clone());
        Ok(Some(info))
    }
}

impl Peer for FileCache {
    fn list(&mut self, since: Option<&SourceCursor>, _seen: &Seen) -> Result<Listing, SyncError> {
        let after = match since {
            Some(SourceCursor::Time(at)) => at.saturating_sub(OVERLAP),
            _ => 0,
        };
        let found = self.folder.narinfos().map_err(|error| source_error(&error))?;
        let newest = found.iter().map(|(_, changed)| *changed).fold(after, u64::max);
        let mut paths = Vec::new();
        for (hash, changed) in found.into_iter().filter(|(_, changed)| *changed >= after) {
            match self.narinfo(&hash) {
                Ok(Some(info)) => paths.push((changed, info.store_path)),
                Ok(None) => {}
                Err(FileCacheError::Invalid { detail, .. }) => {
                    tracing::warn!(%hash, why = detail, "a narinfo of a source can't be read");
                }
                Err(error) => return Err(source_error(&error)),
            }
        }
        Ok(Listing { steps: steps_by_time(paths, newest), seen: None })
    }

    fn infos(&mut self, paths: &[StorePath]) -> Result<Selection, SyncError> {
        let mut all = Selection::default();
        for path in paths {
            match self.narinfo(&path.hash()) {
                Ok(Some(info)) if info.store_path == *path => all.paths.push(path_info(&info)),
                Ok(_) => all.absent.push(path.clone()),
                Err(FileCacheError::Invalid { detail: why, .. }) => {
                    all.unreadable.push(UnreadableRow { id: 0, path: path.to_string(), why });
                }
                Err(error) => return Err(source_error(&error)),
            }
        }
        Ok(all)
    }

    fn keep(&mut self, _path: &StorePath) -> Result<(), NarError> {
        Ok(())
    }

    fn nar(&mut self, info: &PathInfo, out: &mut dyn Write) -> Result<(), NarError> {
        let broken = |error: FileCacheError| NarError::Broken(crate::error_chain(&error));
        let narinfo = self.narinfo(&info.path.hash()).map_err(broken)?;
        let narinfo = narinfo.ok_or_else(|| NarError::Gone("its narinfo is gone".to_owned()))?;
        let file = self.folder.nar(&narinfo).map_err(broken)?;
        let file = file.ok_or_else(|| NarError::Gone("the file of its NAR is gone".to_owned()))?;
        // One byte more tells a NAR that is too long.
        let mut nar = file.nar.take(info.nar_size.saturating_add(1));
        io::copy(&mut nar, out).map_err(|error| NarError::Broken(error.to_string()))?;
        Ok(())
    }

    fn metadata_bytes(&self) -> u64 {
        self.metadata_bytes
    }
}
