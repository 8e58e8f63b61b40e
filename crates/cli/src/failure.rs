//! Why a command was not done: what happened, to what, and what to do about it.

use std::error::Error;

use crate::config::ConfigError;
use crate::exit;

/// What kind of trouble it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Something local went wrong, or a part was not done.
    Failed,
    /// The command line makes no sense, or asks for what can't be.
    Usage,
    /// The server can't be reached, refuses, or speaks another protocol.
    Server,
    /// The configuration, or a file of credentials, is bad.
    Config,
    /// Nix, its store or its database can't be used.
    Store,
    /// The agent does not run, or another one holds its queue.
    Agent,
    /// Ended by Ctrl-C.
    Interrupted,
}

/// A command that was not done.
///
/// The message is a lowercase fragment that reads after "failed to"; its causes are printed after it.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What kind of trouble it is.
    pub(crate) kind: Kind,
    /// What happened, with its causes.
    pub(crate) error: anyhow::Error,
    /// What to do, when that is known.
    pub(crate) hint: Option<String>,
}

impl Failure {
    /// Makes a failure of a message without a cause.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, error: anyhow::Error::msg(message.into()), hint: None }
    }

    /// Makes a failure of an error, whose message says what was being done.
    pub(crate) fn of(kind: Kind, error: impl Error + Send + Sync + 'static) -> Self {
        Self { kind, error: anyhow::Error::new(error), hint: None }
    }

    /// Makes a failure that says what was being done when the cause came up.
    pub(crate) fn doing(kind: Kind, message: impl Into<String>, cause: impl Error + Send + Sync + 'static) -> Self {
        Self { kind, error: anyhow::Error::new(cause).context(message.into()), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the exit code.
    pub(crate) fn code(&self) -> u8 {
        match self.kind {
            Kind::Failed => exit::FAILED,
            Kind::Usage => exit::USAGE,
            Kind::Server => exit::SERVER,
            Kind::Config => exit::CONFIG,
            Kind::Store => exit::STORE,
            Kind::Agent => exit::AGENT,
            Kind::Interrupted => exit::INTERRUPTED,
        }
    }

    /// Returns the message with all causes, in one line.
    pub(crate) fn chain(&self) -> String {
        let causes: Vec<String> = self.error.chain().map(ToString::to_string).collect();
        causes.join(": ")
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let hint = error.hint();
        Self { kind: Kind::Config, error: anyhow::Error::new(error), hint }
    }
}
