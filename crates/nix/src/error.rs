//! The error of everything here that is not a NAR.

/// Says why a text is not what it should be.
///
/// All of it is the fault of the input: trying again does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One value is malformed.
    #[error("parse {what}: {why}")]
    Invalid {
        /// What was to be parsed, as in "store path".
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A line of a text of several lines is malformed.
    #[error("parse {what}: line {line}")]
    Line {
        /// What was to be parsed, as in "narinfo".
        what: &'static str,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: Box<Self>,
    },
    /// Something mandatory is absent.
    #[error("parse {what}: no {field}")]
    Missing {
        /// What was to be parsed.
        what: &'static str,
        /// What it lacks.
        field: &'static str,
    },
    /// Something is longer than we are ready to hold.
    #[error("parse {what}: more than {limit}")]
    TooLarge {
        /// What was to be parsed.
        what: &'static str,
        /// How much of it is allowed, in bytes or entries as `what` says.
        limit: usize,
    },
}

impl Error {
    pub(crate) fn invalid(what: &'static str, why: &'static str) -> Self {
        Self::Invalid { what, why }
    }
}

/// A result of parsing one of Nix's texts.
pub type Result<T> = std::result::Result<T, Error>;
