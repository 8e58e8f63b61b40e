use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_chunk::RecipeId;
use firn_index::{
    AliasRow, CacheName, CacheRow, CollectionRow, Commit, Day, DocumentKey, DocumentRow, Error, IssuedRow, LeaseRow,
    Meta, NarRow, PackRow, PackSeq, PackState, PathRow, PinName, PinRow, ProvenanceRow, RecipeRow, Refusal, Result,
    RetentionRow, ScrubRow, SessionId, Sessions, StoreInfo, SummaryRow, TokenId, TokenRow, Totals, UnixSeconds,
    UpstreamsRow, UsageKey, UsageRow,
};
use firn_nix::{Sha256, StoreHash};
use firn_pack::PackId;
use rocksdb::{Cache, ColumnFamily, DB, WriteBatch, WriteOptions};

use crate::database;
use crate::errors::corrupt_key;
use crate::keys::{self, Family, single};
use crate::options::{self, MetaOptions};
use crate::staged::Staged;

use self::damaged::Losses;
use self::reads::{id, listed, number, text};

mod damaged;
mod files;
mod reads;
mod sources;
mod writes;

/// The newest format that this code reads, and the one that it writes; `docs/FORMAT.md` says what each version brought.
const FORMAT_VERSION: u32 = 3;

/// [`Meta`] in a RocksDB database of its own.
///
/// Writers wait for one another; each waits for the disk once. Readers wait for nobody. Sessions are in memory:
/// closing ends every one of them.
pub struct RocksMeta {
    db: DB,
    cache: Cache,
    writer: Mutex<()>,
    sessions: Sessions,
    /// What could not be read, where that is left out.
    losses: Option<Losses>,
}

impl RocksMeta {
    /// Opens the database in `folder`/`meta`, or makes one.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it open, [`Error::TooNew`] if a newer firn wrote it,
    /// [`Error::Corrupt`] if it is damaged.
    pub fn open(folder: &Path, options: &MetaOptions) -> Result<Self> {
        let cache = options::block_cache(options.cache_bytes);
        let names = Family::ALL.map(Family::name);
        let family = options::meta_family(&cache);
        let db =
            database::open(&folder.join("meta"), FORMAT_VERSION, &options::meta_database(), &family, &names, &family)?;
        Ok(Self { db, cache, writer: Mutex::new(()), sessions: Sessions::default(), losses: None })
    }

    /// Returns a family's handle.
    pub(crate) fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family was opened")
    }

    /// Returns the handles of all families, the default one with the format's version included.
    fn families(&self) -> Vec<&ColumnFamily> {
        let default = self.db.cf_handle("default");
        Family::ALL.map(|family| self.family(family)).into_iter().chain(default).collect()
    }

    /// Writes a batch, durable when it returns.
    pub(crate) fn write(&self, batch: &WriteBatch) -> Result<()> {
        let mut durable = WriteOptions::default();
        durable.set_sync(true);
        database::write(&self.db, &self.families(), batch, durable, "write to the index")
    }

    /// Returns whether any recipe has an edge to the pack.
    pub(crate) fn has_edge(&self, pack: PackId) -> Result<bool> {
        Ok(!self.recipes_of_pack(pack, None, 1)?.is_empty())
    }

    /// Returns the last sequence number that was given to a pack.
    pub(crate) fn last_seq(&self) -> Result<PackSeq> {
        Ok(self.number(Family::Meta, single::LAST_SEQ, "the last sequence number")?.unwrap_or(0))
    }

    /// Keeps other writers out.
    fn lock(&self) -> MutexGuard<'_, ()> {
        // What a writer that panicked had staged is gone with it.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lease_key(name: &str) -> Vec<u8> {
    [single::LEASE, name.as_bytes()].concat()
}

impl Meta for RocksMeta {
    fn store_info(&self) -> Result<Option<StoreInfo>> {
        self.row(Family::Meta, single::STORE, "the store")
    }

    fn set_store_info(&self, info: &StoreInfo) -> Result<()> {
        self.put_row(Family::Meta, single::STORE, info)
    }

    fn totals(&self) -> Result<Totals> {
        Ok(self.row(Family::Meta, single::TOTALS, "the store")?.unwrap_or_default())
    }

    fn reserve_pack(&self, id: PackId, at: UnixSeconds) -> Result<()> {
        let _writer = self.lock();
        if self.pack(id)?.is_some() {
            return Err(Error::reserved_twice(id));
        }
        let mut staged = Staged::new(self);
        staged.put(Family::Pack, &id.0, &PackRow::reserved(at));
        staged.write()
    }

    fn seal_pack(&self, id: PackId, stored_bytes: u64, unique_bytes: u64) -> Result<PackSeq> {
        let _writer = self.lock();
        let mut row = self.pack(id)?.ok_or_else(|| Error::sealed_unknown(id))?;
        let seq = self.last_seq()?.saturating_add(1);
        if let Some(first) = row.seal(id, seq, stored_bytes, unique_bytes)? {
            return Ok(first);
        }
        let mut staged = Staged::new(self);
        staged.put(Family::Pack, &id.0, &row);
        staged.number(seq, id);
        staged.count(&Totals { stored_bytes, unique_bytes, ..Totals::default() })?;
        staged.write()?;
        Ok(seq)
    }

    fn forget_pack(&self, id: PackId) -> Result<()> {
        let _writer = self.lock();
        let Some(row) = self.pack(id)? else { return Ok(()) };
        row.may_be_forgotten(id, self.has_edge(id)?)?;
        let mut staged = Staged::new(self);
        staged.delete(Family::Pack, &id.0);
        staged.delete(Family::Effort, &id.0);
        staged.write()
    }

    fn set_pack_state(&self, id: PackId, from: PackState, to: PackState, at: UnixSeconds) -> Result<bool> {
        let _writer = self.lock();
        let Some(row) = self.pack(id)? else { return Ok(false) };
        let may = row.state == from && from.may_become(to);
        if !may || (to == PackState::Doomed && self.has_edge(id)?) {
            return Ok(false);
        }
        let mut staged = Staged::new(self);
        staged.put(Family::Pack, &id.0, &PackRow { state: to, ..row });
        match to {
            PackState::Condemned | PackState::Doomed => staged.put_number(Family::Since, &id.0, at),
            PackState::Live | PackState::Writing => staged.delete(Family::Since, &id.0),
        }
        staged.write()?;
        Ok(true)
    }

    fn pack_since(&self, id: PackId) -> Result<Option<UnixSeconds>> {
        self.number(Family::Since, &id.0, format_args!("the time of pack {id}"))
    }

    fn remove_pack(&self, id: PackId) -> Result<bool> {
        let _writer = self.lock();
        let Some(row) = self.pack(id)?.filter(|row| row.state == PackState::Doomed) else { return Ok(false) };
        let mut staged = Staged::new(self);
        staged.delete(Family::Pack, &id.0);
        staged.delete(Family::Since, &id.0);
        staged.delete(Family::Effort, &id.0);
        staged.delete(Family::Seq, &row.seq.to_be_bytes());
        let gone = Totals { stored_bytes: row.stored_bytes, unique_bytes: row.unique_bytes, ..Totals::default() };
        staged.discount(&gone)?;
        staged.write()?;
        Ok(true)
    }

    fn pack(&self, id: PackId) -> Result<Option<PackRow>> {
        self.row(Family::Pack, &id.0, format_args!("pack {id}"))
    }

    fn packs(&self, after: Option<PackId>, limit: usize) -> Result<Vec<(PackId, PackRow)>> {
        let from = after.map_or_else(Vec::new, |id| keys::after(&id.0));
        self.page(Family::Pack, &from, None, limit, |key, value| {
            let id = PackId(id(key, Family::Pack)?);
            Ok((id, listed(value, format_args!("pack {id}"))?))
        })
    }

    fn sealed_packs(&self, after: PackSeq, limit: usize) -> Result<Vec<(PackSeq, PackId)>> {
        let from = keys::after(&after.to_be_bytes());
        self.page(Family::Seq, &from, None, limit, |key, value| {
            Ok((u64::from_be_bytes(id(key, Family::Seq)?), PackId(id(value, Family::Seq)?)))
        })
    }

    fn effort(&self, id: PackId) -> Result<u8> {
        let bytes = self.bytes(Family::Effort, &id.0, format_args!("the effort of pack {id}"))?;
        Ok(bytes.and_then(|bytes| bytes.first().copied()).unwrap_or(0))
    }

    fn recipes_of_pack(&self, pack: PackId, after: Option<RecipeId>, limit: usize) -> Result<Vec<RecipeId>> {
        let first = keys::edge(pack, RecipeId([0; 32]));
        let from = after.map_or_else(|| first.to_vec(), |id| keys::after(&keys::edge(pack, id)));
        let to = keys::after(&keys::edge(pack, RecipeId([0xff; 32])));
        self.page(Family::Edge, &from, Some(to), limit, |key, _| {
            keys::recipe_of_edge(key).ok_or_else(|| corrupt_key(Family::Edge.name(), key))
        })
    }

    fn begin_session(&self, id: SessionId, started_at: UnixSeconds, expires_at: UnixSeconds) -> Result<()> {
        self.sessions.begin(id, started_at, expires_at);
        Ok(())
    }

    fn renew_session(&self, id: SessionId, now: UnixSeconds, expires_at: UnixSeconds) -> Result<bool> {
        Ok(self.sessions.renew(id, now, expires_at))
    }

    fn end_session(&self, id: SessionId) -> Result<()> {
        self.sessions.end(id);
        Ok(())
    }

    fn oldest_session(&self, now: UnixSeconds) -> Result<Option<UnixSeconds>> {
        Ok(self.sessions.oldest(now))
    }

    fn commit(&self, now: UnixSeconds, batch: &[Commit]) -> Result<Vec<std::result::Result<(), Refusal>>> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        let mut outcomes = Vec::with_capacity(batch.len());
        for commit in batch {
            let expired = commit.session.is_some_and(|id| !self.sessions.is_alive(id, now));
            outcomes.push(if expired { Err(Refusal::SessionExpired) } else { staged.commit(commit)? });
        }
        staged.write()?;
        Ok(outcomes)
    }

    fn record_order(&self) -> Result<u64> {
        Ok(self.number(Family::Meta, single::RECORD_ORDER, "the number of the last record frame")?.unwrap_or(0))
    }

    fn recipe(&self, id: &RecipeId) -> Result<Option<RecipeRow>> {
        self.row(Family::Recipe, &id.0, format_args!("recipe {id}"))
    }

    fn recipes(&self, after: Option<RecipeId>, limit: usize) -> Result<Vec<(RecipeId, RecipeRow)>> {
        let from = after.map_or_else(Vec::new, |id| keys::after(&id.0));
        self.page(Family::Recipe, &from, None, limit, |key, value| {
            let id = RecipeId(id(key, Family::Recipe)?);
            Ok((id, listed(value, format_args!("recipe {id}"))?))
        })
    }

    fn nar(&self, cache: &CacheName, hash: &Sha256) -> Result<Option<NarRow>> {
        let key = keys::of_cache(cache, &hash.0);
        self.row(Family::Nar, &key, format_args!("NAR {hash} of cache '{cache}'"))
    }

    fn nars(&self, cache: &CacheName, after: Option<Sha256>, limit: usize) -> Result<Vec<(Sha256, NarRow)>> {
        let after = after.as_ref().map(|hash| &hash.0[..]);
        self.page_of_cache(Family::Nar, cache, after, limit, |key, value| {
            let hash = Sha256(id(key, Family::Nar)?);
            Ok((hash, listed(value, format_args!("NAR {hash} of cache '{cache}'"))?))
        })
    }

    fn alias(&self, cache: &CacheName, file_name: &str) -> Result<Option<AliasRow>> {
        let key = keys::of_cache(cache, file_name.as_bytes());
        self.row(Family::Alias, &key, format_args!("'{file_name}' of cache '{cache}'"))
    }

    fn aliases(&self, cache: &CacheName, after: Option<&str>, limit: usize) -> Result<Vec<(String, AliasRow)>> {
        self.page_of_cache(Family::Alias, cache, after.map(str::as_bytes), limit, |key, value| {
            let name = text(key, Family::Alias)?;
            Ok((name.to_owned(), listed(value, format_args!("'{name}' of cache '{cache}'"))?))
        })
    }

    fn path(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<PathRow>> {
        let key = keys::of_cache(cache, &hash.0);
        self.row(Family::Path, &key, format_args!("path {hash} of cache '{cache}'"))
    }

    fn path_may_exist(&self, cache: &CacheName, hash: &StoreHash) -> bool {
        // Asks memtables, and filters that are in memory; reads no file.
        self.db.key_may_exist_cf(self.family(Family::Path), keys::of_cache(cache, &hash.0))
    }

    fn paths(&self, cache: &CacheName, after: Option<StoreHash>, limit: usize) -> Result<Vec<(StoreHash, PathRow)>> {
        let after = after.as_ref().map(|hash| &hash.0[..]);
        self.page_of_cache(Family::Path, cache, after, limit, |key, value| {
            let hash = StoreHash(id(key, Family::Path)?);
            Ok((hash, listed(value, format_args!("path {hash} of cache '{cache}'"))?))
        })
    }

    fn document(&self, cache: &CacheName, key: &DocumentKey) -> Result<Option<DocumentRow>> {
        let what = format_args!("document '{}' of cache '{cache}'", key.name);
        self.row(Family::Document, &keys::document(cache, key), what)
    }

    fn documents(
        &self,
        cache: &CacheName,
        after: Option<&DocumentKey>,
        limit: usize,
    ) -> Result<Vec<(DocumentKey, DocumentRow)>> {
        let after = after.map(|key| keys::document(cache, key));
        let after = after.as_deref().and_then(|key| keys::in_cache(cache, key));
        self.page_of_cache(Family::Document, cache, after, limit, |key, value| {
            let key = keys::document_of(key).ok_or_else(|| corrupt_key(Family::Document.name(), key))?;
            let row = listed(value, format_args!("document '{}' of cache '{cache}'", key.name))?;
            Ok((key, row))
        })
    }

    fn note_uses(&self, cache: &CacheName, uses: &[(StoreHash, UnixSeconds)]) -> Result<()> {
        let _writer = self.lock();
        let mut batch = WriteBatch::default();
        for (hash, at) in uses {
            batch.put_cf(self.family(Family::Use), keys::of_cache(cache, &hash.0), at.to_le_bytes());
        }
        // Nobody waits for it, but each record of the log is durable before the next: see `log_files`.
        self.write(&batch)
    }

    fn last_use(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<UnixSeconds>> {
        let key = keys::of_cache(cache, &hash.0);
        self.number(Family::Use, &key, format_args!("the last use of path {hash} of cache '{cache}'"))
    }

    fn uses(&self, cache: &CacheName, after: Option<StoreHash>, limit: usize) -> Result<Vec<(StoreHash, UnixSeconds)>> {
        let after = after.as_ref().map(|hash| &hash.0[..]);
        self.page_of_cache(Family::Use, cache, after, limit, |key, value| {
            let hash = StoreHash(id(key, Family::Use)?);
            Ok((hash, number(value, format_args!("the last use of path {hash} of cache '{cache}'"))?))
        })
    }

    fn uses_since(&self) -> Result<Option<UnixSeconds>> {
        self.number(Family::Meta, single::USES_SINCE, "since when uses are recorded")
    }

    fn set_uses_since(&self, at: UnixSeconds) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        staged.put_number(Family::Meta, single::USES_SINCE, at);
        staged.write()
    }

    fn put_pin(&self, cache: &CacheName, name: &PinName, row: &PinRow) -> Result<bool> {
        self.put_of_cache(Family::Pin, cache, name.as_str().as_bytes(), row)
    }

    fn remove_pin(&self, cache: &CacheName, name: &PinName) -> Result<bool> {
        let _writer = self.lock();
        let key = keys::of_cache(cache, name.as_str().as_bytes());
        if self.bytes(Family::Pin, &key, format_args!("pin '{name}' of cache '{cache}'"))?.is_none() {
            return Ok(false);
        }
        let mut staged = Staged::new(self);
        staged.delete(Family::Pin, &key);
        staged.write()?;
        Ok(true)
    }

    fn pins(&self, cache: &CacheName) -> Result<Vec<(PinName, PinRow)>> {
        self.page_of_cache(Family::Pin, cache, None, usize::MAX, |key, value| {
            let name: PinName = text(key, Family::Pin)?.parse().map_err(|_| corrupt_key(Family::Pin.name(), key))?;
            let row = listed(value, format_args!("pin '{name}' of cache '{cache}'"))?;
            Ok((name, row))
        })
    }

    fn put_retention(&self, cache: &CacheName, row: &RetentionRow) -> Result<bool> {
        self.put_of_cache(Family::Retention, cache, &[], row)
    }

    fn put_upstreams(&self, cache: &CacheName, row: &UpstreamsRow) -> Result<bool> {
        self.put_of_cache(Family::Upstream, cache, &[], row)
    }

    fn upstreams(&self, cache: &CacheName) -> Result<UpstreamsRow> {
        let key = keys::of_cache(cache, &[]);
        Ok(self.row(Family::Upstream, &key, format_args!("cache '{cache}'"))?.unwrap_or_default())
    }

    fn retention(&self, cache: &CacheName) -> Result<RetentionRow> {
        let key = keys::of_cache(cache, &[]);
        Ok(self.row(Family::Retention, &key, format_args!("cache '{cache}'"))?.unwrap_or_default())
    }

    fn take_lease(&self, name: &str, holder: u128, now: UnixSeconds, until: UnixSeconds) -> Result<bool> {
        let _writer = self.lock();
        let before = self.row(Family::Meta, &lease_key(name), name)?;
        let Some(lease) = LeaseRow::take(before.as_ref(), holder, now, until) else { return Ok(false) };
        let mut staged = Staged::new(self);
        staged.put(Family::Meta, &lease_key(name), &lease);
        staged.write()?;
        Ok(true)
    }

    fn end_lease(&self, name: &str, holder: u128) -> Result<()> {
        let _writer = self.lock();
        let before: Option<LeaseRow> = self.row(Family::Meta, &lease_key(name), name)?;
        let mut staged = Staged::new(self);
        if before.is_some_and(|lease| lease.holder == holder) {
            staged.delete(Family::Meta, &lease_key(name));
        }
        staged.write()
    }

    fn end_any_lease(&self, name: &str) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        if self.bytes(Family::Meta, &lease_key(name), name)?.is_some() {
            staged.delete(Family::Meta, &lease_key(name));
        }
        staged.write()
    }

    fn provenance(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<ProvenanceRow>> {
        let key = keys::of_cache(cache, &hash.0);
        self.row(Family::Provenance, &key, format_args!("path {hash} of cache '{cache}'"))
    }

    fn add_usage(&self, counters: &[(UsageKey, UsageRow)]) -> Result<()> {
        self.add_counters(counters)
    }

    fn usage(&self, from: Day, after: Option<&UsageKey>, limit: usize) -> Result<Vec<(UsageKey, UsageRow)>> {
        let first = keys::counters_from(from);
        let from = after.map_or(first.clone(), |key| keys::after(&keys::counters(key)).max(first));
        self.page(Family::Usage, &from, Some(keys::summary(0)), limit, |key, value| {
            let of = keys::read_counters(key).ok_or_else(|| corrupt_key(Family::Usage.name(), key))?;
            let row = listed(value, format_args!("day {} of cache '{}'", of.day, of.cache))?;
            Ok((of, row))
        })
    }

    fn put_summary(&self, day: Day, row: &SummaryRow, report: &[u8]) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        staged.put(Family::Usage, &keys::summary(day), row);
        staged.put_bytes(Family::Usage, keys::REPORT, report);
        staged.write()
    }

    fn summaries(&self, from: Day) -> Result<Vec<(Day, SummaryRow)>> {
        self.page(Family::Usage, &keys::summary(from), Some(keys::REPORT.to_vec()), usize::MAX, |key, value| {
            let day = keys::read_summary(key).ok_or_else(|| corrupt_key(Family::Usage.name(), key))?;
            Ok((day, listed(value, format_args!("day {day}"))?))
        })
    }

    fn last_report(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.bytes(Family::Usage, keys::REPORT, "the newest report")?.map(|bytes| bytes.to_vec()))
    }

    fn forget_usage(&self, before: Day) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        staged.delete_range(Family::Usage, &keys::counters_from(0), &keys::counters_from(before));
        staged.delete_range(Family::Usage, &keys::summary(0), &keys::summary(before));
        staged.write()
    }

    fn put_cache(&self, name: &CacheName, row: &CacheRow) -> Result<()> {
        self.put_row(Family::Cache, name.as_str().as_bytes(), row)
    }

    fn cache(&self, name: &CacheName) -> Result<Option<CacheRow>> {
        self.row(Family::Cache, name.as_str().as_bytes(), format_args!("cache '{name}'"))
    }

    fn caches(&self) -> Result<Vec<(CacheName, CacheRow)>> {
        self.page(Family::Cache, &[], None, usize::MAX, |key, value| {
            let name = std::str::from_utf8(key).ok().and_then(|name| name.parse().ok());
            let name: CacheName = name.ok_or_else(|| corrupt_key(Family::Cache.name(), key))?;
            let row = listed(value, format_args!("cache '{name}'"))?;
            Ok((name, row))
        })
    }

    fn delete_cache(&self, name: &CacheName) -> Result<bool> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        if !staged.has_cache(name)? {
            return Ok(false);
        }
        staged.delete_cache(name)?;
        staged.write()?;
        Ok(true)
    }

    fn deleted_caches(&self) -> Result<Vec<CacheName>> {
        // No name holds 0xff.
        let to = [single::DELETED_CACHE, &[0xff]].concat();
        self.page(Family::Meta, single::DELETED_CACHE, Some(to), usize::MAX, |key, _| {
            let name = key.strip_prefix(single::DELETED_CACHE).unwrap_or_default();
            text(name, Family::Meta)?.parse().map_err(|_| corrupt_key(Family::Meta.name(), key))
        })
    }

    fn note_key_number(&self, stem: &str, number: u64) -> Result<()> {
        let _writer = self.lock();
        let key = [single::KEY_NUMBER, stem.as_bytes()].concat();
        let greatest = self.number(Family::Meta, &key, "the number of the last signing key")?.unwrap_or(0);
        let mut staged = Staged::new(self);
        staged.put_number(Family::Meta, &key, greatest.max(number));
        staged.write()
    }

    fn key_numbers(&self) -> Result<Vec<(String, u64)>> {
        let to = [single::KEY_NUMBER, &[0xff]].concat();
        self.page(Family::Meta, single::KEY_NUMBER, Some(to), usize::MAX, |key, value| {
            let stem = text(key.strip_prefix(single::KEY_NUMBER).unwrap_or_default(), Family::Meta)?;
            Ok((stem.to_owned(), number(value, format_args!("the number of the last signing key of '{stem}'"))?))
        })
    }

    fn put_issued(&self, id: &TokenId, row: &IssuedRow) -> Result<()> {
        self.put_row(Family::Issued, &id.0.to_be_bytes(), row)
    }

    fn issued(&self) -> Result<Vec<(TokenId, IssuedRow)>> {
        self.page(Family::Issued, &[], None, usize::MAX, |key, value| {
            let id = TokenId(u64::from_be_bytes(id(key, Family::Issued)?));
            Ok((id, listed(value, format_args!("token {id}"))?))
        })
    }

    fn remove_issued(&self, ids: &[TokenId]) -> Result<()> {
        let _writer = self.lock();
        let mut staged = Staged::new(self);
        for id in ids {
            staged.delete(Family::Issued, &id.0.to_be_bytes());
        }
        staged.write()
    }

    fn put_token(&self, id: &TokenId, row: &TokenRow) -> Result<()> {
        self.put_row(Family::Token, &id.0.to_be_bytes(), row)
    }

    fn token(&self, id: &TokenId) -> Result<Option<TokenRow>> {
        self.row(Family::Token, &id.0.to_be_bytes(), format_args!("token {id}"))
    }

    fn tokens(&self) -> Result<Vec<(TokenId, TokenRow)>> {
        self.page(Family::Token, &[], None, usize::MAX, |key, value| {
            let id = TokenId(u64::from_be_bytes(id(key, Family::Token)?));
            Ok((id, listed(value, format_args!("token {id}"))?))
        })
    }

    fn measures(&self) -> Vec<(&'static str, u64)> {
        database::measures(&self.db, &self.families(), &self.cache)
    }

    fn scrub(&self) -> Result<ScrubRow> {
        Ok(self.row(Family::Meta, single::SCRUB, "the scrub's outcome")?.unwrap_or_default())
    }

    fn set_scrub(&self, row: &ScrubRow) -> Result<()> {
        self.put_row(Family::Meta, single::SCRUB, row)
    }

    fn collection(&self) -> Result<CollectionRow> {
        Ok(self.row(Family::Meta, single::COLLECTION, "the collections' outcome")?.unwrap_or_default())
    }

    fn set_collection(&self, row: &CollectionRow) -> Result<()> {
        self.put_row(Family::Meta, single::COLLECTION, row)
    }

    fn flush(&self) -> Result<()> {
        let _writer = self.lock();
        database::flush(&self.db, &self.families())
    }
}
