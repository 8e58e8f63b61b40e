//! A `firnd` process on a folder of its own, and what it costs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::process::{cpu_seconds, disk_bytes, forget_peak, peak_bytes};

/// How long an orderly end may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long work in the background is waited for after a phase, and how still the server has to be meanwhile.
const SETTLE: Duration = Duration::from_secs(20);
const STILL: Duration = Duration::from_millis(400);
const STILL_SECONDS: f64 = 0.021;

/// How servers are run.
pub(crate) struct Setup<'a> {
    /// The program.
    pub(crate) firnd: &'a Path,
    /// Its configuration file, if not its defaults.
    pub(crate) config: Option<&'a Path>,
    /// Where perf's records go, if they are wanted.
    pub(crate) perf: Option<&'a Path>,
}

/// A running server; killed on drop.
pub(crate) struct Server<'a> {
    setup: &'a Setup<'a>,
    data: PathBuf,
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// A token for all its caches.
    pub(crate) token: String,
}

/// What a phase cost the server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// CPU seconds, user and system, work in the background included.
    pub(crate) cpu: f64,
    /// The largest resident set meanwhile, in bytes.
    pub(crate) peak: u64,
}

/// Returns the server's program: the one that was named, or that beside this program.
pub(crate) fn program(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("firnd");
    let firnd = named.map_or(beside, Path::to_owned);
    ensure!(firnd.is_file(), "there is no {}: build it with `cargo build --release --bin firnd`", firnd.display());
    Ok(firnd)
}

impl<'a> Server<'a> {
    /// Starts a server on a new data directory in `folder`, and makes public caches of the given names.
    pub(crate) fn start(setup: &'a Setup<'a>, folder: &Path, caches: &[&str]) -> anyhow::Result<Self> {
        let mut server = Self::start_on(setup, &folder.join("data"), &folder.join("firnd.log"))?;
        for cache in caches {
            server.admin(&["cache", "create", cache, "--public"])?;
        }
        server.token = server.admin(&["token", "create", "--grant", "*:pull,push", "--name", "bench"])?;
        Ok(server)
    }

    /// Starts a server on a data directory, as it is, without a token; what it logs goes to a file.
    pub(crate) fn start_on(setup: &'a Setup<'a>, data: &Path, log_path: &Path) -> anyhow::Result<Self> {
        let log = File::create(log_path).with_context(|| format!("create {}", log_path.display()))?;
        let mut command = command(setup, data);
        command.args(["serve", "--listen", "127.0.0.1:0", "--json"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().with_context(|| format!("start {}", setup.firnd.display()))?;
        let mut line = String::new();
        let listening = match child.stdout.take() {
            Some(output) => BufReader::new(output).read_line(&mut line).map(|_| listening(&line)),
            None => Ok(None),
        };
        let Ok(Some(address)) = listening else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("firnd did not start: {}", std::fs::read_to_string(log_path).unwrap_or_default().trim());
        };
        // From here on the process ends with this value.
        Ok(Self { setup, data: data.to_owned(), child, address, token: String::new() })
    }

    /// Runs a command of its administrator and returns what that prints.
    pub(crate) fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        admin(self.setup, &self.data, arguments)
    }

    /// Returns the CPU seconds, user and system, that it took so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        cpu_seconds(&self.id())
    }

    /// Returns the largest resident set so far, in bytes.
    pub(crate) fn peak(&self) -> anyhow::Result<u64> {
        peak_bytes(&self.id())
    }

    /// Runs a phase and returns what it cost the server, work in the background included.
    pub(crate) fn measure<T>(&self, name: &str, run: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(T, Cost)> {
        let id = self.id();
        self.settle()?;
        forget_peak(&id)?;
        let perf = self.record(name)?;
        let before = cpu_seconds(&id)?;
        let result = run();
        let result = result.with_context(|| format!("in the phase {name:?}"))?;
        self.settle()?;
        let cost = Cost { cpu: cpu_seconds(&id)? - before, peak: peak_bytes(&id)? };
        if let Some(mut perf) = perf {
            signal(&perf, Signal::INT)?;
            perf.wait()?;
        }
        Ok((result, cost))
    }

    /// Returns the bytes of the data directory on the disk.
    pub(crate) fn disk_bytes(&self) -> anyhow::Result<u64> {
        disk_bytes(&self.data)
    }

    /// Ends the server in order and returns the bytes of its data directory on the disk.
    pub(crate) fn stop(mut self) -> anyhow::Result<u64> {
        signal(&self.child, Signal::TERM)?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "firnd ended with {status}");
                return self.disk_bytes();
            }
            thread::sleep(Duration::from_millis(10));
        }
        bail!("firnd did not end within {PATIENCE:?} of SIGTERM")
    }

    fn id(&self) -> String {
        self.child.id().to_string()
    }

    /// Waits until the server has nothing to do, within limits.
    fn settle(&self) -> anyhow::Result<()> {
        let (id, began) = (self.id(), Instant::now());
        while began.elapsed() < SETTLE {
            let before = cpu_seconds(&id)?;
            thread::sleep(STILL);
            if cpu_seconds(&id)? - before < STILL_SECONDS {
                break;
            }
        }
        Ok(())
    }

    fn record(&self, name: &str) -> anyhow::Result<Option<Child>> {
        let Some(folder) = self.setup.perf else { return Ok(None) };
        std::fs::create_dir_all(folder)?;
        let file = folder.join(format!("{}.data", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")));
        let mut command = Command::new("perf");
        command.args(["record", "-q", "-F", "199", "-g", "-p", &self.id(), "-o"]).arg(file).stdout(Stdio::null());
        command.spawn().map(Some).context("start perf")
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(setup: &Setup<'_>, data: &Path) -> Command {
    let mut command = Command::new(setup.firnd);
    command.arg("--data").arg(data);
    if let Some(config) = setup.config {
        command.arg("--config").arg(config);
    }
    // What the caller's shell sets must not change the figures.
    command.env_remove("FIRN_DATA").env_remove("FIRN_CONFIG");
    command
}

fn admin(setup: &Setup<'_>, data: &Path, arguments: &[&str]) -> anyhow::Result<String> {
    let output = command(setup, data).args(arguments).output();
    let output = output.with_context(|| format!("run {}", setup.firnd.display()))?;
    ensure!(output.status.success(), "firnd {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn listening(line: &str) -> Option<SocketAddr> {
    let said: serde_json::Value = serde_json::from_str(line).ok()?;
    said.get("listening")?.as_str()?.strip_prefix("http://")?.parse().ok()
}

fn signal(child: &Child, signal: Signal) -> anyhow::Result<()> {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("a process id")?;
    kill_process(id, signal).context("send a signal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_what_firnd_prints() {
        let address = listening("{\"listening\":\"http://127.0.0.1:8123\"}\n");
        assert_eq!(address, Some(SocketAddr::from(([127, 0, 0, 1], 8123))));
        assert_eq!(listening("firnd: listening\n"), None);
        assert_eq!(listening(""), None);
    }
}
