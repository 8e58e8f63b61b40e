//! Windows of any size in any order are patched as the whole is.

use std::sync::Arc;

use firn_chunk::{Error, Input, Patcher};
use proptest::prelude::*;

use crate::input::{Outcome, Random, bytes_of, cut, fragments, hashes};

fn patcher(outcome: &Outcome) -> Patcher {
    Patcher::new(Arc::new(outcome.cut.recipe.clone()), &outcome.cut.slots).expect("the slots belong to the recipe")
}

/// References with a prime distance, and what they become.
fn many_references(count: usize) -> (Vec<u8>, Outcome) {
    let hashes = hashes();
    let mut bytes = Vec::new();
    for number in 0..count {
        bytes.extend(b"/nix/store/");
        bytes.extend(&hashes[number % hashes.len()]);
        bytes.extend(std::iter::repeat_n(b'-', 1 + number % 61));
    }
    let outcome = cut(Input::Bytes, &bytes).expect("bytes of any kind are fine");
    assert_eq!(outcome.cut.recipe.patches.len(), count);
    (bytes, outcome)
}

#[test]
fn a_wrong_number_of_store_hashes_is_refused() {
    let (_, outcome) = many_references(20);
    let recipe = Arc::new(outcome.cut.recipe.clone());
    let slots = &outcome.cut.slots;
    let more = [&slots[..], &slots[..1]].concat();
    for wrong in [&[][..], &slots[1..], &more] {
        let error = Patcher::new(Arc::clone(&recipe), wrong).expect_err("they are too few or too many");
        assert!(matches!(error, Error::Slots { wanted: 9, got } if got == wrong.len()), "{error:?}");
        assert_eq!(error.to_string(), format!("fill 9 slots with {} store hashes", wrong.len()));
    }
}

#[test]
fn a_window_may_start_and_end_anywhere() {
    let (bytes, outcome) = many_references(5);
    let normalised = outcome.normalised();
    let mut patcher = patcher(&outcome);
    for start in 0..=normalised.len() {
        for end in start..=normalised.len() {
            let mut window = normalised[start..end].to_vec();
            patcher.apply(start as u64, &mut window);
            assert_eq!(window, bytes[start..end], "{start}..{end}");
        }
    }
}

#[test]
fn windows_behind_the_end_are_left_alone() {
    let (bytes, outcome) = many_references(5);
    let mut patcher = patcher(&outcome);
    for offset in [bytes.len() as u64, u64::MAX - 7, u64::MAX] {
        let mut window = *b"12345678";
        patcher.apply(offset, &mut window);
        assert_eq!(&window, b"12345678");
    }
    let mut window = outcome.normalised();
    patcher.apply(0, &mut window);
    assert_eq!(window, bytes);
}

#[test]
fn seeking_finds_its_place_among_many_patches() {
    let (bytes, outcome) = many_references(5000);
    let normalised = outcome.normalised();
    let mut patcher = patcher(&outcome);
    let mut random = Random(1);
    for _ in 0..5000 {
        let start = usize::try_from(random.next()).expect("64 bits") % bytes.len();
        let end = (start + usize::try_from(random.next() % 200).expect("small")).min(bytes.len());
        patcher.seek(start as u64);
        let mut window = normalised[start..end].to_vec();
        patcher.apply(start as u64, &mut window);
        assert!(window == bytes[start..end], "{start}..{end}");
    }
}

#[test]
fn windows_of_one_byte_in_order() {
    let (bytes, outcome) = many_references(600);
    let mut restored = outcome.normalised();
    let mut patcher = patcher(&outcome);
    for (offset, byte) in restored.iter_mut().enumerate() {
        patcher.apply(offset as u64, std::slice::from_mut(byte));
    }
    assert!(restored == bytes);
}

proptest! {
    #[test]
    fn windows_in_any_order_give_the_whole(
        fragments in fragments(40), lengths in prop::collection::vec(1_usize..3000, 1..9), seed in any::<u64>(),
    ) {
        let bytes = bytes_of(&fragments, &hashes());
        let outcome = cut(Input::Bytes, &bytes).expect("bytes of any kind are fine");
        let mut restored = outcome.normalised();
        let mut windows = Vec::new();
        let (mut left, mut offset) = (&mut restored[..], 0);
        for length in lengths.iter().cycle() {
            let (window, rest) = left.split_at_mut((*length).min(left.len()));
            if window.is_empty() {
                break;
            }
            let length = window.len() as u64;
            windows.push((offset, window));
            (left, offset) = (rest, offset + length);
        }
        let mut random = Random(seed);
        windows.sort_by_cached_key(|_| random.next());
        let mut patcher = patcher(&outcome);
        for (offset, window) in windows {
            patcher.apply(offset, window);
        }
        prop_assert!(restored == bytes);
    }
}
