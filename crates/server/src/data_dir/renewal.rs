//! An index that is made from the packs and takes the place of the present one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use firn_engine::SystemClock;
use firn_index::{CacheName, CacheRow, Meta};
use firn_index_rocks::RocksMeta;
use firn_storage::Disk;

use super::{COMMAND_INDEX_CACHE, DataDir, DataError, SystemEntropy, remove_folder};

/// The index that a data directory has when another is to be made.
pub enum OldIndex {
    /// It can be read.
    Open(Arc<dyn Meta>),
    /// There is none.
    None,
    /// It is damaged, and this is what can be read of it.
    Damaged(Arc<RocksMeta>, DataError),
    /// It is damaged, and nothing of it can be read.
    Unreadable(DataError),
}

impl DataDir {
    /// Opens the present index to take from it what packs do not hold; the caller holds the lock. With `ignore`, only looks
    /// whether there is one.
    ///
    /// # Errors
    /// For an index of a newer firn, which must not be replaced by an older one's.
    pub fn open_old_index(&self, ignore: bool) -> Result<OldIndex, DataError> {
        if ignore || !self.index().join("meta").is_dir() {
            return Ok(OldIndex::None);
        }
        let opened = self.open_meta(COMMAND_INDEX_CACHE).and_then(|meta| {
            let checked = meta.check().map_err(|source| DataError::Index { path: self.index(), source });
            checked.map(|()| meta)
        });
        match opened {
            Ok(meta) => Ok(OldIndex::Open(meta)),
            // RocksDB tells of some damage in its own words.
            Err(
                error @ DataError::Index {
                    source: firn_index::Error::Corrupt { .. } | firn_index::Error::Engine { .. },
                    ..
                },
            ) => {
                let options = firn_index_rocks::MetaOptions { cache_bytes: COMMAND_INDEX_CACHE };
                match RocksMeta::open_damaged(&self.index(), &options) {
                    Ok(meta) => Ok(OldIndex::Damaged(Arc::new(meta), error)),
                    Err(source @ firn_index::Error::TooNew { .. }) => {
                        Err(DataError::Index { path: self.index(), source })
                    }
                    Err(_) => Ok(OldIndex::Unreadable(error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes an index from the packs, beside the present one; the caller holds the lock.
    pub fn rebuild_index(
        &self,
        old: Option<Arc<dyn Meta>>,
        new_cache: &mut dyn FnMut(&CacheName) -> CacheRow,
    ) -> Result<firn_engine::Rebuilt, DataError> {
        let path = self.new_index();
        remove_folder(&path)?;
        self.make(&path)?;
        let failed = |source| DataError::Index { path: path.clone(), source };
        let options = firn_index_rocks::MetaOptions { cache_bytes: COMMAND_INDEX_CACHE };
        let meta = Arc::new(RocksMeta::open(&path, &options).map_err(failed)?);
        let options = firn_index_rocks::ChunkIndexOptions { cache_bytes: COMMAND_INDEX_CACHE, ..Default::default() };
        let chunks = Arc::new(firn_index_rocks::RocksChunkIndex::open(&path, &options).map_err(failed)?);
        let store = self.store();
        self.make(&store)?;
        let storage = Disk::open(&store).map_err(|source| DataError::Storage { path: store, source })?;
        let parts = firn_engine::Parts {
            storage: Arc::new(storage),
            meta,
            chunks,
            old,
            clock: Arc::new(SystemClock),
            entropy: Arc::new(SystemEntropy),
        };
        firn_engine::rebuild(parts, new_cache).map_err(|source| {
            // It is good for nothing, and the next one removes what stays of it.
            let _ = remove_folder(&path);
            DataError::Engine { path: self.root.clone(), source: Box::new(source) }
        })
    }

    /// Puts the index that was made in the place of the present one, at once and durably. That one is removed, or kept in a
    /// folder whose path is returned: `index.old`, or the next free name. What was kept before stays.
    pub fn swap_index(&self, keep_old: bool) -> Result<Option<PathBuf>, DataError> {
        let (new, present) = (self.new_index(), self.index());
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| DataError::Io { doing, path, source }
        };
        let mut kept = None;
        if present.is_dir() {
            // Both names change in one step: whenever the power goes, there is an index.
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &new,
                rustix::fs::CWD,
                &present,
                rustix::fs::RenameFlags::EXCHANGE,
            )
            .map_err(|error| io("exchange", &new)(error.into()))?;
            if keep_old {
                let old = self.old_index();
                fs::rename(&new, &old).map_err(io("rename", &new))?;
                kept = Some(old);
            }
        } else {
            fs::rename(&new, &present).map_err(io("rename", &new))?;
        }
        File::open(&self.root).and_then(|root| root.sync_all()).map_err(io("sync the folder", &self.root))?;
        if kept.is_none() {
            remove_folder(&new)?;
        }
        Ok(kept)
    }

    /// Returns the folder where a new index is made.
    fn new_index(&self) -> PathBuf {
        self.root.join("index.new")
    }

    /// Returns the folder where an index stays of which not everything could be taken: `index.old`, or the first free one of
    /// `index.old.2`, `index.old.3` and so on.
    fn old_index(&self) -> PathBuf {
        let names = std::iter::once("index.old".to_owned()).chain((2_u32..).map(|n| format!("index.old.{n}")));
        let mut paths = names.map(|name| self.root.join(name));
        paths.find(|path| !path.exists()).expect("no folder holds so many entries")
    }
}
