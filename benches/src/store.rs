//! The engine alone, on disk and RocksDB: what a corpus takes and what storing and reading it costs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use firn_chunk::Input;
use firn_engine::{Delta, Engine, Entropy, Options, PathUpload, SqueezeOptions, SystemClock};
use firn_index::{CacheName, CacheRow, Meta, Totals, Uploader};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};
use firn_pack::{Footer, FrameKind, PackId};
use firn_storage::Disk;

use crate::corpus::{self, Entry};
use crate::process::{cpu_seconds, disk_bytes, peak_bytes};
use crate::pushed::Client;

const MB: f64 = 1e6;
const GB: f64 = 1e9;

/// Store a corpus through the engine and read it back
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Folders of corpora, each with manifest.tsv and cache/; each gets a store of its own
    #[arg(required = true)]
    corpora: Vec<PathBuf>,
    /// The zstd level of chunk frames
    #[arg(long, default_value_t = 3, allow_hyphen_values = true)]
    level: i32,
    /// Uncompressed bytes of a frame
    #[arg(long, default_value_t = 1 << 20)]
    frame_bytes: usize,
    /// Don't make delta frames
    #[arg(long)]
    no_delta: bool,
    /// Push instead of uploading: what a client does is not counted in the CPU seconds
    #[arg(long)]
    pushed: bool,
    /// Squeeze the store afterwards, at these zstd levels, one after the other
    #[arg(long, value_delimiter = ',', value_name = "LEVEL")]
    squeeze: Vec<u8>,
    /// Uncompressed bytes of a frame that is squeezed
    #[arg(long, default_value_t = 8 << 20)]
    squeeze_frame_bytes: usize,
    /// Bytes of memory for decoded frames: the server's default
    #[arg(long, default_value_t = 128 << 20)]
    frame_cache_bytes: u64,
    /// Keep the store in this folder instead of a temporary one
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Don't read back
    #[arg(long)]
    no_restore: bool,
}

/// Draws from the kernel.
pub(crate) struct Random;

impl Entropy for Random {
    fn draw(&self) -> u128 {
        let mut bytes = [0; 16];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
        u128::from_le_bytes(bytes)
    }
}

/// Runs the bench.
pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    for folder in &arguments.corpora {
        let temporary = tempfile::tempdir()?;
        let data = arguments.keep.clone().unwrap_or_else(|| temporary.path().to_owned());
        one(arguments, folder, &data)?;
    }
    Ok(())
}

fn open(data: &Path, arguments: &Arguments) -> anyhow::Result<Engine> {
    let storage = Arc::new(Disk::open(data.join("store"))?);
    let meta: Arc<dyn Meta> = Arc::new(RocksMeta::open(&data.join("index"), &MetaOptions::default())?);
    let chunks = Arc::new(RocksChunkIndex::open(&data.join("index"), &ChunkIndexOptions::default())?);
    let options = Options {
        compression_level: arguments.level,
        frame_bytes: arguments.frame_bytes,
        frame_cache_bytes: arguments.frame_cache_bytes,
        delta: if arguments.no_delta { Delta::Off } else { Delta::Inline },
        ..Options::default()
    };
    Ok(Engine::open(storage, meta, chunks, Arc::new(SystemClock), Arc::new(Random), options)?)
}

fn one(arguments: &Arguments, folder: &Path, data: &Path) -> anyhow::Result<()> {
    let entries = corpus::read(folder)?;
    let engine = open(data, arguments)?;
    engine.meta().put_cache(&cache(), &CacheRow { public: true, ..CacheRow::new(0) })?;
    println!("corpus {}", folder.file_name().unwrap_or_default().to_string_lossy());
    println!(
        "{:<12} {:>6} {:>11} {:>10} {:>10} {:>9}",
        "generation", "paths", "logical MB", "unique MB", "packs MB", "CPU-s/GB"
    );
    let mut client = arguments.pushed.then(|| Client::new(&engine)).transpose()?;
    let cpu_so_far = |client: &Option<Client>| -> anyhow::Result<f64> {
        Ok(cpu_seconds("self")? - client.as_ref().map_or(0.0, |client| client.cpu))
    };
    let start = cpu_so_far(&client)?;
    for generation in entries.chunk_by(|a, b| a.generation == b.generation) {
        let (before, cpu) = (engine.stats()?.totals, cpu_so_far(&client)?);
        for entry in generation {
            match &mut client {
                Some(client) => client.push(&engine, &cache(), &entry.nar, arguments.level, offer(entry))?,
                None => push(&engine, entry)?,
            }
        }
        if let Some(client) = &mut client {
            client.commit(&engine, &cache())?;
        }
        print_row(&generation[0].generation, &before, &engine.stats()?.totals, cpu_so_far(&client)? - cpu);
    }
    print_row("all", &Totals::default(), &engine.stats()?.totals, cpu_so_far(&client)? - start);
    engine.close()?;
    drop(engine);
    let (store, index) = (disk_bytes(&data.join("store"))?, disk_bytes(&data.join("index"))?);
    println!(
        "on disk {:.1} MB: packs {:.2}, index {:.2}; peak memory {:.0} MiB",
        (store + index) as f64 / MB,
        store as f64 / MB,
        index as f64 / MB,
        peak_bytes("self")? as f64 / f64::from(1 << 20)
    );
    if !arguments.no_restore {
        read_back(&open(data, arguments)?, &entries)?;
    }
    for level in &arguments.squeeze {
        squeeze(arguments, data, *level)?;
        if !arguments.no_restore {
            read_back(&open(data, arguments)?, &entries)?;
        }
    }
    println!();
    Ok(())
}

/// Compresses everything again, and prints what is needed then.
fn squeeze(arguments: &Arguments, data: &Path, level: u8) -> anyhow::Result<()> {
    let engine = open(data, arguments)?;
    let options = SqueezeOptions {
        level,
        frame_bytes: arguments.squeeze_frame_bytes,
        min_age_seconds: 0,
        ..SqueezeOptions::default()
    };
    let cpu = cpu_seconds("self")?;
    let done = engine.squeeze(&options, &mut |_| true)?.expect("nobody else rewrites");
    let cpu = cpu_seconds("self")? - cpu;
    engine.close()?;
    let needed = needed_bytes(&engine, data)?;
    drop(engine);
    println!(
        "squeezed at level {level}, frames of {} KiB: {:.2} MB became {:.2}, {:.1} CPU-s ({:.1} a GB of chunks); packs {:.2}, \
         index {:.2}",
        options.frame_bytes >> 10,
        done.read_bytes as f64 / MB,
        done.written_bytes as f64 / MB,
        cpu,
        cpu / (needed.unique_bytes as f64 / GB).max(1e-9),
        needed.pack_bytes as f64 / MB,
        disk_bytes(&data.join("index"))? as f64 / MB,
    );
    println!(
        "  of packs: chunks {:.2}, recipes {:.2}, records {:.2} MB",
        needed.of(FrameKind::Chunks),
        needed.of(FrameKind::Recipe),
        needed.of(FrameKind::Record)
    );
    Ok(())
}

/// What of the packs is needed, with the headers and the footers' entries of its frames.
#[derive(Default)]
struct Needed {
    pack_bytes: u64,
    unique_bytes: u64,
    by_kind: Vec<(FrameKind, u64)>,
}

impl Needed {
    fn of(&self, kind: FrameKind) -> f64 {
        self.by_kind.iter().filter(|(of, _)| *of == kind).map(|(_, bytes)| *bytes as f64 / MB).sum()
    }
}

/// Sums up the packs that recipes need, and the records of the others, which garbage collection carries on.
fn needed_bytes(engine: &Engine, data: &Path) -> anyhow::Result<Needed> {
    let mut needed = Needed::default();
    let mut after: Option<PackId> = None;
    loop {
        let page = engine.meta().packs(after, 256)?;
        for (pack, row) in &page {
            let is_needed = !engine.meta().recipes_of_pack(*pack, None, 1)?.is_empty();
            let hex = pack.to_string();
            // Past the storage, which the engine has locked.
            let file = File::open(data.join("store/packs").join(&hex[..2]).join(hex))?;
            let read = |at, len: usize| {
                let mut bytes = vec![0; len];
                file.read_exact_at(&mut bytes, at).map(|()| bytes)
            };
            let footer = Footer::open(read, file.metadata()?.len())?;
            for (_, entry) in footer.frames.iter().filter(|(_, entry)| is_needed || entry.kind == FrameKind::Record) {
                let bytes = u64::from(entry.len) + 24 + 36 * entry.items.len() as u64 + 32 * entry.bases.len() as u64;
                needed.by_kind.push((entry.kind, bytes));
                needed.pack_bytes += if is_needed { 0 } else { bytes };
            }
            needed.pack_bytes += if is_needed { row.stored_bytes } else { 0 };
            needed.unique_bytes += if is_needed { row.unique_bytes } else { 0 };
        }
        match page.last() {
            Some((last, _)) if page.len() == 256 => after = Some(*last),
            _ => return Ok(needed),
        }
    }
}

fn print_row(name: &str, before: &Totals, after: &Totals, cpu: f64) {
    let logical = (after.logical_bytes - before.logical_bytes) as f64;
    println!(
        "{name:<12} {:>6} {:>11.1} {:>10.2} {:>10.2} {:>9.2}",
        after.paths - before.paths,
        logical / MB,
        (after.unique_bytes as f64 - before.unique_bytes as f64) / MB,
        (after.stored_bytes as f64 - before.stored_bytes as f64) / MB,
        cpu / (logical / GB).max(1e-9),
    );
}

fn cache() -> CacheName {
    "bench".parse().expect("it is a name")
}

fn push(engine: &Engine, entry: &Entry) -> anyhow::Result<()> {
    let mut ingest = engine.ingest(Input::Nar)?;
    let mut file = File::open(&entry.nar)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            n => ingest.write(&buffer[..n])?,
        }
    }
    engine.commit_nar(&cache(), ingest.finish()?, None)?;
    engine.commit_path(&cache(), offer(entry))?;
    Ok(())
}

fn offer(entry: &Entry) -> PathUpload {
    let info = &entry.info;
    PathUpload {
        path: info.store_path.clone(),
        nar_hash: info.nar_hash,
        nar_size: info.nar_size,
        references: info.references.iter().cloned().collect(),
        elsewhere: Vec::new(),
        named: Vec::new(),
        deriver: info.deriver.clone(),
        ca: info.ca.as_ref().map(ToString::to_string),
        signatures: info.signatures.iter().map(ToString::to_string).collect(),
        known_keys: Vec::new(),
        uploader: Uploader { token: None, builder: "bench".to_owned() },
        address: None,
        on_conflict: Default::default(),
        references_policy: Default::default(),
    }
}

/// Measures how long it takes to have the first 64 KiB of a NAR, with an engine that has nothing of it in memory yet.
fn first_pieces(engine: &Engine, entries: &[Entry]) -> anyhow::Result<()> {
    let mut times: Vec<Duration> = Vec::new();
    // The newest first: they lean on others.
    for entry in entries.iter().rev() {
        let nar = engine.meta().nar(&cache(), &entry.info.nar_hash)?.expect("it was committed");
        let began = Instant::now();
        engine.restore(&nar.recipe, &nar.slots, 0..u64::MAX)?.next(64 << 10)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get(times.len() * part / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3);
    println!("first 64 KiB: p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms", at(50), at(90), at(99));
    Ok(())
}

fn read_back(engine: &Engine, entries: &[Entry]) -> anyhow::Result<()> {
    first_pieces(engine, entries)?;
    let (mut identity, mut encoded) = (0u64, 0u64);
    let start = cpu_seconds("self")?;
    for entry in entries {
        let nar = engine.meta().nar(&cache(), &entry.info.nar_hash)?.expect("it was committed");
        let mut restore = engine.restore(&nar.recipe, &nar.slots, 0..u64::MAX)?;
        while let Some(piece) = restore.next(1 << 20)? {
            identity += piece.len() as u64;
        }
    }
    let middle = cpu_seconds("self")?;
    for entry in entries {
        let nar = engine.meta().nar(&cache(), &entry.info.nar_hash)?.expect("it was committed");
        let mut restore = engine.restore_zstd(&entry.info.nar_hash, &nar.recipe, &nar.slots, 0)?;
        while let Some(piece) = restore.next()? {
            encoded += piece.len() as u64;
        }
    }
    let end = cpu_seconds("self")?;
    println!(
        "restore: identity {:.2} CPU-s/GB; zstd {:.2} CPU-s/GB, {:.1} MB for {:.1} MB",
        (middle - start) / (identity as f64 / GB),
        (end - middle) / (identity as f64 / GB),
        encoded as f64 / MB,
        identity as f64 / MB,
    );
    Ok(())
}
