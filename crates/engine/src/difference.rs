//! What changed from one NAR to another, by file.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use firn_chunk::ChunkId;
use firn_index::{EntryFacts, EntryKind, FileDifference, NarRow, UnixSeconds};
use firn_nix::StoreHash;
use firn_nix::nar::{Listing, Node};

use crate::clock::Clock;
use crate::recipes::StoredRecipe;
use crate::restore::Restore;
use crate::{Engine, Error, Result, files};

/// Entries of a NAR that is compared at most; the largest store paths have 500,000.
const MAX_ENTRIES: usize = 1_000_000;

/// Bytes that are restored of both NARs together: to list them, and to compare files whose chunks do not say whether they are
/// the same.
const MAX_READ_BYTES: u64 = 1 << 30;

/// How long the comparisons of one request go on, all together, in seconds of the engine's clock: its answer waits for them,
/// and firn's client gives up after a minute of silence.
const MAX_SECONDS: u64 = 20;

/// Bytes of a file that are compared at a time.
const STEP_BYTES: usize = 1 << 20;

/// Characters of a store hash.
const HASH_BYTES: u64 = 32;

/// What differs between two NARs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Uncompressed bytes of the second's chunks that the first does not have.
    pub new_bytes: u64,
    /// What is not the same, in order of the paths.
    pub files: Vec<FileDifference>,
    /// Whether the comparison ended before it was through: what it did not come to is not among the files.
    pub is_partial: bool,
}

/// What a comparison may still cost.
struct Allowance<'a> {
    bytes: u64,
    until: UnixSeconds,
    clock: &'a dyn Clock,
}

impl Allowance<'_> {
    /// Takes bytes that were restored; says whether more may be.
    fn take(&mut self, bytes: u64) -> bool {
        self.bytes = if self.clock.now() > self.until { 0 } else { self.bytes.saturating_sub(bytes) };
        self.is_left()
    }

    fn is_left(&self) -> bool {
        self.bytes > 0
    }
}

/// A NAR to compare.
#[derive(Clone, Copy)]
pub(crate) enum Compared<'a> {
    /// One that a cache has.
    Held(&'a NarRow),
    /// One that was assembled, and whose session is alive.
    Assembled { slots: &'a [StoreHash], stored: &'a Arc<StoredRecipe> },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Entry {
    Directory,
    Symlink(Vec<u8>),
    File { executable: bool, range: Range<u64> },
}

impl Entry {
    fn facts(&self) -> EntryFacts {
        match self {
            Self::Directory => EntryFacts { kind: EntryKind::Directory, bytes: 0 },
            Self::Symlink(_) => EntryFacts { kind: EntryKind::Symlink, bytes: 0 },
            Self::File { executable, range } => EntryFacts {
                kind: if *executable { EntryKind::Executable } else { EntryKind::File },
                bytes: range.end - range.start,
            },
        }
    }
}

/// One of the two, with where its chunks begin.
struct Side<'a> {
    nar: Compared<'a>,
    slots: &'a [StoreHash],
    stored: Arc<StoredRecipe>,
    starts: Vec<u64>,
    /// Where store hashes stand, and which slot each is of.
    patches: Vec<(u64, u16)>,
}

impl Engine {
    /// Compares two NARs by what is in them. Contents are read only where chunks leave it open whether they are the same.
    ///
    /// At most 1 GiB is read, for 20 seconds, of NARs of at most a million entries each; what is beyond that is left out, and
    /// the difference says that it is partial.
    ///
    /// # Errors
    /// As [`Engine::restore`].
    pub fn difference(&self, from: &NarRow, to: &NarRow) -> Result<Difference> {
        self.compare(Compared::Held(from), Compared::Held(to), self.comparing_until())
    }

    /// Returns until when a request that comes now may compare NARs.
    pub(crate) fn comparing_until(&self) -> UnixSeconds {
        self.shared.packs.clock.now().saturating_add(MAX_SECONDS)
    }

    /// Does as [`Engine::difference`] until a time.
    pub(crate) fn compare(&self, from: Compared<'_>, to: Compared<'_>, until: UnixSeconds) -> Result<Difference> {
        let clock = &*self.shared.packs.clock;
        self.compare_within(from, to, &mut Allowance { bytes: MAX_READ_BYTES, until, clock })
    }

    fn compare_within(
        &self,
        from: Compared<'_>,
        to: Compared<'_>,
        allowance: &mut Allowance<'_>,
    ) -> Result<Difference> {
        let (a, b) = (self.side(from)?, self.side(to)?);
        let known: HashSet<ChunkId> = a.stored.recipe.chunks.iter().map(|chunk| chunk.id).collect();
        let mut found = Difference { new_bytes: b.new_bytes(&known), ..Difference::default() };
        let (Some(old), Some(new)) = (self.entries(from, allowance)?, self.entries(to, allowance)?) else {
            return Ok(Difference { is_partial: true, ..found });
        };
        for (path, entry) in &new {
            let before = old.get(path);
            let is_same = match (before, entry) {
                (Some(Entry::File { executable: x, range: from }), Entry::File { executable: y, range: to }) => {
                    if x == y { self.is_same(&a, from, &b, to, allowance)? } else { Some(false) }
                }
                (before, entry) => Some(before == Some(entry)),
            };
            found.is_partial |= is_same.is_none();
            if is_same == Some(false) {
                let new_bytes = match entry {
                    Entry::File { range, .. } => b.unknown_bytes(range, &known),
                    Entry::Directory | Entry::Symlink(_) => 0,
                };
                let (from, to) = (before.map(Entry::facts), Some(entry.facts()));
                found.files.push(FileDifference { path: path.clone(), from, to, new_bytes });
            }
        }
        let gone = old.iter().filter(|(path, _)| !new.contains_key(*path)).map(|(path, entry)| FileDifference {
            path: path.clone(),
            from: Some(entry.facts()),
            to: None,
            new_bytes: 0,
        });
        found.files.extend(gone);
        found.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }

    /// Returns what is in a NAR, by path; `None` if that is too much.
    fn entries(&self, nar: Compared<'_>, allowance: &mut Allowance<'_>) -> Result<Option<BTreeMap<Vec<u8>, Entry>>> {
        let may_go_on: &mut dyn FnMut(u64) -> bool = &mut |bytes| allowance.take(bytes);
        let listing = match nar {
            Compared::Held(row) => self.listing_while(&row.recipe, &row.slots, may_go_on)?,
            Compared::Assembled { .. } => {
                files::list(self.restore_compared(nar, 0..u64::MAX)?, may_go_on)?.map(Arc::new)
            }
        };
        Ok(listing.filter(|listing| listing.entry_count() <= MAX_ENTRIES).map(|listing| flatten(&listing)))
    }

    fn restore_compared(&self, nar: Compared<'_>, range: Range<u64>) -> Result<Restore> {
        match nar {
            Compared::Held(row) => self.restore(&row.recipe, &row.slots, range),
            Compared::Assembled { slots, stored } => {
                Restore::open(&self.shared, None, Arc::clone(stored), slots, range)
            }
        }
    }

    fn side<'a>(&self, nar: Compared<'a>) -> Result<Side<'a>> {
        let (slots, stored) = match nar {
            Compared::Held(row) => {
                let of = || Error::NotFound { what: format!("the recipe {}", row.recipe) };
                let recipe = self.meta().recipe(&row.recipe)?.ok_or_else(of)?;
                (row.slots.as_slice(), self.shared.recipes.get(&self.shared.frames, &row.recipe, &recipe)?)
            }
            Compared::Assembled { slots, stored } => (slots, Arc::clone(stored)),
        };
        let mut end = 0;
        let starts = stored.recipe.chunks.iter().map(|chunk| {
            let start = end;
            end += u64::from(chunk.len);
            start
        });
        let starts = starts.collect();
        let patches = stored.recipe.patches.iter().map(|patch| (patch.position, patch.slot)).collect();
        Ok(Side { nar, slots, stored, starts, patches })
    }

    /// Says whether two files have the same contents; `None` if finding out would be too much.
    fn is_same(
        &self,
        from: &Side<'_>,
        a: &Range<u64>,
        to: &Side<'_>,
        b: &Range<u64>,
        allowance: &mut Allowance<'_>,
    ) -> Result<Option<bool>> {
        let len = a.end - a.start;
        if len != b.end - b.start {
            return Ok(Some(false));
        }
        if len == 0 || (from.pieces(a) == to.pieces(b) && from.patches(a) == to.patches(b)) {
            return Ok(Some(true));
        }
        if !allowance.is_left() {
            return Ok(None);
        }
        let (from, to) = (self.restore_compared(from.nar, a.clone())?, self.restore_compared(to.nar, b.clone())?);
        is_same_bytes(from, to, allowance)
    }
}

/// Compares what two restores give, up to the first difference; `None` if that is too much.
fn is_same_bytes(mut from: Restore, mut to: Restore, allowance: &mut Allowance<'_>) -> Result<Option<bool>> {
    let (mut a, mut b) = (Bytes::new(), Bytes::new());
    loop {
        let mut may_go_on = true;
        for (piece, restore) in [(&mut a, &mut from), (&mut b, &mut to)] {
            if piece.is_empty() {
                *piece = restore.next(STEP_BYTES)?.unwrap_or_default();
                may_go_on &= allowance.take(piece.len() as u64);
            }
        }
        let len = a.len().min(b.len());
        if len == 0 {
            return Ok(Some(a.is_empty() && b.is_empty()));
        }
        if a[..len] != b[..len] {
            return Ok(Some(false));
        }
        if !may_go_on {
            return Ok(None);
        }
        a.advance(len);
        b.advance(len);
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
    fn patches(&self, range: &Range<u64>) -> Vec<(i128, Option<StoreHash>)> {
        let first = self.patches.partition_point(|(position, _)| position + HASH_BYTES <= range.start);
        let over = self.patches[first..].iter().take_while(|(position, _)| *position < range.end);
        let place = |position: u64| i128::from(position) - i128::from(range.start);
        over.map(|(position, slot)| (place(*position), self.slots.get(usize::from(*slot)).copied())).collect()
    }

    /// Returns the bytes of chunks that are not known, each once.
    fn new_bytes(&self, known: &HashSet<ChunkId>) -> u64 {
        let mut counted = HashSet::new();
        let new =
            self.stored.recipe.chunks.iter().filter(|chunk| !known.contains(&chunk.id) && counted.insert(chunk.id));
        new.map(|chunk| u64::from(chunk.len)).sum()
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
    use std::sync::atomic::{AtomicU64, Ordering};

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
            .map(|file| {
                let bytes = |facts: Option<EntryFacts>| facts.map(|facts| facts.bytes);
                (String::from_utf8(file.path).unwrap(), bytes(file.from), bytes(file.to), file.new_bytes)
            })
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

    /// A clock by which a second passes whenever somebody looks.
    struct Hasty(AtomicU64);

    impl Clock for Hasty {
        fn now(&self) -> UnixSeconds {
            self.0.fetch_add(1, Ordering::Relaxed)
        }
    }

    /// Two builds with 40 small files, all in one stream of chunks, of which the first differs in length and the last in a byte.
    fn builds() -> [Tree; 2] {
        [("a", 'x'), ("ab", 'y')].map(|(first, last)| {
            let contents = |n: usize| match n {
                0 => first.to_owned(),
                39 => last.to_string(),
                n => format!("{n} is the same in both"),
            };
            Tree::directory((0..40).map(|n| (format!("{n:02}"), Tree::file(contents(n)))))
        })
    }

    #[test]
    fn what_is_too_much_is_left_out_and_told() {
        let fixture = Fixture::new();
        let engine = fixture.open();
        let [from, to] = builds();
        let [from, to] = rows(&engine, [&from, &to]);
        let within = |bytes, clock: &dyn Clock| {
            let allowance = &mut Allowance { bytes, until: clock.now() + MAX_SECONDS, clock };
            let found = engine.compare_within(Compared::Held(&from), Compared::Held(&to), allowance).unwrap();
            let names: Vec<String> =
                found.files.into_iter().map(|file| String::from_utf8(file.path).unwrap()).collect();
            (names, found.is_partial, found.new_bytes)
        };
        let [first, last] = ["00", "39"].map(str::to_owned);
        let new_bytes = to.nar_size;
        // Not even the names.
        assert_eq!(within(1, &*fixture.clock), (vec![], true, new_bytes));
        assert_eq!(within(from.nar_size, &*fixture.clock), (vec![], true, new_bytes));
        // The first differs in its length; some files in between are read, the last is not.
        let names_only = from.nar_size + to.nar_size;
        assert_eq!(within(names_only + 100, &*fixture.clock), (vec![first.clone()], true, new_bytes));
        assert_eq!(within(2 * names_only, &*fixture.clock), (vec![first.clone(), last.clone()], false, new_bytes));
        // By now the listings are remembered, and cost nothing.
        assert_eq!(within(1, &*fixture.clock), (vec![first.clone()], true, new_bytes));
        let (names, is_partial, _) = within(u64::MAX, &Hasty(AtomicU64::new(0)));
        assert_eq!((names, is_partial), (vec![first], true), "time is up");
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
