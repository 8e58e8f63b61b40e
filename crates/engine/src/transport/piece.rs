//! Where NARs are cut for their zstd form.

/// A piece of a NAR: what one frame of its zstd form holds. The first has 64 KiB, so that the first byte of a download comes
/// soon, every other 256 KiB, and the last ends with the NAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportPiece {
    number: u64,
}

impl TransportPiece {
    /// What every NAR begins with.
    pub const FIRST: Self = Self { number: 0 };
    /// The bytes of the longest. Shorter ones would give a worse ratio.
    pub const MAX_BYTES: usize = 256 << 10;
    const FIRST_BYTES: usize = 64 << 10;

    /// Returns the piece that holds byte `at` of a NAR.
    pub fn holding(at: u64) -> Self {
        let number = at.checked_sub(Self::FIRST_BYTES as u64).map_or(0, |at| at / Self::MAX_BYTES as u64 + 1);
        Self { number }
    }

    /// Returns how many pieces a NAR of `bytes` bytes has.
    pub fn count(bytes: u64) -> u64 {
        bytes.checked_sub(1).map_or(0, |last| Self::holding(last).number + 1)
    }

    /// Returns how many pieces come before it.
    pub fn number(self) -> u64 {
        self.number
    }

    /// Returns where in the NAR it begins; `u64::MAX` if that is further than can be told.
    pub fn start(self) -> u64 {
        let longest = Self::MAX_BYTES as u64;
        let others = self.number.checked_sub(1);
        others.map_or(0, |others| others.saturating_mul(longest).saturating_add(Self::FIRST_BYTES as u64))
    }

    /// Returns how many bytes it has, unless the NAR ends before.
    pub fn bytes(self) -> usize {
        if self == Self::FIRST { Self::FIRST_BYTES } else { Self::MAX_BYTES }
    }

    /// Returns the next one.
    #[must_use]
    pub fn following(self) -> Self {
        Self { number: self.number.saturating_add(1) }
    }

    /// Cuts a whole NAR.
    pub fn cut(nar: &[u8]) -> impl Iterator<Item = &[u8]> {
        let (first, others) = nar.split_at(nar.len().min(Self::FIRST_BYTES));
        Some(first).filter(|first| !first.is_empty()).into_iter().chain(others.chunks(Self::MAX_BYTES))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_in_one_piece() {
        let borders = [0, 64 << 10, 320 << 10, 576 << 10, 832 << 10];
        for (number, pair) in (0..).zip(borders.windows(2)) {
            let piece = TransportPiece { number };
            assert_eq!(
                (piece.number(), piece.start(), piece.start() + piece.bytes() as u64),
                (number, pair[0], pair[1])
            );
            assert_eq!(piece.following(), TransportPiece { number: number + 1 });
            for at in [pair[0], pair[0] + 1, pair[1] - 1] {
                assert_eq!(TransportPiece::holding(at), piece, "{at}");
            }
            assert_eq!([pair[0] + 1, pair[1]].map(TransportPiece::count), [number + 1; 2]);
        }
        assert_eq!(TransportPiece::count(0), 0);
        assert_eq!(TransportPiece { number: u64::MAX }.following().start(), u64::MAX);
        assert!(u64::MAX - TransportPiece::holding(u64::MAX).start() < 256 << 10);
    }

    #[test]
    fn a_nar_is_cut_where_its_pieces_begin() {
        let nar = vec![0; 600 << 10];
        for bytes in [0, 1, 64 << 10, (64 << 10) + 1, 256 << 10, 320 << 10, (320 << 10) + 1, 600 << 10] {
            let (mut piece, mut end) = (TransportPiece::FIRST, 0);
            for cut in TransportPiece::cut(&nar[..bytes]) {
                assert_eq!((piece.start(), cut.len()), (end, piece.bytes().min(bytes - end as usize)), "{bytes}");
                end += cut.len() as u64;
                piece = piece.following();
            }
            assert_eq!((piece.number(), end), (TransportPiece::count(bytes as u64), bytes as u64));
        }
    }
}
