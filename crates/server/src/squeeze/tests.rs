use std::sync::Arc;

use firn_chunk::Input;
use firn_engine::{Entropy, Options, SystemClock};
use firn_index::memory::{MemoryChunkIndex, MemoryMeta};
use firn_index::{CacheRow, Meta};
use firn_storage::Memory;

use super::*;

struct Numbers(std::sync::atomic::AtomicU64);

impl Entropy for Numbers {
    fn draw(&self) -> u128 {
        u128::from(self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst)) << 64 | 7
    }
}

/// Returns an engine that holds a few documents.
fn engine() -> Engine {
    let meta = MemoryMeta::new();
    let cache = "main".parse().unwrap();
    meta.put_cache(&cache, &CacheRow::new(0)).unwrap();
    let options = Options { pack_bytes: 60_000, frame_bytes: 30_000, min_free_bytes: 0, ..Options::default() };
    let engine = Engine::open(
        Arc::new(Memory::new()),
        Arc::new(meta),
        Arc::new(MemoryChunkIndex::new()),
        Arc::new(SystemClock),
        Arc::new(Numbers(Default::default())),
        options,
    )
    .unwrap();
    for n in 0..4_u8 {
        let mut ingest = engine.ingest(Input::Bytes).unwrap();
        let bytes: Vec<u8> = (0..80_000_u32).flat_map(|at| blake3_like(at, n)).collect();
        ingest.write(&bytes).unwrap();
        engine.commit_nar(&cache, ingest.finish().unwrap(), None).unwrap();
    }
    engine
}

/// Returns bytes that don't compress.
fn blake3_like(at: u32, n: u8) -> [u8; 2] {
    let word = (u64::from(at) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ u64::from(n)).rotate_left(31);
    (word.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 48).to_le_bytes()[..2].try_into().unwrap()
}

fn pass(cpu_percent: u8, bytes_per_second: u64) -> Pass {
    Pass { level: 4, frame_bytes: 1 << 20, min_age_seconds: 0, cpu_percent, bytes_per_second }
}

#[test]
fn a_pass_runs_to_its_end_and_is_reported() {
    let done = Control::default().run(&engine(), &pass(100, u64::MAX));
    assert!(!done.running && !done.stopped && done.error.is_none(), "{done:?}");
    assert!(done.packs > 0 && done.emptied_packs == done.packs, "{done:?}");
}

#[test]
fn a_slow_pass_stops_at_once() {
    let squeezer = Squeezer::start(engine(), &SqueezeConfig::default()).unwrap();
    // A byte in a second: it would take days.
    assert!(squeezer.ask(pass(100, 1)));
    assert!(!squeezer.ask(pass(100, 1)), "one at a time");
    assert!(squeezer.control().progress().running);
    squeezer.control().stop();
    squeezer.end();
    let progress = squeezer.control().progress();
    assert!(!progress.running || progress == Progress { running: true, ..Progress::default() }, "{progress:?}");
}

#[test]
fn ending_ends_what_is_under_way() {
    let squeezer = Squeezer::start(engine(), &SqueezeConfig::default()).unwrap();
    assert!(squeezer.ask(pass(1, 1)));
    squeezer.end();
    squeezer.end();
}
