//! Tables of rows of equal length: each field relative to the row before, and the same byte of all rows side by side.

/// Makes fields of `WIDTH` bytes (4 or 8), named by their numbers in a row of `ROW` bytes, relative to those of the row before.
pub(super) fn subtract<const ROW: usize, const WIDTH: usize>(rows: &mut [u8], fields: &[usize]) {
    for &field in fields {
        let mut before = 0_u64;
        for row in rows.chunks_exact_mut(ROW) {
            let value = get::<WIDTH>(row, field);
            set::<WIDTH>(row, field, value.wrapping_sub(before));
            before = value;
        }
    }
}

/// Undoes [`subtract`].
pub(super) fn add<const ROW: usize, const WIDTH: usize>(rows: &mut [u8], fields: &[usize]) {
    for &field in fields {
        let mut before = 0_u64;
        for row in rows.chunks_exact_mut(ROW) {
            before = before.wrapping_add(get::<WIDTH>(row, field));
            set::<WIDTH>(row, field, before);
        }
    }
}

/// Puts the first bytes of all rows first, then the second ones, and so on; the rest that is no whole row stays.
pub(super) fn split<const ROW: usize>(rows: &mut [u8]) {
    let (table, _) = rows.as_chunks_mut::<ROW>();
    let count = table.len();
    let before = table.to_vec();
    for (at, byte) in table.as_flattened_mut().iter_mut().enumerate() {
        *byte = before[at % count][at / count];
    }
}

/// Undoes [`split`].
pub(super) fn join<const ROW: usize>(rows: &mut [u8]) {
    let (table, _) = rows.as_chunks_mut::<ROW>();
    let count = table.len();
    let before = table.as_flattened().to_vec();
    for (number, row) in table.iter_mut().enumerate() {
        for (column, byte) in row.iter_mut().enumerate() {
            *byte = before[column * count + number];
        }
    }
}

fn get<const WIDTH: usize>(row: &[u8], field: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes[..WIDTH].copy_from_slice(&row[field * WIDTH..][..WIDTH]);
    u64::from_le_bytes(bytes)
}

fn set<const WIDTH: usize>(row: &mut [u8], field: usize, value: u64) {
    row[field * WIDTH..][..WIDTH].copy_from_slice(&value.to_le_bytes()[..WIDTH]);
}
