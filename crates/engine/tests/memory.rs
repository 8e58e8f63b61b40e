//! Memory stays small, however large the NAR. Alone in its program, so that nobody else's memory is measured.

#[path = "fixture/mod.rs"]
mod fixture;
#[path = "fixture/indexes.rs"]
mod indexes;

use std::fs;
use std::sync::Arc;

use firn_chunk::Input;
use firn_storage::Disk;
use firn_testkit::nar::{put, put_all};
use firn_testkit::random::Random;
use sha2::Digest as _;

use fixture::{Fixture, cache};

const BLOCK_BYTES: usize = 1 << 20;
const BLOCKS: usize = 1 << 10;

/// What it may take, with 8 MiB of decoded frames and a chunk index in memory. It is some 34 MiB; the NAR has 1 GiB.
const MOST_BYTES: u64 = 64 << 20;

/// Returns the memory of this process in bytes: what it has now (`VmRSS`) or had at most (`VmHWM`).
fn memory_bytes(which: &str) -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(which)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}

/// Feeds a NAR of one file of 1 GiB, no two chunks of which are alike, to a function. It takes little room when stored.
fn feed(take: &mut dyn FnMut(&[u8])) {
    let mut header = Vec::new();
    put_all(&mut header, &[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
    header.extend_from_slice(&((BLOCKS * BLOCK_BYTES) as u64).to_le_bytes());
    take(&header);
    let mut block = Random::new(1).noise(32 << 10).repeat(BLOCK_BYTES >> 15);
    let mut stamp = 0u64;
    for _ in 0..BLOCKS {
        for place in block.chunks_mut(8 << 10) {
            place[..8].copy_from_slice(&stamp.to_le_bytes());
            stamp += 1;
        }
        take(&block);
    }
    let mut end = Vec::new();
    put(&mut end, b")");
    take(&end);
}

#[test]
fn a_large_nar_takes_no_more_memory_than_a_small_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut fixture = Fixture::on(Arc::new(Disk::open(folder.path()).unwrap()));
    fixture.options.frame_cache_bytes = 8 << 20;
    fixture.options.pack_bytes = 4 << 20;
    let engine = fixture.open();
    let before = memory_bytes("VmRSS");

    let (mut ingest, mut sha256) = (engine.ingest(Input::Nar).unwrap(), sha2::Sha256::new());
    let (mut in_flight, mut total) = (0, 0);
    feed(&mut |piece| {
        sha256.update(piece);
        ingest.write(piece).unwrap();
        total += piece.len() as u64;
        in_flight = in_flight.max(engine.stats().unwrap().chunks_in_flight);
    });
    let ingested = ingest.finish().unwrap();
    let expected: [u8; 32] = sha256.finalize().into();
    assert_eq!(ingested.nar_hash.0, expected);
    assert!(ingested.stats.unique_bytes > total - (64 << 20), "the NAR must be new: {:?}", ingested.stats);
    let (recipe, slots) = (ingested.recipe, ingested.slots.clone());
    engine.commit_nar(&cache(), ingested, None).unwrap();

    let mut restore = engine.restore(&recipe, &slots, 0..u64::MAX).unwrap();
    let mut sha256 = sha2::Sha256::new();
    while let Some(piece) = restore.next(256 << 10).unwrap() {
        sha256.update(&piece);
        assert!(engine.stats().unwrap().frame_cache_bytes <= 8 << 20);
    }
    assert_eq!(<[u8; 32]>::from(sha256.finalize()), expected);

    assert!(in_flight < 8_000, "chunks leave memory when their pack is sealed: {in_flight}");
    if let (Some(before), Some(most)) = (before, memory_bytes("VmHWM")) {
        let grown = most - before;
        assert!(grown < MOST_BYTES, "memory grew by {} MiB", grown >> 20);
    }
}
