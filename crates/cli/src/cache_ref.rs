//! The CACHE argument: a name of the configuration or a URL, and the token that belongs to it.

#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use firn_nix::PublicKey;
use reqwest::Url;
use serde::{Deserialize, Deserializer, de};

use crate::config::Config;
use crate::failure::{Failure, Kind};
use crate::{netrc, private_file};

/// The name by which a server is asked for the cache at its root.
pub(crate) const ROOT_CACHE: &str = "_";

/// The longest token, in bytes.
const MAX_TOKEN_LEN: usize = 4096;

/// Where a cache is: `https://HOST[:PORT][/PREFIX]/NAME`, or without NAME the cache at the server's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheUrl {
    url: Url,
    /// Without a final slash.
    text: String,
}

impl CacheUrl {
    /// Returns the URL without a final slash, as `substituters` takes it.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the server's URL without a final slash, prefix included: `/api/v1/…` is below it.
    pub(crate) fn server(&self) -> &str {
        let name = self.name();
        if name == ROOT_CACHE && !self.text.ends_with("/_") {
            return &self.text;
        }
        self.text.strip_suffix(name).and_then(|rest| rest.strip_suffix('/')).unwrap_or(&self.text)
    }

    /// Returns the cache's name on the server; [`ROOT_CACHE`] for the one at the root.
    pub(crate) fn name(&self) -> &str {
        let path = self.url.path().trim_end_matches('/');
        match path.rsplit('/').next() {
            Some(name) if !name.is_empty() => name,
            _ => ROOT_CACHE,
        }
    }

    /// Returns where Nix finds it: the cache at the root is below no name.
    pub(crate) fn substituter(&self) -> &str {
        if self.name() == ROOT_CACHE { self.server() } else { &self.text }
    }

    /// Returns the host name, as netrc files have it: without a port, and an IPv6 address without brackets.
    pub(crate) fn host(&self) -> &str {
        let host = self.url.host_str().expect("http and https URLs have a host");
        host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
    }

    /// Returns the port, also when the URL leaves it to the scheme.
    pub(crate) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(443)
    }

    /// Says if what is sent there can be read on the way.
    pub(crate) fn is_plain_http(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// Says if the server is this machine, by its name or address.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for CacheUrl {
    type Err = String;

    /// The messages never repeat the text: it might hold a password.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut url = Url::parse(text.trim()).map_err(|error| format!("no URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(format!("the scheme is {}: http and https are known", url.scheme()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "a URL holds no user or password: put the token into a file, see `firn login --help`".to_owned()
            );
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("parameters after '?' or '#' mean nothing here".to_owned());
        }
        let path = url.path().trim_end_matches('/').to_owned();
        if path.split('/').skip(1).any(str::is_empty) {
            return Err("there is an empty part in its path".to_owned());
        }
        let name = path.rsplit('/').next().unwrap_or_default();
        if name == "api" || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        {
            return Err("its last part is no name of a cache".to_owned());
        }
        url.set_path(&path);
        let text = url.as_str().trim_end_matches('/').to_owned();
        Ok(Self { url, text })
    }
}

impl<'de> Deserialize<'de> for CacheUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(|problem| de::Error::custom(format!("url: {problem}")))
    }
}

/// Where a token comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenSource {
    /// A file that the command line names.
    File(PathBuf),
    /// Standard input.
    StandardInput,
    /// The environment's `FIRN_TOKEN`.
    Environment,
    /// The configuration file itself.
    Config(PathBuf),
    /// A file that the configuration names.
    ConfigTokenFile(PathBuf),
    /// Nix's netrc file.
    Netrc(PathBuf),
    /// The server, for the job's identity.
    Identity,
}

impl fmt::Display for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::ConfigTokenFile(path) => write!(f, "{}", path.display()),
            Self::StandardInput => f.write_str("standard input"),
            Self::Environment => f.write_str("FIRN_TOKEN"),
            Self::Config(path) => write!(f, "the configuration {}", path.display()),
            Self::Netrc(path) => write!(f, "the netrc file {}", path.display()),
            Self::Identity => f.write_str("the job's identity"),
        }
    }
}

/// A token. `Debug` doesn't show it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token {
    secret: String,
    /// Where it comes from.
    pub(crate) source: TokenSource,
}

impl Token {
    /// Checks a token's form: visible ASCII characters, blanks around it are cut off.
    pub(crate) fn new(text: &str, source: TokenSource) -> Result<Self, &'static str> {
        let secret = text.trim();
        if secret.is_empty() {
            return Err("there is no token in it");
        }
        if secret.len() > MAX_TOKEN_LEN {
            return Err("that is too long for a token");
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a token is one word of visible ASCII characters");
        }
        Ok(Self { secret: secret.to_owned(), source })
    }

    /// Returns the secret, for the request's header or a file that holds it. Never for a message.
    pub(crate) fn expose(&self) -> &str {
        &self.secret
    }

    /// Returns the public part of firn's own tokens, which tells them apart in lists and logs.
    pub(crate) fn id(&self) -> Option<&str> {
        let id = self.secret.strip_prefix("firn_")?.split('_').next()?;
        (id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id()).field("source", &self.source).finish_non_exhaustive()
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text, TokenSource::Config(PathBuf::new()))
            .map_err(|problem| de::Error::custom(format!("token: {problem}")))
    }
}

/// A cache that a command works on.
#[derive(Debug, Clone)]
pub(crate) struct CacheRef {
    /// Its name in the configuration, if it is there.
    pub(crate) name: Option<String>,
    /// Where it is.
    pub(crate) url: CacheUrl,
    /// The token to show to it.
    pub(crate) token: Option<Token>,
    /// Keys of upstreams whose paths are not pushed, if the configuration says which; else the default ones.
    pub(crate) upstream_keys: Option<Vec<PublicKey>>,
}

/// Finds the cache that an argument names; none: the default one, or the only one. The token is not looked for.
pub(crate) fn resolve(config: &Config, argument: Option<&str>) -> Result<CacheRef, Failure> {
    let name = match argument {
        Some(text) if text.contains("://") => return by_url(config, text),
        Some(name) => name,
        None => default_name(config)?,
    };
    let Some(cache) = config.caches.get(name) else { return Err(unknown(config, name)) };
    Ok(CacheRef {
        name: Some(name.to_owned()),
        url: cache.url.clone(),
        token: None,
        upstream_keys: cache.upstream_keys.clone(),
    })
}

fn by_url(config: &Config, text: &str) -> Result<CacheRef, Failure> {
    let url: CacheUrl = text.parse().map_err(|problem| {
        Failure::new(Kind::Usage, format!("read the cache's URL: {problem}"))
            .hint("write it as in https://cache.example.org/main")
    })?;
    if url.name().bytes().any(|byte| byte.is_ascii_uppercase()) {
        let message = format!("read the cache's URL: '{}' is no name of a cache: those have small letters", url.name());
        return Err(Failure::new(Kind::Usage, message));
    }
    let known = config.caches.iter().find(|(_, cache)| cache.url == url);
    Ok(CacheRef {
        name: known.map(|(name, _)| name.clone()),
        upstream_keys: known.and_then(|(_, cache)| cache.upstream_keys.clone()),
        token: None,
        url,
    })
}

fn default_name(config: &Config) -> Result<&str, Failure> {
    let mut names = config.caches.keys();
    match (&config.default_cache, names.next(), names.next()) {
        (Some(name), ..) => Ok(name),
        (None, Some(only), None) => Ok(only),
        (None, first, _) => {
            let message = "choose a cache: the command line names none, and the configuration has no default-cache";
            let hint = match first {
                Some(_) => format!("name one of: {}", names_of(config)),
                None => {
                    "name a URL as in https://cache.example.org/main, or configure one with `firn login URL`".to_owned()
                }
            };
            Err(Failure::new(Kind::Usage, message).hint(hint))
        }
    }
}

fn unknown(config: &Config, name: &str) -> Failure {
    let failure = Failure::new(Kind::Usage, format!("find the cache '{name}': the configuration has no such name"));
    if name.contains(['/', ':']) {
        return failure.hint("a URL begins with https:// or http://");
    }
    if let Some(path) = config.skipped.first() {
        return failure.hint(format!("{} may have it, but this user can't read that file", path.display()));
    }
    if config.caches.is_empty() {
        return failure.hint(format!("configure it with `firn login URL --name {name}`, or give its URL"));
    }
    failure.hint(format!("known are: {}", names_of(config)))
}

fn names_of(config: &Config) -> String {
    config.caches.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Finds the token for a cache: the first of `token_file`, `FIRN_TOKEN`, the configuration's, and the netrc file's.
///
/// `netrc_file` is asked last, since asking Nix takes time. A netrc file that can't be read counts as absent: it is
/// usually root's.
pub(crate) fn find_token(
    config: &Config,
    cache: &CacheRef,
    token_file: Option<&Path>,
    netrc_file: impl FnOnce() -> PathBuf,
) -> Result<Option<Token>, Failure> {
    find_token_with(config, cache, token_file, std::env::var("FIRN_TOKEN").ok(), netrc_file)
}

fn find_token_with(
    config: &Config,
    cache: &CacheRef,
    token_file: Option<&Path>,
    environment: Option<String>,
    netrc_file: impl FnOnce() -> PathBuf,
) -> Result<Option<Token>, Failure> {
    if let Some(path) = token_file {
        return read_token(path).map(Some);
    }
    // An empty variable is what continuous integration makes of a secret that is not set.
    if let Some(text) = environment.filter(|text| !text.trim().is_empty()) {
        let token = Token::new(&text, TokenSource::Environment);
        return token.map(Some).map_err(|problem| Failure::new(Kind::Config, format!("read FIRN_TOKEN: {problem}")));
    }
    if let Some(cache) = cache.name.as_ref().and_then(|name| config.caches.get(name)) {
        if let Some(token) = &cache.token {
            return Ok(Some(token.clone()));
        }
        if let Some(path) = &cache.token_file {
            return read_token_file(path, TokenSource::ConfigTokenFile(path.clone())).map(Some);
        }
    }
    let path = netrc_file();
    let Ok(contents) = private_file::read(&path) else { return Ok(None) };
    let Some(password) = netrc::password(&contents.text, cache.url.host()) else { return Ok(None) };
    Ok(Token::new(&password, TokenSource::Netrc(path)).ok())
}

/// Reads a token from a file, or from standard input for `-`.
pub(crate) fn read_token(path: &Path) -> Result<Token, Failure> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        io::stdin()
            .lock()
            .take(private_file::MAX_FILE_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Failure::doing(Kind::Failed, "read the token from standard input", error))?;
        return Token::new(&text, TokenSource::StandardInput).map_err(|problem| {
            Failure::new(Kind::Config, format!("read the token from standard input: {problem}"))
                .hint("give it as in `firn login URL < FILE`, or by --token-file; on a terminal it is asked for")
        });
    }
    read_token_file(path, TokenSource::File(path.to_owned()))
}

fn read_token_file(path: &Path, source: TokenSource) -> Result<Token, Failure> {
    let doing = format!("read the token file {}", path.display());
    let contents = private_file::read(path).map_err(|error| Failure::doing(Kind::Config, doing.clone(), error))?;
    Token::new(&contents.text, source).map_err(|problem| Failure::new(Kind::Config, format!("{doing}: {problem}")))
}
