//! A post-build-hook for one command.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use firn_client::queue::Spool;
use firn_nix::StorePath;
use firn_nix_store::{Daemon, Location};

use crate::context::Context;
use crate::nix_settings::{NixSettings, View};

/// A folder with a script that Nix runs after each build, and the spool that it fills.
pub(super) struct PrivateHook {
    folder: PathBuf,
    config: OsString,
}

impl PrivateHook {
    /// Makes one, if Nix would run it for this user and none is configured that it would displace.
    pub(super) fn install(location: &Location, context: &Context) -> Option<Self> {
        let trusted = match Daemon::connect(location) {
            Ok(daemon) => daemon.trusts_us() == Some(true),
            // Without a daemon it is the user's own Nix that builds.
            Err(_) => rustix::fs::access(&location.real_store_dir, rustix::fs::Access::WRITE_OK).is_ok(),
        };
        if !trusted || has_hook() {
            return None;
        }
        match Self::create() {
            Ok(hook) => Some(hook),
            Err(error) => {
                context.output.note(&format!("no hook for the command: {error}"));
                None
            }
        }
    }

    /// Returns the variable to run the command with.
    pub(super) fn environment(&self) -> (&'static str, OsString) {
        ("NIX_CONFIG", self.config.clone())
    }

    /// Returns what was built.
    pub(super) fn paths(&self, context: &Context) -> Vec<StorePath> {
        match Spool::of(&self.folder).read() {
            Ok(spooled) => spooled.map(|spooled| spooled.paths).unwrap_or_default(),
            Err(error) => {
                context.output.warn(&format!("the hook's paths can't be read: {error}"));
                Vec::new()
            }
        }
    }

    fn create() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| io::Error::other(error.to_string()))?;
        let folder = std::env::temp_dir().join(format!("firn-watch-exec-{:016x}", u64::from_le_bytes(random)));
        fs::DirBuilder::new().mode(0o700).create(&folder)?;
        let mut hook = Self { config: OsString::new(), folder };
        // Nix's daemon runs the hook as root; a file that it made we could not read.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(hook.folder.join("spool"))?;
        let script = hook.folder.join("hook");
        let text = format!(
            "#!/bin/sh\nexec {} hook --socket {} --state-dir {}\n",
            quoted(&program)?,
            quoted(&hook.folder.join("none"))?,
            quoted(&hook.folder)?
        );
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&script)?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        let mut config = std::env::var_os("NIX_CONFIG").unwrap_or_default();
        config.push(format!("\npost-build-hook = {}\n", script.display()));
        hook.config = config;
        Ok(hook)
    }
}

impl Drop for PrivateHook {
    fn drop(&mut self) {
        // In the folder for temporary files it may stay if need be.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn has_hook() -> bool {
    NixSettings::load(View::Client).is_ok_and(|settings| settings.text("post-build-hook").is_some())
}

/// Returns a path as a word for the shell.
fn quoted(path: &Path) -> io::Result<String> {
    let text = path.to_str().ok_or_else(|| io::Error::other("a path is not UTF-8"))?;
    Ok(format!("'{}'", text.replace('\'', "'\\''")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_for_the_shell_stay_words() {
        assert_eq!(quoted(Path::new("/a b/it's")).unwrap(), r"'/a b/it'\''s'");
    }

    #[test]
    fn a_hook_is_gone_with_its_value() {
        let hook = PrivateHook::create().unwrap();
        let (name, value) = hook.environment();
        assert_eq!(name, "NIX_CONFIG");
        assert!(value.to_str().unwrap().contains("post-build-hook = "));
        let folder = hook.folder.clone();
        assert!(folder.join("hook").is_file());
        drop(hook);
        assert!(!folder.exists());
    }
}
