//! A pack of version 1 as it was first written: what firn must be able to read for ever.

use std::fs;
use std::path::PathBuf;

use firn_pack::{
    Chain, Codec, Footer, Frame, FrameDecoder, FrameEncoder, FrameKind, PackBuilder, frame_bases, item_id, recover,
};

use crate::sample::{ID, base_and_rebuilt, encode, encode_delta, frames, noise, pack, reader};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Returns the golden pack. Set `FIRN_WRITE_GOLDEN` to write one that is missing: for a new version of the format,
/// under a new name. A golden file is never replaced.
fn golden() -> Vec<u8> {
    open("pack-v1.bin", frames)
}

fn open(name: &str, frames: fn() -> Vec<Frame>) -> Vec<u8> {
    if !file(name).exists() && std::env::var_os("FIRN_WRITE_GOLDEN").is_some() {
        fs::write(file(name), pack(frames()).bytes).unwrap();
    }
    fs::read(file(name)).expect("the golden pack is in the repository")
}

/// Returns a frame with a base, one that it is the base of, and one whose base is elsewhere.
fn delta_frames() -> Vec<Frame> {
    let (base, rebuilt) = base_and_rebuilt();
    let elsewhere = noise(2000, 9);
    vec![
        encode(FrameKind::Chunks, &[b"another", &base]),
        encode_delta(&[&rebuilt, b"small"], &[&base]),
        encode_delta(&[&[&elsewhere[..], b"and more"].concat()], &[&elsewhere, &base]),
    ]
}

#[test]
fn linked_frames_are_read() {
    let golden = open("pack-v1-linked.bin", || crate::linked::frames(3));
    let footer = Footer::open(reader(&golden), golden.len() as u64).unwrap();
    let (mut decoder, mut chain) = (FrameDecoder::new().unwrap(), Chain::default());
    for ((offset, entry), number) in footer.frames.iter().zip(0..) {
        assert_eq!((entry.kind, entry.codec == Codec::Linked), (FrameKind::Record, number > 0));
        let stored = &golden[*offset as usize..][..entry.len as usize];
        let frame = decoder.decode_delta(stored, chain.prefix_of(entry.codec)).unwrap();
        assert_eq!(frame.data, crate::linked::record(number));
        chain.push(entry.codec, &frame.data);
    }
    assert_eq!(footer.frames.len(), 3);
}

#[test]
fn filtered_frames_are_read() {
    let chunks = crate::filtered::program(2);
    let golden = open("pack-v1-filtered.bin", || vec![crate::filtered::frame(&crate::filtered::program(2))]);
    let footer = Footer::open(reader(&golden), golden.len() as u64).unwrap();
    let [(offset, entry)] = &footer.frames[..] else { panic!("it has {} frames", footer.frames.len()) };
    assert_eq!(entry.codec, Codec::Filtered);
    let stored = &golden[*offset as usize..][..entry.len as usize];
    assert_eq!(FrameDecoder::new().unwrap().decode(stored).unwrap().items().collect::<Vec<_>>(), chunks);
}

#[test]
fn delta_frames_are_read() {
    let golden = open("pack-v1-delta.bin", delta_frames);
    let footer = Footer::open(reader(&golden), golden.len() as u64).unwrap();
    let (base, rebuilt) = base_and_rebuilt();
    let elsewhere = noise(2000, 9);
    let expected = [
        (Codec::Raw, vec![], vec![b"another".to_vec(), base.clone()]),
        (Codec::Delta, vec![base.clone()], vec![rebuilt, b"small".to_vec()]),
        (Codec::Delta, vec![elsewhere.clone(), base], vec![[&elsewhere[..], b"and more"].concat()]),
    ];
    let mut decoder = FrameDecoder::new().unwrap();
    for ((offset, entry), (codec, bases, items)) in footer.frames.iter().zip(expected) {
        let ids: Vec<_> = bases.iter().map(|base| item_id(base)).collect();
        assert_eq!((entry.codec, &entry.bases), (codec, &ids));
        let stored = &golden[*offset as usize..][..entry.len as usize];
        assert_eq!(frame_bases(stored).unwrap(), ids);
        let frame = decoder.decode_delta(stored, &bases.concat()).unwrap();
        assert_eq!(frame.items().collect::<Vec<_>>(), items);
    }
}

#[test]
fn delta_frames_are_recovered() {
    let golden = open("pack-v1-delta.bin", delta_frames);
    let elsewhere = noise(2000, 9);
    let mut chunk = |id: &[u8; 32]| Ok((*id == item_id(&elsewhere)).then(|| elsewhere.clone()));
    let recovered = recover(reader(&golden), golden.len() as u64, 0, &mut chunk).unwrap();
    assert_eq!(golden[recovered.valid_len as usize..], recovered.builder.finish());
}

#[test]
fn is_read() {
    let text = "the same words again, ".repeat(20).into_bytes();
    let expected = [
        (FrameKind::Chunks, Codec::Zstd, vec![text.clone(), b"a second chunk".to_vec(), text.clone()]),
        (FrameKind::Record, Codec::Raw, vec![b"short".to_vec()]),
        (FrameKind::Chunks, Codec::Raw, vec![noise(100, 1), noise(1, 2)]),
        (FrameKind::Recipe, Codec::Zstd, vec![text]),
    ];
    let golden = golden();
    let footer = Footer::open(reader(&golden), golden.len() as u64).unwrap();
    assert_eq!(footer.id, ID);
    assert_eq!(footer.frames.len(), expected.len());
    let mut decoder = FrameDecoder::new().unwrap();
    for ((offset, entry), (kind, codec, items)) in footer.frames.iter().zip(expected) {
        assert_eq!((entry.kind, entry.codec), (kind, codec));
        let frame = decoder.decode(&golden[*offset as usize..][..entry.len as usize]).unwrap();
        assert_eq!(frame.kind, kind);
        assert_eq!(frame.items().collect::<Vec<_>>(), items);
        let ids: Vec<_> = items.iter().map(|item| item_id(item)).collect();
        assert_eq!(entry.items.iter().map(|item| item.id).collect::<Vec<_>>(), ids);
    }
}

/// The footer, the header and frames without zstd are the same bytes for ever; zstd's may change with its version.
#[test]
fn is_written() {
    let golden = golden();
    let footer = Footer::open(reader(&golden), golden.len() as u64).unwrap();
    let (mut builder, header) = PackBuilder::new(ID);
    assert_eq!(golden[..40], header);
    for (offset, entry) in &footer.frames {
        assert_eq!(builder.push(entry).offset, *offset);
    }
    assert_eq!(golden[builder.len() as usize..], builder.finish());
    let (offset, entry) = &footer.frames[1];
    let frame = FrameEncoder::new().unwrap().encode(FrameKind::Record, b"short", &[5], &[item_id(b"short")], 3);
    assert_eq!(golden[*offset as usize..][..entry.len as usize], frame.unwrap().bytes);
}

#[test]
fn is_recovered() {
    let golden = golden();
    let recovered = recover(reader(&golden), golden.len() as u64, 0, &mut |_| Ok(None)).unwrap();
    assert_eq!(golden[recovered.valid_len as usize..], recovered.builder.finish());
}
