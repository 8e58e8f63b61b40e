//! Logs, realisations and debug info, which go along with the paths that they are of.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use firn_engine::Engine;
use firn_index::{CacheName, Content, DocumentKey, DocumentKind, DocumentRow, PathRow};
use firn_nix::{Sha256, StoreHash, StorePath};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FileCacheError, PAGE, PIECE_BYTES, io_error};
use crate::http::documents::{MAX_KEPT_BYTES, archive, key_of, read_back};
use crate::http::route::known;

/// The longest name of a file.
const MAX_FILE_NAME_BYTES: usize = 255;

/// Documents, by their kinds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DocumentCounts {
    /// Build logs.
    pub logs: u64,
    /// Realisations of Nix up to 2.34.
    pub realisations: u64,
    /// Realisations of Nix since.
    pub build_traces: u64,
    /// Debug-info documents.
    pub debug_info: u64,
}

impl DocumentCounts {
    pub(super) fn count(&mut self, kind: DocumentKind) {
        match kind {
            DocumentKind::Log => self.logs += 1,
            DocumentKind::Realisation => self.realisations += 1,
            DocumentKind::BuildTrace => self.build_traces += 1,
            DocumentKind::DebugInfo => self.debug_info += 1,
            DocumentKind::Difference => {}
        }
    }
}

/// The documents of a cache that is written, and what is known of the paths that they are of. About 100 bytes for each document.
#[derive(Default)]
pub(super) struct Documents {
    /// Derivations of which there are logs, with their base names as far as a path has told them.
    logs: BTreeMap<StoreHash, Option<String>>,
    /// Paths that realisations name, and whether they are written.
    outputs: BTreeMap<StoreHash, bool>,
    /// NARs that debug info is in, with where they are written.
    nars: BTreeMap<Sha256, Option<String>>,
}

/// A document as it is to be written.
pub(super) struct Found {
    pub(super) key: DocumentKey,
    /// Where, below the folder.
    pub(super) place: PathBuf,
    pub(super) content: Content,
}

impl Documents {
    /// Looks through all documents of a cache.
    pub(super) fn look(engine: &Engine, cache: &CacheName) -> Result<Self, FileCacheError> {
        let mut all = Self::default();
        each(engine, cache, &mut |key, row| {
            match key.kind {
                DocumentKind::Log => _ = key.name.parse().map(|hash| all.logs.insert(hash, None)),
                DocumentKind::Realisation | DocumentKind::BuildTrace => {
                    all.outputs.extend(json(engine, row)?.and_then(|text| output(&text)).map(|hash| (hash, false)));
                }
                DocumentKind::DebugInfo => {
                    let nar =
                        json(engine, row)?.map(|text| archive(engine.meta(), cache, &text)).transpose()?.flatten();
                    all.nars.extend(nar.map(|nar| (nar, None)));
                }
                DocumentKind::Difference => {}
            }
            Ok(())
        })?;
        Ok(all)
    }

    /// Notes a path that is written, with its NAR at a URL.
    pub(super) fn note(&mut self, row: &PathRow, url: &str) {
        for drv in row.deriver.iter().chain(Some(&row.path).filter(|path| path.name().ends_with(".drv"))) {
            if let Some(name) = self.logs.get_mut(&drv.hash()) {
                *name = Some(drv.base_name());
            }
        }
        if let Some(is_written) = self.outputs.get_mut(&row.path.hash()) {
            *is_written = true;
        }
        if let Some(place) = self.nars.get_mut(&row.nar_hash) {
            *place = Some(url.to_owned());
        }
    }

    /// Returns what is to be written of a document: only what is of a path that is. A log of a derivation that no such path names is
    /// among them if `all` is.
    pub(super) fn found(
        &self,
        engine: &Engine,
        cache: &CacheName,
        (key, row): (&DocumentKey, &DocumentRow),
        all: bool,
    ) -> Result<Option<Found>, FileCacheError> {
        let mut content = row.content.clone();
        let place = match key.kind {
            DocumentKind::Log => {
                let name = key.name.parse().ok().and_then(|hash: StoreHash| self.logs.get(&hash)?.clone());
                name.or_else(|| all.then(|| key.name.clone())).map(|name| Path::new("log").join(name))
            }
            DocumentKind::Realisation | DocumentKind::BuildTrace => {
                let output = json(engine, row)?.and_then(|text| output(&text));
                let is_written = output.and_then(|hash| self.outputs.get(&hash).copied()).unwrap_or(false);
                let folder = if key.kind == DocumentKind::BuildTrace { "build-trace-v2" } else { "realisations" };
                is_written.then(|| Path::new(folder).join(format!("{}.doi", key.name)))
            }
            DocumentKind::DebugInfo => match json(engine, row)? {
                None => None,
                Some(mut text) => {
                    let nar = archive(engine.meta(), cache, &text)?;
                    let url = nar.and_then(|nar| self.nars.get(&nar)?.clone());
                    url.map(|url| {
                        // The file has another name there.
                        text.insert("archive".to_owned(), Value::String(format!("../{url}")));
                        content = Content::Inline(Value::Object(text).to_string().into_bytes());
                        Path::new("debuginfo").join(format!("{}.debug", key.name))
                    })
                }
            },
            DocumentKind::Difference => None,
        };
        let fits = |place: &PathBuf| place.iter().all(|name| name.len() <= MAX_FILE_NAME_BYTES);
        Ok(place.filter(fits).map(|place| Found { key: key.clone(), place, content }))
    }
}

/// Calls `work` for each document of a cache.
pub(super) fn each(
    engine: &Engine,
    cache: &CacheName,
    work: &mut dyn FnMut(&DocumentKey, &DocumentRow) -> Result<(), FileCacheError>,
) -> Result<(), FileCacheError> {
    let mut after = None;
    loop {
        let page = engine.meta().documents(cache, after.as_ref(), PAGE)?;
        for (key, row) in &page {
            work(key, row)?;
        }
        let Some((last, _)) = page.into_iter().next_back() else { return Ok(()) };
        after = Some(last);
    }
}

/// Writes a document's bytes.
pub(super) fn write_out(engine: &Engine, content: &Content, out: &mut dyn Write) -> Result<(), WriteError> {
    match content {
        Content::Inline(bytes) => out.write_all(bytes).map_err(WriteError::Io),
        Content::Recipe { recipe, slots, length } => {
            let mut restore = engine.restore(recipe, slots, 0..*length).map_err(WriteError::Engine)?;
            while let Some(piece) = restore.next(PIECE_BYTES).map_err(WriteError::Engine)? {
                out.write_all(&piece).map_err(WriteError::Io)?;
            }
            Ok(())
        }
    }
}

/// Why a document was not written.
pub(super) enum WriteError {
    Io(std::io::Error),
    Engine(firn_engine::Error),
}

/// Reads a document of JSON; `None` if it is none, or is damaged.
fn json(engine: &Engine, row: &DocumentRow) -> Result<Option<Map<String, Value>>, FileCacheError> {
    let text = match read_back(engine, row.content.clone()) {
        Err(error) if error.is_damage() || matches!(error, firn_engine::Error::NotFound { .. }) => return Ok(None),
        other => other?,
    };
    Ok(serde_json::from_slice(&text).ok())
}

/// Returns the path that a realisation names.
fn output(document: &Map<String, Value>) -> Option<StoreHash> {
    document.get("outPath")?.as_str()?.parse().map(|path: StorePath| path.hash()).ok()
}

/// Returns the documents that a folder has, with their files, realisations last of all.
pub(super) fn listed(root: &Path) -> Result<Vec<(DocumentKey, PathBuf)>, FileCacheError> {
    let mut found = Vec::new();
    for folder in ["log", "debuginfo", "realisations", "build-trace-v2"] {
        for (name, path) in entries(&root.join(folder))? {
            let mut add = |names: &[&str], path: PathBuf| {
                found.extend(known(folder, names).and_then(|resource| key_of(&resource)).map(|key| (key, path)));
            };
            if folder == "build-trace-v2" {
                for (output, path) in entries(&path)? {
                    add(&[&name, &output], path);
                }
            } else {
                add(&[&name], path);
            }
        }
    }
    Ok(found)
}

/// Lists a folder, which need not be there; names that are no text are left out.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, FileCacheError> {
    let fail = |error| io_error("list the folder", folder)(error);
    let list = match fs::read_dir(folder) {
        Ok(list) => list,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(Vec::new()),
        Err(error) => return Err(fail(error)),
    };
    let mut found = Vec::new();
    for entry in list {
        let entry = entry.map_err(fail)?;
        found.extend(entry.file_name().into_string().ok().map(|name| (name, entry.path())));
    }
    found.sort();
    Ok(found)
}

/// Opens a document's file. Nothing vouches for what is in it, so that a link may not lead to some other file.
pub(super) fn open(path: &Path) -> Result<File, FileCacheError> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let invalid = |detail: String| FileCacheError::Invalid { path: path.to_owned(), detail };
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = file.map_err(|error| invalid(error.to_string()))?;
    let is_file = file.metadata().map_err(io_error("look at", path))?.is_file();
    if is_file { Ok(file) } else { Err(invalid("it is no file".to_owned())) }
}

/// Reads a document of JSON, of at most what one may have and a byte.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, FileCacheError> {
    let mut text = Vec::new();
    open(path)?.take(MAX_KEPT_BYTES + 1).read_to_end(&mut text).map_err(io_error("read", path))?;
    Ok(text)
}
