//! How rows of lineages are written: a recipe's id, which does not compress, is there once.
//!
//! Key (8 bytes, big endian) → rows of 12 bytes, the newest first: the recipe's tag, its chunk's number. A tag is the
//! first 8 bytes of the id. Key `r`, tag → the rest of the id.

use firn_chunk::RecipeId;
use firn_index::LineageKey;

const TAG_BYTES: usize = 8;

/// The first bytes of a recipe's id.
pub(crate) type RecipeTag = [u8; TAG_BYTES];

/// Divides an id.
pub(crate) fn tag(recipe: &RecipeId) -> (RecipeTag, [u8; 32 - TAG_BYTES]) {
    let (mut tag, mut rest) = ([0; TAG_BYTES], [0; 32 - TAG_BYTES]);
    tag.copy_from_slice(&recipe.0[..TAG_BYTES]);
    rest.copy_from_slice(&recipe.0[TAG_BYTES..]);
    (tag, rest)
}

/// Returns the key of the rest of an id.
pub(crate) fn tag_key(tag: &RecipeTag) -> Vec<u8> {
    [&b"r"[..], tag].concat()
}

/// Puts an id together again; `None` when the rest is none.
pub(crate) fn tagged(tag: &RecipeTag, rest: &[u8]) -> Option<RecipeId> {
    let rest: [u8; 32 - TAG_BYTES] = rest.try_into().ok()?;
    [&tag[..], &rest].concat().try_into().ok().map(RecipeId)
}

/// Returns the key of rows.
pub(crate) fn key(key: LineageKey) -> [u8; 8] {
    key.0.to_be_bytes()
}

/// Returns the value of rows.
pub(crate) fn encode(rows: &[(RecipeTag, u32)]) -> Vec<u8> {
    rows.iter().flat_map(|(tag, chunk)| tag.iter().copied().chain(chunk.to_le_bytes())).collect()
}

/// Reads rows. They are hints: what is cut short is left out.
pub(crate) fn decode(value: &[u8]) -> Vec<(RecipeTag, u32)> {
    let row = |row: &[u8]| {
        let (tag, chunk) = row.split_first_chunk()?;
        Some((*tag, u32::from_le_bytes(chunk.try_into().ok()?)))
    };
    value.chunks_exact(TAG_BYTES + 4).filter_map(row).collect()
}
