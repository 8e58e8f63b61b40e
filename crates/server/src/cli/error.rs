//! Why a command was not done: what happened, to what, and what to do.

use std::io;
use std::path::PathBuf;

use super::exit;
use crate::admin::{Failure, socket::SocketError};
use crate::backup::BackupError;
use crate::config::ConfigError;
use crate::data_dir::{DataError, SERVER};
use crate::serve::ServeError;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The configuration is bad.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data directory can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The running server gave no answer.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The request was refused.
    #[error(transparent)]
    Failure(#[from] Failure),
    /// The server ended.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// There is no store, and the command makes none.
    #[error("find a store in {}: there is none", data.display())]
    NoStore {
        /// The data directory.
        data: PathBuf,
    },
    /// There is a store already, where one is to be made.
    #[error("make a store in {}: there is one already", data.display())]
    StoreExists {
        /// The data directory.
        data: PathBuf,
    },
    /// A backup was not made, or is not good.
    #[error(transparent)]
    Backup(#[from] BackupError),
    /// A folder's name can't be told to a server.
    #[error("use the folder {}: its name is not UTF-8", path.display())]
    NoText {
        /// The folder.
        path: PathBuf,
    },
    /// An argument is no store path.
    #[error("find the path '{text}': that is no store path")]
    NoPath {
        /// What was given.
        text: String,
    },
    /// An argument is no token's id. It may be a secret, and is not told.
    #[error("find the token: what was given is no token's id")]
    NoToken,
    /// The command needs to be confirmed.
    #[error("delete the cache '{name}' and all its paths: say so with --yes")]
    Unconfirmed {
        /// Its name.
        name: String,
    },
    /// A file that the command line names can't be read.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The store failed.
    #[error("{detail}")]
    Store {
        /// What was being done, and why it failed.
        detail: String,
    },
    /// Standard output can't be written.
    #[error("write to standard output")]
    Output(#[source] io::Error),
}

impl CliError {
    /// Returns the exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::Data(error) => Self::data_code(error),
            Self::Socket(_)
            | Self::Store { .. }
            | Self::Output(_)
            | Self::Failure(Failure::Store { .. } | Failure::Busy { .. } | Failure::Source { .. })
            | Self::Backup(
                BackupError::Io { .. }
                | BackupError::Index { .. }
                | BackupError::Pack { .. }
                | BackupError::Released { .. },
            ) => exit::FAILED,
            Self::NoPath { .. } | Self::NoToken | Self::NoText { .. } => exit::USAGE,
            Self::Backup(BackupError::Damaged { .. }) => exit::DAMAGED,
            Self::Backup(BackupError::Foreign { .. }) => exit::USAGE,
            Self::Failure(
                Failure::NoSuchCache { .. }
                | Failure::NoSuchToken { .. }
                | Failure::NoSuchPath { .. }
                | Failure::NotThere { .. }
                | Failure::NoSuchPin { .. }
                | Failure::NoSuchUpstream { .. }
                | Failure::NoSuchSource { .. },
            )
            | Self::NoStore { .. } => exit::NOT_FOUND,
            Self::StoreExists { .. } | Self::Failure(Failure::CacheExists { .. } | Failure::SourceExists { .. }) => {
                exit::EXISTS
            }
            Self::Failure(Failure::Invalid { .. }) | Self::Unconfirmed { .. } | Self::Read { .. } => exit::USAGE,
            Self::Serve(error) => match error {
                ServeError::Tls { .. } | ServeError::Traces(_) => exit::CONFIG,
                ServeError::Data(error) => Self::data_code(error),
                ServeError::Listen { .. }
                | ServeError::Runtime { .. }
                | ServeError::Index(_)
                | ServeError::Close(_) => exit::FAILED,
            },
        }
    }

    fn data_code(error: &DataError) -> u8 {
        match error {
            DataError::Held { .. } => exit::HELD,
            DataError::Foreign { .. } => exit::USAGE,
            DataError::Io { .. } | DataError::Index { .. } | DataError::Storage { .. } | DataError::Engine { .. } => {
                exit::FAILED
            }
        }
    }

    /// Returns what to do about it, when that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Config(_) => Some("`firnd config example` prints every key with its default".to_owned()),
            Self::Data(DataError::Held { holder, .. }) if holder.is_server() => Some(
                "it gives no answer: while it starts or ends, wait and try again; rebuild-index and restore-backup work \
                 only while none runs"
                    .to_owned(),
            ),
            Self::Data(error) | Self::Serve(ServeError::Data(error)) => data_hint(error),
            Self::Serve(ServeError::Listen { .. }) => {
                Some("choose another address with --listen, or port 0 for any free port".to_owned())
            }
            Self::NoStore { .. } => Some(
                "name the data directory with --data or FIRN_DATA; `firnd serve` or `firnd cache create` makes a new store; of packs whose index is lost `firnd rebuild-index` makes one".to_owned(),
            ),
            Self::Socket(_) => Some("if no server runs, remove the socket file and try again".to_owned()),
            Self::Serve(ServeError::Index(source)) => index_hint(source),
            Self::Serve(_) | Self::Failure(_) | Self::Unconfirmed { .. } | Self::Read { .. } | Self::Store { .. } | Self::Backup(_) | Self::NoText { .. } | Self::Output(_) => None,
            Self::NoPath { .. } => Some("give it as /nix/store/HASH-NAME, or its hash alone".to_owned()),
            Self::NoToken => Some("give the 16 hex digits that `firnd token list` shows".to_owned()),
            Self::StoreExists { .. } => Some("give another directory with --data, or move that one away".to_owned()),
        }
    }
}

fn data_hint(error: &DataError) -> Option<String> {
    match error {
        DataError::Held { holder, .. } if holder.name == SERVER => Some(
            "one server at a time uses a data directory: stop that one, or give another directory with --data"
                .to_owned(),
        ),
        DataError::Held { .. } => Some("wait until it is done, then try again".to_owned()),
        DataError::Foreign { data, owner } => Some(format!(
            "run it as that user: sudo -u '{owner}' firnd …; if root is to run the server from now on: chown -R root {}",
            data.display()
        )),
        error if is_denied(error) => Some(
            "run firnd as the user who owns the data directory; if that one ran it, files below belong to another user: give \
             them back with chown -R"
                .to_owned(),
        ),
        DataError::Index { source, .. } => index_hint(source),
        DataError::Engine { source, .. } => match &**source {
            firn_engine::Error::Index(source) => index_hint(source),
            _ => None,
        },
        DataError::Io { .. } | DataError::Storage { .. } => None,
    }
}

/// Returns whether the system refused access to something; RocksDB has only words for it.
fn is_denied(error: &DataError) -> bool {
    let mut next: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = next {
        let of_system = error.downcast_ref::<io::Error>();
        if of_system.is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            || error.to_string().contains("Permission denied")
        {
            return true;
        }
        next = error.source();
    }
    false
}

fn index_hint(error: &firn_index::Error) -> Option<String> {
    matches!(error, firn_index::Error::Corrupt { .. }).then(|| {
        "`firnd rebuild-index` makes the index again from the packs, with what can be read of the present one, or nothing of it \
         (--without-old); copy the data directory first if there is room: OPERATIONS, \"When something breaks\""
            .to_owned()
    })
}
