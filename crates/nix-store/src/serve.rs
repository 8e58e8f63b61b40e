//! What `nix-store --serve` speaks, the protocol of `ssh://` stores: what is known of paths, and their NARs.
//!
//! It can't list a store, and keeps nothing from being deleted. Versions from 2.4 (Nix 2.0) on are understood; later ones speak it too.

use std::io::{BufReader, Write};
use std::os::unix::net::UnixStream;

use firn_nix::StorePath;

use crate::connection::Connection;
use crate::counted::Counted;
use crate::daemon::wire::{self, ReadResult, nonsense};
use crate::raw_info::{MAX_REFERENCES, MAX_SIGNATURES, RawInfo, store_path, texts};
use crate::{Error, Result, Selection, UnreadableRow};

const CLIENT_MAGIC: u64 = 0x390c_9deb;
const SERVER_MAGIC: u64 = 0x5452_eecb;
/// The protocol that we announce.
const NEWEST: u64 = 2 << 8 | 5;
/// The first one that tells hashes and signatures.
const OLDEST: u64 = 2 << 8 | 4;

const QUERY_PATH_INFOS: u64 = 2;
const DUMP_STORE_PATH: u64 = 3;

/// Paths that one question is about: its answer waits in our memory.
const BATCH: usize = 500;

/// A connection to `nix-store --serve`. After [`Error::DaemonLost`] all later calls fail as well: connect anew.
#[derive(Debug)]
pub struct ServeProtocol {
    connection: Connection,
    store_dir: String,
}

impl ServeProtocol {
    /// Begins to talk through a stream, whose time limits hold for each answer.
    ///
    /// # Errors
    /// [`Error::DaemonVersion`], [`Error::DaemonLost`].
    pub fn over(stream: UnixStream, store_dir: &str) -> Result<Self> {
        let mut this = Self { connection: Connection::new(stream, "nix-store"), store_dir: store_dir.to_owned() };
        const DOING: &str = "greet";
        let mut greeting = Vec::new();
        wire::put_number(&mut greeting, CLIENT_MAGIC);
        wire::put_number(&mut greeting, NEWEST);
        this.connection.send(DOING, &greeting)?;
        let version = this.connection.receive(DOING, |from| {
            if wire::number(from)? == SERVER_MAGIC { wire::number(from) } else { nonsense("no greeting of nix-store") }
        })?;
        if version >> 8 != 2 || version < OLDEST {
            return Err(Error::DaemonVersion { major: version >> 8, minor: version & 0xff });
        }
        Ok(this)
    }

    /// Returns how many bytes came so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.connection.received()
    }

    /// Returns what is known of paths, with id 0; those that are not valid are absent.
    pub fn infos(&mut self, paths: &[StorePath]) -> Result<Selection> {
        let mut all = Selection::default();
        for batch in paths.chunks(BATCH) {
            let mut request = Vec::new();
            wire::put_number(&mut request, QUERY_PATH_INFOS);
            wire::put_number(&mut request, batch.len() as u64);
            for path in batch {
                wire::put_text(&mut request, &path.to_absolute(&self.store_dir));
            }
            const DOING: &str = "look up paths";
            self.connection.send(DOING, &request)?;
            let raw = self.connection.receive(DOING, |from| {
                let mut raw = Vec::new();
                loop {
                    match wire::text(from)? {
                        path if path.is_empty() => return Ok(raw),
                        _ if raw.len() == batch.len() => return nonsense("more paths than were asked for"),
                        path => raw.push((path, read_info(from)?)),
                    }
                }
            })?;
            let mut missing: Vec<&StorePath> = batch.iter().collect();
            for (path, info) in raw {
                let parsed = store_path(&path, &self.store_dir).and_then(|path| info.parse(path, &self.store_dir));
                match parsed {
                    Ok(info) => {
                        missing.retain(|path| **path != info.path);
                        all.paths.push(info);
                    }
                    Err(why) => {
                        missing.retain(|wanted| wanted.to_absolute(&self.store_dir) != path);
                        all.unreadable.push(UnreadableRow { id: 0, path, why });
                    }
                }
            }
            all.absent.extend(missing.into_iter().cloned());
        }
        Ok(all)
    }

    /// Writes the NAR of a path, which has to have `size` bytes, to `out`.
    ///
    /// # Errors
    /// [`Error::DaemonLost`] also if the NAR has another length or is none, or the path is gone; [`Error::Sink`].
    pub fn nar(&mut self, path: &StorePath, size: u64, out: &mut dyn Write) -> Result<()> {
        const DOING: &str = "get a NAR";
        let mut request = Vec::new();
        wire::put_number(&mut request, DUMP_STORE_PATH);
        wire::put_text(&mut request, &path.to_absolute(&self.store_dir));
        self.connection.send(DOING, &request)?;
        self.connection.nar(DOING, size, out)
    }
}

/// Reads what `nix-store` says of a path, behind its name.
fn read_info(from: &mut BufReader<Counted>) -> ReadResult<RawInfo> {
    let deriver = wire::text(from)?;
    let references = texts(from, MAX_REFERENCES)?;
    // The size of a compressed file, which a store has not.
    wire::number(from)?;
    Ok(RawInfo {
        deriver,
        references,
        nar_size: wire::number(from)?,
        nar_hash: wire::text(from)?,
        ca: wire::text(from)?,
        signatures: texts(from, MAX_SIGNATURES)?,
        ..RawInfo::default()
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::Shutdown;

    use super::*;
    use crate::daemon::wire::{put_number, put_text};

    const NAME: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top";

    fn connect(script: &[u8]) -> (Result<ServeProtocol>, UnixStream) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(script).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        (ServeProtocol::over(ours, "/nix/store"), theirs)
    }

    fn greeting(version: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_number(&mut bytes, SERVER_MAGIC);
        put_number(&mut bytes, version);
        bytes
    }

    fn answer(hash: &str, size: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_text(&mut bytes, &format!("/nix/store/{NAME}"));
        put_text(&mut bytes, "");
        put_number(&mut bytes, 1);
        put_text(&mut bytes, &format!("/nix/store/{NAME}"));
        put_number(&mut bytes, 0);
        put_number(&mut bytes, size);
        put_text(&mut bytes, hash);
        put_text(&mut bytes, "");
        put_number(&mut bytes, 1);
        put_text(&mut bytes, "a:b");
        put_text(&mut bytes, "");
        bytes
    }

    #[test]
    fn refuses_other_services_and_versions() {
        assert!(matches!(connect(b"").0, Err(Error::DaemonLost { .. })));
        assert!(matches!(connect(b"Welcome to this machine!\n").0, Err(Error::DaemonLost { .. })));
        for version in [2 << 8 | 3, 3 << 8 | 1, 1 << 8 | 9] {
            assert!(matches!(connect(&greeting(version)).0, Err(Error::DaemonVersion { .. })), "{version}");
        }
    }

    #[test]
    fn reads_what_is_known_of_paths_and_every_cut_is_a_lost_connection() {
        let path = StorePath::from_base_name(NAME).unwrap();
        let other = StorePath::from_base_name("1fanvwfh6772nmhmbw78d8jmj0dr6lpc-gone").unwrap();
        let hash = firn_nix::Sha256::of(b"x");
        let good = answer(&format!("sha256:{}", hash.to_nix32()), 120);
        let (connection, _theirs) = connect(&[greeting(2 << 8 | 7), good.clone(), answer("no hash", 1)].concat());
        let mut connection = connection.unwrap();
        let found = connection.infos(&[path.clone(), other.clone()]).unwrap();
        assert_eq!((found.paths.len(), &found.absent[..]), (1, &[other][..]));
        assert_eq!((found.paths[0].nar_hash, found.paths[0].nar_size), (hash, 120));
        assert_eq!(found.paths[0].references, std::slice::from_ref(&path));
        assert_eq!(connection.infos(std::slice::from_ref(&path)).unwrap().unreadable.len(), 1);
        for cut in 0..good.len() {
            let (connection, _theirs) = connect(&[&greeting(2 << 8 | 7), &good[..cut]].concat());
            let mut connection = connection.unwrap();
            assert!(matches!(connection.infos(std::slice::from_ref(&path)), Err(Error::DaemonLost { .. })), "{cut}");
            assert!(matches!(connection.nar(&path, 8, &mut io::sink()), Err(Error::DaemonLost { .. })), "{cut}");
        }
    }
}
