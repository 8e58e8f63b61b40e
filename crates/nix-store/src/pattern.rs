//! Names with wildcards.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

/// A pattern for the names of store paths, the part behind the hash: `*` is any number of characters, `?` is one; it has to
/// match the whole name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// Says if a name matches. Takes time in proportion to the product of both lengths at worst.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (pattern, name) = (self.0.as_bytes(), name.as_bytes());
        let (mut at, mut here) = (0, 0);
        // Where the last star is, and how much of the name it has taken so far.
        let mut star: Option<(usize, usize)> = None;
        while let Some(&byte) = name.get(here) {
            match (pattern.get(at), star) {
                (Some(b'*'), _) => {
                    star = Some((at, here));
                    at += 1;
                }
                (Some(&wanted), _) if wanted == b'?' || wanted == byte => {
                    at += 1;
                    here += 1;
                }
                (_, Some((star_at, taken))) => {
                    star = Some((star_at, taken + 1));
                    at = star_at + 1;
                    here = taken + 1;
                }
                (_, None) => return false,
            }
        }
        pattern.get(at..).is_some_and(|rest| rest.iter().all(|&byte| byte == b'*'))
    }
}

impl FromStr for Pattern {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern(pattern.to_owned()).matches(name)
    }

    /// The definition, without any thought for speed.
    fn by_definition(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([b'*', rest @ ..], _) if by_definition(rest, name) => true,
            ([b'*', ..], [_, behind @ ..]) => by_definition(pattern, behind),
            ([b'?', rest @ ..], [_, behind @ ..]) => by_definition(rest, behind),
            ([wanted, rest @ ..], [byte, behind @ ..]) => wanted == byte && by_definition(rest, behind),
            _ => false,
        }
    }

    #[test]
    fn whole_names_match() {
        for (pattern, name, expected) in [
            ("*.drv", "hello.drv", true),
            ("*.drv", "hello.drv.bak", false),
            ("hello", "hello-1", false),
            ("hello*", "hello", true),
            ("*-source", "x-source", true),
            ("a*b*c", "aXbbc", true),
            ("", "", true),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        assert!(!matches(&"a*".repeat(40), &"a".repeat(39)));
    }

    proptest! {
        #[test]
        fn as_defined(pattern in "[ab*?]{0,6}", name in "[ab]{0,8}") {
            prop_assert_eq!(matches(&pattern, &name), by_definition(pattern.as_bytes(), name.as_bytes()));
        }
    }
}
