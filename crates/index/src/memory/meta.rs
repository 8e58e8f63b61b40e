use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::{Mutex, MutexGuard, PoisonError};

use firn_chunk::RecipeId;
use firn_nix::{Sha256, StoreHash};
use firn_pack::PackId;

use super::sources::Kept;
use crate::{
    AliasRow, CacheName, CacheRow, CollectionRow, Commit, Day, DocumentKey, DocumentRow, Error, IssuedRow, LeaseRow,
    Meta, NarRow, Op, PackRow, PackSeq, PackState, PathRow, PinName, PinRow, ProvenanceRow, RecipeRow, Refusal, Result,
    RetentionRow, ScrubRow, SessionId, Sessions, SourceName, StoreInfo, SummaryRow, TokenId, TokenRow, Totals,
    UnixSeconds, UpstreamsRow, UsageKey, UsageRow, use_of_nar,
};

/// A [`Meta`] in memory.
#[derive(Debug, Default)]
pub struct MemoryMeta {
    state: Mutex<State>,
    sessions: Sessions,
}

#[derive(Debug, Default)]
pub(super) struct State {
    info: Option<StoreInfo>,
    totals: Totals,
    last_seq: PackSeq,
    record_order: u64,
    since: BTreeMap<PackId, UnixSeconds>,
    uses: BTreeMap<(CacheName, StoreHash), UnixSeconds>,
    uses_since: Option<UnixSeconds>,
    pins: BTreeMap<(CacheName, PinName), PinRow>,
    retention: BTreeMap<CacheName, RetentionRow>,
    upstreams: BTreeMap<CacheName, UpstreamsRow>,
    issued: BTreeMap<TokenId, IssuedRow>,
    leases: BTreeMap<String, LeaseRow>,
    deleted_caches: BTreeSet<CacheName>,
    key_numbers: BTreeMap<String, u64>,
    packs: BTreeMap<PackId, PackRow>,
    sealed: BTreeMap<PackSeq, PackId>,
    edges: BTreeSet<(PackId, RecipeId)>,
    efforts: BTreeMap<PackId, u8>,
    recipes: BTreeMap<RecipeId, RecipeRow>,
    nars: BTreeMap<(CacheName, Sha256), NarRow>,
    aliases: BTreeMap<(CacheName, String), AliasRow>,
    paths: BTreeMap<(CacheName, StoreHash), PathRow>,
    documents: BTreeMap<(CacheName, DocumentKey), DocumentRow>,
    caches: BTreeMap<CacheName, CacheRow>,
    tokens: BTreeMap<TokenId, TokenRow>,
    provenance: BTreeMap<(CacheName, StoreHash), ProvenanceRow>,
    usage: BTreeMap<UsageKey, UsageRow>,
    summaries: BTreeMap<Day, SummaryRow>,
    report: Option<Vec<u8>>,
    scrub: ScrubRow,
    collection: CollectionRow,
    pub(super) sources: BTreeMap<SourceName, Kept>,
}

impl State {
    fn has_edge(&self, pack: PackId) -> bool {
        self.recipes_of(pack, None).next().is_some()
    }

    fn recipes_of(&self, pack: PackId, after: Option<RecipeId>) -> impl Iterator<Item = RecipeId> + '_ {
        let start = after.map_or(std::ops::Bound::Included((pack, RecipeId([0; 32]))), |id| Excluded((pack, id)));
        self.edges.range((start, Unbounded)).take_while(move |(of, _)| *of == pack).map(|(_, recipe)| *recipe)
    }

    /// Says why a commit can't be applied, if it can't.
    fn refusal(&self, commit: &Commit) -> Option<Refusal> {
        let gone: BTreeSet<PackId> = commit
            .leans_on()
            .filter(|id| self.packs.get(id).is_none_or(|row| row.state == PackState::Doomed))
            .collect();
        if !gone.is_empty() {
            return Some(Refusal::PacksGone(gone.into_iter().collect()));
        }
        if let Some(cache) = commit.caches().find(|cache| !self.caches.contains_key(cache)) {
            return Some(Refusal::CacheGone(cache.clone()));
        }
        let is_same = |id: &RecipeId, from| self.recipes.get(id).is_some_and(|row| row.is_at(from));
        commit.moves().find(|(id, from)| !is_same(id, *from)).map(|(id, _)| Refusal::RecipeChanged(id))
    }

    fn apply(&mut self, commit: &Commit) {
        for id in commit.leans_on() {
            if let Some(row) = self.packs.get_mut(&id)
                && row.state == PackState::Condemned
            {
                row.state = PackState::Live;
            }
        }
        for op in &commit.ops {
            self.apply_op(op);
        }
    }

    fn apply_op(&mut self, op: &Op) {
        match op.clone() {
            Op::Recipe(id, row) | Op::MoveRecipe(id, _, row) => {
                let edges = row.edges.clone();
                if let Some(old) = self.recipes.insert(id, row) {
                    for pack in old.edges {
                        self.edges.remove(&(pack, id));
                    }
                }
                self.edges.extend(edges.into_iter().map(|pack| (pack, id)));
            }
            Op::Nar(cache, hash, row) => _ = self.nars.insert((cache, hash), row),
            Op::Alias(cache, name, row) => _ = self.aliases.insert((cache, name), row),
            Op::Path(cache, hash, row) => _ = self.paths.insert((cache, hash), row),
            Op::Document(cache, key, row) => _ = self.documents.insert((cache, key), row),
            Op::Pushed(cache, hash, push) => self.provenance.entry((cache, hash)).or_default().add(push),
            Op::PackDurable(id, bytes) => {
                if let Some(row) = self.packs.get_mut(&id)
                    && row.state == PackState::Writing
                {
                    row.durable_bytes = row.durable_bytes.max(bytes);
                }
            }
            Op::DeletePath(cache, hash) => {
                let key = (cache, hash);
                self.uses.remove(&key);
                self.provenance.remove(&key);
                if let Some(row) = self.paths.remove(&key) {
                    let gone = Totals { paths: 1, logical_bytes: row.nar_size, ..Totals::default() };
                    self.totals.subtract(&gone);
                }
            }
            Op::DeleteNar(cache, hash) => {
                self.uses.remove(&(cache.clone(), use_of_nar(&hash)));
                self.nars.remove(&(cache, hash));
            }
            Op::DeleteAlias(cache, name) => _ = self.aliases.remove(&(cache, name)),
            Op::DeleteDocument(cache, key) => _ = self.documents.remove(&(cache, key)),
            Op::DeleteRecipe(id) => {
                for pack in self.recipes.remove(&id).map_or_else(Vec::new, |row| row.edges) {
                    self.edges.remove(&(pack, id));
                }
            }
            Op::CacheGoneRecorded(cache) => _ = self.deleted_caches.remove(&cache),
            Op::RecordOrder(order) => self.record_order = self.record_order.max(order),
            Op::Effort(id, effort) => _ = self.efforts.insert(id, effort),
            Op::Count(totals) => self.totals.add(&totals),
        }
    }
}

impl MemoryMeta {
    /// Returns an empty index.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Everything is checked before the first change, and no change panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns up to `limit` rows of a cache in order, after `after`.
fn page<K: Ord + Clone, R: Clone>(
    rows: &BTreeMap<(CacheName, K), R>,
    cache: &CacheName,
    after: Option<K>,
    limit: usize,
) -> Vec<(K, R)> {
    let of_cache = rows.iter().filter(|((of, key), _)| of == cache && after.as_ref().is_none_or(|after| key > after));
    of_cache.take(limit).map(|((_, key), row)| (key.clone(), row.clone())).collect()
}

impl Meta for MemoryMeta {
    fn store_info(&self) -> Result<Option<StoreInfo>> {
        Ok(self.lock().info.clone())
    }

    fn set_store_info(&self, info: &StoreInfo) -> Result<()> {
        self.lock().info = Some(info.clone());
        Ok(())
    }

    fn totals(&self) -> Result<Totals> {
        Ok(self.lock().totals)
    }

    fn reserve_pack(&self, id: PackId, at: UnixSeconds) -> Result<()> {
        let mut state = self.lock();
        if state.packs.contains_key(&id) {
            return Err(Error::reserved_twice(id));
        }
        state.packs.insert(id, PackRow::reserved(at));
        Ok(())
    }

    fn seal_pack(&self, id: PackId, stored_bytes: u64, unique_bytes: u64) -> Result<PackSeq> {
        let mut state = self.lock();
        let seq = state.last_seq + 1;
        let row = state.packs.get_mut(&id).ok_or_else(|| Error::sealed_unknown(id))?;
        if let Some(first) = row.seal(id, seq, stored_bytes, unique_bytes)? {
            return Ok(first);
        }
        state.last_seq = seq;
        state.sealed.insert(seq, id);
        state.totals.add(&Totals { stored_bytes, unique_bytes, ..Totals::default() });
        Ok(seq)
    }

    fn forget_pack(&self, id: PackId) -> Result<()> {
        let mut state = self.lock();
        let Some(row) = state.packs.get(&id) else {
            return Ok(());
        };
        row.may_be_forgotten(id, state.has_edge(id))?;
        state.packs.remove(&id);
        state.efforts.remove(&id);
        Ok(())
    }

    fn set_pack_state(&self, id: PackId, from: PackState, to: PackState, at: UnixSeconds) -> Result<bool> {
        let mut state = self.lock();
        if !from.may_become(to) || (to == PackState::Doomed && state.has_edge(id)) {
            return Ok(false);
        }
        match state.packs.get_mut(&id) {
            Some(row) if row.state == from => row.state = to,
            _ => return Ok(false),
        }
        match to {
            PackState::Condemned | PackState::Doomed => state.since.insert(id, at),
            PackState::Live | PackState::Writing => state.since.remove(&id),
        };
        Ok(true)
    }

    fn pack_since(&self, id: PackId) -> Result<Option<UnixSeconds>> {
        Ok(self.lock().since.get(&id).copied())
    }

    fn remove_pack(&self, id: PackId) -> Result<bool> {
        let mut state = self.lock();
        let Some(row) = state.packs.get(&id).filter(|row| row.state == PackState::Doomed).cloned() else {
            return Ok(false);
        };
        state.packs.remove(&id);
        state.since.remove(&id);
        state.efforts.remove(&id);
        state.sealed.remove(&row.seq);
        let gone = Totals { stored_bytes: row.stored_bytes, unique_bytes: row.unique_bytes, ..Totals::default() };
        state.totals.subtract(&gone);
        Ok(true)
    }

    fn pack(&self, id: PackId) -> Result<Option<PackRow>> {
        Ok(self.lock().packs.get(&id).cloned())
    }

    fn packs(&self, after: Option<PackId>, limit: usize) -> Result<Vec<(PackId, PackRow)>> {
        let start = after.map_or(Unbounded, Excluded);
        let state = self.lock();
        Ok(state.packs.range((start, Unbounded)).take(limit).map(|(id, row)| (*id, row.clone())).collect())
    }

    fn sealed_packs(&self, after: PackSeq, limit: usize) -> Result<Vec<(PackSeq, PackId)>> {
        let state = self.lock();
        Ok(state.sealed.range((Excluded(after), Unbounded)).take(limit).map(|(seq, id)| (*seq, *id)).collect())
    }

    fn effort(&self, id: PackId) -> Result<u8> {
        Ok(self.lock().efforts.get(&id).copied().unwrap_or(0))
    }

    fn recipes_of_pack(&self, pack: PackId, after: Option<RecipeId>, limit: usize) -> Result<Vec<RecipeId>> {
        Ok(self.lock().recipes_of(pack, after).take(limit).collect())
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
        let mut state = self.lock();
        let outcome = |commit: &Commit| {
            if commit.session.is_some_and(|id| !self.sessions.is_alive(id, now)) {
                return Err(Refusal::SessionExpired);
            }
            state.refusal(commit).map_or(Ok(()), Err)?;
            state.apply(commit);
            Ok(())
        };
        Ok(batch.iter().map(outcome).collect())
    }

    fn record_order(&self) -> Result<u64> {
        Ok(self.lock().record_order)
    }

    fn recipe(&self, id: &RecipeId) -> Result<Option<RecipeRow>> {
        Ok(self.lock().recipes.get(id).cloned())
    }

    fn recipes(&self, after: Option<RecipeId>, limit: usize) -> Result<Vec<(RecipeId, RecipeRow)>> {
        let start = after.map_or(Unbounded, Excluded);
        let state = self.lock();
        Ok(state.recipes.range((start, Unbounded)).take(limit).map(|(id, row)| (*id, row.clone())).collect())
    }

    fn nar(&self, cache: &CacheName, hash: &Sha256) -> Result<Option<NarRow>> {
        Ok(self.lock().nars.get(&(cache.clone(), *hash)).cloned())
    }

    fn nars(&self, cache: &CacheName, after: Option<Sha256>, limit: usize) -> Result<Vec<(Sha256, NarRow)>> {
        Ok(page(&self.lock().nars, cache, after, limit))
    }

    fn alias(&self, cache: &CacheName, file_name: &str) -> Result<Option<AliasRow>> {
        Ok(self.lock().aliases.get(&(cache.clone(), file_name.to_owned())).cloned())
    }

    fn aliases(&self, cache: &CacheName, after: Option<&str>, limit: usize) -> Result<Vec<(String, AliasRow)>> {
        Ok(page(&self.lock().aliases, cache, after.map(str::to_owned), limit))
    }

    fn path(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<PathRow>> {
        Ok(self.lock().paths.get(&(cache.clone(), *hash)).cloned())
    }

    fn path_may_exist(&self, cache: &CacheName, hash: &StoreHash) -> bool {
        self.lock().paths.contains_key(&(cache.clone(), *hash))
    }

    fn paths(&self, cache: &CacheName, after: Option<StoreHash>, limit: usize) -> Result<Vec<(StoreHash, PathRow)>> {
        Ok(page(&self.lock().paths, cache, after, limit))
    }

    fn document(&self, cache: &CacheName, key: &DocumentKey) -> Result<Option<DocumentRow>> {
        Ok(self.lock().documents.get(&(cache.clone(), key.clone())).cloned())
    }

    fn documents(
        &self,
        cache: &CacheName,
        after: Option<&DocumentKey>,
        limit: usize,
    ) -> Result<Vec<(DocumentKey, DocumentRow)>> {
        Ok(page(&self.lock().documents, cache, after.cloned(), limit))
    }

    fn note_uses(&self, cache: &CacheName, uses: &[(StoreHash, UnixSeconds)]) -> Result<()> {
        self.lock().uses.extend(uses.iter().map(|(hash, at)| ((cache.clone(), *hash), *at)));
        Ok(())
    }

    fn last_use(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<UnixSeconds>> {
        Ok(self.lock().uses.get(&(cache.clone(), *hash)).copied())
    }

    fn uses(&self, cache: &CacheName, after: Option<StoreHash>, limit: usize) -> Result<Vec<(StoreHash, UnixSeconds)>> {
        Ok(page(&self.lock().uses, cache, after, limit))
    }

    fn uses_since(&self) -> Result<Option<UnixSeconds>> {
        Ok(self.lock().uses_since)
    }

    fn set_uses_since(&self, at: UnixSeconds) -> Result<()> {
        self.lock().uses_since = Some(at);
        Ok(())
    }

    fn put_pin(&self, cache: &CacheName, name: &PinName, row: &PinRow) -> Result<bool> {
        let mut state = self.lock();
        if !state.caches.contains_key(cache) {
            return Ok(false);
        }
        state.pins.insert((cache.clone(), name.clone()), row.clone());
        Ok(true)
    }

    fn remove_pin(&self, cache: &CacheName, name: &PinName) -> Result<bool> {
        Ok(self.lock().pins.remove(&(cache.clone(), name.clone())).is_some())
    }

    fn pins(&self, cache: &CacheName) -> Result<Vec<(PinName, PinRow)>> {
        Ok(page(&self.lock().pins, cache, None, usize::MAX))
    }

    fn put_retention(&self, cache: &CacheName, row: &RetentionRow) -> Result<bool> {
        let mut state = self.lock();
        if !state.caches.contains_key(cache) {
            return Ok(false);
        }
        state.retention.insert(cache.clone(), row.clone());
        Ok(true)
    }

    fn put_upstreams(&self, cache: &CacheName, row: &UpstreamsRow) -> Result<bool> {
        let mut state = self.lock();
        if !state.caches.contains_key(cache) {
            return Ok(false);
        }
        state.upstreams.insert(cache.clone(), row.clone());
        Ok(true)
    }

    fn upstreams(&self, cache: &CacheName) -> Result<UpstreamsRow> {
        Ok(self.lock().upstreams.get(cache).cloned().unwrap_or_default())
    }

    fn put_issued(&self, id: &TokenId, row: &IssuedRow) -> Result<()> {
        self.lock().issued.insert(*id, row.clone());
        Ok(())
    }

    fn issued(&self) -> Result<Vec<(TokenId, IssuedRow)>> {
        Ok(self.lock().issued.iter().map(|(id, row)| (*id, row.clone())).collect())
    }

    fn remove_issued(&self, ids: &[TokenId]) -> Result<()> {
        self.lock().issued.retain(|id, _| !ids.contains(id));
        Ok(())
    }

    fn retention(&self, cache: &CacheName) -> Result<RetentionRow> {
        Ok(self.lock().retention.get(cache).cloned().unwrap_or_default())
    }

    fn take_lease(&self, name: &str, holder: u128, now: UnixSeconds, until: UnixSeconds) -> Result<bool> {
        let mut state = self.lock();
        let Some(lease) = LeaseRow::take(state.leases.get(name), holder, now, until) else { return Ok(false) };
        state.leases.insert(name.to_owned(), lease);
        Ok(true)
    }

    fn end_lease(&self, name: &str, holder: u128) -> Result<()> {
        self.lock().leases.retain(|of, lease| of != name || lease.holder != holder);
        Ok(())
    }

    fn end_any_lease(&self, name: &str) -> Result<()> {
        self.lock().leases.remove(name);
        Ok(())
    }

    fn provenance(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<ProvenanceRow>> {
        Ok(self.lock().provenance.get(&(cache.clone(), *hash)).cloned())
    }

    fn add_usage(&self, counters: &[(UsageKey, UsageRow)]) -> Result<()> {
        let mut state = self.lock();
        for (key, row) in counters {
            state.usage.entry(key.clone()).or_default().add(row);
        }
        Ok(())
    }

    fn usage(&self, from: Day, after: Option<&UsageKey>, limit: usize) -> Result<Vec<(UsageKey, UsageRow)>> {
        let state = self.lock();
        let rows = state.usage.iter().filter(|(key, _)| key.day >= from && after.is_none_or(|after| *key > after));
        Ok(rows.take(limit).map(|(key, row)| (key.clone(), *row)).collect())
    }

    fn put_summary(&self, day: Day, row: &SummaryRow, report: &[u8]) -> Result<()> {
        let mut state = self.lock();
        state.summaries.insert(day, *row);
        state.report = Some(report.to_vec());
        Ok(())
    }

    fn summaries(&self, from: Day) -> Result<Vec<(Day, SummaryRow)>> {
        Ok(self.lock().summaries.range(from..).map(|(day, row)| (*day, *row)).collect())
    }

    fn last_report(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.lock().report.clone())
    }

    fn forget_usage(&self, before: Day) -> Result<()> {
        let mut state = self.lock();
        state.usage.retain(|key, _| key.day >= before);
        state.summaries.retain(|day, _| *day >= before);
        Ok(())
    }

    fn put_cache(&self, name: &CacheName, row: &CacheRow) -> Result<()> {
        self.lock().caches.insert(name.clone(), row.clone());
        Ok(())
    }

    fn cache(&self, name: &CacheName) -> Result<Option<CacheRow>> {
        Ok(self.lock().caches.get(name).cloned())
    }

    fn caches(&self) -> Result<Vec<(CacheName, CacheRow)>> {
        Ok(self.lock().caches.iter().map(|(name, row)| (name.clone(), row.clone())).collect())
    }

    fn delete_cache(&self, name: &CacheName) -> Result<bool> {
        let mut state = self.lock();
        if state.caches.remove(name).is_none() {
            return Ok(false);
        }
        let mut gone = Totals::default();
        state.paths.retain(|(of, _), row| {
            if of == name {
                gone.add(&Totals { paths: 1, logical_bytes: row.nar_size, ..Totals::default() });
            }
            of != name
        });
        state.totals.subtract(&gone);
        state.nars.retain(|(of, _), _| of != name);
        state.aliases.retain(|(of, _), _| of != name);
        state.documents.retain(|(of, _), _| of != name);
        state.provenance.retain(|(of, _), _| of != name);
        state.uses.retain(|(of, _), _| of != name);
        state.pins.retain(|(of, _), _| of != name);
        state.retention.remove(name);
        state.upstreams.remove(name);
        state.deleted_caches.insert(name.clone());
        Ok(true)
    }

    fn deleted_caches(&self) -> Result<Vec<CacheName>> {
        Ok(self.lock().deleted_caches.iter().cloned().collect())
    }

    fn note_key_number(&self, stem: &str, number: u64) -> Result<()> {
        let mut state = self.lock();
        let greatest = state.key_numbers.entry(stem.to_owned()).or_default();
        *greatest = (*greatest).max(number);
        Ok(())
    }

    fn key_numbers(&self) -> Result<Vec<(String, u64)>> {
        Ok(self.lock().key_numbers.iter().map(|(stem, number)| (stem.clone(), *number)).collect())
    }

    fn put_token(&self, id: &TokenId, row: &TokenRow) -> Result<()> {
        self.lock().tokens.insert(*id, row.clone());
        Ok(())
    }

    fn token(&self, id: &TokenId) -> Result<Option<TokenRow>> {
        Ok(self.lock().tokens.get(id).cloned())
    }

    fn tokens(&self) -> Result<Vec<(TokenId, TokenRow)>> {
        Ok(self.lock().tokens.iter().map(|(id, row)| (*id, row.clone())).collect())
    }

    fn scrub(&self) -> Result<ScrubRow> {
        Ok(self.lock().scrub.clone())
    }

    fn set_scrub(&self, row: &ScrubRow) -> Result<()> {
        self.lock().scrub = row.clone();
        Ok(())
    }

    fn collection(&self) -> Result<CollectionRow> {
        Ok(self.lock().collection.clone())
    }

    fn set_collection(&self, row: &CollectionRow) -> Result<()> {
        self.lock().collection = row.clone();
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
