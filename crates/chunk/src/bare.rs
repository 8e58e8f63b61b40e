//! A recipe without the ids of its chunks, as it is stored beside something that knows them.
//!
//! ```text
//! offset  bytes  field
//!      0      4  magic "FRCB"
//!      4     28  as in the canonical encoding, up to n
//!     32     32  the recipe's id
//!      …      …  as in the canonical encoding, behind the chunk ids
//! ```
//!
//! Ids are most of a recipe's bytes, do not compress, and are known wherever the chunks lie. Put back, they must give the
//! encoding that the recipe's id is the hash of: a wrong or a missing one is always noticed.

use crate::recipe::{HEADER_BYTES, ID_BYTES, MAGIC};
use crate::{ChunkId, Error, Recipe, RecipeId, Result};

const BARE_MAGIC: [u8; 4] = *b"FRCB";

/// Where in both encodings the length of the input is.
const LENGTH_AT: usize = 20;

/// A recipe without the ids of its chunks.
#[derive(Debug, Clone, Copy)]
pub struct BareRecipe<'a> {
    bytes: &'a [u8],
    id: RecipeId,
    chunks: usize,
}

impl<'a> BareRecipe<'a> {
    /// Returns a recipe's canonical encoding without the ids of its chunks.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for bytes that are shorter than they say; nothing else of them is looked at.
    pub fn encode(canonical: &[u8]) -> Result<Vec<u8>> {
        let short = || Error::Corrupt { what: "an early end", at: canonical.len() };
        let (head, rest) = canonical.split_at_checked(HEADER_BYTES).ok_or_else(short)?;
        let rest = rest.get(count_of(head).saturating_mul(ID_BYTES)..).ok_or_else(short)?;
        let id = RecipeId::of(canonical);
        Ok([&BARE_MAGIC, &head[BARE_MAGIC.len()..], &id.0, rest].concat())
    }

    /// Reads what [`BareRecipe::encode`] wrote; `None` when the bytes are nothing of that kind.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.strip_prefix(&BARE_MAGIC).and(bytes.get(..HEADER_BYTES))?;
        let id = RecipeId(*bytes.get(HEADER_BYTES..)?.first_chunk()?);
        let chunks = count_of(head);
        // Each has a length of one byte at least.
        (chunks <= bytes.len() - HEADER_BYTES - ID_BYTES).then_some(Self { bytes, id, chunks })
    }

    /// Returns the recipe's id.
    #[must_use]
    pub fn id(&self) -> RecipeId {
        self.id
    }

    /// Returns how many chunks it has.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.chunks
    }

    /// Returns the length of what it rebuilds, in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.bytes.get(LENGTH_AT..).and_then(|rest| rest.first_chunk()).map_or(0, |length| u64::from_le_bytes(*length))
    }

    /// Returns the recipe, given the ids of its chunks in order.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the ids are not those of its chunks, or the bytes are not what was written.
    pub fn fill(&self, ids: &[ChunkId]) -> Result<Recipe> {
        let (head, rest) = self.bytes.split_at(HEADER_BYTES);
        let mut canonical = Vec::with_capacity(self.bytes.len() + ids.len() * ID_BYTES);
        canonical.extend(MAGIC);
        canonical.extend_from_slice(&head[MAGIC.len()..]);
        for id in ids {
            canonical.extend_from_slice(&id.0);
        }
        canonical.extend_from_slice(&rest[ID_BYTES..]);
        if RecipeId::of(&canonical) != self.id {
            return Err(Error::Corrupt { what: "ids of other chunks", at: HEADER_BYTES });
        }
        Recipe::decode(&canonical)
    }
}

/// Returns the number of chunks that the first bytes of an encoding name.
fn count_of(head: &[u8]) -> usize {
    let count = head.last_chunk().map_or(0, |count| u32::from_le_bytes(*count));
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Chunker, Input};

    fn recipe() -> Recipe {
        let mut chunker = Chunker::new(Input::Bytes);
        let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        chunker.push(b"/nix/store/s1ya6vkkiayb6ysznh2k14bpyy2xinwk-hello", &mut |_| {}).unwrap();
        chunker.push(&bytes, &mut |_| {}).unwrap();
        chunker.finish(&mut |_| {}).unwrap().recipe
    }

    #[test]
    fn ids_are_left_out_and_put_back() {
        let recipe = recipe();
        let ids: Vec<ChunkId> = recipe.chunks.iter().map(|chunk| chunk.id).collect();
        assert!(ids.len() > 5);
        let bytes = BareRecipe::encode(&recipe.encode()).unwrap();
        assert_eq!(bytes.len(), recipe.encode().len() + ID_BYTES - ids.len() * ID_BYTES);
        let bare = BareRecipe::read(&bytes).unwrap();
        assert_eq!((bare.id(), bare.chunks(), bare.length()), (recipe.id(), ids.len(), recipe.length));
        assert_eq!(bare.fill(&ids).unwrap(), recipe);
    }

    #[test]
    fn other_ids_are_noticed() {
        let recipe = recipe();
        let bytes = BareRecipe::encode(&recipe.encode()).unwrap();
        let bare = BareRecipe::read(&bytes).unwrap();
        let ids: Vec<ChunkId> = recipe.chunks.iter().map(|chunk| chunk.id).collect();
        let mut swapped = ids.clone();
        swapped.swap(1, 2);
        for wrong in [&ids[1..], &swapped, &[], &[&ids[..], &ids[..1]].concat()] {
            assert!(matches!(bare.fill(wrong), Err(Error::Corrupt { .. })));
        }
    }

    #[test]
    fn what_is_cut_or_changed_is_refused() {
        let recipe = recipe();
        let ids: Vec<ChunkId> = recipe.chunks.iter().map(|chunk| chunk.id).collect();
        let mut bytes = BareRecipe::encode(&recipe.encode()).unwrap();
        for end in 0..bytes.len() {
            assert!(BareRecipe::read(&bytes[..end]).is_none_or(|bare| bare.fill(&ids).is_err()), "cut at {end}");
        }
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(BareRecipe::read(&bytes).is_none_or(|bare| bare.fill(&ids).is_err()), "changed at {at}");
            bytes[at] ^= 1;
        }
        assert!(BareRecipe::read(&recipe.encode()).is_none(), "a canonical encoding is something else");
        for end in 0..HEADER_BYTES {
            assert!(BareRecipe::encode(&recipe.encode()[..end]).is_err());
        }
    }

    /// What was written stays readable.
    #[test]
    fn the_encoding_stays() {
        let mut chunker = Chunker::new(Input::Bytes);
        chunker.push(b"hello", &mut |_| {}).unwrap();
        let recipe = chunker.finish(&mut |_| {}).unwrap().recipe;
        let canonical = recipe.encode();
        let expected = [b"FRCB", &canonical[4..32], &recipe.id().0, &[5]].concat();
        assert_eq!(BareRecipe::encode(&canonical).unwrap(), expected);
    }
}
