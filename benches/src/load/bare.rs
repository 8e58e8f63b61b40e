//! What serving would come to if nothing but the content cost anything: frames decompressed, their chunks hashed, the zstd
//! form encoded, by firn's own code on the corpus's bytes, in this process. What a server takes beyond that is its own.

use std::fs::File;
use std::hint::black_box;
use std::os::unix::fs::FileExt as _;

use anyhow::Context;
use firn_chunk::ChunkId;
use firn_engine::{TransportEncoder, TransportPiece};
use firn_pack::{FrameDecoder, FrameEncoder, FrameKind};

use crate::corpus::Entry;
use crate::process::cpu_seconds;

/// The longest frame, as uploads make them, and their level.
const FRAME_BYTES: u64 = 1 << 20;
const LEVEL: i32 = 3;
/// The length of a chunk, about what they are cut to.
const CHUNK_BYTES: usize = 64 << 10;
/// How many frames are worked on: together longer than the processor's caches.
const FRAMES: u64 = 96;
/// How often they are decompressed, hashed and encoded: CPU time is counted in 10 ms.
const ROUNDS: [u32; 3] = [4, 8, 2];

/// CPU seconds for a gigabyte of NARs.
pub(super) struct Bare {
    decompression: f64,
    hashing: f64,
    encoding: f64,
}

impl Bare {
    /// Measures with parts from all over the corpus. Takes some seconds and at most 200 MiB of memory.
    pub(super) fn measure(entries: &[Entry]) -> anyhow::Result<Self> {
        let parts = read(entries)?;
        let bytes: usize = parts.iter().map(Vec::len).sum();
        let frames = frames(&parts)?;
        let cost = |rounds: u32, work: &mut dyn FnMut() -> anyhow::Result<()>| {
            let before = cpu_seconds("self")?;
            (0..rounds).try_for_each(|_| work())?;
            anyhow::Ok((cpu_seconds("self")? - before) / f64::from(rounds) / (bytes as f64 / 1e9))
        };
        let mut decoder = FrameDecoder::new()?;
        let decompression = cost(ROUNDS[0], &mut || {
            for frame in &frames {
                black_box(decoder.decode(black_box(frame))?);
            }
            Ok(())
        })?;
        let hashing = cost(ROUNDS[1], &mut || {
            for chunk in parts.iter().flat_map(|part| part.chunks(CHUNK_BYTES)) {
                black_box(ChunkId::of(black_box(chunk)));
            }
            Ok(())
        })?;
        let (mut encoder, mut encoded) = (TransportEncoder::new()?, Vec::new());
        let encoding = cost(ROUNDS[2], &mut || {
            // As they are in the midst of a NAR.
            for piece in parts.iter().flat_map(|part| part.chunks(TransportPiece::MAX_BYTES)) {
                encoded.clear();
                encoder.encode(black_box(piece), &mut encoded)?;
            }
            Ok(())
        })?;
        Ok(Self { decompression, hashing, encoding })
    }

    /// Returns the mean of several measurements: the pace of a shared machine changes from one to the next.
    pub(super) fn mean(all: &[Self]) -> Self {
        let mean = |part: fn(&Self) -> f64| all.iter().map(part).sum::<f64>() / all.len() as f64;
        Self {
            decompression: mean(|bare| bare.decompression),
            hashing: mean(|bare| bare.hashing),
            encoding: mean(|bare| bare.encoding),
        }
    }

    /// Prints it, and how many times it the two forms took over so many connections, given their CPU seconds for a gigabyte.
    pub(super) fn print(&self, connections: usize, identity: f64, zstd: f64) {
        let Self { decompression, hashing, encoding } = self;
        let content = decompression + hashing;
        println!(
            "without a server, in CPU-s/GB: decompression {decompression:.2}, BLAKE3 {hashing:.2}, encoding {encoding:.2}; \
             served over {connections} connections: {:.2} times that in identity, {:.2} times in zstd\n",
            identity / content,
            zstd / (content + encoding)
        );
    }
}

/// Compresses each part as the chunks of a frame.
fn frames(parts: &[Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut encoder = FrameEncoder::new()?;
    let frame = |part: &Vec<u8>| {
        let lens: Vec<u32> =
            part.chunks(CHUNK_BYTES).map(|chunk| u32::try_from(chunk.len())).collect::<Result<_, _>>()?;
        let ids: Vec<[u8; 32]> = part.chunks(CHUNK_BYTES).map(|chunk| ChunkId::of(chunk).0).collect();
        Ok(encoder.encode(FrameKind::Chunks, part, &lens, &ids, LEVEL)?.bytes)
    };
    parts.iter().map(frame).collect()
}

fn read(entries: &[Entry]) -> anyhow::Result<Vec<Vec<u8>>> {
    let sizes: Vec<u64> = entries.iter().map(|entry| entry.info.nar_size).collect();
    let part = |(nar, start, len): (usize, u64, u64)| {
        let path = &entries[nar].nar;
        let mut part = vec![0; usize::try_from(len)?];
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        file.read_exact_at(&mut part, start).with_context(|| format!("read {}", path.display()))?;
        Ok(part)
    };
    parts(&sizes).into_iter().map(part).collect()
}

/// Returns parts of files of these sizes, each by file, offset and length: at even distances over all of them, one behind the
/// other, none longer than a frame or beyond its file's end.
fn parts(sizes: &[u64]) -> Vec<(usize, u64, u64)> {
    let distance = (sizes.iter().sum::<u64>() / FRAMES).max(FRAME_BYTES);
    let (mut parts, mut place) = (Vec::new(), 0);
    for (file, &size) in sizes.iter().enumerate() {
        while place < size {
            parts.push((file, place, FRAME_BYTES.min(size - place)));
            place += distance;
        }
        place -= size;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_of_all_the_corpus_and_end_with_their_file() {
        assert_eq!(parts(&[10, 20]), [(0, 0, 10)]);
        assert_eq!(
            parts(&[FRAME_BYTES + 5, FRAME_BYTES]),
            [(0, 0, FRAME_BYTES), (0, FRAME_BYTES, 5), (1, FRAME_BYTES - 5, 5)]
        );
        let sizes = [1, 200 << 20, 0, 184 << 20];
        let parts = parts(&sizes);
        assert!((96..=97).contains(&parts.len()), "{}", parts.len());
        assert_eq!(parts.iter().filter(|(file, ..)| *file == 1).count(), 50);
        assert!(parts.iter().all(|&(file, start, len)| len > 0 && start + len <= sizes[file]));
    }
}
