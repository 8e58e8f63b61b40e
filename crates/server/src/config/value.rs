//! Values with units, as people write them.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes, written like `64 MiB`; KiB, MiB, GiB, TiB are powers of 1024, kB, MB, GB, TB of 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed: Result<bytesize::ByteSize, _> = text.parse();
        // bytesize's own numbers wrap silently from 16 EiB on; nothing here is that large.
        let size = parsed
            .ok()
            .map(|size| size.as_u64())
            .filter(|size| *size <= 1 << 60 && !text.trim_start().starts_with('-'));
        size.map(Self).ok_or_else(|| format!("'{text}' is no size: write a number and a unit, as in \"64 MiB\""))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        bytesize::ByteSize(self.0).fmt(f)
    }
}

/// A length of time, written like `90 s`, `24 h`, `1h 30m`; units are ms, s, m (or min), h, d, w.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_span(text).map(Self).ok_or_else(|| {
            format!("'{text}' is no length of time: write whole numbers and units (ms, s, m, h, d, w), as in \"90 s\" or \"1h 30m\"")
        })
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms: u64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let after = after.trim_start();
        let (unit, after) = after.split_at(after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len()));
        let unit_ms: u64 = match unit {
            "ms" => 1,
            "s" | "sec" | "second" | "seconds" => 1000,
            "m" | "min" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        };
        let part = number.parse::<u64>().ok()?.checked_mul(unit_ms)?;
        total_ms = total_ms.checked_add(part)?;
        rest = after.trim_start();
    }
    Some(Duration::from_millis(total_ms))
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut left = self.0.as_millis();
        if left == 0 {
            return f.write_str("0 s");
        }
        let mut first = true;
        for (unit, unit_ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)] {
            let count = left / unit_ms;
            left %= unit_ms;
            if count > 0 {
                let gap = if first { "" } else { " " };
                write!(f, "{gap}{count} {unit}")?;
                first = false;
            }
        }
        Ok(())
    }
}

macro_rules! as_text {
    ($type:ty, $expecting:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                        text.parse().map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

as_text!(Size, "a size in quotes, as in \"64 MiB\"");
as_text!(Span, "a length of time in quotes, as in \"90 s\"");

/// One address or several, each an IP address and a port; port 0 takes a free one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen(pub Vec<SocketAddr>);

/// Reads one `ADDRESS:PORT`.
pub(crate) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("'{text}' is no address to listen on: write an IP address and a port, as in \"127.0.0.1:8080\" or \"[::]:8080\"")
    })
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Listen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Listen;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address and port in quotes, or a list of them")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Listen, E> {
                parse_address(text).map(|address| Listen(vec![address])).map_err(E::custom)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Listen, A::Error> {
                let mut addresses = Vec::new();
                while let Some(text) = items.next_element::<String>()? {
                    addresses.push(parse_address(&text).map_err(de::Error::custom)?);
                }
                Ok(Listen(addresses))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}
