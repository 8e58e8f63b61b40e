//! The JSON of a listing, a piece at a time: a path may have more files than anybody wants to hold text for.

use std::borrow::Borrow;
use std::io::Write as _;

use super::{Directory, Entry, Kind, Listing};

/// Writes the JSON of a [`Listing`], or of one of its directories, in pieces.
///
/// JSON is UTF-8 and names are not: what is not UTF-8 in a name or target comes out as U+FFFD. (Nix cannot list such paths.)
#[derive(Debug, Clone)]
pub struct ListingJson<L> {
    listing: L,
    form: Form,
    /// The number of the entry that comes next.
    next: u32,
    /// Before which entries the open directories end.
    open: Vec<u32>,
    /// Whether something of the directory that is open was written.
    goes_on: bool,
    progress: Progress,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// All that there is, as the `.ls` file.
    Whole,
    /// What is in one directory, without what is below, and where contents begin.
    Shallow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    AtStart,
    Inside,
    AtEnd,
}

impl<L: Borrow<Listing>> ListingJson<L> {
    /// Returns what writes a `.ls` file, version 1, byte for byte as Nix 2.26 and 2.34 upload it.
    pub fn whole(listing: L) -> Self {
        Self::new(listing, Form::Whole, 0)
    }

    /// Returns what writes the entries of a directory of that listing, without what is below them.
    pub fn of_directory(listing: L, directory: &Directory<'_>) -> Self {
        Self::new(listing, Form::Shallow, directory.first - 1)
    }

    fn new(listing: L, form: Form, next: u32) -> Self {
        Self { listing, form, next, open: Vec::new(), goes_on: false, progress: Progress::AtStart }
    }

    /// Returns the next piece, of `bytes` or one name and target more, or less at the end; `None` when there is no more.
    pub fn next_piece(&mut self, bytes: usize) -> Option<Vec<u8>> {
        let mut piece = Vec::with_capacity(bytes);
        self.fill(&mut piece, bytes);
        Some(piece).filter(|piece| !piece.is_empty())
    }

    /// Returns how many bytes are still to come; takes the time of writing them.
    #[must_use]
    pub fn count(&self) -> u64 {
        const STEP_BYTES: usize = 64 << 10;
        let Self { form, next, goes_on, progress, .. } = *self;
        let listing = self.listing.borrow();
        let mut rest = ListingJson { listing, form, next, open: self.open.clone(), goes_on, progress };
        let (mut piece, mut count) = (Vec::with_capacity(STEP_BYTES), 0);
        loop {
            rest.fill(&mut piece, STEP_BYTES);
            if piece.is_empty() {
                return count;
            }
            count += piece.len() as u64;
            piece.clear();
        }
    }

    /// Appends until there are `bytes`, or no more come.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, bytes: usize) {
        if self.progress == Progress::AtStart {
            if self.form == Form::Whole {
                out.extend_from_slice(br#"{"root":"#);
            }
            self.progress = Progress::Inside;
            self.node(out);
        }
        while self.progress == Progress::Inside && out.len() < bytes {
            self.step(out);
        }
    }

    /// Writes the next entry of the directory that is open, or its end, or what comes behind all.
    fn step(&mut self, out: &mut Vec<u8>) {
        let Some(&end) = self.open.last() else {
            if self.form == Form::Whole {
                out.extend_from_slice(br#","version":1}"#);
            }
            self.progress = Progress::AtEnd;
            return;
        };
        if self.next == end {
            self.open.pop();
            out.extend_from_slice(br#"},"type":"directory"}"#);
            self.goes_on = true;
            return;
        }
        if self.goes_on {
            out.push(b',');
        }
        let listing = self.listing.borrow();
        put_text(out, listing.text(listing.entries[self.next as usize].name));
        out.push(b':');
        self.node(out);
    }

    /// Writes the next entry's node; of a directory that it goes into, the beginning.
    fn node(&mut self, out: &mut Vec<u8>) {
        let listing = self.listing.borrow();
        let Entry { kind, .. } = listing.entries[self.next as usize];
        self.goes_on = true;
        match kind {
            Kind::Directory { end } if self.form == Form::Whole || self.open.is_empty() => {
                out.extend_from_slice(br#"{"entries":{"#);
                self.open.push(end);
                self.goes_on = false;
            }
            Kind::Directory { end } => {
                out.extend_from_slice(br#"{"type":"directory"}"#);
                self.next = end;
                return;
            }
            Kind::Regular { executable, offset, size } => {
                let executable = if executable { r#""executable":true,"# } else { "" };
                let offset = if self.form == Form::Whole { format!(r#""narOffset":{offset},"#) } else { String::new() };
                write!(out, r#"{{{executable}{offset}"size":{size},"type":"regular"}}"#).expect(MEMORY);
            }
            Kind::Symlink { target } => {
                out.extend_from_slice(br#"{"target":"#);
                put_text(out, listing.text(target));
                out.extend_from_slice(br#","type":"symlink"}"#);
            }
        }
        self.next += 1;
    }
}

const MEMORY: &str = "memory takes everything";

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    serde_json::to_writer(out, &String::from_utf8_lossy(text)).expect(MEMORY);
}
