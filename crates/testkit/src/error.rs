use std::io;

/// A failure of the harness itself or of a program that it ran.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A Nix version that a test needs is not installed.
    #[error(
        "no Nix {version} in {directory}: run scripts/nix-for-tests, or set FIRN_SKIP_NIX=1 to leave the real-Nix tests out"
    )]
    NoNix {
        /// The version asked for, like 2.26.
        version: &'static str,
        /// Where it was looked for.
        directory: String,
    },
    /// A program ended with another status than 0.
    #[error("{command} ended with {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it printed on standard output, as far as it is UTF-8.
        stdout: String,
        /// What it printed on standard error, as far as it is UTF-8.
        stderr: String,
    },
    /// A program answered something that the harness cannot use.
    #[error("{what}: {got}")]
    Unexpected {
        /// What was expected of whom.
        what: &'static str,
        /// What came instead.
        got: String,
    },
    /// The operating system refused something.
    #[error("{doing}")]
    Io {
        /// What the harness was doing, with the path or address.
        doing: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// The result of whatever the harness does.
pub type Result<T> = std::result::Result<T, Error>;

/// Names what was being done when an I/O error happened.
pub(crate) trait Doing<T> {
    /// Wraps the error with what was being done.
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { doing: doing(), source })
    }
}
