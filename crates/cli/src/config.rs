//! The configuration: which caches there are, where they are, and where their tokens are.
//!
//! ```toml
//! default-cache = "main"
//!
//! [caches.main]
//! url = "https://cache.example.org/main"
//! token-file = "main.token"        # relative to the folder of this file; or: token = "firn_…" (then mode 0600)
//! upstream-keys = ["cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="]
//! ```
//!
//! `$XDG_CONFIG_HOME/firn/config.toml` is read first, then `/etc/firn/config.toml`; a cache in both is the first one's.
//! `--config` (or `FIRN_CONFIG`) names the only file that counts. An unknown key is an error that names the place.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::path::{Path, PathBuf};

use firn_nix::PublicKey;
use serde::Deserialize;

use crate::cache_ref::{CacheUrl, Token, TokenSource};
use crate::private_file;

/// The configuration of the whole machine.
pub(crate) const SYSTEM_FILE: &str = "/etc/firn/config.toml";

/// The longest name of a cache in the configuration, in bytes.
const MAX_NAME_LEN: usize = 64;

/// Where configuration files are looked for.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// The only file that counts; it has to be there, except for `firn login`.
    pub(crate) only: Option<PathBuf>,
    /// The user's file; none when there is no home directory.
    pub(crate) user: Option<PathBuf>,
    /// The machine's file.
    pub(crate) system: PathBuf,
}

impl Places {
    /// Looks at the environment.
    pub(crate) fn from_environment(only: Option<PathBuf>) -> Self {
        Self { only, user: user_folder().map(|folder| folder.join("firn/config.toml")), system: SYSTEM_FILE.into() }
    }

    /// Returns the file that `firn login` changes.
    pub(crate) fn writable(&self) -> Option<&Path> {
        self.only.as_deref().or(self.user.as_deref())
    }
}

/// Returns the folder of the user's configuration, as the XDG base directory specification says: relative ones don't count.
pub(crate) fn user_folder() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))
}

/// A cache in the configuration.
#[derive(Debug, Clone)]
pub(crate) struct CacheConfig {
    /// Where it is.
    pub(crate) url: CacheUrl,
    /// The file that holds its token, absolute or from the configuration's folder on.
    pub(crate) token_file: Option<PathBuf>,
    /// Its token, when it is in the configuration itself.
    pub(crate) token: Option<Token>,
    /// Keys of upstreams whose paths are not pushed; none given: the default ones.
    pub(crate) upstream_keys: Option<Vec<PublicKey>>,
}

/// The configuration, of all files together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Config {
    /// The caches by their names here.
    pub(crate) caches: BTreeMap<String, CacheConfig>,
    /// The cache that is meant when a command names none.
    pub(crate) default_cache: Option<String>,
    /// The files that were read.
    pub(crate) files: Vec<PathBuf>,
    /// Files that are there and that this user may not read.
    pub(crate) skipped: Vec<PathBuf>,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file can't be read.
    #[error("read the configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is no TOML, or has a key or a value that means nothing.
    #[error("read the configuration {}: {detail}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, and what is allowed there.
        detail: String,
    },
    /// A file holds a token, and others may read it.
    #[error("read the configuration {}: it holds a token and its mode is {mode:04o}", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

impl ConfigError {
    /// Returns what to do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Exposed { path, .. } => Some(format!(
                "chmod 600 {}; if others could read it, revoke the token on the server and make a new one",
                path.display()
            )),
            Self::Read { .. } | Self::Syntax { .. } => None,
        }
    }
}

/// A file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    default_cache: Option<String>,
    caches: BTreeMap<String, CacheTable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CacheTable {
    url: CacheUrl,
    token_file: Option<PathBuf>,
    token: Option<Token>,
    upstream_keys: Option<Vec<PublicKey>>,
}

impl Config {
    /// Reads and checks all files that there are.
    pub(crate) fn load(places: &Places) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(path) = &places.only {
            config.add(path)?;
        } else {
            for path in places.user.iter().chain([&places.system]) {
                match config.add(path) {
                    Err(ConfigError::Read { source, .. }) if is_absent(&source) => {}
                    Err(ConfigError::Read { source, path }) if source.kind() == io::ErrorKind::PermissionDenied => {
                        config.skipped.push(path);
                    }
                    result => result?,
                }
            }
        }
        Ok(config)
    }

    /// Does what [`Self::load`] does before a cache is added: the only file that counts may still have to be made.
    pub(crate) fn load_to_change(places: &Places) -> Result<Self, ConfigError> {
        match Self::load(places) {
            Err(ConfigError::Read { source, .. }) if places.only.is_some() && is_absent(&source) => Ok(Self::default()),
            result => result,
        }
    }

    /// Takes in a file: what earlier ones say stays.
    fn add(&mut self, path: &Path) -> Result<(), ConfigError> {
        let contents =
            private_file::read(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let file = parse(path, &contents.text)?;
        if !contents.is_private() && file.caches.values().any(|cache| cache.token.is_some()) {
            return Err(ConfigError::Exposed { path: path.to_owned(), mode: contents.mode });
        }
        let folder = path.parent().unwrap_or(Path::new(""));
        for (name, table) in file.caches {
            self.caches.entry(name).or_insert_with(|| CacheConfig {
                url: table.url,
                token_file: table.token_file.map(|file| folder.join(file)),
                token: table.token,
                upstream_keys: table.upstream_keys,
            });
        }
        if self.default_cache.is_none() {
            self.default_cache = file.default_cache;
        }
        self.files.push(path.to_owned());
        Ok(())
    }
}

/// Reads a file's text and checks what its syntax can't say.
fn parse(path: &Path, text: &str) -> Result<File, ConfigError> {
    let bad = |detail: String| ConfigError::Syntax { path: path.to_owned(), detail };
    let mut file: File = toml::from_str(text).map_err(|error| bad(without_values(text, &error)))?;
    for (name, cache) in &mut file.caches {
        check_name(name).map_err(|problem| bad(format!("[caches.{name}]: {problem}")))?;
        if cache.token.is_some() && cache.token_file.is_some() {
            return Err(bad(format!("[caches.{name}]: give token or token-file, not both")));
        }
        if let Some(token) = &mut cache.token {
            token.source = TokenSource::Config(path.to_owned());
        }
    }
    Ok(file)
}

/// Says where a file is wrong and why, without showing the line: it may be the one with the token.
fn without_values(text: &str, error: &toml::de::Error) -> String {
    let place = error.span().map(|span| {
        let before = text.get(..span.start).unwrap_or(text);
        format!("line {}: ", before.matches('\n').count() + 1)
    });
    format!("{}{}", place.unwrap_or_default(), error.message())
}

/// Says what is wrong with a name for a cache: it must not be taken for a URL or a path, and has to fit a file's name.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > MAX_NAME_LEN {
        return Err("a name has 1 to 64 characters");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
        return Err("a name is made of letters, digits, '.', '_' and '-'");
    }
    if name.starts_with(['.', '-']) { Err("a name begins with a letter, a digit or '_'") } else { Ok(()) }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
