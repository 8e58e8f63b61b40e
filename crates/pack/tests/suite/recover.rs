//! Recovery: exactly what was whole, whatever a crash or a bad disk did.

use std::io;
use std::ops::Range;

use firn_pack::{Error, Footer, FrameDecoder, FrameEntry, PackBuilder, Recovered, recover, recover_behind};
use proptest::prelude::*;

use crate::sample::{ID, Pack, encode, forge_frame, frames, noise, pack, reader, sum};

/// Recovers a pack of which nothing is known to have been durable: what is torn is cut.
fn run(bytes: &[u8]) -> Result<Recovered, Error> {
    recover(reader(bytes), bytes.len() as u64, 0, &mut |_| Ok(None))
}

/// Recovers a pack of which all was durable.
fn run_durable(bytes: &[u8]) -> Result<Recovered, Error> {
    recover(reader(bytes), bytes.len() as u64, bytes.len() as u64, &mut |_| Ok(None))
}

/// Returns the frames that the recovered pack would list, and checks that its numbers agree.
fn listed(bytes: &[u8], recovered: Recovered) -> Vec<(u64, FrameEntry)> {
    assert_eq!(recovered.builder.len(), recovered.valid_len);
    assert_eq!(recovered.builder.id(), ID);
    let mut sealed = bytes[..recovered.valid_len as usize].to_vec();
    sealed.extend(recovered.builder.finish());
    let footer = Footer::open(reader(&sealed), sealed.len() as u64).unwrap();
    let mut decoder = FrameDecoder::new().unwrap();
    for (offset, entry) in &footer.frames {
        let frame = &sealed[*offset as usize..][..entry.len as usize];
        assert_eq!(decoder.decode(frame).unwrap().kind, entry.kind);
    }
    footer.frames
}

/// Returns where a frame of the pack lies.
fn range((offset, entry): &(u64, FrameEntry)) -> Range<u64> {
    *offset..offset + u64::from(entry.len)
}

#[test]
fn every_cut_leaves_the_whole_frames_before_it() {
    let Pack { bytes, frames, .. } = pack(frames());
    for len in 0..=bytes.len() {
        let left = &bytes[..len];
        if len < 40 {
            assert!(matches!(run(left), Err(Error::NoHeader)), "{len}");
            continue;
        }
        let recovered = run(left).unwrap();
        assert_eq!(recovered.lost, []);
        let whole: Vec<_> = frames.iter().filter(|frame| range(frame).end <= len as u64).cloned().collect();
        assert_eq!(recovered.valid_len, whole.last().map_or(40, |frame| range(frame).end));
        assert_eq!(listed(left, recovered), whole, "cut to {len}");
    }
}

#[test]
fn a_torn_tail_of_other_bytes_is_cut() {
    let Pack { bytes, frames, frames_end } = pack(frames());
    let last = range(frames.last().unwrap());
    for keep in last.start..last.end {
        for tail in [vec![0; 5000], vec![255; 5000], noise(5000, 4)] {
            let mut torn = bytes[..keep as usize].to_vec();
            torn.extend(tail);
            let recovered = run(&torn).unwrap();
            assert_eq!((recovered.valid_len, &recovered.lost[..]), (last.start, &[][..]));
        }
    }
    let mut footer_torn = bytes[..frames_end as usize + 30].to_vec();
    footer_torn.extend([0; 500]);
    assert_eq!(listed(&footer_torn, run(&footer_torn).unwrap()), frames);
}

#[test]
fn a_sealed_pack_recovers_to_the_same_footer() {
    let Pack { bytes, frames_end, .. } = pack(frames());
    let recovered = run(&bytes).unwrap();
    assert_eq!(recovered.valid_len, frames_end);
    assert_eq!(recovered.builder.finish(), bytes[frames_end as usize..]);
}

#[test]
fn a_recovered_pack_goes_on() {
    let all = frames();
    let Pack { bytes, .. } = pack(all.clone());
    let second_end = 40 + all[0].bytes.len() + all[1].bytes.len();
    let torn = &bytes[..second_end + 10];
    let mut recovered = run(torn).unwrap();
    let mut object = torn[..recovered.valid_len as usize].to_vec();
    for frame in &all[2..] {
        recovered.builder.push(&frame.entry);
        object.extend(&frame.bytes);
    }
    assert_eq!(recovered.builder.unique_bytes(), {
        let (mut builder, _) = PackBuilder::new(ID);
        for frame in &all {
            builder.push(&frame.entry);
        }
        builder.unique_bytes()
    });
    object.extend(recovered.builder.finish());
    assert_eq!(object, bytes);
}

#[test]
fn a_damaged_payload_costs_its_frame_only() {
    let Pack { bytes, frames, .. } = pack(frames());
    for (number, frame) in frames.iter().enumerate() {
        let mut damaged = bytes.clone();
        damaged[range(frame).end as usize - 1] ^= 4;
        let recovered = run_durable(&damaged).unwrap();
        let mut left = frames.clone();
        left.remove(number);
        // The last frame is cut off like a torn one: the caller knows whether it had been durable.
        let lost = if number + 1 == frames.len() { vec![] } else { vec![range(frame)] };
        assert_eq!(recovered.lost, lost);
        assert_eq!(listed(&damaged, recovered), left);
    }
}

#[test]
fn damage_beside_damage_is_lost_as_well() {
    let Pack { bytes, frames, .. } = pack(frames());
    let mut damaged = bytes;
    for frame in &frames[1..3] {
        damaged[range(frame).end as usize - 1] ^= 4;
    }
    let recovered = run_durable(&damaged).unwrap();
    assert_eq!(recovered.lost, [range(&frames[1]), range(&frames[2])]);
    assert_eq!(listed(&damaged, recovered), [frames[0].clone(), frames[3].clone()]);
}

/// A loss of power takes any page of what was not synced, and leaves others behind it.
#[test]
fn what_was_not_durable_ends_where_the_first_frame_is_not_whole() {
    let Pack { bytes, frames, .. } = pack(frames());
    for (durable, torn) in (0..=frames.len()).flat_map(|durable| (0..frames.len()).map(move |torn| (durable, torn))) {
        let what = format!("frame {torn}, {durable} durable");
        let durable_len = frames.get(durable).map_or(bytes.len() as u64, |frame| frame.0);
        let mut damaged = bytes.clone();
        damaged[range(&frames[torn]).end as usize - 1] ^= 4;
        let recovered = recover(reader(&damaged), bytes.len() as u64, durable_len, &mut |_| Ok(None)).unwrap();
        let (mut left, mut lost) = (frames.clone(), Vec::new());
        if torn >= durable || torn + 1 == frames.len() {
            left.truncate(torn);
        } else {
            lost.push(range(&left.remove(torn)));
        }
        assert_eq!((&recovered.frames, &recovered.lost), (&left, &lost), "{what}");
        assert_eq!(recovered.valid_len, left.last().map_or(40, |frame| range(frame).end), "{what}");
        assert_eq!(listed(&damaged, recovered), left, "{what}");
    }
}

#[test]
fn a_damaged_header_ends_what_was_not_durable_and_costs_only_its_frame_in_what_was() {
    let Pack { mut bytes, frames, .. } = pack(frames());
    for (number, frame) in frames[..3].iter().enumerate() {
        let mut left = frames.clone();
        left.remove(number);
        for byte in frame.0 as usize..frame.0 as usize + 44 {
            bytes[byte] ^= 1;
            let recovered = run(&bytes).unwrap();
            assert_eq!((recovered.valid_len, &recovered.lost[..]), (frame.0, &[][..]), "byte {byte} of {number}");
            let recovered = run_durable(&bytes).unwrap();
            assert_eq!(recovered.lost, [range(frame)], "byte {byte} of {number}");
            assert_eq!(listed(&bytes, recovered), left, "byte {byte} of {number}");
            bytes[byte] ^= 1;
        }
    }
}

#[test]
fn frames_are_found_behind_damage_of_any_length() {
    let Pack { bytes, frames, .. } = pack(frames());
    for (number, frame) in frames[..3].iter().enumerate() {
        for len in [1, 7, 45, 200] {
            let mut damaged = bytes.clone();
            let end = (frame.0 as usize + len).min(range(frame).end as usize);
            damaged[frame.0 as usize..end].fill(0xa5);
            let recovered = run_durable(&damaged).unwrap();
            assert_eq!(recovered.lost, [range(frame)], "{len} of {number}");
            assert_eq!(listed(&damaged, recovered).len(), frames.len() - 1, "{len} of {number}");
        }
    }
    let last = range(frames.last().unwrap());
    let mut damaged = bytes.clone();
    damaged[last.start as usize] ^= 1;
    let recovered = run_durable(&damaged).unwrap();
    assert_eq!((recovered.valid_len, &recovered.lost[..]), (last.start, &[][..]), "nothing is behind the last one");
}

#[test]
fn a_frame_inside_of_another_is_none_while_the_header_tells_how_long_that_is() {
    let inner = encode(firn_pack::FrameKind::Record, &[b"what somebody uploaded"]);
    let outer = encode(firn_pack::FrameKind::Chunks, &[&noise(500, 3), &inner.bytes, &noise(500, 4)]);
    let Pack { mut bytes, frames, .. } = pack(vec![outer, encode(firn_pack::FrameKind::Recipe, &[b"a recipe"])]);
    // The checksum of the payload, in the header.
    bytes[40 + 24] ^= 1;
    let recovered = run_durable(&bytes).unwrap();
    assert_eq!(recovered.lost, [range(&frames[0])]);
    assert_eq!(listed(&bytes, recovered), frames[1..]);
}

#[test]
fn a_frame_that_was_torn_is_not_searched() {
    let inner = encode(firn_pack::FrameKind::Record, &[b"what somebody uploaded"]);
    let outer = encode(firn_pack::FrameKind::Chunks, &[&noise(500, 3), &inner.bytes, &noise(500, 4)]);
    let Pack { bytes, frames, frames_end } = pack(vec![encode(firn_pack::FrameKind::Recipe, &[b"a recipe"]), outer]);
    let recovered = run_durable(&bytes[..frames_end as usize - 1]).unwrap();
    assert_eq!((recovered.valid_len, &recovered.lost[..]), (frames[1].0, &[][..]));
}

#[test]
fn what_looks_like_headers_costs_no_more_than_a_few_readings() {
    // Each place looks like the header of a frame of many items: 200,000 bytes to sum.
    let mut header = [&b"\xf1RNf\x01\x00\x00\x00"[..], &50_000_u32.to_le_bytes(), &200_040_u32.to_le_bytes()].concat();
    header.extend([0; 16]);
    let (_, start) = PackBuilder::new(ID);
    let bytes = [&start[..], &header.repeat(20_000)].concat();
    let read = std::cell::Cell::new(0);
    let counted = |offset, len| {
        read.set(read.get() + len);
        reader(&bytes)(offset, len)
    };
    let recovered = recover(counted, bytes.len() as u64, bytes.len() as u64, &mut |_| Ok(None)).unwrap();
    assert_eq!(recovered.builder.frames(), 0);
    assert!(read.get() < 12 * bytes.len(), "{} of {}", read.get(), bytes.len());
}

#[test]
fn what_a_footer_does_not_list_is_found() {
    let Pack { bytes, frames, frames_end } = pack(frames());
    // As recovery once sealed a pack whose second frame has a damaged header.
    let mut damaged = bytes[..frames_end as usize].to_vec();
    damaged[frames[1].0 as usize + 1] ^= 1;
    let short = run(&damaged).unwrap().builder;
    assert_eq!(short.frames(), 1);
    damaged.extend(short.finish());
    let footer = Footer::open(reader(&damaged), damaged.len() as u64).unwrap();
    assert_eq!((footer.gaps(), footer.unlisted_bytes(damaged.len() as u64)), (vec![], frames_end - frames[1].0));
    let found = recover_behind(reader(&damaged), &footer, damaged.len() as u64, &mut |_| Ok(None)).unwrap();
    assert_eq!(found.lost, [range(&frames[1])]);
    damaged.extend(found.builder.finish());
    let footer = Footer::open(reader(&damaged), damaged.len() as u64).unwrap();
    assert_eq!(footer.frames, [&frames[..1], &frames[2..]].concat());
    assert_eq!(footer.gaps(), [range(&frames[1])]);
    assert!(footer.unlisted_bytes(damaged.len() as u64) > 0, "the first footer");
    let whole = Footer::open(reader(&bytes), bytes.len() as u64).unwrap();
    assert_eq!((whole.gaps(), whole.unlisted_bytes(bytes.len() as u64)), (vec![], 0));
}

#[test]
fn packs_without_a_header_hold_nothing() {
    let Pack { mut bytes, .. } = pack(frames());
    assert!(matches!(run(&[]), Err(Error::NoHeader)));
    assert!(matches!(run(&[0; 5000]), Err(Error::NoHeader)));
    for at in 0..40 {
        bytes[at] ^= 1;
        assert!(matches!(run(&bytes), Err(Error::Corrupt { .. })), "{at}");
        bytes[at] ^= 1;
    }
    bytes[10] = 1;
    sum(&mut bytes, 0, 32);
    assert!(matches!(run(&bytes), Err(Error::Corrupt { .. })), "reserved bytes");
    bytes[10] = 0;
    bytes[8] = 2;
    sum(&mut bytes, 0, 32);
    let error = run(&bytes).expect_err("it is not known");
    assert!(matches!(error, Error::Unsupported { field: "version", found: 2, .. }), "{error:?}");
    assert_eq!(
        error.to_string(),
        "read a pack's header: its version is 2, which this firn does not know: upgrade firn"
    );
}

#[test]
fn what_a_newer_firn_wrote_is_not_cut_off() {
    for at in [4, 5] {
        let mut newer = encode(firn_pack::FrameKind::Chunks, &[b"in a way to come"]);
        newer.bytes = forge_frame(&newer.bytes, |bytes| bytes[at] = 9);
        let mut all = frames();
        all.insert(1, newer);
        let result = run(&pack(all).bytes);
        assert!(matches!(result, Err(Error::Unsupported { what: "frame", found: 9, .. })), "{result:?}");
    }
}

#[test]
fn a_failed_read_is_no_tear() {
    let Pack { bytes, frames, .. } = pack(frames());
    let reads = 1 + 2 * frames.len() + 1;
    for fails_at in 0..reads {
        let count = std::cell::Cell::new(0);
        let read = |offset, len| {
            count.set(count.get() + 1);
            if count.get() > fails_at { Err(io::Error::other("the disk is gone")) } else { reader(&bytes)(offset, len) }
        };
        let recovered = recover(read, bytes.len() as u64, 0, &mut |_| Ok(None));
        assert!(matches!(recovered, Err(Error::Read { .. })), "{fails_at}");
    }
}

proptest! {
    /// Whatever is damaged, what is recovered was written, and lies where it lay.
    #[test]
    fn only_what_was_written_is_recovered(
        at in any::<prop::sample::Index>(),
        other in prop::collection::vec(any::<u8>(), 1..100),
        cut in any::<prop::sample::Index>(),
    ) {
        let Pack { mut bytes, frames, frames_end } = pack(frames());
        let at = at.index(bytes.len() - 40) + 40;
        let damaged = at..(at + other.len()).min(bytes.len());
        let len = damaged.len();
        bytes[damaged.clone()].copy_from_slice(&other[..len]);
        bytes.truncate((frames_end as usize).max(cut.index(bytes.len())));
        let (start, end) = (damaged.start as u64, damaged.end as u64);
        let before = |frame: &&(u64, FrameEntry)| range(frame).end <= start;
        let behind = |frame: &&(u64, FrameEntry)| range(frame).start >= end && range(frame).end <= bytes.len() as u64;
        let edges: Vec<u64> = frames.iter().flat_map(|frame| [range(frame).start, range(frame).end]).collect();
        for recovered in [run(&bytes).unwrap(), run_durable(&bytes).unwrap()] {
            let lost = recovered.lost.clone();
            let found = listed(&bytes, recovered);
            prop_assert!(frames.iter().filter(before).all(|frame| found.contains(frame)));
            prop_assert!(found.iter().all(|frame| frames.contains(frame)));
            prop_assert!(lost.iter().all(|lost| edges.contains(&lost.start) && edges.contains(&lost.end)));
        }
        let found = listed(&bytes, run_durable(&bytes).unwrap());
        prop_assert!(frames.iter().filter(behind).all(|frame| found.contains(frame)));
    }

    #[test]
    fn any_bytes_are_recovered_or_refused(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_, header) = PackBuilder::new(ID);
        for recovered in [run(&[&header[..], &tail].concat()).unwrap(), run_durable(&[&header[..], &tail].concat()).unwrap()] {
            prop_assert_eq!(recovered.valid_len, 40);
        }
    }
}
