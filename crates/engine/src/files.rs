//! What is inside a NAR, read from its structure alone.

use firn_nix::nar::{Decoder, Listing, ListingBuilder};

use crate::restore::Restore;
use crate::{Error, Result};

/// Bytes read at a time: most structure lies between small files.
const STEP_BYTES: usize = 64 << 10;

/// File contents longer than this are skipped rather than read.
const SKIP_BYTES: u64 = 64 << 10;

/// Returns the listing of a NAR. Contents of large files are not read.
pub(crate) fn list(mut restore: Restore) -> Result<Listing> {
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
    }
    decoder.finish().map_err(Error::Nar)?;
    listing.finish().map_err(|error| Error::Internal(error.to_string()))
}
