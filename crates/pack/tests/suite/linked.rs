//! Linked frames: records that are compressed with those before them in the pack.

use firn_pack::{
    Chain, Codec, Error, Footer, Frame, FrameDecoder, FrameEncoder, FrameKind, MAX_CHAIN_BYTES, MAX_LINKS, item_id,
    recover,
};
use proptest::prelude::*;

use crate::sample::{encode, noise, pack, reader};

/// Returns a record that shares most of its bytes with the others, as paths of one closure do.
pub(crate) fn record(number: u32) -> Vec<u8> {
    [&noise(400, 1)[..], &noise(40, 100 + number)].concat()
}

fn encode_linked(items: &[&[u8]], chain: &mut Chain) -> Frame {
    let lens: Vec<u32> = items.iter().map(|item| item.len() as u32).collect();
    let ids: Vec<_> = items.iter().map(|item| item_id(item)).collect();
    let frame = FrameEncoder::new().unwrap().encode_linked(&items.concat(), &lens, &ids, chain, 9).unwrap();
    chain.push(frame.entry.codec, &items.concat());
    frame
}

/// Returns frames of one record each, of which the first stands alone.
pub(crate) fn frames(count: u32) -> Vec<Frame> {
    let mut chain = Chain::default();
    (0..count).map(|number| encode_linked(&[&record(number)], &mut chain)).collect()
}

fn codecs(frames: &[Frame]) -> Vec<Codec> {
    frames.iter().map(|frame| frame.entry.codec).collect()
}

#[test]
fn what_came_before_costs_nothing() {
    let frames = frames(3);
    assert_eq!(codecs(&frames), [Codec::Raw, Codec::Linked, Codec::Linked]);
    assert!(frames[2].bytes.len() < 44 + 40 + 30, "{} bytes", frames[2].bytes.len());
}

#[test]
fn it_is_read_behind_those_before_it_and_nowhere_else() {
    let frames = frames(3);
    let mut decoder = FrameDecoder::new().unwrap();
    assert!(matches!(decoder.decode(&frames[2].bytes), Err(Error::NeedsBases)));
    let mut chain = Chain::default();
    assert_eq!(chain.prefix_of(Codec::Linked), b"");
    for (frame, number) in frames.iter().zip(0..) {
        let decoded = decoder.decode_delta(&frame.bytes, chain.prefix_of(frame.entry.codec)).unwrap();
        assert_eq!(decoded.data, record(number));
        chain.push(frame.entry.codec, &decoded.data);
    }
    chain.tear();
    assert!(!chain.has_room());
    assert!(matches!(decoder.decode_delta(&frames[2].bytes, chain.prefix()), Err(Error::NeedsBases)));
}

#[test]
fn a_row_of_links_ends() {
    let frames = frames(2 * MAX_LINKS + 3);
    let alone: Vec<usize> = (0..frames.len()).filter(|&at| frames[at].entry.codec != Codec::Linked).collect();
    assert_eq!(alone, [0, MAX_LINKS as usize + 1, 2 * MAX_LINKS as usize + 2]);
}

#[test]
fn a_chain_holds_the_last_bytes_only() {
    let mut chain = Chain::default();
    chain.push(Codec::Raw, &noise(3 * MAX_CHAIN_BYTES, 1));
    assert_eq!(chain.prefix(), &noise(3 * MAX_CHAIN_BYTES, 1)[2 * MAX_CHAIN_BYTES..]);
    chain.push(Codec::Linked, b"and more");
    assert_eq!(chain.prefix().len(), MAX_CHAIN_BYTES);
    assert!(chain.prefix().ends_with(b"and more"));
    chain.push(Codec::Zstd, b"anew");
    assert_eq!(chain.prefix(), b"anew");
}

#[test]
fn damage_takes_the_links_behind_it_along_and_nothing_else() {
    let (mut chain, mut frames) = (Chain::default(), frames(3));
    frames.push(encode(FrameKind::Chunks, &[b"a chunk"]));
    // Another row begins, as after a frame that is better alone.
    frames.push(encode_linked(&[&record(7)], &mut chain));
    frames.push(encode_linked(&[&record(8)], &mut chain));
    let whole = pack(frames);
    let damaged_at = |at: usize| {
        let mut bytes = whole.bytes[..whole.frames_end as usize].to_vec();
        let (offset, entry) = &whole.frames[at];
        bytes[*offset as usize + entry.len as usize - 1] ^= 1;
        let recovered = recover(reader(&bytes), whole.frames_end, whole.frames_end, &mut |_| Ok(None)).unwrap();
        let lost: Vec<u64> = recovered.lost.iter().map(|range| range.start).collect();
        (0..whole.frames.len()).filter(|&at| lost.contains(&whole.frames[at].0)).collect::<Vec<_>>()
    };
    assert_eq!(damaged_at(0), [0, 1, 2]);
    assert_eq!(damaged_at(1), [1, 2]);
    assert_eq!(damaged_at(2), [2]);
    assert_eq!(damaged_at(3), [3]);
}

#[test]
fn recovery_finds_what_the_footer_said() {
    let whole = pack(frames(5));
    let recovered = recover(reader(&whole.bytes), whole.frames_end, 0, &mut |_| Ok(None)).unwrap();
    assert!(recovered.lost.is_empty());
    let mut sealed = whole.bytes[..whole.frames_end as usize].to_vec();
    sealed.extend(recovered.builder.finish());
    assert_eq!(sealed, whole.bytes);
    assert_eq!(Footer::open(reader(&sealed), sealed.len() as u64).unwrap().frames, whole.frames);
}

#[test]
fn only_records_are_linked() {
    let frames = frames(2);
    let forged = crate::sample::forge_frame(&frames[1].bytes, |bytes| bytes[4] = 1);
    let error = FrameDecoder::new().unwrap().decode_delta(&forged, &record(0)).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

proptest! {
    #[test]
    fn any_records_come_back(records in proptest::collection::vec((0..300_usize, 0..4_u32), 1..100)) {
        let (mut written, mut read) = (Chain::default(), Chain::default());
        let mut decoder = FrameDecoder::new().unwrap();
        for (len, seed) in records {
            let data = noise(len + 1, seed).repeat(1 + len % 5);
            let frame = encode_linked(&[&data], &mut written);
            let decoded = decoder.decode_delta(&frame.bytes, read.prefix_of(frame.entry.codec)).unwrap();
            prop_assert_eq!(&decoded.data, &data);
            read.push(frame.entry.codec, &decoded.data);
        }
    }
}
