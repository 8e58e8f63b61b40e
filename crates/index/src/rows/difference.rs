use firn_nix::{Sha256, StoreHash};
use serde::{Deserialize, Serialize};

use super::{DocumentKey, DocumentKind, Row, RowError, decode};

/// What stands under a name in a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A file that is not executable.
    File,
    /// A file that is.
    Executable,
}

/// What is known of an entry of a NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryFacts {
    /// Its kind.
    pub kind: EntryKind,
    /// Its length in bytes; 0 for what is no file.
    pub bytes: u64,
}

/// A file, directory or symlink that is not the same in two NARs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDifference {
    /// Its path, empty for the root; names are bytes.
    pub path: Vec<u8>,
    /// What it is in the first NAR; `None` if it is not there.
    pub from: Option<EntryFacts>,
    /// What it is in the second.
    pub to: Option<EntryFacts>,
    /// Bytes of it in chunks that the first NAR does not have.
    pub new_bytes: u64,
}

/// What differs between the NAR of a path and another one that was offered for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DifferenceRow {
    /// The NAR that the path had.
    pub first: Sha256,
    /// Uncompressed bytes of the other one's chunks that the first does not have.
    pub new_bytes: u64,
    /// How many entries are known to differ.
    pub total: u64,
    /// The first of these, as [`DifferenceRow::new`] chooses them.
    pub files: Vec<FileDifference>,
    /// Whether the comparison ended before it was through: more may differ.
    pub is_partial: bool,
}

impl Row for DifferenceRow {
    const NAME: &'static str = "difference of two NARs";
    const VERSION: u8 = 2;

    /// Reads version 1 too, which ended before `is_partial`: comparisons had no end but the last file.
    fn decode(bytes: &[u8]) -> Result<Self, RowError> {
        match bytes.split_first() {
            Some((1, rest)) => decode(&[&[Self::VERSION][..], rest, &[0]].concat()),
            _ => decode(bytes),
        }
    }
}

impl DifferenceRow {
    /// Entries that are kept at most.
    pub const MAX_FILES: usize = 100;

    /// Bytes that the kept entries take at most.
    pub const MAX_BYTES: usize = 16 << 10;

    /// Bytes that an entry takes beside its path, at most: two lengths of a path and a list, two kinds, three numbers.
    const ENTRY_BYTES: usize = 48;

    /// Keeps those of the entries that differ most, by their new bytes and then by their paths, as far as the limits go.
    pub fn new(first: Sha256, new_bytes: u64, mut files: Vec<FileDifference>, is_partial: bool) -> Self {
        let total = files.len() as u64;
        files.sort_by(|a, b| (b.new_bytes, &a.path).cmp(&(a.new_bytes, &b.path)));
        let mut bytes = 0;
        let fits = files.iter().take(Self::MAX_FILES).take_while(|file| {
            bytes += file.path.len() + Self::ENTRY_BYTES;
            bytes <= Self::MAX_BYTES
        });
        files.truncate(fits.count());
        Self { first, new_bytes, total, files, is_partial }
    }

    /// Returns the key under which it is known of a path and the NAR that was offered.
    pub fn key(path: &StoreHash, offered: &Sha256) -> DocumentKey {
        DocumentKey { kind: DocumentKind::Difference, name: format!("{path}/{}", offered.to_nix32()) }
    }

    /// Returns the path that a key is about; `None` for a name that [`DifferenceRow::key`] does not make.
    pub fn path_of(name: &str) -> Option<StoreHash> {
        name.split_once('/')?.0.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, new_bytes: u64) -> FileDifference {
        let facts = EntryFacts { kind: EntryKind::Executable, bytes: u64::MAX };
        FileDifference { path: path.as_bytes().to_vec(), from: Some(facts), to: Some(facts), new_bytes }
    }

    #[test]
    fn what_differs_most_is_kept_within_limits() {
        let of = |files| DifferenceRow::new(Sha256([1; 32]), 7, files, false);
        let few = of(vec![file("a", 1), file("c", 2), file("b", 2)]);
        let names: Vec<&[u8]> = few.files.iter().map(|file| file.path.as_slice()).collect();
        assert_eq!((names, few.total), (vec![&b"b"[..], b"c", b"a"], 3));

        let many = of((0..1000).map(|n| file(&format!("{n:04}"), 0)).collect());
        assert_eq!((many.files.len(), many.total), (DifferenceRow::MAX_FILES, 1000));

        for len in [100, 1000, DifferenceRow::MAX_BYTES - DifferenceRow::ENTRY_BYTES, 1 << 20] {
            let long = of((0..90).map(|_| file(&"x".repeat(len), u64::MAX)).collect());
            assert!(long.encode().len() <= DifferenceRow::MAX_BYTES + 100, "{len}: {}", long.encode().len());
            let fit = (DifferenceRow::MAX_BYTES / (len + DifferenceRow::ENTRY_BYTES)).min(90);
            assert_eq!((long.files.len(), long.total), (fit, 90), "{len}");
        }
    }

    #[test]
    fn what_the_first_version_wrote_is_read() {
        let row = DifferenceRow::new(Sha256([1; 32]), 7, vec![file("a", 1)], false);
        let now = row.encode();
        let (without_last, last) = now.split_at(now.len() - 1);
        let before = [&[1][..], &without_last[1..]].concat();
        assert_eq!((now[0], last), (2, &[0][..]));
        assert_eq!((DifferenceRow::decode(&before).unwrap(), DifferenceRow::decode(&now).unwrap()), (row.clone(), row));
        let longer = [&now[..], &[0]].concat();
        for bad in [&[][..], &[1], &[3, 0], &before[..before.len() - 1], &longer] {
            assert!(DifferenceRow::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn keys_say_which_path() {
        let (path, nar) = (StoreHash([3; 20]), Sha256([9; 32]));
        let key = DifferenceRow::key(&path, &nar);
        assert_eq!((key.kind, key.name.len()), (DocumentKind::Difference, 32 + 1 + 52));
        assert_eq!(DifferenceRow::path_of(&key.name), Some(path));
        assert_eq!((DifferenceRow::path_of("x/y"), DifferenceRow::path_of(&path.to_string())), (None, None));
    }
}
