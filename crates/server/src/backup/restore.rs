//! A backup read again: checked, or put back.

use std::path::Path;

use firn_index::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::create::place_of;
use super::{BackupError, MAX_PROBLEMS, Manifest, files};
use crate::data_dir::DataDir;

/// What was found good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// When the index was copied.
    pub taken_at: UnixSeconds,
    /// Files, all read.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was put back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When the index was copied: what came later is not there.
    pub taken_at: UnixSeconds,
    /// Files copied.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Reads every file of a backup and compares it with the manifest.
///
/// # Errors
/// [`BackupError::Damaged`], with the files.
pub fn verify(root: &Path) -> Result<Verified, BackupError> {
    let manifest = manifest(root)?;
    let mut problems = Vec::new();
    for entry in manifest.files.values() {
        let path = root.join(&entry.file);
        // A file that is longer is another one too.
        let problem = match files::hash(&path, entry.bytes.saturating_add(1)) {
            Ok(found) if found.bytes != entry.bytes => Some("its length is another".to_owned()),
            Ok(found) if found.hash.to_string() != entry.blake3 => Some("its bytes are other ones".to_owned()),
            Ok(_) => None,
            Err(BackupError::Io { source, .. }) => Some(source.to_string()),
            Err(error) => return Err(error),
        };
        problems.extend(problem.map(|problem| format!("{}: {problem}", entry.file)));
    }
    if problems.is_empty() {
        let bytes = manifest.files.values().map(|entry| entry.bytes).sum();
        return Ok(Verified { taken_at: manifest.head.taken_at, files: manifest.files.len() as u64, bytes });
    }
    let more = problems.len().saturating_sub(MAX_PROBLEMS);
    problems.truncate(MAX_PROBLEMS);
    if more > 0 {
        problems.push(format!("and {more} more"));
    }
    Err(BackupError::Damaged { path: root.to_owned(), problems })
}

/// Refuses a folder that holds no backup which came to its end.
///
/// # Errors
/// [`BackupError::Foreign`], or that it can't be read.
pub fn find(root: &Path) -> Result<(), BackupError> {
    manifest(root).map(drop)
}

/// Puts a backup into a data directory that has no store, whose lock the caller holds. Every byte is compared with the
/// manifest on its way. The index comes last, so that an interrupted run leaves no store; run it again then.
pub fn restore(root: &Path, data: &DataDir) -> Result<Restored, BackupError> {
    let manifest = manifest(root)?;
    let mut bytes = 0;
    let new_index = data.root().join("index.new");
    files::remove_folder(&new_index)?;
    for entry in manifest.files.values() {
        let to = match place_of(&entry.file) {
            Some(place) => data.store().join(place),
            None => match entry.file.split_once('/') {
                Some((_, rest)) => new_index.join(rest),
                None => continue,
            },
        };
        let folder = to.parent().unwrap_or(data.root()).to_owned();
        files::make_folder(&folder)?;
        let copied = files::copy(&root.join(&entry.file), &to, entry.bytes.saturating_add(1), false)?;
        if copied.bytes != entry.bytes || copied.hash.to_string() != entry.blake3 {
            files::remove_file(&to)?;
            let problems = vec![format!("{}: its bytes are other ones", entry.file)];
            return Err(BackupError::Damaged { path: root.to_owned(), problems });
        }
        files::sync_folder(&folder)?;
        bytes += copied.bytes;
    }
    for folder in [data.store().join("packs"), data.store(), new_index.clone()] {
        if folder.is_dir() {
            files::sync_folder(&folder)?;
        }
    }
    files::rename(&new_index, &data.index())?;
    files::sync_folder(data.root())?;
    Ok(Restored { taken_at: manifest.head.taken_at, files: manifest.files.len() as u64, bytes })
}

fn manifest(root: &Path) -> Result<Manifest, BackupError> {
    Manifest::read(root)?.ok_or_else(|| BackupError::Foreign {
        path: root.to_owned(),
        detail: "it has no manifest.jsonl: no backup to it came to its end".to_owned(),
    })
}
