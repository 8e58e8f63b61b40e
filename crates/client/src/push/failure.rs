//! Why one path was not pushed. The others are not touched by it.

use firn_nix::StorePath;

use crate::Error;

/// Why a path was not pushed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PathFailure {
    /// It is gone from the store.
    #[error("{0}")]
    Vanished(String),
    /// Its files changed while they were read.
    #[error("{0}")]
    Changed(String),
    /// Its NAR is not the one that the store recorded.
    #[error("{0}")]
    Corrupt(String),
    /// It can't be read.
    #[error("{0}")]
    Unreadable(String),
    /// It could not be read this time.
    #[error("{0}")]
    Hindered(String),
    /// The server refuses it, and will each time.
    #[error("the server refuses it: {code}: {message}")]
    Refused {
        /// The stable code.
        code: String,
        /// The sentence.
        message: String,
    },
    /// The server could not take it this time.
    #[error("the server could not take it: {0}")]
    Server(String),
    /// A path that it refers to was not pushed.
    #[error("it refers to {0}, which was not pushed")]
    Blocked(StorePath),
    /// The push was stopped before its turn was over.
    #[error("the push was stopped before")]
    Stopped,
}

impl PathFailure {
    /// Returns a stable name, for programs: `vanished`, `changed`, `corrupt`, `unreadable`, `refused`, `server`, `blocked` or
    /// `stopped`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Vanished(_) => "vanished",
            Self::Changed(_) => "changed",
            Self::Corrupt(_) => "corrupt",
            Self::Unreadable(_) | Self::Hindered(_) => "unreadable",
            Self::Refused { .. } => "refused",
            Self::Server(_) => "server",
            Self::Blocked(_) => "blocked",
            Self::Stopped => "stopped",
        }
    }

    /// Says if the same path may be pushed later, without anybody doing anything about it.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Server(_) | Self::Blocked(_) | Self::Stopped | Self::Changed(_) | Self::Hindered(_) => true,
            Self::Vanished(_) | Self::Corrupt(_) | Self::Unreadable(_) | Self::Refused { .. } => false,
        }
    }

    /// Returns what a refused request means for a path that was part of it.
    pub(crate) fn of_request(error: &Error) -> Self {
        match error {
            Error::Refused { code, message, .. } if !error.may_pass() => {
                Self::Refused { code: code.clone(), message: message.clone() }
            }
            Error::Cancelled => Self::Stopped,
            other => Self::Server(other.to_string()),
        }
    }
}
