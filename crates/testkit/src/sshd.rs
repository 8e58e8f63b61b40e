//! A real `sshd` on a free port of the loopback address: the way to a simulated machine.
//!
//! Whoever logs in is on one [`Store`]'s machine, or on one [`Host`]: its Nix on `PATH`, its configuration, its home.
//! [`Hosts`] is what the other side needs, in a form that `ssh -F`, and so Nix by `NIX_SSHOPTS`, takes.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::error::{Doing, Error, Result};
use crate::nix::{Host, Store};
use crate::process::{descendants, describe, kill_all, run};

/// How long a start may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where Debian has it; it insists on being called by its whole path.
const PROGRAM: &str = "/usr/sbin/sshd";

/// As whom sessions run on a [`Host`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// As root, whom Nix's daemon trusts unless it is told otherwise.
    Root,
    /// As `nobody`, whom it does not.
    Nobody,
}

/// A machine's `sshd`; killed on drop, with the sessions that it serves.
#[derive(Debug)]
pub struct Sshd {
    directory: TempDir,
    address: SocketAddr,
    /// The words before its own command line: what makes it run on its machine.
    prefix: Vec<OsString>,
    child: Option<Child>,
}

impl Sshd {
    /// Starts one for a machine and waits until it accepts connections. Sessions open the machine's store themselves.
    pub fn start(store: &Store) -> Result<Self> {
        Self::start_with(store, [] as [(&str, &str); 0])
    }

    /// Starts one whose sessions have these variables besides, like `NIX_REMOTE=unix://SOCKET` to go through a daemon.
    pub fn start_with<N: AsRef<OsStr>, V: AsRef<OsStr>>(
        store: &Store,
        variables: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self> {
        let machine = store.command("nix");
        let own = machine.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())));
        let more = variables.into_iter().map(|(name, value)| (name.as_ref().to_owned(), value.as_ref().to_owned()));
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", store.nix().programs().display());
        let own: Vec<_> = own.chain(more).chain([("PATH".into(), path.into())]).collect();
        Self::start_session(&session(own, "exec"), Vec::new())
    }

    /// Starts one on a host, where sessions go through the daemon, and waits until it accepts connections.
    pub fn start_on(host: &Host, login: Login) -> Result<Self> {
        let own = host.environment().map(|(name, value)| (name.into(), value.into()));
        let become_them = match login {
            Login::Root => "exec",
            Login::Nobody => "exec setpriv --reuid 65534 --regid 65534 --clear-groups",
        };
        let session = session(own.chain([("NIX_REMOTE".into(), "daemon".into())]), become_them);
        let service = host.service("env");
        let words = [service.get_program()].into_iter().chain(service.get_args());
        Self::start_session(&session, words.map(OsStr::to_owned).collect())
    }

    fn start_session(session: &str, prefix: Vec<OsString>) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("firn-sshd-")
            .tempdir()
            .doing(|| "create a temporary directory".to_owned())?;
        let mut sshd = Self { address: free_address()?, directory, prefix, child: None };
        sshd.new_key("user")?;
        sshd.new_key("host")?;
        fs::copy(sshd.inside("user.pub"), sshd.inside("authorized")).doing(|| "let the user's key in".to_owned())?;
        let path = sshd.inside("session");
        fs::write(&path, session).doing(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).doing(|| format!("chmod {}", path.display()))?;
        sshd.write_config()?;
        sshd.launch()?;
        Ok(sshd)
    }

    /// Returns where it listens; the same after a restart.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the file with the secret key that is let in.
    pub fn user_key(&self) -> PathBuf {
        self.inside("user")
    }

    /// Returns its public host key, as in `known_hosts` after the host: `ssh-ed25519 AAAA…`.
    pub fn host_key(&self) -> Result<String> {
        let path = self.inside("host.pub");
        let text = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        Ok(text.split(' ').take(2).collect::<Vec<_>>().join(" "))
    }

    /// Ends it and starts it again with another host key, as a machine that was set up anew.
    pub fn change_host_key(&mut self) -> Result<()> {
        self.kill()?;
        self.new_key("host")?;
        self.launch()
    }

    /// Ends it with SIGKILL, and all its sessions. What sessions put into sessions of their own lives on.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let serving = descendants(child.id());
            child.kill().and_then(|()| child.wait()).doing(|| "kill sshd".to_owned())?;
            kill_all(serving);
        }
        Ok(())
    }

    /// Starts it again on the same port, with the same keys.
    ///
    /// # Panics
    /// If it is running.
    pub fn launch(&mut self) -> Result<()> {
        assert!(self.child.is_none(), "sshd is running already");
        if rustix::process::geteuid().is_root() {
            // Root's sshd drops into an empty folder, which a system's start would have made.
            fs::create_dir_all("/run/sshd").doing(|| "create /run/sshd".to_owned())?;
        }
        let mut words = self.prefix.iter().map(OsString::as_os_str).chain([OsStr::new(PROGRAM)]);
        let mut command = Command::new(words.next().unwrap_or(OsStr::new(PROGRAM)));
        command.args(words);
        command.arg("-D").arg("-E").arg(self.inside("log")).arg("-f").arg(self.inside("config"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.child = Some(command.spawn().doing(|| format!("start {} (scripts/setup)", describe(&command)))?);
        let start = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()?);
            if ended.is_some() || start.elapsed() > PATIENCE {
                self.child = None;
                return Err(Error::Unexpected { what: "an sshd that accepts connections", got: self.log() });
            }
            // There is nothing to wait on: the port opens when it opens.
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Returns what it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.inside("log")).unwrap_or_default()
    }

    fn new_key(&self, name: &str) -> Result<()> {
        let path = self.inside(name);
        let _ = fs::remove_file(&path);
        run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "firn-test", "-f"]).arg(&path))?
            .done()
    }

    fn write_config(&self) -> Result<()> {
        let inside = |name: &str| self.inside(name).display().to_string();
        let config = format!(
            "ListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nForceCommand {}\nPidFile {}\n\
             StrictModes no\nUsePAM no\nPermitRootLogin yes\nPasswordAuthentication no\nLogLevel VERBOSE\n\
             MaxStartups 100\nMaxSessions 100\n",
            self.address,
            inside("host"),
            inside("authorized"),
            inside("session"),
            inside("pid"),
        );
        let path = self.inside("config");
        fs::write(&path, config).doing(|| format!("write {}", path.display()))
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let tail = log.as_bytes().get(log.len().saturating_sub(4 << 10)..).unwrap_or_default();
            eprintln!("--- the end of sshd's log\n{}", String::from_utf8_lossy(tail));
        }
        let _ = self.kill();
    }
}

/// The hosts that somebody may reach by ssh, with their keys: an `ssh_config`, and a `known_hosts` beside it.
#[derive(Debug)]
pub struct Hosts {
    directory: TempDir,
}

impl Hosts {
    /// Writes down hosts by the names that URLs will have: `[("gateway", &sshd)]` for `ssh-ng://gateway`.
    pub fn new(hosts: &[(&str, &Sshd)]) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("firn-ssh-")
            .tempdir()
            .doing(|| "create a temporary directory".to_owned())?;
        let this = Self { directory };
        let (mut config, mut known) = (String::new(), String::new());
        for (name, sshd) in hosts {
            let (host, port) = (sshd.address().ip(), sshd.address().port());
            let _ = writeln!(
                config,
                "Host {name}\n  HostName {host}\n  Port {port}\n  HostKeyAlias {name}\n  IdentityFile {}",
                sshd.user_key().display()
            );
            let _ = writeln!(known, "{name} {}", sshd.host_key()?);
        }
        let _ = writeln!(
            config,
            "Host *\n  IdentitiesOnly yes\n  BatchMode yes\n  StrictHostKeyChecking yes\n  ConnectTimeout 30\n  \
             UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null",
            this.known_hosts().display()
        );
        for (path, text) in [(this.config(), config), (this.known_hosts(), known)] {
            fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
        }
        Ok(this)
    }

    /// Returns the `ssh_config`, for `ssh -F`.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("config")
    }

    /// Returns the `known_hosts`: an empty one makes every host a stranger.
    pub fn known_hosts(&self) -> PathBuf {
        self.directory.path().join("known_hosts")
    }

    /// Makes them known on a host, to all who work there and to its daemon.
    pub fn install(&self, host: &Host) -> Result<()> {
        let config = fs::read_to_string(self.config()).doing(|| format!("read {}", self.config().display()))?;
        host.store().write("hosts", &config)?;
        Ok(())
    }

    /// Returns the value of `NIX_SSHOPTS` that makes Nix use them.
    pub fn nix_sshopts(&self) -> String {
        format!("-F {}", self.config().display())
    }

    /// Returns an `ssh` to one of them that runs a command there.
    pub fn ssh(&self, name: &str, command: &str) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.config()).args([name, command]);
        ssh
    }
}

/// Returns the program that every session runs instead of its command: the command, on its machine.
fn session(variables: impl IntoIterator<Item = (OsString, OsString)>, exec: &str) -> String {
    let mut text = String::from("#!/bin/sh\n");
    for (name, value) in variables {
        let value = value.to_string_lossy().replace('\'', r"'\''");
        let _ = writeln!(text, "export {}='{value}'", name.to_string_lossy());
    }
    text += "cd \"$HOME\"\n";
    let _ = writeln!(text, r#"{exec} /bin/sh -c "${{SSH_ORIGINAL_COMMAND:-exec /bin/sh}}""#);
    text
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "find a free port".to_owned())?;
    listener.local_addr().doing(|| "find a free port".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::{Nix, Version};

    #[test]
    fn whoever_logs_in_is_on_that_machine_and_a_changed_key_is_refused() -> Result<()> {
        let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
        let store = nix.store()?;
        let path = store.build_one(r#"build { name = "x"; script = "echo 1 > $out"; }"#)?;
        let mut sshd = Sshd::start_with(&store, [("IT_S", "it's")])?;
        let hosts = Hosts::new(&[("machine", &sshd)])?;
        let ran = run(&mut hosts.ssh("machine", &format!("echo $IT_S; nix-store --query --hash {path}")))?.ok()?;
        assert_eq!(ran.lines(), ["it's".to_owned(), store.nar_hash(&path)?]);
        let ran = run(store
            .command("nix-store")
            .args(["--query", "--hash", &path, "--store", "ssh-ng://machine"])
            .env("NIX_SSHOPTS", hosts.nix_sshopts()))?;
        assert_eq!(ran.ok()?.text(), store.nar_hash(&path)?);

        sshd.change_host_key()?;
        let ran = run(&mut hosts.ssh("machine", "true"))?;
        assert!(!ran.succeeded() && ran.stderr.contains("verification failed"), "{ran:?}");
        Ok(())
    }
}
