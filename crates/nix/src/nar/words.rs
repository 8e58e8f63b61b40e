//! The fixed words between names and contents, joined into the runs in which they occur.
//!
//! A NAR is a sequence of byte strings, each as its length (64 bits, little endian), its bytes, and zeros up to a multiple of 8.
//! The grammar has few ways to go on at any place. So both the decoder and the writer know whole runs of these strings: what
//! stands before a file's size, for example, is 128 bytes that are the same for every file.

/// Returns the length of `words` in a NAR.
pub(super) const fn encoded_len(words: &[&str]) -> usize {
    let mut len = 0;
    let mut i = 0;
    while i < words.len() {
        len += 8 + words[i].len().next_multiple_of(8);
        i += 1;
    }
    len
}

/// Returns `words` as they stand in a NAR; `N` is their [`encoded_len`].
pub(super) const fn encoded<const N: usize>(words: &[&str]) -> [u8; N] {
    let mut out = [0; N];
    let mut at = 0;
    let mut i = 0;
    while i < words.len() {
        let word = words[i].as_bytes();
        out[at] = word.len() as u8;
        let mut j = 0;
        while j < word.len() {
            out[at + 8 + j] = word[j];
            j += 1;
        }
        at += 8 + word.len().next_multiple_of(8);
        i += 1;
    }
    assert!(at == N);
    out
}

macro_rules! words {
    ($($word:literal)*) => {{
        const WORDS: &[&str] = &[$($word),*];
        const BYTES: [u8; encoded_len(WORDS)] = encoded(WORDS);
        &BYTES
    }};
}

pub(super) const MAGIC: &[u8] = words!("nix-archive-1");
pub(super) const DIRECTORY: &[u8] = words!("(" "type" "directory");
pub(super) const REGULAR: &[u8] = words!("(" "type" "regular" "contents");
pub(super) const EXECUTABLE: &[u8] = words!("(" "type" "regular" "executable" "" "contents");
pub(super) const SYMLINK: &[u8] = words!("(" "type" "symlink" "target");
pub(super) const ENTRY: &[u8] = words!("entry" "(" "name");
pub(super) const NODE: &[u8] = words!("node");
pub(super) const CLOSE: &[u8] = words!(")");
pub(super) const CLOSE_IN_ENTRY: &[u8] = words!(")" ")");

/// The bytes that follow `len` bytes up to a multiple of 8.
pub(super) const fn padding(len: u64) -> usize {
    (len.wrapping_neg() & 7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_length_bytes_and_padding() {
        assert_eq!(MAGIC, b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0");
        assert_eq!(CLOSE, b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0");
        assert_eq!(CLOSE_IN_ENTRY, [CLOSE, CLOSE].concat());
        assert!(
            EXECUTABLE.windows(16).any(|w| w == b"\0\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0"),
            "an empty string has no bytes"
        );
    }

    #[test]
    fn padding_fills_eights() {
        assert_eq!([0, 1, 7, 8, 9, u64::MAX].map(padding), [0, 7, 1, 0, 7, 1]);
    }
}
