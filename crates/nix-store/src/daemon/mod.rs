//! The Nix daemon, as far as it is asked here: which paths are valid, what is known of them, and that they be kept.
//!
//! The protocol is the one of Nix's own clients, of which versions from 1.26 (Nix 2.4) on are understood; newer daemons speak the
//! older ones as well, so 1.35 is all that is ever asked for.

mod messages;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use std::io::BufReader;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use firn_nix::StorePath;

use self::wire::{ReadResult, nonsense};
use crate::connection::Connection;
use crate::counted::Counted;
use crate::raw_info::{MAX_REFERENCES, MAX_SIGNATURES, RawInfo, texts};
use crate::{Error, Location, PathInfo, Result, Selection, UnreadableRow};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const DAEMON_MAGIC: u64 = 0x6478_696f;

/// The protocol that we announce: the last one without a list of features.
const NEWEST: u64 = 1 << 8 | 35;
/// The first one whose errors have a structure.
const OLDEST: u64 = 1 << 8 | 26;
/// From here on the daemon says which Nix it is.
const WITH_NIX_VERSION: u64 = 1 << 8 | 33;
/// From here on it says whether it trusts us.
const WITH_TRUST: u64 = 1 << 8 | 35;

/// How long the daemon may be silent. It may have to wait for a lock of the garbage collector's.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Questions that are sent before the first answer is waited for: some 8 KB, which every socket takes.
const PIPELINE: usize = 64;

/// The most valid paths of a store; the largest known ones have a tenth of it.
const MAX_PATHS: u64 = 10_000_000;

#[derive(Debug, Clone, Copy)]
enum Operation {
    IsValidPath = 1,
    AddTempRoot = 11,
    QueryAllValidPaths = 23,
    QueryPathInfo = 26,
    NarFromPath = 38,
}

/// A connection to the Nix daemon.
///
/// What [`Self::add_temp_root`] was told holds as long as the connection. Nothing is ever sent again: after [`Error::DaemonLost`], which all
/// later calls return as well, connect anew. After [`Error::DaemonRefused`] the connection is as good as before.
#[derive(Debug)]
pub struct Daemon {
    connection: Connection,
    store_dir: String,
    protocol: u64,
    nix_version: Option<String>,
    trusts_us: Option<bool>,
}

/// All paths of a store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The valid paths, in no particular order.
    pub paths: Vec<StorePath>,
    /// Those that are no store paths to us; their ids are 0.
    pub unreadable: Vec<UnreadableRow>,
}

impl Daemon {
    /// Connects to the daemon of a store; it has 60 s for each answer.
    ///
    /// # Errors
    /// [`Error::DaemonUnreachable`] if nobody answers there, [`Error::DaemonVersion`], [`Error::DaemonLost`],
    /// [`Error::DaemonRefused`] if it does not serve this user.
    pub fn connect(location: &Location) -> Result<Self> {
        let socket = &location.daemon_socket;
        let stream = UnixStream::connect(socket)
            .and_then(|stream| {
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                Ok(stream)
            })
            .map_err(|source| Error::DaemonUnreachable { socket: socket.clone(), source })?;
        Self::over(stream, &location.store_dir)
    }

    /// Begins to talk to a daemon through a stream, such as one to `ssh HOST nix-daemon --stdio`. The stream's time limits hold for each answer.
    ///
    /// # Errors
    /// [`Error::DaemonVersion`], [`Error::DaemonLost`], [`Error::DaemonRefused`] if it does not serve this user.
    pub fn over(stream: UnixStream, store_dir: &str) -> Result<Self> {
        let mut daemon = Self {
            connection: Connection::new(stream, "the daemon"),
            store_dir: store_dir.to_owned(),
            protocol: 0,
            nix_version: None,
            trusts_us: None,
        };
        daemon.shake_hands()?;
        Ok(daemon)
    }

    /// Returns which Nix the daemon is, if it says so.
    #[must_use]
    pub fn nix_version(&self) -> Option<&str> {
        self.nix_version.as_deref()
    }

    /// Returns whether the daemon trusts this user, if it says so (Nix 2.15 and later).
    #[must_use]
    pub fn trusts_us(&self) -> Option<bool> {
        self.trusts_us
    }

    /// Keeps a path from being deleted by the garbage collector as long as this connection lives. The path need not be valid:
    /// ask for that *after* this.
    pub fn add_temp_root(&mut self, path: &StorePath) -> Result<()> {
        self.ask("keep a path", Operation::AddTempRoot, Some(path), |from| wire::number(from).map(drop))
    }

    /// Returns whether a path is valid.
    pub fn is_valid(&mut self, path: &StorePath) -> Result<bool> {
        self.ask("ask for a path", Operation::IsValidPath, Some(path), wire::truth)
    }

    /// Returns what is known of a path, with id 0, or `None` if it is not valid.
    pub fn info(&mut self, path: &StorePath) -> Result<Option<PathInfo>> {
        let raw = self.ask("look up a path", Operation::QueryPathInfo, Some(path), |from| {
            Ok(if wire::truth(from)? { Some(read_info(from)?) } else { None })
        })?;
        let parse = |raw: RawInfo| raw.parse(path.clone(), &self.store_dir);
        raw.map(parse).transpose().map_err(|why| Error::DaemonAnswer { what: path.to_absolute(&self.store_dir), why })
    }

    /// Returns how many bytes came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.connection.received()
    }

    /// Returns what is known of paths, with id 0; those that are not valid are absent. Asks for up to 64 before it waits for answers, so that a
    /// far daemon is not waited for once for each path.
    pub fn infos(&mut self, paths: &[StorePath]) -> Result<Selection> {
        const DOING: &str = "look up paths";
        let mut all = Selection::default();
        for batch in paths.chunks(PIPELINE) {
            let mut request = Vec::new();
            for path in batch {
                wire::put_number(&mut request, Operation::QueryPathInfo as u64);
                wire::put_text(&mut request, &path.to_absolute(&self.store_dir));
            }
            self.connection.send(DOING, &request)?;
            for path in batch {
                let raw = self.answer(DOING, |from| Ok(if wire::truth(from)? { Some(read_info(from)?) } else { None }));
                let refused = |why| UnreadableRow { id: 0, path: path.to_absolute(&self.store_dir), why };
                match raw {
                    Ok(None) => all.absent.push(path.clone()),
                    Ok(Some(raw)) => match raw.parse(path.clone(), &self.store_dir) {
                        Ok(info) => all.paths.push(info),
                        Err(why) => all.unreadable.push(refused(why)),
                    },
                    Err(Error::DaemonRefused { message, .. }) => all.unreadable.push(refused(message)),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(all)
    }

    /// Writes the NAR of a path, which has to have `size` bytes, to `out`.
    ///
    /// # Errors
    /// [`Error::DaemonRefused`] if there is no such path; [`Error::DaemonLost`] also if the NAR has another length or is none; [`Error::Sink`],
    /// after which the connection is lost too.
    pub fn nar(&mut self, path: &StorePath, size: u64, out: &mut dyn std::io::Write) -> Result<()> {
        const DOING: &str = "get a NAR";
        self.ask(DOING, Operation::NarFromPath, Some(path), |_| Ok(()))?;
        self.connection.nar(DOING, size, out)
    }

    /// Returns all valid paths: tens of megabytes in a large store.
    pub fn all_valid(&mut self) -> Result<Names> {
        let store_dir = self.store_dir.clone();
        self.ask("list all paths", Operation::QueryAllValidPaths, None, |from| {
            let mut names = Names::default();
            for _ in 0..wire::count(from, MAX_PATHS)? {
                let text = wire::text(from)?;
                match StorePath::parse_absolute(&text, &store_dir) {
                    Ok(path) => names.paths.push(path),
                    Err(error) => names.unreadable.push(UnreadableRow { id: 0, path: text, why: error.to_string() }),
                }
            }
            Ok(names)
        })
    }

    fn shake_hands(&mut self) -> Result<()> {
        const DOING: &str = "greet";
        let mut greeting = Vec::new();
        wire::put_number(&mut greeting, CLIENT_MAGIC);
        self.connection.send(DOING, &greeting)?;
        let offered = self.connection.receive(DOING, |from| {
            if wire::number(from)? == DAEMON_MAGIC {
                wire::number(from)
            } else {
                nonsense("no greeting of a Nix daemon")
            }
        })?;
        self.protocol = offered.min(NEWEST);
        if offered >> 8 != 1 || offered < OLDEST {
            return Err(Error::DaemonVersion { major: offered >> 8, minor: offered & 0xff });
        }
        let mut answer = Vec::new();
        wire::put_number(&mut answer, NEWEST);
        // Once a CPU to run on, and whether to keep space in reserve.
        wire::put_number(&mut answer, 0);
        wire::put_number(&mut answer, 0);
        self.connection.send(DOING, &answer)?;
        let protocol = self.protocol;
        (self.nix_version, self.trusts_us) = self.connection.receive(DOING, |from| {
            let nix_version = if protocol >= WITH_NIX_VERSION { Some(wire::text(from)?) } else { None };
            let trust = if protocol >= WITH_TRUST { wire::number(from)? } else { 0 };
            let trusts_us = match trust {
                1 => Some(true),
                2 => Some(false),
                _ => None,
            };
            Ok((nix_version, trusts_us))
        })?;
        self.answer(DOING, |_| Ok(()))
    }

    /// Makes one request and reads its answer.
    fn ask<T>(
        &mut self,
        doing: &'static str,
        operation: Operation,
        path: Option<&StorePath>,
        read: impl FnOnce(&mut BufReader<Counted>) -> ReadResult<T>,
    ) -> Result<T> {
        let mut request = Vec::new();
        wire::put_number(&mut request, operation as u64);
        if let Some(path) = path {
            wire::put_text(&mut request, &path.to_absolute(&self.store_dir));
        }
        self.connection.send(doing, &request)?;
        self.answer(doing, read)
    }

    fn answer<T>(
        &mut self,
        doing: &'static str,
        read: impl FnOnce(&mut BufReader<Counted>) -> ReadResult<T>,
    ) -> Result<T> {
        match self.connection.receive(doing, messages::until_answer)? {
            Ok(()) => self.connection.receive(doing, read),
            Err(message) => Err(Error::DaemonRefused { doing, message }),
        }
    }
}

/// Reads what the daemon says of a path.
fn read_info(from: &mut BufReader<Counted>) -> ReadResult<RawInfo> {
    Ok(RawInfo {
        deriver: wire::text(from)?,
        nar_hash: wire::text(from)?,
        references: texts(from, MAX_REFERENCES)?,
        registered_at: wire::number(from)?,
        nar_size: wire::number(from)?,
        ultimate: wire::truth(from)?,
        signatures: texts(from, MAX_SIGNATURES)?,
        ca: wire::text(from)?,
    })
}
