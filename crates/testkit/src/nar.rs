//! File system trees and their NARs: a second, plain implementation for tests, with the whole NAR in memory.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::error::{Doing, Result};
use crate::random::Random;

/// A file system object as a NAR knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A file.
    Regular {
        /// Whether its owner may execute it.
        executable: bool,
        /// Its bytes.
        contents: Vec<u8>,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points to, byte for byte.
        target: Vec<u8>,
    },
    /// A directory; the map's order is the order of entries in a NAR.
    Directory(BTreeMap<Vec<u8>, Self>),
}

impl Node {
    /// Returns a file that is not executable.
    pub fn file(contents: impl Into<Vec<u8>>) -> Self {
        Self::Regular { executable: false, contents: contents.into() }
    }

    /// Returns a directory of the given entries.
    pub fn directory<N: AsRef<[u8]>>(entries: impl IntoIterator<Item = (N, Self)>) -> Self {
        Self::Directory(entries.into_iter().map(|(name, node)| (name.as_ref().to_vec(), node)).collect())
    }

    /// Returns the NAR of this object.
    pub fn encode(&self) -> Vec<u8> {
        let mut nar = Vec::new();
        put(&mut nar, b"nix-archive-1");
        self.encode_into(&mut nar);
        nar
    }

    fn encode_into(&self, nar: &mut Vec<u8>) {
        put_all(nar, &[b"(", b"type"]);
        match self {
            Self::Regular { executable, contents } => {
                put(nar, b"regular");
                if *executable {
                    put_all(nar, &[b"executable", b""]);
                }
                put_all(nar, &[b"contents", contents]);
            }
            Self::Symlink { target } => put_all(nar, &[b"symlink", b"target", target]),
            Self::Directory(entries) => {
                put(nar, b"directory");
                for (name, node) in entries {
                    put_all(nar, &[b"entry", b"(", b"name", name, b"node"]);
                    node.encode_into(nar);
                    put(nar, b")");
                }
            }
        }
        put(nar, b")");
    }

    /// Creates this object at `path`, where nothing may be yet.
    pub fn create(&self, path: &Path) -> Result<()> {
        let doing = || format!("create {}", path.display());
        match self {
            Self::Regular { executable, contents } => {
                fs::write(path, contents).doing(doing)?;
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).doing(doing)
            }
            Self::Symlink { target } => symlink(OsStr::from_bytes(target), path).doing(doing),
            Self::Directory(entries) => {
                fs::create_dir(path).doing(doing)?;
                entries.iter().try_for_each(|(name, node)| node.create(&path.join(OsStr::from_bytes(name))))
            }
        }
    }

    /// Returns a package-like tree of roughly `bytes` bytes: a few large binaries, many small texts, links, and the
    /// given store paths mentioned in both. The same arguments give the same tree.
    pub fn package(seed: u64, bytes: usize, references: &[String]) -> Self {
        let mut random = Random::new(seed);
        let mut share = BTreeMap::new();
        let mut bin = BTreeMap::new();
        let mut left = bytes;
        while left > 0 {
            let large = random.below(12) == 0;
            let len = if large { 1 + random.below(600_000) } else { 1 + random.below(9_000) }.min(left);
            left -= len;
            let contents = mention(&mut random, len, large, references);
            if large {
                bin.insert(format!("program-{}", bin.len()).into_bytes(), Self::Regular { executable: true, contents });
            } else {
                share.insert(format!("file-{}.txt", share.len()).into_bytes(), Self::file(contents));
            }
        }
        bin.insert(b"start".to_vec(), Self::Symlink { target: b"program-0".to_vec() });
        Self::directory([
            ("bin", Self::Directory(bin)),
            ("empty", Self::directory::<&str>([])),
            ("share", Self::Directory(share)),
        ])
    }
}

/// Returns `len` bytes of noise or text in which a reference stands now and then.
fn mention(random: &mut Random, len: usize, binary: bool, references: &[String]) -> Vec<u8> {
    let mut contents = if binary { random.noise(len) } else { random.text(len) };
    for _ in 0..=len / 20_000 {
        let Some(reference) = references.get(random.below(references.len())) else {
            break;
        };
        if contents.len() > reference.len() {
            let at = random.below(contents.len() - reference.len());
            if let Some(place) = contents.get_mut(at..at + reference.len()) {
                place.copy_from_slice(reference.as_bytes());
            }
        }
    }
    contents
}

/// Appends one string as a NAR holds it: length, bytes, zeros up to a multiple of eight.
pub fn put(nar: &mut Vec<u8>, bytes: &[u8]) {
    nar.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
    nar.extend_from_slice(bytes);
    nar.resize(nar.len().next_multiple_of(8), 0);
}

/// Appends several strings, see [`put`].
pub fn put_all(nar: &mut Vec<u8>, strings: &[&[u8]]) {
    for string in strings {
        put(nar, string);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_nar_is_laid_out_as_documented() {
        let mut expected = Vec::new();
        for word in ["nix-archive-1", "(", "type", "regular", "contents", "hi", ")"] {
            expected.extend_from_slice(&(word.len() as u64).to_le_bytes());
            expected.extend_from_slice(word.as_bytes());
            while expected.len() % 8 != 0 {
                expected.push(0);
            }
        }
        assert_eq!(Node::file("hi").encode(), expected);
    }

    #[test]
    fn a_package_is_a_function_of_its_arguments() {
        let references = ["/nix/store/00000000000000000000000000000000-x".to_owned()];
        let package = Node::package(3, 500_000, &references);
        assert_eq!(package, Node::package(3, 500_000, &references));
        assert_ne!(package, Node::package(4, 500_000, &references));
        let nar = package.encode();
        assert!(nar.len() > 500_000);
        assert!(nar.windows(45).any(|window| window == references[0].as_bytes()));
    }
}
