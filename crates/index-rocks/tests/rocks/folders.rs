//! Folders for engines, and what a crash would leave in them.

use std::fs;
use std::io;
use std::path::Path;

use firn_index::conformance::Open;
use tempfile::TempDir;

/// The folders of one test, removed at its end.
#[derive(Default)]
pub(crate) struct Folders {
    made: Vec<TempDir>,
}

impl Folders {
    /// Returns the folder for the next engine.
    pub(crate) fn folder_for(&mut self, open: Open) -> &Path {
        match open {
            Open::Fresh => self.made.push(tempfile::tempdir().expect("a temporary folder")),
            Open::Reopened => {}
            Open::Crashed => {
                let copy = crashed(self.made.last().expect("an engine was opened before").path());
                self.made.push(copy);
            }
        }
        self.made.last().expect("just made").path()
    }
}

/// Copies a folder whose engine is open: what was handed to the system is in it, what is in memory is not.
///
/// RocksDB may be writing tables in the background. A copy is good if no file changed while it was made.
pub(crate) fn crashed(folder: &Path) -> TempDir {
    for _ in 0..1000 {
        let before = listing(folder);
        let copy = tempfile::tempdir().expect("a temporary folder");
        if copy_tree(folder, copy.path()).is_ok() && listing(folder) == before {
            return copy;
        }
    }
    panic!("the files of {} never came to rest", folder.display());
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&to)?;
            copy_tree(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), &to)?;
        }
    }
    Ok(())
}

/// Returns every file's name and length.
fn listing(folder: &Path) -> Vec<(String, u64)> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be listed").flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else {
                files.push((entry.path().display().to_string(), metadata.len()));
            }
        }
    }
    files.sort();
    files
}
