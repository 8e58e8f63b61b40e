//! Encoded recipes that are too long for a commit and come in parts.
//!
//! They live in memory until their path is committed or their session ends: what is lost by a restart is sent again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use firn_api::{Code, SessionToken};
use firn_chunk::RecipeId;
use firn_index::UnixSeconds;
use http::StatusCode;

use super::refusal::Refusal;

/// How many bytes of recipes are kept for all sessions: two of the longest there can be.
pub(super) const MAX_BYTES: usize = 128 << 20;
/// What a recipe counts beside its bytes: they may be few.
const ENTRY_BYTES: usize = 256;
/// A recipe of which no part came for so long, in seconds, and that no commit used, may make room for others.
const PATIENCE_SECONDS: u64 = 900;

/// Where a part belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) recipe: RecipeId,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// All recipes in parts.
pub(super) struct Parts {
    limit: usize,
    all: Mutex<All>,
}

type Key = (SessionToken, RecipeId);

/// Recipes, with a sum of what they count: there may be very many of a byte each.
#[derive(Default)]
struct All {
    recipes: HashMap<Key, Growing>,
    used: usize,
    /// When what nobody touches was last looked for.
    looked_at: UnixSeconds,
}

struct Growing {
    bytes: Arc<Vec<u8>>,
    length: u64,
    touched_at: UnixSeconds,
}

impl Parts {
    /// Makes an empty memory of at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, all: Mutex::default() }
    }

    /// Adds a part and returns how much is there from the start; what came before already changes nothing.
    ///
    /// A part at 0 of another length begins anew. The last part completes the recipe only if it has its id.
    pub(super) fn add(
        &self,
        session: SessionToken,
        place: Place,
        part: &[u8],
        now: UnixSeconds,
    ) -> Result<u64, Refusal> {
        let end = place.offset.checked_add(part.len() as u64).filter(|end| *end <= place.length && !part.is_empty());
        let end =
            end.ok_or_else(|| Refusal::bad_request("a part of a recipe that is empty or ends behind the recipe"))?;
        let mut all = self.lock();
        let key = (session, place.recipe);
        let stale = all.recipes.get(&key).is_some_and(|growing| growing.length != place.length && place.offset == 0);
        if stale {
            all.remove(&key);
        }
        let known = all.recipes.get(&key);
        let (have, length) = known.map_or((0, place.length), |one| (one.bytes.len() as u64, one.length));
        if place.offset > have || length != place.length {
            return Err(Refusal::new(StatusCode::CONFLICT, Code::PartOutOfOrder));
        }
        let entry_bytes = if known.is_some() { 0 } else { ENTRY_BYTES };
        let fresh = usize::try_from(have - place.offset).ok().and_then(|known| part.get(known..)).unwrap_or_default();
        all.make_room(fresh.len().saturating_add(entry_bytes), self.limit, &key, now)?;
        let bytes = all.grow(key, &place, fresh, now);
        let whole = (end == place.length && !fresh.is_empty()).then_some(bytes);
        drop(all);
        if whole.is_some_and(|bytes| RecipeId::of(&bytes) != place.recipe) {
            self.lock().remove(&key);
            let message = "its parts don't make the recipe of this id";
            return Err(Refusal::with(StatusCode::BAD_REQUEST, Code::BadRecipe, message));
        }
        Ok(have.max(end))
    }

    /// Returns a recipe's encoding if all of it came.
    pub(super) fn whole(&self, session: SessionToken, recipe: RecipeId, now: UnixSeconds) -> Option<Arc<Vec<u8>>> {
        let mut all = self.lock();
        let growing = all.recipes.get_mut(&(session, recipe))?;
        growing.touched_at = now;
        (growing.bytes.len() as u64 == growing.length).then(|| Arc::clone(&growing.bytes))
    }

    /// Forgets a recipe that was committed.
    pub(super) fn forget(&self, session: SessionToken, recipe: RecipeId) {
        self.lock().remove(&(session, recipe));
    }

    /// Forgets all of a session.
    pub(super) fn end(&self, session: SessionToken) {
        self.lock().retain(|(one, _), _| *one != session);
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        // No change can fail half-way: a panic elsewhere leaves the sum right.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Growing {
    fn counted_bytes(&self) -> usize {
        self.bytes.len() + ENTRY_BYTES
    }
}

impl All {
    /// Lets go of what nobody has touched for long if room is needed; without, the client is told to come again.
    fn make_room(&mut self, bytes: usize, limit: usize, but: &Key, now: UnixSeconds) -> Result<(), Refusal> {
        let fits = |all: &Self| all.used.saturating_add(bytes) <= limit;
        if !fits(self) && self.looked_at != now {
            self.looked_at = now;
            self.retain(|key, one| key == but || now.saturating_sub(one.touched_at) < PATIENCE_SECONDS);
        }
        if fits(self) { Ok(()) } else { Err(Refusal::busy()) }
    }

    /// Adds bytes to a recipe and returns all that it has then.
    fn grow(&mut self, key: Key, place: &Place, fresh: &[u8], now: UnixSeconds) -> Arc<Vec<u8>> {
        let used = &mut self.used;
        let growing = self.recipes.entry(key).or_insert_with(|| {
            *used += ENTRY_BYTES;
            Growing { bytes: Arc::default(), length: place.length, touched_at: now }
        });
        growing.touched_at = now;
        Arc::make_mut(&mut growing.bytes).extend_from_slice(fresh);
        *used += fresh.len();
        Arc::clone(&growing.bytes)
    }

    fn remove(&mut self, key: &Key) {
        self.used -= self.recipes.remove(key).map_or(0, |one| one.counted_bytes());
    }

    fn retain(&mut self, keep: impl Fn(&Key, &Growing) -> bool) {
        let used = &mut self.used;
        self.recipes.retain(|key, one| {
            let stays = keep(key, one);
            *used -= if stays { 0 } else { one.counted_bytes() };
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: SessionToken = SessionToken(1);

    fn place(whole: &[u8], offset: u64) -> Place {
        Place { recipe: RecipeId::of(whole), offset, length: whole.len() as u64 }
    }

    fn code(result: Result<u64, Refusal>) -> Code {
        result.expect_err("refused").code
    }

    #[test]
    fn refuses_what_does_not_fit_together() {
        let parts = Parts::new(100 + 2 * ENTRY_BYTES);
        let whole = b"0123456789";
        assert_eq!(code(parts.add(SESSION, place(whole, 1), b"1", 0)), Code::PartOutOfOrder);
        assert_eq!(code(parts.add(SESSION, place(whole, 0), b"", 0)), Code::BadRequest);
        assert_eq!(code(parts.add(SESSION, place(whole, 0), b"01234567890", 0)), Code::BadRequest);
        let huge = Place { offset: u64::MAX, ..place(whole, 0) };
        assert_eq!(code(parts.add(SESSION, huge, b"0", 0)), Code::BadRequest);
        assert_eq!(parts.add(SESSION, place(whole, 0), b"0123", 0), Ok(4));
        assert_eq!(code(parts.add(SESSION, place(whole, 5), b"5", 0)), Code::PartOutOfOrder);
        let other_length = Place { length: 11, ..place(whole, 4) };
        assert_eq!(code(parts.add(SESSION, other_length, b"4", 0)), Code::PartOutOfOrder);
        assert_eq!(code(parts.add(SessionToken(2), place(whole, 4), b"4", 0)), Code::PartOutOfOrder);
        // Wrong bytes: all of it is forgotten.
        assert_eq!(code(parts.add(SESSION, place(whole, 4), b"wrong!", 0)), Code::BadRecipe);
        assert_eq!(code(parts.add(SESSION, place(whole, 4), b"456789", 0)), Code::PartOutOfOrder);
    }

    #[test]
    fn goes_on_where_it_was() {
        let parts = Parts::new(100 + 2 * ENTRY_BYTES);
        let whole = b"0123456789";
        let recipe = RecipeId::of(whole);
        assert_eq!(parts.add(SESSION, place(whole, 0), b"0123", 0), Ok(4));
        assert_eq!(parts.whole(SESSION, recipe, 0), None);
        assert_eq!(parts.add(SESSION, place(whole, 0), b"0123", 0), Ok(4), "again");
        assert_eq!(parts.add(SESSION, place(whole, 1), b"12", 0), Ok(4), "less");
        assert_eq!(parts.add(SESSION, place(whole, 2), b"23456", 0), Ok(7), "over the end");
        assert_eq!(parts.add(SESSION, place(whole, 7), b"789", 0), Ok(10));
        assert_eq!(parts.add(SESSION, place(whole, 7), b"789", 0), Ok(10), "the last one again");
        assert_eq!(parts.whole(SESSION, recipe, 0).as_deref().map(Vec::as_slice), Some(&whole[..]));
        assert_eq!(parts.whole(SessionToken(2), recipe, 0), None);
        parts.forget(SESSION, recipe);
        assert_eq!(parts.whole(SESSION, recipe, 0), None);
        assert_eq!(parts.add(SESSION, place(whole, 0), whole, 0), Ok(10));
        parts.end(SESSION);
        assert_eq!(parts.whole(SESSION, recipe, 0), None);
    }

    #[test]
    fn is_bounded_and_lets_go_of_what_is_abandoned() {
        let parts = Parts::new(10 + 2 * ENTRY_BYTES);
        let (one, two) = (b"aaaaaaaa", b"bbbbbbbb");
        assert_eq!(parts.add(SESSION, place(one, 0), b"aaaaaa", 1000), Ok(6));
        assert_eq!(code(parts.add(SESSION, place(two, 0), b"bbbbbb", 1000 + PATIENCE_SECONDS - 1)), Code::Busy);
        assert_eq!(parts.add(SESSION, place(one, 6), b"aa", 1500), Ok(8));
        assert_eq!(code(parts.add(SESSION, place(two, 0), b"bbbbbb", 1500 + PATIENCE_SECONDS - 1)), Code::Busy);
        assert_eq!(parts.add(SESSION, place(two, 0), b"bbbbbb", 1500 + PATIENCE_SECONDS), Ok(6));
        assert_eq!(parts.whole(SESSION, RecipeId::of(one), 9999), None);
    }

    #[test]
    fn recipes_of_a_byte_count_more_than_that() {
        let parts = Parts::new(10 * (ENTRY_BYTES + 1));
        let place = |n: u8| Place { recipe: RecipeId([n; 32]), offset: 0, length: 2 };
        for n in 0..10 {
            assert_eq!(parts.add(SESSION, place(n), b"a", 0), Ok(1));
        }
        assert_eq!(code(parts.add(SESSION, place(10), b"a", 0)), Code::Busy);
        parts.forget(SESSION, place(0).recipe);
        parts.forget(SESSION, place(0).recipe);
        assert_eq!(parts.add(SESSION, place(10), b"a", 0), Ok(1));
        assert_eq!(code(parts.add(SESSION, place(11), b"a", 0)), Code::Busy);
        assert_eq!(parts.add(SESSION, place(11), b"a", PATIENCE_SECONDS), Ok(1));
        parts.end(SESSION);
        assert_eq!(parts.lock().used, 0);
    }
}
