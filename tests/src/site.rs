//! A site with a gateway: clients and builders that know only it, on hosts of their own with real `sshd`s between them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Instant;

use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::nix::{Daemon, Host, MACHINE, Nix, Settings};
use firn_testkit::sshd::{Hosts, Login, Sshd};

use crate::builder::{PATIENCE, Result};

/// The system that everything is built for.
pub const SYSTEM: &str = if cfg!(target_arch = "aarch64") { "aarch64-linux" } else { "x86_64-linux" };

/// A gateway that builds nothing itself, a builder behind it, a client before it, and a cache.
///
/// By ssh the gateway is `gate` for whom its daemon trusts and `gate-nobody` for whom it does not.
#[derive(Debug)]
pub struct Site {
    agent: Option<Child>,
    _daemons: Vec<Daemon>,
    /// Leads to the builder.
    pub builder_sshd: Sshd,
    _sshds: Vec<Sshd>,
    _hosts: Hosts,
    /// Hands out builds.
    pub gate: Host,
    /// Builds.
    pub builder: Host,
    /// Wants builds.
    pub client: Host,
    /// Where results go.
    pub cache: Cache,
    /// Where the cache is.
    pub firnd: Firnd,
}

impl Site {
    /// Sets everything up; `proto` is how the gateway speaks to the builder, `ssh` or `ssh-ng`. `extra` are further lines of
    /// the gateway's `nix.conf`.
    pub fn new(nix: &Nix, proto: &str, extra: &[&str]) -> Result<Self> {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        let with_cache = |extra: Vec<String>| Settings { extra, ..crate::settings(&cache) };
        let builder = Host::new(nix, &with_cache(lines(&["max-jobs = 2", "narinfo-cache-negative-ttl = 0"])))?;
        let client = Host::new(nix, &Settings::default())?;
        let builders = format!("builders = {proto}://builder {SYSTEM} - 2 1 - - -");
        let hook = format!("post-build-hook = {MACHINE}/hook");
        let mut gateway = lines(&["max-jobs = 0", "builders-use-substitutes = true", &builders, &hook]);
        gateway.extend(lines(extra));
        let gate = Host::new(nix, &with_cache(gateway))?;
        let builder_sshd = Sshd::start_on(&builder, Login::Root)?;
        let sshds = vec![Sshd::start_on(&gate, Login::Root)?, Sshd::start_on(&gate, Login::Nobody)?];
        let hosts = Hosts::new(&[("builder", &builder_sshd), ("gate", &sshds[0]), ("gate-nobody", &sshds[1])])?;
        hosts.install(&gate)?;
        hosts.install(&client)?;
        let daemons = vec![gate.daemon()?, builder.daemon()?];
        let site = Self {
            agent: None,
            _daemons: daemons,
            builder_sshd,
            _sshds: sshds,
            _hosts: hosts,
            gate,
            builder,
            client,
            cache,
            firnd,
        };
        site.gate.store().write("config.toml", "")?;
        fs::create_dir(site.agent_folder())?;
        let hook = site.gate.store().write("hook", &site.hook()?)?;
        fs::set_permissions(hook, fs::Permissions::from_mode(0o755))?;
        Ok(site)
    }

    /// Replaces the gateway's own lines of `nix.conf`. Its daemon, which reads them when it starts, goes on as it is.
    pub fn configure(&self, extra: &[&str]) -> Result<()> {
        let extra = extra.iter().map(|line| (*line).to_owned()).collect();
        Ok(self.gate.configure(&Settings { extra, ..crate::settings(&self.cache) })?)
    }

    fn agent_folder(&self) -> PathBuf {
        self.gate.folder().join("agent")
    }

    fn variables(&self) -> Vec<String> {
        vec![
            format!("FIRN_CONFIG={MACHINE}/config.toml"),
            format!("FIRN_TOKEN={}", self.cache.token),
            format!("FIRN_AGENT_SOCKET={MACHINE}/agent/socket"),
            format!("FIRN_AGENT_STATE={MACHINE}/agent/queue"),
        ]
    }

    fn hook(&self) -> Result<String> {
        let lines: Vec<String> = self.variables().iter().map(|variable| format!("export {variable}")).collect();
        let named = format!("echo \"$OUT_PATHS\" >> {MACHINE}/hooked");
        let firn = firn_testkit::firn::binary()?;
        Ok(format!("#!/bin/sh\n{}\n{named}\nexec {} hook\n", lines.join("\n"), firn.display()))
    }

    /// Returns what the gateway's hook was run for, a line for each run.
    pub fn hooked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.gate.folder().join("hooked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Returns a command of `firn` on the gateway.
    pub fn firn<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Command> {
        let mut command = self.gate.command("env");
        command.args(self.variables()).arg(firn_testkit::firn::binary()?).args(arguments).stdin(Stdio::null());
        Ok(command)
    }

    /// Starts the gateway's agent and waits until it answers.
    pub fn start_agent(&mut self) -> Result<()> {
        let log = fs::File::create(self.gate.folder().join("agent.log"))?;
        let mut command = self.gate.service("env");
        command.args(self.variables()).arg(firn_testkit::firn::binary()?).args(["watch-store", &self.cache.url]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn()?);
        let begun = Instant::now();
        while !self.firn(["watch-store", "status"])?.output()?.status.success() {
            assert!(begun.elapsed() < PATIENCE, "the agent does not answer: {}", self.log());
            // Nothing tells when it listens.
            thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until everything that came to the gateway is in the cache.
    pub fn flush(&self) -> Result<()> {
        let output = self.firn(["watch-store", "flush", "--wait", "--timeout", "120s"])?.output()?;
        assert!(output.status.success(), "{}\n{}", String::from_utf8_lossy(&output.stderr), self.log());
        Ok(())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.gate.folder().join("agent.log")).unwrap_or_default()
    }

    /// Runs a command line of Nix on the client; `EXPRESSION` in it stands for a file with this expression.
    pub fn on_client(&self, line: &str, expression: &str) -> Result<Output> {
        let file = self.client.expression(expression)?;
        let line = line.replace("EXPRESSION", &file).replace("SYSTEM", SYSTEM);
        Ok(self.client.command("sh").args(["-c", &line]).stdin(Stdio::null()).output()?)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}
