//! The daemon's words: little-endian numbers of 64 bits, and texts with their length before them and zeros up to 8 bytes after.

use std::io::{self, Read};

/// The longest text that is kept: names, hashes, signatures are far shorter.
pub(crate) const MAX_TEXT_BYTES: u64 = 64 << 10;

/// The longest text that is passed over: a line of somebody's build log.
const MAX_SKIPPED_BYTES: u64 = 64 << 20;

/// Why no answer could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The connection failed.
    Io(io::Error),
    /// What came is not the protocol.
    Nonsense(String),
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

pub(crate) type ReadResult<T> = Result<T, ReadError>;

/// Returns an error for something that the protocol does not have.
pub(crate) fn nonsense<T>(what: impl Into<String>) -> ReadResult<T> {
    Err(ReadError::Nonsense(what.into()))
}

/// Reads one number.
pub(crate) fn number(from: &mut impl Read) -> ReadResult<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// Reads a number that says how many things follow.
pub(crate) fn count(from: &mut impl Read, most: u64) -> ReadResult<u64> {
    match number(from)? {
        count if count <= most => Ok(count),
        count => nonsense(format!("{count} entries where at most {most} make sense")),
    }
}

/// Reads a truth value.
pub(crate) fn truth(from: &mut impl Read) -> ReadResult<bool> {
    Ok(number(from)? != 0)
}

/// Reads a text of at most [`MAX_TEXT_BYTES`].
pub(crate) fn text(from: &mut impl Read) -> ReadResult<String> {
    let bytes = begin(from, MAX_TEXT_BYTES)?;
    String::from_utf8(bytes).or_else(|_| nonsense("a text that is not UTF-8"))
}

/// Reads a text for people, cut to [`MAX_TEXT_BYTES`].
pub(crate) fn message(from: &mut impl Read) -> ReadResult<String> {
    Ok(String::from_utf8_lossy(&begin(from, MAX_SKIPPED_BYTES)?).into_owned())
}

/// Passes over a text.
pub(crate) fn skip_text(from: &mut impl Read) -> ReadResult<()> {
    begin(from, MAX_SKIPPED_BYTES).map(drop)
}

/// Reads a text of at most so many bytes to its end, and returns the first [`MAX_TEXT_BYTES`] of it.
fn begin(from: &mut impl Read, most: u64) -> ReadResult<Vec<u8>> {
    let length = number(from)?;
    if length > most {
        return nonsense(format!("a text of {length} bytes"));
    }
    let mut kept = Vec::new();
    let keep = length.min(MAX_TEXT_BYTES);
    if from.by_ref().take(keep).read_to_end(&mut kept)? as u64 != keep {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let rest = length - keep + (8 - length % 8) % 8;
    if io::copy(&mut from.by_ref().take(rest), &mut io::sink())? != rest {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(kept)
}

/// Appends a number.
pub(crate) fn put_number(to: &mut Vec<u8>, number: u64) {
    to.extend_from_slice(&number.to_le_bytes());
}

/// Appends a text.
pub(crate) fn put_text(to: &mut Vec<u8>, text: &str) {
    put_number(to, text.len() as u64);
    to.extend_from_slice(text.as_bytes());
    to.resize(to.len().next_multiple_of(8), 0);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_cut_or_too_long() {
        let mut whole = Vec::new();
        put_text(&mut whole, "twelve bytes");
        for cut in 0..whole.len() {
            let read = text(&mut &whole[..cut]);
            assert!(
                matches!(&read, Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof),
                "{cut}"
            );
        }
        for length in [MAX_TEXT_BYTES + 1, u64::MAX, u64::MAX - 7] {
            let mut bytes = length.to_le_bytes().to_vec();
            bytes.resize(1 << 20, 0);
            assert!(matches!(text(&mut &bytes[..]), Err(ReadError::Nonsense(_))), "{length}");
        }
        let mut bytes = Vec::new();
        put_number(&mut bytes, 2);
        bytes.extend([0xff, 0xff, 0, 0, 0, 0, 0, 0]);
        assert!(matches!(text(&mut &bytes[..]), Err(ReadError::Nonsense(_))));
        assert_eq!(message(&mut &bytes[..]).unwrap(), "\u{fffd}\u{fffd}");
        assert!(matches!(count(&mut &bytes[..], 1), Err(ReadError::Nonsense(_))));
    }

    #[test]
    fn cuts_messages_and_stays_in_step() {
        let mut bytes = Vec::new();
        put_text(&mut bytes, &"x".repeat(100_001));
        put_number(&mut bytes, 7);
        let mut from = &bytes[..];
        assert_eq!(message(&mut from).unwrap().len() as u64, MAX_TEXT_BYTES);
        assert_eq!(number(&mut from).unwrap(), 7);
    }

    proptest! {
        #[test]
        fn reads_what_it_writes(texts in proptest::collection::vec(".{0,20}", 0..5)) {
            let mut bytes = Vec::new();
            for text in &texts {
                put_text(&mut bytes, text);
            }
            let mut from = &bytes[..];
            for expected in &texts {
                prop_assert_eq!(&text(&mut from).unwrap(), expected);
            }
            prop_assert!(from.is_empty());
        }
    }
}
