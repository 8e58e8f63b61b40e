//! NARs from what is stored.

use std::sync::Arc;

use firn_chunk::{ChunkId, ChunkerId, Input, Recipe, RecipeId};
use firn_index::{CacheName, LineageKey, NarRow, SessionId, TokenId};
use firn_nix::{Sha256, StoreHash};
use firn_pack::{ChunkLoc, FrameLoc};
use sha2::Digest;

use super::Scope;
use super::reader::Reader;
use crate::engine::Shared;
use crate::ingest::NewRecipe;
use crate::packs::LOOKUP_IDS;
use crate::placement::Placement;
use crate::recipes::StoredRecipe;
use crate::restore::Restore;
use crate::run::Pending;
use crate::{Engine, Error, Result, spans};

/// Bytes that are restored at a time.
const VERIFY_BYTES: usize = 1 << 20;

/// A recipe has at most one chunk in so many bytes, and [`SPARE_CHUNKS`]: chunks have 64 KiB on average, and two for a
/// file of 16 KiB are as many as the cutter makes of one. More would only make the index large.
const BYTES_PER_CHUNK: u64 = 2048;

/// Chunks that a recipe of any length may have.
const SPARE_CHUNKS: u64 = 16;

/// Caches that are asked whether they have the very same NAR: what one takes is small against restoring a NAR.
const OTHER_CACHES: usize = 64;

/// How often a NAR is restored at most, when chunks turn out damaged of which there are other copies.
const ATTEMPTS: usize = 3;

/// What a client says a NAR is made of.
#[derive(Debug, Clone)]
pub struct NarClaim {
    /// What rebuilds it, but for its store hashes.
    pub recipe: RecipeId,
    /// The recipe's encoding; without it the store must know the recipe.
    pub encoded: Option<Vec<u8>>,
    /// Its store hashes.
    pub slots: Vec<StoreHash>,
    /// What its bytes hash to.
    pub nar_hash: Sha256,
    /// How many bytes it has.
    pub nar_size: u64,
}

/// A NAR that can be restored and is what its pusher says, ready for [`Engine::commit_pushed`].
pub struct Assembled {
    pub(crate) session: SessionId,
    /// Who sent it, if they may not read the cache.
    pub(crate) sender: Option<TokenId>,
    pub(crate) cache: CacheName,
    pub(crate) nar_hash: Sha256,
    pub(crate) row: NarRow,
    pub(crate) stored: Arc<StoredRecipe>,
    pub(crate) new_recipe: Option<NewRecipe>,
    /// Where later uploads may find bases in it; nothing if the recipe was stored before.
    pub(crate) lineage: Vec<(LineageKey, u32)>,
}

/// What came of restoring a NAR once.
#[derive(Default)]
struct Checked {
    /// The frames that hold bases of what a new recipe needs.
    bases: Vec<FrameLoc>,
    lineage: Vec<(LineageKey, u32)>,
}

/// A recipe that a NAR is to be made of, and the places of its chunks.
struct Found {
    stored: Arc<StoredRecipe>,
    source: Source,
}

enum Source {
    /// The index has it, with this record.
    Known(FrameLoc),
    /// It is new.
    Sent(Vec<u8>),
}

impl Engine {
    /// Checks that a NAR can be made of what is stored, and that it is what is claimed: restores it once, unless this
    /// cache, or one that the pusher may read, has the very same NAR. Takes no lock meanwhile; memory does not depend on the NAR's size but for some 80
    /// bytes a chunk.
    ///
    /// What `scope` does not let the pusher know of is missing, whoever has sent it.
    ///
    /// # Errors
    /// [`Error::MissingChunks`] names what must be sent first, what was found damaged included; [`Error::RecipeUnknown`]
    /// asks for the encoding. [`Error::BadRecipe`], [`Error::WrongNar`], [`Error::Nar`], [`Error::TooLarge`]: the claim
    /// is wrong, and will be. [`Error::Refused`] when the session has expired.
    pub fn assemble(&self, session: SessionId, scope: &Scope, cache: &CacheName, nar: NarClaim) -> Result<Assembled> {
        let assembled = self.assemble_while(session, scope, cache, nar, &|| true)?;
        assembled
            .ok_or_else(|| Error::Internal("assemble a NAR: it was given up, and nobody had asked for that".to_owned()))
    }

    /// Does what [`Self::assemble`] does, as long as somebody wants it; `None` if that ended before. It asks once a MiB.
    ///
    /// # Errors
    /// As [`Self::assemble`].
    pub fn assemble_while(
        &self,
        session: SessionId,
        scope: &Scope,
        cache: &CacheName,
        nar: NarClaim,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Assembled>> {
        let bytes = spans::number(nar.nar_size);
        let _span = tracing::info_span!(target: spans::TARGET, "assemble", firn.bytes = bytes).entered();
        self.renew_session(session)?;
        let mut found = self.find(scope, &nar)?;
        for _ in 0..ATTEMPTS {
            match self.check(scope, cache, &nar, &found, is_wanted) {
                Ok(Some(checked)) => {
                    return Ok(Some(self.assembled(session, scope.sender(), cache, nar, found, checked)));
                }
                Ok(None) => return Ok(None),
                // The damaged copies are forgotten by now: what has no other is missing.
                Err(error) if error.is_damage() => found = self.shared.find_again(found)?,
                Err(error) => return Err(error),
            }
        }
        Err(Error::damaged(describe(&nar.nar_hash), "copy after copy of its chunks was found damaged: push it again"))
    }

    fn assembled(
        &self,
        session: SessionId,
        sender: Option<TokenId>,
        cache: &CacheName,
        nar: NarClaim,
        found: Found,
        checked: Checked,
    ) -> Assembled {
        let Checked { bases, lineage } = checked;
        let now = self.shared.packs.clock.now();
        let Found { stored, source } = found;
        let new_recipe = match source {
            Source::Known(_) => None,
            Source::Sent(encoded) => Some(NewRecipe {
                encoded,
                placement: Placement { bases, ..stored.placement.clone() },
                length: stored.recipe.length,
                chunks: stored.recipe.chunks.len() as u64,
            }),
        };
        let row = NarRow {
            recipe: nar.recipe,
            slots: nar.slots,
            nar_size: nar.nar_size,
            uploaded_at: now,
            lease_until: now.saturating_add(self.shared.options.nar_lease_seconds),
        };
        Assembled { session, sender, cache: cache.clone(), nar_hash: nar.nar_hash, row, stored, new_recipe, lineage }
    }

    /// Finds the recipe of a claim and the places of its chunks.
    fn find(&self, scope: &Scope, nar: &NarClaim) -> Result<Found> {
        let is_told = self.shared.may_tell_recipes(scope, &[nar.recipe])? == [true];
        if nar.encoded.is_none() && !is_told {
            return Err(Error::RecipeUnknown);
        }
        let sent = nar.encoded.as_deref().map(|encoded| decode(&nar.recipe, encoded)).transpose()?;
        let known = self.shared.known_recipe(&nar.recipe)?;
        let recipe = match (&known, &sent) {
            (Some((stored, _)), _) => Arc::clone(&stored.recipe),
            (None, Some(recipe)) => Arc::clone(recipe),
            (None, None) => return Err(Error::RecipeUnknown),
        };
        self.check_claim(nar, &recipe)?;
        if !is_told {
            self.shared.check_told(scope, &recipe)?;
        }
        match (known, nar.encoded.clone()) {
            (Some((stored, record)), _) => Ok(Found { stored, source: Source::Known(record) }),
            (None, Some(encoded)) => self.shared.find_chunks(recipe, encoded),
            (None, None) => Err(Error::RecipeUnknown),
        }
    }

    /// Checks what can be said of a claim without its chunks.
    fn check_claim(&self, nar: &NarClaim, recipe: &Recipe) -> Result<()> {
        let bad = |detail: String| Err(Error::BadRecipe { detail });
        let limit = self.shared.options.max_nar_bytes;
        if recipe.length > limit {
            return Err(Error::TooLarge { limit });
        }
        if recipe.input != Input::Nar || recipe.chunker != ChunkerId::CURRENT {
            return bad(format!("it is not of a NAR that was cut by {}", ChunkerId::CURRENT));
        }
        let most = SPARE_CHUNKS + recipe.length / BYTES_PER_CHUNK;
        if recipe.chunks.len() as u64 > most {
            return bad(format!("it has {} chunks, and {most} are enough for its length", recipe.chunks.len()));
        }
        let slots = recipe.patches.slot_count();
        if nar.slots.len() != slots {
            return bad(format!("it has {slots} slots, and {} store hashes came with it", nar.slots.len()));
        }
        if recipe.length != nar.nar_size {
            return Err(wrong_nar(nar, format!("its recipe makes {} bytes, not {}", recipe.length, nar.nar_size)));
        }
        Ok(())
    }

    /// Returns whether a cache has the very same NAR: this one, or one of the first [`OTHER_CACHES`] that the pusher may read.
    /// With others, how long it takes would tell what they have.
    fn has_been_checked(&self, scope: &Scope, cache: &CacheName, nar: &NarClaim) -> Result<bool> {
        let is_same = |held: Result<NarRow>| held.map(|row| row.recipe == nar.recipe && row.slots == nar.slots);
        let mut own = self.shared.held([cache], &nar.nar_hash).map(is_same);
        if own.next().transpose()? == Some(true) {
            return Ok(true);
        }
        let all: Vec<CacheName>;
        let others = match scope {
            Scope::Store => {
                all = self.meta().caches()?.into_iter().map(|(name, _)| name).collect();
                &all
            }
            Scope::Caches(readable) | Scope::Sender { readable, .. } => readable,
        };
        for same in self.shared.held(others.iter().take(OTHER_CACHES), &nar.nar_hash).map(is_same) {
            if same? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Restores a NAR once and compares it with what is claimed, unless a cache has the very same one, for which that was
    /// done; `None` if nobody wants it any more.
    fn check(
        &self,
        scope: &Scope,
        cache: &CacheName,
        nar: &NarClaim,
        found: &Found,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<Checked>> {
        let id = match found.source {
            Source::Known(record) => Some((nar.recipe, record)),
            Source::Sent(_) => None,
        };
        if id.is_some() && self.has_been_checked(scope, cache, nar)? {
            return Ok(Some(Checked::default()));
        }
        let stored = Arc::clone(&found.stored);
        let mut restore = Restore::open(&self.shared, id, stored, &nar.slots, 0..nar.nar_size)?;
        let mut sha256 = sha2::Sha256::new();
        let mut reader = Reader::new(&self.shared, &found.stored.recipe, id.is_none());
        while let Some(piece) = restore.next(VERIFY_BYTES)? {
            if !is_wanted() {
                return Ok(None);
            }
            sha256.update(&piece);
            reader.push(&piece).map_err(Error::Nar)?;
        }
        let lineage = reader.finish().map_err(Error::Nar)?;
        if Sha256(sha256.finalize().into()) == nar.nar_hash {
            if id.is_none() {
                self.shared.frames.release(&found.stored.placement);
            }
            Ok(Some(Checked { bases: restore.into_bases(), lineage }))
        } else {
            Err(wrong_nar(nar, "other bytes come of its recipe, chunks and slots".to_owned()))
        }
    }
}

impl Shared {
    /// Returns a recipe that the index has and that is not damaged, with its record.
    fn known_recipe(&self, id: &RecipeId) -> Result<Option<(Arc<StoredRecipe>, FrameLoc)>> {
        let Some(row) = self.packs.meta.recipe(id)?.filter(|row| row.damaged_at.is_none()) else { return Ok(None) };
        match self.recipes.get(&self.frames, id, &row) {
            Ok(stored) => Ok(Some((stored, row.record))),
            Err(error) if error.is_damage() => {
                self.mark_damaged(*id, row.record);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Checks that a pusher may be told of every chunk of a recipe.
    fn check_told(&self, scope: &Scope, recipe: &Recipe) -> Result<()> {
        let ids: Vec<ChunkId> = recipe.chunks.iter().map(|chunk| chunk.id).collect();
        let missing: Vec<bool> = self.may_tell_chunks(scope, &ids)?.into_iter().map(|told| !told).collect();
        if missing.contains(&true) { Err(Error::MissingChunks(missing)) } else { Ok(()) }
    }

    /// Finds the places of a recipe's chunks; what other uploads have in hand is stored first.
    fn find_chunks(&self, recipe: Arc<Recipe>, encoded: Vec<u8>) -> Result<Found> {
        let mut placement = Placement::default();
        let mut missing = Vec::with_capacity(recipe.chunks.len());
        for batch in recipe.chunks.chunks(LOOKUP_IDS) {
            let ids: Vec<ChunkId> = batch.iter().map(|chunk| chunk.id).collect();
            for loc in self.settled(&ids)? {
                missing.push(loc.is_none());
                if let Some(loc) = loc {
                    placement.push(loc);
                }
            }
        }
        if missing.contains(&true) {
            return Err(Error::MissingChunks(missing));
        }
        let stored = StoredRecipe::of(recipe, placement)
            .ok_or_else(|| Error::Internal("place the recipe's chunks: their number is wrong".to_owned()))?;
        Ok(Found { stored: Arc::new(stored), source: Source::Sent(encoded) })
    }

    /// Returns where each chunk lies; what other uploads have in hand is stored first. The index is asked for the rest only: most of
    /// what was just sent is in hand until it is durable.
    fn settled(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>> {
        // In this order: what leaves the hands of an upload is in the index by then.
        let in_hand = self.packs.in_flight.get_all(ids.iter().copied()).into_iter();
        let settle =
            |pending: Option<Arc<Pending>>| Ok(pending.map(|it| it.try_settle(&self.packs)).transpose()?.flatten());
        let mut places = in_hand.map(settle).collect::<Result<Vec<Option<ChunkLoc>>>>()?;
        let others: Vec<ChunkId> =
            ids.iter().zip(&places).filter(|(_, place)| place.is_none()).map(|(id, _)| *id).collect();
        let mut stored = self.packs.lookup_all(&others)?.into_iter();
        for place in places.iter_mut().filter(|place| place.is_none()) {
            *place = stored.next().flatten();
        }
        Ok(places)
    }

    /// Finds the chunks of a recipe anew, after some of them were damaged where they were.
    fn find_again(&self, found: Found) -> Result<Found> {
        let recipe = Arc::clone(&found.stored.recipe);
        let encoded = match found.source {
            Source::Sent(encoded) => encoded,
            Source::Known(_) => recipe.encode(),
        };
        self.find_chunks(recipe, encoded)
    }
}

fn decode(id: &RecipeId, encoded: &[u8]) -> Result<Arc<Recipe>> {
    let bad = |detail: String| Error::BadRecipe { detail };
    if RecipeId::of(encoded) != *id {
        return Err(bad(format!("its bytes are not those of {id}")));
    }
    Recipe::decode(encoded).map(Arc::new).map_err(|error| bad(error.to_string()))
}

fn wrong_nar(nar: &NarClaim, detail: String) -> Error {
    Error::WrongNar { path: describe(&nar.nar_hash), detail }
}

fn describe(nar_hash: &Sha256) -> String {
    format!("the NAR sha256:{}", nar_hash.to_nix32())
}
