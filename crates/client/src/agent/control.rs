//! What is said over an agent's control socket: one line of JSON each way, then the next.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use firn_nix::StorePath;
use serde::{Deserialize, Serialize};

use super::status::{DeadLetter, Status};

/// The longest line: some 40,000 paths.
pub const MAX_LINE_BYTES: u64 = 4 << 20;

/// What an agent is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Say what you do.
    Status,
    /// Say it for Prometheus.
    Metrics,
    /// Take in these paths, durably; they were just built.
    Take {
        /// The paths.
        paths: Vec<StorePath>,
    },
    /// Push what waits now, whatever it waits for.
    Flush {
        /// Only wait for these, and take them in first if they don't wait; all that waits if there are none.
        paths: Vec<StorePath>,
        /// Answer when they have been pushed or were refused, else at once.
        wait: bool,
        /// Answer after this time in any case.
        timeout_millis: u64,
    },
    /// Try dead letters again.
    Requeue {
        /// These; all if there are none.
        paths: Vec<StorePath>,
    },
    /// Drop dead letters.
    Forget {
        /// These; all if there are none.
        paths: Vec<StorePath>,
    },
    /// Take in what is in the store already.
    Backfill {
        /// Only what was registered since then, in seconds since 1970.
        since: u64,
    },
}

/// What an agent answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum Answer {
    /// To [`Request::Status`].
    Status {
        /// What it does.
        status: Box<Status>,
    },
    /// To [`Request::Metrics`].
    Metrics {
        /// OpenMetrics text.
        text: String,
    },
    /// To [`Request::Take`] and [`Request::Backfill`]: it is durable.
    Taken {
        /// Paths that wait now and didn't before.
        new: u64,
    },
    /// To [`Request::Flush`].
    Flushed(Flushed),
    /// To [`Request::Requeue`].
    Requeued {
        /// How many paths wait again.
        paths: u64,
    },
    /// To [`Request::Forget`].
    Forgotten {
        /// How many dead letters there were of these.
        paths: u64,
    },
    /// It could not.
    Failed {
        /// Why.
        message: String,
    },
}

/// What came of a flush.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flushed {
    /// Paths that still wait.
    pub waiting: u64,
    /// Those of them that were asked for, or dead letters of now, that can't be pushed.
    pub dead: Vec<DeadLetter>,
    /// Those that were asked for, or any if none were, that are not valid in this store or were lost since the flush began.
    pub gone: Vec<StorePath>,
    /// Why the agent pushes nothing at the moment, if so.
    pub trouble: Option<String>,
}

/// What can go wrong when an agent is called.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody listens.
    #[error("call the agent on {socket}: none runs there")]
    NoAgent {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// This user may not.
    #[error(
        "call the agent on {socket}: permission denied; ask as the user that it runs as, or see its option --socket-mode"
    )]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// One runs, and doesn't answer.
    #[error(
        "call the agent on {socket}: one runs there and did not answer within {} s: it hangs, or a disk does",
        patience.as_secs()
    )]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long was waited for it.
        patience: Duration,
    },
    /// It didn't answer to the end.
    #[error("call the agent on {socket}")]
    Io {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not of this firn's kind.
    #[error("understand the agent on {socket}: {what}")]
    Nonsense {
        /// The socket.
        socket: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// Asks the agent on a socket, and waits for its answer: `patience` for the connection, and for each read and write.
pub fn call(socket: &Path, request: &Request, patience: Duration) -> Result<Answer, CallError> {
    // Zero would mean for ever.
    let patience = patience.max(Duration::from_millis(1));
    let failed = |source: io::Error| {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => CallError::NoAgent { socket, source },
            io::ErrorKind::PermissionDenied => CallError::Denied { socket },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CallError::Silent { socket, patience },
            _ => CallError::Io { socket, source },
        }
    };
    let nonsense = |what: String| CallError::Nonsense { socket: socket.to_owned(), what };
    let mut line = serde_json::to_vec(request).map_err(|error| nonsense(error.to_string()))?;
    line.push(b'\n');
    let mut stream = connect(socket, patience).map_err(failed)?;
    stream.set_read_timeout(Some(patience)).map_err(failed)?;
    stream.set_write_timeout(Some(patience)).map_err(failed)?;
    stream.write_all(&line).map_err(failed)?;
    let mut answer = Vec::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_until(b'\n', &mut answer).map_err(failed)?;
    if answer.last() != Some(&b'\n') {
        return Err(failed(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&answer).map_err(|error| nonsense(error.to_string()))
}

/// Connects in a thread of its own: where many wait for an agent that accepts nobody, connecting waits too, for ever.
fn connect(socket: &Path, patience: Duration) -> io::Result<UnixStream> {
    let (sender, receiver) = mpsc::channel();
    let path = socket.to_owned();
    thread::Builder::new().spawn(move || {
        // Nobody listens any more if it took too long.
        let _ = sender.send(UnixStream::connect(path));
    })?;
    receiver.recv_timeout(patience).unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn an_agent_that_hangs_is_told_from_none() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let within = |millis| call(&socket, &Request::Status, Duration::from_millis(millis)).unwrap_err();
        assert!(matches!(within(60_000), CallError::NoAgent { .. }));
        let listener = UnixListener::bind(&socket).unwrap();
        let error = within(1);
        assert!(matches!(&error, CallError::Silent { .. }), "{error}");
        drop(listener);
        assert!(matches!(within(60_000), CallError::NoAgent { .. }));
    }
}
