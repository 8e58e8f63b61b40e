//! Headers of the sections of ELF files for 64 bits (`Elf64_Shdr`, System V ABI, chapter 4).

use super::columns;

const ROW: usize = 64;

/// Changes rows.
pub(super) fn forward(rows: &mut [u8]) {
    let mut end = 0_u64;
    let (table, _) = rows.as_chunks_mut::<ROW>();
    for row in table {
        let (offset, size) = (field(row, 24), field(row, 32));
        row[24..32].copy_from_slice(&offset.wrapping_sub(end).to_le_bytes());
        end = offset.wrapping_add(size);
    }
    columns::split::<ROW>(rows);
}

/// Undoes [`forward`].
pub(super) fn inverse(rows: &mut [u8]) {
    columns::join::<ROW>(rows);
    let mut end = 0_u64;
    let (table, _) = rows.as_chunks_mut::<ROW>();
    for row in table {
        let (distance, size) = (field(row, 24), field(row, 32));
        let offset = distance.wrapping_add(end);
        row[24..32].copy_from_slice(&offset.to_le_bytes());
        end = offset.wrapping_add(size);
    }
}

/// Returns how many bytes from the front of `bytes` are rows.
pub(super) fn len(bytes: &[u8]) -> usize {
    let (rows, _) = bytes.as_chunks::<ROW>();
    rows.iter().take_while(|row| is_row(row)).count() * ROW
}

/// Names lie in less than 16 MiB; flags, link and alignment are small.
fn is_row(row: &[u8; ROW]) -> bool {
    let kind = u32::from_le_bytes([row[4], row[5], row[6], row[7]]);
    let (flags, align, entry) = (field(row, 8), field(row, 48), field(row, 56));
    row[3] == 0
        && (matches!(kind, 1..=19) || kind >> 24 == 0x6f || kind >> 24 == 0x70)
        && flags & !0x8000_0fff == 0
        && align.is_power_of_two()
        && align <= 1 << 21
        && entry <= 1 << 12
        && field(row, 24) < 1 << 40
        && field(row, 32) < 1 << 40
}

fn field(row: &[u8; ROW], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&row[at..at + 8]);
    u64::from_le_bytes(bytes)
}
