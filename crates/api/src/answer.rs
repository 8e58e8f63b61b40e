//! The answer to a commit: one line of JSON for each path, as each is done.

use std::collections::VecDeque;

use firn_nix::StorePath;
use serde::{Deserialize, Serialize};

use crate::{Bitmap, Error, Result};

const WHAT: &str = "the answer to a commit";
/// The longest line: the bitmap over as many chunks as a recipe can have, in base64, takes 175 KiB.
const MAX_LINE_BYTES: usize = 256 << 10;

/// What a server sends while a path takes long, so that nobody between the two takes the connection for dead: an empty line.
pub const SIGN_OF_LIFE: &[u8] = b"\n";

/// What became of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathStatus {
    /// It is visible now.
    Created,
    /// It was there, with the same NAR: signatures were added if there were new ones.
    Merged,
    /// It was there with another NAR, which stays.
    KeptFirst,
    /// It was there with another NAR, and the cache does not want to hear of others.
    Rejected,
    /// Some of the recipe's chunks are not there: upload them, then commit again.
    MissingChunks,
    /// The recipe is not there: commit again with its encoding.
    RecipeUnknown,
    /// It was refused, or failed: the code says which. So does anything that this version does not know.
    #[serde(other)]
    Error,
}

/// What became of one path of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathAnswer {
    /// The path's base name.
    pub path: StorePath,
    /// What became of it.
    pub status: PathStatus,
    /// With [`PathStatus::MissingChunks`], the bitmap over the recipe's chunks in order, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<String>,
    /// With [`PathStatus::Error`] and [`PathStatus::Rejected`], a [`crate::Code`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// With a code, what happened; else what of the path was left out, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl PathAnswer {
    /// Returns an answer that says no more than its status.
    #[must_use]
    pub fn new(path: StorePath, status: PathStatus) -> Self {
        Self { path, status, missing: None, code: None, message: None }
    }

    /// Returns which of the recipe's `chunks` chunks are missing.
    pub fn missing_chunks(&self, chunks: usize) -> Result<Bitmap> {
        Bitmap::from_base64(self.missing.as_deref().unwrap_or_default(), chunks)
    }

    /// Returns the line, with its newline.
    #[must_use]
    pub fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("texts are JSON");
        line.push(b'\n');
        line
    }
}

/// Reads the answer to a commit as it arrives; holds one line.
#[derive(Debug)]
pub struct AnswerReader {
    expected: VecDeque<StorePath>,
    line: Vec<u8>,
}

impl AnswerReader {
    /// Expects an answer for each of the paths, in this order.
    #[must_use]
    pub fn new(paths: impl IntoIterator<Item = StorePath>) -> Self {
        Self { expected: paths.into_iter().collect(), line: Vec::new() }
    }

    /// Takes the next bytes, and returns the answers that they complete.
    ///
    /// An error if a line is malformed or longer than 256 KiB, or is not of the path whose turn it is.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<PathAnswer>> {
        let mut answers = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            if self.line.len() + piece.len() > MAX_LINE_BYTES {
                return Err(Error::malformed(WHAT, "a line without end"));
            }
            self.line.extend_from_slice(piece);
            if self.line.last() == Some(&b'\n') {
                answers.extend(self.take_line()?);
            }
        }
        Ok(answers)
    }

    fn take_line(&mut self) -> Result<Option<PathAnswer>> {
        let line = std::mem::take(&mut self.line);
        let text = line.trim_ascii();
        if text.is_empty() {
            return Ok(None);
        }
        let answer: PathAnswer =
            serde_json::from_slice(text).map_err(|error| Error::malformed(WHAT, error.to_string()))?;
        match self.expected.pop_front() {
            Some(expected) if expected == answer.path => Ok(Some(answer)),
            Some(expected) => Err(Error::malformed(WHAT, format!("{} where {expected} was next", answer.path))),
            None => Err(Error::malformed(WHAT, format!("{} behind the last one", answer.path))),
        }
    }

    /// Returns the paths without an answer, in order: at the answer's end there should be none.
    pub fn unanswered(&self) -> impl Iterator<Item = &StorePath> {
        self.expected.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(name: &str) -> StorePath {
        format!("0fanvwfh6772nmhmbw78d8jmj0dr6lpc-{name}").parse().unwrap()
    }

    fn reader() -> AnswerReader {
        AnswerReader::new(["a", "b"].map(path))
    }

    #[test]
    fn refuses_lines_that_are_malformed_or_out_of_turn() {
        let (a, b) = (
            PathAnswer::new(path("a"), PathStatus::Created).to_line(),
            PathAnswer::new(path("b"), PathStatus::Merged).to_line(),
        );
        assert!(reader().push(&b).is_err());
        assert!(reader().push(&[&a[..], &a].concat()).is_err());
        assert!(reader().push(&[&a[..], &b, &b].concat()).is_err());
        for bad in ["x\n", "{}\n", "[]\n", "{\"path\":\"a\",\"status\":\"created\"}\n"] {
            assert!(reader().push(bad.as_bytes()).is_err(), "{bad}");
        }
        let mut endless = reader();
        let last = (0..5).map(|_| endless.push(&[b' '; 64 << 10])).find(Result::is_err);
        assert!(last.is_some());
    }

    #[test]
    fn tells_what_was_not_answered() {
        let mut reader = reader();
        let line = PathAnswer::new(path("a"), PathStatus::Created).to_line();
        assert_eq!(reader.push(&line[..5]), Ok(vec![]));
        assert_eq!(reader.unanswered().count(), 2);
        assert_eq!(reader.push(&line[5..]).unwrap().len(), 1);
        assert_eq!(reader.unanswered().collect::<Vec<_>>(), [&path("b")]);
    }

    #[test]
    fn a_status_of_a_later_version_is_an_error_of_that_path() {
        let line = format!("\n\r\n{{\"path\":\"{}\",\"status\":\"teapot\",\"x\":1}}\n\n", path("a"));
        assert_eq!(reader().push(line.as_bytes()).unwrap(), [PathAnswer::new(path("a"), PathStatus::Error)]);
    }

    #[test]
    fn a_bitmap_fits_the_recipe() {
        let missing = Some(Bitmap::from_bools(&[false, true, false]).to_base64());
        let answer = PathAnswer { missing, ..PathAnswer::new(path("a"), PathStatus::MissingChunks) };
        assert_eq!(answer.missing_chunks(3).unwrap().ones().collect::<Vec<_>>(), [1]);
        assert!(answer.missing_chunks(9).is_err());
        assert!(PathAnswer::new(path("a"), PathStatus::MissingChunks).missing_chunks(3).is_err());
        let largest = Bitmap::from_bools(&vec![true; firn_chunk::MAX_CHUNKS]).to_base64();
        let answer = PathAnswer { missing: Some(largest), ..answer };
        assert_eq!(reader().push(&answer.to_line()).unwrap(), [answer]);
    }

    proptest! {
        #[test]
        fn comes_back_however_it_is_cut(cut in 0..400usize, message in any::<Option<String>>()) {
            let first = PathAnswer { message, code: Some("busy".into()), ..PathAnswer::new(path("a"), PathStatus::Error) };
            let second = PathAnswer::new(path("b"), PathStatus::KeptFirst);
            let text = [first.to_line(), SIGN_OF_LIFE.to_vec(), second.to_line()].concat();
            let (one, two) = text.split_at(cut.min(text.len()));
            let mut reader = reader();
            let mut answers = reader.push(one).unwrap();
            answers.extend(reader.push(two).unwrap());
            prop_assert_eq!(answers, vec![first, second]);
            prop_assert_eq!(reader.unanswered().count(), 0);
        }
    }
}
