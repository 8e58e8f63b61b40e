//! A binary cache in a folder, as it is read: narinfos, and the files of NARs.

use std::fs::{self, File};
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use firn_nix::{CacheInfo, MAX_NARINFO_LEN, NarInfo, StoreHash};

use super::{FileCacheError, PIECE_BYTES, check_store_dir, io_error};
use crate::error_chain;
use crate::http::codec::{Codec, decoder};

/// A binary cache in a folder.
pub(crate) struct Folder {
    root: PathBuf,
    store_dir: String,
}

/// The file of a NAR.
pub(crate) struct NarFile {
    pub(crate) codec: Codec,
    pub(crate) file_bytes: u64,
    /// The NAR.
    pub(crate) nar: Box<dyn Read + Send>,
}

impl Folder {
    /// Looks whether a folder is a cache of a store directory.
    ///
    /// # Errors
    /// [`FileCacheError::StoreDir`] if it is another one's, [`FileCacheError::Io`], [`FileCacheError::Invalid`].
    pub(crate) fn open(root: &Path, store_dir: &str) -> Result<Self, FileCacheError> {
        let path = root.join("nix-cache-info");
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        let info: CacheInfo = text
            .parse()
            .map_err(|error: firn_nix::Error| FileCacheError::Invalid { path, detail: error.to_string() })?;
        check_store_dir(info, store_dir, root)?;
        Ok(Self { root: root.to_owned(), store_dir: store_dir.to_owned() })
    }

    /// Returns the hashes of which there are narinfos, with the times of their last change, in no order.
    pub(crate) fn narinfos(&self) -> Result<Vec<(StoreHash, u64)>, FileCacheError> {
        let fail = |error| io_error("list the folder", &self.root)(error);
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let name = entry.file_name();
            let hash = name.to_str().and_then(|name| name.strip_suffix(".narinfo")?.parse().ok());
            let Some(hash) = hash else { continue };
            match entry.metadata().and_then(|metadata| metadata.modified()) {
                Ok(changed) => {
                    found.push((hash, changed.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())));
                }
                // It was deleted in between.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(fail(error)),
            }
        }
        Ok(found)
    }

    /// Returns a path's narinfo and its length as text; `None` if there is none.
    ///
    /// # Errors
    /// [`FileCacheError::Invalid`] also if it is another path's; [`FileCacheError::Io`].
    pub(crate) fn narinfo(&self, hash: &StoreHash) -> Result<Option<(NarInfo, u64)>, FileCacheError> {
        let path = self.narinfo_path(hash);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let mut text = Vec::new();
        file.take(MAX_NARINFO_LEN as u64 + 1).read_to_end(&mut text).map_err(io_error("read", &path))?;
        let info = NarInfo::parse(&text, &self.store_dir);
        let info = info.map_err(|error| FileCacheError::Invalid { path: path.clone(), detail: error_chain(&error) })?;
        if info.store_path.hash() != *hash {
            let detail = format!("it is that of {}", info.store_path);
            return Err(FileCacheError::Invalid { path, detail });
        }
        Ok(Some((info, text.len() as u64)))
    }

    /// Returns where a path's narinfo is.
    pub(crate) fn narinfo_path(&self, hash: &StoreHash) -> PathBuf {
        self.root.join(format!("{hash}.narinfo"))
    }

    /// Opens the file of a NAR; `None` if it is not there.
    ///
    /// # Errors
    /// [`FileCacheError::Invalid`] if its name leads out of the folder or its compression is not known; [`FileCacheError::Io`].
    pub(crate) fn nar(&self, info: &NarInfo) -> Result<Option<NarFile>, FileCacheError> {
        let invalid = |detail: String| {
            let path = self.narinfo_path(&info.store_path.hash());
            FileCacheError::Invalid { path, detail }
        };
        let name = relative(&info.url);
        let path = name.ok_or_else(|| invalid(format!("its URL {} leads out of the folder", info.url)))?;
        let codec = Codec::from_name(info.compression.name()).map_err(|error| invalid(error.to_string()))?;
        let path = self.root.join(path);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let file_bytes = file.metadata().map_err(io_error("look at", &path))?.len();
        let nar = decoder(codec, BufReader::with_capacity(PIECE_BYTES, file)).map_err(io_error("read", &path))?;
        Ok(Some(NarFile { codec, file_bytes, nar }))
    }
}

/// Returns a URL as a path below the folder; `None` if it leads elsewhere.
fn relative(url: &str) -> Option<PathBuf> {
    let path = PathBuf::from(url.split(['?', '#']).next()?);
    path.components().all(|part| matches!(part, Component::Normal(_))).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_url_leads_out() {
        assert_eq!(relative("nar/x.nar.xz?a=/.."), Some(PathBuf::from("nar/x.nar.xz")));
        for bad in ["/etc/passwd", "../x", "nar/../../x"] {
            assert_eq!(relative(bad), None, "{bad}");
        }
    }
}
