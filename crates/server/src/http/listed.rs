//! Listings for requests: within a bound of memory, and as JSON that is never whole in it.
//!
//! Whoever may push can make a path of millions of files out of some kilobytes, and anybody may ask for its listing, and read it slowly.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use firn_index::{CacheName, NarRow, PathRow};
use firn_nix::StoreHash;
use firn_nix::nar::{Listing, ListingJson, MAX_LISTING_BYTES};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{Body, Broken, Source};
use super::error::{After, Problem};
use super::nar::PIECE_BYTES;
use super::{PATIENCE, failed, work};
use crate::app::App;

/// How many of the largest listings there may be at once, beside those that are remembered.
const LARGEST: usize = 4;
/// A listing of so many bytes needs no room; one of a NAR of so many bytes is not larger than that.
const SMALL_BYTES: u64 = 1 << 20;
const UNIT_BYTES: u64 = 1 << 10;

/// Room for the listings that requests hold.
pub(super) struct Room(Arc<Semaphore>);

/// Room that a request has, if its listing needs any. Given back when it is dropped.
#[derive(Default)]
pub(super) struct Held(Option<OwnedSemaphorePermit>);

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX)
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(LARGEST * units(MAX_LISTING_BYTES) as usize)))
    }

    /// Waits for room for the listing of a NAR: for what it takes if it is known, else for what it may take at most.
    async fn take(&self, app: &App, nar: &NarRow) -> Result<Held, Problem> {
        let bytes = most_bytes(app, nar);
        if bytes <= SMALL_BYTES {
            return Ok(Held::default());
        }
        let room = Arc::clone(&self.0).acquire_many_owned(units(bytes));
        let room = tokio::time::timeout(PATIENCE, room).await.ok().and_then(Result::ok);
        room.map(|room| Held(Some(room))).ok_or(Problem::Busy(After::Headers))
    }

    /// Takes the room for the listing of a NAR if there is so much now.
    pub(super) fn try_take(&self, app: &App, nar: &NarRow) -> Option<Held> {
        let bytes = most_bytes(app, nar);
        if bytes <= SMALL_BYTES {
            return Some(Held::default());
        }
        Arc::clone(&self.0).try_acquire_many_owned(units(bytes)).ok().map(|room| Held(Some(room)))
    }
}

/// Returns how many bytes a NAR's listing takes, at most if it is not known. A NAR has more bytes for each entry than a listing.
fn most_bytes(app: &App, nar: &NarRow) -> u64 {
    let known = app.engine.known_listing_bytes(&nar.recipe, &nar.slots);
    known.unwrap_or_else(|| nar.nar_size.min(MAX_LISTING_BYTES))
}

impl Held {
    /// Gives back what is not needed for a listing of so many bytes.
    fn shrink(&mut self, bytes: u64) {
        let Some(room) = &mut self.0 else { return };
        let needed = if bytes <= SMALL_BYTES { 0 } else { units(bytes) as usize };
        drop(room.split(room.num_permits().saturating_sub(needed)));
    }
}

/// A path and what is in it.
pub(super) struct Listed {
    pub(super) row: PathRow,
    pub(super) nar: NarRow,
    pub(super) listing: Arc<Listing>,
    pub(super) room: Held,
}

/// Finds a path and lists it.
pub(super) async fn find(app: &Arc<App>, cache: &CacheName, hash: StoreHash) -> Result<Listed, Problem> {
    let (shared, cache) = (Arc::clone(app), cache.clone());
    let (row, nar) = work(app, After::Headers, move || rows(&shared, &cache, &hash)).await?;
    let mut room = app.http.listings.take(app, &nar).await?;
    let shared = Arc::clone(app);
    work(app, After::Headers, move || {
        let listing = shared.engine.listing(&nar.recipe, &nar.slots);
        let listing = listing.map_err(|error| failed(&shared, error, After::Headers))?;
        room.shrink(listing.memory_bytes());
        Ok(Listed { row, nar, listing, room })
    })
    .await
}

fn rows(app: &App, cache: &CacheName, hash: &StoreHash) -> Result<(PathRow, NarRow), Problem> {
    let failed = |error: firn_index::Error| failed(app, error.into(), After::Headers);
    let absent = Problem::NotFound("this path");
    let meta = app.engine.meta();
    let row = meta.path(cache, hash).map_err(failed)?.ok_or(absent.clone())?;
    let nar = meta.nar(cache, &row.nar_hash).map_err(failed)?.ok_or(absent)?;
    Ok((row, nar))
}

/// Returns a body of JSON that is made while it is sent, unless it is short. May take long: its length is counted.
pub(super) fn body(mut json: ListingJson<Arc<Listing>>, room: Held) -> Body {
    let first = json.next_piece(PIECE_BYTES).unwrap_or_default();
    if first.len() < PIECE_BYTES {
        return Body::full(first);
    }
    let length = first.len() as u64 + json.count();
    Body::pull(Some(first.into()), Box::new(Json { json, _room: room }), Some(length))
}

/// JSON of a listing, and the room that this takes.
struct Json {
    json: ListingJson<Arc<Listing>>,
    _room: Held,
}

impl Source for Json {
    fn next(&mut self) -> Result<VecDeque<Bytes>, Broken> {
        Ok(self.json.next_piece(PIECE_BYTES).map(Bytes::from).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_as_soon_as_it_is_not_needed() {
        let room = Room::new();
        let free = || room.0.available_permits();
        let (all, largest, small) = (free(), units(MAX_LISTING_BYTES), units(SMALL_BYTES + 1));
        let take = |_| Held(Some(Arc::clone(&room.0).try_acquire_many_owned(largest).unwrap()));
        let mut held: Vec<_> = (0..LARGEST).map(take).collect();
        assert_eq!(free(), 0);
        held[0].shrink(MAX_LISTING_BYTES);
        assert_eq!(free(), 0);
        held[0].shrink(SMALL_BYTES + 1);
        assert_eq!(free(), (largest - small) as usize);
        held[1].shrink(SMALL_BYTES);
        assert_eq!(free(), (2 * largest - small) as usize);
        drop(held);
        assert_eq!(free(), all);
        Held::default().shrink(0);
    }
}
