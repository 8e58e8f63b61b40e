//! Symbols of ELF files for 64 bits (`Elf64_Sym`, System V ABI, chapter 4): name, kind, section, value, size.

use super::columns;

const ROW: usize = 24;

/// Changes rows.
pub(super) fn forward(rows: &mut [u8]) {
    columns::split::<ROW>(rows);
}

/// Undoes [`forward`].
pub(super) fn inverse(rows: &mut [u8]) {
    columns::join::<ROW>(rows);
}

/// Returns how many bytes from the front of `bytes` are rows.
pub(super) fn len(bytes: &[u8]) -> usize {
    let (rows, _) = bytes.as_chunks::<ROW>();
    rows.iter().take_while(|row| is_row(row)).count() * ROW
}

/// Names lie in less than 16 MiB, values in less than 2^40 bytes, sizes in less than 2^32; local symbols without a kind are rare.
fn is_row(row: &[u8; ROW]) -> bool {
    let [n0, n1, n2, n3, info, other, _, section, _, _, _, _, _, v5, v6, v7, _, _, _, _, s4, s5, s6, s7] = *row;
    let has_name = n0 | n1 | n2 != 0 || info == 3;
    let is_kind = matches!(info, 1..=4 | 6 | 10 | 16..=18 | 22 | 26 | 32..=34 | 38);
    has_name && is_kind && n3 | v5 | v6 | v7 | s4 | s5 | s6 | s7 == 0 && other < 4 && matches!(section, 0..=3 | 255)
}
