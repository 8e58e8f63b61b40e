use firn_pack::{FrameLoc, PackId};
use serde::{Deserialize, Serialize};

use super::{PackSeq, UnixSeconds};
use crate::Error;

/// What is fixed for the life of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreInfo {
    /// The format of the index and the packs.
    pub format_version: u32,
    /// The chunker, as `firn_chunk::ChunkerId` prints it.
    pub chunker: String,
    /// When the store was made.
    pub created_at: UnixSeconds,
    /// A random name of the store.
    pub store_id: u128,
}

/// Sums over a store. As an [`crate::Op::Count`] it is added, field by field.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Paths of all caches.
    pub paths: u64,
    /// NAR bytes of all paths.
    pub logical_bytes: u64,
    /// Uncompressed bytes of all chunks stored.
    pub unique_bytes: u64,
    /// Bytes in packs, with headers, records and footers.
    pub stored_bytes: u64,
}

impl Totals {
    /// Adds field by field, stopping at the largest number.
    pub fn add(&mut self, other: &Self) {
        self.paths = self.paths.saturating_add(other.paths);
        self.logical_bytes = self.logical_bytes.saturating_add(other.logical_bytes);
        self.unique_bytes = self.unique_bytes.saturating_add(other.unique_bytes);
        self.stored_bytes = self.stored_bytes.saturating_add(other.stored_bytes);
    }

    /// Subtracts field by field, stopping at zero.
    pub fn subtract(&mut self, other: &Self) {
        self.paths = self.paths.saturating_sub(other.paths);
        self.logical_bytes = self.logical_bytes.saturating_sub(other.logical_bytes);
        self.unique_bytes = self.unique_bytes.saturating_sub(other.unique_bytes);
        self.stored_bytes = self.stored_bytes.saturating_sub(other.stored_bytes);
    }
}

/// Where a pack is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PackState {
    /// Grows; what is durable of it may be used.
    Writing,
    /// Sealed and needed.
    Live,
    /// No longer offered; a commit that needs it revives it.
    Condemned,
    /// Never again used; deleted after a grace.
    Doomed,
}

impl PackState {
    /// Returns whether [`crate::Meta::set_pack_state`] may take a pack from this state to `to`.
    #[must_use]
    pub fn may_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Live, Self::Condemned)
                | (Self::Condemned, Self::Live | Self::Doomed)
                | (Self::Writing, Self::Doomed)
        )
    }
}

/// A pack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackRow {
    /// Where it is in its life.
    pub state: PackState,
    /// When it was reserved.
    pub reserved_at: UnixSeconds,
    /// 0 until it is sealed.
    pub seq: PackSeq,
    /// How many of its bytes were made durable and acknowledged while it was being written.
    pub durable_bytes: u64,
    /// Its length; 0 until it is sealed.
    pub stored_bytes: u64,
    /// Uncompressed bytes of its chunks; 0 until it is sealed.
    pub unique_bytes: u64,
}

impl PackRow {
    /// Returns the row of a pack that was reserved at `at`.
    #[must_use]
    pub fn reserved(at: UnixSeconds) -> Self {
        Self { state: PackState::Writing, reserved_at: at, seq: 0, durable_bytes: 0, stored_bytes: 0, unique_bytes: 0 }
    }

    /// Makes a writing pack live with the number `seq`; of one that was sealed before, changes nothing and returns
    /// the number that it has.
    ///
    /// # Errors
    /// [`Error::Corrupt`] for a pack that left the writing state without having been sealed.
    pub fn seal(
        &mut self,
        id: PackId,
        seq: PackSeq,
        stored_bytes: u64,
        unique_bytes: u64,
    ) -> Result<Option<PackSeq>, Error> {
        if self.seq != 0 {
            return Ok(Some(self.seq));
        }
        if self.state != PackState::Writing {
            let detail = format!("it is {:?} and is to be sealed", self.state).to_lowercase();
            return Err(Error::Corrupt { what: format!("the row of pack {id}"), detail });
        }
        *self = Self { state: PackState::Live, seq, stored_bytes, unique_bytes, ..*self };
        Ok(None)
    }

    /// Checks that the pack never came to be.
    ///
    /// # Errors
    /// [`Error::PackInUse`] for a pack that is not writing any more or to which a recipe has an edge.
    pub fn may_be_forgotten(&self, id: PackId, has_edge: bool) -> Result<(), Error> {
        match (self.state, has_edge) {
            (PackState::Writing, false) => Ok(()),
            (PackState::Writing, true) => Err(Error::PackInUse { pack: id, detail: "needed by a recipe" }),
            (PackState::Live | PackState::Condemned | PackState::Doomed, _) => {
                Err(Error::PackInUse { pack: id, detail: "not being written any more" })
            }
        }
    }
}

/// A recipe: where its record lies and what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecipeRow {
    /// The record frame that holds the recipe.
    pub record: FrameLoc,
    /// Bytes of the NAR (or document) that it rebuilds.
    pub length: u64,
    /// How many chunks it names.
    pub chunks: u64,
    /// The packs that it needs, the one with its record included: sorted, without duplicates.
    pub edges: Vec<PackId>,
    /// When a chunk of it was found damaged; cleared by a commit that writes the recipe again.
    pub damaged_at: Option<UnixSeconds>,
}

impl RecipeRow {
    /// Returns whether the recipe is whole and its record lies at this place.
    #[must_use]
    pub fn is_at(&self, record: FrameLoc) -> bool {
        self.record == record && self.damaged_at.is_none()
    }
}
