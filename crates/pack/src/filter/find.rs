//! Which parts of a frame are worth a filter, told by what they hold: a frame need not have the headers of a file.

use std::ops::Range;

use memchr::memmem;

use super::{Filter, MAX_SEGMENTS, Segment, bytecode, messages, relocations, sections, symbols, unwind, x86};

/// Machine code is told from other bytes in blocks of so many.
const BLOCK_BYTES: usize = 4 << 10;

/// A block with fewer operands that look relative is no code.
const MIN_OPERANDS: u32 = 12;

/// Of the operands of code, so many percent lead somewhere near.
const MIN_NEAR_PERCENT: u32 = 90;

/// Of the operands of linked code, so many percent at most are zeros; in other code nearly all are, to be filled in.
const MAX_ZERO_PERCENT: u32 = 10;

/// How far something near is, at most: few programs are longer, and bytes that are no code are so small by chance once in
/// 64 times.
const NEAR: u32 = 1 << 25;

/// Who wants the beginning of a frame undoes whole segments: at most so many bytes more of code.
const MAX_CODE_BYTES: usize = 1 << 20;

/// Tables that are shorter stay as they are.
const MIN_TABLE_BYTES: usize = 256;

/// Returns the segments of `data` that are worth it, in order.
pub(super) fn segments(data: &[u8]) -> Vec<Segment> {
    let mut found = Vec::new();
    unwind_tables(data, &mut found);
    rows(data, &mut found);
    for module in bytecode::find(data) {
        add(&mut found, Filter::Bytecode, module.start, module.len());
    }
    for at in memmem::find_iter(data, &messages::MAGIC) {
        add(&mut found, Filter::Messages, at, messages::len(&data[at..]).unwrap_or_default());
    }
    found.sort_unstable_by_key(|table| table.range.start);
    let mut segments = Vec::new();
    let mut end = 0;
    for table in found {
        // What looks like two tables is the one that begins first.
        if table.range.start >= end {
            code(data, end..table.range.start, &mut segments);
            end = table.range.end;
            segments.push(table);
        }
    }
    code(data, end..data.len(), &mut segments);
    segments.truncate(MAX_SEGMENTS);
    for at in 1..segments.len() {
        if let [index, entries] = &mut segments[at - 1..=at] {
            tell_index(data, index, entries);
        }
    }
    segments
}

/// Makes an index one of the entries behind it, if it is.
fn tell_index(data: &[u8], index: &mut Segment, entries: &Segment) {
    let is_pair = (index.filter, entries.filter) == (Filter::UnwindIndex, Filter::Unwind { is_linked: true });
    let distance = unwind::distance(&index.range, &entries.range);
    if is_pair && unwind::is_index_of(&data[index.range.clone()], &data[entries.range.clone()], distance) {
        index.filter = Filter::UnwindIndexOf;
    }
}

fn add(found: &mut Vec<Segment>, filter: Filter, start: usize, len: usize) {
    if len >= MIN_TABLE_BYTES {
        found.push(Segment { filter, range: start..start + len });
    }
}

fn unwind_tables(data: &[u8], found: &mut Vec<Segment>) {
    // What was found is not looked through again, so that no bytes take longer than others.
    let mut end = 0;
    for at in memmem::find_iter(data, &unwind::INDEX_MAGIC) {
        if at < end {
            continue;
        }
        let start = at + unwind::INDEX_HEAD;
        let len = unwind::index_len(&data[at..]).unwrap_or_default();
        end = start + len;
        add(found, Filter::UnwindIndex, start, len);
    }
    let mut end = 0;
    for at in memmem::find_iter(data, &unwind::COMMON_MAGIC) {
        if let Some(start) = at.checked_sub(4).filter(|&start| start >= end) {
            let (len, is_linked) = unwind::entries_len(&data[start..]);
            end = start + len;
            add(found, Filter::Unwind { is_linked }, start, len);
        }
    }
}

/// Adds tables of rows, which nothing announces.
fn rows(data: &[u8], found: &mut Vec<Segment>) {
    let mut at = 0;
    while let Some(rest) = data.get(at..).filter(|rest| rest.len() >= MIN_TABLE_BYTES) {
        let tables = [
            (Filter::Relocations, relocations::len(rest)),
            (Filter::Symbols, symbols::len(rest)),
            (Filter::Sections, sections::len(rest)),
        ];
        let table = tables.into_iter().find(|(_, len)| *len >= MIN_TABLE_BYTES);
        if let Some((filter, len)) = table {
            add(found, filter, at, len);
        }
        at += table.map_or(1, |(_, len)| len);
    }
}

/// Adds the segments of machine code within a part.
fn code(data: &[u8], part: Range<usize>, segments: &mut Vec<Segment>) {
    let bytes = &data[part.clone()];
    let mut blocks = vec![Block::default(); bytes.len() / BLOCK_BYTES + 1];
    x86::look(bytes, |operand, value| blocks[operand.at / BLOCK_BYTES].count(value));
    let mut start = part.start;
    for run in blocks.chunk_by(|one, next| one.is_code() == next.is_code()) {
        let end = part.end.min(start + run.len() * BLOCK_BYTES);
        if run.first().is_some_and(|block| block.is_code()) {
            let starts = (start..end).step_by(MAX_CODE_BYTES);
            segments.extend(starts.map(|at| {
                let range = at..end.min(at + MAX_CODE_BYTES);
                Segment { filter: Filter::X86(x86::Counts::of(&data[range.clone()])), range }
            }));
        }
        start = end;
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    operands: u32,
    near: u32,
    zeros: u32,
}

impl Block {
    fn count(&mut self, value: u32) {
        self.operands += 1;
        // Forwards or backwards.
        self.near += u32::from(value.wrapping_add(NEAR) < 2 * NEAR);
        self.zeros += u32::from(value == 0);
    }

    fn is_code(self) -> bool {
        self.operands >= MIN_OPERANDS
            && self.near * 100 >= self.operands * MIN_NEAR_PERCENT
            && self.zeros * 100 <= self.operands * MAX_ZERO_PERCENT
    }
}
