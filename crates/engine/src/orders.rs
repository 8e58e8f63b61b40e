//! How record frames are numbered: see `docs/FORMAT.md`.
//!
//! A number names the opening of the store (from bit 32 on), then, for openings that [count](COUNTED) so, the group of
//! commits and the frame in it. A group is begun only when the one before was committed; when one fails, what comes next is
//! numbered as by another opening. So an index that belongs to its packs lacks one group of an opening, at most.

/// How many numbers an opening of the store has.
const OPENING: u64 = 1 << 32;

/// Set in numbers of openings that tell groups apart. Earlier versions numbered frames one by one, also of groups that failed.
const COUNTED: u64 = 1 << 31;

/// How many numbers a group has.
const GROUP: u64 = 1 << 11;

/// Returns the number before the first one of another opening, given the last one that the index knows.
pub(crate) fn opening_after(known: u64) -> u64 {
    (known / OPENING + 1) * OPENING + COUNTED
}

/// Returns the first number of the next group, if the opening has one.
pub(crate) fn group_after(last: u64) -> Option<u64> {
    let next = (last / GROUP + 1) * GROUP;
    (next / OPENING == last / OPENING).then_some(next)
}

/// Returns the number of the next frame of a group. The last one is given again and again: among equal ones the place counts.
pub(crate) fn frame_after(last: u64) -> u64 {
    if (last + 1).is_multiple_of(GROUP) { last } else { last + 1 }
}

/// Returns whether records of this number say that more was acknowledged than what an index knows whose last number is `known`.
pub(crate) fn is_behind(known: u64, found: u64) -> bool {
    let is_same = found / OPENING == known / OPENING;
    // The index knows of an opening before any record is numbered by it.
    found / OPENING > known / OPENING || is_same && found & COUNTED != 0 && found / GROUP > known / GROUP + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_may_lack_the_last_group_and_no_other() {
        let first = opening_after(7 * OPENING + 5);
        assert_eq!(first, 8 * OPENING + COUNTED);
        let second = group_after(first).unwrap();
        let third = group_after(frame_after(second)).unwrap();
        assert!(first < second && second < frame_after(second) && frame_after(second) < third);
        for (known, found, expected) in [
            (first, second, false),
            (first, frame_after(second), false),
            (first, third, true),
            (second, third, false),
            (frame_after(second), third, false),
            (third, second, false),
            (7 * OPENING + 5, first, true),
            (7 * OPENING + 5, second, true),
            (0, 0, false),
            (0, OPENING + 1, true),
            // An earlier version's groups have no borders, and some of them failed.
            (7 * OPENING + 5, 7 * OPENING + 9000, false),
            (8 * OPENING, 7 * OPENING + 9000, false),
        ] {
            assert_eq!(is_behind(known, found), expected, "{known:x} {found:x}");
        }
    }

    #[test]
    fn numbers_stay_in_their_group_and_opening() {
        let first = opening_after(0);
        let mut last = group_after(first).unwrap();
        for _ in 0..3000 {
            last = frame_after(last);
        }
        assert_eq!((last / GROUP, frame_after(last)), (first / GROUP + 1, last));
        assert_eq!(group_after(2 * OPENING - 1), None, "the opening has no more");
        assert_eq!(group_after(2 * OPENING - 2 * GROUP), Some(2 * OPENING - GROUP));
        assert!(opening_after(2 * OPENING - 1) > 2 * OPENING);
    }
}
