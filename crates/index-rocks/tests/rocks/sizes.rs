//! What the engines take on the disk and in memory.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use firn_chunk::ChunkId;
use firn_index::conformance::samples::{cache, cache_row, chunk, commit, location, path_row, store_hash};
use firn_index::{ChunkIndex, Meta, Op, SeenId};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};
use firn_pack::{ChunkLoc, FrameLoc, PackId};

/// Returns the bytes that the files of a folder take on the disk, what is allocated ahead included.
fn allocated_bytes(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).expect("lists").flatten();
    entries.map(|entry| entry.metadata().expect("reads").blocks() * 512).sum()
}

/// Returns the bytes in a folder's logs.
fn log_bytes(folder: &Path) -> u64 {
    let logs =
        fs::read_dir(folder).expect("lists").flatten().filter(|entry| entry.path().extension() == Some("log".as_ref()));
    logs.map(|entry| entry.metadata().expect("reads").len()).sum()
}

#[test]
fn a_new_index_is_small() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let meta = RocksMeta::open(folder.path(), &MetaOptions::default()).expect("opens");
    let chunks = RocksChunkIndex::open(folder.path(), &ChunkIndexOptions::default()).expect("opens");
    meta.put_cache(&cache("a"), &cache_row(1)).expect("writes");
    chunks.set_watermark(1).expect("writes");
    let open = allocated_bytes(&folder.path().join("meta"));
    assert!(open < 1536 << 10, "Meta takes {open} bytes while it is open");
    let open = allocated_bytes(&folder.path().join("chunks"));
    assert!(open < 128 << 10, "the chunk index takes {open} bytes while it is open");
    drop((meta, chunks));
    let closed = allocated_bytes(&folder.path().join("meta"));
    assert!(closed < 256 << 10, "Meta takes {closed} bytes while it is closed");
}

#[test]
fn a_flush_leaves_empty_logs() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let meta = RocksMeta::open(folder.path(), &MetaOptions::default()).expect("opens");
    meta.put_cache(&cache("a"), &cache_row(1)).expect("writes");
    let ops = (0..200).map(|n| Op::Path(cache("a"), store_hash(n), path_row(n, 1))).collect();
    meta.commit(1, &[commit(&[], ops)]).expect("writes").remove(0).expect("is not refused");
    assert!(log_bytes(&folder.path().join("meta")) > 0);
    meta.flush().expect("flushes");
    assert_eq!(log_bytes(&folder.path().join("meta")), 0);
}

#[test]
fn what_a_cache_has_seen_takes_at_most_24_bytes() {
    const SEEN: u64 = 100_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let index = RocksChunkIndex::open(folder.path(), &ChunkIndexOptions::default()).expect("opens");
    let ids: Vec<_> = (0..SEEN)
        .map(|n| {
            let [low, high] = [0x9e37_79b9_7f4a_7c15_u64, 0xc2b2_ae3d_27d4_eb4f].map(|odd| n.wrapping_mul(odd));
            SeenId([low.to_be_bytes(), high.to_le_bytes()].concat().try_into().expect("16 bytes"))
        })
        .collect();
    index.note_seen(&cache("main"), &ids).expect("writes");
    index.flush().expect("flushes");
    index.compact();
    let stored = allocated_bytes(&folder.path().join("chunks"));
    assert!(stored / SEEN < 24, "{stored} bytes for {SEEN} ids");
    assert!(ids.chunks(4096).all(|ids| index.seen(&cache("main"), ids).expect("reads").iter().all(|seen| *seen)));
}

#[test]
fn a_chunk_takes_at_most_60_bytes() {
    const CHUNKS: u64 = 100_000;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = ChunkIndexOptions { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20 };
    let index = RocksChunkIndex::open(folder.path(), &options).expect("opens");
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = || {
        // Marsaglia's xorshift, for bytes that don't compress.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random.to_le_bytes()
    };
    let mut known = Vec::new();
    let mut pack = [0; 16];
    for n in 0..CHUNKS {
        if n.is_multiple_of(1400) {
            pack = [bytes(), bytes()].concat().try_into().expect("16 bytes");
        }
        let id = ChunkId([bytes(), bytes(), bytes(), bytes()].concat().try_into().expect("32 bytes"));
        let frame = FrameLoc { pack: PackId(pack), offset: n % 1400 / 16 * 370_000, len: 350_000 };
        known.push((id, ChunkLoc { frame, index: u16::try_from(n % 16).expect("is small") }));
    }
    for some in known.chunks(1000) {
        index.apply(some).expect("writes");
    }
    index.flush().expect("flushes");
    index.compact();
    let stored = allocated_bytes(&folder.path().join("chunks"));
    assert!(stored / CHUNKS < 60, "{stored} bytes for {CHUNKS} chunks");

    for some in known.chunks(4096) {
        let ids: Vec<_> = some.iter().map(|(id, _)| *id).collect();
        assert!(index.lookup(&ids).expect("reads").into_iter().eq(some.iter().map(|(_, location)| Some(*location))));
    }
    let held = index.memory_bytes();
    let bound = (options.cache_bytes + 2 * options.write_buffer_bytes + (4 << 20)) as u64;
    assert!((1..bound).contains(&held), "{held} bytes of memory");
}

#[test]
fn how_many_chunks_there_are_is_known_after_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let open = || RocksChunkIndex::open(folder.path(), &ChunkIndexOptions::default()).expect("opens");
    let chunks = open();
    for n in 0..150 {
        chunks.apply(&[(chunk(n), location(1))]).expect("writes");
        chunks.set_watermark(n + 1).expect("writes");
    }
    chunks.flush().expect("flushes");
    drop(chunks);
    let told = open().estimated_chunks().expect("tells");
    assert!((100..=200).contains(&told), "{told}");
}
