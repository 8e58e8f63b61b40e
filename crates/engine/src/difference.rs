//! What changed from one NAR to another, by file.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use firn_chunk::ChunkId;
use firn_index::NarRow;
use firn_nix::nar::{Listing, Node};

use crate::recipes::StoredRecipe;
use crate::{Engine, Error, Result};

/// Files that are compared at most; the largest store paths have 500,000.
const MAX_FILES: usize = 1_000_000;

/// Bytes that are restored to compare files whose chunks do not say whether they are the same.
const MAX_COMPARED_BYTES: u64 = 256 << 20;

/// Characters of a store hash.
const HASH_BYTES: u64 = 32;

/// What differs between two NARs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Uncompressed bytes of the second's chunks that the first does not have.
    pub new_bytes: u64,
    /// What is not the same, in order of the paths.
    pub files: Vec<FileDifference>,
}

/// A file, directory or symlink that is not the same in two NARs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileDifference {
    /// Its path; names are bytes.
    pub path: Vec<u8>,
    /// Its length in the first NAR: `None` if it is not there, 0 for what is no file.
    pub from_bytes: Option<u64>,
    /// Its length in the second.
    pub to_bytes: Option<u64>,
    /// Bytes of it in chunks that the first NAR does not have.
    pub new_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    Symlink(Vec<u8>),
    File { executable: bool, range: Range<u64> },
}

impl Entry {
    fn len(&self) -> u64 {
        match self {
            Self::File { range, .. } => range.end - range.start,
            Self::Directory | Self::Symlink(_) => 0,
        }
    }
}

/// One of the two, with where its chunks begin.
struct Side<'a> {
    row: &'a NarRow,
    stored: Arc<StoredRecipe>,
    starts: Vec<u64>,
    /// Where store hashes stand, and which slot each is of.
    patches: Vec<(u64, u16)>,
}

impl Engine {
    /// Compares two NARs by what is in them. Contents are read only where chunks leave it open whether they are the same,
    /// and at most 256 MiB of them; a file beyond that counts as changed.
    ///
    /// # Errors
    /// As [`Engine::restore`]; [`Error::TooLarge`] for more than a million files.
    pub fn difference(&self, from: &NarRow, to: &NarRow) -> Result<Difference> {
        let (old, new) = (self.entries(from)?, self.entries(to)?);
        let (from, to) = (self.side(from)?, self.side(to)?);
        let known: HashSet<ChunkId> = from.stored.recipe.chunks.iter().map(|chunk| chunk.id).collect();
        let mut found = Difference::default();
        let mut counted = HashSet::new();
        for chunk in to.stored.recipe.chunks.iter().filter(|chunk| !known.contains(&chunk.id)) {
            if counted.insert(chunk.id) {
                found.new_bytes += u64::from(chunk.len);
            }
        }
        let mut budget = MAX_COMPARED_BYTES;
        for (path, entry) in &new {
            let before = old.get(path);
            let is_same = match (before, entry) {
                (Some(Entry::File { executable: x, range: a }), Entry::File { executable: y, range: b }) => {
                    x == y && self.is_same(&from, a, &to, b, &mut budget)?
                }
                (before, entry) => before == Some(entry),
            };
            if !is_same {
                let new_bytes = match entry {
                    Entry::File { range, .. } => to.unknown_bytes(range, &known),
                    Entry::Directory | Entry::Symlink(_) => 0,
                };
                let (from_bytes, to_bytes) = (before.map(Entry::len), Some(entry.len()));
                found.files.push(FileDifference { path: path.clone(), from_bytes, to_bytes, new_bytes });
            }
        }
        let gone = old.iter().filter(|(path, _)| !new.contains_key(*path)).map(|(path, entry)| FileDifference {
            path: path.clone(),
            from_bytes: Some(entry.len()),
            to_bytes: None,
            new_bytes: 0,
        });
        found.files.extend(gone);
        found.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    fn entries(&self, nar: &NarRow) -> Result<BTreeMap<Vec<u8>, Entry>> {
        let listing = self.listing(&nar.recipe, &nar.slots)?;
        if listing.entry_count() > MAX_FILES {
            return Err(Error::TooLarge { limit: MAX_FILES as u64 });
        }
        Ok(flatten(&listing))
    }

    fn side<'a>(&self, row: &'a NarRow) -> Result<Side<'a>> {
        let of = || Error::NotFound { what: format!("the recipe {}", row.recipe) };
        let recipe = self.meta().recipe(&row.recipe)?.ok_or_else(of)?;
        let stored = self.shared.recipes.get(&self.shared.frames, &row.recipe, &recipe)?;
        let mut end = 0;
        let starts = stored.recipe.chunks.iter().map(|chunk| {
            let start = end;
            end += u64::from(chunk.len);
            start
        });
        let starts = starts.collect();
        let patches = stored.recipe.patches.iter().map(|patch| (patch.position, patch.slot)).collect();
        Ok(Side { row, stored, starts, patches })
    }

    /// Says whether two files have the same contents.
    fn is_same(
        &self,
        from: &Side<'_>,
        a: &Range<u64>,
        to: &Side<'_>,
        b: &Range<u64>,
        budget: &mut u64,
    ) -> Result<bool> {
        let len = a.end - a.start;
        if len != b.end - b.start {
            return Ok(false);
        }
        if len == 0 || (from.pieces(a) == to.pieces(b) && from.patches(a) == to.patches(b)) {
            return Ok(true);
        }
        let Some(left) = budget.checked_sub(len) else { return Ok(false) };
        *budget = left;
        let restore = |side: &Side<'_>, range: &Range<u64>| -> Result<Vec<u8>> {
            let mut restore = self.restore(&side.row.recipe, &side.row.slots, range.clone())?;
            let mut bytes = Vec::new();
            while let Some(piece) = restore.next(1 << 20)? {
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes)
        };
        Ok(restore(from, a)? == restore(to, b)?)
    }
}

impl Side<'_> {
    fn first_over(&self, range: &Range<u64>) -> usize {
        self.starts.partition_point(|start| *start <= range.start).saturating_sub(1)
    }

    /// Returns the chunks over a range, and which part of each.
    fn pieces(&self, range: &Range<u64>) -> Vec<(ChunkId, u64, u64)> {
        let chunks = self.stored.recipe.chunks.iter().zip(&self.starts).skip(self.first_over(range));
        let over = chunks.take_while(|(_, start)| **start < range.end);
        over.map(|(chunk, start)| {
            let end = start + u64::from(chunk.len);
            (chunk.id, range.start.max(*start) - start, range.end.min(end) - start)
        })
        .collect()
    }

    /// Returns where store hashes stand in a range, from its beginning, and which.
    fn patches(&self, range: &Range<u64>) -> Vec<(i128, Option<firn_nix::StoreHash>)> {
        let first = self.patches.partition_point(|(position, _)| position + HASH_BYTES <= range.start);
        let over = self.patches[first..].iter().take_while(|(position, _)| *position < range.end);
        let place = |position: u64| i128::from(position) - i128::from(range.start);
        over.map(|(position, slot)| (place(*position), self.row.slots.get(usize::from(*slot)).copied())).collect()
    }

    fn unknown_bytes(&self, range: &Range<u64>, known: &HashSet<ChunkId>) -> u64 {
        let pieces = self.pieces(range);
        pieces.iter().filter(|(id, ..)| !known.contains(id)).map(|(_, from, to)| to - from).sum()
    }
}

/// Returns all entries by their paths; the root's path is empty.
fn flatten(listing: &Listing) -> BTreeMap<Vec<u8>, Entry> {
    let mut all = BTreeMap::new();
    let mut open = vec![(Vec::new(), listing.root())];
    while let Some((path, node)) = open.pop() {
        let entry = match node {
            Node::Regular { executable, offset, size } => Entry::File { executable, range: offset..offset + size },
            Node::Symlink { target } => Entry::Symlink(target.to_vec()),
            Node::Directory(directory) => {
                for (name, node) in directory.entries() {
                    let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                    open.push(([&path, separator, name].concat(), node));
                }
                Entry::Directory
            }
        };
        all.insert(path, entry);
    }
    all
}

#[cfg(test)]
mod tests {
    use firn_testkit::nar::Node as Tree;
    use firn_testkit::random::Random;

    use super::*;
    use crate::fixture::{Fixture, cache, path, push};

    fn rows(engine: &Engine, trees: [&Tree; 2]) -> [NarRow; 2] {
        trees.map(|tree| {
            let pushed = push(engine, &tree.encode()).unwrap();
            engine.meta().nar(&cache(), &pushed.nar_hash).unwrap().unwrap()
        })
    }

    fn difference(from: &Tree, to: &Tree) -> Vec<(String, Option<u64>, Option<u64>, u64)> {
        let engine = Fixture::new().open();
        let [from, to] = rows(&engine, [from, to]);
        let found = engine.difference(&from, &to).unwrap();
        assert_eq!(engine.difference(&from, &from).unwrap(), Difference::default());
        let files = found.files.into_iter();
        files
            .map(|file| (String::from_utf8(file.path).unwrap(), file.from_bytes, file.to_bytes, file.new_bytes))
            .collect()
    }

    #[test]
    fn files_that_changed_came_and_went() {
        let (big, other) = (Random::new(1).noise(100_000), Random::new(2).noise(100_000));
        let link = |target: &str| Tree::Symlink { target: target.as_bytes().to_vec() };
        let from = Tree::directory([
            ("big", Tree::file(big.clone())),
            ("gone", Tree::file("x")),
            ("link", link("a")),
            ("same", Tree::file("the same")),
            ("small", Tree::file("one")),
        ]);
        let to = Tree::directory([
            ("big", Tree::file(other)),
            ("link", link("b")),
            ("new", Tree::directory([("deep", Tree::file(big))])),
            ("same", Tree::file("the same")),
            ("small", Tree::file("two")),
        ]);
        let found = difference(&from, &to);
        let small = found.iter().find(|file| file.0 == "small").unwrap();
        assert_eq!((small.1, small.2), (Some(3), Some(3)));
        let rest: Vec<_> = found.into_iter().filter(|file| file.0 != "small").collect();
        let named = |name: &str, from, to, new| (name.to_owned(), from, to, new);
        assert_eq!(
            rest,
            [
                named("big", Some(100_000), Some(100_000), 100_000),
                named("gone", Some(1), None, 0),
                named("link", Some(0), Some(0), 0),
                named("new", None, Some(0), 0),
                named("new/deep", None, Some(100_000), 0),
            ]
        );
    }

    #[test]
    fn a_store_hash_that_changed_is_a_change_without_new_bytes() {
        let text = |name: &str| {
            let mut text = vec![b'x'; 40_000];
            text.extend(path(name).to_absolute("/nix/store").into_bytes());
            text.truncate(40_000 + 44);
            Tree::directory([("file", Tree::file(text)), ("other", Tree::file(vec![b'y'; 40_000]))])
        };
        let found = difference(&text("a"), &text("b"));
        assert_eq!(found, [("file".to_owned(), Some(40_044), Some(40_044), 0)]);
    }
}
