//! Whether Nix does what this user's configuration says: a daemon takes substituters from those that it trusts only.

use std::process::Command;

use serde_json::Value;

use crate::nix_settings::{self, NixSettings};
use crate::program;

/// How Nix's store is reached, and what the other side thinks of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// There is no daemon in between.
    NoDaemon,
    /// The daemon does what this user's configuration says.
    Trusted,
    /// The daemon uses its own substituters, and those of this user that its configuration allows.
    Untrusted,
    /// Nix could not say; why.
    Unknown(String),
}

/// Asks Nix; versions that don't know are answered for by what their settings say of users and groups.
pub(crate) fn ask() -> Trust {
    match store_info() {
        Ok(Some(info)) => of_info(&info),
        Ok(None) => of_settings(),
        Err(error) => Trust::Unknown(error),
    }
}

fn of_info(info: &Value) -> Trust {
    // "daemon", "unix://…", or of a store without a daemon: "local", "local://…", a path.
    let url = info.get("url").and_then(Value::as_str).unwrap_or_default();
    if !(url.starts_with("daemon") || url.starts_with("unix") || url.starts_with("ssh")) {
        return Trust::NoDaemon;
    }
    // A number before 2.29, a truth value since.
    match info.get("trusted") {
        Some(Value::Bool(true)) => Trust::Trusted,
        Some(Value::Number(number)) if number.as_u64() == Some(1) => Trust::Trusted,
        Some(_) => Trust::Untrusted,
        None => of_settings(),
    }
}

/// Runs `nix store info --json`; `None` if this version has no such command.
fn store_info() -> Result<Option<Value>, String> {
    let Some(nix) = nix_settings::find_program() else { return Err("there is no `nix` on PATH".to_owned()) };
    let mut command = Command::new(nix);
    command.args(["--extra-experimental-features", "nix-command", "store", "info", "--json"]);
    let ran = program::run(&mut command).map_err(|error| error.to_string())?;
    if ran.status.success() {
        return Ok(serde_json::from_slice(&ran.stdout).ok());
    }
    let text = ran.stderr;
    if text.contains("not a recognised command") || text.contains("unrecognised flag") {
        return Ok(None);
    }
    let line = text.lines().find(|line| line.contains("error")).unwrap_or_else(|| text.trim());
    Err(crate::probe::clean(line))
}

fn of_settings() -> Trust {
    let settings = match NixSettings::load(nix_settings::View::Daemon) {
        Ok(settings) => settings,
        Err(failure) => return Trust::Unknown(failure.chain()),
    };
    match settings.text("store") {
        Some("daemon") => {}
        Some(url) if url.starts_with("unix://") => {}
        // Nix takes the daemon when it may not write the database itself.
        Some("auto") | None if !rustix::process::geteuid().is_root() => {}
        _ => return Trust::NoDaemon,
    }
    let (user, groups) = (id("-un"), id("-Gn"));
    let is_trusted = settings.words("trusted-users").iter().any(|word| match word.strip_prefix('@') {
        Some(group) => groups.iter().any(|mine| mine == group),
        None => *word == "*" || user.iter().any(|mine| mine == word),
    });
    if is_trusted { Trust::Trusted } else { Trust::Untrusted }
}

/// Returns what `id` prints: names come from the system's directory services, which only libc knows how to ask.
fn id(flag: &str) -> Vec<String> {
    let ran = program::run(Command::new("id").arg(flag));
    let text = ran.map(|ran| String::from_utf8_lossy(&ran.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_every_version_says() {
        let table = [
            (json!({"url": "local", "trusted": 1}), Trust::NoDaemon),
            (json!({"url": "local:///tmp/x", "trusted": true}), Trust::NoDaemon),
            (json!({"url": "/tmp/x"}), Trust::NoDaemon),
            (json!({"url": "daemon", "trusted": 1}), Trust::Trusted),
            (json!({"url": "daemon", "trusted": true}), Trust::Trusted),
            (json!({"url": "daemon", "trusted": 0}), Trust::Untrusted),
            (json!({"url": "daemon", "trusted": false}), Trust::Untrusted),
            (json!({"url": "unix:///run/x", "trusted": null}), Trust::Untrusted),
        ];
        for (info, expected) in table {
            assert_eq!(of_info(&info), expected, "{info}");
        }
    }
}
