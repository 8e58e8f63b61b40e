//! What can be wrong with bytes that the other end sent.

/// What the other end sent is malformed or too much.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It has more of something than is taken at once.
    #[error("take {found} {what}: at most {limit} at once")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How much came.
        found: u64,
        /// How much is taken.
        limit: u64,
    },
    /// It does not have the form that it should have.
    #[error("read {what}: {detail}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
}

/// A result with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn malformed(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Malformed { what, detail: detail.into() }
    }
}
