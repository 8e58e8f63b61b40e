use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, fcntl_lock};
use tempfile::TempDir;

use super::{Daemon, Nix};
use crate::error::{Doing, Error, Result};
use crate::process::{Ran, run};

/// The values of `compression=` that all three versions upload with; what else libarchive knows needs programs beside it.
pub const NAR_COMPRESSIONS: [&str; 10] =
    ["none", "xz", "zstd", "bzip2", "gzip", "br", "lz4", "lzip", "lzma", "compress"];

/// What is in scope of every expression that [`Store::build`] takes: `build { name, script, … }` is a derivation of a
/// shell script, in which further attributes are variables.
pub(super) const PRELUDE: &str = r#"let build = attributes: derivation ({
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/usr/bin:/bin";
    args = [ "-ec" attributes.script ];
  } // removeAttrs attributes [ "script" ]);
in
"#;

/// How a machine's Nix is configured, as far as tests vary it.
#[derive(Debug, Clone)]
pub struct Settings {
    /// URLs of the caches that builds and [`Store::realise`] substitute from.
    pub substituters: Vec<String>,
    /// Public keys that the machine trusts.
    pub trusted_public_keys: Vec<String>,
    /// Whether substituted paths need a signature by one of them.
    pub require_sigs: bool,
    /// Lines for `nix.conf` as they are.
    pub extra: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { substituters: Vec::new(), trusted_public_keys: Vec::new(), require_sigs: true, extra: Vec::new() }
    }
}

/// One simulated machine: a store with its own database, configuration, credentials, and caches of what caches have.
///
/// Everything lies in one temporary directory, removed on drop.
#[derive(Debug)]
pub struct Store {
    nix: Nix,
    directory: TempDir,
}

impl Store {
    /// Creates a machine with an empty store.
    pub fn new(nix: &Nix, settings: &Settings) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("firn-nix-")
            .tempdir()
            .doing(|| "create a temporary directory".to_owned())?;
        let store = Self { nix: nix.clone(), directory };
        for folder in ["home", "conf", "cache", "root", "tmp"] {
            let path = store.inside(folder);
            fs::create_dir(&path).doing(|| format!("create {}", path.display()))?;
        }
        store.write("netrc", "")?;
        store.configure(settings)?;
        Ok(store)
    }

    /// Returns the Nix that this machine runs.
    pub fn nix(&self) -> &Nix {
        &self.nix
    }

    /// Replaces the machine's `nix.conf`.
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        let mut conf = String::from("experimental-features = nix-command flakes ca-derivations\n");
        // A store outside /nix can be built for only in a sandbox; without the fallback Nix says so where it cannot make one.
        conf += "build-users-group =\nsandbox = true\nsandbox-fallback = false\nfsync-metadata = false\n";
        // The builders need a shell there, and its libraries.
        let visible = ["/bin", "/usr", "/lib", "/lib64"].into_iter().filter(|path| Path::new(path).exists());
        let _ = writeln!(conf, "sandbox-paths = {}", visible.collect::<Vec<_>>().join(" "));
        let _ = writeln!(conf, "netrc-file = {}", self.inside("netrc").display());
        let _ = writeln!(conf, "substituters = {}", settings.substituters.join(" "));
        let _ = writeln!(conf, "trusted-public-keys = {}", settings.trusted_public_keys.join(" "));
        let _ = writeln!(conf, "require-sigs = {}", settings.require_sigs);
        for line in &settings.extra {
            let _ = writeln!(conf, "{line}");
        }
        self.write("conf/nix.conf", &conf)?;
        Ok(())
    }

    /// Replaces the machine's credentials: the token is the password, as in `machine HOST login NAME password TOKEN`.
    pub fn set_token(&self, host: &str, token: &str) -> Result<()> {
        self.write("netrc", &format!("machine {host} login firn password {token}\n"))?;
        Ok(())
    }

    /// Writes a file into the machine's directory and returns its path, for keys and the like.
    pub fn write(&self, name: &str, contents: &str) -> Result<PathBuf> {
        let path = self.inside(name);
        fs::write(&path, contents).doing(|| format!("write {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).doing(|| format!("chmod {}", path.display()))?;
        Ok(path)
    }

    /// Forgets what this machine believes about what caches have: positive entries live 30 days, negative ones an hour.
    pub fn forget_caches(&self) -> Result<()> {
        let cache = self.inside("cache");
        fs::remove_dir_all(&cache).doing(|| format!("remove {}", cache.display()))?;
        fs::create_dir(&cache).doing(|| format!("create {}", cache.display()))
    }

    /// Runs one of Nix's programs on this machine to its end, whatever that is.
    pub fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        run(self.command(program).args(arguments))
    }

    /// Runs one of Nix's programs on this machine, which has to succeed.
    pub fn check<A: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = A>) -> Result<Ran> {
        self.run(program, arguments)?.ok()
    }

    /// Returns a command of Nix that runs on this machine, for tests that start it themselves.
    pub fn command(&self, program: &str) -> Command {
        self.on_this_machine(self.nix.command(program))
    }

    /// Starts this machine's Nix daemon. [`Store`]'s own commands don't need it; they open the store themselves, beside it.
    pub fn daemon(&self) -> Result<Daemon> {
        Daemon::start(self, self.on_this_machine(self.nix.service("nix-daemon")))
    }

    fn on_this_machine(&self, mut command: Command) -> Command {
        command
            .env("HOME", self.inside("home"))
            .env("TMPDIR", self.inside("tmp"))
            .env("NIX_CONF_DIR", self.inside("conf"))
            .env("XDG_CACHE_HOME", self.inside("cache"))
            .env("NIX_REMOTE", self.inside("root"))
            .current_dir(self.inside("home"));
        command
    }

    /// Builds an expression, in which `build` of the prelude is in scope, and returns the outputs' store paths.
    ///
    /// `build { name = "x"; script = "…"; }` is a derivation of a shell script; further attributes are its variables.
    pub fn build(&self, expression: &str) -> Result<Vec<String>> {
        let file = self.write("home/expression.nix", &format!("{PRELUDE}{expression}\n"))?;
        Ok(self.check("nix-build", [OsStr::new("--no-out-link"), file.as_os_str()])?.lines())
    }

    /// Builds an expression of one output.
    pub fn build_one(&self, expression: &str) -> Result<String> {
        let mut paths = self.build(expression)?;
        match (paths.pop(), paths.is_empty()) {
            (Some(path), true) => Ok(path),
            (last, _) => {
                Err(Error::Unexpected { what: "an expression of one output", got: format!("{paths:?} {last:?}") })
            }
        }
    }

    /// Returns the derivations that an expression evaluates to, without building them.
    pub fn instantiate(&self, expression: &str) -> Result<Vec<String>> {
        let file = self.write("home/expression.nix", &format!("{PRELUDE}{expression}\n"))?;
        Ok(self.check("nix-instantiate", [file])?.lines())
    }

    /// Uploads the closures of paths with `nix copy --to`; `url` carries the parameters.
    pub fn copy_to<P: AsRef<str>>(&self, url: &str, paths: &[P]) -> Result<Ran> {
        self.copy("--to", url, paths)
    }

    /// Downloads the closures of paths with `nix copy --from`, which checks signatures as the settings say.
    pub fn copy_from<P: AsRef<str>>(&self, url: &str, paths: &[P]) -> Result<Ran> {
        self.copy("--from", url, paths)
    }

    fn copy<P: AsRef<str>>(&self, direction: &str, url: &str, paths: &[P]) -> Result<Ran> {
        self.run("nix", ["copy", direction, url].into_iter().chain(paths.iter().map(AsRef::as_ref)))
    }

    /// Substitutes paths from the configured substituters, as a build that needs them would.
    pub fn realise<P: AsRef<str>>(&self, paths: &[P]) -> Result<Ran> {
        self.run("nix-store", ["--realise"].into_iter().chain(paths.iter().map(AsRef::as_ref)))
    }

    /// Returns whether a path is valid here.
    pub fn has(&self, path: &str) -> Result<bool> {
        Ok(self.run("nix-store", ["--check-validity", path])?.succeeded())
    }

    /// Returns the closure of a path, references first.
    pub fn closure(&self, path: &str) -> Result<Vec<String>> {
        Ok(self.check("nix-store", ["--query", "--requisites", path])?.lines())
    }

    /// Returns a path's NAR hash as the database has it, like `sha256:<nix-base32>`.
    pub fn nar_hash(&self, path: &str) -> Result<String> {
        Ok(self.check("nix-store", ["--query", "--hash", path])?.text())
    }

    /// Returns a path's NAR, read from the file system.
    pub fn dump(&self, path: &str) -> Result<Vec<u8>> {
        Ok(self.check("nix-store", [OsStr::new("--dump"), self.on_disk(path).as_os_str()])?.stdout)
    }

    /// Keeps everybody from the machine's database, as a program does that holds a lock, until the file is dropped.
    pub fn lock_database(&self) -> Result<fs::File> {
        let path = self.inside("root/nix/var/nix/db/db.sqlite");
        let open = fs::File::options().read(true).write(true).open(&path);
        let file = open.doing(|| format!("open {}", path.display()))?;
        fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(std::io::Error::from)
            .doing(|| format!("lock {}", path.display()))?;
        Ok(file)
    }

    /// Returns where a store path lies in the real file system.
    pub fn on_disk(&self, path: &str) -> PathBuf {
        self.inside("root").join(path.trim_start_matches('/'))
    }

    /// Returns the root of the store, as `--store` takes it.
    pub fn root(&self) -> PathBuf {
        self.inside("root")
    }

    fn inside(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        // Store paths are read-only, which keeps anyone but root from removing what is in them.
        let _ = run(Command::new("chmod").args(["-R", "u+w"]).arg(self.root()));
    }
}
