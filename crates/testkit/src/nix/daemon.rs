use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::Store;
use crate::error::{Doing, Error, Result};
use crate::process::describe;

/// How long a start may take before it counts as hanging.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Nix daemon that serves a machine's store on a socket within it; killed on drop, with those that serve its connections.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Starts `command` and waits until it accepts connections.
    pub(super) fn start(store: &Store, mut command: Command) -> Result<Self> {
        let socket = store.root().join("nix/var/nix/daemon-socket/socket");
        let folder = socket.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).doing(|| format!("create {}", folder.display()))?;
        let _ = fs::remove_file(&socket);
        command.env("NIX_DAEMON_SOCKET_PATH", &socket);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().doing(|| format!("start {}", describe(&command)))?;
        let mut daemon = Self { child, socket };
        daemon.wait_until_ready()?;
        Ok(daemon)
    }

    /// Returns where it listens.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends the daemon with SIGKILL, and so all connections to it.
    pub fn kill(&mut self) -> Result<()> {
        // Each connection has a process of its own, which would live on.
        let serving = children(self.child.id());
        self.child.kill().and_then(|()| self.child.wait()).doing(|| "kill the Nix daemon".to_owned())?;
        for process in serving {
            // It may have ended by itself.
            let _ = kill_process(process, Signal::KILL);
        }
        Ok(())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        while UnixStream::connect(&self.socket).is_err() {
            let ended = self.child.try_wait().doing(|| "wait for the Nix daemon".to_owned())?;
            if ended.is_some() || start.elapsed() > PATIENCE {
                let got = format!("{ended:?} after {:?}", start.elapsed());
                return Err(Error::Unexpected { what: "a Nix daemon that accepts connections", got });
            }
            // There is nothing to wait on: the socket is there when it is there.
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Returns the processes that a process started and that still run.
fn children(parent: u32) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    ids.filter(|id| {
        // The name, which may hold anything, is in parentheses; then state and parent.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_ascii_whitespace().nth(1) == Some(&parent.to_string())
    })
    .filter_map(Pid::from_raw)
    .collect()
}
