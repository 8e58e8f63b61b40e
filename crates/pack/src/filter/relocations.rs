//! Relocations of ELF files for 64 bits (`Elf64_Rela`, System V ABI, chapter 4): place, kind and symbol, addend.

use super::columns;

const ROW: usize = 24;

/// The highest kind that there is.
const MAX_KIND: u8 = 42;

/// Changes rows.
pub(super) fn forward(rows: &mut [u8]) {
    columns::subtract::<ROW, 8>(rows, &[0]);
    columns::split::<ROW>(rows);
}

/// Undoes [`forward`].
pub(super) fn inverse(rows: &mut [u8]) {
    columns::join::<ROW>(rows);
    columns::add::<ROW, 8>(rows, &[0]);
}

/// Returns how many bytes from the front of `bytes` are rows, of places that come one after the other.
pub(super) fn len(bytes: &[u8]) -> usize {
    let mut last = 0;
    let (rows, _) = bytes.as_chunks::<ROW>();
    let is_next = |row: &&[u8; ROW]| {
        let place = place_if_row(row).filter(|&place| place >= last);
        last = place.unwrap_or_default();
        place.is_some()
    };
    rows.iter().take_while(is_next).count() * ROW
}

fn place_if_row(row: &[u8; ROW]) -> Option<u64> {
    let [p0, p1, p2, p3, p4, p5, p6, p7, kind, k1, k2, k3, _, _, s2, s3, ..] = *row;
    let is_row = p5 | p6 | p7 | k1 | k2 | k3 | s3 == 0 && s2 < 16 && (1..=MAX_KIND).contains(&kind);
    is_row.then(|| u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7]))
}
