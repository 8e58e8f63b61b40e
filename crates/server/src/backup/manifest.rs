//! What a backup consists of: lines of JSON, and their hash in the last one.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use firn_index::UnixSeconds;
use serde::{Deserialize, Serialize};

use super::{BackupError, file, files};

/// The manifest's name in a backup.
pub(super) const NAME: &str = "manifest.jsonl";

/// The version of the backup's layout that is written, and the newest that is read.
const VERSION: u32 = 1;

/// The first line: what the whole is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The version of the layout.
    pub firn_backup: u32,
    /// Which store, 32 hex digits.
    pub store_id: String,
    /// When the index was copied.
    pub taken_at: UnixSeconds,
    /// Counts the runs.
    pub run: u64,
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its path in the backup.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its BLAKE3.
    pub blake3: String,
}

#[derive(Serialize, Deserialize)]
struct End {
    end: String,
}

/// A backup's list of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// What the whole is.
    pub head: Head,
    /// Its files by their paths.
    pub files: BTreeMap<String, Entry>,
}

impl Manifest {
    /// Returns an empty one.
    pub(super) fn new(store_id: String, taken_at: UnixSeconds, run: u64) -> Self {
        Self { head: Head { firn_backup: VERSION, store_id, taken_at, run }, files: BTreeMap::new() }
    }

    /// Adds a file.
    pub(super) fn add(&mut self, file: String, copied: files::Copied) {
        let entry = Entry { file: file.clone(), bytes: copied.bytes, blake3: copied.hash.to_string() };
        self.files.insert(file, entry);
    }

    /// Reads a backup's manifest; `None` if it has none.
    pub(super) fn read(root: &Path) -> Result<Option<Self>, BackupError> {
        let path = root.join(NAME);
        let text = file("read", &path, || match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => text.map(Some),
        })?;
        let Some(text) = text else { return Ok(None) };
        Self::parse(&text).map(Some).map_err(|detail| BackupError::Damaged {
            path: root.to_owned(),
            problems: vec![format!("{NAME}: {detail}")],
        })
    }

    /// Replaces a backup's manifest, atomically and durably.
    pub(super) fn write(&self, root: &Path) -> Result<(), BackupError> {
        files::write(&root.join(NAME), self.encode().as_bytes())
    }

    fn encode(&self) -> String {
        let mut text = line(&self.head);
        for entry in self.files.values() {
            text += &line(entry);
        }
        let end = blake3::hash(text.as_bytes()).to_string();
        text + &line(&End { end })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let (first, _) = text.split_once('\n').ok_or("it is cut short")?;
        // First of all: a newer firn may have laid out the rest otherwise.
        let version: serde_json::Value = serde_json::from_str(first).map_err(|error| error.to_string())?;
        let version = version.get("firn_backup").and_then(serde_json::Value::as_u64).ok_or("it is no firn backup's")?;
        if version > VERSION.into() {
            return Err(format!("its version is {version}, and this firn knows up to {VERSION}: upgrade firn"));
        }
        let body = text.strip_suffix('\n').ok_or("it is cut short")?;
        let (body, last) = body.rsplit_once('\n').ok_or("it is cut short")?;
        let end: End = serde_json::from_str(last).map_err(|_| "it is cut short")?;
        let hash = blake3::Hasher::new().update(body.as_bytes()).update(b"\n").finalize();
        if end.end != hash.to_string() {
            return Err("its hash does not match".to_owned());
        }
        let mut lines = body.lines();
        let head = serde_json::from_str(lines.next().unwrap_or_default()).map_err(|error| error.to_string())?;
        let entry = |line| {
            let entry: Entry = serde_json::from_str(line).map_err(|error| error.to_string())?;
            if is_inside(&entry.file) { Ok(entry) } else { Err(format!("{:?} is no place in a backup", entry.file)) }
        };
        let entries = lines.map(entry);
        let files = entries.map(|entry| entry.map(|entry| (entry.file.clone(), entry))).collect::<Result<_, _>>()?;
        Ok(Self { head, files })
    }
}

/// What is accepted as a manifest is written as one that means the same, and leads nowhere else.
#[doc(hidden)]
pub fn fuzz_manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Nobody finds a hash by trying: the right one is put behind a text that has none.
    let hash = blake3::hash(text.as_bytes()).to_string();
    for text in [text.to_owned(), text.to_owned() + &line(&End { end: hash })] {
        if let Ok(manifest) = Manifest::parse(&text) {
            assert_eq!(Manifest::parse(&manifest.encode()).as_ref(), Ok(&manifest));
            assert!(manifest.files.keys().all(|file| !Path::new(file).is_absolute() && !file.contains("/..")));
        }
    }
}

/// Returns whether a file's place is below one of a backup's folders. Who can write to a backup can write its hash anew: a
/// place must not lead out of the folder that it is restored to.
fn is_inside(file: &str) -> bool {
    let is_known = ["packs/", "tails/", "index-"].iter().any(|folder| file.starts_with(folder));
    is_known && file.split('/').all(|name| !name.is_empty() && !name.starts_with('.') && !name.contains('\0'))
}

fn line(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("these types have string keys only") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_outside_of_the_backup_is_refused() {
        let with = |file: &str| {
            let mut manifest = Manifest::new("00".to_owned(), 1, 1);
            let entry = Entry { file: file.to_owned(), bytes: 1, blake3: String::new() };
            manifest.files.insert(file.to_owned(), entry);
            Manifest::parse(&manifest.encode())
        };
        for good in ["packs/ab/abcd", "tails/abcd.123", "index-3/meta/CURRENT"] {
            assert!(with(good).is_ok(), "{good}");
        }
        let outside = [
            "index-1//etc/passwd",
            "packs/../../x",
            "index-1/meta/../../x",
            "/etc/passwd",
            "x",
            "packs/./x",
            "index-1/",
        ];
        for bad in outside {
            assert!(with(bad).unwrap_err().contains("no place in a backup"), "{bad}");
        }
    }
}
