//! Delta frames: frames that need the bytes of other chunks.

use std::io;

use firn_pack::{
    Bases, Codec, Error, FrameDecoder, FrameEncoder, FrameKind, MAX_BASE_BYTES, MAX_BASES, frame_bases, item_id,
    recover,
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
    assert_eq!(recovered.valid_len, bytes.len() as u64);
    assert_eq!(recovered.lost.len(), 1);
    assert_eq!(recovered.lost[0].start, at as u64);
    let failing = recover(reader(&bytes), bytes.len() as u64, 0, &mut |_| Err(io::ErrorKind::Other.into()));
    assert!(matches!(failing, Err(Error::Read { .. })));
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
