//! Objects of a folder in the order of their names.

use std::fs;
use std::io;
use std::path::Path;

use crate::{ObjectEntry, check_name};

/// Lists the objects below `root`; see [`Storage::list`](crate::Storage::list).
///
/// Takes memory for the names of one folder at each level, and for the answer.
pub(super) fn list(root: &Path, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Vec<ObjectEntry>> {
    let mut listing = Listing { root, prefix, after: after.unwrap_or_default(), limit, found: Vec::new() };
    listing.walk("")?;
    Ok(listing.found)
}

struct Listing<'a> {
    root: &'a Path,
    prefix: &'a str,
    /// Before every name when empty.
    after: &'a str,
    limit: usize,
    found: Vec<ObjectEntry>,
}

impl Listing<'_> {
    /// Adds the objects of a folder, which is "" or ends in a slash. A folder's depth is limited by that of names.
    fn walk(&mut self, folder: &str) -> io::Result<()> {
        for name in self.names(folder)? {
            if self.found.len() >= self.limit {
                break;
            }
            if name.ends_with('/') {
                self.walk(&name)?;
            } else {
                match fs::symlink_metadata(self.root.join(&name)) {
                    Ok(metadata) => self.found.push(ObjectEntry { name, len: metadata.len() }),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Returns the names of the folder's objects and folders that can matter, sorted. Folders end in a slash,
    /// which is how they compare with the names beside them.
    fn names(&self, folder: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        let entries = match fs::read_dir(self.root.join(folder)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let Ok(mut name) = entry.file_name().into_string() else {
                continue;
            };
            name.insert_str(0, folder);
            let kind = match entry.file_type() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                kind => kind?,
            };
            if check_name(&name).is_err() {
                continue;
            }
            if kind.is_dir() {
                name.push('/');
            }
            if (kind.is_dir() && self.may_hold(&name)) || (kind.is_file() && self.wants(&name)) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn wants(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && name > self.after
    }

    fn may_hold(&self, folder: &str) -> bool {
        (folder.starts_with(self.prefix) || self.prefix.starts_with(folder))
            && (folder > self.after || self.after.starts_with(folder))
    }
}
