//! A server that answers as it is told, and a home directory of its own for each test.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

/// A token as firnd makes them, whose secret no output may show.
pub(crate) const TOKEN: &str = "firn_0123456789abcdef_hiddenhiddenhidden";

/// A public key.
pub(crate) const KEY: &str = "main-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// What a server answers: status, further header lines, body.
pub(crate) type Reply = (u16, String, String);

/// A request's target and its `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) authorization: Option<String>,
}

/// A server on a free port; it goes with the test's process.
pub(crate) struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Starts one that answers each target as the function says.
    pub(crate) fn start(answer: impl Fn(&Seen) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A connection without a request is how `doctor` looks if there is a server.
                if let Some(request) = read(&stream) {
                    let reply = answer(&request);
                    log.lock().expect("not poisoned").push(request);
                    write(stream, &reply);
                }
            }
        });
        Self { address, seen }
    }

    /// Starts one that behaves as firnd does with one cache; `change` changes what it says of the cache.
    pub(crate) fn firnd(change: impl Fn(&mut Value) + Send + 'static) -> Self {
        Self::start(move |request| {
            let mut cache = json!({
                "name": "main", "store_dir": "/nix/store", "priority": 30, "public": true,
                "public_keys": [KEY], "upstream_keys": [], "transport": "zstd",
                "can_pull": true, "can_push": true, "builder": "b1", "substituters": [],
            });
            change(&mut cache);
            match request.target.as_str() {
                "/api/v1/capabilities" => {
                    let chunker = firn_api::ChunkerId::CURRENT.to_string();
                    ok(&json!({ "server": "firnd 9.9", "versions": [1], "chunker": chunker }).to_string())
                }
                "/api/v1/caches/main" if request.authorization.is_none() && cache["public"] == false => {
                    refusal(403, "forbidden", "this needs a token")
                }
                "/api/v1/caches/main" => ok(&cache.to_string()),
                "/main/nix-cache-info" => ok("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n"),
                _ => refusal(404, "not-found", "there is no such thing"),
            }
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/main", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }
}

pub(crate) fn ok(body: &str) -> Reply {
    (200, String::new(), body.to_owned())
}

pub(crate) fn refusal(status: u16, code: &str, message: &str) -> Reply {
    (status, String::new(), json!({ "code": code, "message": message, "hint": "the server's hint" }).to_string())
}

fn read(stream: &TcpStream) -> Option<Seen> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let target = line.split(' ').nth(1)?.to_owned();
    let mut authorization = None;
    loop {
        line.clear();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => authorization = Some(value.to_owned()),
            Some(_) => {}
            None => return Some(Seen { target, authorization }),
        }
    }
}

fn write(mut stream: TcpStream, (status, headers, body): &Reply) {
    let text =
        format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}", body.len());
    // A client that went away is what some tests are about.
    let _ = stream.write_all(text.as_bytes());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let ran =
            Self { code: output.status.code().expect("no signal"), out: text(output.stdout), err: text(output.stderr) };
        assert!(!ran.out.contains("hidden") && !ran.err.contains("hidden"), "a token is shown: {ran:?}");
        ran
    }

    /// # Panics
    /// If it ended with another code.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A user on a machine.
pub(crate) struct Home {
    directory: TempDir,
    /// Folders that are on `PATH` before the system's.
    path: Option<PathBuf>,
    environment: Vec<(String, String)>,
}

impl Home {
    /// Returns one without Nix.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a folder");
        Self { directory, path: None, environment: Vec::new() }
    }

    /// Adds Nix from a folder.
    pub(crate) fn with_nix(mut self, folder: &Path) -> Self {
        self.path = Some(folder.to_owned());
        self
    }

    /// Adds a Nix that is a shell script of these cases on its arguments.
    pub(crate) fn with_fake_nix(self, cases: &str) -> Self {
        let folder = self.file("fake-nix");
        fs::create_dir(&folder).expect("a folder");
        let script =
            format!("#!/bin/sh\ncase \"$*\" in\n{cases}\n*) echo 'not a recognised command' >&2; exit 1;;\nesac\n");
        fs::write(folder.join("nix"), script).expect("written");
        fs::set_permissions(folder.join("nix"), fs::Permissions::from_mode(0o755)).expect("a mode");
        self.with_nix(&folder)
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.file(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        path
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub(crate) fn exists(&self, name: &str) -> bool {
        self.file(name).exists()
    }

    pub(crate) fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.file(name)).expect(name).permissions().mode() & 0o777
    }

    /// Returns a command in this environment and no other.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = self.path.iter().map(|path| format!("{}:", path.display())).collect::<String>();
        command
            .env_clear()
            .env("PATH", format!("{path}/usr/bin:/bin"))
            .env("HOME", self.directory.path())
            .env("NIX_REMOTE", self.file("nix-root"))
            .env("NIX_CONF_DIR", self.file("etc-nix"))
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory.path());
        command
    }

    pub(crate) fn firn(&self, arguments: &[&str]) -> Ran {
        self.firn_with(arguments, "")
    }

    /// Runs `firn` as a user who may write nothing but this home.
    pub(crate) fn firn_as_user(&self, arguments: &[&str]) -> Ran {
        if !rustix::process::geteuid().is_root() {
            return self.firn(arguments);
        }
        // The one that was built may lie where only root can see it.
        let program = self.file("firn");
        fs::copy(env!("CARGO_BIN_EXE_firn"), &program).expect("copied");
        let owned = Command::new("chown").args(["-R", "65534"]).arg(self.directory.path()).status();
        assert!(owned.expect("chown runs").success());
        let mut command = self.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program).args(arguments);
        Ran::of(command.output().expect("setpriv runs"))
    }

    /// Runs `firn` with a text on standard input.
    pub(crate) fn firn_with(&self, arguments: &[&str], input: &str) -> Ran {
        let mut command = self.command(env!("CARGO_BIN_EXE_firn"));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("firn starts");
        // It need not read it.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        Ran::of(child.wait_with_output().expect("firn ends"))
    }
}
