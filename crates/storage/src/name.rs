//! The rules for objects' names.

use crate::{Error, Result};

/// The most bytes of an object's name.
pub const MAX_NAME_LEN: usize = 255;

/// The most parts of a name between slashes: it bounds the recursion of a listing.
const MAX_PARTS: usize = 8;

/// Checks an object's name.
///
/// A name is 1 to 8 parts with a slash between them, at most [`MAX_NAME_LEN`] bytes together. A part is
/// made of `a-z`, `0-9`, `.` and `-`, and does not begin with a dot: so no name leads out of the storage or to
/// a hidden file. A name must not be what stands before a slash in another: the disk could not hold both.
///
/// # Errors
/// [`Error::InvalidName`], with the rule that is broken.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    let reason = if name.len() > MAX_NAME_LEN {
        "it is longer than 255 bytes"
    } else if name.split('/').count() > MAX_PARTS {
        "it has more than 8 parts"
    } else if name.split('/').any(str::is_empty) {
        "it has an empty part"
    } else if name.split('/').any(|part| part.starts_with('.')) {
        "a part begins with a dot"
    } else if !name.split('/').all(|part| part.bytes().all(plain)) {
        "it may have only a-z, 0-9, '.', '-' and '/'"
    } else {
        return Ok(());
    };
    Err(Error::InvalidName { name: name.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names() {
        for name in ["a", "packs/ab/abcdef0123456789", "a.b-c/0", "a..b", "1/2/3/4/5/6/7/8", &"x".repeat(255)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
    }

    #[test]
    fn bad_names() {
        let long = "x".repeat(256);
        let bad = [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/..",
            "../a",
            "a/../b",
            ".tmp/a",
            "a/.b",
            "A",
            "a b",
            "a\0",
            "a\n",
            "ä",
            "a\\b",
            "a_b",
            "1/2/3/4/5/6/7/8/9",
            &long,
        ];
        for name in bad {
            assert!(matches!(check_name(name), Err(Error::InvalidName { .. })), "{name:?}");
        }
    }
}
