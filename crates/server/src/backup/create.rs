//! A run of a backup.

use std::fs::File;
use std::path::{Path, PathBuf};

use firn_index::{Meta, PackRow, PackState, UnixSeconds};
use firn_index_rocks::{MetaOptions, RocksMeta};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::files::{self, copy};
use super::{BackupError, Manifest, file, manifest};

/// Rows read at a time.
const PAGE: usize = 1000;

/// Memory for the index's blocks while its packs are listed, in bytes.
const INDEX_CACHE: usize = 8 << 20;

/// Folders of a backup that hold packs.
const PACKS: [&str; 2] = ["packs", "tails"];

/// What is copied.
pub struct Source<'a> {
    /// The copy of the index, on the store's side.
    pub index: &'a Path,
    /// The folder of the packs' storage.
    pub store: &'a Path,
    /// When the index was copied.
    pub taken_at: UnixSeconds,
    /// Called between files: whoever keeps packs from being deleted must hear that we are not done yet.
    pub keep: &'a mut dyn FnMut() -> Result<(), BackupError>,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    /// Packs in the backup.
    pub packs: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Packs that came with this run.
    pub new_packs: u64,
    /// Bytes that were copied, the index included.
    pub copied_bytes: u64,
    /// Files that were removed, because the store has them no longer.
    pub removed: u64,
}

/// Makes or renews the backup in a folder. It is as it was until the end, and then, at once, what is asked for.
///
/// With `link`, sealed packs get a second name instead of a copy where that is possible: quick, and as safe as the disk
/// that holds both.
pub fn create(source: &mut Source<'_>, root: &Path, link: bool) -> Result<Created, BackupError> {
    files::make_folder(root)?;
    let _lock = lock(root)?;
    let old = Manifest::read(root)?;
    refuse_foreign(root, old.as_ref())?;
    let meta = open_index(source.index)?;
    let failed = |error| BackupError::Index { path: source.index.to_owned(), source: error };
    let info = meta.store_info().map_err(failed)?;
    let store_id = info.map(|info| format!("{:032x}", info.store_id)).unwrap_or_default();
    if let Some(old) = old.as_ref().filter(|old| old.head.store_id != store_id) {
        let detail = format!("it is that of another store, {}", old.head.store_id);
        return Err(BackupError::Foreign { path: root.to_owned(), detail });
    }
    let run = old.as_ref().map_or(1, |old| old.head.run + 1);
    let mut work = Work {
        root,
        link,
        new: Manifest::new(store_id, source.taken_at, run),
        old: old.unwrap_or_else(|| Manifest::new(String::new(), 0, 0)),
        done: Created::default(),
    };
    let mut after = None;
    loop {
        let page = meta.packs(after, PAGE).map_err(failed)?;
        for (pack, row) in &page {
            work.pack(source, &pack.to_string(), row)?;
            (source.keep)()?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(*last),
            _ => break,
        }
    }
    // The look at it wrote to it; what is copied has all of that.
    drop(meta);
    work.index(source, run)?;
    (source.keep)()?;
    work.finish()
}

/// Keeps a second run out.
fn lock(root: &Path) -> Result<File, BackupError> {
    let path = root.join(".lock");
    let lock = file("open", &path, || File::options().write(true).create(true).truncate(false).open(&path))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| BackupError::Foreign {
        path: root.to_owned(),
        detail: "another backup to it is running".to_owned(),
    })?;
    Ok(lock)
}

/// Refuses to clean up in a folder that was not made by us.
fn refuse_foreign(root: &Path, old: Option<&Manifest>) -> Result<(), BackupError> {
    if old.is_some() {
        return Ok(());
    }
    for entry in files::list(root)? {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // What an interrupted first run leaves.
        let is_ours = name.starts_with(".lock") || name.starts_with("index-") || PACKS.contains(&&*name);
        if !is_ours && !name.starts_with(manifest::NAME) {
            let detail = format!("it is not empty and no backup: there is '{name}'");
            return Err(BackupError::Foreign { path: root.to_owned(), detail });
        }
    }
    Ok(())
}

fn open_index(folder: &Path) -> Result<RocksMeta, BackupError> {
    let options = MetaOptions { cache_bytes: INDEX_CACHE };
    RocksMeta::open(folder, &options).map_err(|source| BackupError::Index { path: folder.to_owned(), source })
}

struct Work<'a> {
    root: &'a Path,
    link: bool,
    new: Manifest,
    old: Manifest,
    done: Created,
}

impl Work<'_> {
    /// Sees to it that the backup has a pack.
    fn pack(&mut self, source: &Source<'_>, hex: &str, row: &PackRow) -> Result<(), BackupError> {
        if row.state == PackState::Doomed {
            return Ok(());
        }
        let name = format!("packs/{}/{hex}", &hex[..2]);
        let from = source.store.join(&name);
        let wrong = |detail: String| BackupError::Pack { pack: hex.to_owned(), detail };
        let Some(len) = files::length(&from)? else {
            let is_reserved_only = row.state == PackState::Writing && row.durable_bytes == 0;
            return if is_reserved_only { Ok(()) } else { Err(wrong("it is gone".to_owned())) };
        };
        let is_sealed = row.state != PackState::Writing;
        let wanted = if is_sealed { row.stored_bytes } else { row.durable_bytes };
        if len < wanted {
            return Err(wrong(format!("it has {len} bytes, and the index relies on {wanted}")));
        }
        // Damage at the end of a sealed one does not keep the rest from being safe: copied as long as it is. Of one that grows,
        // what came behind is of a later moment than the index, which would lack what was acknowledged there.
        let len = if is_sealed { len } else { wanted };
        if len == 0 {
            return Ok(());
        }
        self.done.packs += 1;
        let file = if is_sealed { name } else { format!("tails/{hex}.{len}") };
        if let Some(entry) = self.old.files.get(&file).filter(|entry| entry.bytes == len && is_sealed) {
            self.new.files.insert(file, entry.clone());
            return Ok(());
        }
        let to = self.root.join(&file);
        let folder = to.parent().unwrap_or(self.root);
        files::make_folder(folder)?;
        // What grows must not grow in the backup.
        let copied = copy(&from, &to, len, self.link && is_sealed)?;
        files::sync_folder(folder)?;
        self.done.new_packs += 1;
        self.done.copied_bytes += copied.bytes;
        self.new.add(file, copied);
        Ok(())
    }

    /// Copies the index, which is whole once this returns.
    fn index(&mut self, source: &Source<'_>, run: u64) -> Result<(), BackupError> {
        let folder = format!("index-{run}");
        files::remove_folder(&self.root.join(&folder))?;
        for name in files::below(source.index, "")? {
            let file = format!("{folder}/{name}");
            let to = self.root.join(&file);
            let parent = to.parent().unwrap_or(self.root).to_owned();
            files::make_folder(&parent)?;
            let copied = copy(&source.index.join(&name), &to, u64::MAX, false)?;
            files::sync_folder(&parent)?;
            self.done.copied_bytes += copied.bytes;
            self.new.add(file, copied);
        }
        files::sync_folder(&self.root.join(&folder))
    }

    /// Makes the new backup what counts, and removes what only the old one had.
    fn finish(mut self) -> Result<Created, BackupError> {
        for folder in PACKS {
            if self.root.join(folder).is_dir() {
                files::sync_folder(&self.root.join(folder))?;
            }
        }
        files::sync_folder(self.root)?;
        self.new.write(self.root)?;
        let mut folders: Vec<String> = PACKS.map(str::to_owned).to_vec();
        for entry in files::list(self.root)? {
            let name = entry.file_name();
            folders.extend(name.to_str().filter(|name| name.starts_with("index-")).map(str::to_owned));
        }
        for folder in folders {
            for file in files::below(self.root, &folder)? {
                if !self.new.files.contains_key(&file) {
                    files::remove_file(&self.root.join(&file))?;
                    self.done.removed += 1;
                }
            }
            if folder.starts_with("index-") && folder != format!("index-{}", self.new.head.run) {
                files::remove_folder(&self.root.join(&folder))?;
            }
        }
        self.done.bytes = self.new.files.values().map(|entry| entry.bytes).sum();
        Ok(self.done)
    }
}

/// Returns where the pack of a backup's file lies in a store, if it is one.
pub(super) fn place_of(file: &str) -> Option<PathBuf> {
    if file.starts_with("packs/") {
        return Some(PathBuf::from(file));
    }
    let (hex, _) = file.strip_prefix("tails/")?.split_once('.')?;
    Some(PathBuf::from(format!("packs/{}/{hex}", hex.get(..2)?)))
}
