use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Store;
use crate::error::{Doing, Error, Result};
use crate::process::{descendants, describe, kill_all};

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
        let serving = descendants(self.child.id());
        self.child.kill().and_then(|()| self.child.wait()).doing(|| "kill the Nix daemon".to_owned())?;
        kill_all(serving);
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
