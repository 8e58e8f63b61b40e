//! Files to a cache's paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};

use firn_chunk::Input;
use firn_engine::{Engine, PathOutcome, PathUpload};
use firn_index::{AliasRow, CacheName, Uploader};
use firn_nix::{CacheInfo, MAX_NARINFO_LEN, NarInfo, StoreHash, StorePath};
use serde::{Deserialize, Serialize};

use super::{FileCacheError, MAX_NAMED, PIECE_BYTES, Selection, io_error};
use crate::caches::{Cache, Caches};
use crate::error_chain;
use crate::http::codec::{Codec, decoder};

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Paths that came.
    pub paths: u64,
    /// Paths that the cache had.
    pub present: u64,
    /// NAR bytes of the paths that came.
    pub logical_bytes: u64,
    /// Paths that could not be taken.
    pub refused: u64,
    /// Why, of the first ones.
    pub reasons: Vec<String>,
}

/// Takes in the paths of a folder that stock Nix, or [`export`](super::export), wrote. One that can't be taken is said
/// so, and the others are.
///
/// Everything is checked as at an upload: each NAR against its hash and length, references by the cache's policy,
/// signatures if the cache demands some. The cache's own keys sign.
pub fn import(
    engine: &Engine,
    name: &CacheName,
    selection: &Selection,
    root: &Path,
) -> Result<Imported, FileCacheError> {
    let caches = Caches::load(engine.meta())?;
    let cache = caches.get(name).ok_or_else(|| FileCacheError::NoSuchCache(name.clone()))?;
    check_info(root, &cache.row.store_dir)?;
    let mut import = Import { engine, cache: &cache, root, done: Imported::default() };
    for hash in import.order(selection)? {
        match import.path(&hash) {
            Ok(()) => {}
            Err(FileCacheError::Invalid { path, detail }) => import.refuse(format!("{}: {detail}", path.display())),
            Err(error) => return Err(error),
        }
    }
    Ok(import.done)
}

fn check_info(root: &Path, wanted: &str) -> Result<(), FileCacheError> {
    let path = root.join("nix-cache-info");
    let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    let info: CacheInfo =
        text.parse().map_err(|error: firn_nix::Error| FileCacheError::Invalid { path, detail: error.to_string() })?;
    match info.store_dir {
        Some(found) if found != wanted => {
            Err(FileCacheError::StoreDir { path: root.to_owned(), found, wanted: wanted.to_owned() })
        }
        _ => Ok(()),
    }
}

struct Import<'a> {
    engine: &'a Engine,
    cache: &'a Cache,
    root: &'a Path,
    done: Imported,
}

impl Import<'_> {
    /// Returns the paths that are meant, each after what it refers to. Takes about 100 bytes for each reference.
    fn order(&mut self, selection: &Selection) -> Result<Vec<StoreHash>, FileCacheError> {
        let mut graph: BTreeMap<StoreHash, Vec<StoreHash>> = BTreeMap::new();
        let entries = fs::read_dir(self.root).map_err(io_error("list the folder", self.root))?;
        for entry in entries {
            let name = entry.map_err(io_error("list the folder", self.root))?.file_name();
            let hash = name.to_str().and_then(|name| name.strip_suffix(".narinfo")?.parse::<StoreHash>().ok());
            let Some(hash) = hash else { continue };
            match self.narinfo(&hash) {
                Ok(info) => _ = graph.insert(hash, info.references.iter().map(StorePath::hash).collect()),
                Err(FileCacheError::Invalid { path, detail }) => {
                    self.refuse(format!("{}: {detail}", path.display()));
                }
                Err(error) => return Err(error),
            }
        }
        let roots: Vec<StoreHash> = match selection {
            Selection::All => graph.keys().copied().collect(),
            Selection::Closure(roots) => roots.clone(),
        };
        if let Some(path) = roots.iter().find(|hash| !graph.contains_key(*hash)) {
            return Err(FileCacheError::NoSuchPath { path: *path, place: self.root.display().to_string() });
        }
        Ok(sorted(&graph, &roots))
    }

    fn narinfo(&self, hash: &StoreHash) -> Result<NarInfo, FileCacheError> {
        let path = self.root.join(format!("{hash}.narinfo"));
        let mut text = Vec::new();
        let file = File::open(&path).map_err(io_error("open", &path))?;
        file.take(MAX_NARINFO_LEN as u64 + 1).read_to_end(&mut text).map_err(io_error("read", &path))?;
        let info = NarInfo::parse(&text, &self.cache.row.store_dir);
        let info = info.map_err(|error| FileCacheError::Invalid { path: path.clone(), detail: error_chain(&error) })?;
        if info.store_path.hash() != *hash {
            let detail = format!("it is that of {}", info.store_path);
            return Err(FileCacheError::Invalid { path, detail });
        }
        Ok(info)
    }

    fn path(&mut self, hash: &StoreHash) -> Result<(), FileCacheError> {
        let info = self.narinfo(hash)?;
        let invalid =
            |detail: String| FileCacheError::Invalid { path: self.root.join(format!("{hash}.narinfo")), detail };
        let Cache { row, trusted, .. } = self.cache;
        if !trusted.is_empty() && !trusted.iter().any(|key| info.is_signed_by(key, &row.store_dir)) {
            return Err(invalid(format!("the cache wants a signature by one of {}", row.trusted_keys.join(" "))));
        }
        let mut signatures = self.cache.sign(&info.fingerprint(&row.store_dir));
        signatures.extend(info.signatures.iter().map(ToString::to_string));
        let has_nar = self.has_nar(&info)?;
        let known = self.engine.meta().path(&self.cache.name, hash)?;
        let is_known = has_nar && known.as_ref().is_some_and(|known| known.nar_hash == info.nar_hash);
        if is_known && signatures.iter().all(|own| known.iter().any(|row| row.signatures.contains(own))) {
            self.done.present += 1;
            return Ok(());
        }
        if !has_nar {
            self.nar(&info)?;
        }
        let upload = PathUpload {
            path: info.store_path.clone(),
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.iter().cloned().collect(),
            elsewhere: Vec::new(),
            deriver: info.deriver.clone(),
            ca: info.ca.as_ref().map(|ca| ca.as_str().to_owned()),
            signatures,
            uploader: Uploader { token: None, builder: "import".to_owned() },
            address: None,
            on_conflict: row.on_conflict,
            references_policy: row.references,
        };
        use firn_engine::Error::{Damaged, ForeignReferences, MissingReferences, Refused, WrongNar};
        match self.engine.commit_path(&self.cache.name, upload) {
            Ok(PathOutcome::Created) => {
                self.done.paths += 1;
                self.done.logical_bytes += info.nar_size;
                Ok(())
            }
            Ok(PathOutcome::Merged) => {
                self.done.present += 1;
                Ok(())
            }
            Ok(PathOutcome::KeptFirst | PathOutcome::Rejected) => {
                Err(invalid("the cache has this path with another NAR, which stays".to_owned()))
            }
            Err(
                error @ (Damaged { .. } | ForeignReferences(_) | MissingReferences(_) | Refused(_) | WrongNar { .. }),
            ) => Err(invalid(error_chain(&error))),
            Err(error) => Err(error.into()),
        }
    }

    fn has_nar(&self, info: &NarInfo) -> Result<bool, FileCacheError> {
        let nar = self.engine.meta().nar(&self.cache.name, &info.nar_hash)?;
        Ok(match nar {
            Some(nar) => nar.nar_size == info.nar_size && self.engine.is_restorable(&nar.recipe)?,
            None => false,
        })
    }

    /// Takes a NAR in, under the name of its file.
    fn nar(&self, info: &NarInfo) -> Result<(), FileCacheError> {
        let path = self.root.join(relative(&info.url).ok_or_else(|| FileCacheError::Invalid {
            path: self.root.join(format!("{}.narinfo", info.store_path.hash())),
            detail: format!("its URL {} leads out of the folder", info.url),
        })?);
        let invalid = |detail: String| FileCacheError::Invalid { path: path.clone(), detail };
        let codec = Codec::from_name(&info.compression.to_string()).map_err(|error| invalid(error.to_string()))?;
        let file = File::open(&path).map_err(|error| invalid(error.to_string()))?;
        let file_size = file.metadata().map_err(io_error("look at", &path))?.len();
        let mut from = decoder(codec, BufReader::with_capacity(PIECE_BYTES, file)).map_err(io_error("read", &path))?;
        let mut ingest = self.engine.ingest(Input::Nar)?;
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let len = from.read(&mut buffer).map_err(|error| invalid(error.to_string()))?;
            let Some(piece) = buffer.get(..len).filter(|piece| !piece.is_empty()) else { break };
            match ingest.write(piece) {
                Err(error @ (firn_engine::Error::Nar(_) | firn_engine::Error::TooLarge { .. })) => {
                    return Err(invalid(error_chain(&error)));
                }
                other => other?,
            }
        }
        let ingested = match ingest.finish() {
            Err(error @ firn_engine::Error::Nar(_)) => return Err(invalid(error_chain(&error))),
            other => other?,
        };
        if ingested.nar_hash != info.nar_hash || ingested.length != info.nar_size {
            let found = format!("its NAR is sha256:{} of {} bytes", ingested.nar_hash.to_nix32(), ingested.length);
            return Err(invalid(format!("{found}, and its narinfo says another")));
        }
        let alias = info.url.strip_prefix("nar/").filter(|name| !name.contains(['/', '?', '#'])).map(|name| {
            let compression = codec.name().to_owned();
            (name.to_owned(), AliasRow { nar_hash: info.nar_hash, compression, file_size })
        });
        Ok(self.engine.commit_nar(&self.cache.name, ingested, alias)?)
    }

    fn refuse(&mut self, reason: String) {
        self.done.refused += 1;
        if self.done.reasons.len() < MAX_NAMED {
            self.done.reasons.push(reason);
        }
    }
}

/// Returns a URL as a path below the folder; `None` if it leads elsewhere.
pub(crate) fn relative(url: &str) -> Option<PathBuf> {
    let path = PathBuf::from(url.split(['?', '#']).next()?);
    path.components().all(|part| matches!(part, Component::Normal(_))).then_some(path)
}

/// Returns the roots with all that they refer to, as far as it is there, each after what it refers to.
fn sorted(graph: &BTreeMap<StoreHash, Vec<StoreHash>>, roots: &[StoreHash]) -> Vec<StoreHash> {
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for root in roots {
        // The second time that one comes to the top, all that it refers to is in the order.
        let mut todo = vec![(*root, false)];
        while let Some((hash, is_ready)) = todo.pop() {
            let Some(references) = graph.get(&hash) else { continue };
            if is_ready {
                order.push(hash);
            } else if seen.insert(hash) {
                todo.push((hash, true));
                todo.extend(
                    references.iter().filter(|reference| !seen.contains(*reference)).map(|hash| (*hash, false)),
                );
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(byte: u8) -> StoreHash {
        StoreHash([byte; 20])
    }

    #[test]
    fn references_come_first_and_each_path_once() {
        let edges = [(1, vec![1, 2, 3]), (2, vec![4]), (3, vec![4, 9]), (4, vec![]), (5, vec![2])];
        let graph = edges.iter().map(|(of, to)| (hash(*of), to.iter().map(|to| hash(*to)).collect())).collect();
        let order = sorted(&graph, &[hash(1)]);
        assert_eq!(order.len(), 4);
        let at = |byte| order.iter().position(|found| *found == hash(byte)).expect("it is in the closure");
        assert!(at(4) < at(2) && at(4) < at(3) && at(2) < at(1) && at(3) < at(1));
        assert_eq!(sorted(&graph, &(1..=5).map(hash).collect::<Vec<_>>()).len(), 5);
    }

    #[test]
    fn no_url_leads_out() {
        assert_eq!(relative("nar/x.nar.xz?a=/.."), Some(PathBuf::from("nar/x.nar.xz")));
        for bad in ["/etc/passwd", "../x", "nar/../../x"] {
            assert_eq!(relative(bad), None, "{bad}");
        }
    }
}
