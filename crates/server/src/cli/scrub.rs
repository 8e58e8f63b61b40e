//! `firnd scrub`

use std::thread;
use std::time::{Duration, Instant};

use clap::Args;

use super::admin::{self, Reached};
use super::{CliError, Report, exit, output};
use crate::admin::{Answer, Request, ScrubPassView, ScrubView};
use crate::config::{Config, Size};
use crate::data_dir::DataDir;

/// How often a running server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub(super) const HELP: &str = "\
Every pack is read again, and checked down to the hash of every chunk. Damage is named by the paths that it
concerns: they answer 404 until they are uploaded again (by `firn push`, or by nix copy), which repairs them.
The server does this by itself too (scrub.every in the configuration), while it serves.

A pass that is interrupted goes on behind the last pack that it checked. If no server runs, the command
does the work itself.

Exit code 8: something is damaged, be it only bytes that no path needs (they go when their pack is repacked), or could
not be read.

Examples:
  firnd scrub                      a whole pass, now; waits for its end
  firnd scrub --rate '200 MiB'     faster (bytes per second)
  firnd scrub --status --json";

#[derive(Debug, Args)]
pub(super) struct Scrub {
    /// Bytes read per second at most [default: the configuration's scrub.rate]
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["status", "stop"], value_parser = super::bounds::reading)]
    rate: Option<Size>,
    /// Don't wait until the running server is done
    #[arg(long, conflicts_with_all = ["status", "stop"])]
    detach: bool,
    /// Say what the last pass found, and how far the present one is
    #[arg(long)]
    status: bool,
    /// Stop the running server's pass; it goes on when it is asked for again, or after a restart
    #[arg(long, conflicts_with = "status")]
    stop: bool,
}

pub(super) fn run(scrub: &Scrub, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    if scrub.status {
        return Ok(report(&view(admin::ask(data, config, &Request::ScrubStatus, false)?)?));
    }
    if scrub.stop {
        return Ok(report(&view(admin::ask(data, config, &Request::ScrubStop, false)?)?));
    }
    admin::need_store(data)?;
    let request = Request::ScrubStart { bytes_per_second: scrub.rate.map(|rate| rate.0) };
    match admin::reach(data, &request, "firnd scrub")? {
        Reached::Server(reply) => {
            let started = view((*reply)?)?;
            if scrub.detach { Ok(report(&started)) } else { wait(data, config) }
        }
        Reached::Here(lock) => {
            let mut config = config.clone();
            config.scrub.rate = scrub.rate.unwrap_or(config.scrub.rate);
            here(data.open_store(lock, &config)?, &config)
        }
    }
}

/// Waits until the server has come to the end of its pass.
fn wait(data: &DataDir, config: &Config) -> Result<Report, CliError> {
    loop {
        let view = view(admin::ask(data, config, &Request::ScrubStatus, false)?)?;
        if !view.running {
            return Ok(report(&view));
        }
        thread::sleep(ASK_EVERY);
    }
}

/// Does the work without a server.
fn here(store: crate::data_dir::OpenStore, config: &Config) -> Result<Report, CliError> {
    let failed = |error: firn_engine::Error| CliError::Store { detail: crate::error_chain(&error) };
    let rate = config.scrub.rate.0.max(1);
    let mut pass = store.engine.scrub().map_err(failed)?;
    let (since, mut read_bytes) = (Instant::now(), 0);
    while let Some(bytes) = pass.step().map_err(failed)? {
        read_bytes += bytes;
        let due = Duration::from_secs_f64(read_bytes as f64 / rate as f64);
        thread::sleep(due.saturating_sub(since.elapsed()));
    }
    drop(pass);
    let outcome = store.engine.scrub_outcome().map_err(failed)?;
    store.engine.close().map_err(failed)?;
    store.release();
    Ok(report(&ScrubView {
        running: false,
        bytes_per_second: None,
        next_at: None,
        problem: None,
        current: outcome.current.map(Into::into),
        last: outcome.last.map(Into::into),
    }))
}

fn view(answer: Answer) -> Result<ScrubView, CliError> {
    match answer {
        Answer::Scrub(view) => Ok(*view),
        _ => Err(admin::unexpected()),
    }
}

fn report(view: &ScrubView) -> Report {
    let mut text = String::new();
    let state = match (view.bytes_per_second, &view.current) {
        (Some(rate), _) if view.running => format!("running, at most {} per second", output::bytes(rate)),
        (_, Some(_)) => "interrupted: `firnd scrub` goes on with it".to_owned(),
        _ => "not running".to_owned(),
    };
    let mut rows = vec![("scrub", state)];
    rows.extend(view.problem.clone().map(|problem| ("problem", problem)));
    rows.extend(view.next_at.map(|at| ("next", output::time(at))));
    text += &output::pairs(&rows);
    for (name, pass) in [("this pass", &view.current), ("last pass", &view.last)] {
        if let Some(pass) = pass {
            text += &format!("\n{name}\n{}", pass_text(pass));
        }
    }
    let passes = [&view.current, &view.last];
    // What an earlier pass found may be repaired; what this one found is not.
    let newest = passes.into_iter().flatten().next();
    let is_damaged = newest.is_some_and(ScrubPassView::is_damaged);
    Report { code: if is_damaged { exit::DAMAGED } else { exit::DONE }, ..Report::new(text, view) }
}

fn pass_text(pass: &ScrubPassView) -> String {
    let mut rows = vec![("began", output::time(pass.started_at))];
    rows.extend(pass.finished_at.map(|at| ("ended", output::time(at))));
    rows.push(("packs", pass.packs.to_string()));
    rows.push(("read", output::bytes(pass.read_bytes)));
    let told = |count: u64, means: &str| if count == 0 { "0".to_owned() } else { format!("{count}: {means}") };
    rows.push(("packs not readable", told(pass.unreadable_packs, "not known what is in them; the log says why")));
    let harm = if pass.damaged_paths > 0 { "the paths below need some of it" } else { "no path is harmed" };
    rows.push(("damaged packs", told(pass.damaged_packs, &format!("header, footer or length; {harm}"))));
    rows.push(("damaged frames", told(pass.damaged_frames, harm)));
    rows.push(("damaged paths", told(pass.damaged_paths, "not to be had until they are uploaded again")));
    let mut text = output::pairs(&rows);
    for found in &pass.paths {
        text += &format!("  {}: {}\n", found.cache, found.path);
    }
    let more = pass.damaged_paths.saturating_sub(pass.paths.len() as u64);
    if more > 0 {
        text += &format!("  and {more} more, which the log names\n");
    }
    text
}
