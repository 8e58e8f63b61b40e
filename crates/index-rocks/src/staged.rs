//! Changes that are written together, and what the index will hold once they are.

use std::collections::{BTreeMap, BTreeSet};

use firn_chunk::RecipeId;
use firn_index::{
    CacheName, Commit, Meta, Op, PackRow, PackSeq, PackState, PathRow, ProvenanceRow, PushRecord, RecipeRow, Refusal,
    Result, Row, Totals, use_of_nar,
};
use firn_nix::StoreHash;
use firn_pack::PackId;
use rocksdb::WriteBatch;

use crate::RocksMeta;
use crate::keys::{self, Family, single};

/// A batch in the making. Whoever holds one keeps other writers out.
///
/// Later commits of a batch must see what earlier ones will have written, but RocksDB shows a batch only once it is:
/// rows that commits read as well as write are kept here until [`Staged::write`].
pub(crate) struct Staged<'a> {
    meta: &'a RocksMeta,
    batch: WriteBatch,
    packs: BTreeMap<PackId, Option<PackRow>>,
    changed_packs: BTreeSet<PackId>,
    recipes: BTreeMap<RecipeId, Option<RecipeRow>>,
    caches: BTreeMap<CacheName, bool>,
    provenance: BTreeMap<Vec<u8>, ProvenanceRow>,
    /// NAR bytes of the paths that the batch writes, and `None` for those that it removes.
    paths: BTreeMap<(CacheName, StoreHash), Option<u64>>,
    totals: Option<Totals>,
    record_order: Option<u64>,
}

impl<'a> Staged<'a> {
    /// Returns a batch without changes.
    pub(crate) fn new(meta: &'a RocksMeta) -> Self {
        Self {
            meta,
            batch: WriteBatch::default(),
            packs: BTreeMap::new(),
            changed_packs: BTreeSet::new(),
            recipes: BTreeMap::new(),
            caches: BTreeMap::new(),
            provenance: BTreeMap::new(),
            paths: BTreeMap::new(),
            totals: None,
            record_order: None,
        }
    }

    /// Adds a row.
    pub(crate) fn put(&mut self, family: Family, key: &[u8], row: &impl Row) {
        self.batch.put_cf(self.meta.family(family), key, row.encode());
    }

    /// Adds a number.
    pub(crate) fn put_number(&mut self, family: Family, key: &[u8], number: u64) {
        self.batch.put_cf(self.meta.family(family), key, number.to_le_bytes());
    }

    /// Takes from the totals.
    pub(crate) fn discount(&mut self, less: &Totals) -> Result<()> {
        self.totals()?.subtract(less);
        Ok(())
    }

    /// Adds the removal of a key.
    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.batch.delete_cf(self.meta.family(family), key);
    }

    /// Adds bytes that are no row.
    pub(crate) fn put_bytes(&mut self, family: Family, key: &[u8], bytes: &[u8]) {
        self.batch.put_cf(self.meta.family(family), key, bytes);
    }

    /// Adds the removal of all keys from one up to before another.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.batch.delete_range_cf(self.meta.family(family), from, to);
    }

    /// Adds a pack's sequence number.
    pub(crate) fn number(&mut self, seq: PackSeq, pack: PackId) {
        self.batch.put_cf(self.meta.family(Family::Seq), seq.to_be_bytes(), pack.0);
        self.batch.put_cf(self.meta.family(Family::Meta), single::LAST_SEQ, seq.to_le_bytes());
    }

    /// Adds a commit, or says why not; a refused one leaves the batch as it was.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<std::result::Result<(), Refusal>> {
        let packs: BTreeSet<PackId> = commit.leans_on().collect();
        let mut gone = Vec::new();
        for id in &packs {
            if self.pack(*id)?.as_ref().is_none_or(|row| row.state == PackState::Doomed) {
                gone.push(*id);
            }
        }
        if !gone.is_empty() {
            return Ok(Err(Refusal::PacksGone(gone)));
        }
        for cache in commit.caches() {
            if !self.has_cache(cache)? {
                return Ok(Err(Refusal::CacheGone(cache.clone())));
            }
        }
        for (id, from) in commit.moves() {
            if !self.find_recipe(&id)?.is_some_and(|row| row.is_at(from)) {
                return Ok(Err(Refusal::RecipeChanged(id)));
            }
        }
        for id in packs {
            self.change_pack(id, |row| {
                if row.state == PackState::Condemned {
                    row.state = PackState::Live;
                }
            })?;
        }
        for op in &commit.ops {
            self.op(op)?;
        }
        Ok(Ok(()))
    }

    fn op(&mut self, op: &Op) -> Result<()> {
        match op {
            Op::Recipe(id, row) | Op::MoveRecipe(id, _, row) => self.recipe(*id, row)?,
            Op::Nar(cache, hash, row) => self.put(Family::Nar, &keys::of_cache(cache, &hash.0), row),
            Op::Alias(cache, name, row) => self.put(Family::Alias, &keys::of_cache(cache, name.as_bytes()), row),
            Op::Path(cache, hash, row) => {
                self.paths.insert((cache.clone(), *hash), Some(row.nar_size));
                self.put(Family::Path, &keys::of_cache(cache, &hash.0), row);
            }
            Op::Document(cache, key, row) => self.put(Family::Document, &keys::document(cache, key), row),
            Op::Pushed(cache, hash, push) => self.pushed(cache, hash, push)?,
            Op::PackDurable(id, bytes) => self.change_pack(*id, |row| {
                if row.state == PackState::Writing {
                    row.durable_bytes = row.durable_bytes.max(*bytes);
                }
            })?,
            Op::DeletePath(cache, hash) => self.delete_path(cache, *hash)?,
            Op::DeleteNar(cache, hash) => {
                self.delete(Family::Use, &keys::of_cache(cache, &use_of_nar(hash).0));
                self.delete(Family::Nar, &keys::of_cache(cache, &hash.0));
            }
            Op::DeleteAlias(cache, name) => self.delete(Family::Alias, &keys::of_cache(cache, name.as_bytes())),
            Op::DeleteDocument(cache, key) => self.delete(Family::Document, &keys::document(cache, key)),
            Op::DeleteRecipe(id) => self.delete_recipe(*id)?,
            Op::CacheGoneRecorded(cache) => {
                self.delete(Family::Meta, &[single::DELETED_CACHE, cache.as_str().as_bytes()].concat());
            }
            Op::RecordOrder(order) => {
                let known = self.record_order.map_or_else(|| self.meta.record_order(), Ok)?;
                self.record_order = Some(known.max(*order));
            }
            Op::Effort(id, effort) => self.batch.put_cf(self.meta.family(Family::Effort), id.0, [*effort]),
            Op::Count(more) => self.count(more)?,
        }
        Ok(())
    }

    /// Adds to a path's provenance.
    fn pushed(&mut self, cache: &CacheName, hash: &StoreHash, push: &PushRecord) -> Result<()> {
        let key = keys::of_cache(cache, &hash.0);
        let mut row = match self.provenance.remove(&key) {
            Some(staged) => staged,
            None => self.meta.provenance(cache, hash)?.unwrap_or_default(),
        };
        row.add(push.clone());
        self.put(Family::Provenance, &key, &row);
        self.provenance.insert(key, row);
        Ok(())
    }

    /// Adds the removal of a path, if it will be there.
    fn delete_path(&mut self, cache: &CacheName, hash: StoreHash) -> Result<()> {
        let there = match self.paths.insert((cache.clone(), hash), None) {
            Some(staged) => staged,
            None => self.meta.path(cache, &hash)?.map(|row| row.nar_size),
        };
        let key = keys::of_cache(cache, &hash.0);
        self.delete(Family::Use, &key);
        self.delete(Family::Provenance, &key);
        self.provenance.insert(key.clone(), ProvenanceRow::default());
        if let Some(logical_bytes) = there {
            self.totals()?.subtract(&Totals { paths: 1, logical_bytes, ..Totals::default() });
            self.delete(Family::Path, &key);
        }
        Ok(())
    }

    /// Adds the removal of a recipe and of its edges.
    fn delete_recipe(&mut self, id: RecipeId) -> Result<()> {
        for pack in self.replace_recipe(id, None)? {
            self.delete(Family::Edge, &keys::edge(pack, id));
        }
        self.delete(Family::Recipe, &id.0);
        Ok(())
    }

    /// Notes what a recipe's row will be and returns the edges that it would have had without.
    fn replace_recipe(&mut self, id: RecipeId, row: Option<RecipeRow>) -> Result<Vec<PackId>> {
        let old = self.find_recipe(&id)?;
        self.recipes.insert(id, row);
        Ok(old.map_or_else(Vec::new, |row| row.edges))
    }

    /// Adds a recipe's row and replaces its edges.
    fn recipe(&mut self, id: RecipeId, row: &RecipeRow) -> Result<()> {
        let old = self.replace_recipe(id, Some(row.clone()))?;
        for pack in old.iter().filter(|pack| !row.edges.contains(pack)) {
            self.delete(Family::Edge, &keys::edge(*pack, id));
        }
        for pack in row.edges.iter().filter(|pack| !old.contains(pack)) {
            self.batch.put_cf(self.meta.family(Family::Edge), keys::edge(*pack, id), []);
        }
        self.put(Family::Recipe, &id.0, row);
        Ok(())
    }

    /// Returns a recipe's row as it will be.
    fn find_recipe(&self, id: &RecipeId) -> Result<Option<RecipeRow>> {
        match self.recipes.get(id) {
            Some(staged) => Ok(staged.clone()),
            None => self.meta.recipe(id),
        }
    }

    /// Returns a pack's row as it will be.
    fn pack(&mut self, id: PackId) -> Result<&mut Option<PackRow>> {
        use std::collections::btree_map::Entry;
        match self.packs.entry(id) {
            Entry::Occupied(known) => Ok(known.into_mut()),
            Entry::Vacant(unknown) => Ok(unknown.insert(self.meta.pack(id)?)),
        }
    }

    /// Changes the row of a pack that is there.
    fn change_pack(&mut self, id: PackId, change: impl FnOnce(&mut PackRow)) -> Result<()> {
        let Some(row) = self.pack(id)? else { return Ok(()) };
        let before = row.clone();
        change(row);
        if *row != before {
            self.changed_packs.insert(id);
        }
        Ok(())
    }

    /// Returns whether a cache is there.
    pub(crate) fn has_cache(&mut self, name: &CacheName) -> Result<bool> {
        if let Some(known) = self.caches.get(name) {
            return Ok(*known);
        }
        let found = self.meta.bytes(Family::Cache, name.as_str().as_bytes(), format_args!("cache '{name}'"))?.is_some();
        self.caches.insert(name.clone(), found);
        Ok(found)
    }

    /// Adds the removal of a cache and of all that belongs to it.
    pub(crate) fn delete_cache(&mut self, name: &CacheName) -> Result<()> {
        let (first, end) = keys::cache_range(name);
        let mut gone = Totals::default();
        self.meta.scan(Family::Path, &first, Some(end.clone()), |_, value| {
            let row = PathRow::decode(value)
                .map_err(|error| firn_index::Error::corrupt_row(format_args!("a path of cache '{name}'"), &error))?;
            gone.add(&Totals { paths: 1, logical_bytes: row.nar_size, ..Totals::default() });
            Ok(true)
        })?;
        self.totals()?.subtract(&gone);
        for family in Family::OF_A_CACHE {
            self.batch.delete_range_cf(self.meta.family(family), &first, &end);
        }
        self.delete(Family::Cache, name.as_str().as_bytes());
        let deleted = [single::DELETED_CACHE, name.as_str().as_bytes()].concat();
        self.batch.put_cf(self.meta.family(Family::Meta), deleted, []);
        Ok(())
    }

    /// Adds to the totals.
    pub(crate) fn count(&mut self, more: &Totals) -> Result<()> {
        self.totals()?.add(more);
        Ok(())
    }

    /// Returns the totals as they will be.
    fn totals(&mut self) -> Result<&mut Totals> {
        if self.totals.is_none() {
            self.totals = Some(self.meta.totals()?);
        }
        Ok(self.totals.as_mut().expect("set above"))
    }

    /// Writes everything at once, durable when it returns; without changes, does nothing.
    pub(crate) fn write(mut self) -> Result<()> {
        for id in std::mem::take(&mut self.changed_packs) {
            if let Some(Some(row)) = self.packs.remove(&id) {
                self.put(Family::Pack, &id.0, &row);
            }
        }
        if let Some(order) = self.record_order {
            self.put_number(Family::Meta, single::RECORD_ORDER, order);
        }
        if let Some(totals) = self.totals {
            self.put(Family::Meta, single::TOTALS, &totals);
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        self.meta.write(&self.batch)
    }
}
