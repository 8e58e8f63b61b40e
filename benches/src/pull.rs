//! Pull-through: what it adds to upstream's first byte, and what many clients of one absent path cost.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use firn_nix::{NarInfo, SecretKey, Sha256, StorePath};
use firn_testkit::file_server::FileServer;
use firn_testkit::firnd::Firnd;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::process::peak_bytes;
use crate::report::Latencies;

/// Measures pull-through, with a plain cache on this machine as the upstream. `$FIRND` is the program.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Paths of which the first byte is measured
    #[arg(long, default_value_t = 40)]
    paths: u64,
    /// MiB of such a path
    #[arg(long, default_value_t = 8)]
    megabytes: u64,
    /// Clients that ask for one absent path at once
    #[arg(long, default_value_t = 50)]
    clients: usize,
    /// MiB of that path
    #[arg(long, default_value_t = 500)]
    large: u64,
}

/// A plain cache's folder.
struct Plain {
    folder: tempfile::TempDir,
    key: SecretKey,
}

impl Plain {
    /// Adds a path of noise; returns its narinfo.
    fn add(&self, seed: u64, megabytes: u64) -> anyhow::Result<NarInfo> {
        let bytes = usize::try_from(megabytes << 20)?;
        let nar = Node::file(Random::new(seed).noise(bytes)).encode();
        let path: StorePath = format!("{}-noise-{seed}", Random::new(seed).store_hash()).parse()?;
        let file = format!("nar/{}.nar", path.hash());
        let text = format!(
            "StorePath: /nix/store/{path}\nURL: {file}\nCompression: none\nNarHash: {}\nNarSize: {}\nReferences: \n",
            Sha256::of(&nar),
            nar.len()
        );
        let mut info = NarInfo::parse(text.as_bytes(), "/nix/store")?;
        info.sign(&self.key, "/nix/store");
        fs::write(self.folder.path().join(file), nar)?;
        fs::write(self.folder.path().join(format!("{}.narinfo", path.hash())), info.to_text("/nix/store"))?;
        Ok(info)
    }
}

/// Returns how long the first byte of a body took.
fn first_byte(server: SocketAddr, target: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let stream = Request::get(target).start(server)?;
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    ensure!(line.contains(" 200"), "{target}: {line}");
    // A plain server keeps the connection; a body without a length ends with it.
    let mut length = u64::MAX;
    while !line.trim().is_empty() {
        line.clear();
        reader.read_line(&mut line)?;
        if let Some(("content-length", value)) = line.to_ascii_lowercase().split_once(':') {
            length = value.trim().parse()?;
        }
    }
    let mut byte = [0];
    reader.read_exact(&mut byte)?;
    let took = began.elapsed();
    // The rest is read, so that nothing of it runs into the next measurement.
    std::io::copy(&mut reader.take(length.saturating_sub(1)), &mut std::io::sink()).ok();
    Ok(took)
}

/// Returns where a cache offers a path's NAR.
fn target(firnd: &Firnd, info: &NarInfo) -> anyhow::Result<String> {
    let said = firnd.send(&Request::get(&format!("/main/{}.narinfo", info.store_path.hash())))?;
    let text = said.text();
    let url = text.lines().find_map(|line| line.strip_prefix("URL: ")).context("a narinfo without a URL")?;
    Ok(format!("/main/{url}"))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("nar"))?;
    let plain = Plain { folder, key: SecretKey::generate("bench-1", [1; 32])? };
    let server = FileServer::start(plain.folder.path())?;
    let firnd = Firnd::start_with("[upstream]\nanonymous-daily = \"0 B\"\n")?;
    firnd.cache("main", &["--public"])?;
    firnd.admin(["upstream", "add", &server.url(), "--key", &plain.key.public().to_string()])?;
    measure_first_byte(arguments, &plain, &server, &firnd)?;
    measure_many(arguments, &plain, &server, &firnd)
}

fn measure_first_byte(arguments: &Arguments, plain: &Plain, server: &FileServer, firnd: &Firnd) -> anyhow::Result<()> {
    let (mut direct, mut through) = (Vec::new(), Vec::new());
    for seed in 0..arguments.paths {
        let info = plain.add(seed, arguments.megabytes)?;
        let target = target(firnd, &info)?;
        direct.push(first_byte(server.address(), &format!("/{}", info.url))?);
        through.push(first_byte(firnd.address(), &target)?);
        let until = Instant::now() + Duration::from_secs(60);
        while firnd.status("paths")? <= seed && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
    let (direct, through) = (Latencies::new(direct), Latencies::new(through));
    println!("first byte of {} absent paths of {} MiB, ms", direct.count(), arguments.megabytes);
    for (name, share) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)] {
        let (one, other) = (direct.milliseconds(share), through.milliseconds(share));
        println!("  {name}: upstream {one:.2}, through firnd {other:.2}, added {:.2}", other - one);
    }
    Ok(())
}

fn measure_many(arguments: &Arguments, plain: &Plain, server: &FileServer, firnd: &Firnd) -> anyhow::Result<()> {
    let info = plain.add(1 << 40, arguments.large)?;
    let target = target(firnd, &info)?;
    let before = server.requests("nar/");
    let began = Instant::now();
    let lengths = thread::scope(|scope| {
        let ask = || -> anyhow::Result<u64> {
            let stream = Request::get(&target).start(firnd.address())?;
            let mut reader = BufReader::with_capacity(1 << 20, &stream);
            Ok(std::io::copy(&mut reader, &mut std::io::sink())?)
        };
        let asking: Vec<_> = (0..arguments.clients).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|asked| asked.join().expect("no panic")).collect::<anyhow::Result<Vec<_>>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let longest = lengths.iter().max().copied().unwrap_or(0);
    // Noise gets no shorter, and the frames of HTTP around it are not the same for all.
    ensure!(lengths.iter().all(|length| *length >= arguments.large << 20), "some clients got less than the whole");
    let peak = match firnd.id() {
        Some(id) => peak_bytes(&id.to_string())?,
        None => 0,
    };
    println!(
        "{} clients of one absent path of {} MiB: {} download, {} bytes to each at most, {seconds:.1} s in all, peak resident {} MiB",
        arguments.clients,
        arguments.large,
        server.requests("nar/") - before,
        longest,
        peak >> 20
    );
    ensure!(Path::new(&firnd.data()).exists(), "the data directory is gone");
    Ok(())
}
