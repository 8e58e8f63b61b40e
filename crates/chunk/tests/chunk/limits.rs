//! Memory is bounded whatever comes, and what is beyond a limit still comes back.

use firn_chunk::{ChunkerId, Input, MAX_CHUNKS, MAX_PATCHES, MAX_SLOTS, Patches, Recipe};

use crate::input::{BASE32, cut, cut_pieces, split};

/// Returns the number as 32 characters.
fn hash(mut number: usize) -> [u8; 32] {
    let mut hash = [b'z'; 32];
    for character in &mut hash[..8] {
        *character = BASE32[number % 32];
        number /= 32;
    }
    hash
}

fn push_reference(out: &mut Vec<u8>, number: usize) {
    out.extend(b"/nix/store/");
    out.extend(hash(number));
    out.extend(b"-name ");
}

#[test]
fn references_beyond_the_last_slot_stay() {
    let mut bytes = Vec::new();
    for number in 0..MAX_SLOTS + 3 {
        push_reference(&mut bytes, number);
    }
    let certain = bytes.len();
    for number in [0, MAX_SLOTS - 1, MAX_SLOTS, MAX_SLOTS + 2] {
        push_reference(&mut bytes, number);
        bytes.extend(hash(number));
    }
    let outcome = cut(Input::Bytes, &bytes).expect("bytes of any kind are fine");
    assert_eq!(outcome.cut.slots.len(), MAX_SLOTS);
    let patches = &outcome.cut.recipe.patches;
    assert_eq!(patches.slot_count(), MAX_SLOTS);
    assert_eq!(patches.len(), MAX_SLOTS + 4, "those that have a slot are still taken, as references and bare");
    let last: Vec<_> =
        patches.iter().filter(|patch| patch.position >= certain as u64).map(|patch| patch.slot).collect();
    let highest = u16::try_from(MAX_SLOTS - 1).expect("slots fit");
    assert_eq!(last, [0, 0, highest, highest]);
    assert!(outcome.restore() == bytes);
}

#[test]
fn nothing_is_taken_beyond_the_last_patch() {
    let mut bytes = Vec::new();
    push_reference(&mut bytes, 0);
    for _ in 1..MAX_PATCHES - 1 {
        bytes.extend(hash(0));
    }
    push_reference(&mut bytes, 1);
    let taken = bytes.len() - b"-name ".len();
    push_reference(&mut bytes, 2);
    push_reference(&mut bytes, 0);
    bytes.extend(hash(0));
    bytes.extend(vec![b'z'; 300_000]);

    let outcome = cut_pieces(Input::Bytes, split(&bytes, &[100_003, 7])).expect("bytes of any kind are fine");
    let recipe = &outcome.cut.recipe;
    assert_eq!(recipe.patches.len(), MAX_PATCHES);
    assert_eq!(recipe.patches.end(), taken as u64);
    assert_eq!(outcome.cut.slots.len(), 2, "no slot without a patch");
    assert!(outcome.restore() == bytes);

    let mut encoded = recipe.encode();
    assert!(encoded.len() < 64 << 20);
    encoded.extend([0, 0]);
    Recipe::decode(&encoded).expect_err("one patch more than the limit");
}

#[test]
fn a_recipe_of_more_chunks_than_the_limit_is_not_read() {
    for (count, is_fine) in [(MAX_CHUNKS, true), (MAX_CHUNKS + 1, false)] {
        let (input, chunker) = (Input::Bytes, ChunkerId::CURRENT);
        let empty = Recipe { input, chunker, length: 0, chunks: Vec::new(), patches: Patches::default() };
        let mut bytes = empty.encode();
        bytes[20..28].copy_from_slice(&(count as u64).to_le_bytes());
        bytes[28..32].copy_from_slice(&u32::try_from(count).expect("it is small").to_le_bytes());
        bytes.resize(32 + 32 * count, 7);
        bytes.resize(32 + 33 * count, 1);
        let result = Recipe::decode(&bytes);
        assert_eq!(result.is_ok(), is_fine, "{count}");
        assert!(result.is_err() || result.is_ok_and(|recipe| recipe.encode() == bytes));
    }
}

#[test]
fn a_long_run_of_base32_characters_is_read_in_bounded_time() {
    // Every position is a candidate that shares its beginning with a slot.
    let mut bytes = b"/nix/store/zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz0-".to_vec();
    bytes.extend(vec![b'z'; 4_000_000]);
    bytes.push(b'0');
    let outcome = cut(Input::Bytes, &bytes).expect("bytes of any kind are fine");
    let positions: Vec<_> = outcome.cut.recipe.patches.iter().map(|patch| patch.position).collect();
    assert_eq!(positions, [11, bytes.len() as u64 - 32]);
    assert!(outcome.restore() == bytes);
}
