//! Which of several records of a key is the last one, and where recipes are.

use std::collections::{BTreeMap, HashMap};

use firn_chunk::RecipeId;
use firn_index::{CacheName, UnixSeconds};
use firn_pack::{FrameLoc, PackId};

use crate::records::Record;

/// What a record is about: half of a hash of its kind, cache and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key([u8; 16]);

impl Key {
    /// Returns the key of a record, or `None` for one that is about no single row. What says that something is gone has the
    /// key of what is gone.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let (kind, cache, key) = match record {
            Record::Nar(cache, hash, _) | Record::NarGone(cache, hash) => (1, cache, hash.0.to_vec()),
            Record::Alias(cache, name, _) => (2, cache, name.as_bytes().to_vec()),
            Record::Path(cache, row) => (3, cache, row.path.hash().0.to_vec()),
            Record::PathGone(cache, hash) => (3, cache, hash.0.to_vec()),
            Record::Document(cache, key, _) | Record::DocumentGone(cache, key) => {
                (4, cache, [&[key.kind as u8], key.name.as_bytes()].concat())
            }
            Record::Order(_) | Record::CacheGone(_) => return None,
        };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[kind]).update(cache.as_str().as_bytes()).update(&[0]).update(&key);
        let mut half = [0; 16];
        half.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Some(Self(half))
    }
}

/// How late a record is: the greatest counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Rank {
    /// The number of its frame; 0 in frames of before there were numbers.
    pub(super) order: u64,
    /// The earlier index's number of the pack, if it is known, where frames have no number.
    pub(super) pack: u64,
    /// When the row says that it was written, where nothing else tells.
    pub(super) at: UnixSeconds,
    /// How much the row has gathered: a merged path has more signatures.
    pub(super) weight: u32,
    /// Where in its pack it is.
    pub(super) offset: u64,
    pub(super) item: u32,
}

impl Rank {
    /// Returns the rank of a record in a frame.
    pub(super) fn of(record: &Record, order: u64, old_number: Option<u64>, loc: FrameLoc, item: u32) -> Self {
        let (at, weight) = match record {
            _ if order != 0 => (0, 0),
            Record::Nar(_, _, row) => (row.uploaded_at, 0),
            Record::Path(_, row) => {
                (row.committed_at, u32::try_from(row.signatures.len() + row.conflicts.len()).unwrap_or(u32::MAX))
            }
            Record::Document(_, _, row) => (row.written_at, 0),
            _ => (0, 0),
        };
        let pack = if order == 0 { old_number.unwrap_or(0) } else { 0 };
        Self { order, pack, at, weight, offset: loc.offset, item }
    }
}

/// What is known of all records and recipes after the first look.
#[derive(Default)]
pub(super) struct Lasts {
    ranks: HashMap<Key, Rank>,
    /// Up to which number packs say that something is gone which is there all the same.
    undone: HashMap<Key, u64>,
    /// Up to which number everything of a cache is gone.
    gone: BTreeMap<CacheName, u64>,
    caches: BTreeMap<CacheName, u64>,
    order: u64,
    recipes: HashMap<RecipeId, Vec<FrameLoc>>,
    packs: HashMap<PackId, usize>,
}

impl Lasts {
    /// Takes note of the number of a record frame.
    pub(super) fn note_order(&mut self, order: u64) {
        self.order = self.order.max(order);
    }

    /// Takes note of a record.
    pub(super) fn add(&mut self, record: &Record, rank: Rank) {
        if let Record::CacheGone(cache) = record {
            let gone = self.gone.entry(cache.clone()).or_default();
            *gone = (*gone).max(rank.order);
        }
        if let Record::Nar(cache, ..)
        | Record::Alias(cache, ..)
        | Record::Path(cache, ..)
        | Record::Document(cache, ..) = record
        {
            let last = self.caches.entry(cache.clone()).or_default();
            *last = (*last).max(rank.order);
        }
        if let Some(key) = Key::of(record) {
            let last = self.ranks.entry(key).or_insert(rank);
            *last = (*last).max(rank);
        }
    }

    /// Takes note of a record that says that something is gone, and is not to be believed.
    pub(super) fn add_undone(&mut self, record: &Record, rank: Rank) {
        if let Some(key) = Key::of(record) {
            let last = self.undone.entry(key).or_default();
            *last = (*last).max(rank.order);
        }
    }

    /// Returns whether a record of this key has a greater number than the given one.
    pub(super) fn is_later(&self, key: Key, order: u64) -> bool {
        self.ranks.get(&key).is_some_and(|rank| rank.order > order)
    }

    /// Returns whether packs alone say that a row of a cache is gone, or know nothing of it.
    pub(super) fn is_denied(&self, cache: &CacheName, key: Key) -> bool {
        let denied = [self.gone.get(cache), self.undone.get(&key)].into_iter().flatten().max();
        self.ranks.get(&key).is_none_or(|rank| denied.is_some_and(|denied| rank.order <= *denied))
    }

    /// Returns whether a record is the last of its key, and its cache was not deleted after it.
    pub(super) fn is_last(&self, record: &Record, rank: Rank) -> bool {
        let (Record::Nar(cache, ..) | Record::Alias(cache, ..) | Record::Path(cache, ..) | Record::Document(cache, ..)) =
            record
        else {
            return false;
        };
        self.gone.get(cache).is_none_or(|gone| rank.order > *gone)
            && Key::of(record).is_some_and(|key| self.ranks.get(&key) == Some(&rank))
    }

    /// Returns the names of the caches that were not deleted, with the greatest number of their records.
    pub(super) fn caches(&self) -> BTreeMap<CacheName, u64> {
        let is_there = |(name, last): &(&CacheName, &u64)| self.gone.get(*name).is_none_or(|gone| *last > gone);
        self.caches.iter().filter(is_there).map(|(name, last)| (name.clone(), *last)).collect()
    }

    /// Returns the greatest number of a record frame.
    pub(super) fn order(&self) -> u64 {
        self.order
    }

    pub(super) fn add_recipe(&mut self, id: RecipeId, loc: FrameLoc) {
        self.recipes.entry(id).or_default().push(loc);
    }

    pub(super) fn rank_packs(&mut self, packs: impl Iterator<Item = PackId>) {
        self.packs = packs.enumerate().map(|(rank, pack)| (pack, rank)).collect();
    }

    /// Returns where a recipe is stored, the last place first.
    pub(super) fn places(&self, id: &RecipeId) -> Vec<FrameLoc> {
        let mut places = self.recipes.get(id).cloned().unwrap_or_default();
        places.sort_by_key(|loc| std::cmp::Reverse((self.packs.get(&loc.pack).copied(), loc.offset)));
        places
    }

    /// Returns whether the index is to know a pack.
    pub(super) fn has_pack(&self, pack: PackId) -> bool {
        self.packs.contains_key(&pack)
    }
}
