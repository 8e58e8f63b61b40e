//! `firn use`: has Nix substitute from a cache, or no longer.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use firn_api::CacheDescription;
use serde_json::json;

use crate::cache_ref::{CacheRef, Token};
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::nix_conf::{self, Entry};
use crate::nix_settings::{self, NixSettings, View};
use crate::trust::{self, Trust};
use crate::{access, config, exit, netrc, private_file, probe};

/// The user name in netrc entries: firnd looks at the password only.
const LOGIN: &str = "firn";

/// The machine's folder of Nix's configuration.
const SYSTEM_FOLDER: &str = "/etc/nix";

const EXAMPLES: &str = "\
It asks the cache for its keys and writes, into nix.conf, extra-substituters and extra-trusted-public-keys; for a
private cache also the token into Nix's netrc file (mode 0600); if that is not the user's, into one beside nix.conf,
with a copy of what was in the other one. Whatever else is in these files stays, and doing it again changes nothing.

Where a daemon builds, it decides: it follows a user's configuration only if its own names the user in
trusted-users, or the cache in trusted-substituters (and then also needs its key). With --system the daemon's own
configuration is changed, as root; restart the daemon afterwards.

Nix finds credentials by host name: all caches of one server share one token there.

Examples:
  firn use https://cache.example.org/main
  sudo firn use --system https://cache.example.org/main
  firn use --print main                  the lines, for another machine or a module
  firn use --remove main";

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The cache: a URL, or a name in the configuration
    #[arg(value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Change the machine's configuration instead of the user's
    #[arg(long)]
    system: bool,
    /// Only print the lines
    #[arg(long)]
    print: bool,
    /// Undo it
    #[arg(long, conflicts_with = "print")]
    remove: bool,
    /// Give Nix the token of a public cache too: for `nix copy --to`
    #[arg(long, conflicts_with = "remove")]
    with_token: bool,
}

/// The files that are changed.
#[derive(Debug)]
struct Files {
    nix_conf: PathBuf,
    netrc: PathBuf,
    /// Whether `nix.conf` has to name the netrc file.
    names_netrc: bool,
    /// The netrc file that Nix reads until then, if it is another one.
    read_before: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    if arguments.remove {
        return remove(arguments, context);
    }
    let cache = context.cache(arguments.cache.as_deref(), arguments.token_file.as_deref())?;
    let description = probe::block_on(access::describe(&cache))??;
    let mut entry =
        Entry { url: cache.url.substituter().to_owned(), keys: access::public_keys(&description)?, netrc_file: None };
    let token = cache.token.as_ref().filter(|_| !description.public || arguments.with_token);
    if arguments.print {
        return print(context, &cache, &entry, token.is_some());
    }
    check(&cache, &description)?;
    let files = files(arguments.system)?;
    if token.is_some() && files.names_netrc {
        entry.netrc_file = Some(files.netrc.clone());
    }
    let mut changed = Vec::new();
    if let Some(token) = token {
        let taken_over = take_over(context, &files)?;
        if set_netrc(context, &files.netrc, cache.url.host(), token)? || taken_over {
            changed.push(files.netrc.clone());
        }
    }
    if change(&files.nix_conf, 0o644, |text| nix_conf::set(text, &entry))? {
        changed.push(files.nix_conf.clone());
    }
    report(context, &cache, &entry, &changed)?;
    explain(context, arguments.system, &entry);
    Ok(exit::DONE)
}

/// Refuses caches that Nix here could not use.
fn check(cache: &CacheRef, description: &CacheDescription) -> Result<(), Failure> {
    if !description.can_pull {
        let message = format!("use {} as a substituter: the token may not pull from it", cache.url);
        let hint = format!("on the server: firnd token create --grant {}:pull --name NAME", description.name);
        return Err(Failure::new(Kind::Server, message).hint(hint));
    }
    let ours = nix_settings::store_dir();
    if !description.store_dir.is_empty() && description.store_dir != ours {
        let message = format!(
            "use {} as a substituter: its paths are below {}, and here they are below {ours}",
            cache.url, description.store_dir
        );
        return Err(Failure::new(Kind::Usage, message));
    }
    Ok(())
}

/// Finds the files to change.
fn files(system: bool) -> Result<Files, Failure> {
    let settings = NixSettings::load(if system { View::Daemon } else { View::Client }).unwrap_or_default();
    let set_netrc = settings.text("netrc-file").map(PathBuf::from);
    if system {
        let folder = env::var_os("NIX_CONF_DIR").map_or_else(|| PathBuf::from(SYSTEM_FOLDER), PathBuf::from);
        let netrc = set_netrc.unwrap_or_else(|| folder.join("netrc"));
        return Ok(Files { nix_conf: folder.join("nix.conf"), netrc, names_netrc: false, read_before: None });
    }
    let named = env::var("NIX_USER_CONF_FILES").ok();
    let nix_conf = named.as_deref().and_then(|files| files.split(':').find(|file| !file.is_empty())).map(PathBuf::from);
    let nix_conf = nix_conf.or_else(|| config::user_folder().map(|folder| folder.join("nix/nix.conf")));
    let Some(nix_conf) = nix_conf else {
        return Err(Failure::new(Kind::Config, "find the user's nix.conf: neither XDG_CONFIG_HOME nor HOME is set"));
    };
    let own = nix_conf.parent().unwrap_or(Path::new("")).join("netrc");
    // The file that Nix reads anyway, if it is this user's; else one of our own, which nix.conf then names.
    match set_netrc {
        Some(path) if path != own && is_writable(&path) => {
            Ok(Files { nix_conf, netrc: path, names_netrc: false, read_before: None })
        }
        path => {
            let read_before = path.filter(|path| *path != own);
            Ok(Files { nix_conf, netrc: own, names_netrc: true, read_before })
        }
    }
}

fn is_writable(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::READ_OK).is_ok()
}

/// Changes a file if there is something to change; returns whether there was.
fn change(path: &Path, new_mode: u32, edit: impl FnOnce(&str) -> String) -> Result<bool, Failure> {
    let failed = |doing: &str, error: io::Error| {
        let (kind, failure) =
            (error.kind(), Failure::doing(Kind::Config, format!("{doing} {}", path.display()), error));
        match kind {
            io::ErrorKind::ReadOnlyFilesystem => {
                failure.hint("NixOS or home-manager makes this file: have it say what `firn use --print` prints")
            }
            io::ErrorKind::PermissionDenied => failure.hint("run it as root, or without --system"),
            _ => failure,
        }
    };
    let old = match private_file::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        result => Some(result.map_err(|error| failed("read", error))?),
    };
    let text = old.as_ref().map(|contents| contents.text.as_str()).unwrap_or_default();
    let changed = edit(text);
    if changed == text {
        return Ok(false);
    }
    let mode = old.map_or(new_mode, |contents| contents.mode & 0o777);
    private_file::replace(path, &changed, mode).map_err(|error| failed("write", error))?;
    Ok(true)
}

/// Copies what Nix reads until now into the netrc file that it reads from now on; returns whether something changed.
fn take_over(context: &Context, files: &Files) -> Result<bool, Failure> {
    let Some(before) = &files.read_before else { return Ok(false) };
    let shown = before.display();
    let entries = match private_file::read(before) {
        Ok(contents) => contents.text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(false);
        }
        Err(error) => {
            context.output.warn(&format!(
                "this user's Nix no longer reads the passwords in {shown}, which can't be copied ({error}); \
                 `firn use --remove` undoes that, and `firn use --system`, as root, puts the token there"
            ));
            return Ok(false);
        }
    };
    let mut copied = 0;
    let changed = change(&files.netrc, 0o600, |text| {
        let (text, added) = netrc::with_entries_of(text, &entries);
        copied = added;
        text
    })?;
    if copied > 0 {
        context.output.note(&format!(
            "This user's Nix no longer reads {shown}: {copied} entries of it are copied into {}.",
            files.netrc.display()
        ));
    }
    Ok(changed)
}

/// Sets the host's entry in a netrc file, and closes the file to others; returns whether something changed.
fn set_netrc(context: &Context, path: &Path, host: &str, token: &Token) -> Result<bool, Failure> {
    let changed = change(path, 0o600, |text| {
        if netrc::password(text, host).is_some_and(|old| netrc::has_entry(text, host) && old == token.expose()) {
            return text.to_owned();
        }
        if netrc::has_entry(text, host) {
            let line =
                format!("{} had another password for {host}: Nix knows one a host; it is replaced", path.display());
            context.output.warn(&line);
        }
        netrc::set(text, host, LOGIN, token.expose())
    })?;
    let closed = private_file::close(path)
        .map_err(|error| Failure::doing(Kind::Config, format!("close {} to others", path.display()), error))?;
    Ok(changed || closed)
}

fn remove(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let cache = context.cache(arguments.cache.as_deref(), arguments.token_file.as_deref())?;
    let url = cache.url.substituter();
    let files = files(arguments.system)?;
    let mut changed = Vec::new();
    let mut others = Vec::new();
    let edited = change(&files.nix_conf, 0o644, |text| {
        let kept = nix_conf::remove(text, url);
        others = nix_conf::urls(&kept).into_iter().map(str::to_owned).collect();
        kept
    })?;
    if edited {
        changed.push(files.nix_conf.clone());
    }
    let shared = others
        .iter()
        .any(|other| other.parse::<crate::cache_ref::CacheUrl>().is_ok_and(|other| other.host() == cache.url.host()));
    if shared {
        context.output.note("The entry in the netrc file stays: another cache of that server is still used.");
    } else if files.netrc.exists()
        && change(&files.netrc, 0o600, |text| match netrc::login(text, cache.url.host()).as_deref() {
            Some(LOGIN) => netrc::remove(text, cache.url.host()),
            _ => text.to_owned(),
        })?
    {
        changed.push(files.netrc.clone());
    }
    if context.output.json {
        context.output.json_line(&json!({ "url": url, "changed": changed }))?;
    } else if changed.is_empty() {
        context
            .output
            .note(&format!("Nothing to remove: `firn use` wrote nothing of {url} into {}.", files.nix_conf.display()));
    } else {
        context.output.note(&format!("Nix no longer uses {url}; changed: {}.", shown(&changed)));
    }
    Ok(exit::DONE)
}

/// Prints what would be written; the token is never printed.
fn print(context: &Context, cache: &CacheRef, entry: &Entry, needs_token: bool) -> Result<u8, Failure> {
    let netrc = needs_token.then(|| format!("machine {} login {LOGIN} password TOKEN", cache.url.host()));
    if context.output.json {
        context.output.json_line(&json!({
            "url": entry.url,
            "public_keys": entry.keys,
            "nix_conf": entry.lines(),
            "netrc": netrc,
        }))?;
        return Ok(exit::DONE);
    }
    let mut text = entry.lines().join("\n") + "\n";
    if let Some(line) = netrc {
        text += &format!("# in the netrc file (mode 0600): {line}\n");
    }
    context.output.data(&text)?;
    Ok(exit::DONE)
}

fn report(context: &Context, cache: &CacheRef, entry: &Entry, changed: &[PathBuf]) -> Result<(), Failure> {
    if context.output.json {
        return context.output.json_line(&json!({
            "cache": cache.name,
            "url": entry.url,
            "public_keys": entry.keys,
            "changed": changed,
        }));
    }
    if changed.is_empty() {
        context.output.note(&format!("Nix is configured to use {} already.", entry.url));
    } else {
        context.output.note(&format!("Nix is configured to use {}; changed: {}.", entry.url, shown(changed)));
    }
    Ok(())
}

/// Says what else it takes until Nix does as configured.
fn explain(context: &Context, system: bool, entry: &Entry) {
    if system {
        context.output.note("Restart the daemon to have it read this: systemctl restart nix-daemon");
        return;
    }
    match trust::ask() {
        Trust::NoDaemon | Trust::Trusted => {}
        Trust::Untrusted => {
            let lines = [
                "The Nix daemon does not trust this user, and takes this substituter only if its own configuration allows it.".to_owned(),
                "As root, one of these, then restart the daemon:".to_owned(),
                format!("  firn use --system {}     everyone on this machine uses it", entry.url),
                "  in /etc/nix/nix.conf, to let users choose it:".to_owned(),
                format!("    extra-trusted-substituters = {}", entry.url),
                format!("    extra-trusted-public-keys = {}", entry.keys.join(" ")),
                "  in /etc/nix/nix.conf, to let this user decide everything (as good as root):".to_owned(),
                format!("    extra-trusted-users = {}", env::var("USER").unwrap_or_else(|_| "USER".to_owned())),
            ];
            for line in lines {
                context.output.note(&line);
            }
        }
        Trust::Unknown(why) => {
            context.output.note(&format!(
                "Whether the Nix daemon trusts this user is not known ({why}); `firn doctor` checks it."
            ));
        }
    }
}

fn shown(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}
