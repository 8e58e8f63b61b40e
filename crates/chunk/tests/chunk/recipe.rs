//! One recipe has one encoding, and nothing else is read.

use firn_chunk::{ChunkId, ChunkRef, ChunkerId, Error, Input, Patches, Recipe, RecipeId};
use proptest::prelude::*;

use crate::input::{bytes_of, cut, fragments, hashes, tree};

/// Offset of the number of chunks; their ids follow.
const COUNT_AT: usize = 28;
const IDS_AT: usize = 32;

/// A recipe of 300 + 5 bytes in two chunks, with these bytes after the ids.
fn encoding(after_ids: &[u8]) -> Vec<u8> {
    let mut bytes = b"FRCP\x01\x00\x01\x00".to_vec();
    for size in [16_u32 << 10, 64 << 10, 256 << 10] {
        bytes.extend(size.to_le_bytes());
    }
    bytes.extend(305_u64.to_le_bytes());
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend([1; 32]);
    bytes.extend([2; 32]);
    bytes.extend(after_ids);
    bytes
}

const LENGTHS: &[u8] = &[0xac, 0x02, 0x05];

fn with_patches(patches: &[u8]) -> Vec<u8> {
    encoding(&[LENGTHS, patches].concat())
}

fn set(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = with_patches(&[0, 0]);
    bytes[at..at + value.len()].copy_from_slice(value);
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    let error = Recipe::decode(bytes).expect_err("it is not canonical");
    assert!(matches!(error, Error::Corrupt { .. }));
    assert_eq!(error.to_string(), format!("decode a recipe: {expected}"));
}

#[test]
fn a_wrong_header_is_refused() {
    refused(b"", "an early end at byte 0");
    refused(&set(0, b"X"), "not a recipe's magic at byte 0");
    refused(&set(4, &[0]), "a version that there never was at byte 4");
    refused(&set(5, &[2]), "an unknown kind of input at byte 5");
    refused(&set(8, &[0; 4]), "impossible chunk sizes at byte 6");
    refused(&set(12, &[0; 4]), "impossible chunk sizes at byte 6");
    refused(&set(16, &[255; 4]), "impossible chunk sizes at byte 6");
}

#[test]
fn a_recipe_of_a_newer_firn_is_told_from_damage() {
    for version in [2, 255] {
        let error = Recipe::decode(&set(4, &[version])).expect_err("it is not known");
        assert!(matches!(error, Error::TooNew { found, known: 1 } if found == version), "{error:?}");
        let expected = format!("decode a recipe: its version is {version}, and this firn knows up to 1: upgrade firn");
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_number_of_chunks_that_cannot_be_is_refused() {
    for count in [0x0010_0001, u32::MAX, 4] {
        refused(&set(COUNT_AT, &count.to_le_bytes()), "too many chunks at byte 28");
    }
    refused(&encoding(&[]), "too many chunks at byte 28");
    refused(&encoding(&[0xac, 2]), "a wrong length of a chunk at byte 98");
}

#[test]
fn lengths_that_do_not_add_up_are_refused() {
    refused(&encoding(&[0xac, 0x82, 0x00, 5]), "a wrong length of a chunk at byte 96");
    refused(&encoding(&[0xb1, 2, 0]), "a wrong length of a chunk at byte 98");
    refused(&encoding(&[0xac, 2, 6]), "a wrong length of a chunk at byte 98");
    refused(&encoding(&[0xac, 2, 4, 0, 0]), "chunks that are shorter than the input at byte 99");
    let mut bytes = set(20, &(u64::from(ChunkerId::CURRENT.max) + 2).to_le_bytes());
    bytes.truncate(IDS_AT + 64);
    bytes.extend([0x81, 0x80, 0x10, 1]);
    refused(&bytes, "a wrong length of a chunk at byte 96");
    refused(&set(20, &u64::MAX.to_le_bytes()), "chunks that are shorter than the input at byte 99");
}

#[test]
fn patches_that_are_not_in_order_and_inside_are_refused() {
    refused(&with_patches(&[0x80]), "a patch whose position is no number at byte 99");
    refused(&with_patches(&[0x80, 0, 0]), "a patch whose position is no number at byte 99");
    refused(&with_patches(&[3]), "a patch whose slot is no number at byte 99");
    refused(&with_patches(&[3, 0x80, 0]), "a patch whose slot is no number at byte 99");
    refused(&with_patches(&[3, 0x80, 0x80, 4]), "a patch with too high a slot at byte 99");
    refused(&with_patches(&[3, 1]), "a patch that is one too many, out of order or skips a slot at byte 99");
    refused(&with_patches(&[3, 0, 3, 2]), "a patch that is one too many, out of order or skips a slot at byte 101");
    refused(&with_patches(&[0x92, 2, 0]), "a patch behind the input's end at byte 99");
    refused(&with_patches(&[0, 0, 0xf2, 1, 0]), "a patch behind the input's end at byte 101");
    let most = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
    refused(&with_patches(&most), "a patch that is one too many, out of order or skips a slot at byte 99");
    refused(&with_patches(&[&[0, 0], &most[..]].concat()), "a patch behind the input's end at byte 101");
}

#[test]
fn what_an_encoding_says_is_read() {
    let bytes = with_patches(&[3, 0, 0, 1, 0xce, 1, 0]);
    let recipe = Recipe::decode(&bytes).expect("it is canonical");
    assert_eq!((recipe.input, recipe.chunker, recipe.length), (Input::Nar, ChunkerId::CURRENT, 305));
    let chunks = [ChunkRef { id: ChunkId([1; 32]), len: 300 }, ChunkRef { id: ChunkId([2; 32]), len: 5 }];
    assert_eq!(recipe.chunks, chunks);
    let patches: Vec<_> = recipe.patches.iter().map(|patch| (patch.position, patch.slot)).collect();
    assert_eq!(patches, [(3, 0), (35, 1), (273, 0)]);
    assert_eq!((recipe.patches.len(), recipe.patches.slot_count(), recipe.patches.end()), (3, 2, 305));
    assert_eq!(recipe.encode(), bytes);
    assert_eq!(recipe.id(), RecipeId::of(&bytes));
}

#[test]
fn the_smallest_recipe_has_a_header_only() {
    let (input, chunker) = (Input::Bytes, ChunkerId::CURRENT);
    let recipe = Recipe { input, chunker, length: 0, chunks: Vec::new(), patches: Patches::default() };
    assert_eq!(recipe.encode().len(), IDS_AT);
    assert_eq!(Recipe::decode(&recipe.encode()).expect("it is canonical"), recipe);
}

/// Bytes either are refused or are the encoding of what they decode to.
fn is_canonical_or_refused(bytes: &[u8]) -> bool {
    Recipe::decode(bytes).map_or(true, |recipe| recipe.encode() == bytes)
}

#[test]
fn no_damage_gives_a_second_spelling() {
    let bytes = with_patches(&[3, 0, 0, 1, 0xce, 1, 0]);
    for end in 0..bytes.len() {
        assert!(is_canonical_or_refused(&bytes[..end]), "cut off at {end}");
    }
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            assert!(is_canonical_or_refused(&damaged), "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded(fragments in fragments(60)) {
        let recipe = cut(Input::Bytes, &bytes_of(&fragments, &hashes())).expect("bytes of any kind are fine").cut.recipe;
        let bytes = recipe.encode();
        prop_assert_eq!(Recipe::decode(&bytes).expect("it is canonical"), recipe);
    }

    #[test]
    fn a_recipe_that_is_cut_off_loses_at_most_whole_patches(tree in tree(), end in any::<prop::sample::Index>()) {
        let recipe = cut(Input::Nar, &tree.nar(&hashes())).expect("it is a NAR").cut.recipe;
        let bytes = recipe.encode();
        let end = end.index(bytes.len());
        if let Ok(shorter) = Recipe::decode(&bytes[..end]) {
            prop_assert_eq!(&shorter.chunks, &recipe.chunks);
            prop_assert!(shorter.patches.len() < recipe.patches.len());
            prop_assert_ne!(shorter.id(), recipe.id());
        }
    }

    #[test]
    fn arbitrary_bytes_are_canonical_or_refused(after_ids in prop::collection::vec(any::<u8>(), 0..60)) {
        prop_assert!(is_canonical_or_refused(&after_ids));
        prop_assert!(is_canonical_or_refused(&with_patches(&after_ids)));
    }

    #[test]
    fn small_numbers_are_canonical_or_refused(patches in prop::collection::vec(0_u8..4, 0..20)) {
        prop_assert!(is_canonical_or_refused(&with_patches(&patches)));
    }
}

#[test]
fn ids_are_printed_and_read() {
    let id = ChunkId::of(b"");
    let text = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    assert_eq!(id.to_string(), text);
    assert_eq!(format!("{id:?}"), format!("ChunkId({text})"));
    assert_eq!(text.parse(), Ok(id));
    for wrong in ["", &text[1..], &text.to_uppercase(), &text.replace('a', "g"), &format!("{text}0")] {
        let error = wrong.parse::<RecipeId>().expect_err("it is no id");
        assert_eq!(error.to_string(), "parse a recipe id: wanted 64 lower-case hexadecimal digits");
    }
}

#[test]
fn chunker_ids_are_printed_and_read() {
    let text = "nar-fastcdc-v2020/16384-65536-262144/1";
    assert_eq!(ChunkerId::CURRENT.to_string(), text);
    assert_eq!(text.parse(), Ok(ChunkerId::CURRENT));
    for wrong in ["", "x", "nar-fastcdc-v2020/1-2/1", "nar-fastcdc-v2020/1-2-3-4/1", "nar-fastcdc-v2020/1-3-2/1"] {
        wrong.parse::<ChunkerId>().expect_err("it is no chunker id");
    }
    for wrong in [&format!("{text}/1"), &format!("{text} "), &text.replace("/1", "/01"), &text.replace("16", "+16")] {
        wrong.parse::<ChunkerId>().expect_err("it is another spelling");
    }
}
