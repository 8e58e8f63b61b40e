//! The rules again, written to be obviously right rather than fast, and compared with what the crate does.

use fastcdc::v2020::{FastCDC, Normalization};
use firn_chunk::{ChunkerId, Input, Patch};
use firn_nix::nar::{Decoder, Event};
use proptest::prelude::*;

use crate::input::{BASE32, Random, bytes_of, cut, fragments, hashes, tree};

/// Normalises by the letter of the rule. Returns the bytes, the patches and the hashes of the slots.
fn normalise(original: &[u8]) -> (Vec<u8>, Vec<Patch>, Vec<Vec<u8>>) {
    let (mut bytes, mut patches, mut slots) = (original.to_vec(), Vec::new(), Vec::<Vec<u8>>::new());
    let mut at = 0;
    while at + 32 <= original.len() {
        let window = &original[at..at + 32];
        let is_hash = window.iter().all(|byte| BASE32.contains(byte));
        let is_reference = is_hash && original[..at].ends_with(b"/nix/store/") && original[at + 32..].starts_with(b"-");
        if is_reference && !slots.iter().any(|slot| slot == window) {
            slots.push(window.to_vec());
        }
        let Some(slot) = slots.iter().position(|slot| slot == window) else {
            at += 1;
            continue;
        };
        bytes[at..at + 32].fill(0);
        patches.push(Patch { position: at as u64, slot: u16::try_from(slot).expect("few slots") });
        at += 32;
    }
    (bytes, patches, slots)
}

/// Returns where cutting starts anew, and the end.
fn borders(nar: &[u8]) -> Vec<usize> {
    let mut borders = Vec::new();
    let mut on_event = |event: Event<'_>| {
        if let Event::Regular { offset, size, .. } = event
            && size >= 16_384
        {
            borders.extend([offset as usize, (offset + size) as usize]);
        }
    };
    Decoder::new().push(nar, &mut on_event).expect("it is a NAR");
    borders.push(nar.len());
    borders
}

/// Returns the lengths of the chunks of each stream that ends at a border.
fn lengths(normalised: &[u8], borders: &[usize]) -> Vec<usize> {
    let ChunkerId { min, avg, max, .. } = ChunkerId::CURRENT;
    let mut start = 0;
    let mut lengths = Vec::new();
    for &border in borders {
        let stream = &normalised[start..border];
        let cutter = FastCDC::with_level(stream, min as usize, avg as usize, max as usize, Normalization::Level2);
        lengths.extend(cutter.map(|chunk| chunk.length));
        start = border;
    }
    lengths
}

fn compare(input: Input, original: &[u8], borders: &[usize]) {
    let outcome = cut(input, original).expect("the input is right");
    let (normalised, patches, slots) = normalise(original);
    assert_eq!(outcome.cut.recipe.patches.iter().collect::<Vec<_>>(), patches);
    let found: Vec<_> = outcome.cut.slots.iter().map(|slot| slot.to_ascii().to_vec()).collect();
    assert_eq!(found, slots);
    assert!(outcome.normalised() == normalised);
    let found: Vec<_> = outcome.chunks.iter().map(|(_, data)| data.len()).collect();
    assert_eq!(found, lengths(&normalised, borders));
}

proptest! {
    #[test]
    fn bytes_are_normalised_by_the_rule(fragments in fragments(60)) {
        let bytes = bytes_of(&fragments, &hashes());
        compare(Input::Bytes, &bytes, &[bytes.len()]);
    }

    #[test]
    fn short_bytes_of_few_characters_are_normalised_by_the_rule(
        text in "(/nix/store/[ab]{31,33}-|[ab]{1,9}|-|/){0,12}", cut_off in 0_usize..40,
    ) {
        let bytes = &text.as_bytes()[..text.len().saturating_sub(cut_off)];
        compare(Input::Bytes, bytes, &[bytes.len()]);
    }

    #[test]
    fn nars_are_cut_by_the_rule(tree in tree()) {
        let nar = tree.nar(&hashes());
        compare(Input::Nar, &nar, &borders(&nar));
    }
}

#[test]
fn long_streams_are_cut_by_the_rule() {
    let mut random = Random(11);
    for (seed, zeros) in [(1, 0), (2, 600_000), (3, 100_001)] {
        let mut bytes = Random(seed).bytes(3_000_000);
        let at = usize::try_from(random.next() % 2_000_000).expect("small");
        bytes[at..at + zeros].fill(0);
        compare(Input::Bytes, &bytes, &[bytes.len()]);
    }
}

#[test]
fn a_cut_waits_for_the_largest_chunk() {
    // Zeros have no cut point, and the two characters move up to where bytes are normalised, step by step.
    for before in 0..32 {
        let bytes = [&vec![0; before][..], b"aa", &[0; 1_000_000]].concat();
        compare(Input::Bytes, &bytes, &[bytes.len()]);
    }
}

#[test]
fn a_reference_may_lie_anywhere_around_the_end_of_the_buffer() {
    // Zeros have no cut point: the chunk before the reference ends where the buffer (of 1 MiB) does.
    let slot = hashes()[0].clone();
    let reference = [b"/nix/store/", &slot[..], b"-", &slot[..]].concat();
    for before in 0..60 {
        let bytes = [vec![0; (1 << 20) - before], reference.clone(), vec![0; 1000]].concat();
        compare(Input::Bytes, &bytes, &[bytes.len()]);
    }
}

/// Looks only at what was found, for inputs small enough to see what should be.
fn found(input: &str) -> (Vec<(u64, u16)>, usize) {
    let outcome = cut(Input::Bytes, input.as_bytes()).expect("bytes of any kind are fine");
    assert_eq!(outcome.restore(), input.as_bytes());
    let patches = outcome.cut.recipe.patches.iter().map(|patch| (patch.position, patch.slot)).collect();
    (patches, outcome.cut.slots.len())
}

const A: &str = "00000000000000000000000000000000";
const B: &str = "11111111111111111111111111111111";

#[test]
fn what_only_looks_like_a_reference_stays() {
    assert_eq!(found(""), (vec![], 0));
    assert_eq!(found(A), (vec![], 0));
    assert_eq!(found(&format!("/nix/store/{A}")), (vec![], 0), "no dash at the end");
    assert_eq!(found(&format!("/nix/store/{A}/")), (vec![], 0));
    assert_eq!(found(&format!("/nix/store/{A}0-")), (vec![], 0), "33 characters");
    assert_eq!(found(&format!("/nix/store/{}-", &A[1..])), (vec![], 0), "31 characters");
    assert_eq!(found(&format!("nix/store/{A}-")), (vec![], 0));
    assert_eq!(found(&format!("/nix/stor/{A}-")), (vec![], 0));
    assert_eq!(found(&format!("/nix/store/{}e-", &A[1..])), (vec![], 0), "`e` is no base32");
    assert_eq!(found(&format!("/nix/store/{}Z-", &A[1..])), (vec![], 0));
}

#[test]
fn references_and_bare_occurrences_after_them_are_taken() {
    assert_eq!(found(&format!("/nix/store/{A}-")), (vec![(11, 0)], 1));
    assert_eq!(found(&format!("{A} /nix/store/{A}-{A}")), (vec![(44, 0), (77, 0)], 1), "not before, but at the end");
    assert_eq!(found(&format!("/nix/store/{A}-/nix/store/{B}-")), (vec![(11, 0), (55, 1)], 2));
    assert_eq!(
        found(&format!("/nix/store/{A}-/nix/store/{A}")),
        (vec![(11, 0), (55, 0)], 1),
        "bare, for want of a dash"
    );
    assert_eq!(found(&format!("/nix/store/{A}-1{A}{A}1")), (vec![(11, 0), (45, 0), (77, 0)], 1), "in a longer run");
    assert_eq!(found(&format!("/nix/store/{A}-{A}000")), (vec![(11, 0), (44, 0)], 1), "the first of several");
}
