//! One `Range: bytes=…` of a body whose length is known.

use std::ops::Range;

/// What a request wants of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All of it: no range, several ranges (which a server may ignore), or a header that is no range of bytes.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Bytes that the body does not have.
    Unsatisfiable,
}

/// A range as it was asked for, before the body's length is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// From here to the end.
    From(u64),
    /// From the first to the second, both included; the second is not before the first.
    Between(u64, u64),
    /// So many at the end.
    Last(u64),
}

impl Asked {
    /// Reads a `Range` header; `None` if it asks for what must be answered as if it were not there.
    ///
    /// Numbers beyond 64 bits are taken for the largest: such a range begins after any end, or ends there.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, set) = header.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = set.trim().split_once('-')?;
        match (number(first), number(last)) {
            (Some(first), None) if last.is_empty() => Some(Self::From(first)),
            (None, Some(count)) if first.is_empty() => Some(Self::Last(count)),
            (Some(first), Some(last)) if first <= last => Some(Self::Between(first, last)),
            _ => None,
        }
    }

    /// Returns what is wanted of a body of `total` bytes.
    pub fn of(self, total: u64) -> Wanted {
        let range = match self {
            Self::From(first) => first..total,
            Self::Between(first, last) => first..last.saturating_add(1).min(total),
            Self::Last(count) => total.saturating_sub(count)..total,
        };
        if range.is_empty() { Wanted::Unsatisfiable } else { Wanted::Part(range) }
    }
}

fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Returns what a request with this `Range` header wants of a body of `total` bytes.
pub fn wanted(header: Option<&str>, total: u64) -> Wanted {
    header.and_then(Asked::parse).map_or(Wanted::Whole, |asked| asked.of(total))
}

/// Feeds arbitrary bytes to the parser and checks what must hold of any answer.
#[doc(hidden)]
pub fn fuzz_range(data: &[u8]) {
    let (total, header) = data.split_at(data.len().min(8));
    let total = total.iter().fold(0, |total, &byte| total << 8 | u64::from(byte));
    let Ok(header) = std::str::from_utf8(header) else { return };
    if let Wanted::Part(range) = wanted(Some(header), total) {
        assert!(range.start < range.end && range.end <= total, "{header}: {range:?} of {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_is_no_range_for_the_whole() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-3",
            "bytes=a-b",
            "bytes=0-1,3-4",
            "bytes=--1",
            "bytes=+1-",
            "bytes=1 - 2",
            "bits=0-1",
            "bytes=1-2-3",
            "bytes=0x1-",
        ] {
            assert_eq!(wanted(Some(header), 10), Wanted::Whole, "{header:?}");
        }
        assert_eq!(wanted(None, 10), Wanted::Whole);
    }

    #[test]
    fn cuts_ranges_to_the_body() {
        for (header, range) in [
            ("bytes=0-", 0..10),
            ("bytes=3-", 3..10),
            ("BYTES = 9-", 9..10),
            ("bytes=0-0", 0..1),
            ("bytes=2-5", 2..6),
            ("bytes=2-99", 2..10),
            ("bytes=2-99999999999999999999999999", 2..10),
            ("bytes=-1", 9..10),
            ("bytes=-10", 0..10),
            ("bytes=-99", 0..10),
            ("bytes=-99999999999999999999999999", 0..10),
            ("bytes=0-18446744073709551615", 0..10),
        ] {
            assert_eq!(wanted(Some(header), 10), Wanted::Part(range), "{header}");
        }
    }

    #[test]
    fn refuses_ranges_outside_of_the_body() {
        for header in ["bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(wanted(Some(header), 10), Wanted::Unsatisfiable, "{header}");
        }
        for header in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
            assert_eq!(wanted(Some(header), 0), Wanted::Unsatisfiable, "{header} of nothing");
        }
    }

    #[test]
    fn holds_for_odd_headers() {
        for data in
            ["", "\0\0\0\0\0\0\0\u{5}bytes=0-4", "aaaaaaaabytes=-18446744073709551616", "\0\0\0\0\0\0\0\0bytes=-"]
        {
            fuzz_range(data.as_bytes());
        }
    }

    proptest::proptest! {
        #[test]
        fn holds_for_any_header(total in 0u64..100, header in "(bytes=)?[0-9]{0,3}-?[0-9]{0,3}.{0,3}") {
            let data = [&total.to_be_bytes()[..], header.as_bytes()].concat();
            fuzz_range(&data);
        }
    }
}
