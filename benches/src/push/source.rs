//! A corpus as a client sees a store: what is known of its paths, and their NARs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use firn_client::push::{Source, SourceError};
use firn_nix::StorePath;
use firn_nix_store::PathInfo;

use crate::corpus::Entry;

/// How much is read at a time.
const READ_BYTES: usize = 64 << 10;

/// The NARs of a corpus, as files.
pub(crate) struct Nars(HashMap<StorePath, PathBuf>);

impl Nars {
    /// Takes the NARs of a corpus.
    pub(crate) fn of(entries: &[Entry]) -> Arc<Self> {
        Arc::new(Self(entries.iter().map(|entry| (entry.info.store_path.clone(), entry.nar.clone())).collect()))
    }
}

impl Source for Nars {
    fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), SourceError> {
        let nar = self.0.get(path).ok_or_else(|| SourceError::Vanished(format!("{path} is not in the corpus")))?;
        let unreadable = |error| SourceError::Unreadable(format!("read {}: {error}", nar.display()));
        let mut file = File::open(nar).map_err(unreadable)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(read) => out.write_all(&buffer[..read]).map_err(SourceError::Stopped)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
    }
}

/// Returns what a store would know of a path of the corpus.
pub(crate) fn path_info(entry: &Entry) -> PathInfo {
    let info = &entry.info;
    PathInfo {
        id: 0,
        path: info.store_path.clone(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        registered_at: 0,
        deriver: info.deriver.clone(),
        ultimate: true,
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        ca: info.ca.as_ref().map(|ca| ca.as_str().to_owned()),
        references: info.references.iter().cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const PATH: &str = "007jd1dcw1ljvw3adysyiv131zyd9k6z-hello";

    fn nars(file: PathBuf) -> (Nars, StorePath) {
        let path = StorePath::parse_absolute(&format!("/nix/store/{PATH}"), "/nix/store").expect("a store path");
        (Nars(HashMap::from([(path.clone(), file)])), path)
    }

    #[test]
    fn a_nar_is_given_whole_and_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let contents: Vec<u8> = (0..200_000_u32).map(|number| (number % 251) as u8).collect();
        std::fs::write(folder.path().join("nar"), &contents).expect("a file");
        let (nars, path) = nars(folder.path().join("nar"));
        for _ in 0..2 {
            let mut out = Vec::new();
            nars.dump(&path, &mut out).expect("it is there");
            assert_eq!(out, contents);
        }
    }

    #[test]
    fn who_is_to_blame_is_told_apart() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::Error::other("full"))
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("nar");
        let (nars, path) = nars(file.clone());
        assert!(matches!(nars.dump(&path, &mut Vec::new()), Err(SourceError::Unreadable(_))));
        std::fs::write(&file, b"nar").expect("a file");
        assert!(matches!(nars.dump(&path, &mut Full), Err(SourceError::Stopped(_))));
        let none = Nars(HashMap::new());
        assert!(matches!(none.dump(&path, &mut Vec::new()), Err(SourceError::Vanished(_))));
    }
}
