//! Files to a cache's paths.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write};
use std::path::Path;

use firn_engine::{Engine, PathOutcome};
use firn_index::{AliasRow, CacheName, DocumentKey, DocumentKind, Uploader};
use firn_nix::{NarInfo, StoreHash, StorePath};
use serde::{Deserialize, Serialize};

use super::documents::{listed, open, read};
use super::{DocumentCounts, FileCacheError, Folder, MAX_NAMED, PIECE_BYTES, Selection, path_info};
use crate::app::App;
use crate::caches::{Cache, Caches};
use crate::http::documents;
use crate::http::error::{After, Problem};
use crate::intake::{Alias, Intake, NotTaken};

/// What was read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imported {
    /// Paths that came.
    pub paths: u64,
    /// Paths that the cache had.
    pub present: u64,
    /// Paths that the cache had, whose NAR was damaged and is whole again.
    #[serde(default)]
    pub repaired: u64,
    /// NAR bytes of the paths that came.
    pub logical_bytes: u64,
    /// Documents that came, or to which signatures were added.
    #[serde(default)]
    pub documents: DocumentCounts,
    /// Paths and documents that could not be taken.
    pub refused: u64,
    /// Why, of the first ones.
    pub reasons: Vec<String>,
}

/// Takes in the paths of a folder that stock Nix, or [`export`](super::export), wrote. One that can't be taken is said
/// so, and the others are.
///
/// Everything is checked as at an upload: each NAR against its hash and length, references by the cache's policy,
/// signatures if the cache demands some. The cache's own keys sign. `app` is the server that has to hear of it, if one runs. It
/// ends when `goes_on` says so.
///
/// # Errors
/// [`FileCacheError`]. Paths that were taken by then stay.
pub fn import(
    engine: &Engine,
    app: Option<&App>,
    name: &CacheName,
    selection: &Selection,
    root: &Path,
    goes_on: &dyn Fn() -> bool,
) -> Result<Imported, FileCacheError> {
    let caches = Caches::load(engine.meta())?;
    let cache = caches.get(name).ok_or_else(|| FileCacheError::NoSuchCache(name.clone()))?;
    let folder = Folder::open(root, &cache.row.store_dir)?;
    let intake = Intake { engine, app, cache: &cache, builder: "import" };
    let taken = (*selection != Selection::All).then(Taken::default);
    let mut import = Import { intake, folder: &folder, root, goes_on, done: Imported::default(), taken };
    for hash in import.order(selection)? {
        let taken = import.path(&hash);
        import.noted(taken)?;
    }
    // A realisation is taken once its path is there.
    for (key, path) in listed(root)? {
        let taken = import.document(key, &path);
        import.noted(taken)?;
    }
    Ok(import.done)
}

struct Import<'a> {
    intake: Intake<'a>,
    folder: &'a Folder,
    root: &'a Path,
    goes_on: &'a dyn Fn() -> bool,
    done: Imported,
    /// Unless all is asked for.
    taken: Option<Taken>,
}

/// What tells which documents belong to the paths that were asked for.
#[derive(Default)]
struct Taken {
    paths: BTreeSet<StoreHash>,
    derivers: BTreeSet<StoreHash>,
    urls: BTreeSet<String>,
}

impl Import<'_> {
    /// Returns the paths that are meant, each after what it refers to. Takes about 100 bytes for each reference.
    fn order(&mut self, selection: &Selection) -> Result<Vec<StoreHash>, FileCacheError> {
        let mut graph: BTreeMap<StoreHash, Vec<StoreHash>> = BTreeMap::new();
        for (hash, _) in self.folder.narinfos()? {
            match self.folder.narinfo(&hash) {
                Ok(Some((info, _))) => {
                    graph.insert(hash, info.references.iter().map(StorePath::hash).collect());
                }
                Ok(None) => {}
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

    fn path(&mut self, hash: &StoreHash) -> Result<(), FileCacheError> {
        let invalid = |detail: String| FileCacheError::Invalid { path: self.folder.narinfo_path(hash), detail };
        if !(self.goes_on)() {
            return Err(FileCacheError::Ended);
        }
        let (info, _) = self.folder.narinfo(hash)?.ok_or_else(|| invalid("it is gone".to_owned()))?;
        let Cache { row, trusted, .. } = self.intake.cache;
        if !trusted.is_empty() && !trusted.iter().any(|key| info.is_signed_by(key, &row.store_dir)) {
            return Err(invalid(format!("the cache wants a signature by one of {}", row.trusted_keys.join(" "))));
        }
        let mut is_read = false;
        let taken = self.intake.take(&path_info(&info), &[], &mut |to| {
            is_read = true;
            self.nar(&info, to)
        });
        match taken {
            Ok(PathOutcome::Created) => {
                self.done.paths += 1;
                self.done.logical_bytes += info.nar_size;
            }
            // Its NAR could not be had.
            Ok(_) if is_read => self.done.repaired += 1,
            Ok(_) => self.done.present += 1,
            Err(NotTaken::Refused(why) | NotTaken::Broken(why)) => return Err(invalid(why)),
            Err(NotTaken::Fetch(error)) => return Err(error),
            Err(NotTaken::Store(error)) => return Err(error.into()),
        }
        if let Some(taken) = &mut self.taken {
            taken.paths.insert(*hash);
            taken.derivers.extend(info.deriver.iter().map(StorePath::hash));
            taken.urls.insert(info.url);
        }
        Ok(())
    }

    /// Takes a document by the checks of an upload, if its path is asked for.
    fn document(&mut self, key: DocumentKey, path: &Path) -> Result<(), FileCacheError> {
        if !(self.goes_on)() {
            return Err(FileCacheError::Ended);
        }
        let invalid = |problem: Problem| FileCacheError::Invalid { path: path.to_owned(), detail: problem.to_string() };
        let Intake { engine, app, cache, builder } = self.intake;
        let uploader = Uploader { token: None, builder: builder.to_owned() };
        let kind = key.kind;
        if kind == DocumentKind::Log {
            if self.taken.as_ref().is_some_and(|taken| !taken.has_derivation(&key.name))
                || !self.log(key, path, uploader)?
            {
                return Ok(());
            }
        } else {
            let text = read(path)?;
            if self.taken.as_ref().is_some_and(|taken| !taken.has(&text)) {
                return Ok(());
            }
            match documents::take(engine, app, cache, key, text, &[], uploader) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(Problem::Internal(_) | Problem::StorageFull(_)) => {
                    return Err(FileCacheError::Failed { path: path.to_owned() });
                }
                Err(problem) => return Err(invalid(problem)),
            }
        }
        self.done.documents.count(kind);
        Ok(())
    }

    /// Takes a log, unless the cache has one of this derivation.
    fn log(&self, key: DocumentKey, path: &Path, uploader: Uploader) -> Result<bool, FileCacheError> {
        let Intake { engine, cache, .. } = self.intake;
        if engine.meta().document(&cache.name, &key)?.is_some() {
            return Ok(false);
        }
        let mut file = open(path)?;
        let explain = |error: std::io::Error| Problem::BadDocument(error.to_string());
        let refused = Cell::new(None);
        let refuse = |error: firn_engine::Error| {
            refused.set(Some(error));
            Problem::Internal(After::Body)
        };
        match documents::log_content(engine, &mut file, &explain, &refuse) {
            Ok(content) => engine.commit_document(&cache.name, key, content, uploader)?,
            Err(problem) => match refused.take() {
                Some(error) => return Err(error.into()),
                None => {
                    return Err(FileCacheError::Invalid { path: path.to_owned(), detail: problem.to_string() });
                }
            },
        }
        Ok(true)
    }

    /// Notes what could not be taken; an error of the store stays one.
    fn noted(&mut self, taken: Result<(), FileCacheError>) -> Result<(), FileCacheError> {
        match taken {
            Err(FileCacheError::Invalid { path, detail }) => {
                self.refuse(format!("{}: {detail}", path.display()));
                Ok(())
            }
            other => other,
        }
    }

    /// Writes a NAR, and returns the name of its file.
    fn nar(&self, info: &NarInfo, to: &mut dyn Write) -> Result<Option<Alias>, FileCacheError> {
        let invalid = |detail: String| {
            let path = self.root.join(info.url.trim_start_matches('/'));
            FileCacheError::Invalid { path, detail }
        };
        let file = self.folder.nar(info)?.ok_or_else(|| invalid("it is not there".to_owned()))?;
        // One byte more tells a NAR that is too long.
        let mut nar = file.nar.take(info.nar_size.saturating_add(1));
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            if !(self.goes_on)() {
                return Err(FileCacheError::Ended);
            }
            let len = nar.read(&mut piece).map_err(|error| invalid(error.to_string()))?;
            let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else { break };
            to.write_all(bytes).map_err(|error| invalid(error.to_string()))?;
        }
        let name = info.url.strip_prefix("nar/").filter(|name| !name.contains(['/', '?', '#']));
        Ok(name.map(|name| {
            let compression = file.codec.name().to_owned();
            (name.to_owned(), AliasRow { nar_hash: info.nar_hash, compression, file_size: file.file_bytes })
        }))
    }

    fn refuse(&mut self, reason: String) {
        self.done.refused += 1;
        if self.done.reasons.len() < MAX_NAMED {
            self.done.reasons.push(reason);
        }
    }
}

impl Taken {
    /// Returns whether a path that was taken is, or comes from, a derivation.
    fn has_derivation(&self, hash: &str) -> bool {
        hash.parse().is_ok_and(|hash| self.derivers.contains(&hash) || self.paths.contains(&hash))
    }

    /// Returns whether a document names a path that was taken, or its NAR.
    fn has(&self, document: &[u8]) -> bool {
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(document) else { return true };
        let text = |name: &str| document.get(name).and_then(serde_json::Value::as_str);
        let output = text("outPath").and_then(|path| path.parse().ok()).map(|path: StorePath| path.hash());
        let nar = text("archive").and_then(|url| url.strip_prefix("../"));
        output.is_some_and(|hash| self.paths.contains(&hash)) || nar.is_some_and(|url| self.urls.contains(url))
    }
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
}
