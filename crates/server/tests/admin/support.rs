//! Running `firnd`.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Far above what anything takes: only a server that hangs gets there.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Returns the program without the environment of whoever runs the tests.
pub(crate) fn firnd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_firnd"));
    command.env_remove("FIRN_DATA").env_remove("FIRN_CONFIG").stdin(Stdio::null());
    command
}

/// A data directory and the commands on it.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path().join("data")
    }

    /// Writes a file beside the data directory.
    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        firnd().args(arguments).arg("--data").arg(self.data()).output().expect("runs")
    }

    /// Runs a command that has to succeed, and returns its standard output.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.push("--json");
        let text = self.ok(&all);
        assert_eq!(text.lines().count(), 1, "one line: {text}");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Runs a command that has to fail with a code, and returns its standard error.
    #[track_caller]
    pub(crate) fn fails(&self, arguments: &[&str], code: i32) -> String {
        let output = self.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {}", text(&output.stdout));
        said
    }

    pub(crate) fn serve(&self, arguments: &[&str]) -> Server {
        Server::start(
            firnd().arg("serve").arg("--data").arg(self.data()).args(["--listen", "127.0.0.1:0"]).args(arguments),
        )
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// A running server; killed on drop.
pub(crate) struct Server {
    child: Child,
    /// The line that it printed first.
    pub(crate) announcement: String,
    log: Option<JoinHandle<String>>,
}

impl Server {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        let stderr = child.stderr.take().expect("piped");
        let log = std::thread::spawn(move || drain(stderr));
        let mut announcement = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut announcement).expect("reads");
        let mut server = Self { child, announcement, log: Some(log) };
        if server.announcement.is_empty() {
            panic!("no server: {}", server.wait().1);
        }
        server
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let rest = self.announcement.trim_end().rsplit("//").next().expect("a URL");
        rest.trim_end_matches(['"', '}']).parse().expect("an address")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("can be asked").is_some()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("is alive");
    }

    /// Waits for its end, and returns how it ended and what it logged.
    pub(crate) fn wait(&mut self) -> (ExitStatus, String) {
        let (told, ended) = mpsc::channel::<()>();
        let id = Pid::from_child(&self.child);
        let watchdog = std::thread::spawn(move || {
            if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = kill_process(id, Signal::KILL);
            }
        });
        let status = self.child.wait().expect("ends");
        drop(told);
        watchdog.join().expect("no panic");
        let log = self.log.take().expect("once").join().expect("no panic");
        (status, log)
    }

    /// Ends it in order, and returns its log.
    #[track_caller]
    pub(crate) fn end(mut self) -> String {
        self.signal(Signal::TERM);
        let (status, log) = self.wait();
        assert!(status.success(), "{status}: {log}");
        log
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn drain(mut stderr: ChildStderr) -> String {
    let mut log = Vec::new();
    let _ = stderr.read_to_end(&mut log);
    String::from_utf8_lossy(&log).into_owned()
}
