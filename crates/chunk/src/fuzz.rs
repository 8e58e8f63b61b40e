//! What must hold for any input; called by the fuzz targets, and on their corpora by `cargo test`.
//!
//! Each function panics if it does not hold.

use std::sync::Arc;

use firn_nix::StoreHash;

use crate::{Chunk, Chunker, Cut, Input, PATCH_BYTES, Patcher, Recipe, Result};

/// Whatever is cut comes back; how it is split does not matter.
pub fn chunker(data: &[u8]) {
    for input in [Input::Bytes, Input::Nar] {
        let whole = cut(input, data, data.len().max(1)).ok();
        assert_eq!(whole, cut(input, data, 7).ok(), "splits matter");
        assert_eq!(whole, cut(input, data, 1).ok(), "splits matter");
        let Some((cut, mut bytes)) = whole else {
            assert_eq!(input, Input::Nar, "bytes of any kind are fine");
            continue;
        };
        let recipe = Recipe::decode(&cut.recipe.encode()).expect("what was encoded can be decoded");
        assert_eq!(recipe, cut.recipe);
        Patcher::new(Arc::new(recipe), &cut.slots).expect("the slots belong to the recipe").apply(0, &mut bytes);
        assert_eq!(bytes, data);
    }
}

/// Returns what was cut, and the normalised bytes.
fn cut(input: Input, data: &[u8], piece: usize) -> Result<(Cut, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut on_chunk = |chunk: Chunk<'_>| bytes.extend_from_slice(chunk.data);
    let mut chunker = Chunker::new(input);
    for piece in data.chunks(piece) {
        chunker.push(piece, &mut on_chunk)?;
    }
    let cut = chunker.finish(&mut on_chunk)?;
    Ok((cut, bytes))
}

/// Whatever is accepted as a recipe is what it encodes to, and its patches are in order and inside.
pub fn recipe_decode(data: &[u8]) {
    let Ok(recipe) = Recipe::decode(data) else { return };
    assert_eq!(recipe.encode(), data, "a second spelling was accepted");
    assert_eq!(recipe.chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>(), recipe.length);
    let patches: Vec<_> = recipe.patches.iter().collect();
    assert_eq!(patches.len(), recipe.patches.len());
    let (mut end, mut slots) = (0, 0);
    for patch in &patches {
        assert!(patch.position >= end && usize::from(patch.slot) <= slots);
        end = patch.end();
        slots = slots.max(usize::from(patch.slot) + 1);
    }
    assert!(end <= recipe.length && end == recipe.patches.end() && slots == recipe.patches.slot_count());
    let mut patcher = Patcher::new(Arc::new(recipe), &vec![StoreHash([0xff; 20]); slots]).expect("as many as it has");
    for patch in patches.iter().rev().take(1000) {
        let mut window = [1; PATCH_BYTES];
        patcher.apply(patch.position, &mut window);
        assert_eq!(window, [b'z'; PATCH_BYTES], "a patch is not applied where it belongs");
    }
}
