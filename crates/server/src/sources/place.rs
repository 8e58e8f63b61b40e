//! Where a source is: its URL, understood.

use std::path::{Path, PathBuf};

use firn_nix_store::Location;
use reqwest::Url;

/// Where a source is, and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A store on this machine.
    Local(Location),
    /// A store on a machine that ssh leads to.
    Ssh(SshPlace),
    /// A binary cache in a folder.
    Files(PathBuf),
}

/// A store behind ssh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshPlace {
    /// `[USER@]HOST`, as ssh takes it.
    pub destination: String,
    /// Its port, if it is not the usual one.
    pub port: Option<u16>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The program that speaks it, if it is not the usual one.
    pub program: Option<String>,
    /// The `firn` there, if it is not on the `PATH` of commands that come by ssh.
    pub firn: Option<String>,
    /// The store that is meant, if it is not the default one.
    pub store: Option<String>,
}

/// What is spoken through ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// That of `nix-daemon --stdio` (`ssh-ng://`).
    Daemon,
    /// That of `nix-store --serve` (`ssh://`).
    Serve,
}

impl Place {
    /// Understands a URL; the error says what is wrong with it.
    pub fn parse(url: &str) -> Result<Self, String> {
        let fail = |detail: &str| Err(format!("use the source '{url}': {detail}"));
        match url {
            "local" | "daemon" | "auto" => return Ok(Self::Local(Location::default())),
            _ if url.starts_with('/') => return Ok(Self::Local(Location::for_root(Path::new(url)))),
            _ => {}
        }
        match url.split_once("://") {
            Some(("ssh", _)) => ssh(url, Protocol::Serve).map(Self::Ssh),
            Some(("ssh-ng", _)) => ssh(url, Protocol::Daemon).map(Self::Ssh),
            Some(("file", path)) if path.starts_with('/') && !path.contains(['?', '#']) => Ok(Self::Files(path.into())),
            Some(("file", _)) => fail("give an absolute path and no parameters, as in file:///srv/cache"),
            Some(("http" | "https", _)) => fail(
                "an HTTP cache has no list of its paths; give its folder as file:///FOLDER, or the builders behind it",
            ),
            _ => fail(
                "give 'local', the folder of a chroot store, ssh://[USER@]HOST, ssh-ng://[USER@]HOST or file:///FOLDER",
            ),
        }
    }
}

fn ssh(text: &str, protocol: Protocol) -> Result<SshPlace, String> {
    let fail = |detail: String| format!("use the source '{text}': {detail}");
    let url = Url::parse(text).map_err(|error| fail(error.to_string()))?;
    let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let user = url.username();
    // Both become arguments of ssh: nothing may look like an option, or mean anything to a shell.
    let plain = |text: &str, more: &[char]| {
        !text.starts_with('-') && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
    };
    if host.is_empty() || !plain(host, &['-', '.', '_', ':', '%']) || !plain(user, &['-', '.', '_']) {
        return Err(fail("it has no user and host that ssh could be given".to_owned()));
    }
    if url.password().is_some() || url.fragment().is_some() || !matches!(url.path(), "" | "/") {
        return Err(fail("give only [USER@]HOST[:PORT] behind ssh://, and parameters behind '?'".to_owned()));
    }
    let mut place = SshPlace {
        destination: if user.is_empty() { host.to_owned() } else { format!("{user}@{host}") },
        port: url.port(),
        protocol,
        program: None,
        firn: None,
        store: None,
    };
    for (name, value) in url.query_pairs() {
        if value.is_empty() || !plain(&value, &['-', '.', '_', '/', '+', ':', '=']) {
            return Err(fail(format!("the parameter {name} may hold letters, digits and '-._/+:=' only")));
        }
        match &*name {
            "remote-program" => place.program = Some(value.into_owned()),
            "remote-firn" => place.firn = Some(value.into_owned()),
            "remote-store" if value.starts_with('/') => place.store = Some(value.into_owned()),
            "remote-store" => return Err(fail("remote-store has to be the folder of a chroot store".to_owned())),
            _ => {
                return Err(fail(format!(
                    "the parameter {name} is not known; known are remote-program, remote-firn, remote-store"
                )));
            }
        }
    }
    Ok(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_what_nix_users_write() {
        assert_eq!(Place::parse("local"), Ok(Place::Local(Location::default())));
        assert_eq!(Place::parse("/srv/root"), Ok(Place::Local(Location::for_root(Path::new("/srv/root")))));
        assert_eq!(Place::parse("file:///srv/cache"), Ok(Place::Files("/srv/cache".into())));
        let full =
            Place::parse("ssh-ng://nix@builder-1.example.org:2222?remote-store=/a/b&remote-program=/n/nix-daemon");
        let expected = SshPlace {
            destination: "nix@builder-1.example.org".to_owned(),
            port: Some(2222),
            protocol: Protocol::Daemon,
            program: Some("/n/nix-daemon".to_owned()),
            firn: None,
            store: Some("/a/b".to_owned()),
        };
        assert_eq!(full, Ok(Place::Ssh(expected)));
        let Ok(Place::Ssh(v6)) = Place::parse("ssh://[::1]") else { panic!("an address is a host") };
        assert_eq!((v6.destination.as_str(), v6.protocol), ("::1", Protocol::Serve));
    }

    #[test]
    fn refuses_what_ssh_or_a_shell_would_understand_otherwise() {
        for bad in [
            "",
            "builder",
            "ssh://",
            "ssh://-oProxyCommand=x",
            "ssh://-l@host",
            "ssh://a;b@host",
            "ssh://user:secret@host",
            "ssh://host/path",
            "ssh://host?remote-store=x",
            "ssh://host?remote-program=a%20b",
            "ssh://host?remote-program=-x",
            "ssh://host?remote-store=/x%27y",
            "ssh-ng://host?compress=true",
            "file://relative",
            "ftp://host",
            "https://cache.example.org",
        ] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
