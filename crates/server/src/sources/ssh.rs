//! A store behind ssh: nothing need be installed there but Nix.
//!
//! Stock protocols can't list what is new. So the shell on the other side is asked which store paths changed after a moment (`find` looks at the
//! change times of inodes, which nobody can set back); where there is no shell or no such `find`, all valid paths are listed and compared
//! with what was seen last.

use std::fs;
use std::io::{self, Read as _, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firn_index::{SourceCursor, SourceName, SourceRow};
use firn_nix::StorePath;
use firn_nix_store::{Daemon, Error, PathInfo, Process, Selection, ServeProtocol};

use super::peer::{Listing, NarError, Peer, SyncError, steps_by_name, steps_by_time};
use super::place::{Protocol, SshPlace};
use super::run::Run;
use super::seen::{MAX_NAMES, Seen};

/// How long the other side may be silent.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How far back is looked beyond the last look, in seconds: a path gets its change time some time before it is registered.
const OVERLAP: u64 = 900;

/// The longest answer to a survey, in bytes: some 2 million names.
const MAX_SURVEY_BYTES: u64 = 256 << 20;

/// How ssh is called for a source.
#[derive(Debug, Clone)]
pub(super) struct Ssh {
    place: SshPlace,
    store_dir: String,
    alias: String,
    key: Option<String>,
    /// The file of the host's key; empty or absent at the first sync.
    hosts: PathBuf,
    is_known: bool,
    has_firn: Arc<AtomicBool>,
    run: Arc<Run>,
}

impl Ssh {
    /// Prepares the file with the host's key in `folder`, which is made.
    pub(super) fn new(
        name: &SourceName,
        row: &SourceRow,
        place: SshPlace,
        store_dir: &str,
        known_key: Option<&str>,
        folder: &std::path::Path,
        run: &Arc<Run>,
    ) -> Result<Self, SyncError> {
        let hosts = folder.join(format!("{name}.known-hosts"));
        let alias = format!("firn-source-{name}");
        let key = row.host_key.as_deref().or(known_key);
        let text = key.map(|key| format!("{alias} {key}\n")).unwrap_or_default();
        let written = fs::create_dir_all(folder).and_then(|()| fs::write(&hosts, text));
        written.map_err(|error| SyncError::Store(format!("write {}: {error}", hosts.display())))?;
        Ok(Self {
            place,
            store_dir: store_dir.to_owned(),
            alias,
            key: row.ssh_key.clone(),
            hosts,
            is_known: key.is_some(),
            has_firn: Arc::default(),
            run: Arc::clone(run),
        })
    }

    /// Returns the host's key, as ssh has found it.
    pub(super) fn host_key(&self) -> Option<String> {
        let text = fs::read_to_string(&self.hosts).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(&self.alias)?.strip_prefix(' '))?;
        Some(line.trim().to_owned())
    }

    /// Starts a command there.
    pub(super) fn start(&self, remote: &str) -> Result<(Process, UnixStream), SyncError> {
        let mut command = Command::new("ssh");
        // Whoever is asked for a password, or whether a key is good, is not there.
        command.args(["-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=15"]);
        command.args(["-o", "ServerAliveCountMax=3", "-o", "ClearAllForwardings=yes", "-o", "UpdateHostKeys=no"]);
        command.args([
            "-o",
            "GlobalKnownHostsFile=/dev/null",
            "-o",
            "HashKnownHosts=no",
            "-o",
            "CheckHostIP=no",
            "-o",
            "LogLevel=ERROR",
        ]);
        let strictness = if self.is_known { "yes" } else { "accept-new" };
        command.arg("-o").arg(format!("StrictHostKeyChecking={strictness}"));
        command.arg("-o").arg(format!("HostKeyAlias={}", self.alias));
        command.arg("-o").arg(format!("UserKnownHostsFile=\"{}\"", self.hosts.display()));
        if let Some(key) = &self.key {
            command.args(["-o", "IdentitiesOnly=yes", "-i", key]);
        }
        if let Some(port) = self.place.port {
            command.arg("-p").arg(port.to_string());
        }
        command.arg("--").arg(&self.place.destination).arg(remote);
        let (process, stream) = Process::start(&mut command)
            .map_err(|error| SyncError::Source(format!("start ssh: {error}; is openssh-client installed?")))?;
        let limits = stream.set_read_timeout(Some(TIMEOUT)).and_then(|()| stream.set_write_timeout(Some(TIMEOUT)));
        limits.map_err(|error| SyncError::Source(format!("set time limits: {error}")))?;
        self.run.break_with(&stream);
        Ok((process, stream))
    }

    /// Opens a connection that speaks the source's protocol.
    pub(super) fn open(&self) -> Result<SshStore, SyncError> {
        let store = self.place.store.as_ref().map(|store| format!(" --store {store}")).unwrap_or_default();
        let program = |usual: &str| self.place.program.clone().unwrap_or_else(|| usual.to_owned());
        let remote = match self.place.protocol {
            Protocol::Daemon => format!("{} --stdio{store}", program("nix-daemon")),
            Protocol::Serve => format!("{} --serve{store}", program("nix-store")),
        };
        let (mut process, stream) = self.start(&remote)?;
        let talk = match self.place.protocol {
            Protocol::Daemon => Daemon::over(stream, &self.store_dir).map(Talk::Daemon),
            Protocol::Serve => ServeProtocol::over(stream, &self.store_dir).map(Talk::Serve),
        };
        match talk {
            Ok(talk) => Ok(SshStore { talk, _process: process, ssh: self.clone(), more_bytes: 0, nar_bytes: 0 }),
            Err(error) => Err(self.explain(&error, &mut process)),
        }
    }

    /// Says why nothing came of a connection, in ssh's words where it has some.
    fn explain(&self, error: &Error, process: &mut Process) -> SyncError {
        if self.run.is_stopped() {
            return SyncError::Stopped;
        }
        let (_, said) = process.wait_briefly();
        let host = &self.place.destination;
        if said.contains("Host key verification failed") || said.contains("HOST IDENTIFICATION HAS CHANGED") {
            return SyncError::Source(format!(
                "reach {host}: its host key is not the one that is known; if it was changed on purpose, `firnd source set NAME --host-key 'TYPE KEY'` \
                 (or --forget-host-key) makes the new one known"
            ));
        }
        let last = said.lines().last().unwrap_or_default();
        let detail = if last.is_empty() { crate::error_chain(error) } else { last.to_owned() };
        SyncError::Source(format!("reach {host}: {detail}"))
    }

    fn real_store_dir(&self) -> String {
        format!("{}{}", self.place.store.as_deref().unwrap_or_default().trim_end_matches('/'), self.store_dir)
    }

    /// Asks the shell there what is new; `None` if there is none, or no `find` that can tell.
    fn survey(&self, after: u64) -> Result<Option<Survey>, SyncError> {
        let (folder, firn) = (self.real_store_dir(), self.firn());
        // No quotes within: it stands in quotes. "." would be the store itself.
        let script = format!(
            "echo firn-survey 1; date +%s; command -v {firn} || echo none; find --version >/dev/null 2>&1 && \
             {{ find {folder} -mindepth 1 -maxdepth 1 -newerct @{after} -printf \"%C@ %f\\n\" 2>/dev/null; echo end; }}"
        );
        let (mut process, mut stream) = self.start(&format!("sh -c '{script}'"))?;
        let closed = stream.shutdown(std::net::Shutdown::Write);
        let mut bytes = Vec::new();
        let read = closed.and_then(|()| (&mut stream).take(MAX_SURVEY_BYTES).read_to_end(&mut bytes));
        if self.run.is_stopped() {
            return Err(SyncError::Stopped);
        }
        let survey = Survey::parse(&bytes);
        self.has_firn.store(survey.as_ref().is_some_and(|survey| survey.has_firn), Ordering::Relaxed);
        if survey.is_none() {
            let (status, said) = process.wait_briefly();
            tracing::debug!(host = %self.place.destination, ?status, said, ?read, "no survey by a shell");
            // 255 is ssh's own failure: that of the connection, which will say it better.
        }
        Ok(survey)
    }

    /// Returns the store directory that paths begin with.
    pub(super) fn store_dir(&self) -> &str {
        &self.store_dir
    }

    /// Returns what the `firn` there is called.
    pub(super) fn firn(&self) -> &str {
        self.place.firn.as_deref().unwrap_or("firn")
    }

    /// Returns what a shell there needs before `firn` to mean this store.
    pub(super) fn firn_environment(&self) -> String {
        self.place.store.as_ref().map(|store| format!("NIX_REMOTE={store} ")).unwrap_or_default()
    }

    /// Returns whether a shell there has found `firn`, as far as one was asked.
    pub(super) fn has_firn(&self) -> bool {
        self.has_firn.load(Ordering::Relaxed)
    }
}

/// What a shell on the other side says.
#[derive(Debug, PartialEq, Eq)]
struct Survey {
    bytes: u64,
    now: u64,
    has_firn: bool,
    /// Change times and paths.
    paths: Vec<(u64, StorePath)>,
}

impl Survey {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        // Some shells greet even those who only want a command done.
        let mut lines = text.lines().skip_while(|line| *line != "firn-survey 1").skip(1);
        let now = lines.next()?.parse().ok()?;
        let has_firn = lines.next()?.starts_with('/');
        let (mut paths, mut is_whole) = (Vec::new(), false);
        for line in lines {
            if line == "end" {
                is_whole = true;
                break;
            }
            let Some((at, name)) = line.split_once(' ') else { continue };
            // Links, locks and temporary files are in the folder as well.
            let Ok(path) = StorePath::from_base_name(name) else { continue };
            let seconds = at.split_once('.').map_or(at, |(seconds, _)| seconds);
            paths.push((seconds.parse().ok()?, path));
        }
        is_whole.then_some(Self { bytes: bytes.len() as u64, now, has_firn, paths })
    }
}

enum Talk {
    Daemon(Daemon),
    Serve(ServeProtocol),
}

/// A connection to a store behind ssh.
pub(super) struct SshStore {
    talk: Talk,
    // Behind the stream, whose end lets it end by itself.
    _process: Process,
    ssh: Ssh,
    more_bytes: u64,
    nar_bytes: u64,
}

impl SshStore {
    fn lost(&self, error: &Error) -> SyncError {
        if self.ssh.run.is_stopped() {
            return SyncError::Stopped;
        }
        SyncError::Source(format!("talk to {}: {}", self.ssh.place.destination, crate::error_chain(error)))
    }

    fn list_all(&mut self, seen: &Seen) -> Result<Listing, SyncError> {
        let host = &self.ssh.place.destination;
        let Talk::Daemon(daemon) = &mut self.talk else {
            return Err(SyncError::Source(format!(
                "list what is new at {host}: it has no shell with GNU find, and the protocol of ssh:// can't list; use ssh-ng://"
            )));
        };
        let names = match daemon.all_valid() {
            Ok(names) => names.paths,
            Err(error) => return Err(self.lost(&error)),
        };
        if names.len() > MAX_NAMES {
            let text = format!(
                "list what is new at {host}: {} paths are more than the {MAX_NAMES} that are remembered",
                names.len()
            );
            return Err(SyncError::Source(text));
        }
        Ok(steps_by_name(names, seen))
    }
}

impl Peer for SshStore {
    fn list(&mut self, since: Option<&SourceCursor>, seen: &Seen) -> Result<Listing, SyncError> {
        let after = match since {
            Some(SourceCursor::Time(at)) => at.saturating_sub(OVERLAP),
            _ => 0,
        };
        let Some(mut survey) = self.ssh.survey(after)? else { return self.list_all(seen) };
        if after > survey.now {
            // The clock there was set back: what changed since can't be told from what did not.
            let Some(whole) = self.ssh.survey(0)? else { return self.list_all(seen) };
            survey = whole;
        }
        self.more_bytes += survey.bytes;
        Ok(Listing { steps: steps_by_time(survey.paths, survey.now), seen: None })
    }

    fn infos(&mut self, paths: &[StorePath]) -> Result<Selection, SyncError> {
        let found = match &mut self.talk {
            Talk::Daemon(daemon) => daemon.infos(paths),
            Talk::Serve(serve) => serve.infos(paths),
        };
        found.map_err(|error| self.lost(&error))
    }

    fn keep(&mut self, path: &StorePath) -> Result<(), NarError> {
        match &mut self.talk {
            // One who may not even do that may still read.
            Talk::Daemon(daemon) => match daemon.add_temp_root(path) {
                Err(error @ Error::DaemonLost { .. }) => Err(NarError::Lost(crate::error_chain(&error))),
                _ => Ok(()),
            },
            Talk::Serve(_) => Ok(()),
        }
    }

    fn nar(&mut self, info: &PathInfo, out: &mut dyn Write) -> Result<(), NarError> {
        let mut counting = Counting { to: out, bytes: 0 };
        let written = match &mut self.talk {
            Talk::Daemon(daemon) => daemon.nar(&info.path, info.nar_size, &mut counting),
            Talk::Serve(serve) => serve.nar(&info.path, info.nar_size, &mut counting),
        };
        self.nar_bytes += counting.bytes;
        match written {
            Ok(()) => Ok(()),
            Err(error @ Error::DaemonRefused { .. }) => Err(NarError::Gone(crate::error_chain(&error))),
            Err(error) => Err(NarError::Lost(crate::error_chain(&error))),
        }
    }

    fn metadata_bytes(&self) -> u64 {
        let received = match &self.talk {
            Talk::Daemon(daemon) => daemon.received(),
            Talk::Serve(serve) => serve.received(),
        };
        received.saturating_sub(self.nar_bytes).saturating_add(self.more_bytes)
    }
}

struct Counting<'a> {
    to: &'a mut dyn Write,
    bytes: u64,
}

impl Write for Counting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.to.write(bytes)?;
        self.bytes += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top";

    #[test]
    fn a_survey_is_read_whatever_the_shell_says_before() {
        let text = format!(
            "Welcome!\nfirn-survey 1\n1700000100\n/usr/bin/firn\n1700000000.1234567890 {NAME}\n1700000001.5 .links\n1.0 {NAME}.lock\nend\nbye\n"
        );
        let survey = Survey::parse(text.as_bytes()).unwrap();
        assert_eq!((survey.now, survey.has_firn), (1_700_000_100, true));
        // A lock's name is one of a store path too; the store says that it is none.
        assert_eq!(survey.paths.first(), Some(&(1_700_000_000, NAME.parse().unwrap())));
    }

    #[test]
    fn half_a_survey_is_none() {
        let text = format!("firn-survey 1\n1700000100\nnone\n1700000000.1 {NAME}\nend\n");
        assert!(Survey::parse(text.as_bytes()).is_some_and(|survey| !survey.has_firn && survey.paths.len() == 1));
        for cut in 0..text.len() - 1 {
            assert_eq!(Survey::parse(&text.as_bytes()[..cut]).map(|survey| survey.paths.len()), None, "{cut}");
        }
        for bad in ["", "sh: find: not found\n", "firn-survey 1\nx\nnone\nend\n", "firn-survey 1\n1\nnone\nx.1 y\n"] {
            assert_eq!(Survey::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
