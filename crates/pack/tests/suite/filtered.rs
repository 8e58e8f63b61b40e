//! Filtered frames: machine code and tables of programs, written so that they compress better.

use firn_pack::{Codec, Error, Footer, Frame, FrameDecoder, FrameEncoder, FrameKind, item_id, recover};

use crate::sample::{encode, forge_frame, noise, pack, reader};

/// Returns chunks of what could be a program: calls and loads of a few targets from many places, and relocations.
pub(crate) fn program(chunks: usize) -> Vec<Vec<u8>> {
    let mut code = Vec::new();
    let mut draw = noise(64_000, 3).into_iter();
    while code.len() < 48 << 10 {
        let [kind, target, fill] = [(); 3].map(|()| draw.next().unwrap());
        let target = 1_000_000 + 4096 * i32::from(target % 16);
        let opcode: &[u8] = if kind < 128 { &[0xe8] } else { &[0x48, 0x8b, 0x05] };
        code.extend(opcode);
        code.extend((target - i32::try_from(code.len()).unwrap() - 4).to_le_bytes());
        code.extend([0x48, 0x83, 0xc0, fill % 8]);
    }
    for row in 0..500_u64 {
        code.extend([0x3d_c000 + 8 * row, 8, 0x1000 + 16 * (row * row % 97)].map(u64::to_le_bytes).as_flattened());
    }
    code.extend(b"and some words behind them");
    let len = code.len().div_ceil(chunks);
    code.chunks(len).map(<[u8]>::to_vec).collect()
}

pub(crate) fn frame(chunks: &[Vec<u8>]) -> Frame {
    let lens: Vec<u32> = chunks.iter().map(|chunk| chunk.len() as u32).collect();
    let ids: Vec<_> = chunks.iter().map(|chunk| item_id(chunk)).collect();
    FrameEncoder::new().unwrap().encode_filtered(&chunks.concat(), &lens, &ids, 9).unwrap()
}

#[test]
fn a_program_takes_less_and_comes_back() {
    let chunks = program(7);
    let filtered = frame(&chunks);
    assert_eq!(filtered.entry.codec, Codec::Filtered);
    let plain = encode(FrameKind::Chunks, &chunks.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let [filtered_len, plain_len] = [&filtered, &plain].map(|frame| frame.bytes.len());
    assert!(filtered_len * 2 < plain_len, "{filtered_len} bytes instead of {plain_len}");
    let decoded = FrameDecoder::new().unwrap().decode(&filtered.bytes).unwrap();
    assert_eq!(decoded.items().collect::<Vec<_>>(), chunks);
    assert_eq!(firn_pack::FrameEntry::of(&filtered.bytes, &decoded).unwrap(), filtered.entry);
}

#[test]
fn its_first_chunks_come_out_right_wherever_segments_end() {
    for count in [2, 50, 499] {
        let chunks = program(count);
        let filtered = frame(&chunks);
        let mut decoder = FrameDecoder::new().unwrap();
        for wanted in (1..chunks.len()).step_by(1 + count / 30) {
            let decoded = decoder.decode_first(&filtered.bytes, &[], wanted).unwrap();
            assert!(decoded.items().count() >= wanted);
            assert!(decoded.items().eq(&chunks[..decoded.items().count()]), "{wanted} of {count}");
        }
    }
}

#[test]
fn what_is_no_program_is_stored_as_ever() {
    let text = "the same words again, ".repeat(2000).into_bytes();
    assert_eq!(frame(std::slice::from_ref(&text)), {
        let ids = [item_id(&text)];
        FrameEncoder::new().unwrap().encode(FrameKind::Chunks, &text, &[text.len() as u32], &ids, 9).unwrap()
    });
    assert_eq!(frame(&[noise(10_000, 1)]).entry.codec, Codec::Raw);
}

#[test]
fn every_flipped_byte_and_every_other_length_is_found() {
    let mut bytes = frame(&program(3)).bytes;
    let mut decoder = FrameDecoder::new().unwrap();
    for at in (0..bytes.len()).step_by(7) {
        assert!(decoder.decode(&bytes[..at]).is_err(), "cut at {at}");
        bytes[at] ^= 4;
        assert!(decoder.decode(&bytes).is_err(), "at {at}");
        bytes[at] ^= 4;
    }
}

/// Returns a filtered frame of one item of 1000 bytes, with this payload.
fn forged(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = encode(FrameKind::Chunks, &[&[0; 1000]]).bytes[..32 + 4 + 8].to_vec();
    bytes.extend(payload);
    forge_frame(&bytes, |bytes| {
        bytes[4..6].copy_from_slice(&[kind, 4]);
        bytes[16..20].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes[24..32].copy_from_slice(&xxhash_rust::xxh3::xxh3_64(payload).to_le_bytes());
    })
}

#[test]
fn a_list_of_filters_that_is_wrong_is_damage_and_an_unknown_filter_is_not() {
    let zstd = zstd::bulk::compress(&[7; 1000], 3).unwrap();
    let mut decoder = FrameDecoder::new().unwrap();
    let mut decode = |kind, list: &[u8]| decoder.decode(&forged(kind, &[list, &zstd].concat()));
    // Numbers of seven bits a byte: how many; of each its kind, the bytes before it, and its length.
    assert_eq!(decode(1, &[1, 4, 10, 90]).unwrap().data, [7; 1000]);
    let newer = decode(1, &[1, 99, 10, 90]).unwrap_err();
    assert!(matches!(newer, Error::Unsupported { field: "filter", found: 99, .. }), "{newer}");
    for list in [&[2, 4, 10, 90][..], &[1, 4, 10, 0x80 | 90, 127], &[255, 255, 255, 255, 15], &[]] {
        let error = decode(1, list).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{list:?}: {error}");
    }
    // Only chunks are filtered.
    let error = decode(3, &[1, 4, 10, 90]).unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error}");
}

#[test]
fn it_is_recovered_from_a_pack_without_footer() {
    let chunks = program(5);
    let pack = pack(vec![frame(&chunks), encode(FrameKind::Record, &[b"a record"])]);
    let torn = &pack.bytes[..pack.frames_end as usize];
    let recovered = recover(reader(torn), torn.len() as u64, 0, &mut |_| Ok(None)).unwrap();
    assert_eq!(recovered.valid_len, pack.frames_end);
    let sealed = [torn, &recovered.builder.finish()].concat();
    assert_eq!(Footer::open(reader(&sealed), sealed.len() as u64).unwrap().frames, pack.frames);
}
