//! Files that are kept open for reading.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

/// How many files are kept open: a pack has 32 MiB, so these cover 8 GiB, within the common limit of 1024.
const MOST: usize = 256;

/// A bounded map of open files; the one that was not used for longest goes first.
#[derive(Debug)]
pub(super) struct OpenFiles {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: HashMap<String, (Arc<File>, u64)>,
    /// Counts uses, to tell which is the oldest.
    uses: u64,
    /// Counts deletions: see [`OpenFiles::get`].
    deletions: u64,
}

impl OpenFiles {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default() }
    }

    /// Returns the object's file, opened now if it was not open.
    pub(super) fn get(&self, name: &str, path: &Path) -> io::Result<Arc<File>> {
        let deletions = {
            let mut state = self.state();
            if let Some(file) = state.find(name) {
                return Ok(file);
            }
            state.deletions
        };
        let file = Arc::new(File::open(path)?);
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut state = self.state();
        // A file that was deleted since it was opened must not be kept: its space would never be free.
        if state.deletions == deletions {
            state.keep(name, Arc::clone(&file));
        }
        Ok(file)
    }

    /// Closes an object's file, once its readers are done. Called after the file was deleted.
    pub(super) fn forget(&self, name: &str) {
        let mut state = self.state();
        state.deletions += 1;
        state.open.remove(name);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds the lock")
    }
}

impl State {
    fn find(&mut self, name: &str) -> Option<Arc<File>> {
        self.uses += 1;
        let (file, used) = self.open.get_mut(name)?;
        *used = self.uses;
        Some(Arc::clone(file))
    }

    fn keep(&mut self, name: &str, file: Arc<File>) {
        if self.open.len() >= MOST {
            let oldest = self.open.iter().min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.open.remove(&oldest);
            }
        }
        self.open.insert(name.to_owned(), (file, self.uses));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_number_of_open_files_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let files = OpenFiles::new();
        for number in 0..MOST + 10 {
            let path = folder.path().join(number.to_string());
            fs::write(&path, "x").unwrap();
            files.get(&number.to_string(), &path).unwrap();
            files.get("0", &folder.path().join("0")).unwrap();
        }
        let state = files.state();
        assert_eq!(state.open.len(), MOST);
        assert!(state.open.contains_key("0"), "it is used all the time");
        assert!(!state.open.contains_key("1"));
    }

    #[test]
    fn a_deleted_file_is_closed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "x").unwrap();
        let files = OpenFiles::new();
        let file = Arc::downgrade(&files.get("a", &path).unwrap());
        assert!(file.upgrade().is_some());
        files.forget("a");
        assert!(file.upgrade().is_none());
    }
}
