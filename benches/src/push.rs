//! A corpus pushed to a real `firnd` by firn's client as a library: bytes on the wire, and what it costs both sides.
//!
//! The client is this process, and does here what `firn push` does, so its CPU and memory are the client's.

mod client;
mod source;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use firn_client::push::PushOptions;
use firn_nix_store::PathInfo;

use crate::corpus::{self, Entry};
use crate::process;
use crate::report::Table;
use crate::server::{self, Cost, Server, Setup};
use crate::yardstick::print_circumstances;
use client::{Client, Pushed};
use source::Nars;

const MB: f64 = 1e6;
const GB: f64 = 1e9;
const MIB: f64 = 1_048_576.0;
/// The caches that are pushed to: the second one is given what the first one has.
const CACHES: [&str; 2] = ["first", "second"];
const COLUMNS: [&str; 13] = [
    "push",
    "paths",
    "of them known",
    "logical MB",
    "wire MB",
    "wire B/path",
    "client CPU-s",
    "client CPU-s/GB",
    "server CPU-s/GB",
    "client peak MiB",
    "server peak MiB",
    "wall s",
    "on disk MB",
];

/// Push a corpus to a real firnd with firn's client
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder of a corpus with uncompressed NARs: manifest.tsv and cache/
    corpus: PathBuf,
    /// The server [default: firnd beside this program]
    #[arg(long)]
    firnd: Option<PathBuf>,
    /// The server's configuration file [default: none]
    #[arg(long)]
    config: Option<PathBuf>,
    /// The folder for temporary data [default: the system's]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// The zstd level of frames
    #[arg(long, default_value_t = PushOptions::default().level, value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
    /// About how many paths that are there are asked for; 0 leaves it out
    #[arg(long, default_value_t = 20_000)]
    questions: usize,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let firnd = server::program(arguments.firnd.as_deref())?;
    let setup = Setup { firnd: &firnd, config: arguments.config.as_deref(), perf: None };
    let entries = corpus::read(&arguments.corpus)?;
    ensure!(!entries.is_empty(), "{} is empty", arguments.corpus.display());
    let name = arguments.corpus.file_name().unwrap_or_default().to_string_lossy();
    println!("corpus {name}: {} paths, {:.1} MB", entries.len(), logical(&entries) as f64 / MB);
    // The yardstick is for the end: the client's peak would have its memory in it.
    let (load, processors) = process::load()?;
    println!("before: load average {load} on {processors} processors\n");
    let temporary = folder_for_data(arguments.scratch.as_deref())?;
    let server = Server::start(&setup, temporary.path(), &CACHES)?;
    let options = PushOptions { level: arguments.level, ..PushOptions::default() };
    let nars = Nars::of(&entries);
    let to = |cache| Client::new(&server, cache, nars.clone(), options.clone());
    let mut table = Table::new(&COLUMNS);
    for generation in entries.chunk_by(|a, b| a.generation == b.generation) {
        let name = generation.first().map_or("", |entry| entry.generation.as_str());
        push(&server, &to(CACHES[0])?, name, generation, &mut table)?;
    }
    push(&server, &to(CACHES[1])?, "all, to a second cache", &entries, &mut table)?;
    push(&server, &to(CACHES[0])?, "all again, present", &entries, &mut table)?;
    let present = ask(&server, &to(CACHES[0])?, &entries, arguments.questions)?;
    println!("{}\n{}", table.text(), present.text());
    println!("on disk, server stopped: {:.1} MB\n", server.stop()? as f64 / MB);
    print_circumstances("after")
}

/// Pushes some paths and adds a row of what that took.
fn push(server: &Server<'_>, client: &Client, name: &str, entries: &[Entry], table: &mut Table) -> anyhow::Result<()> {
    let paths: Vec<PathInfo> = entries.iter().map(source::path_info).collect();
    let (count, logical) = (paths.len(), logical(entries));
    let (pushed, cost) = server.measure(name, || client.push(paths))?;
    let Pushed { known, wire, cpu, peak, wall } = pushed;
    let per_gb = |seconds: f64| format!("{:.2}", seconds / (logical as f64 / GB));
    table.row(vec![
        name.to_owned(),
        count.to_string(),
        known.to_string(),
        format!("{:.1}", logical as f64 / MB),
        format!("{:.3}", wire.total_bytes() as f64 / MB),
        format!("{:.0}", wire.total_bytes() as f64 / count as f64),
        format!("{cpu:.2}"),
        per_gb(cpu),
        per_gb(cost.cpu),
        format!("{:.0}", peak as f64 / MIB),
        format!("{:.0}", cost.peak as f64 / MIB),
        format!("{:.1}", wall.as_secs_f64()),
        format!("{:.1}", server.disk_bytes()? as f64 / MB),
    ]);
    Ok(())
}

/// Plans to push what is there, again and again.
fn ask(server: &Server<'_>, client: &Client, entries: &[Entry], questions: usize) -> anyhow::Result<Table> {
    let mut table = Table::new(&["present", "paths", "requests", "paths/s", "client µs/path", "server µs/path"]);
    let rounds = questions.div_ceil(entries.len());
    if rounds > 0 {
        let paths: Vec<PathInfo> = entries.iter().map(source::path_info).collect();
        let (asked, cost) = server.measure("present", || client.plan_present(&paths, rounds))?;
        let Pushed { wire, cpu, wall, .. } = asked;
        let count = paths.len() * rounds;
        table.row(present_row(count, wire.requests, wall, cpu, cost));
    }
    Ok(table)
}

fn present_row(count: usize, requests: u64, wall: Duration, cpu: f64, cost: Cost) -> Vec<String> {
    let each = |seconds: f64| format!("{:.1}", seconds * 1e6 / count as f64);
    vec![
        "asked for by plans".to_owned(),
        count.to_string(),
        requests.to_string(),
        format!("{:.0}", count as f64 / wall.as_secs_f64()),
        each(cpu),
        each(cost.cpu),
    ]
}

fn logical(entries: &[Entry]) -> u64 {
    entries.iter().map(|entry| entry.info.nar_size).sum()
}

fn folder_for_data(scratch: Option<&Path>) -> anyhow::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("firn-push-");
    scratch.map_or_else(|| builder.tempdir(), |folder| builder.tempdir_in(folder)).context("make a temporary folder")
}
