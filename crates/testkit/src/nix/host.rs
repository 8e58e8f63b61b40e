use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Daemon, Nix, Settings, Store};
use crate::error::{Doing, Error, Result};
use crate::process::{Ran, run};

/// Makes a root of its own for one program and becomes it. The arguments are the machine's folder, the folder of its Nix,
/// and the program with its arguments.
///
/// All of the system is there, but `/nix` is the machine's, and `/machine` is its folder, with Nix below it where any user may run it.
const ENTER: &str = r#"
machine=$1 nix=$2; shift 2
mount --make-rprivate /
new=$machine/newroot
mount -t tmpfs -o size=1m,mode=755 tmpfs "$new"
for path in /*; do
  case $path in /nix | /machine) continue ;; esac
  if [ -L "$path" ]; then cp -P "$path" "$new$path"
  elif [ -d "$path" ]; then mkdir "$new$path"; mount --rbind "$path" "$new$path"; fi
done
mkdir "$new/machine" "$new/nix" "$new/old"
mount --bind "$machine" "$new/machine"
mount --bind "$machine/root/nix" "$new/nix"
mount --bind "$nix" "$new/machine/nix"
cd "$new"
pivot_root . old
cd /
umount -l /old
exec "$@"
"#;

/// Where a host's own folder is, as seen by what runs on it.
pub const MACHINE: &str = "/machine";

/// A machine with a root of its own: `/nix` is its own, and its daemon listens where it does everywhere.
///
/// A [`Store`] is cheaper, and opens its store under another path; what reaches it by ssh or through its daemon as another user
/// would find nothing there. Every program of a host runs in a mount namespace, so it takes root. [`Sshd::start_on`](crate::sshd::Sshd::start_on)
/// leads to it.
#[derive(Debug)]
pub struct Host {
    store: Store,
}

impl Host {
    /// Creates a machine with an empty store. Builds run without a sandbox.
    pub fn new(nix: &Nix, settings: &Settings) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            let got = "another user, who may not make mount namespaces".to_owned();
            return Err(Error::Unexpected { what: "root, for hosts with a root of their own", got });
        }
        let host = Self { store: Store::new(nix, &Self::settings(settings))? };
        for (folder, mode) in
            [("", 0o755), ("newroot", 0o755), ("nix", 0o755), ("root/nix", 0o755), ("cache", 0o777), ("tmp", 0o777)]
        {
            let path = host.folder().join(folder);
            fs::create_dir_all(&path).doing(|| format!("create {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                .doing(|| format!("chmod {}", path.display()))?;
        }
        host.configure(settings)?;
        // A store has a database from its first use on, and root has to be the one who makes it.
        host.check("nix-store", ["--init"])?.done()?;
        Ok(host)
    }

    fn settings(settings: &Settings) -> Settings {
        let mut settings = settings.clone();
        // The last line counts, and the machine's root holds what builds need.
        settings.extra.insert(0, "sandbox = false".to_owned());
        settings
    }

    /// Replaces the machine's `nix.conf`.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        self.store.configure(&Self::settings(settings))?;
        let conf = self.folder().join("conf");
        for path in [conf.join("nix.conf"), conf] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                .doing(|| format!("chmod {}", path.display()))?;
        }
        Ok(())
    }

    /// Returns the Nix that this machine runs.
    pub fn nix(&self) -> &Nix {
        self.store.nix()
    }

    /// Returns the same machine as seen from outside, for what only reads it: hashes, NARs, closures.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns the folder that is [`MACHINE`] there.
    pub fn folder(&self) -> PathBuf {
        self.store.root().parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// Returns a command of any program that runs on this machine as root, with nothing but the machine's environment.
    pub fn service(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-ec", ENTER, "sh"]).arg(self.folder()).arg(self.installation());
        command.args(["env", "-i"]).args(self.environment().map(|(name, value)| format!("{name}={value}")));
        command.arg(program).env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    /// Returns the same with a limit of time that nothing needs, for programs that end.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = self.service("timeout");
        command.args(["--kill-after=5", "300"]).arg(program);
        command
    }

    /// Runs a program on this machine to its end, whatever that is.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        run(self.command(program).args(arguments))
    }

    /// Runs a program on this machine, which has to succeed.
    pub fn check<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        self.run(program, arguments)?.ok()
    }

    /// Starts this machine's Nix daemon.
    pub fn daemon(&self) -> Result<Daemon> {
        Daemon::start(&self.store, self.service("nix-daemon"))
    }

    /// Writes an expression, in which `build` of [`Store::build`] is in scope, and returns its file's name on this machine.
    pub fn expression(&self, expression: &str) -> Result<String> {
        self.store.write("home/expression.nix", &format!("{}{expression}\n", super::store::PRELUDE))?;
        Ok(format!("{MACHINE}/home/expression.nix"))
    }

    /// Returns the variables that every program on this machine has.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        let inside = |name: &str| format!("{MACHINE}/{name}");
        [
            ("PATH", format!("{MACHINE}/nix/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin")),
            ("HOME", inside("home")),
            ("TMPDIR", inside("tmp")),
            ("NIX_CONF_DIR", inside("conf")),
            ("XDG_CACHE_HOME", inside("cache")),
            // Empty until somebody writes down whom this machine knows.
            ("NIX_SSHOPTS", format!("-F {MACHINE}/hosts")),
        ]
        .into_iter()
    }

    fn installation(&self) -> PathBuf {
        self.nix().programs().parent().map(Path::to_path_buf).unwrap_or_default()
    }
}
