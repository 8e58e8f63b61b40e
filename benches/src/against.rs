//! The same paths pushed by `firn push` and by `nix copy`, each from the same real store to a server of its own: bytes on the
//! wire, time, and what it costs both ends.

mod wire;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use firn_testkit::nix::{Nix, Settings, Store, Version};

use crate::corpus::{self, Entry};
use crate::process::{cpu_seconds_of_ended, load, peak_bytes};
use crate::report::Table;
use crate::server::{self, Server, Setup};
use crate::yardstick::print_circumstances;
use wire::Counting;

const MB: f64 = 1e6;
const GB: f64 = 1e9;
const MIB: f64 = 1_048_576.0;
const CACHE: &str = "main";
/// How often a client's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const COLUMNS: [&str; 11] = [
    "what",
    "by",
    "paths",
    "NAR MB",
    "wire MB",
    "client CPU-s",
    "client CPU-s/GB",
    "server CPU-s/GB",
    "client peak MiB",
    "wall s",
    "on disk MB",
];

/// Push a corpus from a real store with firn push and with nix copy
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder of a corpus with uncompressed NARs: manifest.tsv and cache/
    corpus: PathBuf,
    /// The server [default: firnd beside this program]
    #[arg(long)]
    firnd: Option<PathBuf>,
    /// The client [default: firn beside this program]
    #[arg(long)]
    firn: Option<PathBuf>,
    /// The server's configuration file [default: none]
    #[arg(long)]
    config: Option<PathBuf>,
    /// The version of Nix, of those that the tests use
    #[arg(long, default_value = "2.34", value_parser = version)]
    nix: Version,
    /// Nix's parameters behind the cache's URL
    #[arg(long, default_value = "?compression=zstd")]
    parameters: String,
    /// Push only this many generations [default: all]
    #[arg(long)]
    generations: Option<usize>,
}

fn version(text: &str) -> Result<Version, String> {
    Version::ALL.into_iter().find(|version| version.name() == text).ok_or_else(|| "2.8, 2.26 or 2.34".to_owned())
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let firnd = server::program(arguments.firnd.as_deref())?;
    let firn = match &arguments.firn {
        Some(named) => named.clone(),
        None => firnd.with_file_name("firn"),
    };
    ensure!(firn.is_file(), "there is no {}: build it with `cargo build --release --bin firn`", firn.display());
    let setup = Setup { firnd: &firnd, config: arguments.config.as_deref(), perf: None };
    let entries = corpus::read(&arguments.corpus)?;
    let name = arguments.corpus.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let (load, processors) = load()?;
    println!("corpus {name}, Nix {}; before: load average {load} on {processors} processors\n", arguments.nix);
    let store = Store::new(&Nix::find(arguments.nix)?, &Settings { require_sigs: false, ..Settings::default() })?;
    let mut sides = Vec::new();
    for by in [By::Nix, By::Firn] {
        sides.push(Side::start(&setup, by, arguments, &firn)?);
    }
    let mut table = Table::new(&COLUMNS);
    let generations: Vec<&[Entry]> = entries.chunk_by(|a, b| a.generation == b.generation).collect();
    for generation in generations.iter().take(arguments.generations.unwrap_or(usize::MAX)) {
        fill(&store, &arguments.corpus, generation)?;
        let name = generation.first().map_or("", |entry| entry.generation.as_str());
        for side in &sides {
            side.push(&store, name, generation, &mut table)?;
        }
    }
    for side in &sides {
        if let Some(last) = generations.last() {
            side.push(&store, "the last one again", last, &mut table)?;
        }
    }
    println!("{}", table.text());
    print_circumstances("after")
}

/// Takes a generation of the corpus into the store.
fn fill(store: &Store, corpus: &Path, generation: &[Entry]) -> anyhow::Result<()> {
    let from = format!("file://{}", corpus.join("cache").canonicalize()?.display());
    let paths = paths(generation);
    store
        .check("nix", ["copy", "--no-check-sigs", "--from", &from].into_iter().chain(paths.iter().map(String::as_str)))?
        .done()?;
    Ok(())
}

fn paths(generation: &[Entry]) -> Vec<String> {
    generation.iter().map(|entry| format!("/nix/store/{}", entry.info.store_path)).collect()
}

/// Who pushes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Firn,
    Nix,
}

/// One client, its server, and what counts in between.
struct Side<'a> {
    by: By,
    firn: &'a Path,
    parameters: &'a str,
    server: Server<'a>,
    wire: Counting,
    _folder: tempfile::TempDir,
}

impl<'a> Side<'a> {
    fn start(setup: &'a Setup<'a>, by: By, arguments: &'a Arguments, firn: &'a Path) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("firn-against-").tempdir().context("make a temporary folder")?;
        let server = Server::start(setup, folder.path(), &[CACHE])?;
        let wire = Counting::start(server.address)?;
        Ok(Self { by, firn, parameters: &arguments.parameters, server, wire, _folder: folder })
    }

    /// Pushes paths of the store and adds a row of what that took.
    fn push(&self, store: &Store, name: &str, generation: &[Entry], table: &mut Table) -> anyhow::Result<()> {
        let url = format!("http://{}/{CACHE}", self.wire.address());
        let paths = paths(generation);
        let (by, mut command) = match self.by {
            By::Nix => {
                store.set_token("127.0.0.1", &self.server.token)?;
                let mut command = store.command("nix");
                command.args(["copy", "--to", &format!("{url}{}", self.parameters)]).args(&paths);
                ("nix copy", command)
            }
            By::Firn => {
                let mut command = Command::new(self.firn);
                command.env_clear().env("HOME", store.root()).env("NIX_REMOTE", store.root());
                command.env("FIRN_TOKEN", &self.server.token).arg("push").args(&paths).arg(&url);
                ("firn push", command)
            }
        };
        let before = self.wire.bytes();
        let (ran, cost) = self.server.measure(name, || run_to_end(&mut command))?;
        let nar_bytes: u64 = generation.iter().map(|entry| entry.info.nar_size).sum();
        let per_gb = |seconds: f64| format!("{:.2}", seconds / (nar_bytes as f64 / GB));
        table.row(vec![
            name.to_owned(),
            by.to_owned(),
            paths.len().to_string(),
            format!("{:.1}", nar_bytes as f64 / MB),
            format!("{:.3}", (self.wire.bytes() - before) as f64 / MB),
            format!("{:.2}", ran.cpu),
            per_gb(ran.cpu),
            per_gb(cost.cpu),
            format!("{:.0}", ran.peak as f64 / MIB),
            format!("{:.1}", ran.wall.as_secs_f64()),
            format!("{:.1}", self.server.disk_bytes()? as f64 / MB),
        ]);
        Ok(())
    }
}

/// What a client took.
struct Ran {
    cpu: f64,
    peak: u64,
    wall: Duration,
}

/// Runs a program to its good end.
fn run_to_end(command: &mut Command) -> anyhow::Result<Ran> {
    let (before, began) = (cpu_seconds_of_ended()?, Instant::now());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut errors = child.stderr.take().context("standard error is a pipe")?;
    let said = thread::spawn(move || std::io::read_to_string(&mut errors));
    let mut peak = 0;
    let status = loop {
        for id in family(child.id()) {
            peak = peak.max(peak_bytes(&id.to_string()).unwrap_or(0));
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        thread::sleep(LOOK_EVERY);
    };
    let wall = began.elapsed();
    let said = said.join().ok().and_then(Result::ok).unwrap_or_default();
    ensure!(status.success(), "{command:?} ended with {status}: {said}");
    Ok(Ran { cpu: cpu_seconds_of_ended()? - before, peak, wall })
}

/// Returns a process and its children: Nix's programs run under `timeout`.
fn family(id: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    std::iter::once(id).chain(children.split_whitespace().filter_map(|child| child.parse().ok())).collect()
}
