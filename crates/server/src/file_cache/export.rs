//! A cache's paths to files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write};
use std::path::Path;

use firn_engine::Engine;
use firn_index::{CacheName, CacheRow, NarRow, PathRow};
use firn_nix::{CacheInfo, NarInfo, Sha256, StoreHash, StorePath};
use serde::{Deserialize, Serialize};
use sha2::Digest;

use super::documents::{Documents, Found, WriteError, each, write_out};
use super::{
    Compression, DocumentCounts, FileCacheError, MAX_NAMED, PAGE, PIECE_BYTES, Selection, check_store_dir, io_error,
};
use crate::http::codec::{Codec, Encoder};

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exported {
    /// Paths written.
    pub paths: u64,
    /// Paths that were there already.
    pub present: u64,
    /// NAR bytes of the paths written.
    pub logical_bytes: u64,
    /// Bytes of their files.
    pub file_bytes: u64,
    /// Paths and documents that are damaged in the store and were left out.
    pub damaged: u64,
    /// Documents written.
    #[serde(default)]
    pub documents: DocumentCounts,
    /// References that the cache does not have: from an upstream, perhaps.
    pub absent_references: u64,
    /// The first of the damaged ones.
    pub examples: Vec<String>,
}

/// Writes paths of a cache as files that stock Nix reads, as long as `goes_on` says so.
///
/// # Errors
/// [`FileCacheError`]. Paths that were written by then stay.
pub fn export(
    engine: &Engine,
    cache: &CacheName,
    selection: &Selection,
    compression: Compression,
    root: &Path,
    goes_on: &dyn Fn() -> bool,
) -> Result<Exported, FileCacheError> {
    let row = engine.meta().cache(cache)?.ok_or_else(|| FileCacheError::NoSuchCache(cache.clone()))?;
    let folder = root.join("nar");
    fs::create_dir_all(&folder).map_err(io_error("make the folder", &folder))?;
    write_info(root, &row)?;
    let (store_dir, codec) = (row.store_dir.as_str(), compression.into());
    let documents = Documents::look(engine, cache)?;
    let mut export = Export { engine, cache, store_dir, codec, root, goes_on, documents, done: Exported::default() };
    match selection {
        Selection::All => export.all()?,
        Selection::Closure(roots) => export.closure(roots)?,
    }
    export.documents(*selection == Selection::All)?;
    // Once for all of it: a path whose files a crash takes is written by the next run.
    let file = File::open(root).map_err(io_error("open", root))?;
    rustix::fs::syncfs(&file).map_err(|error| io_error("sync the file system of", root)(error.into()))?;
    Ok(export.done)
}

fn write_info(root: &Path, row: &CacheRow) -> Result<(), FileCacheError> {
    let path = root.join("nix-cache-info");
    if let Ok(text) = fs::read_to_string(&path) {
        let info: CacheInfo = text.parse().map_err(|error: firn_nix::Error| FileCacheError::Invalid {
            path: path.clone(),
            detail: error.to_string(),
        })?;
        return check_store_dir(info, &row.store_dir, root);
    }
    let info = CacheInfo { store_dir: Some(row.store_dir.clone()), want_mass_query: true, priority: row.priority };
    replace(&path, info.to_string().as_bytes())
}

struct Export<'a> {
    engine: &'a Engine,
    cache: &'a CacheName,
    store_dir: &'a str,
    codec: Codec,
    root: &'a Path,
    goes_on: &'a dyn Fn() -> bool,
    documents: Documents,
    done: Exported,
}

impl Export<'_> {
    fn all(&mut self) -> Result<(), FileCacheError> {
        let mut after = None;
        loop {
            let page = self.engine.meta().paths(self.cache, after, PAGE)?;
            for (_, row) in &page {
                self.path(row)?;
            }
            match page.last() {
                Some((hash, _)) if page.len() == PAGE => after = Some(*hash),
                _ => return Ok(()),
            }
        }
    }

    fn closure(&mut self, roots: &[StoreHash]) -> Result<(), FileCacheError> {
        let mut seen: BTreeSet<StoreHash> = roots.iter().copied().collect();
        let mut todo: Vec<StoreHash> = roots.to_vec();
        while let Some(hash) = todo.pop() {
            let Some(row) = self.engine.meta().path(self.cache, &hash)? else {
                if roots.contains(&hash) {
                    let place = format!("the cache '{}'", self.cache);
                    return Err(FileCacheError::NoSuchPath { path: hash, place });
                }
                self.done.absent_references += 1;
                continue;
            };
            self.path(&row)?;
            todo.extend(row.references.iter().map(StorePath::hash).filter(|reference| seen.insert(*reference)));
        }
        Ok(())
    }

    fn path(&mut self, row: &PathRow) -> Result<(), FileCacheError> {
        if !(self.goes_on)() {
            return Err(FileCacheError::Ended);
        }
        let narinfo = self.root.join(format!("{}.narinfo", row.path.hash()));
        if let Some(url) = self.is_there(&narinfo, row) {
            self.documents.note(row, &url);
            self.done.present += 1;
            return Ok(());
        }
        let nar = self.engine.meta().nar(self.cache, &row.nar_hash)?;
        let written = match &nar {
            Some(nar) => self.nar(row, nar)?,
            None => None,
        };
        let Some((url, file_hash, file_size)) = written else {
            // In a running server it may have gone meanwhile.
            let now = self.engine.meta().path(self.cache, &row.path.hash())?;
            if now.is_some_and(|now| now.nar_hash == row.nar_hash) {
                self.note_damaged(row.path.base_name());
            }
            return Ok(());
        };
        let mut info = NarInfo {
            store_path: row.path.clone(),
            url,
            compression: match self.codec {
                Codec::Identity => firn_nix::Compression::None,
                codec => codec.name().parse().map_err(|_| FileCacheError::Invalid {
                    path: narinfo.clone(),
                    detail: format!("no narinfo can name the compression {}", codec.name()),
                })?,
            },
            file_hash: Some(file_hash),
            file_size: Some(file_size),
            nar_hash: row.nar_hash,
            nar_size: row.nar_size,
            references: row.references.iter().cloned().collect(),
            deriver: row.deriver.clone(),
            signatures: row.signatures.iter().filter_map(|signature| signature.parse().ok()).collect(),
            ca: row.ca.as_ref().and_then(|ca| ca.parse().ok()),
        };
        info.take_false_address(self.store_dir);
        replace(&narinfo, info.to_text(self.store_dir).as_bytes())?;
        self.documents.note(row, &info.url);
        self.done.paths += 1;
        self.done.logical_bytes += row.nar_size;
        self.done.file_bytes += file_size;
        Ok(())
    }

    /// Returns the URL of a path's NAR if the folder has the path as it is to be written, in whatever compression.
    fn is_there(&self, narinfo: &Path, row: &PathRow) -> Option<String> {
        let text = fs::read(narinfo).ok()?;
        let info = NarInfo::parse(&text, self.store_dir).ok()?;
        let signatures: BTreeSet<_> = row.signatures.iter().filter_map(|signature| signature.parse().ok()).collect();
        let has_length = |len: u64| info.file_size.is_none_or(|size| size == len);
        let is_whole = info.nar_hash == row.nar_hash
            && info.signatures.is_superset(&signatures)
            && fs::metadata(self.root.join(&info.url)).is_ok_and(|file| has_length(file.len()));
        is_whole.then_some(info.url)
    }

    /// Writes a NAR's file and returns its name, hash and length; `None` if the NAR is damaged.
    fn nar(&self, row: &PathRow, nar: &NarRow) -> Result<Option<(String, Sha256, u64)>, FileCacheError> {
        let temporary = self.root.join("nar").join(format!(".{}.tmp", row.path.hash()));
        let mut out = File::create(&temporary).map_err(io_error("create", &temporary))?;
        let write = || io_error("write", &temporary);
        let mut encoder = Encoder::new(self.codec).map_err(write())?;
        let (mut file_hash, mut nar_hash, mut file_size) = (sha2::Sha256::new(), sha2::Sha256::new(), 0);
        let mut put = |bytes: &[u8]| -> std::io::Result<()> {
            file_hash.update(bytes);
            file_size += bytes.len() as u64;
            out.write_all(bytes)
        };
        let is_damaged =
            |error: &firn_engine::Error| error.is_damage() || matches!(error, firn_engine::Error::NotFound { .. });
        let mut restore = match self.engine.restore(&nar.recipe, &nar.slots, 0..u64::MAX) {
            Err(error) if is_damaged(&error) => return Self::give_up(&temporary),
            other => other?,
        };
        loop {
            let piece = match restore.next(PIECE_BYTES) {
                Err(error) if is_damaged(&error) => return Self::give_up(&temporary),
                other => other?,
            };
            let Some(piece) = piece else { break };
            if !(self.goes_on)() {
                return Self::give_up::<()>(&temporary).and(Err(FileCacheError::Ended));
            }
            nar_hash.update(&piece);
            encoder.write(&piece).and_then(|()| put(&encoder.take())).map_err(write())?;
        }
        put(&encoder.finish().map_err(write())?).map_err(write())?;
        if Sha256(nar_hash.finalize().into()) != row.nar_hash {
            return Self::give_up(&temporary);
        }
        let hash = Sha256(file_hash.finalize().into());
        let extension = match self.codec {
            Codec::Identity => "",
            Codec::Xz => ".xz",
            Codec::Zstd => ".zst",
            // Nix goes by the narinfo's word, not by the name.
            _ => ".compressed",
        };
        let url = format!("nar/{}.nar{extension}", hash.to_nix32());
        let path = self.root.join(&url);
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        Ok(Some((url, hash, file_size)))
    }

    fn note_damaged(&mut self, name: String) {
        self.done.damaged += 1;
        if self.done.examples.len() < MAX_NAMED {
            self.done.examples.push(name);
        }
    }

    /// Writes the documents of the paths that are written; with `all`, logs of other derivations too.
    fn documents(&mut self, all: bool) -> Result<(), FileCacheError> {
        let (engine, cache) = (self.engine, self.cache);
        each(engine, cache, &mut |key, row| {
            if !(self.goes_on)() {
                return Err(FileCacheError::Ended);
            }
            match self.documents.found(engine, cache, (key, row), all)? {
                Some(found) => self.document(&found),
                None => Ok(()),
            }
        })
    }

    /// Writes a document, unless its file has these bytes.
    fn document(&mut self, found: &Found) -> Result<(), FileCacheError> {
        let path = self.root.join(&found.place);
        let folder = path.parent().unwrap_or(self.root);
        fs::create_dir_all(folder).map_err(io_error("make the folder", folder))?;
        let temporary = folder.join(".document.tmp");
        let mut out = File::create(&temporary).map_err(io_error("create", &temporary))?;
        match write_out(self.engine, &found.content, &mut out) {
            Ok(()) => {}
            Err(WriteError::Io(error)) => return Err(io_error("write", &temporary)(error)),
            Err(WriteError::Engine(error)) => {
                Self::give_up::<()>(&temporary)?;
                if !error.is_damage() && !matches!(error, firn_engine::Error::NotFound { .. }) {
                    return Err(error.into());
                }
                self.note_damaged(found.place.display().to_string());
                return Ok(());
            }
        }
        if is_same(&temporary, &path) {
            return Self::give_up::<()>(&temporary).map(|_| ());
        }
        fs::rename(&temporary, &path).map_err(io_error("rename", &temporary))?;
        self.done.documents.count(found.key.kind);
        Ok(())
    }

    fn give_up<T>(temporary: &Path) -> Result<Option<T>, FileCacheError> {
        fs::remove_file(temporary).map_err(io_error("remove", temporary))?;
        Ok(None)
    }
}

/// Returns whether two files have the same bytes; one that can't be read has none.
fn is_same(a: &Path, b: &Path) -> bool {
    let read = |path: &Path| File::open(path).map(|file| BufReader::with_capacity(PIECE_BYTES, file)).ok();
    let (Some(mut a), Some(mut b)) = (read(a), read(b)) else { return false };
    loop {
        let (Ok(left), Ok(right)) = (a.fill_buf(), b.fill_buf()) else { return false };
        let len = left.len().min(right.len());
        if len == 0 {
            return left.len() == right.len();
        }
        if left[..len] != right[..len] {
            return false;
        }
        a.consume(len);
        b.consume(len);
    }
}

/// Writes a file so that nobody sees half of it.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileCacheError> {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, bytes).map_err(io_error("write", &temporary))?;
    fs::rename(&temporary, path).map_err(io_error("rename", &temporary))
}
