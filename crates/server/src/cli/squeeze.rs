//! `firnd squeeze`: by the running server, or else here.

use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

use clap::Args;

use super::admin::{self, Reached};
use super::{CliError, Report, output};
use crate::admin::{Answer, Failure, Request};
use crate::config::{Config, Size, Span};
use crate::data_dir::{DataDir, OpenStore};
use crate::squeeze::{Control, Pass, Progress};

/// How often the running server is asked how far it is.
const ASK_EVERY: Duration = Duration::from_millis(500);

pub(super) const HELP: &str = "\
Compresses packs again that were not compressed with this level or a higher one: content that is like other
content with that as its base, the rest at the higher level in longer runs. Paths can be fetched and pushed
all the while. What is left behind needs garbage collection to be deleted.

It may be stopped at any moment (also by Ctrl-C, or kill -9) and goes on where it was when it is run again.
When a server runs, the server does it, and goes on when this command is interrupted: --stop stops it.

Examples:
  firnd squeeze                             all packs older than squeeze.min-age, as fast as one core can
  firnd squeeze --min-age '0 s' --level 19  everything, as small as it gets
  firnd squeeze --progress                  how far the server is";

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The zstd level, 1 to 22 [default: squeeze.level of the configuration]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=22))]
    level: Option<u8>,
    /// Uncompressed bytes of a frame, "1 MiB" to "8 MiB" [default: squeeze.frame-size]
    #[arg(long, value_name = "SIZE")]
    frame_size: Option<Size>,
    /// Only packs that are at least so old, such as "24 h" [default: squeeze.min-age]
    #[arg(long, value_name = "TIME")]
    min_age: Option<Span>,
    /// Percent of one core
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(1..=100))]
    cpu: u8,
    /// Bytes to read and write in a second, at most, such as "20 MiB"
    #[arg(long, value_name = "SIZE", value_parser = super::bounds::moving)]
    rate: Option<Size>,
    /// Let the running server begin, and don't wait for its end
    #[arg(long, conflicts_with_all = ["stop", "progress"])]
    no_wait: bool,
    /// Stop what the running server does
    #[arg(long, conflicts_with = "progress")]
    stop: bool,
    /// Say how far the running server is
    #[arg(long)]
    progress: bool,
}

pub(super) fn run(arguments: &Arguments, data: &DataDir, config: &Config) -> Result<Report, CliError> {
    if arguments.progress || arguments.stop {
        let request = if arguments.stop { Request::SqueezeStop } else { Request::SqueezeProgress };
        return Ok(report(&progress_of(admin::ask(data, config, &request, false)?)?));
    }
    admin::need_store(data)?;
    let pass = pass(arguments, config)?;
    match admin::reach(data, &Request::Squeeze { pass }, "firnd squeeze")? {
        Reached::Server(reply) => {
            let mut progress = progress_of((*reply)?)?;
            while progress.running && !arguments.no_wait {
                tell(&progress);
                thread::sleep(ASK_EVERY);
                progress = progress_of(admin::ask(data, config, &Request::SqueezeProgress, false)?)?;
            }
            finished(progress)
        }
        Reached::Here(lock) => here(data.open_store(lock, config)?, &pass),
    }
}

/// Does it in this process, which has the store to itself.
fn here(store: OpenStore, pass: &Pass) -> Result<Report, CliError> {
    let control = Control::default();
    let (told, over) = (std::sync::Mutex::new(false), std::sync::Condvar::new());
    let progress = thread::scope(|scope| {
        scope.spawn(|| {
            let mut is_over = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            while !*is_over {
                tell(&control.progress());
                let waited = over.wait_timeout(is_over, ASK_EVERY);
                (is_over, _) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            }
        });
        let progress = control.run(&store.engine, pass);
        *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        over.notify_all();
        progress
    });
    store.engine.close().map_err(|error| CliError::Failure(Failure::Store { detail: crate::error_chain(&error) }))?;
    store.release();
    finished(progress)
}

fn pass(arguments: &Arguments, config: &Config) -> Result<Pass, CliError> {
    let configured = Pass::configured(&config.squeeze);
    let frame_bytes = arguments.frame_size.map_or(configured.frame_bytes, |size| size.0);
    if !crate::config::SQUEEZE_FRAME_BYTES.contains(&frame_bytes) {
        let detail = "squeeze with such frames: --frame-size is from 1 MiB to 8 MiB".to_owned();
        return Err(CliError::Failure(Failure::Invalid { detail }));
    }
    Ok(Pass {
        level: arguments.level.unwrap_or(configured.level),
        frame_bytes,
        min_age_seconds: arguments.min_age.map_or(configured.min_age_seconds, |age| age.0.as_secs()),
        cpu_percent: arguments.cpu,
        bytes_per_second: arguments.rate.map_or(u64::MAX, |rate| rate.0),
    })
}

fn progress_of(answer: Answer) -> Result<Progress, CliError> {
    match answer {
        Answer::Squeeze(progress) => Ok(progress),
        _ => Err(admin::unexpected()),
    }
}

/// Shows on a terminal how far it is; elsewhere the end is enough.
fn tell(progress: &Progress) {
    let Progress { packs, done_packs, read_bytes, written_bytes, .. } = progress;
    if std::io::stderr().is_terminal() && *packs > 0 {
        let (read, written) = (output::bytes(*read_bytes), output::bytes(*written_bytes));
        eprint!("\r\x1b[Kfirnd: {done_packs} of {packs} packs, {read} became {written}");
    }
}

fn finished(progress: Progress) -> Result<Report, CliError> {
    if std::io::stderr().is_terminal() && progress.packs > 0 {
        eprint!("\r\x1b[K");
    }
    match progress.error {
        Some(detail) => Err(CliError::Failure(Failure::Store { detail: format!("squeeze: {detail}") })),
        None => Ok(report(&progress)),
    }
}

fn report(progress: &Progress) -> Report {
    let state = match progress {
        Progress { running: true, .. } => "running",
        Progress { stopped: true, .. } => "stopped before it was through",
        Progress { packs: 0, .. } => "nothing to do",
        _ => "done",
    };
    let Progress { packs, done_packs, read_bytes, written_bytes, emptied_packs, emptied_bytes, .. } = progress;
    let text = output::pairs(&[
        ("state", state.to_owned()),
        ("packs", format!("{done_packs} of {packs}")),
        ("compressed again", format!("{} became {}", output::bytes(*read_bytes), output::bytes(*written_bytes))),
        ("not needed any more", format!("{emptied_packs} packs, {}", output::bytes(*emptied_bytes))),
        ("recipes moved", progress.recipes.to_string()),
    ]);
    Report::new(text, progress)
}
