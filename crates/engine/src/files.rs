//! What is inside a NAR, read from its structure alone, and kept in memory up to a limit of bytes.

use std::sync::Arc;

use firn_chunk::RecipeId;
use firn_nix::StoreHash;
use firn_nix::nar::{Decoder, Listing, ListingBuilder};
use quick_cache::sync::Cache;

use crate::restore::Restore;
use crate::{Error, Result};

/// Bytes of listings that are kept. One of more than half of them is not: it is made for each request.
const MEMORY_BYTES: u64 = 64 << 20;

/// About how many there are then.
const MEMORY_LISTINGS: usize = 64;

/// By which NAR a listing is known.
pub(crate) type Key = (RecipeId, Vec<StoreHash>);

/// Listings in memory.
pub(crate) type Listings = Cache<Key, Arc<Listing>, Weight>;

/// Counts a listing's bytes.
#[derive(Clone)]
pub(crate) struct Weight;

impl quick_cache::Weighter<Key, Arc<Listing>> for Weight {
    fn weight(&self, (_, slots): &Key, listing: &Arc<Listing>) -> u64 {
        listing.memory_bytes() + (size_of_val(slots.as_slice()) + 256) as u64
    }
}

/// Returns a memory without listings.
pub(crate) fn memory() -> Listings {
    Cache::with_weighter(MEMORY_LISTINGS, MEMORY_BYTES, Weight)
}

/// Bytes read at a time: most structure lies between small files.
const STEP_BYTES: usize = 64 << 10;

/// File contents longer than this are skipped rather than read.
const SKIP_BYTES: u64 = 64 << 10;

/// Returns the listing of a NAR; `None` when `may_go_on`, which is told how many bytes came with each step, said no. Contents of
/// large files are not read.
pub(crate) fn list(mut restore: Restore, may_go_on: &mut dyn FnMut(u64) -> bool) -> Result<Option<Listing>> {
    let mut decoder = Decoder::new();
    let mut listing = ListingBuilder::new();
    while let Some(piece) = restore.next(STEP_BYTES)? {
        decoder.push(&piece, &mut |event| listing.event(event)).map_err(Error::Nar)?;
        let left = decoder.contents_left();
        if left > SKIP_BYTES {
            let skipped = decoder.skip_contents(left);
            restore.seek(decoder.position());
            debug_assert_eq!(skipped, left);
        }
        if !may_go_on(piece.len() as u64) {
            return Ok(None);
        }
    }
    decoder.finish().map_err(Error::Nar)?;
    listing.finish().map(Some).map_err(|error| Error::Internal(error.to_string()))
}
