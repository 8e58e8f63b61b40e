//! A real `firnd` process on a temporary data directory and a free port of the loopback address.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::error::{Doing, Error, Result};
use crate::http::{Answer, Request};
use crate::process::{Ran, describe, run};
use crate::program::Program;

/// How long a start or an orderly end may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cache of a server, with what a builder and a client need to use it.
#[derive(Debug, Clone)]
pub struct Cache {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub url: String,
    /// A token that may pull and push.
    pub token: String,
    /// The public key that it signs with, as `trusted-public-keys` takes it.
    pub public_key: String,
}

/// A server process; killed on drop, and its data removed.
#[derive(Debug)]
pub struct Firnd {
    directory: TempDir,
    address: SocketAddr,
    config: Option<PathBuf>,
    /// The size of the file system made for the data, in bytes.
    disk_bytes: Option<u64>,
    /// Whether it speaks TLS.
    is_secure: bool,
    /// The call of its storage at which the next process ends.
    kill_at: Option<String>,
    child: Option<Child>,
}

impl Firnd {
    /// Starts a server with the embedded defaults and waits until it is ready.
    pub fn start() -> Result<Self> {
        Self::start_with("")
    }

    /// Starts a server with a configuration file (TOML) and waits until it is ready.
    pub fn start_with(config: &str) -> Result<Self> {
        Self::new(config, None, false)
    }

    /// Starts a server that speaks TLS with a certificate for `127.0.0.1`, and waits until it accepts connections. Requests of
    /// this harness don't reach it.
    pub fn start_secure(certificate: &Path, key: &Path) -> Result<Self> {
        let config = format!("[server]\ntls-cert = {certificate:?}\ntls-key = {key:?}\n");
        Self::new(&config, None, true)
    }

    /// Starts a server whose data is on a file system of its own, in memory and of that size: it is gone with the process.
    /// Needs user namespaces.
    pub fn start_on_disk_of(bytes: u64, config: &str) -> Result<Self> {
        Self::new(config, Some(bytes), false)
    }

    fn new(config: &str, disk_bytes: Option<u64>, is_secure: bool) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("firn-data-")
            .tempdir()
            .doing(|| "create a temporary directory".to_owned())?;
        let path = directory.path().join("firnd.toml");
        fs::write(&path, config).doing(|| format!("write {}", path.display()))?;
        let config = (!config.is_empty()).then_some(path);
        let mut firnd =
            Self { config, disk_bytes, is_secure, kill_at: None, address: free_address()?, directory, child: None };
        firnd.launch()?;
        Ok(firnd)
    }

    /// Returns the data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Returns where the server listens; the same after a restart.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the URL of a cache, for `substituters` and `nix copy --to`.
    pub fn url(&self, cache: &str) -> String {
        format!("{}://{}/{cache}", if self.is_secure { "https" } else { "http" }, self.address)
    }

    /// Returns the process id while the server runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Starts the server again, which will be killed at a call of its storage: `append:17` is its 18th append,
    /// `append:17:after` is right after it. Returns whether it became ready before.
    ///
    /// # Panics
    /// If it is running.
    pub fn launch_until(&mut self, call: &str) -> Result<bool> {
        self.kill_at = Some(call.to_owned());
        let launched = self.launch();
        self.kill_at = None;
        match launched {
            Ok(()) => Ok(true),
            // Its storage is used before it is ready.
            Err(Error::Unexpected { .. }) if self.child.is_none() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the process has ended by itself, or by a signal that it sent to itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()))
    }

    /// Starts the server again on the same data and port, and waits until it is ready.
    ///
    /// # Panics
    /// If it is running.
    pub fn launch(&mut self) -> Result<()> {
        assert!(self.child.is_none(), "firnd is running already");
        let log_path = self.log_path();
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.doing(|| format!("open {}", log_path.display()))?;
        let mut command = self.server_command()?;
        command.arg("serve").arg("--data").arg(self.data()).arg("--listen").arg(self.address.to_string());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        if let Some(call) = &self.kill_at {
            command.env("FIRN_TEST_KILL", call);
        }
        let output = log.try_clone().doing(|| "share the log file".to_owned())?;
        command.stdin(Stdio::null()).stdout(output).stderr(log);
        let child = command.spawn().doing(|| format!("start {}", describe(&command)))?;
        self.child = Some(child);
        self.wait_until_ready()
    }

    fn server_command(&self) -> Result<Command> {
        let Some(bytes) = self.disk_bytes else { return Ok(Command::new(binary()?)) };
        fs::create_dir_all(self.data()).doing(|| format!("create {}", self.data().display()))?;
        let mut command = Command::new("unshare");
        command.args([
            "--map-root-user",
            "--mount",
            "sh",
            "-ec",
            r#"mount -t tmpfs -o "$1" none "$2"; shift 2; exec "$@""#,
        ]);
        command.arg("sh").arg(format!("size={bytes}")).arg(self.data()).arg(binary()?);
        Ok(command)
    }

    /// Returns a command that sees the data as the server does.
    fn beside_server(&self, program: &OsStr) -> Command {
        let (Some(_), Some(id)) = (self.disk_bytes, self.id()) else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.args(["--user", "--mount", "--preserve-credentials", "--target", &id.to_string()]).arg(program);
        command
    }

    /// Changes the size of the file system that [`Firnd::start_on_disk_of`] made.
    pub fn resize_disk(&self, bytes: u64) -> Result<()> {
        let mut command = self.beside_server("mount".as_ref());
        run(command.args(["-o", &format!("remount,size={bytes}")]).arg(self.data()))?.done()
    }

    /// Ends the server with SIGKILL.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().and_then(|()| child.wait()).doing(|| "kill firnd".to_owned())?;
        }
        Ok(())
    }

    /// Asks the server with SIGTERM to end, waits for it, and returns its exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else {
            return Err(Error::Unexpected { what: "a running firnd", got: "none".to_owned() });
        };
        let status = self.wait_for_end(&mut child)?;
        status.ok_or_else(|| {
            let _ = child.kill();
            let _ = child.wait();
            Error::Unexpected { what: "firnd to end after SIGTERM", got: self.log() }
        })
    }

    /// Sends a signal to the running server.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(process) = process else {
            return Err(Error::Unexpected { what: "a running firnd", got: "none".to_owned() });
        };
        kill_process(process, signal).map_err(std::io::Error::from).doing(|| "send a signal to firnd".to_owned())
    }

    /// Runs an administration command like `["cache", "create", "main"]` on the server's data to its end.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        let mut command = self.beside_server(binary()?.as_os_str());
        command.args(arguments).arg("--data").arg(self.data());
        run(&mut command)
    }

    /// Runs an administration command that has to succeed, and returns what it prints on standard output.
    pub fn admin<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        Ok(self.run(arguments)?.ok()?.text())
    }

    /// Creates a cache with the given options of `firnd cache create`, and a token that may pull from it and push to it.
    pub fn cache(&self, name: &str, options: &[&str]) -> Result<Cache> {
        self.admin(["cache", "create", name].into_iter().chain(options.iter().copied()))?;
        let shown = self.json(&["cache", "show", name])?;
        let Some(public_key) = shown["public_keys"][0].as_str() else {
            return Err(Error::Unexpected { what: "a cache with a public key", got: shown.to_string() });
        };
        Ok(Cache {
            name: name.to_owned(),
            url: self.url(name),
            token: self.token(&format!("{name}:pull,push"))?,
            public_key: public_key.to_owned(),
        })
    }

    /// Returns a new token with one grant, like `main:push` or `main:pull,push`.
    pub fn token(&self, grant: &str) -> Result<String> {
        self.admin(["token", "create", "--grant", grant])
    }

    /// Runs an administration command that has to succeed with `--json`, and returns what it says.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.admin(arguments.iter().chain(&["--json"]))?;
        serde_json::from_str(&text).map_err(|_| Error::Unexpected { what: "JSON from firnd", got: text })
    }

    /// Returns one of the sums of `firnd status`, like `stored_bytes`.
    pub fn status(&self, field: &str) -> Result<u64> {
        let status = self.json(&["status"])?;
        let got = || Error::Unexpected { what: "a number in firnd's status", got: format!("{field} in {status}") };
        status[field].as_u64().ok_or_else(got)
    }

    /// Sends a request to the server.
    pub fn send(&self, request: &Request) -> Result<Answer> {
        request.send(self.address)
    }

    /// Returns what the server has logged so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("firnd.log")
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let is_ready = match self.is_secure {
                false => Request::get("/readyz").send(self.address).is_ok_and(|answer| answer.status == 200),
                true => TcpStream::connect(self.address).is_ok(),
            };
            if is_ready {
                return Ok(());
            }
            let child = self
                .child
                .as_mut()
                .ok_or_else(|| Error::Unexpected { what: "a running firnd", got: "none".to_owned() })?;
            let ended = child.try_wait().doing(|| "wait for firnd".to_owned())?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let _ = self.kill();
                return Err(Error::Unexpected { what: "firnd to become ready", got: self.log() });
            }
            // There is nothing to wait on: the port opens when it opens.
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_for_end(&self, child: &mut Child) -> Result<Option<ExitStatus>> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Some(status) = child.try_wait().doing(|| "wait for firnd".to_owned())? {
                return Ok(Some(status));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(None)
    }
}

impl Drop for Firnd {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            let tail = log.as_bytes().get(log.len().saturating_sub(8 << 10)..).unwrap_or_default();
            eprintln!(
                "--- the end of firnd's log
{}",
                String::from_utf8_lossy(tail)
            );
        }
        let _ = self.kill();
    }
}

/// Returns the program to test: `$FIRND`, else the workspace's own, built from the source as it is.
pub fn binary() -> Result<PathBuf> {
    static BINARY: Program = Program::new("FIRND", "firn-server", "firnd");
    BINARY.path()
}

fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).doing(|| "find a free port".to_owned())?;
    listener.local_addr().doing(|| "find a free port".to_owned())
}
