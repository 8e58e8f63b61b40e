//! Passes over a whole store of any size: counting, retention and garbage collection, opening, narinfos meanwhile.
//!
//! The store is made on the disk (see [`made`]) with everything that a pass reads, in the form in which firn writes it; only
//! frames of chunks are zeros, which no pass looks at. Each pass is a process of its own, so that its memory is its own.

mod made;
mod pages;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use firn_engine::{Dimension, Engine, GcReport, Options, SystemClock};
use firn_index::{Meta, RetentionRow};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};
use firn_nix::StoreHash;
use firn_storage::Disk;

use crate::load::latency::{self, Asked};
use crate::process::{cpu_seconds, disk_bytes, forget_peak, peak_bytes};
use crate::report::{Latencies, Table};
use crate::server::{self, Server, Setup};
use crate::store::Random;
use made::Shape;

const MB: f64 = 1e6;
const MIB: f64 = 1_048_576.0;

/// Uses count to the hour, and so does what a cache keeps.
const USE_SECONDS: u64 = 3600;

/// Narinfos that are asked for before a collection, and in each round during one.
const REQUESTS: usize = 20_000;
const ROUND: usize = 2000;
/// How many different ones.
const ASKED: u64 = 50_000;
const CONNECTIONS: usize = 4;

/// Make a store of rows, lists of frames and recipes, and run the passes over it
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Paths, of 50 chunks each
    #[arg(long, default_value_t = 1_000_000)]
    paths: u64,
    /// Keep the store in this folder, or take the one that is there [default: a temporary one]
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Run these passes only, in this process
    #[arg(long, value_delimiter = ',')]
    only: Vec<Pass>,
    /// The server whose narinfos are timed [default: firnd beside this program]
    #[arg(long)]
    firnd: Option<PathBuf>,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Pass {
    /// Makes the store.
    Make,
    /// Opens it.
    Open,
    /// Counts it, and makes every report.
    Usage,
    /// Drops a tenth of the paths, and gives back what nothing needs then.
    Gc,
    /// Times narinfos of a server, before and while it drops another tenth.
    Narinfo,
    /// Times the pages that a server makes for people.
    Pages,
}

impl Pass {
    const ALL: [Self; 6] = [Self::Make, Self::Open, Self::Usage, Self::Gc, Self::Narinfo, Self::Pages];

    fn name(self) -> &'static str {
        match self {
            Self::Make => "make",
            Self::Open => "open",
            Self::Usage => "usage",
            Self::Gc => "gc",
            Self::Narinfo => "narinfo",
            Self::Pages => "pages",
        }
    }
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let shape = Shape::new(arguments.paths);
    if let Some(data) = arguments.keep.as_ref().filter(|_| !arguments.only.is_empty()) {
        return arguments.only.iter().try_for_each(|pass| one(*pass, &shape, data, arguments));
    }
    ensure!(arguments.only.is_empty(), "--only needs the store's folder: --keep FOLDER");
    let temporary = tempfile::tempdir()?;
    let data = arguments.keep.clone().unwrap_or_else(|| temporary.path().join("data"));
    for pass in Pass::ALL {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["scale", "--only", pass.name(), "--paths", &arguments.paths.to_string(), "--keep"]).arg(&data);
        if let Some(firnd) = &arguments.firnd {
            command.arg("--firnd").arg(firnd);
        }
        ensure!(command.status()?.success(), "the pass {} failed", pass.name());
    }
    Ok(())
}

fn one(pass: Pass, shape: &Shape, data: &Path, arguments: &Arguments) -> anyhow::Result<()> {
    match pass {
        Pass::Make => make(shape, data),
        Pass::Open => timed("open", || open(data)).map(drop),
        Pass::Usage => usage(shape, data),
        Pass::Gc => collect(shape, data).map(drop),
        Pass::Narinfo => narinfos(shape, data, &server::program(arguments.firnd.as_deref())?),
        Pass::Pages => pages::run(shape, data, &server::program(arguments.firnd.as_deref())?),
    }
}

fn open(data: &Path) -> anyhow::Result<Engine> {
    let storage = Arc::new(Disk::open(data.join("store"))?);
    let meta: Arc<dyn Meta> = Arc::new(RocksMeta::open(&data.join("index"), &MetaOptions::default())?);
    let chunks = Arc::new(RocksChunkIndex::open(&data.join("index"), &ChunkIndexOptions::default())?);
    Ok(Engine::open(storage, meta, chunks, Arc::new(SystemClock), Arc::new(Random), Options::default())?)
}

/// Runs a step and prints what it cost.
fn timed<T>(name: &str, step: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    forget_peak("self")?;
    let (cpu, began) = (cpu_seconds("self")?, Instant::now());
    let result = step()?;
    println!(
        "{name}: {:.2} CPU-s, {:.2} s, peak memory {:.0} MiB",
        cpu_seconds("self")? - cpu,
        began.elapsed().as_secs_f64(),
        peak_bytes("self")? as f64 / MIB,
    );
    Ok(result)
}

fn make(shape: &Shape, data: &Path) -> anyhow::Result<()> {
    ensure!(!data.exists(), "{} is there already", data.display());
    timed("make the store", || {
        made::make(shape, data)?;
        // The chunk index is fed from the packs.
        Ok(open(data)?.close()?)
    })?;
    let of = |folder: &str| disk_bytes(&data.join(folder)).map(|bytes| bytes as f64 / MB);
    println!("on the disk: rows {:.0} MB, recipes and lists of frames {:.0} MB", of("index")?, of("store")?);
    Ok(())
}

fn usage(shape: &Shape, data: &Path) -> anyhow::Result<()> {
    let engine = open(data)?;
    let mark = timed("count", || {
        let mark = engine.mark(&|| false)?.context("nobody stops it")?;
        let dimensions = [Dimension::Store, Dimension::Cache, Dimension::Builder, Dimension::Package, Dimension::Day];
        let groups: usize = dimensions.into_iter().map(|by| mark.usage_by(by, 0).len()).sum();
        let packs = mark.packs();
        println!(
            "{} paths, {} references to {} chunks in {} packs, {groups} groups",
            mark.paths(),
            mark.references(),
            mark.chunks(),
            packs.packs
        );
        Ok(mark)
    })?;
    let freed =
        timed("what if a tenth of the paths went", || Ok(mark.freed_by(|path| path.at < shape.time(shape.tenth()))))?;
    println!("{} paths with {:.0} MB of chunks would go", freed.paths, freed.unique_bytes as f64 / MB);
    ensure!(mark.missing_chunks + mark.missing_recipes == 0, "the store is not whole");
    ensure!(mark.paths() as u64 == shape.paths && mark.references() == shape.references(), "the count is wrong");
    Ok(engine.close()?)
}

/// Lets the cache keep what came after the first so many tenths.
fn keep_all_but(meta: &dyn Meta, shape: &Shape, tenths: u64) -> anyhow::Result<()> {
    let age = firn_engine::Clock::now(&SystemClock).saturating_sub(shape.time(tenths * shape.tenth()));
    let row = RetentionRow { keep_seconds: Some(age.saturating_sub(USE_SECONDS)), ..RetentionRow::default() };
    ensure!(meta.put_retention(&made::cache(), &row)?, "the cache is not there");
    Ok(())
}

/// Lets RocksDB merge what was written.
fn finish_merges(data: &Path) -> anyhow::Result<()> {
    RocksMeta::open(&data.join("index"), &MetaOptions::default())?.finish_merges()?;
    Ok(RocksChunkIndex::open(&data.join("index"), &ChunkIndexOptions::default())?.finish_merges()?)
}

fn collect(shape: &Shape, data: &Path) -> anyhow::Result<GcReport> {
    timed("merges that waited before", || finish_merges(data))?;
    let engine = open(data)?;
    keep_all_but(engine.meta(), shape, 1)?;
    let report = timed("retention and garbage collection", || {
        let options = made::gc_options();
        engine.collect(&options, &|_, _| {})?.context("nobody else collects")
    })?;
    let removed: u64 = report.caches.iter().map(|cache| cache.removed_paths).sum();
    println!(
        "{removed} paths, {} recipes, {} packs of {:.0} MB went; {} records carried, {} packs are sparse",
        report.recipes,
        report.deleted.packs,
        report.deleted.stored_bytes as f64 / MB,
        report.carried_records,
        report.sparse.len(),
    );
    ensure!(removed == shape.tenth() && report.recipes == removed, "not a tenth: {report:?}");
    ensure!(report.failed.packs == 0, "packs could not be deleted: {report:?}");
    engine.close()?;
    drop(engine);
    timed("merges that it left to be done", || finish_merges(data))?;
    Ok(report)
}

fn narinfos(shape: &Shape, data: &Path, firnd: &Path) -> anyhow::Result<()> {
    {
        let meta = RocksMeta::open(&data.join("index"), &MetaOptions::default())?;
        keep_all_but(&meta, shape, 2)?;
        meta.flush()?;
    }
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), made::SERVER_CONFIG)?;
    let setup = Setup { firnd, config: Some(config.path()), perf: None };
    let began = Instant::now();
    let server = Server::start_on(&setup, data, &config.path().with_extension("log"))?;
    println!("firnd serves after {:.2} s", began.elapsed().as_secs_f64());
    // All over what stays, in no order, but for the oldest: until the collection begins they come of age too.
    let stays = 2 * shape.tenth() + shape.tenth() / 10..shape.paths;
    let count = ASKED.min(stays.end - stays.start);
    let asked: Vec<StoreHash> =
        (0..count).map(|n| shape.hash(stays.start + made::word(n) % (stays.end - stays.start))).collect();
    let ask = |requests| latency::narinfos(&server, made::CACHE, &asked, Asked::Known, CONNECTIONS, requests, 0);
    ask(REQUESTS / 4)?;
    let mut table = Table::new(&["narinfo", "requests", "p50 ms", "p99 ms", "p99.9 ms"]);
    let mut row = |name: &str, times: &Latencies| {
        let mut row = vec![name.to_owned(), times.count().to_string()];
        row.extend([0.5, 0.99, 0.999].map(|share| format!("{:.3}", times.milliseconds(share))));
        table.row(row);
    };
    row("idle", &ask(REQUESTS)?);
    let cpu = server.cpu()?;
    let meanwhile = std::thread::scope(|scope| {
        let gc = scope.spawn(|| server.admin(&["gc", "--json"]));
        let mut meanwhile = Vec::new();
        while !gc.is_finished() {
            meanwhile.push(ask(ROUND)?);
        }
        gc.join().expect("it does not panic")?;
        anyhow::Ok(Latencies::of_all(meanwhile))
    })?;
    row("during a collection", &meanwhile);
    let during = server.cpu()? - cpu;
    row("idle again", &ask(REQUESTS)?);
    println!("{}", table.text());
    println!("the server took {during:.1} CPU-s for both, peak memory {:.0} MiB", server.peak()? as f64 / MIB);
    server.stop()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The figures are of a store that is whole, and of a collection that does what it says.
    #[test]
    fn a_small_store_is_made_counted_and_collected() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let shape = Shape::new(1000);
        make(&shape, &data).unwrap();
        usage(&shape, &data).unwrap();
        let report = collect(&shape, &data).unwrap();
        assert!(report.deleted.packs > 0, "{report:?}");
        assert_eq!((report.nars, report.carried_records), (100, 0));
        let engine = open(&data).unwrap();
        let mark = engine.mark(&|| false).unwrap().unwrap();
        assert_eq!((mark.paths(), mark.missing_chunks, mark.missing_recipes), (900, 0, 0));
        engine.close().unwrap();
    }
}
