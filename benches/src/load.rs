//! A real `firnd` under load over loopback: uploads, downloads, narinfos, first bytes, memory.
//!
//! The driver is a process of its own, so its CPU does not count; loops are closed and all counts are bounded.

mod bare;
pub(crate) mod client;
pub(crate) mod latency;
mod memory;
mod transfers;

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use firn_nix::StoreHash;

use crate::corpus::{self, Entry};
use crate::report::{Latencies, Table};
use crate::server::{self, Cost, Server, Setup};
use crate::yardstick::print_circumstances;
use bare::Bare;
use latency::Asked;
use memory::Crowd;
use transfers::Form;

const MB: f64 = 1e6;
const GB: f64 = 1e9;
const MIB: f64 = 1_048_576.0;
/// The caches that the load goes to: the second one is given what the first one has.
const CACHES: [&str; 2] = ["first", "second"];
/// How often a NAR is asked for again to see its first byte.
const REPEATS: usize = 3;

/// Drive a real firnd over HTTP
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folders of corpora with uncompressed NARs, each with manifest.tsv and cache/
    #[arg(required = true)]
    corpora: Vec<PathBuf>,
    /// The server [default: firnd beside this program]
    #[arg(long)]
    firnd: Option<PathBuf>,
    /// The server's configuration file [default: none]
    #[arg(long)]
    config: Option<PathBuf>,
    /// The folder for temporary data [default: the system's]
    #[arg(long)]
    scratch: Option<PathBuf>,
    /// How many connections the parallel phases have
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    connections: u16,
    /// How many narinfos are asked for in each phase of narinfos; 0 leaves these phases out
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Of how many NARs the first byte is timed in each form; 0 leaves it out
    #[arg(long, default_value_t = 300)]
    samples: usize,
    /// The bytes of the long NAR; 0 leaves it out
    #[arg(long, default_value_t = 4 << 30)]
    long_bytes: u64,
    /// How many transfers run at once with the long NAR
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(2..=1000))]
    transfers: u16,
    /// Bytes a second of each of the transfers beside the long NAR
    #[arg(long, default_value_t = 2_000_000)]
    pace: u64,
    /// Don't read everything back at the end to compare it with its hashes
    #[arg(long)]
    no_check: bool,
    /// Record each phase with perf into this folder (costs the server a little)
    #[arg(long)]
    perf: Option<PathBuf>,
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let firnd = server::program(arguments.firnd.as_deref())?;
    let setup = Setup { firnd: &firnd, config: arguments.config.as_deref(), perf: arguments.perf.as_deref() };
    arguments.corpora.iter().try_for_each(|folder| {
        let entries = corpus::read(folder)?;
        ensure!(!entries.is_empty(), "{} is empty", folder.display());
        one(arguments, &setup, folder, &entries).with_context(|| format!("with the corpus {}", folder.display()))
    })
}

fn one(arguments: &Arguments, setup: &Setup<'_>, folder: &Path, entries: &[Entry]) -> anyhow::Result<()> {
    let logical: u64 = entries.iter().map(|entry| entry.info.nar_size).sum();
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    println!("corpus {name}: {} paths, {:.1} MB", entries.len(), logical as f64 / MB);
    print_circumstances("before")?;
    let connections = usize::from(arguments.connections);
    let mut costs = Table::new(&["phase", "connections", "logical MB", "sent MB", "CPU-s", "CPU-s/GB", "peak MiB"]);
    let mut disk = Table::new(&["on disk, MB", "connections", "MB"]);
    if connections > 1 {
        let temporary = folder_for_data(arguments)?;
        let server = Server::start(setup, temporary.path(), &CACHES)?;
        move_all(&server, entries, 1, &mut costs, &mut disk)?;
        stop(server, 1, &mut disk)?;
    }
    let temporary = folder_for_data(arguments)?;
    let server = Server::start(setup, temporary.path(), &CACHES)?;
    move_all(&server, entries, connections, &mut costs, &mut disk)?;
    let mut narinfos =
        Table::new(&["narinfo", "connections", "requests", "CPU µs/request", "p50 ms", "p99 ms", "p99.9 ms"]);
    let mut first_bytes = Table::new(&["time to first byte", "requests", "p50 ms", "p90 ms", "p99 ms"]);
    ask_narinfos(arguments, &server, entries, &mut narinfos)?;
    ask_first_bytes(arguments, &server, entries, &mut first_bytes)?;
    if !arguments.no_check {
        let checked = transfers::check(&server, CACHES[1], entries)?;
        eprintln!("  {checked} NARs read back in both forms: each has its hash");
    }
    println!("{}\n{}\n{}", costs.text(), narinfos.text(), first_bytes.text());
    if arguments.long_bytes > 0 {
        // It changes what is on the disk, so that is not looked at again.
        println!("{}", long(arguments, &server, entries)?.text());
    } else {
        stop(server, connections, &mut disk)?;
    }
    println!("{}", disk.text());
    print_circumstances("after")
}

fn folder_for_data(arguments: &Arguments) -> anyhow::Result<tempfile::TempDir> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("firn-load-");
    match &arguments.scratch {
        Some(folder) => builder.tempdir_in(folder),
        None => builder.tempdir(),
    }
    .context("make a temporary folder")
}

/// Uploads a corpus twice, into two caches, and fetches it in both forms.
fn move_all(
    server: &Server<'_>,
    entries: &[Entry],
    connections: usize,
    costs: &mut Table,
    disk: &mut Table,
) -> anyhow::Result<()> {
    let mut on_disk = |what: &str| -> anyhow::Result<()> {
        disk.row(vec![what.to_owned(), connections.to_string(), format!("{:.1}", server.disk_bytes()? as f64 / MB)]);
        Ok(())
    };
    let mut row = |moved: &Moved| costs.row(moved.row(connections));
    let measure = |name: String, entries: &[Entry], run: &dyn Fn(&[Entry]) -> anyhow::Result<u64>| {
        let (sent, cost) = server.measure(&format!("{name} {connections}"), || run(entries))?;
        anyhow::Ok(Moved { name, logical: entries.iter().map(|entry| entry.info.nar_size).sum(), sent, cost })
    };
    on_disk("nothing uploaded")?;
    // The first generation is all new; those that follow are like it, for the most part.
    let first = entries.chunk_by(|a, b| a.generation == b.generation).next().unwrap_or_default();
    let rest = &entries[first.len()..];
    let upload = |entries: &[Entry]| transfers::upload(server, CACHES[0], entries, connections);
    let new = measure(format!("upload {}", first.first().map_or("", |entry| &entry.generation)), first, &upload)?;
    row(&new);
    if !rest.is_empty() {
        let later = measure("upload what follows".to_owned(), rest, &upload)?;
        row(&later);
        row(&new.and(&later, "upload, all"));
    }
    on_disk("the first cache")?;
    let again = |entries: &[Entry]| transfers::upload(server, CACHES[1], entries, connections);
    row(&measure("upload again".to_owned(), entries, &again)?);
    on_disk("both caches")?;
    let serve = |form: Form| {
        let fetch = |entries: &[Entry]| transfers::download(server, CACHES[0], entries, connections, form);
        measure(format!("serve {}", form.name()), entries, &fetch)
    };
    let before = Bare::measure(entries)?;
    let identity = serve(Form::Identity)?;
    let between = Bare::measure(entries)?;
    let zstd = serve(Form::Zstd)?;
    let after = Bare::measure(entries)?;
    row(&identity);
    row(&zstd);
    Bare::mean(&[before, between, after]).print(connections, identity.cpu_per_gb(), zstd.cpu_per_gb());
    Ok(())
}

/// What was moved, and what that cost.
struct Moved {
    name: String,
    /// The bytes of the NARs.
    logical: u64,
    /// The bytes of the bodies.
    sent: u64,
    cost: Cost,
}

impl Moved {
    fn and(&self, other: &Self, name: &str) -> Self {
        let cost = Cost { cpu: self.cost.cpu + other.cost.cpu, peak: self.cost.peak.max(other.cost.peak) };
        let (logical, sent) = (self.logical + other.logical, self.sent + other.sent);
        Self { name: name.to_owned(), logical, sent, cost }
    }

    fn cpu_per_gb(&self) -> f64 {
        self.cost.cpu / (self.logical as f64 / GB)
    }

    fn row(&self, connections: usize) -> Vec<String> {
        vec![
            self.name.clone(),
            connections.to_string(),
            format!("{:.1}", self.logical as f64 / MB),
            format!("{:.1}", self.sent as f64 / MB),
            format!("{:.2}", self.cost.cpu),
            format!("{:.2}", self.cpu_per_gb()),
            format!("{:.0}", self.cost.peak as f64 / MIB),
        ]
    }
}

fn stop(server: Server<'_>, connections: usize, disk: &mut Table) -> anyhow::Result<()> {
    let bytes = server.stop()?;
    disk.row(vec!["both caches, stopped".to_owned(), connections.to_string(), format!("{:.1}", bytes as f64 / MB)]);
    Ok(())
}

fn ask_narinfos(
    arguments: &Arguments,
    server: &Server<'_>,
    entries: &[Entry],
    table: &mut Table,
) -> anyhow::Result<()> {
    if arguments.requests == 0 {
        return Ok(());
    }
    let hashes: Vec<StoreHash> = entries.iter().map(|entry| entry.info.store_path.hash()).collect();
    let mut round = 0;
    for (asked, name) in [(Asked::Known, "known"), (Asked::Unknown, "unknown")] {
        for connections in counts(arguments) {
            let run = || latency::narinfos(server, CACHES[0], &hashes, asked, connections, arguments.requests, round);
            let (times, cost) = server.measure(&format!("narinfo {name} {connections}"), run)?;
            let each = cost.cpu / latency::sent(connections, arguments.requests) as f64;
            let mut row = vec![name.to_owned(), connections.to_string(), times.count().to_string()];
            row.push(format!("{:.1}", each * 1e6));
            row.extend([0.5, 0.99, 0.999].map(|share| format!("{:.3}", times.milliseconds(share))));
            table.row(row);
            round += 1;
        }
    }
    Ok(())
}

/// Returns the numbers of connections of phases that are run with one and with several.
fn counts(arguments: &Arguments) -> Vec<usize> {
    let mut counts = vec![1, usize::from(arguments.connections)];
    counts.dedup();
    counts
}

fn ask_first_bytes(
    arguments: &Arguments,
    server: &Server<'_>,
    entries: &[Entry],
    table: &mut Table,
) -> anyhow::Result<()> {
    if arguments.samples == 0 {
        return Ok(());
    }
    for form in [Form::Identity, Form::Zstd] {
        let run = || latency::first_bytes(server, CACHES[0], entries, form, arguments.samples, REPEATS);
        let (times, _) = server.measure(&format!("first byte {}", form.name()), run)?;
        let mut row = |what: &str, times: &Latencies| {
            let mut row = vec![format!("{}, {what}", form.name()), times.count().to_string()];
            row.extend([0.5, 0.9, 0.99].map(|share| format!("{:.3}", times.milliseconds(share))));
            table.row(row);
        };
        row("not asked for lately", &times.first);
        row("asked for just before", &times.again);
    }
    Ok(())
}

/// Moves the long NAR in and out beside slow transfers.
fn long(arguments: &Arguments, server: &Server<'_>, entries: &[Entry]) -> anyhow::Result<Table> {
    let connections = usize::from(arguments.transfers);
    let mut table = Table::new(&["long NAR", "transfers", "NAR MB", "peak MiB"]);
    let crowd = Crowd::new(server, CACHES[0], entries, arguments.long_bytes, connections, arguments.pace)?;
    let mut measure = |name: &str, run: &dyn Fn() -> anyhow::Result<u64>| -> anyhow::Result<()> {
        let (bytes, cost) = server.measure(name, run)?;
        table.row(vec![
            name.to_owned(),
            connections.to_string(),
            format!("{:.0}", bytes as f64 / MB),
            format!("{:.0}", cost.peak as f64 / MIB),
        ]);
        Ok(())
    };
    measure("uploaded", &|| crowd.upload())?;
    measure("served", &|| crowd.download())?;
    Ok(table)
}
