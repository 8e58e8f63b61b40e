//! Unsigned numbers in 7-bit groups, the lowest first; a set high bit says that more follow.
//!
//! Only the shortest form of a number is valid, so that equal values have equal bytes.

/// The most bytes that a number takes.
pub(crate) const MAX_BYTES: usize = 10;

/// Appends a number.
pub(crate) fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Reads the number that `bytes` starts with, and returns it with its length.
///
/// `None` if the bytes end within it, it is above 2⁶⁴-1 or not in its shortest form.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0_u64;
    for (at, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        if at == MAX_BYTES - 1 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte < 0x80 {
            return (byte != 0 || at == 0).then_some((value, at + 1));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_shortest_form_is_refused() {
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[0x80]), None);
        assert_eq!(read(&[0x80, 0x00]), None);
        assert_eq!(read(&[0xff, 0x80, 0x00]), None);
        assert_eq!(read(&[0xff; 9]), None);
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]), None);
        assert_eq!(read(&[0xff; 11]), None);
    }

    #[test]
    fn numbers_around_every_length_come_back() {
        for bits in 0..64 {
            for value in [(1_u64 << bits) - 1, 1 << bits, (1 << bits) + 1, u64::MAX - (1 << bits)] {
                let mut bytes = Vec::new();
                write(&mut bytes, value);
                assert_eq!(read(&bytes), Some((value, bytes.len())));
                let length = bytes.len();
                bytes.push(7);
                assert_eq!(read(&bytes), Some((value, length)), "what follows is left alone");
                for end in 0..length {
                    assert_eq!(read(&bytes[..end]), None);
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_fixed() {
        let encoded = |value| {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            bytes
        };
        assert_eq!(encoded(0), [0]);
        assert_eq!(encoded(127), [0x7f]);
        assert_eq!(encoded(128), [0x80, 1]);
        assert_eq!(encoded(300), [0xac, 2]);
        assert_eq!(encoded(u64::MAX), [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1]);
    }
}
