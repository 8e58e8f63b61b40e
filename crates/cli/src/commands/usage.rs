//! `firn usage`, `firn du`, `firn diff`: what things cost on the server's disk.

use std::path::PathBuf;

use firn_api::usage::{Difference, DiskUse, EntryKind, FileChange, GroupBy, UsageReport};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::context::Context;
use crate::exit;
use crate::failure::{Failure, Kind};
use crate::probe::{Probe, Trouble, block_on, clean};

/// Files of a difference that are shown.
const FILES: usize = 40;

/// Which cache, and with which token.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    /// The cache: a URL, or a name in the configuration
    #[arg(long, value_name = "CACHE")]
    cache: Option<String>,
    /// The file that holds the token, with the verb `usage`; - is standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// The arguments of `firn usage`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    place: Place,
    /// By what to group: cache, builder, package, pin or day
    #[arg(long, value_name = "WHAT", default_value = "cache", value_parser = group_by)]
    by: GroupBy,
    /// How many groups to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// What counts as recent: a date as 2026-11-28, or a number of days as 7d
    #[arg(long, value_name = "DATE")]
    since: Option<String>,
    /// Have the server count anew instead of showing its newest report
    #[arg(long)]
    fresh: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// The arguments of `firn du`.
#[derive(Debug, clap::Args)]
pub(crate) struct DuArguments {
    #[command(flatten)]
    place: Place,
    /// With all that they refer to
    #[arg(long)]
    closure: bool,
    /// Store paths, or their hashes
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<String>,
}

/// The arguments of `firn diff`.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArguments {
    #[command(flatten)]
    place: Place,
    /// The earlier store path, or its hash
    from: String,
    /// The later one
    to: String,
}

fn group_by(text: &str) -> Result<GroupBy, String> {
    GroupBy::parse(text).ok_or_else(|| format!("write one of {}", firn_api::group_names()))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// Asks the server of a cache; `question` makes the rest of the URL of the cache's name.
fn ask<T: serde::de::DeserializeOwned>(
    place: &Place,
    context: &Context,
    question: impl Fn(&str) -> String,
) -> Result<T, Failure> {
    let cache = context.cache(place.cache.as_deref(), place.token_file.as_deref())?;
    let answer = block_on(async {
        let probe = Probe::patient(&cache.url, cache.token.as_ref())?;
        Ok::<Result<T, Trouble>, Failure>(probe.ask(&question(cache.url.name())).await)
    })??;
    answer.map_err(|trouble| trouble.into_failure(&format!("ask the server of {}", cache.url)))
}

fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// Returns the width of the terminal, or of a page if there is none.
fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map_or(100, |size| usize::from(size.ws_col)).clamp(40, 200)
}

/// Runs `firn usage`.
pub(crate) fn run(arguments: &Arguments, context: &Context) -> Result<u8, Failure> {
    let report: UsageReport = ask(&arguments.place, context, |_| {
        let since = arguments.since.as_ref().map(|since| format!("&since={}", encoded(since))).unwrap_or_default();
        let fresh = if arguments.fresh { "&fresh=1" } else { "" };
        format!("usage?by={}&top={}{since}{fresh}", arguments.by.as_str(), arguments.top)
    })?;
    if context.output.json {
        context.output.json_line(&report)?;
    } else if arguments.csv {
        context.output.data(&report.to_csv())?;
    } else {
        context.output.data(&report.table(width(), bytes))?;
        if report.groups_total > report.groups.len() as u64 {
            context.output.note(&format!("{} of {} shown", report.groups.len(), report.groups_total));
        }
        report.alarms().iter().for_each(|alarm| context.output.warn(alarm));
    }
    Ok(exit::DONE)
}

/// Runs `firn du`.
pub(crate) fn du(arguments: &DuArguments, context: &Context) -> Result<u8, Failure> {
    if arguments.paths.len() > 1000 {
        return Err(Failure::new(Kind::Usage, "ask about more than 1000 paths at once"));
    }
    let found: DiskUse = ask(&arguments.place, context, |cache| {
        let paths: Vec<String> =
            arguments.paths.iter().map(|path| format!("path={}", encoded(base_name(path)))).collect();
        let closure = if arguments.closure { "&closure=1" } else { "" };
        format!("caches/{cache}/disk-use?{}{closure}", paths.join("&"))
    })?;
    if context.output.json {
        context.output.json_line(&found)?;
        return Ok(exit::DONE);
    }
    context.output.pairs(&[
        ("paths", found.paths.to_string()),
        ("logical", bytes(found.logical_bytes)),
        ("unique", bytes(found.unique_bytes)),
        ("stored", bytes(found.stored_bytes)),
        ("exclusive", format!("{} would come back", bytes(found.exclusive_bytes))),
    ])?;
    if !found.shares_with.is_empty() {
        context.output.note("shares most with:");
        let line = |one: &firn_api::usage::Sharing| {
            format!("{:>10}  {}  {}\n", bytes(one.stored_bytes), clean(&one.path), clean(&one.cache))
        };
        context.output.data(&found.shares_with.iter().map(line).collect::<String>())?;
    }
    Ok(exit::DONE)
}

/// Runs `firn diff`.
pub(crate) fn diff(arguments: &DiffArguments, context: &Context) -> Result<u8, Failure> {
    let found: Difference = ask(&arguments.place, context, |cache| {
        let (from, to) = (encoded(base_name(&arguments.from)), encoded(base_name(&arguments.to)));
        format!("caches/{cache}/difference?from={from}&to={to}")
    })?;
    if context.output.json {
        context.output.json_line(&found)?;
        return Ok(exit::DONE);
    }
    let side = |kind: Option<EntryKind>, length: Option<u64>| match (kind, length) {
        (Some(kind @ (EntryKind::Directory | EntryKind::Symlink)), _) => kind.as_str().to_owned(),
        (_, length) => length.map_or_else(|| "-".to_owned(), bytes),
    };
    let line = |file: &firn_api::usage::FileDifference| {
        let change = match file.change {
            FileChange::Added => "added",
            FileChange::Removed => "removed",
            FileChange::Changed => "changed",
        };
        let (from, to) = (side(file.from_kind, file.from_bytes), side(file.to_kind, file.to_bytes));
        let new = bytes(file.new_bytes);
        format!("{new:>10}  {change:8}{from:>11} -> {to:<11}{}\n", clean(&file.path))
    };
    let text: String = found.files.iter().take(FILES).map(line).collect();
    context.output.data(&text)?;
    let (files, new) = (found.files.len(), bytes(found.new_bytes));
    context.output.data(&format!("{new:>10}  new in {files} files that differ, of {}\n", bytes(found.to_bytes)))?;
    if found.is_partial {
        context.output.warn("there was too much to compare: other files may differ too");
    }
    Ok(exit::DONE)
}

fn base_name(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}
