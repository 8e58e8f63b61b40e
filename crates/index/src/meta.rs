use firn_chunk::RecipeId;
use firn_nix::{Sha256, StoreHash};
use firn_pack::{FrameLoc, PackId};

use crate::Sources;
use crate::rows::{
    AliasRow, CacheName, CacheRow, CollectionRow, Day, DocumentKey, DocumentRow, IssuedRow, NarRow, PackRow, PackSeq,
    PackState, PathRow, PinName, PinRow, ProvenanceRow, PushRecord, RecipeRow, RetentionRow, RowError, ScrubRow,
    SessionId, StoreInfo, SummaryRow, TokenId, TokenRow, Totals, UnixSeconds, UpstreamsRow, UsageKey, UsageRow,
};

/// What an index operation can fail with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A row or a file of the index does not decode: the disk or another program changed it.
    #[error("read {what}: the index is corrupt: {detail}")]
    Corrupt {
        /// Which row or file.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The file system has no room; nothing of the operation was applied.
    #[error("write to the index: no space left on the device")]
    Full,
    /// The index was written by a newer firn.
    #[error("open the index: its format version is {found}, and this firn knows up to {known}: upgrade firn")]
    TooNew {
        /// The version that the index names.
        found: u32,
        /// The newest version this program reads.
        known: u32,
    },
    /// Another process holds the index open.
    #[error("open the index: another process is using it")]
    Locked,
    /// What was asked of a pack may only be done to one that nobody uses; nothing was changed.
    #[error("change pack {pack}: it is {detail}")]
    PackInUse {
        /// Which pack.
        pack: PackId,
        /// By what it is used: completes "it is …".
        detail: &'static str,
    },
    /// The engine below failed.
    #[error("{doing}")]
    Engine {
        /// What was being done, as a verb phrase.
        doing: String,
        /// The engine's own error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Error {
    /// Returns the error for a row that does not decode; `key` says which one.
    pub fn corrupt_row(key: impl std::fmt::Display, error: &RowError) -> Self {
        Self::Corrupt { what: format!("the {} of {key}", error.row), detail: error.detail.clone() }
    }
}

/// What every engine says alike about packs that are not where they should be in their life.
impl Error {
    /// Returns the error for reserving a pack that is known already.
    pub fn reserved_twice(pack: PackId) -> Self {
        Self::PackInUse { pack, detail: "reserved already" }
    }

    /// Returns the error for sealing a pack that is not known.
    pub fn sealed_unknown(pack: PackId) -> Self {
        Self::Corrupt {
            what: format!("the row of pack {pack}"),
            detail: "it is to be sealed and was never reserved".to_owned(),
        }
    }
}

/// The result of an index operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a [`Commit`] was not applied. Nothing of it took effect; the others of its batch are untouched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The session ended or its lease ran out: what it was told exists may be gone.
    #[error("commit: the upload's session has expired: start the upload again")]
    SessionExpired,
    /// Packs that the commit leans on are doomed or gone: their chunks must be sent again.
    #[error("commit: {} packs that it leans on are gone", .0.len())]
    PacksGone(Vec<PackId>),
    /// The cache that the commit writes to does not exist, or was deleted meanwhile.
    #[error("commit: there is no cache '{0}'")]
    CacheGone(CacheName),
    /// A recipe that the commit moves is not the one that was read: it was stored again, found damaged, or deleted.
    #[error("commit: the recipe {0} changed meanwhile")]
    RecipeChanged(RecipeId),
}

/// One atomic change.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The session under which it was prepared; checked against the lease. `None` for the server's own changes.
    pub session: Option<SessionId>,
    /// Every pack that the change leans on, beside those that its operations name (edges of recipes, durable
    /// lengths). All must be writing, live or condemned; condemned ones become live again.
    pub packs: Vec<PackId>,
    /// What to write, in order; a later write to a key wins.
    pub ops: Vec<Op>,
}

impl Commit {
    /// Returns every pack that the change leans on, named in `packs` or by an operation; some perhaps twice.
    pub fn leans_on(&self) -> impl Iterator<Item = PackId> + '_ {
        self.packs.iter().chain(self.ops.iter().flat_map(Op::leans_on)).copied()
    }

    /// Returns every cache that the change writes to; some perhaps twice.
    pub fn caches(&self) -> impl Iterator<Item = &CacheName> {
        self.ops.iter().filter_map(|op| match op {
            Op::Nar(cache, ..)
            | Op::Alias(cache, ..)
            | Op::Path(cache, ..)
            | Op::Document(cache, ..)
            | Op::Pushed(cache, ..) => Some(cache),
            // What belongs to a cache that is gone is gone too: to delete it is no reason to refuse anything.
            Op::DeletePath(..) | Op::DeleteNar(..) | Op::DeleteAlias(..) | Op::DeleteDocument(..) => None,
            Op::Recipe(..)
            | Op::MoveRecipe(..)
            | Op::Effort(..)
            | Op::DeleteRecipe(_)
            | Op::PackDurable(..)
            | Op::RecordOrder(_) => None,
            Op::CacheGoneRecorded(_) | Op::Count(_) => None,
        })
    }

    /// Returns every recipe that the change moves, with the record that it was read from.
    pub fn moves(&self) -> impl Iterator<Item = (RecipeId, FrameLoc)> + '_ {
        self.ops.iter().filter_map(|op| match op {
            Op::MoveRecipe(id, from, _) => Some((*id, *from)),
            _ => None,
        })
    }
}

/// One write of a [`Commit`].
#[derive(Debug, Clone)]
pub enum Op {
    /// Writes a recipe's row and its pack edges, replacing the recipe's earlier row and edges.
    Recipe(RecipeId, RecipeRow),
    /// Does as [`Op::Recipe`] with a recipe whose chunks were rewritten, read from the record at this place. If the recipe
    /// has another record by now, is marked damaged or gone, the commit is refused with [`Refusal::RecipeChanged`]. What
    /// counts is how it was before the commit.
    MoveRecipe(RecipeId, FrameLoc, RecipeRow),
    /// Writes a cache's NAR by its hash.
    Nar(CacheName, Sha256, NarRow),
    /// Writes the name under which an uploader sent a NAR (`<filehash>.nar.xz`).
    Alias(CacheName, String, AliasRow),
    /// Writes a path.
    Path(CacheName, StoreHash, PathRow),
    /// Writes a log, realisation or debug-info document.
    Document(CacheName, DocumentKey, DocumentRow),
    /// Adds to what is known of where a path came from.
    Pushed(CacheName, StoreHash, PushRecord),
    /// Raises a writing pack's durable length to at least this many bytes; a sealed pack stays as it is.
    PackDurable(PackId, u64),
    /// Removes a path with its time of last use, and takes it off the totals; one that is not there is no error.
    DeletePath(CacheName, StoreHash),
    /// Removes a NAR with its time of last use; one that is not there is no error.
    DeleteNar(CacheName, Sha256),
    /// Removes an uploader's name of a NAR; one that is not there is no error.
    DeleteAlias(CacheName, String),
    /// Removes a document; one that is not there is no error.
    DeleteDocument(CacheName, DocumentKey),
    /// Removes a recipe with its edges; one that is not there is no error. Whoever commits it has seen to it that no
    /// NAR and no document names it.
    DeleteRecipe(RecipeId),
    /// Raises the number of the last record frame to at least this.
    RecordOrder(u64),
    /// Notes that packs say that a cache was deleted; see [`Meta::deleted_caches`].
    CacheGoneRecorded(CacheName),
    /// Notes with how much effort a pack's frames were compressed, so that they are not compressed again with the same.
    Effort(PackId, u8),
    /// Adds to the store's totals.
    Count(Totals),
}

impl Op {
    fn leans_on(&self) -> &[PackId] {
        match self {
            Self::Recipe(_, row) | Self::MoveRecipe(_, _, row) => &row.edges,
            Self::PackDurable(id, _) | Self::Effort(id, _) => std::slice::from_ref(id),
            Self::Nar(..) | Self::Alias(..) | Self::Path(..) | Self::Document(..) => &[],
            Self::Pushed(..) => &[],
            Self::DeletePath(..) | Self::DeleteNar(..) | Self::DeleteAlias(..) | Self::DeleteDocument(..) => &[],
            Self::DeleteRecipe(_) | Self::RecordOrder(_) => &[],
            Self::CacheGoneRecorded(_) | Self::Count(_) => &[],
        }
    }
}

/// Returns the name under which [`Meta::note_uses`] records uses of a NAR: the first bytes of its hash, which no store
/// hash is but by a chance of 2^-160.
#[must_use]
pub fn use_of_nar(hash: &Sha256) -> StoreHash {
    let mut name = StoreHash([0; 20]);
    name.0.copy_from_slice(&hash.0[..20]);
    name
}

/// The transactional truth about a store.
///
/// Every method that writes is durable when it returns, unless it says otherwise, and all-or-nothing.
/// Implementations serialise writers themselves.
pub trait Meta: Sources + Send + Sync {
    /// Returns the store's identity and fixed parameters, or `None` for a new index.
    fn store_info(&self) -> Result<Option<StoreInfo>>;
    /// Writes the store's identity.
    fn set_store_info(&self, info: &StoreInfo) -> Result<()>;
    /// Returns the sums over everything committed.
    fn totals(&self) -> Result<Totals>;

    /// Records a pack as being written, before its first byte is. Ids are never reused:
    /// one that is known already is [`Error::PackInUse`].
    fn reserve_pack(&self, id: PackId, at: UnixSeconds) -> Result<()>;
    /// Makes a writing pack live, gives it the next sequence number, which is returned, and adds its stored and
    /// unique bytes to the totals.
    /// Sealing a pack twice returns its first number; an unknown pack, or one that was doomed before it was
    /// sealed, is [`Error::Corrupt`]. The first sealing adds the bytes to the totals.
    fn seal_pack(&self, id: PackId, stored_bytes: u64, unique_bytes: u64) -> Result<PackSeq>;
    /// Forgets a pack that never came to be: one that is still writing and that no recipe has an edge to.
    /// Any other is [`Error::PackInUse`]; forgetting an unknown one is no error.
    fn forget_pack(&self, id: PackId) -> Result<()>;
    /// Moves a pack from one state to another, if it is in the first; returns whether it did.
    ///
    /// Possible are live to condemned and back, condemned to doomed, and writing to doomed. A pack that a recipe
    /// has an edge to is never doomed, so that looking for edges and dooming is one step. `at` is kept as the time of the
    /// change until the pack is made live again by this call or removed.
    fn set_pack_state(&self, id: PackId, from: PackState, to: PackState, at: UnixSeconds) -> Result<bool>;
    /// Returns when a pack was last condemned or doomed. A commit that revives a pack leaves the time as it was, so that
    /// a live pack that has one is known to have been condemned.
    fn pack_since(&self, id: PackId) -> Result<Option<UnixSeconds>>;
    /// Removes the row, the number and the effort of a doomed pack whose object is gone, and takes its bytes off the totals;
    /// returns whether it did. A pack that is not doomed stays as it is.
    fn remove_pack(&self, id: PackId) -> Result<bool>;
    /// Returns a pack's row.
    fn pack(&self, id: PackId) -> Result<Option<PackRow>>;
    /// Returns up to `limit` packs in id order, after `after`.
    fn packs(&self, after: Option<PackId>, limit: usize) -> Result<Vec<(PackId, PackRow)>>;
    /// Returns up to `limit` sealed packs in order of their sequence numbers, above `after`.
    fn sealed_packs(&self, after: PackSeq, limit: usize) -> Result<Vec<(PackSeq, PackId)>>;
    /// Returns the effort that was noted for a pack; 0 if none was.
    fn effort(&self, id: PackId) -> Result<u8>;
    /// Returns up to `limit` recipes that have an edge to the pack, in id order, after `after`.
    fn recipes_of_pack(&self, pack: PackId, after: Option<RecipeId>, limit: usize) -> Result<Vec<RecipeId>>;

    /// Starts a session whose lease ends at `expires_at`. Not durable: a crash ends every session.
    fn begin_session(&self, id: SessionId, started_at: UnixSeconds, expires_at: UnixSeconds) -> Result<()>;
    /// Moves a live session's lease; returns whether the session was still alive at `now`.
    fn renew_session(&self, id: SessionId, now: UnixSeconds, expires_at: UnixSeconds) -> Result<bool>;
    /// Ends a session; ending one that is gone is no error.
    fn end_session(&self, id: SessionId) -> Result<()>;
    /// Returns when the oldest session that is alive at `now` began.
    fn oldest_session(&self, now: UnixSeconds) -> Result<Option<UnixSeconds>>;

    /// Applies each commit of the batch atomically, in order, with one wait for the disk for all.
    /// The answer has as many entries as the batch. An `Err` means that none of them is durable.
    fn commit(&self, now: UnixSeconds, batch: &[Commit]) -> Result<Vec<std::result::Result<(), Refusal>>>;

    /// Returns the largest number that was given to a record frame, as [`Op::RecordOrder`] says; 0 for none.
    fn record_order(&self) -> Result<u64>;

    /// Returns a recipe's row.
    fn recipe(&self, id: &RecipeId) -> Result<Option<RecipeRow>>;
    /// Returns up to `limit` recipes in id order, after `after`.
    fn recipes(&self, after: Option<RecipeId>, limit: usize) -> Result<Vec<(RecipeId, RecipeRow)>>;
    /// Returns a NAR of a cache.
    fn nar(&self, cache: &CacheName, hash: &Sha256) -> Result<Option<NarRow>>;
    /// Returns up to `limit` NARs of a cache in hash order, after `after`.
    fn nars(&self, cache: &CacheName, after: Option<Sha256>, limit: usize) -> Result<Vec<(Sha256, NarRow)>>;
    /// Returns what an uploader's file name stands for in a cache.
    fn alias(&self, cache: &CacheName, file_name: &str) -> Result<Option<AliasRow>>;
    /// Returns up to `limit` uploaders' file names of a cache in order, after `after`.
    fn aliases(&self, cache: &CacheName, after: Option<&str>, limit: usize) -> Result<Vec<(String, AliasRow)>>;
    /// Returns a path of a cache.
    fn path(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<PathRow>>;
    /// Returns whether a cache may have a path, from memory alone: `false` is certain, `true` is not. Never blocks.
    fn path_may_exist(&self, cache: &CacheName, hash: &StoreHash) -> bool;
    /// Returns up to `limit` paths of a cache in hash order, after `after`.
    fn paths(&self, cache: &CacheName, after: Option<StoreHash>, limit: usize) -> Result<Vec<(StoreHash, PathRow)>>;
    /// Returns a document of a cache.
    fn document(&self, cache: &CacheName, key: &DocumentKey) -> Result<Option<DocumentRow>>;
    /// Returns up to `limit` documents of a cache in order of kind and name, after `after`.
    fn documents(
        &self,
        cache: &CacheName,
        after: Option<&DocumentKey>,
        limit: usize,
    ) -> Result<Vec<(DocumentKey, DocumentRow)>>;

    /// Returns where a path came from, as far as that was recorded.
    fn provenance(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<ProvenanceRow>>;

    /// Adds to counters; each is one row of one day.
    fn add_usage(&self, counters: &[(UsageKey, UsageRow)]) -> Result<()>;
    /// Returns up to `limit` counters from a day on in order of their keys, after `after`.
    fn usage(&self, from: Day, after: Option<&UsageKey>, limit: usize) -> Result<Vec<(UsageKey, UsageRow)>>;
    /// Writes a day's sums, replacing earlier ones, and the newest report: bytes that mean nothing here.
    fn put_summary(&self, day: Day, row: &SummaryRow, report: &[u8]) -> Result<()>;
    /// Returns the sums of all days from one on, in their order.
    fn summaries(&self, from: Day) -> Result<Vec<(Day, SummaryRow)>>;
    /// Returns the newest report.
    fn last_report(&self) -> Result<Option<Vec<u8>>>;
    /// Forgets counters and sums of the days before one.
    fn forget_usage(&self, before: Day) -> Result<()>;
    /// Records when paths were used, or NARs, which go by [`use_of_nar`]; a later time of the same one replaces an earlier. Not durable: what a crash
    /// loses makes paths look unused since the last call before it. Kept for paths that are not there as well, until
    /// they are deleted or their cache is.
    fn note_uses(&self, cache: &CacheName, uses: &[(StoreHash, UnixSeconds)]) -> Result<()>;
    /// Returns when a path was last used, as [`Meta::note_uses`] recorded it.
    fn last_use(&self, cache: &CacheName, hash: &StoreHash) -> Result<Option<UnixSeconds>>;
    /// Returns up to `limit` paths with recorded uses in hash order, after `after`.
    fn uses(&self, cache: &CacheName, after: Option<StoreHash>, limit: usize) -> Result<Vec<(StoreHash, UnixSeconds)>>;
    /// Returns since when uses are recorded, if that was noted.
    fn uses_since(&self) -> Result<Option<UnixSeconds>>;
    /// Notes since when uses are recorded.
    fn set_uses_since(&self, at: UnixSeconds) -> Result<()>;

    /// Writes a pin of a cache that exists; returns whether it does.
    fn put_pin(&self, cache: &CacheName, name: &PinName, row: &PinRow) -> Result<bool>;
    /// Removes a pin; returns whether there was one.
    fn remove_pin(&self, cache: &CacheName, name: &PinName) -> Result<bool>;
    /// Returns all pins of a cache in order of their names.
    fn pins(&self, cache: &CacheName) -> Result<Vec<(PinName, PinRow)>>;
    /// Writes what a cache keeps; returns whether the cache exists.
    fn put_retention(&self, cache: &CacheName, row: &RetentionRow) -> Result<bool>;
    /// Returns what a cache keeps: everything, if nobody said otherwise.
    fn retention(&self, cache: &CacheName) -> Result<RetentionRow>;

    /// Writes which upstreams a cache has; returns whether the cache exists.
    fn put_upstreams(&self, cache: &CacheName, row: &UpstreamsRow) -> Result<bool>;
    /// Returns which upstreams a cache has: none, if nobody said otherwise.
    fn upstreams(&self, cache: &CacheName) -> Result<UpstreamsRow>;

    /// Takes a named lease for `holder` until `until`, or prolongs it; returns whether it is the holder's. A lease
    /// that ended by `now` is anybody's.
    fn take_lease(&self, name: &str, holder: u128, now: UnixSeconds, until: UnixSeconds) -> Result<bool>;
    /// Ends a lease, if it is the holder's.
    fn end_lease(&self, name: &str, holder: u128) -> Result<()>;
    /// Ends a lease, whoever holds it: for a store that was just opened, and whose earlier users are gone.
    fn end_any_lease(&self, name: &str) -> Result<()>;

    /// Writes a cache's settings and keys.
    fn put_cache(&self, name: &CacheName, row: &CacheRow) -> Result<()>;
    /// Returns a cache's settings and keys.
    fn cache(&self, name: &CacheName) -> Result<Option<CacheRow>>;
    /// Returns all caches in order of their names.
    fn caches(&self) -> Result<Vec<(CacheName, CacheRow)>>;
    /// Removes a cache with its paths, NARs, aliases, documents, uses, pins, retention and upstreams, and takes them off the totals;
    /// their recipes and packs stay for garbage collection. Returns whether there was one.
    fn delete_cache(&self, name: &CacheName) -> Result<bool>;
    /// Returns the names of deleted caches that packs may still know, until [`Op::CacheGoneRecorded`] says otherwise.
    fn deleted_caches(&self) -> Result<Vec<CacheName>>;

    /// Notes that there is a signing key `stem`-`number`. The greatest number stays, whatever becomes of the key and of its cache.
    fn note_key_number(&self, stem: &str, number: u64) -> Result<()>;
    /// Returns the greatest number of a signing key of each stem, in order of the stems.
    fn key_numbers(&self) -> Result<Vec<(String, u64)>>;

    /// Writes a token.
    fn put_token(&self, id: &TokenId, row: &TokenRow) -> Result<()>;
    /// Returns a token.
    fn token(&self, id: &TokenId) -> Result<Option<TokenRow>>;
    /// Returns all tokens in order of their ids.
    fn tokens(&self) -> Result<Vec<(TokenId, TokenRow)>>;

    /// Writes a token that was made for an identity; its id is none of [`Meta::tokens`].
    fn put_issued(&self, id: &TokenId, row: &IssuedRow) -> Result<()>;
    /// Returns all tokens that were made for identities, in order of their ids.
    fn issued(&self) -> Result<Vec<(TokenId, IssuedRow)>>;
    /// Removes tokens that were made for identities; one that is not there is no error.
    fn remove_issued(&self, ids: &[TokenId]) -> Result<()>;

    /// Returns what the engine tells of itself, by names with units: the same ones each time, at most 32.
    fn measures(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Returns what re-reading the packs has found.
    fn scrub(&self) -> Result<ScrubRow>;
    /// Writes what re-reading the packs has found.
    fn set_scrub(&self, row: &ScrubRow) -> Result<()>;

    /// Returns how the last collections of garbage went.
    fn collection(&self) -> Result<CollectionRow>;
    /// Writes how the last collections of garbage went.
    fn set_collection(&self, row: &CollectionRow) -> Result<()>;

    /// Makes everything durable and the files small; called at shutdown.
    fn flush(&self) -> Result<()>;
}
