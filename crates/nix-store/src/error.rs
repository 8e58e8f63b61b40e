//! What can go wrong with somebody else's store.

use std::io;
use std::path::PathBuf;

use crate::UnreadableRow;

/// Says what could not be read of a Nix store, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment names a store that cannot be read here.
    #[error("use {variable}={value:?}: {why}")]
    Environment {
        /// The variable.
        variable: &'static str,
        /// What it says.
        value: String,
        /// Why that is of no use.
        why: &'static str,
    },
    /// A path that a user gave leads to no store path.
    #[error("find the store path of {path:?}: {why}", path = .path)]
    NotInStore {
        /// What the user gave.
        path: PathBuf,
        /// Where it leads instead.
        why: String,
    },
    /// The file system refused something that is not part of a dump.
    #[error("{doing} {path:?}", path = .path)]
    Io {
        /// What was tried, as in "read".
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// There is no Nix database.
    #[error("open the Nix database {path:?}: it does not exist (is this the right store? see NIX_REMOTE and NIX_STATE_DIR)", path = .path)]
    NoDatabase {
        /// Where it should be.
        path: PathBuf,
    },
    /// The database may not be read by this user, or only after a recovery that this user may not do.
    #[error("read the Nix database {path:?}: run as root, or go through the Nix daemon", path = .path)]
    Denied {
        /// Where it is.
        path: PathBuf,
        /// What SQLite or the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody held a lock on the database for longer than we wait; try again.
    #[error("read the Nix database {path:?}: another program keeps it locked; try again when it is done", path = .path)]
    Locked {
        /// Where it is.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The database has another layout than the one that is known.
    #[error("read the Nix database {path:?}: its schema is {found}, only 10 is known; {}", newer_or_older(found), path = .path)]
    Schema {
        /// Where it is.
        path: PathBuf,
        /// What is there instead.
        found: String,
    },
    /// The database is damaged, or no database.
    #[error("read the Nix database {path:?}: it is damaged; `nix-store --verify` may say more", path = .path)]
    Corrupt {
        /// Where it is.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another file has taken the database's place since it was opened: ids may mean other paths. Open it again.
    #[error("read the Nix database {path:?}: it was replaced since it was opened; open it again", path = .path)]
    Replaced {
        /// Where it is.
        path: PathBuf,
    },
    /// The one row that was asked for makes no sense.
    #[error("read the Nix database {path:?}: the row of {}: {}", .row.path, .row.why, path = .path)]
    UnreadableRow {
        /// Where the database is.
        path: PathBuf,
        /// The row.
        row: UnreadableRow,
    },
    /// SQLite failed otherwise.
    #[error("read the Nix database {path:?}", path = .path)]
    Database {
        /// Where it is.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },

    /// Nobody listens at the daemon's socket, or not to this user.
    #[error("reach the Nix daemon at {socket:?}: is it running? see NIX_DAEMON_SOCKET_PATH")]
    DaemonUnreachable {
        /// Where it should listen.
        socket: PathBuf,
        /// Why it could not be reached.
        source: io::Error,
    },
    /// The daemon is older or newer than all that are known.
    #[error("talk to the Nix daemon: it speaks protocol {major}.{minor}; known are 1.26 (Nix 2.4) and later ones of 1")]
    DaemonVersion {
        /// The first number of the protocol that it speaks.
        major: u64,
        /// The second.
        minor: u64,
    },
    /// The connection broke, or what came does not make sense; what was kept by it may be deleted. Connect again.
    #[error("{doing} at the Nix daemon: the connection is lost; connect again")]
    DaemonLost {
        /// What was asked for.
        doing: &'static str,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The daemon answered with an error.
    #[error("{doing} at the Nix daemon: it answers: {message}")]
    DaemonRefused {
        /// What was asked for.
        doing: &'static str,
        /// What it said.
        message: String,
    },
    /// The daemon's answer is well-formed and makes no sense.
    #[error("understand what the Nix daemon says of {what}: {why}")]
    DaemonAnswer {
        /// What was asked for.
        what: String,
        /// What is wrong.
        why: String,
    },

    /// A file of a store path is not there, or no longer: it was deleted, or the store is damaged. The database tells which.
    #[error("dump {path:?}: it is not there, or was deleted meanwhile", path = .path)]
    Vanished {
        /// The file, directory or symlink.
        path: PathBuf,
    },
    /// A file of a store path changed while it was read.
    #[error("dump {path:?}: {why}; store paths never change, so look at who writes there", path = .path)]
    Changed {
        /// The file, directory or symlink.
        path: PathBuf,
        /// What was seen.
        why: &'static str,
    },
    /// A file of a store path cannot be read, whenever it is tried: permissions, mostly.
    #[error("dump {path:?}: it cannot be read", path = .path)]
    Unreadable {
        /// The file, directory or symlink.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of a store path could not be read this time: too many files are open, memory is short, the disk or the server that the
    /// store is on failed.
    #[error("dump {path:?}: it could not be read this time", path = .path)]
    Hindered {
        /// The file, directory or symlink.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A store path holds what no NAR can: a device, a socket, directories nested too deeply.
    #[error("dump {path:?}: {why}", path = .path)]
    NotArchivable {
        /// The file.
        path: PathBuf,
        /// What it is.
        why: String,
    },
    /// Whoever takes the NAR refused it; the store is not at fault.
    #[error("hand on a NAR")]
    Sink {
        /// What the writer said.
        source: io::Error,
    },
}

/// Says what to do about another schema.
fn newer_or_older(schema: &str) -> &'static str {
    match schema.parse() {
        Ok(0u32..10) => "the Nix that made it is older than 2.0: one that is not brings it up to date when it opens it",
        _ => "a newer firn may read it",
    }
}

/// A result of reading a Nix store.
pub type Result<T, E = Error> = std::result::Result<T, E>;
