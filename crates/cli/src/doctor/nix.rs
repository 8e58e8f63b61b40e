//! What Nix on this machine makes of the cache.

use std::io;
use std::path::{Path, PathBuf};

use firn_api::CacheDescription;

use super::Finding;
use crate::cache_ref::CacheRef;
use crate::nix_conf::is_same;
use crate::nix_settings::{self, NixSettings, View};
use crate::trust::{self, Trust};
use crate::{netrc, private_file};

/// The version whose post-build-hook gets an empty `OUT_PATHS`.
const MUTE_HOOKS: &str = "2.8.0";

/// What Nix says of itself.
#[derive(Debug)]
pub(super) struct Nix {
    /// The settings of a client of this user.
    pub(super) client: NixSettings,
    /// The settings without what this user configured.
    pub(super) daemon: NixSettings,
    /// What the daemon thinks of this user.
    pub(super) trust: Trust,
}

/// Asks Nix, and judges.
pub(super) fn examine(cache: Option<&CacheRef>, description: Option<&CacheDescription>) -> Vec<Finding> {
    let number = match nix_settings::version() {
        Ok(number) => number,
        Err(failure) => return vec![Finding::of_failure("nix", &failure)],
    };
    let version = Finding::ok("nix", format!("Nix {number}"));
    let settings = NixSettings::load(View::Client).and_then(|client| Ok((client, NixSettings::load(View::Daemon)?)));
    let nix = match settings {
        Ok((client, daemon)) => Nix { client, daemon, trust: trust::ask() },
        Err(failure) => return vec![version, Finding::of_failure("nix-settings", &failure)],
    };
    let mut findings = vec![version];
    if let Some(cache) = cache {
        findings.push(substituter(&nix, cache));
        findings.push(trusted(&nix, cache));
        findings.push(match description {
            Some(description) => key(&nix, description),
            None => Finding::skipped("key", "the server did not say which keys it signs with"),
        });
        findings.push(credentials(&nix, cache, description));
    }
    findings.push(hook(&nix, &number));
    findings
}

impl Nix {
    /// Returns the settings that decide about substitution.
    fn deciding(&self) -> &NixSettings {
        match self.trust {
            Trust::Untrusted => &self.daemon,
            Trust::NoDaemon | Trust::Trusted | Trust::Unknown(_) => &self.client,
        }
    }
}

fn names(settings: &NixSettings, setting: &str, url: &str) -> bool {
    settings.words(setting).iter().any(|word| is_same(word, url))
}

/// Judges if Nix asks the cache at all.
pub(super) fn substituter(nix: &Nix, cache: &CacheRef) -> Finding {
    let url = cache.url.substituter();
    if names(&nix.client, "substituters", url) {
        return Finding::ok("substituter", format!("substituters has {url}"));
    }
    if names(&nix.client, "trusted-substituters", url) {
        return Finding::warn(
            "substituter",
            format!("trusted-substituters has {url}, substituters has not: it is allowed and not used"),
            format!("firn use {url}"),
        );
    }
    Finding::warn(
        "substituter",
        format!("substituters does not have {url}: Nix here takes nothing from it"),
        format!("firn use {url}"),
    )
}

/// Judges if the daemon lets this user's configuration count.
pub(super) fn trusted(nix: &Nix, cache: &CacheRef) -> Finding {
    let url = cache.url.substituter();
    let check = "trust";
    match &nix.trust {
        Trust::NoDaemon => Finding::ok(check, "no daemon in between: this user's configuration counts"),
        Trust::Trusted => Finding::ok(check, "the daemon trusts this user"),
        Trust::Unknown(why) => {
            Finding::warn(check, format!("not known: {why}"), "check that the Nix daemon runs: nix store info")
        }
        Trust::Untrusted if names(&nix.daemon, "substituters", url) => {
            Finding::ok(check, "the daemon's own configuration uses the cache")
        }
        Trust::Untrusted if names(&nix.daemon, "trusted-substituters", url) => {
            Finding::ok(check, "the daemon's configuration allows the cache to all users")
        }
        Trust::Untrusted => Finding::fail(
            check,
            "the daemon does not trust this user and its own configuration does not have the cache: it ignores it",
            format!(
                "as root: firn use --system {url}, or extra-trusted-substituters = {url} in /etc/nix/nix.conf; then restart the daemon"
            ),
        ),
    }
}

/// Judges if Nix takes what the cache signs.
pub(super) fn key(nix: &Nix, description: &CacheDescription) -> Finding {
    let check = "key";
    let deciding = nix.deciding();
    let trusted = deciding.words("trusted-public-keys");
    if let Some(key) = description.public_keys.iter().find(|key| trusted.contains(&key.as_str())) {
        return Finding::ok(check, format!("trusted-public-keys has {key}"));
    }
    if deciding.is("require-sigs", false) {
        return Finding::warn(
            check,
            "trusted-public-keys has no key of the cache, and require-sigs is off: Nix takes anything unchecked",
            "firn use, then take require-sigs = false out of nix.conf",
        );
    }
    let name = |key: &str| key.split(':').next().unwrap_or_default().to_owned();
    let same_name = description.public_keys.iter().find(|key| trusted.iter().any(|other| name(other) == name(key)));
    if let Some(key) = same_name {
        return Finding::fail(
            check,
            format!("trusted-public-keys has another key called {}", name(key)),
            format!("if the server was set up anew, replace it by {key}; else find out who changed it"),
        );
    }
    Finding::fail(
        check,
        "trusted-public-keys has no key of the cache: Nix refuses its paths",
        format!("firn use, or extra-trusted-public-keys = {}", description.public_keys.join(" ")),
    )
}

/// Judges if Nix finds the token of a private cache.
pub(super) fn credentials(nix: &Nix, cache: &CacheRef, description: Option<&CacheDescription>) -> Finding {
    let check = "netrc";
    if description.is_some_and(|description| description.public) {
        return Finding::ok(check, "not needed: the cache is public");
    }
    let path = nix.deciding().text("netrc-file").map(PathBuf::from);
    let Some(path) = path else { return Finding::skipped(check, "Nix does not say where its netrc file is") };
    let host = cache.url.host();
    let contents = match private_file::read(&path) {
        Ok(contents) => contents,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let detail = format!("this user can't read {}, so what it says of {host} is not known", path.display());
            return Finding::skipped(check, detail);
        }
        Err(error) => {
            let detail = format!("the cache is not public and Nix has no token for it: {}: {error}", path.display());
            return Finding::fail(check, detail, format!("firn use {}", cache.url.substituter()));
        }
    };
    entry(&path, &contents, host, cache)
}

fn entry(path: &Path, contents: &private_file::Contents, host: &str, cache: &CacheRef) -> Finding {
    let check = "netrc";
    let shown = path.display();
    let Some(password) = netrc::password(&contents.text, host) else {
        let detail = format!("the cache is not public and {shown} has no entry for {host}");
        return Finding::fail(check, detail, format!("firn use {}", cache.url.substituter()));
    };
    if contents.mode & 0o007 != 0 {
        let detail = format!("{shown} has an entry for {host}, and everybody can read it (mode {:04o})", contents.mode);
        return Finding::warn(check, detail, format!("chmod 600 {shown}"));
    }
    if cache.token.as_ref().is_some_and(|token| token.expose() != password) {
        let detail = format!("{shown} has an entry for {host} with another token than firn uses");
        return Finding::warn(
            check,
            detail,
            format!("if it should be the same one: firn use {}", cache.url.substituter()),
        );
    }
    Finding::ok(check, format!("{shown} has an entry for {host}"))
}

/// Judges the post-build hook.
pub(super) fn hook(nix: &Nix, version: &str) -> Finding {
    let check = "hook";
    let Some(program) = nix.deciding().text("post-build-hook") else {
        return Finding::ok(check, "no post-build-hook: an agent finds new paths without one, up to 15 s later");
    };
    judge_hook(program, rustix::fs::access(Path::new(program), rustix::fs::Access::EXEC_OK).is_ok(), version)
}

/// Judges a post-build hook by its path, whether it can be run, and Nix's version.
pub(super) fn judge_hook(program: &str, runs: bool, version: &str) -> Finding {
    let check = "hook";
    if !runs {
        return Finding::fail(
            check,
            format!("post-build-hook is {program}, which is no program that can be run: every build fails"),
            "correct post-build-hook in nix.conf; it is the path of one program, without arguments",
        );
    }
    if version == MUTE_HOOKS {
        return Finding::warn(
            check,
            format!("post-build-hook is {program}, and Nix {version} runs hooks without naming what was built"),
            "an agent finds new paths without it, up to 15 s later; a newer Nix names them",
        );
    }
    Finding::ok(check, format!("post-build-hook is {program}"))
}
