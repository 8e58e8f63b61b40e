use crate::queue;

/// A result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can keep an agent from its work. All of it passes without a path being forgotten.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The queue can't be read or written.
    #[error("keep the queue")]
    Queue(#[from] queue::Error),
    /// The store can't be read.
    #[error("read the Nix store")]
    Store(#[from] firn_nix_store::Error),
    /// The control socket can't be had.
    #[error("{doing} {path}")]
    Socket {
        /// What was being done.
        doing: &'static str,
        /// To which socket.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another agent answers on the control socket.
    #[error("listen on {path}: another agent answers there; stop it, or give this one another name")]
    Occupied {
        /// The socket.
        path: std::path::PathBuf,
    },
    /// What is at the control socket's place is no socket, and stays.
    #[error(
        "listen on {path}: what is there is no socket; move it away, or give the agent another place for its socket"
    )]
    NoSocket {
        /// The place.
        path: std::path::PathBuf,
    },
    /// A step of the agent panicked: a bug. It is begun again.
    #[error("finish a step of the agent: {0}")]
    Broken(String),
}

/// Returns an error and its causes in one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text += ": ";
        text += &inner.to_string();
        cause = inner.source();
    }
    text
}
