//! A pack of version 1 as it was first written: what firn must be able to read for ever.

use std::fs;
use std::path::PathBuf;

use firn_pack::{Codec, Footer, FrameDecoder, FrameEncoder, FrameKind, PackBuilder, item_id, recover};

use crate::sample::{ID, frames, noise, pack, reader};

fn file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pack-v1.bin")
}

/// Returns the golden pack. Set `FIRN_WRITE_GOLDEN` to write one that is missing: for a new version of the format,
/// under a new name. A golden file is never replaced.
fn golden() -> Vec<u8> {
    if !file().exists() && std::env::var_os("FIRN_WRITE_GOLDEN").is_some() {
        fs::write(file(), pack(frames()).bytes).unwrap();
    }
    fs::read(file()).expect("the golden pack is in the repository")
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
    let recovered = recover(reader(&golden), golden.len() as u64).unwrap();
    assert_eq!(golden[recovered.valid_len as usize..], recovered.builder.finish());
}
