//! Real Nix, in the versions that firn promises to serve.
//!
//! [`Nix`] is an installation that `scripts/nix-for-tests` made. A [`Store`] is one simulated machine that uses it: its
//! own store, database, configuration, credentials and caches, in a temporary directory; a [`Host`] has a root of its own
//! besides, so that others can log in. Nothing touches `/nix` or the
//! user's own Nix. Builds run in Nix's own sandbox, which needs root or user namespaces.

mod daemon;
mod host;
mod store;

use std::env;
use std::fmt;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

pub use daemon::Daemon;
pub use host::{Host, MACHINE};
pub use store::{NAR_COMPRESSIONS, Settings, Store};

use crate::error::{Error, Result};
use crate::process::run;

/// A Nix version that the tests run with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// 2.8, as Debian 12 has it.
    V2_8,
    /// 2.26, as Debian 13 has it.
    V2_26,
    /// 2.34, or whatever newer one Debian's testing suite has.
    V2_34,
}

impl Version {
    /// All versions, the oldest first.
    pub const ALL: [Self; 3] = [Self::V2_8, Self::V2_26, Self::V2_34];

    /// Returns the name of the version's folder, like `2.26`.
    pub fn name(self) -> &'static str {
        match self {
            Self::V2_8 => "2.8",
            Self::V2_26 => "2.26",
            Self::V2_34 => "2.34",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An installed Nix.
#[derive(Debug, Clone)]
pub struct Nix {
    version: Version,
    programs: PathBuf,
}

impl Nix {
    /// Returns the installation of a version under `$FIRN_NIX_DIR`, or [`Error::NoNix`].
    pub fn find(version: Version) -> Result<Self> {
        let base = env::var_os("FIRN_NIX_DIR").map_or_else(
            || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache/firn/nix"),
            PathBuf::from,
        );
        let programs = base.join(version.name()).join("bin");
        if !programs.join("nix").is_file() {
            return Err(Error::NoNix { version: version.name(), directory: base.display().to_string() });
        }
        Ok(Self { version, programs })
    }

    /// Returns the installation of a version. Without one the test fails, unless `FIRN_SKIP_NIX=1` is set: then it says
    /// `SKIPPED`, the test's name and why on standard error, past the capture of test output, and returns `None`.
    ///
    /// # Panics
    /// If the version is not installed and `FIRN_SKIP_NIX` is not 1.
    #[must_use]
    #[track_caller]
    pub fn require(version: Version) -> Option<Self> {
        match Self::find(version) {
            Ok(nix) => Some(nix),
            Err(error) if env::var("FIRN_SKIP_NIX").is_ok_and(|value| value == "1") => {
                let current = thread::current();
                let test = current.name().unwrap_or("a test");
                // The macro would be captured, and a run without Nix would look like a full one.
                let _ =
                    writeln!(std::io::stderr().lock(), "\nSKIPPED {test}: FIRN_SKIP_NIX is set and there is {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Returns every version, as [`Nix::require`] does; those that are left out are missing in the list.
    ///
    /// # Panics
    /// As [`Nix::require`].
    #[must_use]
    #[track_caller]
    pub fn require_all() -> Vec<Self> {
        let mut all = Vec::new();
        for version in Version::ALL {
            all.extend(Self::require(version));
        }
        all
    }

    /// Returns which version this is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns the folder of its programs, for `PATH`.
    pub fn programs(&self) -> &std::path::Path {
        &self.programs
    }

    /// Creates a new machine with an empty store and default [`Settings`].
    pub fn store(&self) -> Result<Store> {
        Store::new(self, &Settings::default())
    }

    /// Makes a key pair as `nix-store --generate-binary-cache-key` does; returns the secret and the public one as text.
    pub fn generate_key(&self, name: &str) -> Result<(String, String)> {
        use crate::error::Doing as _;
        let directory = tempfile::tempdir().doing(|| "create a temporary directory".to_owned())?;
        let (secret, public) = (directory.path().join("secret"), directory.path().join("public"));
        let mut command = self.command("nix-store");
        command.args(["--generate-binary-cache-key", name]).arg(&secret).arg(&public);
        // This program opens its state directory although it needs nothing from it.
        command.env("NIX_REMOTE", directory.path().join("store")).env("HOME", directory.path());
        run(&mut command)?.done()?;
        let read = |path: &PathBuf| std::fs::read_to_string(path).doing(|| format!("read {}", path.display()));
        Ok((read(&secret)?.trim_end().to_owned(), read(&public)?.trim_end().to_owned()))
    }

    /// Returns a command of this installation with an empty environment.
    pub(crate) fn command(&self, program: &str) -> Command {
        // Nothing may hang a test run for ever; the limit is far above what any of these commands needs.
        let mut command = Command::new("timeout");
        command.args(["--kill-after=5", "300"]).arg(self.programs.join(program));
        with_empty_environment(command)
    }

    /// Returns the same without a limit of time: the process is the program itself, to be killed by whoever starts it.
    pub(crate) fn service(&self, program: &str) -> Command {
        with_empty_environment(Command::new(self.programs.join(program)))
    }
}

fn with_empty_environment(mut command: Command) -> Command {
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
    command
}
