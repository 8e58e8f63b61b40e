//! Files of the workspace that are shipped as they are.

use std::fs;
use std::path::{Path, PathBuf};

/// Returns the root of the workspace.
///
/// # Panics
/// If it is gone.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

/// Returns the text of a file, whose path counts from the workspace on.
///
/// # Panics
/// If there is none.
pub fn read(path: impl AsRef<Path>) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Finds the files with an extension in a folder and all below it.
///
/// # Panics
/// If there is no such folder.
pub fn files_below(folder: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, extension, found);
        } else if path.extension().is_some_and(|this| this == extension) {
            found.push(path);
        }
    }
}
