//! Where a source is: its URL, understood.

use std::path::{Path, PathBuf};

use firn_nix_store::Location;
use reqwest::Url;

use crate::binary_cache::parse_url;

/// Where a source is, and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A store on this machine.
    Local(Location),
    /// A store on a machine that ssh leads to.
    Ssh(SshPlace),
    /// A binary cache in a folder.
    Files(PathBuf),
    /// A binary cache behind HTTP.
    Http(HttpPlace),
}

/// A binary cache behind HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpPlace {
    /// Its URL, without parameters.
    pub url: String,
    /// Where a plain list of its paths is, absolute or seen from the cache; without one, it is a firn that lists them.
    pub list: Option<String>,
    /// The file with a token for it.
    pub token_file: Option<PathBuf>,
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
            Some(("http" | "https", _)) => http(url).map(Self::Http),
            _ => fail(
                "give 'local', the folder of a chroot store, ssh://[USER@]HOST, ssh-ng://[USER@]HOST, file:///FOLDER or http[s]://HOST/CACHE",
            ),
        }
    }
}

fn http(text: &str) -> Result<HttpPlace, String> {
    let fail = |detail: String| format!("use the source '{text}': {detail}");
    let url = text.split('?').next().unwrap_or_default();
    let base = parse_url(url).map_err(fail)?;
    let whole = Url::parse(text).map_err(|error| fail(error.to_string()))?;
    let mut place = HttpPlace { url: url.to_owned(), list: None, token_file: None };
    for (name, value) in whole.query_pairs() {
        match &*name {
            "list" if !value.is_empty() && base.join(&value).is_ok_and(|list| is_http(&list)) => {
                place.list = Some(value.into_owned());
            }
            "list" => return Err(fail("list has to be the URL of a list of store paths".to_owned())),
            "token-file" if value.starts_with('/') => place.token_file = Some(value.into_owned().into()),
            "token-file" => return Err(fail("token-file has to be an absolute path".to_owned())),
            _ => return Err(fail(format!("the parameter {name} is not known; known are list, token-file"))),
        }
    }
    Ok(place)
}

fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
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
    fn understands_http_caches() {
        let plain = HttpPlace { url: "https://cache.example.org/main".to_owned(), list: None, token_file: None };
        assert_eq!(Place::parse(&plain.url), Ok(Place::Http(plain.clone())));
        let list = "https://lists.example.org/a%20b/store-paths.xz";
        let text =
            format!("{}?token-file=/etc/firnd/token&list=https://lists.example.org/a%2520b/store-paths.xz", plain.url);
        let full = HttpPlace { list: Some(list.to_owned()), token_file: Some("/etc/firnd/token".into()), ..plain };
        assert_eq!(Place::parse(&text), Ok(Place::Http(full)));
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
            "https://user:secret@cache.example.org",
            "https://cache.example.org?list=",
            "https://cache.example.org?list=file:///etc/passwd",
            "https://cache.example.org?token-file=token",
            "https://cache.example.org?compression=xz",
        ] {
            assert!(Place::parse(bad).is_err(), "{bad}");
        }
    }
}
