//! Footers: what a sealed pack says of itself.

use std::cell::RefCell;
use std::io;

use firn_pack::{
    Codec, Error, Footer, FrameEntry, FrameKind, FrameLoc, Item, PACK_HEADER_LEN, PackBuilder, TRAILER_LEN,
};
use proptest::prelude::*;

use crate::sample::{ID, Pack, frames, pack, reader, sum};

fn open(bytes: &[u8]) -> Result<Footer, Error> {
    Footer::open(reader(bytes), bytes.len() as u64)
}

#[track_caller]
fn assert_corrupt(bytes: &[u8]) {
    match open(bytes) {
        Err(Error::Corrupt { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sealed_pack_lists_its_frames() {
    let Pack { bytes, frames, .. } = pack(frames());
    assert_eq!(open(&bytes).unwrap(), Footer { id: ID, frames });
    assert_eq!(open(&pack(Vec::new()).bytes).unwrap(), Footer { id: ID, frames: Vec::new() });
}

#[test]
fn every_flipped_byte_of_the_footer_is_found() {
    let Pack { mut bytes, frames_end, .. } = pack(frames());
    for at in frames_end as usize..bytes.len() {
        for bit in 0..8 {
            bytes[at] ^= 1 << bit;
            let in_magic = at >= bytes.len() - 8;
            match open(&bytes) {
                Err(Error::NoFooter) if in_magic => {}
                Err(Error::Corrupt { .. }) if !in_magic => {}
                other => panic!("bit {bit} at {at}: {other:?}"),
            }
            bytes[at] ^= 1 << bit;
        }
    }
}

#[test]
fn a_pack_cut_anywhere_has_no_footer() {
    let Pack { bytes, .. } = pack(frames());
    for len in 0..bytes.len() {
        assert!(matches!(open(&bytes[..len]), Err(Error::NoFooter)), "{len}");
    }
}

#[test]
fn one_read_is_enough_for_most_and_two_for_all() {
    let record = |len| vec![crate::sample::encode(FrameKind::Record, &vec![&b"x"[..]; len])];
    for (items, calls) in [(10, 1), (1700, 1), (2000, 2), (60_000, 2)] {
        let Pack { bytes, frames, .. } = pack(record(items));
        let reads = RefCell::new(Vec::new());
        let read = |offset, len| {
            reads.borrow_mut().push((offset, len));
            reader(&bytes)(offset, len)
        };
        assert_eq!(Footer::open(read, bytes.len() as u64).unwrap().frames, frames);
        assert_eq!(reads.borrow().len(), calls, "{items} items: {reads:?}");
    }
}

#[test]
fn a_failed_read_is_neither_damage_nor_absence() {
    let Pack { bytes, .. } = pack(frames());
    let fails = |_, _| Err::<Vec<u8>, _>(io::Error::other("the disk is gone"));
    assert!(matches!(Footer::open(fails, bytes.len() as u64), Err(Error::Read { .. })));
    let short = |offset, len: usize| reader(&bytes)(offset, len - 1);
    assert!(matches!(Footer::open(short, bytes.len() as u64), Err(Error::Read { .. })));
    let long = |_, len: usize| Ok(vec![0; len + 1]);
    assert!(matches!(Footer::open(long, bytes.len() as u64), Err(Error::Read { .. })));
}

/// Changes the trailer, or the entries, and corrects the checksums.
fn forge(change: impl FnOnce(&mut [u8], usize, usize)) -> Vec<u8> {
    let Pack { mut bytes, frames_end, .. } = pack(frames());
    let (entries, trailer) = (frames_end as usize, bytes.len() - TRAILER_LEN);
    change(&mut bytes, entries, trailer);
    let entries_sum = xxhash_rust::xxh3::xxh3_64(&bytes[entries..trailer]);
    bytes[trailer + 32..trailer + 40].copy_from_slice(&entries_sum.to_le_bytes());
    sum(&mut bytes, trailer, trailer + 40);
    bytes
}

fn put<const N: usize>(bytes: &mut [u8], at: usize, value: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&value);
}

#[test]
fn trailers_that_lie_are_found() {
    open(&forge(|_, _, _| ())).unwrap();
    let entries_len = forge(|_, _, _| ()).len() - TRAILER_LEN - pack(frames()).frames_end as usize;
    for len in [0, 1, entries_len as u64 - 1, entries_len as u64 + 1, 1 << 30, u64::MAX] {
        assert_corrupt(&forge(|bytes, _, trailer| put(bytes, trailer + 16, len.to_le_bytes())));
    }
    for count in [0_u32, 3, 5, u32::MAX] {
        assert_corrupt(&forge(|bytes, _, trailer| put(bytes, trailer + 24, count.to_le_bytes())));
    }
    assert_corrupt(&forge(|bytes, _, trailer| put(bytes, trailer + 30, [1])));
    for version in [0_u16, 2, 65_535] {
        let result = open(&forge(|bytes, _, trailer| put(bytes, trailer + 28, version.to_le_bytes())));
        assert!(
            matches!(result, Err(Error::Unsupported { field: "version", found, .. }) if found == version.into()),
            "{result:?}"
        );
        let said = result.expect_err("it is not known").to_string();
        let expected =
            format!("read a pack's footer: its version is {version}, which this firn does not know: upgrade firn");
        assert_eq!(said, expected);
    }
}

#[test]
fn entries_that_lie_are_found() {
    // The first frame begins at 40; its entry is at the beginning of the entries.
    for offset in [0_u64, 39, 41, 1 << 40, u64::MAX] {
        assert_corrupt(&forge(|bytes, entries, _| put(bytes, entries, offset.to_le_bytes())));
    }
    for at in [8, 12, 16] {
        for value in [0_u32, 1, 65_536, u32::MAX] {
            assert_corrupt(&forge(|bytes, entries, _| put(bytes, entries + at, value.to_le_bytes())));
        }
    }
    assert_corrupt(&forge(|bytes, entries, _| put(bytes, entries + 22, [1])));
    assert_corrupt(&forge(|bytes, entries, _| put(bytes, entries + 23, [1])));
    for (at, field) in [(20, "kind"), (21, "codec")] {
        let result = open(&forge(|bytes, entries, _| put(bytes, entries + at, [9])));
        assert!(
            matches!(result, Err(Error::Unsupported { field: found, found: 9, .. }) if found == field),
            "{result:?}"
        );
    }
}

#[test]
fn sizes_are_known_before_sealing() {
    let (mut builder, header) = PackBuilder::new(ID);
    assert_eq!(header.len(), PACK_HEADER_LEN);
    assert_eq!((builder.len(), builder.unique_bytes(), builder.frames()), (40, 0, 0));
    let frames = frames();
    for frame in &frames {
        builder.push(&frame.entry);
    }
    let chunks = frames.iter().filter(|frame| frame.entry.kind == FrameKind::Chunks);
    let unique: u64 = chunks.map(|frame| u64::from(frame.entry.raw_len)).sum();
    assert_eq!((builder.unique_bytes(), builder.frames(), builder.id()), (unique, 4, ID));
    assert_eq!(builder.sealed_len(), builder.len() + builder.clone().finish().len() as u64);
}

#[test]
fn locations_are_in_order() {
    let Pack { frames, .. } = pack(frames());
    let (offset, entry) = &frames[0];
    let frame = FrameLoc { pack: ID, offset: *offset, len: entry.len };
    let found: Vec<_> = entry.locations(frame).collect();
    assert_eq!(found.len(), 3);
    for (index, (id, at)) in found.into_iter().enumerate() {
        assert_eq!((id, at.frame, usize::from(at.index)), (entry.items[index].id, frame, index));
    }
}

fn any_entry() -> impl Strategy<Value = FrameEntry> {
    let items = prop::collection::vec((any::<[u8; 32]>(), 0_u32..100_000), 1..30);
    let kind = prop_oneof![Just(FrameKind::Chunks), Just(FrameKind::Recipe), Just(FrameKind::Record)];
    (kind, items, any::<u32>()).prop_map(|(kind, items, payload)| {
        let items: Vec<_> = items.into_iter().map(|(id, len)| Item { id, len }).collect();
        let raw_len: u32 = items.iter().map(|item| item.len).sum();
        let payload = payload % (raw_len + 1);
        let codec = if payload == raw_len { Codec::Raw } else { Codec::Zstd };
        let len = 40 + 4 * items.len() as u32 + payload;
        FrameEntry { kind, codec, len, raw_len, items, bases: Vec::new() }
    })
}

proptest! {
    #[test]
    fn open_is_the_inverse(id in any::<[u8; 16]>(), entries in prop::collection::vec(any_entry(), 0..30)) {
        let (mut builder, _) = PackBuilder::new(firn_pack::PackId(id));
        let frames: Vec<_> = entries.into_iter().map(|entry| (builder.push(&entry).offset, entry)).collect();
        let mut bytes = vec![0; builder.len() as usize];
        bytes.extend(builder.finish());
        let footer = open(&bytes).unwrap();
        prop_assert_eq!(footer.id.0, id);
        prop_assert_eq!(footer.frames, frames);
    }

    #[test]
    fn any_bytes_are_opened_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(open(&bytes).is_err());
    }
}
