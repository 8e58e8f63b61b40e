//! `firn login`: checks a token against the server, and only then keeps it.

use std::fs;
use std::io::{self, BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use firn_api::CacheDescription;
use jiff::Timestamp;
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::cache_ref::{self, CacheRef, Token, TokenSource};
use crate::config::{self, Config, Places, SYSTEM_FILE};
use crate::context::Context;
use crate::failure::{Failure, Kind};
use crate::{access, exit, identity, private_file, probe};

const EXAMPLES: &str = "\
The token is asked for on a terminal and else read from standard input. It is checked with the server, then
kept in a file of its own (mode 0600), which the configuration names.

In CI, --oidc needs no secret: the job's identity token is exchanged for a token that lives for a while, by the server's
rules. It is taken from FIRN_ID_TOKEN (GitLab CI: id_tokens), or asked for (GitHub Actions: permissions, id-token: write).

Examples:
  firn login https://cache.example.org/main
  firn login https://cache.example.org/main --oidc
  firn login https://cache.example.org/main --token-file /run/secrets/firn-token --name work
  ssh server firnd token create --grant main:push --name laptop | firn login https://cache.example.org/main";

/// The command's arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The cache: its URL, or its name in the configuration
    #[arg(value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Exchange this CI job's identity for a token
    #[arg(long, conflicts_with = "token_file")]
    oidc: bool,
    /// The environment variable that holds the identity token [default: FIRN_ID_TOKEN; in GitHub Actions it is asked for]
    #[arg(long, value_name = "VAR", requires = "oidc")]
    token_env: Option<String>,
    /// For whom GitHub makes the identity token [default: the server's URL]
    #[arg(long, value_name = "AUDIENCE", requires = "oidc")]
    audience: Option<String>,
    /// The name that the configuration gives to a new cache [default: its name on the server]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Make it the cache that is meant when a command names none; the first one is that anyway
    #[arg(long)]
    default: bool,
    /// Keep it in /etc/firn, for services
    #[arg(long, conflicts_with = "config")]
    system: bool,
}

/// Runs the command.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let places = context.places();
    let config = Config::load_to_change(&places)?;
    let mut cache = cache_ref::resolve(&config, arguments.cache.as_deref())?;
    let name = choose_name(arguments, &config, &cache)?;
    let file = file_to_change(arguments, &places)?;
    if cache.url.is_plain_http() && !cache.url.is_loopback() {
        context.output.warn("the URL is http://: whoever is on the way can read the token");
    }
    cache.token = Some(match &arguments.token_file {
        _ if arguments.oidc => {
            let (variable, audience) = (arguments.token_env.as_deref(), arguments.audience.as_deref());
            probe::block_on(identity::exchange(&cache.url, variable, audience))??
        }
        Some(path) => cache_ref::read_token(path)?,
        None if io::stdin().is_terminal() => ask()?,
        None => cache_ref::read_token(Path::new("-"))?,
    });
    let description = probe::block_on(access::describe(&cache))??;
    check(&cache, &description)?;
    let token_file = keep(&file, &name, &cache, arguments.default)?;
    report(context, &name, &cache, &description, &file, &token_file)?;
    Ok(exit::DONE)
}

/// Returns the name in the configuration: the one that it has there, or a new one.
fn choose_name(arguments: &Arguments, config: &Config, cache: &CacheRef) -> Result<String, Failure> {
    let wanted = arguments.name.clone().or_else(|| cache.name.clone()).unwrap_or_else(|| match cache.url.name() {
        cache_ref::ROOT_CACHE => cache.url.host().replace(':', "-"),
        name => name.to_owned(),
    });
    config::check_name(&wanted).map_err(|problem| {
        Failure::new(Kind::Usage, format!("call the cache '{wanted}': {problem}")).hint("choose another with --name")
    })?;
    match config.caches.get(&wanted) {
        Some(other) if other.url != cache.url => {
            let message = format!("call the cache '{wanted}': {} is called so already", other.url);
            Err(Failure::new(Kind::Usage, message).hint("choose another name with --name"))
        }
        _ => Ok(wanted),
    }
}

fn file_to_change(arguments: &Arguments, places: &Places) -> Result<PathBuf, Failure> {
    if arguments.system {
        return Ok(SYSTEM_FILE.into());
    }
    places.writable().map(Path::to_owned).ok_or_else(|| {
        Failure::new(Kind::Config, "find the configuration's folder: neither XDG_CONFIG_HOME nor HOME is set")
            .hint("name the file with --config; it need not be there yet")
    })
}

/// Refuses a token that opens nothing.
fn check(cache: &CacheRef, description: &CacheDescription) -> Result<(), Failure> {
    if description.can_push || description.can_pull && !description.public {
        return Ok(());
    }
    let message = if description.can_pull {
        format!(
            "use the token for {}: it grants nothing there; the cache is public, so that pulling needs none",
            cache.url
        )
    } else {
        format!("use the token for {}: it grants nothing there", cache.url)
    };
    let hint = format!("on the server: firnd token create --grant {}:pull,push --name NAME", description.name);
    Err(Failure::new(Kind::Server, message).hint(hint))
}

/// Writes the token's file, then the configuration that names it; returns the token's file.
fn keep(file: &Path, name: &str, cache: &CacheRef, default: bool) -> Result<PathBuf, Failure> {
    let folder = file.parent().unwrap_or(Path::new("."));
    let relative = Path::new("tokens").join(name);
    let token_file = folder.join(&relative);
    let write = |path: &Path, error: io::Error| {
        let (kind, failure) = (error.kind(), Failure::doing(Kind::Config, format!("write {}", path.display()), error));
        match kind {
            io::ErrorKind::ReadOnlyFilesystem => failure.hint(
                "NixOS or home-manager makes this file: have it name the cache and a token-file, or give --config",
            ),
            io::ErrorKind::PermissionDenied => failure.hint("run it as the file's owner; with --system, as root"),
            _ => failure,
        }
    };
    let text = match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        result => result.map_err(|error| Failure::doing(Kind::Config, format!("read {}", file.display()), error))?,
    };
    let changed = with_cache(&text, name, cache.url.as_str(), &relative, default)
        .map_err(|error| Failure::doing(Kind::Config, format!("read {}", file.display()), error))?;
    let secrets = folder.join("tokens");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&secrets).map_err(|error| write(&secrets, error))?;
    let secret = cache.token.as_ref().map(Token::expose).unwrap_or_default();
    private_file::replace(&token_file, &format!("{secret}\n"), 0o600).map_err(|error| write(&token_file, error))?;
    let mode = private_file::mode(file).unwrap_or(0o600);
    private_file::replace(file, &changed, mode).map_err(|error| write(file, error))?;
    Ok(token_file)
}

/// Returns the configuration with the cache in it; comments and everything else stay.
fn with_cache(
    text: &str,
    name: &str,
    url: &str,
    token_file: &Path,
    default: bool,
) -> Result<String, toml_edit::TomlError> {
    let mut document: DocumentMut = text.parse()?;
    let caches = document.entry("caches").or_insert_with(|| {
        let mut caches = Table::new();
        caches.set_implicit(true);
        Item::Table(caches)
    });
    let is_first = caches.as_table_like().is_none_or(|caches| caches.is_empty());
    let cache = &mut caches[name];
    if cache.is_none() {
        *cache = Item::Table(Table::new());
    }
    cache["url"] = value(url);
    cache["token-file"] = value(token_file.display().to_string());
    if let Some(cache) = cache.as_table_like_mut() {
        cache.remove("token");
    }
    if default || (is_first && !document.contains_key("default-cache")) {
        document["default-cache"] = value(name);
    }
    Ok(document.to_string())
}

/// Asks on the terminal, without showing what is typed.
fn ask() -> Result<Token, Failure> {
    let failed = |error: io::Error| Failure::doing(Kind::Failed, "read the token from the terminal", error);
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    eprint!("Token: ");
    io::stderr().flush().map_err(failed)?;
    tcsetattr(&stdin, OptionalActions::Now, &silent).map_err(|error| failed(error.into()))?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    tcsetattr(&stdin, OptionalActions::Now, &before).map_err(|error| failed(error.into()))?;
    eprintln!();
    read.map_err(failed)?;
    Token::new(&line, TokenSource::StandardInput)
        .map_err(|problem| Failure::new(Kind::Config, format!("read the token from the terminal: {problem}")))
}

fn report(
    context: &Context,
    name: &str,
    cache: &CacheRef,
    description: &CacheDescription,
    file: &Path,
    token_file: &Path,
) -> Result<(), Failure> {
    if context.output.json {
        return context.output.json_line(&json!({
            "cache": name,
            "url": cache.url.as_str(),
            "builder": description.builder,
            "can_pull": description.can_pull,
            "can_push": description.can_push,
            "token_expires_at": description.token_expires_at,
            "config": file,
            "token_file": token_file,
        }));
    }
    let rights = access::rights(description);
    let expiry = access::expiry(description, Timestamp::now());
    context
        .output
        .note(&format!("{} takes the token: it may {rights} as {}, and {expiry}.", cache.url, description.builder));
    context.output.note(&format!(
        "It is kept in {}; {} calls the cache '{name}'.",
        token_file.display(),
        file.display()
    ));
    if cache.token.as_ref().is_some_and(|token| token.id().is_none()) {
        context.output.warn("the token does not look like one of firnd's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(text: &str, name: &str, default: bool) -> String {
        with_cache(text, name, "https://h/x", Path::new("tokens/x"), default).expect("TOML")
    }

    #[test]
    fn the_first_cache_is_the_default() {
        assert_eq!(
            with("", "main", false),
            "default-cache = \"main\"\n\n[caches.main]\nurl = \"https://h/x\"\ntoken-file = \"tokens/x\"\n"
        );
    }

    #[test]
    fn comments_order_and_other_keys_stay() {
        let text = "# mine\ndefault-cache = \"a\" # yes\n\n[caches.a]\nurl = \"https://h/a\"   # here\n\n[caches.main]\ntoken = \"t\" # old\nupstream-keys = []\nurl = \"https://old/x\"\n";
        let changed = with(text, "main", false);
        assert!(
            changed.starts_with("# mine\ndefault-cache = \"a\" # yes\n\n[caches.a]\nurl = \"https://h/a\"   # here\n")
        );
        assert!(
            changed.ends_with("upstream-keys = []\nurl = \"https://h/x\"\ntoken-file = \"tokens/x\"\n"),
            "{changed}"
        );
        assert!(!changed.contains("old"));
        assert_eq!(with(&changed, "main", false), changed, "again changes nothing");
        assert!(
            with(&changed, "main", true).contains("default-cache = \"main\" # yes")
                || with(&changed, "main", true).contains("default-cache = \"main\"")
        );
    }

    #[test]
    fn a_name_with_dots_is_one_name() {
        let text = with("", "a.b", false);
        assert!(text.contains("[caches.\"a.b\"]"), "{text}");
    }

    #[test]
    fn what_is_no_toml_is_not_overwritten() {
        assert!(with_cache("[caches", "main", "u", Path::new("t"), false).is_err());
    }
}
