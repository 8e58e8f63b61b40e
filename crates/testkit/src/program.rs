//! The workspace's own programs, as they are now.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::result;
use std::sync::OnceLock;

use crate::error::{Doing, Error, Result};
use crate::process::run;

/// A program of the workspace, built at most once a test process.
#[derive(Debug)]
pub(crate) struct Program {
    /// The variable that names another one to test.
    variable: &'static str,
    package: &'static str,
    name: &'static str,
    found: OnceLock<result::Result<PathBuf, String>>,
}

impl Program {
    pub(crate) const fn new(variable: &'static str, package: &'static str, name: &'static str) -> Self {
        Self { variable, package, name, found: OnceLock::new() }
    }

    /// Returns where it is: what the variable says, else the workspace's own, built from the source as it is.
    ///
    /// Cargo builds another package's programs only when asked, and a stale one would make the tests lie.
    pub(crate) fn path(&self) -> Result<PathBuf> {
        let found = self.found.get_or_init(|| match env::var_os(self.variable) {
            Some(path) => Ok(PathBuf::from(path)),
            None => self.build().map_err(|error| error.to_string()),
        });
        found.clone().map_err(|got| Error::Unexpected { what: "a program to test", got })
    }

    fn build(&self) -> Result<PathBuf> {
        // Tests are at TARGET/release/deps/NAME.
        let test = env::current_exe().doing(|| "find the test program".to_owned())?;
        let release = test.ancestors().nth(2);
        let target = test.ancestors().nth(3);
        let (Some(release), Some(target)) = (release, target) else {
            return Err(Error::Unexpected {
                what: "a test program in a target directory",
                got: test.display().to_string(),
            });
        };
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(["build", "--release", "--locked", "--quiet", "--package", self.package, "--bin", self.name]);
        command.arg("--target-dir").arg(target).current_dir(workspace);
        // What Cargo tells a test about its package must not look like a changed environment to build scripts.
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
                command.env_remove(name);
            }
        }
        run(&mut command)?.done()?;
        Ok(release.join(self.name))
    }
}
