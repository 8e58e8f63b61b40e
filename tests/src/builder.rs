//! A builder: a machine with real Nix, real `firn` and an agent that can be killed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use firn_testkit::firnd::Cache;
use firn_testkit::nix::{Nix, Store};
use serde_json::Value;

use crate::{assert_same, client};

/// What the tests of builders return: errors of every kind.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How long anything may take before it counts as hanging.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A machine with an agent that can be killed.
pub struct Builder {
    /// Its store.
    pub store: Store,
    /// What firn keeps there.
    pub state: tempfile::TempDir,
    /// Where the cache is.
    pub url: String,
    /// What it pushes with.
    pub token: String,
    /// The agent, while it runs.
    pub agent: Option<Child>,
    /// A program with arguments that starts the agent, if that doesn't start by itself.
    pub starter: Vec<OsString>,
}

impl Builder {
    /// Creates a machine with an empty store.
    pub fn new(nix: &Nix, cache: &Cache) -> Result<Self> {
        let state = tempfile::tempdir()?;
        fs::write(state.path().join("config.toml"), "")?;
        fs::set_permissions(state.path().join("config.toml"), fs::Permissions::from_mode(0o600))?;
        let store = nix.store()?;
        // A store has a database from its first use on.
        store.check("nix-store", ["--init"])?.done()?;
        Ok(Self { store, state, url: cache.url.clone(), token: cache.token.clone(), agent: None, starter: vec![] })
    }

    /// Returns a command of firn on this machine.
    pub fn firn(&self) -> Result<Command> {
        Ok(self.prepared(Command::new(firn_testkit::firn::binary()?)))
    }

    fn prepared(&self, mut command: Command) -> Command {
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.state.path());
        command
            .env("NIX_REMOTE", self.store.root())
            .env("FIRN_CONFIG", self.state.path().join("config.toml"))
            .env("FIRN_TOKEN", &self.token)
            .env("FIRN_AGENT_SOCKET", self.socket())
            .env("FIRN_AGENT_STATE", self.state.path().join("agent"));
        command
    }

    /// Returns a command that pushes paths with what they refer to, and says on standard output what happens.
    pub fn push(&self, paths: &[&str]) -> Result<Command> {
        let mut command = self.firn()?;
        command.args(["push", "--json"]).args(paths).arg(&self.url).stdin(Stdio::null());
        Ok(command)
    }

    /// Returns where the agent listens.
    pub fn socket(&self) -> PathBuf {
        self.state.path().join("agent.sock")
    }

    /// Starts the agent and waits until it answers.
    pub fn start(&mut self) -> Result<()> {
        self.start_with(|command| command)
    }

    /// Starts the agent by a changed command and waits until it answers.
    pub fn start_with(&mut self, change: impl FnOnce(&mut Command) -> &mut Command) -> Result<()> {
        let log = fs::OpenOptions::new().append(true).create(true).open(self.state.path().join("log"))?;
        let mut command = self.firn()?;
        if let [program, arguments @ ..] = self.starter.as_slice() {
            let mut starter = Command::new(program);
            starter.args(arguments).arg(command.get_program());
            command = self.prepared(starter);
        }
        command
            .args(["watch-store", "--backfill", "--with-sources", &self.url])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        self.agent = Some(change(&mut command).spawn()?);
        self.until(|status| status["activity"] != "stopped")?;
        Ok(())
    }

    /// Sends a signal to the agent, which has to run.
    pub fn signal(&self, name: &str) -> Result<()> {
        let agent = self.agent.as_ref().ok_or("no agent")?;
        let told = Command::new("kill").args(["-s", name, &agent.id().to_string()]).status()?;
        assert!(told.success());
        Ok(())
    }

    /// Ends the agent with SIGKILL, if it runs.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut agent) = self.agent.take() {
            agent.kill()?;
            agent.wait()?;
        }
        Ok(())
    }

    /// Runs a command of `firn watch-store` to its end, whatever that is.
    pub fn ask<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Output> {
        Ok(self.firn()?.arg("watch-store").args(arguments).output()?)
    }

    /// Returns what the agent says about itself, null if that is no JSON.
    pub fn status(&self) -> Result<Value> {
        let output = self.ask(["status", "--json"])?;
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn until(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let begun = Instant::now();
        loop {
            let status = self.status()?;
            if !status.is_null() && wanted(&status) {
                return Ok(status);
            }
            assert!(begun.elapsed() < PATIENCE, "it never came to that: {status:#}\n{}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until everything that was built is in the cache.
    #[track_caller]
    pub fn flush(&self) -> Result<()> {
        let output = self.ask(["flush", "--wait", "--timeout", "120s"])?;
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
        Ok(())
    }

    /// Returns what the agent has logged so far, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.state.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Builder {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// Compares what a path is on its builder and on a machine that substitutes it.
#[track_caller]
pub fn assert_cached(nix: &Nix, cache: &Cache, builder: &Builder, path: &str) -> Result<()> {
    let client = client(nix, cache)?;
    client.realise(&[path])?.done()?;
    assert_same(&builder.store, &client, path)?;
    Ok(())
}

/// Returns the last part of a path.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}
