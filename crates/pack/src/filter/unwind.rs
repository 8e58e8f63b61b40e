//! Tables for unwinding stacks, as ELF files have them in `.eh_frame` and `.eh_frame_hdr` (Linux Standard Base Core 5.0, 10.6).
//!
//! Both say where each function begins, relative to where they say it. Functions follow one another, so what remains when
//! each is told relative to the end of the one before it is mostly nothing.

use std::ops::Range;

use super::columns;

/// What a table of all functions begins with: version 1, and encodings of 4 signed bytes relative to the place or the table.
pub(super) const INDEX_MAGIC: [u8; 4] = [0x01, 0x1b, 0x03, 0x3b];

/// What a common entry has behind its length: its number, version 1, and augmentations that tell their length.
pub(super) const COMMON_MAGIC: [u8; 6] = *b"\0\0\0\0\x01z";

/// The part of an index before its rows: the magic, where the entries are, and how many.
pub(super) const INDEX_HEAD: usize = 12;

/// Two distances from the index's begin: to the function, and to its entry.
pub(super) const INDEX_ROW: usize = 8;

/// The part of an entry that is changed or looked at: length, distance to the common entry, begin, length of the function.
const ENTRY_HEAD: usize = 16;

/// What an augmentation says of entries whose functions are named by 4 signed bytes relative to the place.
const RELATIVE: u8 = 0x1b;

/// Changes entries that [`entries_len`] has found; those of code that is not linked don't say yet where functions begin.
pub(super) fn forward(table: &mut [u8], is_linked: bool) {
    let mut end = 0_u32;
    walk(table, |at, entry, common| {
        let [begin, len] = [word(entry, 8), word(entry, 12)];
        let begin = begin.wrapping_add(at).wrapping_add(8);
        set_word(entry, 4, at.wrapping_add(5).wrapping_sub(common));
        if is_linked {
            set_word(entry, 8, begin.wrapping_sub(end));
        }
        end = begin.wrapping_add(len);
    });
}

/// Undoes [`forward`].
pub(super) fn inverse(table: &mut [u8], is_linked: bool) {
    let mut end = 0_u32;
    walk(table, |at, entry, common| {
        let [distance, len] = [word(entry, 8), word(entry, 12)];
        let begin = distance.wrapping_add(end);
        set_word(entry, 4, at.wrapping_add(5).wrapping_sub(common));
        if is_linked {
            set_word(entry, 8, begin.wrapping_sub(at).wrapping_sub(8));
        }
        end = begin.wrapping_add(len);
    });
}

/// Calls `change` with each entry of a function: where it is, its first bytes, and what it says of its common entry. What
/// the walk goes by, lengths and which entries are common, is not changed.
fn walk(table: &mut [u8], mut change: impl FnMut(u32, &mut [u8; ENTRY_HEAD], u32)) {
    let mut at = 0_usize;
    while let Some(entry) = table.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<ENTRY_HEAD>) {
        let (len, common) = (word(entry, 0), word(entry, 4));
        let Some(next) = next_entry(at, len) else { return };
        if common != 0 {
            change(u32::try_from(at).unwrap_or_default(), entry, common);
        }
        at = next;
    }
}

fn next_entry(at: usize, len: u32) -> Option<usize> {
    let len = usize::try_from(len).ok().filter(|&len| len >= ENTRY_HEAD - 4)?;
    at.checked_add(4)?.checked_add(len)
}

/// Returns how many bytes from the front of `bytes` are entries that [`forward`] can take, none where no common entry begins,
/// and whether they are linked.
pub(super) fn entries_len(bytes: &[u8]) -> (usize, bool) {
    let mut commons = Vec::new();
    let mut is_linked = None;
    let mut at = 0;
    while let Some(entry) = bytes.get(at..).and_then(<[u8]>::first_chunk::<ENTRY_HEAD>) {
        let (len, common) = (word(entry, 0), word(entry, 4));
        let Some(next) = next_entry(at, len).filter(|&next| next <= bytes.len()) else { break };
        if common == 0 {
            if !is_common(&bytes[at + 8..next]) {
                break;
            }
            commons.push(at);
        } else if *is_linked.get_or_insert(word(entry, 8) != 0) != (word(entry, 8) != 0)
            || !usize::try_from(common)
                .is_ok_and(|back| (at + 4).checked_sub(back).is_some_and(|to| commons.binary_search(&to).is_ok()))
        {
            break;
        }
        at = next;
    }
    (at, is_linked == Some(true))
}

/// Returns whether this, behind length and number, is a common entry whose functions are named in the way that is known.
fn is_common(entry: &[u8]) -> bool {
    let Some(([1], rest)) = entry.split_first_chunk() else { return false };
    let Some(end) = rest.iter().take(8).position(|&byte| byte == 0) else { return false };
    let (augmentation, rest) = rest.split_at(end);
    // Alignments of code and data and the return address's register, a byte each in practice, then the augmentation's length.
    let Some(mut values) = rest.get(5..) else { return false };
    let Some((b'z', kinds)) = augmentation.split_first() else { return false };
    for kind in kinds {
        let skip = match kind {
            b'R' => return values.first() == Some(&RELATIVE),
            b'L' => 1,
            b'P' => 5,
            b'S' => 0,
            _ => return false,
        };
        values = values.get(skip..).unwrap_or_default();
    }
    false
}

/// Returns how far entries begin behind their index.
pub(super) fn distance(rows: &Range<usize>, entries: &Range<usize>) -> u32 {
    u32::try_from(entries.start - rows.start + INDEX_HEAD).unwrap_or_default()
}

/// Changes the rows of an index to how they differ from what the entries behind it say, that begin `distance` bytes behind
/// the index's begin: zeros.
pub(super) fn forward_index_of(rows: &mut [u8], entries: &[u8], distance: u32) {
    change_index(rows, entries, distance, u32::wrapping_sub);
}

/// Undoes [`forward_index_of`].
pub(super) fn inverse_index_of(rows: &mut [u8], entries: &[u8], distance: u32) {
    change_index(rows, entries, distance, u32::wrapping_add);
}

fn change_index(rows: &mut [u8], entries: &[u8], distance: u32, step: fn(u32, u32) -> u32) {
    let (rows, _) = rows.as_chunks_mut::<INDEX_ROW>();
    for (row, [begin, place]) in rows.iter_mut().zip(index_of(entries, distance)) {
        let [old_begin, old_place] = [word(row, 0), word(row, 4)];
        set_word(row, 0, step(old_begin, begin));
        set_word(row, 4, step(old_place, place));
    }
}

/// Returns the rows of the index of these entries: where functions begin, in order, and where their entries are.
fn index_of(entries: &[u8], distance: u32) -> Vec<[u32; 2]> {
    let mut rows = Vec::new();
    let mut at = 0;
    while let Some(entry) = entries.get(at..).and_then(<[u8]>::first_chunk::<ENTRY_HEAD>) {
        let Some(next) = next_entry(at, word(entry, 0)) else { break };
        if word(entry, 4) != 0 {
            let place = distance.wrapping_add(u32::try_from(at).unwrap_or_default());
            rows.push([word(entry, 8).wrapping_add(place).wrapping_add(8), place]);
        }
        at = next;
    }
    rows.sort_by_key(|[begin, _]| begin.cast_signed());
    rows
}

/// Returns whether nearly all rows are what the entries say.
pub(super) fn is_index_of(rows: &[u8], entries: &[u8], distance: u32) -> bool {
    let (rows, _) = rows.as_chunks::<INDEX_ROW>();
    let expected = index_of(entries, distance);
    let right = rows.iter().zip(&expected).filter(|(row, expected)| [word(row, 0), word(row, 4)] == **expected).count();
    right * 10 >= rows.len() * 9
}

/// Changes the rows of an index.
pub(super) fn forward_index(rows: &mut [u8]) {
    columns::subtract::<INDEX_ROW, 4>(rows, &[0, 1]);
    columns::split::<INDEX_ROW>(rows);
}

/// Undoes [`forward_index`].
pub(super) fn inverse_index(rows: &mut [u8]) {
    columns::join::<INDEX_ROW>(rows);
    columns::add::<INDEX_ROW, 4>(rows, &[0, 1]);
}

/// Returns how many bytes the rows of the index take that begins at the front of `bytes`, which are sorted; it may be cut off
/// at their end.
pub(super) fn index_len(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<INDEX_HEAD>().filter(|head| head.starts_with(&INDEX_MAGIC))?;
    let count = usize::try_from(word(head, 8)).ok()?;
    let (rows, _) = bytes[INDEX_HEAD..].as_chunks::<INDEX_ROW>();
    let mut last = i32::MIN;
    let is_next = |row: &&[u8; INDEX_ROW]| {
        let begin = word(row, 0).cast_signed();
        std::mem::replace(&mut last, begin) < begin
    };
    Some(rows.iter().take(count).take_while(is_next).count() * INDEX_ROW)
}

fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn set_word<const N: usize>(bytes: &mut [u8; N], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
