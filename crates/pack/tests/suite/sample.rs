//! Frames and packs to try things on.

use std::io;

use firn_pack::{Bases, Frame, FrameEncoder, FrameEntry, FrameKind, PackBuilder, PackId, item_id};
use xxhash_rust::xxh3::xxh3_64;

pub(crate) const ID: PackId = PackId(*b"a pack's own id.");

/// Returns bytes that zstd does not make smaller, the same at every call.
pub(crate) fn noise(len: usize, seed: u32) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    let mut bytes = vec![0; len];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub(crate) fn encode(kind: FrameKind, items: &[&[u8]]) -> Frame {
    let lens: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    let ids: Vec<_> = items.iter().map(|item| item_id(item)).collect();
    FrameEncoder::new().unwrap().encode(kind, &items.concat(), &lens, &ids, 3).unwrap()
}

/// Compresses items with bases, which must make them shorter.
pub(crate) fn encode_delta(items: &[&[u8]], bases: &[&[u8]]) -> Frame {
    let lens: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    let ids: Vec<_> = items.iter().map(|item| item_id(item)).collect();
    let (base_ids, data): (Vec<_>, _) = (bases.iter().map(|base| item_id(base)).collect(), bases.concat());
    let bases = Bases { ids: &base_ids, data: &data };
    let mut encoder = FrameEncoder::new().unwrap();
    encoder.encode_delta(&items.concat(), &lens, &ids, &bases, usize::MAX, 3).unwrap().expect("it is shorter")
}

/// A chunk with bytes that zstd can't make smaller, and the same with a few other bytes in the middle.
pub(crate) fn base_and_rebuilt() -> (Vec<u8>, Vec<u8>) {
    let base = noise(3000, 5);
    let mut rebuilt = base.clone();
    rebuilt[1500..1520].fill(b'x');
    (base, rebuilt)
}

/// Returns one frame of each sort.
pub(crate) fn frames() -> Vec<Frame> {
    let text = "the same words again, ".repeat(20);
    vec![
        encode(FrameKind::Chunks, &[text.as_bytes(), b"a second chunk", text.as_bytes()]),
        encode(FrameKind::Record, &[b"short"]),
        encode(FrameKind::Chunks, &[&noise(100, 1), &noise(1, 2)]),
        encode(FrameKind::Recipe, &[text.as_bytes()]),
    ]
}

/// A pack in memory, with what it should hold.
pub(crate) struct Pack {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<(u64, FrameEntry)>,
    /// Where the frames end and the footer begins.
    pub(crate) frames_end: u64,
}

pub(crate) fn pack(frames: Vec<Frame>) -> Pack {
    let (mut builder, header) = PackBuilder::new(ID);
    let mut bytes = header.to_vec();
    let mut entries = Vec::new();
    for frame in frames {
        let at = builder.push(&frame.entry);
        assert_eq!(at.offset, bytes.len() as u64);
        entries.push((at.offset, frame.entry));
        bytes.extend(frame.bytes);
    }
    let frames_end = bytes.len() as u64;
    assert_eq!(builder.len(), frames_end);
    let sealed_len = builder.sealed_len();
    bytes.extend(builder.finish());
    assert_eq!(bytes.len() as u64, sealed_len);
    Pack { bytes, frames: entries, frames_end }
}

/// Returns a function that reads from `bytes`, as an object would be read.
pub(crate) fn reader(bytes: &[u8]) -> impl Fn(u64, usize) -> io::Result<Vec<u8>> + '_ {
    move |offset, len| {
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        let read = rest.and_then(|rest| rest.get(..len));
        read.map(<[u8]>::to_vec).ok_or(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Writes the right checksum of `bytes[from..to]` behind it.
pub(crate) fn sum(bytes: &mut [u8], from: usize, to: usize) {
    let sum = xxh3_64(&bytes[from..to]);
    bytes[to..to + 8].copy_from_slice(&sum.to_le_bytes());
}

/// Changes a frame's header and corrects its checksum, so that the change itself must be noticed.
pub(crate) fn forge_frame(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let header_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
    sum(&mut bytes, 0, header_len - 8);
    bytes
}
