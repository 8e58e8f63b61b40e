//! Hints that come with frames: what leads to stored chunks that are like the ones in them.

use firn_chunk::{Hint, Origin};

use crate::{Error, Result};

/// Stands among [`crate::Capabilities::features`] where `frames` takes hints.
pub const HINTS: &str = "hints";

/// The bytes of one: key and offset of the chunk's place, and two features, each a little-endian number of 64 bits.
pub const HINT_BYTES: usize = 32;

/// The offset that says that there is no name for the place.
const NOWHERE: u64 = u64::MAX;

/// Returns the bytes of hints, back to back.
#[must_use]
pub fn encode_hints(hints: &[Hint]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(hints.len() * HINT_BYTES);
    for hint in hints {
        let Origin { key, offset } = hint.origin.unwrap_or(Origin { key: 0, offset: NOWHERE });
        let [first, second] = hint.features.unwrap_or_default();
        bytes.extend([key, offset, first, second].into_iter().flat_map(u64::to_le_bytes));
    }
    bytes
}

/// Divides a body into its first `count` hints and the frames behind them.
///
/// # Errors
/// [`Error::Malformed`] when it is shorter than its hints, [`Error::TooMany`] when there are more than `limit`.
pub fn split_hints(body: &[u8], count: u32, limit: usize) -> Result<(Vec<Hint>, &[u8])> {
    let found = usize::try_from(count).unwrap_or(usize::MAX);
    if found > limit {
        return Err(Error::TooMany { what: "hints", found: found as u64, limit: limit as u64 });
    }
    let Some((hints, frames)) = body.split_at_checked(found * HINT_BYTES) else {
        let detail = format!("{count} of {HINT_BYTES} bytes were announced, and the body has {}", body.len());
        return Err(Error::malformed("hints", detail));
    };
    Ok((hints.as_chunks().0.iter().map(decode).collect(), frames))
}

fn decode(bytes: &[u8; HINT_BYTES]) -> Hint {
    let word = |at: usize| bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |word| u64::from_le_bytes(*word));
    let origin = Origin { key: word(0), offset: word(8) };
    let features = [word(16), word(24)];
    Hint { origin: Some(origin).filter(|it| it.offset != NOWHERE), features: Some(features).filter(|it| *it != [0, 0]) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_short_or_too_much() {
        assert!(matches!(split_hints(&[0; 63], 2, 9), Err(Error::Malformed { .. })));
        assert_eq!(split_hints(&[0; 64], 2, 1), Err(Error::TooMany { what: "hints", found: 2, limit: 1 }));
        assert_eq!(split_hints(&[7; 9], 0, 0), Ok((vec![], &[7; 9][..])));
    }

    proptest! {
        #[test]
        fn come_back(words in proptest::collection::vec(any::<[Option<u32>; 4]>(), 0..9), rest: Vec<u8>) {
            let hint = |[key, offset, first, second]: [Option<u32>; 4]| Hint {
                origin: key.zip(offset).map(|(key, offset)| Origin { key: key.into(), offset: offset.into() }),
                features: first.zip(second).map(|(first, second)| [first.into(), u64::from(second) + 1]),
            };
            let hints: Vec<Hint> = words.into_iter().map(hint).collect();
            let body = [encode_hints(&hints), rest.clone()].concat();
            prop_assert_eq!(split_hints(&body, hints.len() as u32, 9).unwrap(), (hints, &rest[..]));
        }
    }
}
