//! Nix's own settings, as Nix itself reports them: `nix config show`, or `nix show-config` of versions before 2.20.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use serde_json::{Map, Value};

use crate::failure::{Failure, Kind};
use crate::program;

/// Where Nix is, when it is not on `PATH`.
const PLACES: [&str; 2] = ["/run/current-system/sw/bin", "/nix/var/nix/profiles/default/bin"];

/// Where Nix keeps credentials when no setting says otherwise.
const DEFAULT_NETRC: &str = "/etc/nix/netrc";

/// Nix's settings as a client on this machine has them.
#[derive(Debug, Clone, Default)]
pub(crate) struct NixSettings {
    values: Map<String, Value>,
}

/// Which configuration files count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// All: what a client run by this user uses.
    Client,
    /// The system's only: what the daemon uses.
    Daemon,
}

impl NixSettings {
    /// Asks Nix.
    pub(crate) fn load(view: View) -> Result<Self, Failure> {
        let nix = find_program().ok_or_else(no_nix)?;
        let mut shown = show(&nix, view, &["config", "show", "--json"])?;
        if shown.is_none() {
            shown = show(&nix, view, &["show-config", "--json"])?;
        }
        let unreadable = || Failure::new(Kind::Store, format!("read Nix's settings from {}", nix.display()));
        match shown {
            Some(Value::Object(values)) => Ok(Self { values }),
            _ => Err(unreadable().hint("`nix show-config --json` or `nix config show --json` has to work")),
        }
    }

    /// Returns where Nix looks for credentials; asks Nix, and takes the usual place when it gives no answer.
    pub(crate) fn netrc_file() -> PathBuf {
        let settings = Self::load(View::Client).unwrap_or_default();
        settings.text("netrc-file").map_or_else(|| PathBuf::from(DEFAULT_NETRC), PathBuf::from)
    }

    /// Returns a setting's value as text; none if Nix doesn't know the setting or it is empty.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.value(name)?.as_str().filter(|text| !text.is_empty())
    }

    /// Returns the words of a setting that is a list or a set.
    pub(crate) fn words(&self, name: &str) -> Vec<&str> {
        match self.value(name) {
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(text)) => text.split_whitespace().collect(),
            _ => Vec::new(),
        }
    }

    /// Says if a setting that is true or false has this value.
    pub(crate) fn is(&self, name: &str, value: bool) -> bool {
        self.value(name).and_then(Value::as_bool) == Some(value)
    }

    /// Returns a setting that is a number; those that may be a word, too, are text in some versions.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        let value = self.value(name)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok())
    }

    /// Makes settings of an object as Nix prints it.
    pub(crate) fn of_values(values: Map<String, Value>) -> Self {
        Self { values }
    }

    /// Makes settings of JSON as Nix prints it.
    #[cfg(test)]
    pub(crate) fn of(values: Value) -> Self {
        match values {
            Value::Object(values) => Self::of_values(values),
            other => panic!("{other} is no object"),
        }
    }

    fn value(&self, name: &str) -> Option<&Value> {
        self.values.get(name)?.get("value")
    }
}

/// Returns the directory that all store paths here are below.
pub(crate) fn store_dir() -> String {
    env::var("NIX_STORE_DIR").ok().filter(|dir| !dir.is_empty()).unwrap_or_else(|| "/nix/store".to_owned())
}

/// Returns the version that Nix says it is, like `2.26.3`.
pub(crate) fn version() -> Result<String, Failure> {
    let nix = find_program().ok_or_else(no_nix)?;
    let ran = program::run(Command::new(&nix).arg("--version"))
        .map_err(|error| Failure::doing(Kind::Store, format!("run {}", nix.display()), error))?;
    let text = String::from_utf8_lossy(&ran.stdout);
    Ok(text.trim().rsplit(' ').next().unwrap_or_default().to_owned())
}

/// Returns Nix's program.
pub(crate) fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(PLACES.iter().map(PathBuf::from));
    folders.map(|folder| folder.join("nix")).find(|file| is_program(file))
}

fn is_program(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file()
}

fn no_nix() -> Failure {
    Failure::new(Kind::Store, "find Nix: there is no `nix` on PATH").hint("install Nix, or add its programs to PATH")
}

/// Runs Nix and reads its JSON; `None` when this version has no such command.
fn show(nix: &Path, view: View, arguments: &[&str]) -> Result<Option<Value>, Failure> {
    let mut command = Command::new(nix);
    command.args(["--extra-experimental-features", "nix-command"]).args(arguments.iter().map(OsStr::new));
    if view == View::Daemon {
        command.env("NIX_USER_CONF_FILES", "").env_remove("NIX_CONFIG");
    }
    match program::run(&mut command) {
        Ok(ran) if ran.status.success() => Ok(serde_json::from_slice(&ran.stdout).ok()),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(no_nix()),
        Err(error) => Err(Failure::doing(Kind::Store, format!("run {}", nix.display()), error)),
    }
}
