//! What the fuzz targets run: any bytes may be refused, but nothing may panic, take too much memory, or be
//! read as something that breaks the format's own rules.
//!
//! Checksums would stop nearly every input at the gate, so each target tries the bytes as they are and once more
//! with the right checksums put in.

use std::io;

use crate::layout::{
    FRAME_FIXED_LEN, FRAME_MAGIC, PACK_HEADER_LEN, PACK_VERSION, TRAILER_LEN, TRAILER_MAGIC, checksum, position, size,
};
use crate::{Chain, Footer, FrameDecoder, MAX_FRAME_RAW, PackBuilder, PackId, item_id, recover};

/// What the targets give for every base.
const BASE: &[u8] = b"a base that delta frames of the corpus have, with some words of theirs";

/// Decodes any bytes as a frame.
///
/// # Panics
/// When what was decoded is not consistent.
pub fn frame_decode(bytes: &[u8]) {
    decode(bytes);
    decode(&with_frame_checksums(bytes));
}

/// Opens and recovers any bytes as a pack.
///
/// # Panics
/// When what was opened or recovered is not consistent.
pub fn pack_open(bytes: &[u8]) {
    open(bytes);
    open(&with_trailer(bytes));

    let (_, header) = PackBuilder::new(PackId([0; 16]));
    let pack = [&header[..], &with_frame_checksums(bytes), bytes].concat();
    if let Ok(recovered) =
        recover(read(&pack), position(pack.len()), position(pack.len()), &mut |_| Ok(Some(BASE.to_vec())))
    {
        assert!(recovered.valid_len <= position(pack.len()));
        let mut sealed = pack;
        sealed.truncate(usize::try_from(recovered.valid_len).unwrap_or(usize::MAX));
        let frames = recovered.builder.frames();
        sealed.extend(recovered.builder.finish());
        let footer = Footer::open(read(&sealed), position(sealed.len())).expect("what was recovered can be sealed");
        assert_eq!(footer.frames.len(), size(frames));
        let mut decoder = FrameDecoder::new().expect("there is memory for zstd");
        let mut chain = Chain::default();
        for (offset, entry) in footer.frames {
            let bytes = read(&sealed)(offset, size(entry.len)).expect("frames lie in the pack");
            let mut bases = Vec::new();
            for id in &entry.bases {
                bases.extend(if *id == item_id(BASE) { BASE.to_vec() } else { continue });
            }
            if bases.len() != entry.bases.len() * BASE.len() {
                continue;
            }
            let prefix = if bases.is_empty() { chain.prefix_of(entry.codec) } else { &bases };
            let frame = decoder.decode_delta(&bytes, prefix).expect("a recovered frame is whole");
            chain.pass(entry.kind, entry.codec, Some(&frame.data));
            assert!(frame.items().map(item_id).eq(entry.items.iter().map(|item| item.id)));
        }
    }
}

fn decode(bytes: &[u8]) {
    let mut decoder = FrameDecoder::new().expect("there is memory for zstd");
    for bases in [&b""[..], BASE] {
        let Ok(frame) = decoder.decode_delta(bytes, bases) else { continue };
        assert!(frame.data.len() <= MAX_FRAME_RAW);
        assert_eq!(frame.items().count(), frame.ends.len());
        assert_eq!(frame.items().map(<[u8]>::len).sum::<usize>(), frame.data.len());
    }
}

fn open(bytes: &[u8]) {
    let len = position(bytes.len());
    if let Ok(footer) = Footer::open(read(bytes), len) {
        let mut free_from = position(PACK_HEADER_LEN);
        for (offset, entry) in footer.frames {
            assert!(offset >= free_from);
            free_from = offset + u64::from(entry.len);
            entry.check().expect("every entry keeps the rules");
        }
        assert!(free_from + position(TRAILER_LEN) <= len);
    }
}

fn read(bytes: &[u8]) -> impl Fn(u64, usize) -> io::Result<Vec<u8>> + '_ {
    move |offset, len| {
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..));
        rest.and_then(|rest| rest.get(..len)).map(<[u8]>::to_vec).ok_or(io::ErrorKind::UnexpectedEof.into())
    }
}

/// Makes the bytes' beginning a frame's header as far as magic, lengths and checksums go.
fn with_frame_checksums(bytes: &[u8]) -> Vec<u8> {
    let mut frame = bytes.to_vec();
    let items = usize::from(*bytes.get(8).unwrap_or(&0));
    let bases = usize::from(*bytes.get(6).unwrap_or(&0)) % 4;
    let head = crate::frame::header_len(items, bases);
    let Some(payload) = bytes.get(head..) else { return frame };
    let fields = [items, head, payload.len()].map(|n| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
    frame[..4].copy_from_slice(&FRAME_MAGIC);
    frame[6..8].copy_from_slice(&[u8::try_from(bases).unwrap_or(0), 0]);
    frame[8..20].copy_from_slice(fields.as_flattened());
    frame[24..FRAME_FIXED_LEN].copy_from_slice(&checksum(payload).to_le_bytes());
    let sum = checksum(&frame[..head - 8]);
    frame[head - 8..head].copy_from_slice(&sum.to_le_bytes());
    frame
}

/// Takes the bytes for the entries of a pack: the first two are the number of frames and the room before them.
fn with_trailer(bytes: &[u8]) -> Vec<u8> {
    let Some(([frames, room], entries)) = bytes.split_first_chunk() else { return Vec::new() };
    let mut pack = vec![0; PACK_HEADER_LEN + 64 * usize::from(*room)];
    pack.extend(entries);
    let start = pack.len();
    pack.extend([0; 16]);
    pack.extend(position(entries.len()).to_le_bytes());
    pack.extend(u32::from(*frames).to_le_bytes());
    pack.extend(PACK_VERSION.to_le_bytes());
    pack.extend([0; 2]);
    pack.extend(checksum(entries).to_le_bytes());
    let sum = checksum(&pack[start..]);
    pack.extend(sum.to_le_bytes());
    pack.extend(TRAILER_MAGIC);
    pack
}
