//! The fuzz targets, on whole frames and packs with a few changes.

use firn_pack::fuzz::{frame_decode, pack_open};
use proptest::prelude::*;

use crate::sample::{encode_delta, frames, pack};

/// Returns whole frames, packs and footers.
fn seeds() -> Vec<Vec<u8>> {
    let whole = pack(frames());
    let (frames_end, count) = (whole.frames_end as usize, whole.frames.len() as u8);
    let mut entries = vec![count, 7];
    entries.extend(&whole.bytes[frames_end..whole.bytes.len() - 56]);
    let mut seeds: Vec<_> = frames().into_iter().map(|frame| frame.bytes).collect();
    // With the base that the targets give.
    let base = b"a base that delta frames of the corpus have, with some words of theirs";
    seeds.push(encode_delta(&[&[&base[..], b"?"].concat()], &[base]).bytes);
    seeds.push(crate::filtered::frame(&crate::filtered::program(3)).bytes);
    seeds.extend([whole.bytes[40..frames_end].to_vec(), entries, whole.bytes]);
    seeds
}

proptest! {
    #[test]
    fn mutated_seeds_pass(
        seed in prop::sample::select(seeds()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in any::<prop::sample::Index>(),
        shorten in any::<bool>(),
    ) {
        let mut bytes = seed;
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if shorten {
            bytes.truncate(cut.index(bytes.len()));
        }
        frame_decode(&bytes);
        pack_open(&bytes);
    }
}
