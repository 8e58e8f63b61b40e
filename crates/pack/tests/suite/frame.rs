//! Frames: what goes in comes out, and nothing else is taken for a frame.

use firn_pack::{
    Codec, Error, FrameDecoder, FrameEncoder, FrameHead, FrameKind, FrameLoc, Item, MAX_FRAME_RAW, MAX_ITEMS, item_id,
};
use proptest::prelude::*;
use xxhash_rust::xxh3::xxh3_64;

use crate::sample::{ID, encode, forge_frame, frames, noise};

const KINDS: [FrameKind; 3] = [FrameKind::Chunks, FrameKind::Recipe, FrameKind::Record];

fn decode(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let frame = FrameDecoder::new()?.decode(bytes)?;
    Ok(frame.items().map(<[u8]>::to_vec).collect())
}

#[track_caller]
fn assert_corrupt(bytes: &[u8]) {
    match decode(bytes) {
        Err(Error::Corrupt { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_flipped_byte_is_found() {
    for frame in frames() {
        let mut bytes = frame.bytes;
        for at in 0..bytes.len() {
            for mask in [1, 2, 4, 8, 16, 32, 64, 128, 255, 85] {
                bytes[at] ^= mask;
                assert!(decode(&bytes).is_err(), "{mask} at {at}");
                bytes[at] ^= mask;
            }
        }
        decode(&bytes).unwrap();
    }
}

#[test]
fn frames_are_found_one_behind_the_other() {
    let frames = frames();
    let bytes = frames.iter().flat_map(|frame| frame.bytes.clone()).collect::<Vec<_>>();
    let mut rest = &bytes[..];
    for frame in &frames {
        let head = FrameHead::read(rest).unwrap();
        let entry = &frame.entry;
        assert_eq!(
            (head.kind, head.codec, head.len, head.raw_len),
            (entry.kind, entry.codec, entry.len, entry.raw_len)
        );
        assert_eq!((head.items as usize, head.bases), (entry.items.len(), 0));
        let (frame, after) = rest.split_at(head.len as usize);
        decode(frame).unwrap();
        rest = after;
    }
    assert!(matches!(FrameHead::read(rest), Err(Error::Corrupt { .. })));
    assert!((0..32).all(|len| FrameHead::read(&bytes[..len]).is_err()));
}

#[test]
fn every_other_length_is_found() {
    for frame in frames() {
        let mut bytes = frame.bytes;
        for len in 0..bytes.len() {
            assert_corrupt(&bytes[..len]);
        }
        bytes.push(0);
        assert_corrupt(&bytes);
    }
}

#[test]
fn what_is_no_frame_is_refused() {
    let mut encoder = FrameEncoder::new().unwrap();
    let mut refused = |data: &[u8], lens: &[u32], ids: usize| {
        let result = encoder.encode(FrameKind::Chunks, data, lens, &vec![[0; 32]; ids], 3);
        assert!(matches!(result, Err(Error::Invalid(_))), "{lens:?}, {ids}: {result:?}");
    };
    refused(b"", &[], 0);
    refused(b"abc", &[3], 0);
    refused(b"abc", &[3], 2);
    refused(b"abc", &[], 0);
    refused(b"abc", &[1, 1], 2);
    refused(b"abc", &[3, 1], 2);
    refused(b"abc", &[u32::MAX, 4], 2);
    refused(&[0; MAX_ITEMS + 1], &[1; MAX_ITEMS + 1], MAX_ITEMS + 1);
    refused(&vec![0; MAX_FRAME_RAW + 1], &[MAX_FRAME_RAW as u32 + 1], 1);
}

#[test]
fn codecs_and_kinds_to_come_are_not_damage() {
    let frame = encode(FrameKind::Chunks, &[b"item"]);
    for (at, value, field) in [(4, 0, "kind"), (4, 4, "kind"), (5, 5, "codec"), (5, 255, "codec")] {
        match decode(&forge_frame(&frame.bytes, |bytes| bytes[at] = value)) {
            Err(error @ Error::Unsupported { what: "frame", field: found, found: number }) => {
                assert_eq!((found, number), (field, value.into()));
                let expected =
                    format!("read a frame: its {field} is {value}, which this firn does not know: upgrade firn");
                assert_eq!(error.to_string(), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn lengths_that_do_not_agree_are_found() {
    let text = "the same words again, ".repeat(20);
    for frame in [encode(FrameKind::Chunks, &[text.as_bytes(), b"two"]), encode(FrameKind::Chunks, &[b"one", b"two"])] {
        let put = |at: usize, value: u32| {
            assert_corrupt(&forge_frame(&frame.bytes, |bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes())));
        };
        decode(&forge_frame(&frame.bytes, |_| ())).unwrap();
        let header_len = u32::from_le_bytes(frame.bytes[12..16].try_into().unwrap());
        put(8, 1);
        put(8, 0);
        put(8, 3);
        for wrong in [0, 8, 40, header_len - 4, header_len + 4] {
            let forged = {
                let mut bytes = frame.bytes.clone();
                bytes[12..16].copy_from_slice(&wrong.to_le_bytes());
                bytes
            };
            assert_corrupt(&forged);
        }
        for at in [16, 20, 32, 36] {
            let value = u32::from_le_bytes(frame.bytes[at..at + 4].try_into().unwrap());
            for wrong in [0, value - 1, value + 1, MAX_FRAME_RAW as u32, MAX_FRAME_RAW as u32 + 1, u32::MAX] {
                put(at, wrong);
            }
        }
        assert_corrupt(&forge_frame(&frame.bytes, |bytes| bytes[7] = 1));
    }
}

/// Returns a zstd frame with this payload and right checksums.
fn with_payload(payload: &[u8], raw_len: u32) -> Vec<u8> {
    let mut bytes = encode(FrameKind::Chunks, &[&[0; 1000]]).bytes[..44].to_vec();
    bytes.extend(payload);
    forge_frame(&bytes, |bytes| {
        bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[20..24].copy_from_slice(&raw_len.to_le_bytes());
        bytes[24..32].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        bytes[32..36].copy_from_slice(&raw_len.to_le_bytes());
    })
}

#[test]
fn payloads_that_lie_are_found() {
    let good = zstd::bulk::compress(&[0; 1000], 3).unwrap();
    assert_eq!(decode(&with_payload(&good, 1000)).unwrap(), [vec![0; 1000]]);

    assert_corrupt(&with_payload(&good, 999));
    assert_corrupt(&with_payload(&good, 1001));
    assert_corrupt(&with_payload(b"this is not zstd", 1000));
    assert_corrupt(&with_payload(&good[..good.len() - 1], 1000));
    assert_corrupt(&with_payload(&[&good[..], b"x"].concat(), 1000));
    assert_corrupt(&with_payload(&[&good[..], &good[..]].concat(), 1000));
    assert_corrupt(&with_payload(&[&good[..], &good[..]].concat(), 2000));
    // A bomb: a gibibyte in some bytes.
    let bomb = {
        let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_contentsize(true).unwrap();
        encoder.set_pledged_src_size(Some(1 << 30)).unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 1 << 30), &mut encoder).unwrap();
        encoder.finish().unwrap()
    };
    assert_corrupt(&with_payload(&bomb, 60 << 20));
    // Without a content size nobody knows what it would take.
    let unknown = {
        let mut encoder = zstd::bulk::Compressor::new(3).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.compress(&[0; 1000]).unwrap()
    };
    assert!(zstd::bulk::decompress(&unknown, 1000).is_ok());
    assert_corrupt(&with_payload(&unknown, 1000));
}

#[test]
fn what_does_not_compress_is_stored_as_it_is() {
    let item = noise(5000, 7);
    let frame = encode(FrameKind::Chunks, &[&item]);
    assert_eq!(frame.entry.codec, Codec::Raw);
    assert_eq!(frame.bytes.len(), 44 + 5000);
    assert_eq!(decode(&frame.bytes).unwrap(), [item]);

    // And the encoder goes on as if nothing had been.
    let mut encoder = FrameEncoder::new().unwrap();
    encoder.encode(FrameKind::Chunks, &noise(5000, 7), &[5000], &[[0; 32]], 3).unwrap();
    let after = encoder.encode(FrameKind::Chunks, &[0; 1000], &[1000], &[item_id(&[0; 1000])], 3).unwrap();
    assert_eq!(after, encode(FrameKind::Chunks, &[&[0; 1000]]));
}

#[test]
fn the_limits_themselves_are_allowed() {
    let many = encode(FrameKind::Record, &vec![&b"x"[..]; MAX_ITEMS]);
    assert_eq!(decode(&many.bytes).unwrap().len(), MAX_ITEMS);
    let frame = FrameLoc { pack: ID, offset: 40, len: many.entry.len };
    let last = many.entry.locations(frame).last().unwrap();
    assert_eq!((last.0, usize::from(last.1.index)), (item_id(b"x"), MAX_ITEMS - 1));
    assert_eq!(many.entry.locations(frame).count(), MAX_ITEMS);

    let large = vec![1; MAX_FRAME_RAW];
    let frame = encode(FrameKind::Recipe, &[&large]);
    assert!(FrameDecoder::new().unwrap().decode(&frame.bytes).unwrap().data == large);
}

#[test]
fn empty_items_are_items() {
    for items in [vec![&b""[..]], vec![b"", b"", b""], vec![b"", b"x", b""]] {
        assert_eq!(decode(&encode(FrameKind::Record, &items).bytes).unwrap(), items);
    }
}

#[test]
fn an_item_that_is_not_there_is_none() {
    let frame = FrameDecoder::new().unwrap().decode(&encode(FrameKind::Chunks, &[b"a", b"bc"]).bytes).unwrap();
    assert_eq!((frame.item(0), frame.item(1)), (Some(&b"a"[..]), Some(&b"bc"[..])));
    assert_eq!((frame.item(2), frame.item(usize::MAX)), (None, None));
}

fn any_item() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        (any::<u8>(), 0_usize..5000).prop_map(|(byte, len)| vec![byte; len]),
        (any::<u32>(), 0_usize..3000).prop_map(|(seed, len)| noise(len, seed)),
    ]
}

proptest! {
    #[test]
    fn decode_is_the_inverse(
        runs in prop::collection::vec((0_usize..3, prop::collection::vec(any_item(), 1..20), -5..=12), 1..4),
    ) {
        // One encoder and one decoder for all: nothing of an earlier frame may show in a later one.
        let (mut encoder, mut decoder) = (FrameEncoder::new().unwrap(), FrameDecoder::new().unwrap());
        for (kind, items, level) in runs {
            let data = items.concat();
            let lens: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
            let ids: Vec<_> = items.iter().map(|item| item_id(item)).collect();
            let frame = encoder.encode(KINDS[kind], &data, &lens, &ids, level).unwrap();
            let again = FrameEncoder::new().unwrap().encode(KINDS[kind], &data, &lens, &ids, level).unwrap();
            prop_assert_eq!(&frame, &again);

            prop_assert_eq!(frame.entry.kind, KINDS[kind]);
            prop_assert_eq!(frame.entry.len as usize, frame.bytes.len());
            prop_assert_eq!(frame.entry.raw_len as usize, data.len());
            let listed: Vec<_> = ids.iter().zip(&lens).map(|(&id, &len)| Item { id, len }).collect();
            prop_assert_eq!(&frame.entry.items, &listed);

            let decoded = decoder.decode(&frame.bytes).unwrap();
            prop_assert_eq!(decoded.kind, KINDS[kind]);
            prop_assert_eq!(decoded.items().collect::<Vec<_>>(), items);
            prop_assert_eq!(decoded.data, data);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode(&bytes).is_err());
    }

    #[test]
    fn any_damage_is_found(at in any::<prop::sample::Index>(), other in prop::collection::vec(any::<u8>(), 1..20)) {
        let bytes = encode(FrameKind::Chunks, &[&noise(300, 3), &[9; 3000]]).bytes;
        let mut damaged = bytes.clone();
        let at = at.index(bytes.len());
        let len = other.len().min(bytes.len() - at);
        damaged[at..at + len].copy_from_slice(&other[..len]);
        prop_assume!(damaged != bytes);
        prop_assert!(decode(&damaged).is_err());
    }
}

/// Items of words, in no order.
fn texts(lens: &[usize]) -> Vec<Vec<u8>> {
    let words = noise(lens.iter().sum(), 9);
    let mut words = words.iter().flat_map(|byte| format!("word {}, ", byte % 32).into_bytes());
    lens.iter().map(|len| words.by_ref().take(*len).collect()).collect()
}

#[test]
fn the_first_items_come_alone() {
    let items = texts(&[1000, 200_000, 50_000, 300_000, 1, 100_000]);
    let slices: Vec<&[u8]> = items.iter().map(Vec::as_slice).collect();
    let (prefix, ids) = (texts(&[30_000]).concat(), [item_id(b"a base")]);
    let lens: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    let item_ids: Vec<_> = items.iter().map(|item| item_id(item)).collect();
    let plain = encode(FrameKind::Chunks, &slices);
    let bases = firn_pack::Bases { ids: &ids, data: &prefix };
    let mut encoder = FrameEncoder::new().unwrap();
    let delta = encoder.encode_delta(&items.concat(), &lens, &item_ids, &bases, usize::MAX, 3).unwrap().unwrap();
    let mut decoder = FrameDecoder::new().unwrap();
    for (frame, prefix) in [(plain, &[][..]), (delta, &prefix)] {
        let whole = decoder.decode_delta(&frame.bytes, prefix).unwrap();
        assert!(whole.items().eq(slices.iter().copied()));
        // More than half of the frame is as dear as all of it.
        for (count, len) in [(0, 0), (1, 1000), (2, 201_000), (3, 251_000), (4, 651_001), (9, 651_001)] {
            let first = decoder.decode_first(&frame.bytes, prefix, count).unwrap();
            assert_eq!(first.data, whole.data[..len], "{count}");
            assert_eq!(first.ends, whole.ends);
            assert_eq!(first.item(count.min(5)).is_some(), len == whole.data.len(), "{count}");
        }
    }
}

#[test]
fn damage_behind_the_first_items_is_found_too() {
    let items = texts(&[1000, 9000]);
    let mut bytes = encode(FrameKind::Chunks, &[&items[0], &items[1]]).bytes;
    let mut decoder = FrameDecoder::new().unwrap();
    assert_eq!(decoder.decode_first(&bytes, &[], 1).unwrap().data, items[0]);
    for at in 0..bytes.len() {
        bytes[at] ^= 4;
        assert!(decoder.decode_first(&bytes, &[], 1).is_err(), "at {at}");
        bytes[at] ^= 4;
    }
    // A payload that was written short, and says so.
    let forged = |payload: &[u8]| {
        let header_len = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        forge_frame(&[&bytes[..header_len], payload].concat(), |frame| {
            frame[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
            frame[24..32].copy_from_slice(&xxh3_64(payload).to_le_bytes());
        })
    };
    let payload = zstd::bulk::compress(&items.concat(), 3).unwrap();
    assert!(decoder.decode_first(&forged(&payload), &[], 1).is_ok());
    let torn = forged(&payload[..payload.len() - 9]);
    assert!(matches!(decoder.decode_first(&torn, &[], 1), Err(Error::Corrupt { .. })));
}
