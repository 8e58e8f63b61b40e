//! A binary cache in a folder: narinfos by the time of their last change.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::time::UNIX_EPOCH;

use firn_index::SourceCursor;
use firn_nix::{CacheInfo, MAX_NARINFO_LEN, NarInfo, StoreHash, StorePath};
use firn_nix_store::{PathInfo, Selection, UnreadableRow};

use super::peer::{Listing, NarError, Peer, SyncError, steps_by_time};
use super::seen::Seen;
use crate::file_cache::relative;
use crate::http::codec::{Codec, decoder};

/// How far back is looked beyond the last look, in seconds: a file that is renamed into place keeps the time of its last byte.
const OVERLAP: u64 = 300;

/// Narinfos that are kept in memory between what is asked of a path and its NAR.
const KEPT: usize = 4000;

pub(super) struct FileCache {
    root: PathBuf,
    store_dir: String,
    /// What was read of late.
    infos: BTreeMap<StoreHash, NarInfo>,
    metadata_bytes: u64,
}

impl FileCache {
    pub(super) fn open(root: &std::path::Path, store_dir: &str) -> Result<Self, SyncError> {
        let path = root.join("nix-cache-info");
        let fail = |why: String| SyncError::Source(format!("read {}: {why}", path.display()));
        let text = fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        let info: CacheInfo = text.parse().map_err(|error: firn_nix::Error| fail(error.to_string()))?;
        check_store_dir(&info, store_dir, &root.display().to_string())?;
        Ok(Self { root: root.to_owned(), store_dir: store_dir.to_owned(), infos: BTreeMap::new(), metadata_bytes: 0 })
    }

    /// Reads a narinfo; `None` if there is none.
    fn narinfo(&mut self, hash: &StoreHash) -> io::Result<Option<Result<NarInfo, String>>> {
        if let Some(info) = self.infos.get(hash) {
            return Ok(Some(Ok(info.clone())));
        }
        let file = match File::open(self.root.join(format!("{hash}.narinfo"))) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_NARINFO_LEN as u64 + 1).read_to_end(&mut text)?;
        self.metadata_bytes += text.len() as u64;
        let parsed = NarInfo::parse(&text, &self.store_dir).map_err(|error| crate::error_chain(&error));
        let parsed = parsed.and_then(|info| {
            let own = info.store_path.hash() == *hash;
            if own { Ok(info) } else { Err("its narinfo is another path's".to_owned()) }
        });
        if let Ok(info) = &parsed {
            if self.infos.len() >= KEPT {
                self.infos.clear();
            }
            self.infos.insert(*hash, info.clone());
        }
        Ok(Some(parsed))
    }
}

/// Refuses a cache of another store directory.
pub(super) fn check_store_dir(info: &CacheInfo, wanted: &str, what: &str) -> Result<(), SyncError> {
    match &info.store_dir {
        Some(found) if found != wanted => {
            Err(SyncError::Source(format!("use {what}: its store directory is {found}, and the cache's is {wanted}")))
        }
        _ => Ok(()),
    }
}

/// Returns what a narinfo says as a store would.
pub(super) fn path_info(info: &NarInfo) -> PathInfo {
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

impl Peer for FileCache {
    fn list(&mut self, since: Option<&SourceCursor>, _seen: &Seen) -> Result<Listing, SyncError> {
        let after = match since {
            Some(SourceCursor::Time(at)) => at.saturating_sub(OVERLAP),
            _ => 0,
        };
        let root = self.root.clone();
        let fail = |error: io::Error| SyncError::Source(format!("list {}: {error}", root.display()));
        let (mut hashes, mut newest) = (Vec::new(), after);
        for entry in fs::read_dir(&root).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let hash = name.to_str().and_then(|name| name.strip_suffix(".narinfo")?.parse::<StoreHash>().ok());
            let Some(hash) = hash else { continue };
            let changed = match entry.metadata().and_then(|metadata| metadata.modified()) {
                Ok(changed) => changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
                // It was deleted in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(fail(error)),
            };
            newest = newest.max(changed);
            if changed >= after {
                hashes.push((changed, hash));
            }
        }
        let mut paths = Vec::new();
        for (changed, hash) in hashes {
            match self.narinfo(&hash).map_err(fail)? {
                Some(Ok(info)) => paths.push((changed, info.store_path)),
                Some(Err(why)) => tracing::warn!(%hash, why, "a narinfo of a source can't be read"),
                None => {}
            }
        }
        Ok(Listing { steps: steps_by_time(paths, newest), seen: None })
    }

    fn infos(&mut self, paths: &[StorePath]) -> Result<Selection, SyncError> {
        let mut all = Selection::default();
        for path in paths {
            match self.narinfo(&path.hash()) {
                Ok(Some(Ok(info))) if info.store_path == *path => all.paths.push(path_info(&info)),
                Ok(None) | Ok(Some(Ok(_))) => all.absent.push(path.clone()),
                Ok(Some(Err(why))) => all.unreadable.push(UnreadableRow { id: 0, path: path.to_string(), why }),
                Err(error) => return Err(SyncError::Source(format!("read the narinfo of {path}: {error}"))),
            }
        }
        Ok(all)
    }

    fn keep(&mut self, _path: &StorePath) -> Result<(), NarError> {
        Ok(())
    }

    fn nar(&mut self, info: &PathInfo, out: &mut dyn Write) -> Result<(), NarError> {
        let broken = |why: String| NarError::Broken(why);
        let found = self.narinfo(&info.path.hash()).map_err(|error| broken(error.to_string()))?;
        let narinfo = match found {
            Some(found) => found.map_err(broken)?,
            None => return Err(NarError::Gone("its narinfo is gone".to_owned())),
        };
        let Some(name) = relative(&narinfo.url) else {
            return Err(broken(format!("its URL {} leads out of the folder", narinfo.url)));
        };
        let codec = Codec::from_name(narinfo.compression.name()).map_err(|error| broken(error.to_string()))?;
        let file = match File::open(self.root.join(name)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(NarError::Gone("the file of its NAR is gone".to_owned()));
            }
            Err(error) => return Err(broken(error.to_string())),
        };
        let from =
            decoder(codec, BufReader::with_capacity(256 << 10, file)).map_err(|error| broken(error.to_string()))?;
        // One byte more tells a NAR that is too long.
        io::copy(&mut from.take(info.nar_size.saturating_add(1)), out).map_err(|error| broken(error.to_string()))?;
        Ok(())
    }

    fn metadata_bytes(&self) -> u64 {
        self.metadata_bytes
    }
}
