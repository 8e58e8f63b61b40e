//! Lists of ids of one length, back to back.

use firn_chunk::{ChunkId, RecipeId};
use firn_nix::StoreHash;

use crate::{Error, Result};

/// An id of a fixed length.
pub trait WireId: Copy {
    /// What a list of them is called in an error.
    const LIST: &'static str;
    /// Its length in bytes.
    const BYTES: usize;

    /// Returns its bytes.
    fn as_bytes(&self) -> &[u8];

    /// Returns the id with these bytes, or `None` if their number is wrong.
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

macro_rules! wire_id {
    ($type:ident, $len:literal, $list:literal) => {
        impl WireId for $type {
            const LIST: &'static str = $list;
            const BYTES: usize = $len;

            fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            fn from_bytes(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }
    };
}

wire_id!(ChunkId, 32, "chunk ids");
wire_id!(RecipeId, 32, "recipe ids");
wire_id!(StoreHash, 20, "store hashes");

/// Returns the ids back to back.
#[must_use]
pub fn encode_ids<I: WireId>(ids: &[I]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ids.len() * I::BYTES);
    for id in ids {
        bytes.extend_from_slice(id.as_bytes());
    }
    bytes
}

/// Reads at most `limit` ids; an incomplete one at the end is an error.
pub fn decode_ids<I: WireId>(bytes: &[u8], limit: usize) -> Result<Vec<I>> {
    if !bytes.len().is_multiple_of(I::BYTES) {
        let detail = format!("{} bytes are no multiple of {}", bytes.len(), I::BYTES);
        return Err(Error::malformed(I::LIST, detail));
    }
    let found = bytes.len() / I::BYTES;
    if found > limit {
        return Err(Error::TooMany { what: I::LIST, found: found as u64, limit: limit as u64 });
    }
    Ok(bytes.chunks_exact(I::BYTES).filter_map(I::from_bytes).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_cut_or_too_much() {
        assert!(matches!(decode_ids::<ChunkId>(&[0; 33], 9), Err(Error::Malformed { .. })));
        assert!(matches!(decode_ids::<StoreHash>(&[0; 32], 9), Err(Error::Malformed { .. })));
        let too_many = Error::TooMany { what: "recipe ids", found: 2, limit: 1 };
        assert_eq!(decode_ids::<RecipeId>(&[0; 64], 1), Err(too_many));
        assert_eq!(decode_ids::<RecipeId>(&[], 0), Ok(vec![]));
    }

    proptest! {
        #[test]
        fn come_back(ids in proptest::collection::vec(any::<[u8; 20]>(), 0..9)) {
            let ids: Vec<_> = ids.into_iter().map(StoreHash).collect();
            let bytes = encode_ids(&ids);
            prop_assert_eq!(bytes.len(), 20 * ids.len());
            prop_assert_eq!(decode_ids::<StoreHash>(&bytes, 9).unwrap(), ids);
        }
    }
}
