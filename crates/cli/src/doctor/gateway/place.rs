//! Where the gateway is: this machine, or one that ssh leads to.

use std::env;
use std::fmt;
use std::io;
use std::process::Command;

use crate::failure::{Failure, Kind};
use crate::program::{self, Ran};

/// What makes `ssh` ask nobody and give up in time.
const SSH_OPTIONS: &str = "-oBatchMode=yes -oConnectTimeout=10";

/// Where Nix may be, when a shell without a login does not know.
const MORE_PATH: &str = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin";

/// Where commands run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// On this machine.
    Here,
    /// On another one.
    There(Login),
}

/// How to log in to another machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// What `ssh` takes: the name, with a user before it if one was given.
    host: String,
    port: Option<u16>,
}

impl std::str::FromStr for Login {
    type Err = Failure;

    /// Reads `ssh://[USER@]HOST[:PORT]`, the same with `ssh-ng`, or without a scheme. What is behind a `?` is Nix's business.
    fn from_str(text: &str) -> Result<Self, Failure> {
        let bad = || {
            let message = format!("read {text} as the place of a gateway");
            Failure::new(Kind::Usage, message).hint("it is like ssh://root@gateway.example.org")
        };
        let rest = match text.split_once("://") {
            Some(("ssh" | "ssh-ng", rest)) => rest,
            Some(_) => return Err(bad()),
            None => text,
        };
        let rest = rest.split('?').next().unwrap_or_default().trim_end_matches('/');
        // An IPv6 address has colons of its own.
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().map_err(|_| bad())?))
            }
            _ => (rest, None),
        };
        let host = host.replace(['[', ']'], "");
        let is_strange = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if host.is_empty() || host.starts_with(['-', '@']) || host.ends_with('@') || host.contains(is_strange) {
            return Err(bad());
        }
        Ok(Self { host, port })
    }
}

impl fmt::Display for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here => f.write_str("this machine"),
            Self::There(login) => login.fmt(f),
        }
    }
}

impl Place {
    /// Runs a program there, found on `PATH` or where Nix usually is, within 20 s.
    pub(super) fn run(&self, words: &[&str]) -> io::Result<Ran> {
        let line: Vec<String> = words.iter().map(|word| quoted(word)).collect();
        let script = format!("PATH=\"$PATH:{MORE_PATH}\"; export PATH; exec {}", line.join(" "));
        match self {
            Self::Here => program::run(Command::new("sh").args(["-c", &script])),
            Self::There(login) => {
                let mut command = Command::new("ssh");
                // Nix would log in with the same.
                command.args(env::var("NIX_SSHOPTS").unwrap_or_default().split_whitespace());
                command.args(SSH_OPTIONS.split(' '));
                if let Some(port) = login.port {
                    command.arg("-p").arg(port.to_string());
                }
                program::run(command.arg("--").arg(&login.host).arg(script))
            }
        }
    }

    /// Runs Nix there with what only the system's configuration says, and ssh that asks nobody.
    pub(super) fn nix(&self, words: &[&str]) -> io::Result<Ran> {
        let ssh = format!("export NIX_SSHOPTS=\"{SSH_OPTIONS} $NIX_SSHOPTS\"; exec \"$@\"");
        let mut all = vec!["env", "-u", "NIX_CONFIG", "NIX_USER_CONF_FILES=", "sh", "-c", &ssh, "sh"];
        all.extend(["nix", "--extra-experimental-features", "nix-command"]);
        all.extend(words);
        self.run(&all)
    }
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_nix_writes_them() {
        let of = |text: &str| text.parse::<Login>().map(|login| (login.host.clone(), login.port)).ok();
        let host = |host: &str, port| Some((host.to_owned(), port));
        assert_eq!(of("ssh-ng://root@gate?x=1"), host("root@gate", None));
        assert_eq!(of("ssh://gate:2222"), host("gate", Some(2222)));
        assert_eq!(of("gate"), host("gate", None));
        assert_eq!(of("ssh://a@[::1]:22"), host("a@::1", Some(22)));
        assert_eq!(of("ssh://[fe80::1]"), host("fe80::1", None));
        for bad in ["", "ssh://", "https://gate", "-oProxyCommand=x", "ssh://-x", "a b", "gate:x", "@gate", "a@"] {
            assert_eq!(of(bad), None, "{bad}");
        }
    }

    #[test]
    fn words_reach_the_program_as_they_are() {
        let ran = Place::Here.run(&["printf", "%s|", "it's", "$HOME", "a b"]).expect("it runs");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "it's|$HOME|a b|");
    }
}
