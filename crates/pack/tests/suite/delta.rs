//! Delta frames: frames that need the bytes of other chunks.

use std::io;

use firn_pack::{
    Bases, Codec, Error, Footer, FrameDecoder, FrameEncoder, FrameKind, MAX_BASE_BYTES, MAX_BASES, frame_bases,
    item_id, recover, recover_behind,
};
use proptest::prelude::*;

use crate::sample::{base_and_rebuilt, encode, encode_delta, forge_frame, noise, pack, reader};

fn decode(frame: &[u8], bases: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let frame = FrameDecoder::new()?.decode_delta(frame, bases)?;
    Ok(frame.items().map(<[u8]>::to_vec).collect())
}

#[test]
fn a_few_other_bytes_cost_a_few_bytes() {
    let (base, rebuilt) = base_and_rebuilt();
    let frame = encode_delta(&[&rebuilt], &[&base]);
    assert_eq!(frame.entry.codec, Codec::Delta);
    assert_eq!(frame.entry.bases, [item_id(&base)]);
    assert!(frame.bytes.len() < 44 + 32 + 60, "{} bytes", frame.bytes.len());
    assert_eq!(frame_bases(&frame.bytes).unwrap(), [item_id(&base)]);
    assert_eq!(decode(&frame.bytes, &base).unwrap(), [rebuilt]);
}

#[test]
fn without_its_bases_it_is_not_damaged_but_unreadable() {
    let (base, rebuilt) = base_and_rebuilt();
    let frame = encode_delta(&[&rebuilt], &[&base]);
    assert!(matches!(FrameDecoder::new().unwrap().decode(&frame.bytes), Err(Error::NeedsBases)));
    // Another base gives an error or other items, which their ids tell.
    for wrong in [noise(3000, 6), base[1..].to_vec(), vec![0]] {
        match decode(&frame.bytes, &wrong) {
            Ok(items) => assert_ne!(items, std::slice::from_ref(&rebuilt)),
            Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
        }
    }
    let too_many = vec![0; MAX_BASE_BYTES + 1];
    assert!(matches!(decode(&frame.bytes, &too_many), Err(Error::Invalid(_))));
}

#[test]
fn every_flipped_byte_and_every_other_length_is_found() {
    let (base, rebuilt) = base_and_rebuilt();
    let mut bytes = encode_delta(&[&rebuilt], &[&base]).bytes;
    for at in 0..bytes.len() {
        assert!(decode(&bytes[..at], &base).is_err(), "cut at {at}");
        for mask in [1, 4, 32, 128, 255] {
            bytes[at] ^= mask;
            assert!(decode(&bytes, &base).is_err(), "{mask} at {at}");
            bytes[at] ^= mask;
        }
    }
}

#[test]
fn what_gains_too_little_is_none() {
    let (base, rebuilt) = base_and_rebuilt();
    let ids = [item_id(&rebuilt)];
    let base_ids = [item_id(&base)];
    let mut encoder = FrameEncoder::new().unwrap();
    let mut encode = |base: &[u8], limit| {
        let bases = Bases { ids: &base_ids, data: base };
        encoder.encode_delta(&rebuilt, &[3000], &ids, &bases, limit, 3).unwrap()
    };
    let payload = encode(&base, 3000).unwrap().bytes.len() - 44 - 32;
    assert!(encode(&base, payload).is_none());
    assert!(encode(&base, payload + 1).is_some());
    assert!(encode(&noise(3000, 8), usize::MAX).is_none());
    assert!(encode(&base, 0).is_none());
}

#[test]
fn wrong_numbers_of_bases_are_refused() {
    let mut encoder = FrameEncoder::new().unwrap();
    let mut refused = |ids: usize, data: usize| {
        let (ids, data) = (vec![[1; 32]; ids], vec![0; data]);
        let bases = Bases { ids: &ids, data: &data };
        let result = encoder.encode_delta(b"abc", &[3], &[[0; 32]], &bases, 3, 3);
        assert!(matches!(result, Err(Error::Invalid(_))), "{result:?}");
    };
    refused(0, 0);
    refused(1, 0);
    refused(0, 1);
    refused(MAX_BASES + 1, 100);
    refused(1, MAX_BASE_BYTES + 1);

    let (base, rebuilt) = base_and_rebuilt();
    let frame = encode_delta(&[&rebuilt], &[&base]);
    for (codec, kind) in [(0, 1), (1, 1), (2, 2), (2, 3)] {
        let forged = forge_frame(&frame.bytes, |bytes| bytes[4..6].copy_from_slice(&[kind, codec]));
        assert!(matches!(decode(&forged, &base), Err(Error::Corrupt { .. })), "{codec}, {kind}");
    }
    let alone = encode(FrameKind::Chunks, &[&[0; 1000]]);
    let forged = forge_frame(&alone.bytes, |bytes| bytes[5] = 2);
    assert!(matches!(decode(&forged, &base), Err(Error::Corrupt { .. })));
}

/// A frame with a base in the pack, and another with one elsewhere.
fn torn() -> (Vec<u8>, Vec<u8>, usize) {
    let (base, rebuilt) = base_and_rebuilt();
    let elsewhere = noise(2000, 9);
    let other = [&elsewhere[..], b"and more"].concat();
    let pack = pack(vec![
        encode(FrameKind::Chunks, &[&base]),
        encode_delta(&[&rebuilt], &[&base]),
        encode_delta(&[&other], &[&elsewhere]),
        encode(FrameKind::Record, &[b"the last"]),
    ]);
    (pack.bytes[..pack.frames_end as usize].to_vec(), elsewhere, pack.frames[2].0 as usize)
}

#[test]
fn recovery_finds_bases_in_the_pack_and_asks_for_others() {
    let (bytes, elsewhere, _) = torn();
    let mut asked = Vec::new();
    let mut chunk = |id: &[u8; 32]| {
        asked.push(*id);
        Ok(Some(elsewhere.clone()))
    };
    let recovered = recover(reader(&bytes), bytes.len() as u64, 0, &mut chunk).unwrap();
    assert_eq!(recovered.valid_len, bytes.len() as u64);
    assert_eq!(recovered.lost, []);
    assert_eq!(recovered.builder.frames(), 4);
    assert_eq!(asked, [item_id(&elsewhere)]);
}

#[test]
fn recovery_keeps_the_bytes_of_frames_whose_bases_are_gone() {
    let (bytes, _, at) = torn();
    let recovered = recover(reader(&bytes), bytes.len() as u64, 0, &mut |_| Ok(None)).unwrap();
    assert_eq!((recovered.valid_len, recovered.builder.len()), (bytes.len() as u64, bytes.len() as u64));
    assert_eq!((recovered.baseless.len(), &recovered.lost[..]), (1, &[][..]), "nothing is damaged");
    assert_eq!(recovered.baseless[0].start, at as u64);
    let failing = recover(reader(&bytes), bytes.len() as u64, 0, &mut |_| Err(io::ErrorKind::Other.into()));
    assert!(matches!(failing, Err(Error::Read { .. })));
    // The last frame is whole as well.
    let end = recovered.baseless[0].end;
    let last = recover(reader(&bytes[..end as usize]), end, 0, &mut |_| Ok(None)).unwrap();
    assert_eq!((last.valid_len, last.builder.len(), last.frames.len()), (end, end, 2));
    assert_eq!((last.baseless, &last.lost[..]), (recovered.baseless, &[][..]));
}

/// Delta frames before the frame that holds their bases, as a rewrite writes them; the second has another base elsewhere.
fn turned() -> (crate::sample::Pack, Vec<u8>) {
    let (base, rebuilt) = base_and_rebuilt();
    let elsewhere = noise(2000, 9);
    let both = [&rebuilt[..], &elsewhere, b"and more"].concat();
    let pack = pack(vec![
        encode_delta(&[&rebuilt], &[&base]),
        encode_delta(&[&both], &[&base, &elsewhere]),
        encode(FrameKind::Record, &[b"records"]),
        encode(FrameKind::Chunks, &[&noise(100, 3), &base]),
        encode(FrameKind::Record, &[b"the last"]),
    ]);
    (pack, elsewhere)
}

#[test]
fn recovery_finds_bases_behind_what_leans_on_them() {
    let (pack, elsewhere) = turned();
    let len = pack.frames_end;
    for durable in [0, len] {
        let recovered = recover(reader(&pack.bytes), len, durable, &mut |_| Ok(Some(elsewhere.clone()))).unwrap();
        assert_eq!((recovered.baseless, recovered.lost), (vec![], vec![]));
        assert_eq!(recovered.frames, pack.frames);
        assert_eq!(recovered.builder.finish(), pack.bytes[len as usize..]);
    }
    let recovered = recover(reader(&pack.bytes), len, len, &mut |_| Ok(None)).unwrap();
    let second = pack.frames[1].0..pack.frames[2].0;
    assert_eq!((recovered.baseless, recovered.lost, recovered.valid_len), (vec![second], vec![], len));
    assert_eq!(recovered.frames, [&pack.frames[..1], &pack.frames[2..]].concat());
}

#[test]
fn what_a_footer_leaves_out_for_want_of_bases_is_found_once_they_are_there() {
    let (pack, elsewhere) = turned();
    let end = pack.frames_end;
    let (second, fourth) = (pack.frames[1].0..pack.frames[2].0, pack.frames[3].0..pack.frames[4].0);
    for is_damaged in [false, true] {
        let mut bytes = pack.bytes[..end as usize].to_vec();
        if is_damaged {
            bytes[fourth.end as usize - 1] ^= 1;
        }
        let lost = if is_damaged { vec![fourth.clone()] } else { Vec::new() };
        let first = recover(reader(&bytes), end, end, &mut |_| Ok(None)).unwrap();
        assert_eq!(first.lost, lost);
        bytes.extend(first.builder.finish());
        let len = bytes.len() as u64;
        let footer = Footer::open(reader(&bytes), len).unwrap();
        assert!(!footer.gaps().is_empty());
        let again = recover_behind(reader(&bytes), &footer, len, &mut |_| Ok(None)).unwrap();
        assert_eq!((&again.frames, &again.lost), (&footer.frames, &lost));
        let waiting =
            if is_damaged { vec![pack.frames[0].0..second.start, second.clone()] } else { vec![second.clone()] };
        assert_eq!(again.baseless, waiting);
        let (base, _) = base_and_rebuilt();
        let mut all = |id: &[u8; 32]| Ok(Some(if *id == item_id(&base) { base.clone() } else { elsewhere.clone() }));
        let found = recover_behind(reader(&bytes), &footer, len, &mut all).unwrap();
        assert_eq!((found.baseless, &found.lost), (vec![], &lost));
        assert_eq!(found.frames.len(), pack.frames.len() - lost.len());
    }
}

proptest! {
    #[test]
    fn decode_is_the_inverse(
        base in prop::collection::vec(any::<u8>(), 200..2000),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
        level in -5..=12,
    ) {
        let mut item = base.clone();
        for (at, value) in changes {
            item[at.index(base.len())] = value;
        }
        let (ids, lens) = ([item_id(&item)], [item.len() as u32]);
        let base_ids = [item_id(&base)];
        let bases = Bases { ids: &base_ids, data: &base };
        let frame = FrameEncoder::new().unwrap().encode_delta(&item, &lens, &ids, &bases, usize::MAX, level).unwrap();
        if let Some(frame) = frame {
            prop_assert_eq!(decode(&frame.bytes, &base).unwrap(), [item]);
        }
    }
}
