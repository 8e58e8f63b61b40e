//! Measurements of firn on corpora: bytes on disk, CPU seconds, latencies. `docs/PERFORMANCE.md` keeps what they print.
//!
//! Machines are shared and noisy, so the figures are CPU seconds, bytes and counts, and ratios within one run.

mod against;
mod corpus;
mod load;
mod process;
mod pull;
mod push;
mod pushed;
mod report;
mod scale;
mod server;
mod source;
mod store;
mod synthetic;
mod yardstick;

use clap::{Parser, Subcommand};

// The server's allocator, so that figures are the server's too.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measures firn on corpora
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// Store a corpus through the engine and read it back: bytes on disk and CPU seconds by generation
    Store(store::Arguments),
    /// Drive a real firnd over HTTP: its CPU seconds, latencies, memory and bytes on disk
    Load(load::Arguments),
    /// Push a corpus to a real firnd with firn's client: bytes on the wire, and what it costs both
    Push(push::Arguments),
    /// Fetch paths from an upstream through a real firnd: what it adds to the first byte, and many clients of one path
    Pull(pull::Arguments),
    /// Push a corpus from a real store with firn push and with nix copy: what each sends and costs
    Against(against::Arguments),
    /// Run garbage collection and usage reports over a store of a million paths: CPU seconds, memory, narinfos meanwhile
    Scale(scale::Arguments),
    /// Pull from a builder with a store of 100,000 paths of which 100 are new: bytes that a sync reads
    Source(source::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().bench {
        Bench::Store(arguments) => store::run(&arguments),
        Bench::Load(arguments) => load::run(&arguments),
        Bench::Push(arguments) => push::run(&arguments),
        Bench::Pull(arguments) => pull::run(&arguments),
        Bench::Against(arguments) => against::run(&arguments),
        Bench::Scale(arguments) => scale::run(&arguments),
        Bench::Source(arguments) => source::run(&arguments),
    }
}
