//! Reversible filters: parts of a frame are written so that what is alike looks alike, and compress better.
//!
//! A filter changes some bytes of a *segment* in place and keeps its length. Any bytes may be given to either direction, and
//! segments follow one another without overlap, so that undoing them never fails; whether the bytes are those that
//! were meant is told by the ids of the items. Segments are found by [`find`], which may be changed at will: a frame says
//! which it has.

mod bytecode;
mod columns;
mod find;
mod messages;
mod relocations;
mod sections;
mod symbols;
#[cfg(test)]
mod tests;
mod unwind;
mod x86;

use std::ops::Range;

use crate::layout::size;
use crate::{Error, Result};

/// The most segments of a frame.
pub(crate) const MAX_SEGMENTS: usize = 65_536;

/// How many bytes of modules are changed together at most, unless one is longer.
const MAX_GROUP_BYTES: usize = 2 << 20;

/// How many bytes may lie between two of them: as much as a NAR has between two files.
const MAX_GROUP_GAP: usize = 4 << 10;

/// What is done to a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Filter {
    /// Machine code for x86-64.
    X86,
    /// Entries for unwinding stacks.
    Unwind,
    /// The rows of the index of such entries.
    UnwindIndex,
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
            Self::X86 => 0,
            Self::Unwind => 1,
            Self::UnwindIndex => 2,
            Self::Relocations => 3,
            Self::Symbols => 4,
            Self::Sections => 5,
            Self::Messages => 6,
            Self::Bytecode => 7,
        }
    }

    fn from_code(code: u32) -> Result<Self> {
        Ok(match code {
            0 => Self::X86,
            1 => Self::Unwind,
            2 => Self::UnwindIndex,
            3 => Self::Relocations,
            4 => Self::Symbols,
            5 => Self::Sections,
            6 => Self::Messages,
            7 => Self::Bytecode,
            found => return Err(Error::Unsupported { what: "frame", field: "filter", found }),
        })
    }

    /// Changes a segment whose place among the items is `origin`.
    fn forward(self, segment: &mut [u8], origin: u32) {
        match self {
            Self::X86 => x86::forward(segment, origin),
            Self::Unwind => unwind::forward(segment),
            Self::UnwindIndex => unwind::forward_index(segment),
            Self::Relocations => relocations::forward(segment),
            Self::Symbols => symbols::forward(segment),
            Self::Sections => sections::forward(segment),
            Self::Messages => messages::forward(segment),
            Self::Bytecode => {}
        }
    }

    /// Undoes [`forward`](Self::forward).
    fn inverse(self, segment: &mut [u8], origin: u32) {
        match self {
            Self::X86 => x86::inverse(segment, origin),
            Self::Unwind => unwind::inverse(segment),
            Self::UnwindIndex => unwind::inverse_index(segment),
            Self::Relocations => relocations::inverse(segment),
            Self::Symbols => symbols::inverse(segment),
            Self::Sections => sections::inverse(segment),
            Self::Messages => messages::inverse(segment),
            Self::Bytecode => {}
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

    /// Filters `data`, which they were found in.
    pub(crate) fn forward(&self, data: &mut [u8]) {
        for group in self.groups() {
            apply(group, data, Filter::forward, bytecode::forward);
        }
    }

    /// Undoes [`forward`](Self::forward) for all groups that `data`, the beginning of a frame's items, has whole.
    pub(crate) fn inverse(&self, data: &mut [u8]) {
        for group in self.groups() {
            apply(group, data, Filter::inverse, bytecode::inverse);
        }
    }

    /// Returns the segments that are changed together: modules that lie close to one another, and others one by one.
    fn groups(&self) -> impl Iterator<Item = &[Segment]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (group, after) = rest.split_at(group_len(rest));
            rest = after;
            (!group.is_empty()).then_some(group)
        })
    }

    /// Returns how many bytes of the items must be there so that the first `wanted` come out right: whole groups.
    pub(crate) fn needed(&self, wanted: usize) -> usize {
        let before = self.groups().take_while(|group| group[0].range.start < wanted).last();
        before.and_then(|group| group.last()).map_or(wanted, |last| last.range.end.max(wanted))
    }

    /// Returns them as a frame's payload begins with them.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut end = 0;
        let rows = self.0.iter().map(|Segment { filter, range }| {
            let gap = range.start - end;
            end = range.end;
            (filter.code(), number(gap), number(range.len()))
        });
        postcard::to_stdvec(&rows.collect::<Vec<_>>()).expect("numbers can be written")
    }

    /// Reads them off the front of a payload of a frame of `raw_len` bytes, and returns what follows.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for what [`encode`](Self::encode) doesn't write; [`Error::Unsupported`] for a filter of a newer firn.
    pub(crate) fn parse(payload: &[u8], raw_len: u32) -> Result<(Self, &[u8])> {
        let corrupt = |detail: &str| Error::corrupt("frame", detail);
        let short = |_| corrupt("its list of filters is cut short");
        let (count, mut rest) = postcard::take_from_bytes::<u32>(payload).map_err(short)?;
        if size(count) > MAX_SEGMENTS {
            return Err(corrupt("it has too many filters"));
        }
        let mut segments = Vec::new();
        let mut end = 0_u32;
        for _ in 0..count {
            let ((code, gap, len), behind) = postcard::take_from_bytes::<(u32, u32, u32)>(rest).map_err(short)?;
            let start = end.checked_add(gap);
            let bounds = start.and_then(|start| Some((start, start.checked_add(len)?)));
            let bounds = bounds.filter(|(_, end)| *end <= raw_len);
            let (start, within) = bounds.ok_or_else(|| corrupt("a filter is not within its items"))?;
            segments.push(Segment { filter: Filter::from_code(code)?, range: size(start)..size(within) });
            (end, rest) = (within, behind);
        }
        Ok((Self(segments), rest))
    }
}

/// Returns how many segments in front are changed together.
fn group_len(segments: &[Segment]) -> usize {
    let Some(first) = segments.first() else { return 0 };
    let mut bytes = first.range.len();
    let is_one_more = |pair: &&[Segment]| {
        bytes += pair[1].range.len();
        pair.iter().all(|segment| segment.filter == Filter::Bytecode)
            && pair[1].range.start - pair[0].range.end <= MAX_GROUP_GAP
            && bytes <= MAX_GROUP_BYTES
    };
    1 + segments.windows(2).take_while(is_one_more).count()
}

/// Changes the segments of a group that `data` has whole, each in its place or, of modules, all of them as one.
fn apply(
    group: &[Segment],
    data: &mut [u8],
    in_place: impl Fn(Filter, &mut [u8], u32),
    modules: impl Fn(&[u8], usize) -> Option<Vec<u8>>,
) {
    let [first, ..] = group else { return };
    if first.filter != Filter::Bytecode {
        if let Some(segment) = data.get_mut(first.range.clone()) {
            in_place(first.filter, segment, number(first.range.start));
        }
        return;
    }
    let gathered: Option<Vec<&[u8]>> = group.iter().map(|segment| data.get(segment.range.clone())).collect();
    let Some(changed) = gathered.and_then(|gathered| modules(&gathered.concat(), group.len())) else { return };
    let mut rest = &changed[..];
    for Segment { range, .. } in group {
        let (segment, after) = rest.split_at(range.len());
        data[range.clone()].copy_from_slice(segment);
        rest = after;
    }
}

/// Returns a place or length within a frame.
fn number(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a frame is limited to less than 2^32 bytes")
}
