//! Where a store is.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use firn_nix::StorePath;

use crate::{Error, Result};

const DEFAULT_STORE_DIR: &str = "/nix/store";
const DEFAULT_STATE_DIR: &str = "/nix/var/nix";
const SOCKET: &str = "daemon-socket/socket";

/// Where the parts of a Nix store are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// The store directory as it stands in store paths, without a slash at its end; normally `/nix/store`.
    pub store_dir: String,
    /// The directory that really holds the files.
    pub real_store_dir: PathBuf,
    /// The directory with the database in `db/`; normally `/nix/var/nix`.
    pub state_dir: PathBuf,
    /// The socket of the Nix daemon.
    pub daemon_socket: PathBuf,
}

impl Default for Location {
    /// Returns where Nix keeps its store unless told otherwise.
    fn default() -> Self {
        Self {
            store_dir: DEFAULT_STORE_DIR.to_owned(),
            real_store_dir: DEFAULT_STORE_DIR.into(),
            state_dir: DEFAULT_STATE_DIR.into(),
            daemon_socket: Path::new(DEFAULT_STATE_DIR).join(SOCKET),
        }
    }
}

impl Location {
    /// Returns the store of a "chroot store": `root` is what `nix --store` was given.
    #[must_use]
    pub fn for_root(root: &Path) -> Self {
        let state_dir = root.join("nix/var/nix");
        Self {
            store_dir: DEFAULT_STORE_DIR.to_owned(),
            real_store_dir: root.join("nix/store"),
            daemon_socket: state_dir.join(SOCKET),
            state_dir,
        }
    }

    /// Returns the store that Nix's own programs would use in this environment: `NIX_STORE_DIR`, `NIX_STATE_DIR`,
    /// `NIX_DAEMON_SOCKET_PATH` and `NIX_REMOTE` (nothing, `auto`, `daemon`, `unix://SOCKET`, `local?root=…&store=…&real=…&state=…`, or
    /// the folder of a chroot store).
    ///
    /// Stores elsewhere (`ssh://…` and the like) are [`Error::Environment`].
    pub fn from_env() -> Result<Self> {
        Self::from_variables(|name| env::var_os(name))
    }

    /// Returns the same as [`Self::from_env`], of an environment that need not be this process's.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut location = Self::default();
        if let Some(store_dir) = get("NIX_STORE_DIR") {
            location.set_store_dir("NIX_STORE_DIR", &store_dir)?;
        }
        if let Some(state_dir) = get("NIX_STATE_DIR") {
            location.set_state_dir(state_dir.into());
        }
        if let Some(remote) = get("NIX_REMOTE") {
            location.set_remote(&remote)?;
        }
        if let Some(socket) = get("NIX_DAEMON_SOCKET_PATH") {
            location.daemon_socket = socket.into();
        }
        Ok(location)
    }

    /// Returns where a store path's files are.
    #[must_use]
    pub fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.real_store_dir.join(path.base_name())
    }

    /// Returns where the database is.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state_dir.join("db/db.sqlite")
    }

    /// Says if the environment names a daemon that is not the database's: its store may have other paths, which only it knows.
    #[must_use]
    pub fn has_own_daemon(&self) -> bool {
        self.daemon_socket != self.state_dir.join(SOCKET)
    }

    fn set_store_dir(&mut self, variable: &'static str, value: &OsStr) -> Result<()> {
        let refuse = |why| Error::Environment { variable, value: value.to_string_lossy().into_owned(), why };
        let text = value.to_str().ok_or_else(|| refuse("it is not UTF-8"))?.trim_end_matches('/');
        if !text.starts_with('/') {
            return Err(refuse("it is not an absolute path of a directory"));
        }
        text.clone_into(&mut self.store_dir);
        self.real_store_dir = text.into();
        Ok(())
    }

    fn set_state_dir(&mut self, state_dir: PathBuf) {
        self.daemon_socket = state_dir.join(SOCKET);
        self.state_dir = state_dir;
    }

    fn set_remote(&mut self, value: &OsStr) -> Result<()> {
        let refuse =
            |why| Error::Environment { variable: "NIX_REMOTE", value: value.to_string_lossy().into_owned(), why };
        let bytes = value.as_bytes();
        if bytes == b"auto" || bytes == b"daemon" || bytes == b"local" {
            return Ok(());
        }
        if let Some(socket) = bytes.strip_prefix(b"unix://") {
            let (socket, _) = split_once(socket, b'?');
            if !socket.is_empty() {
                self.daemon_socket = OsStr::from_bytes(socket).into();
            }
            return Ok(());
        }
        if let Some(parameters) = bytes.strip_prefix(b"local?").or_else(|| bytes.strip_prefix(b"local://?")) {
            return self.set_local(parameters).map_err(refuse);
        }
        if !bytes.contains(&b':') && bytes.contains(&b'/') {
            let root = std::path::absolute(Path::new(value)).map_err(|_| refuse("it is no path"))?;
            self.set_root(&root);
            return Ok(());
        }
        Err(refuse("only local stores and the local daemon can be read"))
    }

    fn set_root(&mut self, root: &Path) {
        // What the other variables say holds inside.
        let inside = |path: &Path| root.join(path.strip_prefix("/").unwrap_or(path));
        self.real_store_dir = if self.store_dir == DEFAULT_STORE_DIR {
            root.join("nix/store")
        } else {
            inside(Path::new(&self.store_dir))
        };
        self.set_state_dir(root.join("nix/var/nix"));
    }

    fn set_local(&mut self, parameters: &[u8]) -> Result<(), &'static str> {
        let mut parsed = Vec::new();
        for parameter in parameters.split(|&byte| byte == b'&') {
            let (name, value) = split_once(parameter, b'=');
            parsed.push((name, OsString::from_vec(percent_decode(value).ok_or("a percent sign without two digits")?)));
        }
        let get = |name: &[u8]| parsed.iter().rfind(|(known, value)| *known == name && !value.is_empty());
        if let Some((_, store)) = get(b"store") {
            let store = store.to_str().unwrap_or_default().trim_end_matches('/');
            if !store.starts_with('/') {
                return Err("store= is no absolute path of a directory");
            }
            store.clone_into(&mut self.store_dir);
            self.real_store_dir = self.store_dir.clone().into();
        }
        if let Some((_, root)) = get(b"root") {
            self.set_root(Path::new(root));
        }
        if let Some((_, state)) = get(b"state") {
            self.set_state_dir(state.into());
        }
        if let Some((_, real)) = get(b"real") {
            self.real_store_dir = real.into();
        }
        Ok(())
    }
}

fn split_once(bytes: &[u8], separator: u8) -> (&[u8], &[u8]) {
    match bytes.iter().position(|&byte| byte == separator) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// Undoes the `%2F` and the like of a URL.
fn percent_decode(text: &[u8]) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || char::from(*rest.next()?).to_digit(16);
        let value = digit()? * 16 + digit()?;
        decoded.push(u8::try_from(value).ok()?);
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Location> {
        Location::from_variables(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn refuses_stores_elsewhere_and_nonsense() {
        for bad in [
            "ssh://host",
            "ssh-ng://host",
            "https://cache.example.org",
            "local?root=%2",
            "local?store=nix",
            "local?store=/",
            "dummy",
        ] {
            let error = of(&[("NIX_REMOTE", bad)]).unwrap_err();
            assert!(
                matches!(&error, Error::Environment { variable: "NIX_REMOTE", value, .. } if value == bad),
                "{error}"
            );
        }
        for bad in ["store", "/", "//"] {
            assert!(of(&[("NIX_STORE_DIR", bad)]).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_the_environment_as_nix_does() {
        assert_eq!(of(&[]).unwrap(), Location::default());
        for same in ["", "auto", "daemon", "local"] {
            assert_eq!(of(&[("NIX_REMOTE", same), ("NIX_STATE_DIR", "")]).unwrap(), Location::default());
        }
        let moved = of(&[("NIX_STORE_DIR", "/gnu/store/"), ("NIX_STATE_DIR", "/gnu/var")]).unwrap();
        assert_eq!(moved.store_dir, "/gnu/store");
        assert_eq!(moved.real_store_dir, Path::new("/gnu/store"));
        assert_eq!(moved.database(), Path::new("/gnu/var/db/db.sqlite"));
        assert_eq!(moved.daemon_socket, Path::new("/gnu/var/daemon-socket/socket"));
        let socket = of(&[("NIX_REMOTE", "unix:///run/a?root=/b")]).unwrap();
        assert_eq!(socket, Location { daemon_socket: "/run/a".into(), ..Location::default() });
        let socket = of(&[("NIX_REMOTE", "/chroot"), ("NIX_DAEMON_SOCKET_PATH", "/run/a")]).unwrap();
        assert_eq!(socket, Location { daemon_socket: "/run/a".into(), ..Location::for_root(Path::new("/chroot")) });
    }

    #[test]
    fn reads_urls_of_local_stores() {
        let rooted = Location::for_root(Path::new("/a b"));
        for url in ["/a b", "local?root=/a b", "local?root=%2Fa%20b", "local://?root=/a%20b&store="] {
            assert_eq!(of(&[("NIX_REMOTE", url)]).unwrap(), rooted, "{url}");
        }
        let all = of(&[("NIX_REMOTE", "local?store=/s&real=/r&state=/t")]).unwrap();
        let expected = Location {
            store_dir: "/s".into(),
            real_store_dir: "/r".into(),
            state_dir: "/t".into(),
            daemon_socket: "/t/daemon-socket/socket".into(),
        };
        assert_eq!(all, expected);
        let both = of(&[("NIX_REMOTE", "local?store=/s/t&root=/r")]).unwrap();
        assert_eq!((both.store_dir.as_str(), both.real_store_dir.as_path()), ("/s/t", Path::new("/r/s/t")));
    }
}
