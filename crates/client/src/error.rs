//! What can stop a push as a whole. What stops one path is a [`crate::push::PathFailure`].

use crate::remote::Broken;

/// The result of this crate's fallible functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between a client and its server.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was given is no cache's URL or no token.
    #[error("read the cache's URL: {0}")]
    Target(String),
    /// HTTP or TLS could not be set up.
    #[error("{what}: {detail}")]
    Setup {
        /// What was tried.
        what: String,
        /// Why it failed.
        detail: String,
    },
    /// The server was not reached, or not to the end of an answer, for as long as was to be tried.
    #[error("reach {server}{}", if *tries == 1 { String::new() } else { format!(" ({tries} tries)") })]
    Unreachable {
        /// The server.
        server: String,
        /// How often it was tried.
        tries: u32,
        /// What happened the last time.
        #[source]
        source: Broken,
    },
    /// The server refused the request.
    #[error("{doing}: {server} says {status} {code}: {message}{}", hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default())]
    Refused {
        /// What was asked of it.
        doing: &'static str,
        /// The server.
        server: String,
        /// The status code.
        status: u16,
        /// The stable code, if firnd answered; else what stands for it.
        code: String,
        /// The sentence.
        message: String,
        /// What to do about it, if the server knows.
        hint: Option<String>,
        /// What the status and code mean for us.
        kind: Refusal,
    },
    /// The server's answer makes no sense: it is not firnd, or not one that this client understands.
    #[error("understand {server}'s answer to {doing}: {detail}")]
    Nonsense {
        /// What was asked of it.
        doing: &'static str,
        /// The server.
        server: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Client and server can't work together.
    #[error("{0}")]
    Mismatch(#[from] firn_api::Mismatch),
    /// Somebody asked to stop.
    #[error("stopped before the end")]
    Cancelled,
}

/// What a refused request means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The token is missing, wrong, expired, or may not do this: nothing else will go better.
    Access,
    /// The server could not, now, and not for as long as was to be tried: overload, a full disk, a failure.
    Unable,
    /// The session is over: another one is to be begun.
    Session,
    /// The request is larger than something on the way takes.
    TooLarge,
    /// The server does not know this API.
    Unsupported,
    /// It will be refused each time.
    Permanent,
}

impl Error {
    /// Says if the same may succeed later without anybody doing anything.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => source.may_pass(),
            Self::Refused { kind: Refusal::Unable | Refusal::Session, .. } | Self::Cancelled => true,
            Self::Target(_) | Self::Setup { .. } | Self::Refused { .. } | Self::Nonsense { .. } | Self::Mismatch(_) => {
                false
            }
        }
    }
}
