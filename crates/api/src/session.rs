//! The session that a push leans on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{Error, Result};

/// The header that names the session of a request, in lower case as HTTP/2 wants it.
pub const SESSION_HEADER: &str = "firn-session";

/// A session's name: 128 random bits, 32 lower-case hexadecimal digits as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionToken(pub u128);

impl fmt::Display for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// Writes only the first digits: whoever knows all of them can end the session.
impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionToken({:08x}…)", self.0 >> 96)
    }
}

impl FromStr for SessionToken {
    type Err = Error;

    /// Reads exactly what [`fmt::Display`] writes.
    fn from_str(text: &str) -> Result<Self> {
        let good = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let number = u128::from_str_radix(text, 16).ok().filter(|_| good);
        number.map(Self).ok_or_else(|| Error::malformed("a session", "wanted 32 lower-case hexadecimal digits"))
    }
}

impl Serialize for SessionToken {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The answer to a request for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its name, for [`SESSION_HEADER`].
    pub session: SessionToken,
    /// How long it lives without a request that names it.
    pub lease_seconds: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_one_spelling_only() {
        let token = SessionToken(0xab << 100);
        assert_eq!(token.to_string().parse(), Ok(token));
        assert_eq!(serde_json::to_string(&token).unwrap(), format!("\"{token}\""));
        let upper = token.to_string().to_uppercase();
        for bad in [
            "",
            "0",
            "+0000000000000000000000000000000",
            &upper,
            &format!("{token}0"),
            "é00000000000000000000000000000",
        ] {
            assert!(bad.parse::<SessionToken>().is_err(), "{bad}");
        }
        assert!(!format!("{token:?}").contains(&token.to_string()));
    }
}
