//! How rows of lineages are written: a recipe's id, which does not compress, is there once.
//!
//! Key (its low 6 bytes, big endian) → rows of 7 bytes, the newest first: the recipe's tag, its chunk's number in 3 bytes.
//! A tag is the first 4 bytes of the id. Key `r`, tag → the rest of the id. Rows are hints: where two keys or tags meet,
//! a base is not found.

use firn_chunk::RecipeId;
use firn_index::LineageKey;

const TAG_BYTES: usize = 4;

const CHUNK_BYTES: usize = 3;

const ROW_BYTES: usize = TAG_BYTES + CHUNK_BYTES;

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
pub(crate) fn key(key: LineageKey) -> [u8; 6] {
    let [_, _, low @ ..] = key.0.to_be_bytes();
    low
}

/// Returns the value of rows.
pub(crate) fn encode(rows: &[(RecipeTag, u32)]) -> Vec<u8> {
    let row = |(tag, chunk): &(RecipeTag, u32)| {
        let mut row = [0; ROW_BYTES];
        row[..TAG_BYTES].copy_from_slice(tag);
        row[TAG_BYTES..].copy_from_slice(&chunk.to_le_bytes()[..CHUNK_BYTES]);
        row
    };
    rows.iter().flat_map(row).collect()
}

/// Reads rows. They are hints: what is cut short is left out.
pub(crate) fn decode(value: &[u8]) -> Vec<(RecipeTag, u32)> {
    let row = |row: &[u8]| {
        let (tag, chunk) = row.split_first_chunk()?;
        let [low, middle, high] = chunk.try_into().ok()?;
        Some((*tag, u32::from_le_bytes([low, middle, high, 0])))
    };
    value.chunks_exact(ROW_BYTES).filter_map(row).collect()
}
