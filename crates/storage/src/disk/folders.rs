//! The folders between the root and the objects: made when needed, and durable before what is in them counts.

use std::collections::HashSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use super::FOLDER_MODE;

/// More names than this are not remembered; what is forgotten is synced once more.
const MOST: usize = 4096;

#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    /// Folders, relative to the root, whose own names are known to be durable.
    durable: Mutex<HashSet<String>>,
}

impl Folders {
    /// Makes the root, and those above it that are missing, durably.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        let missing = root.ancestors().take_while(|folder| !folder.as_os_str().is_empty() && !folder.exists()).count();
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&root)?;
        File::open(&root)?.sync_all()?;
        let path = root.canonicalize()?;
        let mut above = path.ancestors().skip(1).map(|folder| File::open(folder)?.sync_all());
        if missing == 0 {
            // A crash may have come between its making and this. Often others own what is above, so this may fail.
            let _ = above.next();
        } else {
            above.take(missing).collect::<io::Result<()>>()?;
        }
        Ok(Self { root, durable: Mutex::default() })
    }

    /// Runs `work`, which gives a file the name `name`; once more after making folders, if some are missing.
    pub(super) fn with_folder_of<T>(&self, name: &str, work: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match work() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folders_of(name)?;
                work()
            }
            done => done,
        }
    }

    fn make_folders_of(&self, name: &str) -> io::Result<()> {
        for (slash, _) in name.match_indices('/') {
            let Some(folder) = name.get(..slash) else {
                continue;
            };
            match DirBuilder::new().mode(FOLDER_MODE).create(self.root.join(folder)) {
                Ok(()) => {
                    self.durable().remove(folder);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes an object's name durable, and those of the folders above it.
    pub(super) fn sync_name(&self, name: &str) -> io::Result<()> {
        self.sync_folder_of(name)?;
        let mut inner = name;
        while let Some((folder, _)) = inner.rsplit_once('/') {
            // Another thread may have made it a moment ago and not have synced it yet: that it exists says nothing.
            if !self.durable().contains(folder) {
                self.sync_folder_of(folder)?;
                let mut durable = self.durable();
                if durable.len() >= MOST {
                    durable.clear();
                }
                durable.insert(folder.to_owned());
            }
            inner = folder;
        }
        Ok(())
    }

    /// Syncs the folder that holds `name`.
    pub(super) fn sync_folder_of(&self, name: &str) -> io::Result<()> {
        let folder = match name.rsplit_once('/') {
            Some((folder, _)) => self.root.join(folder),
            None => self.root.clone(),
        };
        File::open(folder)?.sync_all()
    }

    fn durable(&self) -> MutexGuard<'_, HashSet<String>> {
        self.durable.lock().expect("nothing panics while it holds the lock")
    }
}
