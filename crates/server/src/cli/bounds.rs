//! Values of options that are good only from some size on: what is smaller would mean something else than whoever wrote it meant.

use std::time::Duration;

use crate::config::{Size, Span};

const SECOND: Span = Span(Duration::from_secs(1));
/// What reading at a pace needs at least, as in the configuration.
const SLOWEST_READING: Size = Size(1 << 10);
/// What moving stored bytes at a pace needs at least, as in the configuration.
const SLOWEST_MOVING: Size = Size(64 << 10);

/// Reads a length of time of at least a second.
pub(super) fn seconds(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    if span >= SECOND { Ok(span) } else { Err(format!("it is too short: give at least {SECOND}")) }
}

/// Reads a length of time of at least a second, or none.
pub(super) fn seconds_or_none(text: &str) -> Result<Span, String> {
    let span: Span = text.parse()?;
    let is_none = span.0 == Duration::ZERO;
    if is_none || span >= SECOND { Ok(span) } else { Err(format!("it is too short: give at least {SECOND}, or '0 s'")) }
}

/// Reads how many bytes are read in a second.
pub(super) fn reading(text: &str) -> Result<Size, String> {
    at_least(text, SLOWEST_READING)
}

/// Reads how many bytes are read in a second, or that there is no limit.
pub(super) fn reading_or_any(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 == 0 { Ok(size) } else { at_least(text, SLOWEST_READING).map_err(|error| format!("{error}, or '0 B'")) }
}

/// Reads how many bytes are moved in a second.
pub(super) fn moving(text: &str) -> Result<Size, String> {
    at_least(text, SLOWEST_MOVING)
}

fn at_least(text: &str, least: Size) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size >= least { Ok(size) } else { Err(format!("it is too slow: give at least {least}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_small_is_refused_with_what_is_not() {
        for (text, least, or_none) in [("1 s", true, true), ("999 ms", false, false), ("0 s", false, true)] {
            assert_eq!((seconds(text).is_ok(), seconds_or_none(text).is_ok()), (least, or_none), "{text}");
        }
        for (text, good) in [
            ("0 B", [false, true, false]),
            ("1 B", [false, false, false]),
            ("1 KiB", [true, true, false]),
            ("64 KiB", [true, true, true]),
        ] {
            assert_eq!([reading(text).is_ok(), reading_or_any(text).is_ok(), moving(text).is_ok()], good, "{text}");
        }
        let said = |told: Result<Size, String>| told.expect_err("too slow");
        assert!(said(reading_or_any("1 B")).contains("1.0 KiB, or '0 B'"), "{}", said(reading_or_any("1 B")));
        assert!(seconds("no time").is_err() && moving("no size").is_err());
    }
}
