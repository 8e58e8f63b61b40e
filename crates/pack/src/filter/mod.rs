//! Reversible filters: parts of a frame are written so that what is alike looks alike, and compress better.
//!
//! A filter changes some bytes of a *segment* in place and keeps its length. Any bytes may be given to either direction, and
//! segments follow one another without overlap, so that undoing them never fails; whether the bytes are those that
//! were meant is told by the ids of the items. Segments are found by [`find`], which may be changed at will: a frame says
//! which it has.

mod bytecode;
mod columns;
mod find;
mod group;
mod messages;
mod relocations;
mod sections;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind;
mod x86;

use std::ops::Range;

use group::groups;

use crate::layout::size;
use crate::{Error, Result};

/// The most segments of a frame.
pub(crate) const MAX_SEGMENTS: usize = 65_536;

/// How many bytes of modules are changed together at most, unless one is longer.
const MAX_GROUP_BYTES: usize = 8 << 20;

/// How many bytes may lie between two of them: as much as a NAR has between two files.
const MAX_GROUP_GAP: usize = 4 << 10;

/// What is done to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Machine code for x86-64, with so many operands.
    X86(x86::Counts),
    /// Entries for unwinding stacks, of linked code or not.
    Unwind { is_linked: bool },
    /// The rows of the index of such entries.
    UnwindIndex,
    /// The same, where the entries are the next segment.
    UnwindIndexOf,
    /// Rows of relocations.
    Relocations,
    /// Rows of symbols.
    Symbols,
    /// Rows of sections.
    Sections,
    /// A catalogue of messages.
    Messages,
    /// A compiled module of Python; taken together with those around it.
    Bytecode,
}

impl Filter {
    fn code(self) -> u32 {
        match self {
            Self::X86(_) => 0,
            Self::Unwind { is_linked: true } => 1,
            Self::UnwindIndex => 2,
            Self::Relocations => 3,
            Self::Symbols => 4,
            Self::Sections => 5,
            Self::Messages => 6,
            Self::Bytecode => 7,
            Self::Unwind { is_linked: false } => 8,
            Self::UnwindIndexOf => 9,
        }
    }

    /// Changes a segment whose place among the items is `origin`.
    fn forward(self, segment: &mut [u8], origin: u32) {
        match self {
            Self::X86(_) => x86::forward(segment, origin),
            Self::Unwind { is_linked } => unwind::forward(segment, is_linked),
            Self::UnwindIndex => unwind::forward_index(segment),
            Self::Relocations => relocations::forward(segment),
            Self::Symbols => symbols::forward(segment),
            Self::Sections => sections::forward(segment),
            Self::Messages => messages::forward(segment),
            Self::Bytecode | Self::UnwindIndexOf => {}
        }
    }

    /// Undoes [`forward`](Self::forward).
    fn inverse(self, segment: &mut [u8], origin: u32) {
        match self {
            Self::X86(counts) => x86::inverse(segment, origin, counts),
            Self::Unwind { is_linked } => unwind::inverse(segment, is_linked),
            Self::UnwindIndex => unwind::inverse_index(segment),
            Self::Relocations => relocations::inverse(segment),
            Self::Symbols => symbols::inverse(segment),
            Self::Sections => sections::inverse(segment),
            Self::Messages => messages::inverse(segment),
            Self::Bytecode | Self::UnwindIndexOf => {}
        }
    }
}

/// A part of a frame's items, taken together, and its filter.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Segment {
    filter: Filter,
    range: Range<usize>,
}

/// What was done to a frame's items before they were compressed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filters(Vec<Segment>);

impl Filters {
    /// Finds what is worth it; none for most data that is no programs.
    pub(crate) fn find(data: &[u8]) -> Self {
        Self(find::segments(data))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns `data`, which they were found in, filtered; `None` if undoing that would not give `data` again.
    pub(crate) fn apply(&self, data: &[u8]) -> Option<Vec<u8>> {
        let mut filtered = data.to_vec();
        self.forward(&mut filtered);
        let mut undone = filtered.clone();
        self.inverse(&mut undone);
        (undone == data).then_some(filtered)
    }

    fn forward(&self, data: &mut [u8]) {
        groups(&self.0).for_each(|group| group.forward(data));
    }

    /// Undoes [`forward`](Self::forward) for all groups that `data`, the beginning of a frame's items, has whole.
    pub(crate) fn inverse(&self, data: &mut [u8]) {
        groups(&self.0).for_each(|group| group.inverse(data));
    }

    /// Returns how many bytes of the items must be there so that the first `wanted` come out right: whole groups.
    pub(crate) fn needed(&self, wanted: usize) -> usize {
        let ends = groups(&self.0).map(|group| group.ends());
        let last = ends.take_while(|(first, _)| first.range.start < wanted).last();
        last.map_or(wanted, |(_, last)| last.range.end.max(wanted))
    }

    /// Returns them as a frame's payload begins with them.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut write = |value: u32| out.extend(postcard::to_stdvec(&value).expect("a number can be written"));
        write(number(self.0.len()));
        let mut end = 0;
        for Segment { filter, range } in &self.0 {
            write(filter.code());
            write(number(range.start - end));
            write(number(range.len()));
            if let Filter::X86(x86::Counts(counts)) = filter {
                for count in counts {
                    write(*count);
                }
            }
            end = range.end;
        }
        out
    }

    /// Reads them off the front of a payload of a frame of `raw_len` bytes, and returns what follows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what [`encode`](Self::encode) doesn't write; [`Error::Unsupported`] for a filter of a newer firn.
    pub(crate) fn parse(payload: &[u8], raw_len: u32) -> Result<(Self, &[u8])> {
        let mut list = List(payload);
        let count = size(list.number()?);
        if count > MAX_SEGMENTS {
            return Err(Error::corrupt("frame", "it has too many filters"));
        }
        let mut segments = Vec::new();
        let mut end = 0_u32;
        for _ in 0..count {
            let [code, gap, len] = [list.number()?, list.number()?, list.number()?];
            let start = end.checked_add(gap);
            let bounds = start.and_then(|start| Some((start, start.checked_add(len)?)));
            let bounds = bounds.filter(|(_, end)| *end <= raw_len);
            let (start, within) = bounds.ok_or_else(|| Error::corrupt("frame", "a filter is not within its items"))?;
            segments.push(Segment { filter: list.filter(code)?, range: size(start)..size(within) });
            end = within;
        }
        Ok((Self(segments), list.0))
    }
}

/// The list of filters at the front of a payload.
struct List<'a>(&'a [u8]);

impl List<'_> {
    fn number(&mut self) -> Result<u32> {
        let (value, rest) = postcard::take_from_bytes(self.0)
            .map_err(|_| Error::corrupt("frame", "its list of filters is cut short"))?;
        self.0 = rest;
        Ok(value)
    }

    fn filter(&mut self, code: u32) -> Result<Filter> {
        Ok(match code {
            0 => Filter::X86(x86::Counts([self.number()?, self.number()?, self.number()?])),
            1 => Filter::Unwind { is_linked: true },
            2 => Filter::UnwindIndex,
            3 => Filter::Relocations,
            4 => Filter::Symbols,
            5 => Filter::Sections,
            6 => Filter::Messages,
            7 => Filter::Bytecode,
            8 => Filter::Unwind { is_linked: false },
            9 => Filter::UnwindIndexOf,
            found => return Err(Error::Unsupported { what: "frame", field: "filter", found }),
        })
    }
}

/// Returns a place or length within a frame.
fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a frame is limited to less than 2^32 bytes")
}
