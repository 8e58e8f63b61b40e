//! `firn pin`: paths that stay in a cache, with all that they refer to, whatever its rules say.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use firn_api::{Pin, PinAdd};
use firn_client::remote::{HttpOptions, Remote, RemoteOptions, RetryPolicy};
use jiff::Timestamp;

use super::push::server;
use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Kind};
use crate::probe::{block_on, clean};
use crate::push_target::target;

/// How long it is tried to reach the server.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// What to do with pins.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Keep a path and everything that it refers to; the pin of that name is moved
    #[command(
        after_help = "Examples:\n  firn pin add release ./result --expires 90d\n  firn pin add host-a /run/current-system"
    )]
    Add {
        /// The pin's name: letters, digits, - _ . + /
        name: String,
        /// A store path of the cache, or a link to one
        path: String,
        /// When the pin stops to count, from now on: 12h, 30d, 8w [default: never]
        #[arg(long, value_name = "TIME", value_parser = seconds)]
        expires: Option<u64>,
        #[command(flatten)]
        place: Place,
    },
    /// List the cache's pins
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Remove a pin; what it kept stays as long as other rules keep it
    Remove {
        /// The pin's name
        name: String,
        #[command(flatten)]
        place: Place,
    },
}

/// Which cache, and with which token.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The cache: a URL, or a name in the configuration
    #[arg(long, value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token, with the verb `push`; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Runs `firn pin`.
pub(crate) fn run(command: &Command, context: &Context) -> Result<u8, Failure> {
    match command {
        Command::Add { name, path, expires, place } => {
            let asked = PinAdd { name: name.clone(), path: store_path(path)?, expires_in: *expires };
            let pin = block_on(async { connect(place, context).await?.add_pin(&asked).await.map_err(server) })??;
            tell(context, &pin, &format!("pinned {} as '{}'", clean(&pin.path), clean(&pin.name)))
        }
        Command::List { place } => {
            let pins = block_on(async { connect(place, context).await?.pins().await.map_err(server) })??;
            if context.output.json {
                context.output.json_line(&pins)?;
            } else {
                context.output.data(&table(&pins))?;
            }
            Ok(exit::DONE)
        }
        Command::Remove { name, place } => {
            let pin = block_on(async { connect(place, context).await?.remove_pin(name).await.map_err(server) })??;
            tell(context, &pin, &format!("removed the pin '{}' of {}", clean(&pin.name), clean(&pin.path)))
        }
    }
}

fn tell(context: &Context, pin: &Pin, line: &str) -> Result<u8, Failure> {
    if context.output.json {
        context.output.json_line(pin)?;
    } else {
        context.output.data(&format!("{line}\n"))?;
    }
    Ok(exit::DONE)
}

async fn connect(place: &Place, context: &Context) -> Result<Remote, Failure> {
    let cache = context.cache(place.cache.as_deref(), place.token_file.as_deref())?;
    let retry = RetryPolicy { give_up_after: GIVE_UP_AFTER, ..RetryPolicy::default() };
    let extra_certificates = std::env::var_os("NIX_SSL_CERT_FILE").map(PathBuf::from);
    let http = HttpOptions { extra_certificates, ..HttpOptions::default() };
    Remote::connect(target(&cache)?, &http, RemoteOptions { retry, ..RemoteOptions::default() }).await.map_err(server)
}

/// Follows links up to a store path, as `./result` is one; what is no file stays as it is.
fn store_path(text: &str) -> Result<String, Failure> {
    let is_base_name = text.split_once('-').is_some_and(|(hash, _)| hash.len() == 32) && !text.contains('/');
    if is_base_name || !Path::new(text).is_symlink() {
        return Ok(text.to_owned());
    }
    let path = std::fs::canonicalize(text)
        .map_err(|error| Failure::doing(Kind::Usage, format!("follow the link {text}"), error))?;
    let path = path.into_os_string().into_string();
    path.map_err(|path| Failure::new(Kind::Usage, format!("pin {}: it is no store path", path.display())))
}

fn table(pins: &[Pin]) -> String {
    let time = |at: u64| {
        let at = i64::try_from(at).ok().and_then(|at| Timestamp::from_second(at).ok());
        at.map_or_else(|| "?".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string())
    };
    let row = |pin: &Pin| {
        let expires = pin.expires_at.map_or_else(|| "never".to_owned(), time);
        format!(
            "{}  {}  pinned {}  expires {expires}  by {}\n",
            clean(&pin.name),
            clean(&pin.path),
            time(pin.pinned_at),
            clean(&pin.by)
        )
    };
    pins.iter().map(row).collect()
}

/// Reads a time: a number with s, min, h, d or w.
fn seconds(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim() {
        "s" => 1,
        "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err("write a number with s, min, h, d or w, as in 30d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "write a number with s, min, h, d or w, as in 30d".to_owned())?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0).ok_or_else(|| "give at least one second".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        for (text, expected) in [("30d", 30 * 86_400), ("12 h", 43_200), ("1w", 604_800), ("5min", 300), ("9s", 9)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "30", "d", "0d", "-1d", "1.5h", "99999999999999999999d", "9999999999999999w"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base_names_are_no_files() {
        let name = "0a5bc7y7bsa7r26wzvpnlvw7r8g6nfvs-hello";
        assert_eq!(store_path(name).unwrap(), name);
        assert_eq!(store_path("/nix/store/nothing").unwrap(), "/nix/store/nothing");
    }
}
