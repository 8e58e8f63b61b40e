//! What is in a NAR and where: the `.ls` file of a store path.

mod json;

use super::Event;
use crate::{Error, Result};

pub use json::ListingJson;

/// The most files, directories and symlinks of a listing; the largest store paths have some 500,000.
pub const MAX_LISTING_ENTRIES: usize = 2_000_000;

/// The most bytes of names and targets together in a listing.
pub const MAX_LISTING_TEXT: usize = 128 << 20;

/// The most bytes of memory that a listing takes.
pub const MAX_LISTING_BYTES: u64 = (MAX_LISTING_ENTRIES * size_of::<Entry>() + MAX_LISTING_TEXT) as u64;

/// A piece of the listing's text.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Ends before the entry of this number.
    Directory {
        end: u32,
    },
    Regular {
        executable: bool,
        offset: u64,
        size: u64,
    },
    Symlink {
        target: Span,
    },
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// Empty for the root.
    name: Span,
    kind: Kind,
}

/// The tree of a NAR without the contents: types, sizes, and where each file's contents begin.
///
/// Takes 40 bytes for an entry, and its name and target.
#[derive(Debug, Clone)]
pub struct Listing {
    /// In the order of the NAR, so that a directory is followed by all that is in it.
    entries: Vec<Entry>,
    text: Vec<u8>,
}

/// A node of a [`Listing`].
#[derive(Debug, Clone, Copy)]
pub enum Node<'a> {
    /// A directory.
    Directory(Directory<'a>),
    /// A regular file.
    Regular {
        /// If it may be executed.
        executable: bool,
        /// Where in the NAR its contents begin.
        offset: u64,
        /// The length of its contents.
        size: u64,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: &'a [u8],
    },
}

/// A directory of a [`Listing`].
#[derive(Debug, Clone, Copy)]
pub struct Directory<'a> {
    listing: &'a Listing,
    first: u32,
    end: u32,
}

impl Listing {
    /// Returns the root, which need not be a directory.
    #[must_use]
    pub fn root(&self) -> Node<'_> {
        self.node(0, self.entries[0])
    }

    /// Returns the node at the end of these names, without following symlinks; the root for none.
    #[must_use]
    pub fn find<'p>(&self, names: impl IntoIterator<Item = &'p [u8]>) -> Option<Node<'_>> {
        names.into_iter().try_fold(self.root(), |node, name| match node {
            Node::Directory(directory) => directory.get(name),
            Node::Regular { .. } | Node::Symlink { .. } => None,
        })
    }

    /// Returns how many files, directories and symlinks there are, with the root.
    #[must_use]
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// Returns how many bytes of memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        (self.entries.len() * size_of::<Entry>() + self.text.len()) as u64
    }

    /// Returns the JSON of a `.ls` file, as [`ListingJson::whole`] writes it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.text.len() + 80 * self.entries.len());
        ListingJson::whole(self).fill(&mut out, usize::MAX);
        out
    }

    fn node(&self, number: u32, entry: Entry) -> Node<'_> {
        match entry.kind {
            Kind::Directory { end } => Node::Directory(Directory { listing: self, first: number + 1, end }),
            Kind::Regular { executable, offset, size } => Node::Regular { executable, offset, size },
            Kind::Symlink { target } => Node::Symlink { target: self.text(target) },
        }
    }

    fn text(&self, span: Span) -> &[u8] {
        &self.text[span.start as usize..][..span.len as usize]
    }
}

impl<'a> Directory<'a> {
    /// Returns the names and nodes in the order of the NAR: sorted by name.
    pub fn entries(self) -> impl Iterator<Item = (&'a [u8], Node<'a>)> {
        let mut number = self.first;
        std::iter::from_fn(move || {
            if number == self.end {
                return None;
            }
            let entry = self.listing.entries[number as usize];
            let node = self.listing.node(number, entry);
            number = match node {
                Node::Directory(directory) => directory.end,
                Node::Regular { .. } | Node::Symlink { .. } => number + 1,
            };
            Some((self.listing.text(entry.name), node))
        })
    }

    /// Returns the node called `name`, in time linear in the number of entries.
    #[must_use]
    pub fn get(self, name: &[u8]) -> Option<Node<'a>> {
        self.entries().find(|&(other, _)| other >= name).filter(|&(other, _)| other == name).map(|(_, node)| node)
    }
}

/// Makes a [`Listing`] of the [`Event`]s of a NAR.
///
/// Events have no way to fail, so that beyond a limit it forgets everything and [`Self::finish`] has the error.
#[derive(Debug, Default)]
pub struct ListingBuilder {
    entries: Vec<Entry>,
    text: Vec<u8>,
    /// The name of the entry whose node comes next.
    name: Span,
    /// The numbers of the open directories.
    open: Vec<u32>,
    too_large: Option<Error>,
}

impl ListingBuilder {
    /// Returns a builder that has seen nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next event.
    pub fn event(&mut self, event: Event<'_>) {
        if self.too_large.is_some() {
            return;
        }
        match event {
            Event::Entry { name } => self.name = self.add_text(name),
            Event::Directory => {
                self.open.push(self.entries.len() as u32);
                self.add(Kind::Directory { end: 0 });
            }
            Event::EndDirectory => self.end_directory(),
            Event::Regular { executable, offset, size } => self.add(Kind::Regular { executable, offset, size }),
            Event::Symlink { target } => {
                let target = self.add_text(target);
                self.add(Kind::Symlink { target });
            }
            Event::Contents(_) => {}
        }
    }

    /// Returns the listing, or an error if the tree is not whole or larger than the limits.
    pub fn finish(self) -> Result<Listing> {
        if let Some(error) = self.too_large {
            return Err(error);
        }
        if self.entries.is_empty() || !self.open.is_empty() {
            return Err(Error::invalid("listing", "the tree is not whole"));
        }
        // It is kept, and a vector that grew may have twice what it holds.
        let (mut entries, mut text) = (self.entries, self.text);
        entries.shrink_to_fit();
        text.shrink_to_fit();
        Ok(Listing { entries, text })
    }

    fn add(&mut self, kind: Kind) {
        if self.entries.len() >= MAX_LISTING_ENTRIES {
            return self.give_up("listing", MAX_LISTING_ENTRIES);
        }
        self.entries.push(Entry { name: self.name, kind });
    }

    fn end_directory(&mut self) {
        let end = self.entries.len() as u32;
        let number = self.open.pop().and_then(|number| usize::try_from(number).ok());
        if let Some(entry) = number.and_then(|number| self.entries.get_mut(number)) {
            entry.kind = Kind::Directory { end };
        }
    }

    fn add_text(&mut self, text: &[u8]) -> Span {
        if text.len() > MAX_LISTING_TEXT - self.text.len() {
            self.give_up("text of a listing", MAX_LISTING_TEXT);
            return Span::default();
        }
        let span = Span { start: self.text.len() as u32, len: text.len() as u32 };
        self.text.extend_from_slice(text);
        span
    }

    fn give_up(&mut self, what: &'static str, limit: usize) {
        *self = Self { too_large: Some(Error::TooLarge { what, limit }), ..Self::default() };
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
