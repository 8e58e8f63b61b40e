//! Paths for tests.

use std::collections::HashMap;
use std::io::Write;

use firn_nix::{Sha256, StoreHash, StorePath};
use firn_nix_store::PathInfo;

use super::source::{Source, SourceError};

/// Returns a path with a hash made of its name.
pub(crate) fn path(name: &str) -> StorePath {
    let hash = Sha256::of(name.as_bytes());
    StorePath::new(StoreHash(*hash.0.first_chunk().unwrap()), name).unwrap()
}

/// Returns what a store would know of a path with a NAR of no particular content.
pub(crate) fn info(name: &str, nar_size: u64) -> PathInfo {
    PathInfo {
        id: 1,
        path: path(name),
        nar_hash: Sha256([0; 32]),
        nar_size,
        registered_at: 0,
        deriver: None,
        ultimate: true,
        signatures: Vec::new(),
        ca: None,
        references: Vec::new(),
    }
}

/// NARs in memory.
#[derive(Debug, Default)]
pub(crate) struct Nars(pub(crate) HashMap<StorePath, Vec<u8>>);

impl Nars {
    /// Adds a path with one file and returns what a store would know of it.
    pub(crate) fn add(&mut self, name: &str, contents: &[u8], references: &[&str]) -> PathInfo {
        let nar = firn_testkit::nar::Node::file(contents).encode();
        let mut info = PathInfo { nar_hash: Sha256::of(&nar), ..info(name, nar.len() as u64) };
        info.references = references.iter().map(|name| path(name)).collect();
        self.0.insert(info.path.clone(), nar);
        info
    }
}

impl Source for Nars {
    fn dump(&self, path: &StorePath, out: &mut dyn Write) -> Result<(), SourceError> {
        let nar = self.0.get(path).ok_or_else(|| SourceError::Vanished(format!("dump {path}: it is not there")))?;
        // In pieces, as a store gives them.
        nar.chunks(10_000).try_for_each(|piece| out.write_all(piece)).map_err(SourceError::Stopped)
    }
}
