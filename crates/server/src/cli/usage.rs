//! `firnd usage`: what things cost, from the running server's reports or by counting here.

use firn_api::usage::{GroupBy, UsageReport};
use firn_engine::{Clock as _, SystemClock};

use super::admin::{self, Reached};
use super::{CliError, Report, output};
use crate::admin::{Answer, Failure, Request};
use crate::config::Config;
use crate::data_dir::{DataDir, Lock};
use crate::usage::{Usage, report};

/// The command's arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// By what to group: cache, builder, package, pin or day
    #[arg(long, value_name = "WHAT", default_value = "cache", value_parser = group_by)]
    by: GroupBy,
    /// How many groups to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// What counts as recent: a date as 2026-11-28, or a number of days as 7d
    #[arg(long, value_name = "DATE", value_parser = since)]
    since: Option<report::Since>,
    /// Count anew instead of showing the newest report
    #[arg(long)]
    fresh: bool,
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

fn group_by(text: &str) -> Result<GroupBy, String> {
    GroupBy::parse(text).ok_or_else(|| format!("write one of {}", firn_api::group_names()))
}

fn since(text: &str) -> Result<report::Since, String> {
    text.parse().map_err(|wanted| format!("write {wanted}"))
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    admin::need_store(data)?;
    let now = SystemClock.now();
    let since = arguments.since.map(|since| since.at(now));
    let asked = report::Asked { by: arguments.by, top: arguments.top, since, fresh: arguments.fresh };
    let request = Request::Usage { by: asked.by, top: asked.top, since, fresh: asked.fresh };
    let found = match admin::reach(data, &request, "firnd usage")? {
        Reached::Server(reply) => match (*reply)? {
            Answer::Usage(found) => *found,
            _ => return Err(admin::unexpected()),
        },
        Reached::Here(lock) => here(lock, data, config, asked, now)?,
    };
    if arguments.csv {
        return Ok(Report::new(found.to_csv(), &found));
    }
    let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(100, |size| usize::from(size.ws_col));
    let mut printed = Report::new(found.table(width.clamp(40, 200), output::bytes), &found);
    if found.groups_total > found.groups.len() as u64 {
        printed.notes = format!("{} of {} shown\n", found.groups.len(), found.groups_total);
    }
    printed.notes.extend(found.alarms().iter().map(|alarm| format!("{alarm}\n")));
    Ok(printed)
}

/// Opens the store as a server would, and counts.
fn here(lock: Lock, data: &DataDir, config: &Config, asked: report::Asked, now: u64) -> Result<UsageReport, CliError> {
    let store = data.open_store(lock, config)?;
    let usage = Usage::default();
    // It was just made, so that nobody has set it.
    let _ = usage.index.set(data.index());
    let found = report::report(&usage, &store.engine, report::Asked { fresh: true, ..asked }, now, &|_| true, true);
    let failed = |error: &firn_engine::Error| Failure::Store { detail: crate::error_chain(error) };
    let found = found.map_err(|error| failed(&error))?;
    store.engine.close().map_err(|error| failed(&error))?;
    store.release();
    Ok(found)
}
