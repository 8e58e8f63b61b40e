//! Cuts NAR files in the order given and prints what became of them, and the CPU seconds that each stage takes.
//!
//! ```text
//! cargo run --release -p firn-chunk --example cut -- CORPUS/cache/nar/*.nar
//! cargo run --release -p firn-chunk --example cut -- --stages CORPUS/cache/nar/*.nar
//! ```
//! `--stages` also runs the parts of the work alone; what the whole takes beyond them is normalisation and copying.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;
use std::{env, fs};

use fastcdc::v2020::FastCDC;
use firn_chunk::{Chunk, ChunkId, Chunker, ChunkerId, Cut, Input, RecipeId};
use firn_nix::nar::Decoder;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut totals = Totals::default();
    let mut times = Times::default();
    let mut stages = false;
    for argument in env::args_os().skip(1) {
        if argument == "--stages" {
            stages = true;
            continue;
        }
        let nar = fs::read(PathBuf::from(argument))?;
        let cut = times.whole.measure(|| cut(&nar, &mut totals))?;
        totals.add(&cut);
        if stages {
            times.run_stages(&nar)?;
        }
    }
    totals.print();
    times.print(totals.logical_bytes, stages);
    Ok(())
}

/// Cuts one NAR as a server would: in pieces of 64 KiB.
fn cut(nar: &[u8], totals: &mut Totals) -> firn_chunk::Result<Cut> {
    let mut on_chunk = |chunk: Chunk<'_>| totals.add_chunk(&chunk);
    let mut chunker = Chunker::new(Input::Nar);
    for piece in nar.chunks(64 << 10) {
        chunker.push(piece, &mut on_chunk)?;
    }
    chunker.finish(&mut on_chunk)
}

/// Sums over all NARs.
#[derive(Default)]
struct Totals {
    logical_bytes: u64,
    nars: u64,
    chunks: u64,
    unique_bytes: u64,
    small_chunks: u64,
    unique_small_chunks: u64,
    patches: u64,
    slots: u64,
    recipe_bytes: u64,
    unique_recipe_bytes: u64,
    known_chunks: HashSet<ChunkId>,
    known_recipes: HashSet<RecipeId>,
}

impl Totals {
    /// Chunks below this size are mostly what lies between two larger files.
    const SMALL: usize = 4096;

    fn add_chunk(&mut self, chunk: &Chunk<'_>) {
        let is_new = self.known_chunks.insert(chunk.id);
        let is_small = chunk.data.len() < Self::SMALL;
        self.chunks += 1;
        self.small_chunks += u64::from(is_small);
        self.unique_small_chunks += u64::from(is_small && is_new);
        self.unique_bytes += if is_new { chunk.data.len() as u64 } else { 0 };
    }

    fn add(&mut self, cut: &Cut) {
        self.nars += 1;
        self.logical_bytes += cut.length;
        self.patches += cut.recipe.patches.len() as u64;
        self.slots += cut.slots.len() as u64;
        let recipe = cut.recipe.encode();
        self.recipe_bytes += recipe.len() as u64;
        if self.known_recipes.insert(RecipeId::of(&recipe)) {
            self.unique_recipe_bytes += recipe.len() as u64;
        }
    }

    fn print(&self) {
        println!("{} NARs, {} logical bytes", self.nars, self.logical_bytes);
        println!("{} chunks, {} unique, {} unique bytes", self.chunks, self.known_chunks.len(), self.unique_bytes);
        println!("{} chunks under {} bytes, {} unique", self.small_chunks, Self::SMALL, self.unique_small_chunks);
        println!(
            "{} recipes unique, {} bytes of {}",
            self.known_recipes.len(),
            self.unique_recipe_bytes,
            self.recipe_bytes
        );
        println!("{} patches, {} slots", self.patches, self.slots);
    }
}

/// CPU time of the whole and of the parts of it that can run alone.
#[derive(Default)]
struct Times {
    whole: CpuTime,
    copy: CpuTime,
    parse: CpuTime,
    fastcdc: CpuTime,
    blake3: CpuTime,
}

impl Times {
    fn run_stages(&mut self, nar: &[u8]) -> Result<(), Box<dyn std::error::Error>> {
        let ChunkerId { min, avg, max, .. } = ChunkerId::CURRENT;
        let mut buffer = Vec::with_capacity(1 << 20);
        self.copy.measure(|| {
            for piece in nar.chunks(1 << 20) {
                buffer.clear();
                buffer.extend_from_slice(std::hint::black_box(piece));
            }
        });
        let mut decoder = Decoder::new();
        self.parse.measure(|| decoder.push(nar, &mut |_| {}))?;
        let cuts = FastCDC::new(nar, min as usize, avg as usize, max as usize);
        let chunks: Vec<_> = self.fastcdc.measure(|| cuts.collect());
        self.blake3.measure(|| {
            for chunk in &chunks {
                std::hint::black_box(ChunkId::of(&nar[chunk.offset..chunk.offset + chunk.length]));
            }
        });
        Ok(())
    }

    fn print(&self, bytes: u64, stages: bool) {
        let per_gigabyte = |time: &CpuTime| time.0.as_secs_f64() * 1e9 / bytes as f64;
        println!("whole    {:.3} CPU-s/GB", per_gigabyte(&self.whole));
        if stages {
            println!("copy     {:.3}", per_gigabyte(&self.copy));
            println!("parse    {:.3}", per_gigabyte(&self.parse));
            println!("fastcdc  {:.3}", per_gigabyte(&self.fastcdc));
            println!("blake3   {:.3}", per_gigabyte(&self.blake3));
        }
    }
}

#[derive(Default)]
struct CpuTime(Duration);

impl CpuTime {
    fn measure<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let before = Self::now();
        let result = work();
        self.0 += Self::now().saturating_sub(before);
        result
    }

    /// Returns how long this process, which has one thread, was on a CPU.
    fn now() -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
    }
}
