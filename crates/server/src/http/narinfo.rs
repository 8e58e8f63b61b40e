//! Narinfos out: rendered from the path's row, and kept in memory as text, the absent ones too.
//!
//! What is kept is never stale: [`Narinfos::keep`] refuses what was looked up before the last [`Narinfos::forget`] of the
//! same path, and an answer counts only for the cache as it was when it was rendered.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use firn_index::{CacheName, PathRow, Transport};
use firn_nix::{Compression, NarInfo, Sha256, StoreHash};
use http::Response;
use quick_cache::{Equivalent, Weighter};

use super::body::Body;
use super::error::{After, Problem};
use super::{Caching, ok, pull};
use crate::app::App;
use crate::caches::Cache;

/// How long a narinfo may be taken from a cache between us and the client; the client itself keeps it for 30 days.
const MAX_AGE_SECONDS: u32 = 300;
/// What an entry takes beside its text.
const ENTRY_BYTES: u64 = 160;
/// Changes of paths that fall on the same lock wait for each other, for a moment.
const LOCKS: usize = 64;

/// Rendered narinfos, up to a number of bytes.
pub(super) struct Narinfos {
    answers: quick_cache::sync::Cache<Key, Answer, Weight>,
    /// How often something was forgotten, by lock; held while an answer is kept or forgotten.
    changes: [Mutex<u64>; LOCKS],
    /// How often everything was forgotten.
    clears: AtomicU64,
    hasher: RandomState,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    cache: CacheName,
    hash: StoreHash,
}

/// Hashes like a [`Key`] without owning a name.
#[derive(Hash)]
struct Borrowed<'a> {
    cache: &'a CacheName,
    hash: &'a StoreHash,
}

impl Equivalent<Key> for Borrowed<'_> {
    fn equivalent(&self, key: &Key) -> bool {
        *self.cache == key.cache && *self.hash == key.hash
    }
}

#[derive(Clone)]
struct Answer {
    generation: u64,
    text: Option<Bytes>,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Key, Answer> for Weight {
    fn weight(&self, _: &Key, answer: &Answer) -> u64 {
        ENTRY_BYTES + answer.text.as_ref().map_or(0, |text| text.len() as u64)
    }
}

/// A moment: what was looked up after it may be kept if nothing was forgotten since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    changes: u64,
    clears: u64,
}

impl Narinfos {
    /// Makes a memory of at most `bytes`.
    pub(super) fn new(bytes: u64) -> Self {
        let items = usize::try_from(bytes / 700).unwrap_or(usize::MAX);
        Self {
            answers: quick_cache::sync::Cache::with_weighter(items.clamp(16, 1 << 20), bytes, Weight),
            changes: std::array::from_fn(|_| Mutex::new(0)),
            clears: AtomicU64::new(0),
            hasher: RandomState::new(),
        }
    }

    /// Returns what it holds.
    pub(super) fn memory_use(&self) -> firn_engine::MemoryUse {
        firn_engine::MemoryUse::of("narinfos", &self.answers, true)
    }

    fn lock(&self, key: &Borrowed<'_>) -> &Mutex<u64> {
        let at = self.hasher.hash_one(key) as usize % LOCKS;
        &self.changes[at]
    }

    /// Returns what is kept of a path: its narinfo, or that there is none.
    pub(super) fn get(&self, cache: &Cache, hash: &StoreHash) -> Option<Option<Bytes>> {
        let answer = self.answers.get(&Borrowed { cache: &cache.name, hash })?;
        (answer.generation == cache.generation).then_some(answer.text)
    }

    /// Returns the moment before a look-up.
    pub(super) fn moment(&self, cache: &Cache, hash: &StoreHash) -> Moment {
        let clears = self.clears.load(Ordering::SeqCst);
        let lock = self.lock(&Borrowed { cache: &cache.name, hash });
        Moment { changes: *lock.lock().unwrap_or_else(PoisonError::into_inner), clears }
    }

    /// Keeps an answer that was looked up after `since`, unless it may be out of date.
    pub(super) fn keep(&self, cache: &Cache, hash: &StoreHash, text: Option<Bytes>, since: Moment) {
        let place = self.lock(&Borrowed { cache: &cache.name, hash });
        let changes = place.lock().unwrap_or_else(PoisonError::into_inner);
        if *changes == since.changes && self.clears.load(Ordering::SeqCst) == since.clears {
            let key = Key { cache: cache.name.clone(), hash: *hash };
            self.answers.insert(key, Answer { generation: cache.generation, text });
        }
    }

    /// Forgets a path; to be called after every change of it, before the change is acknowledged.
    pub(super) fn forget(&self, cache: &CacheName, hash: &StoreHash) {
        let key = Borrowed { cache, hash };
        let mut changes = self.lock(&key).lock().unwrap_or_else(PoisonError::into_inner);
        *changes += 1;
        self.answers.remove(&key);
    }

    /// Forgets everything; to be called when stored bytes turned out to be damaged, because any path may need them.
    pub(super) fn clear(&self) {
        // All locks are held, so that nothing is kept between the count and the clearing.
        let _all: Vec<_> =
            self.changes.iter().map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        self.clears.fetch_add(1, Ordering::SeqCst);
        self.answers.clear();
    }
}

/// Answers GET and HEAD.
pub(super) async fn get(
    app: &Arc<App>,
    cache: &Arc<Cache>,
    hash: StoreHash,
    way: Option<pull::Way>,
) -> Result<Response<Body>, Problem> {
    let text = match find(app, cache, hash).await? {
        Some(text) => text,
        None => {
            let absent = Problem::NotFound("this path");
            let Some(way) = way else { return Err(absent) };
            pull::narinfo(app, cache, &hash, &way).await.ok_or(absent)?
        }
    };
    Ok(ok(Body::full(text), "text/x-nix-narinfo", Caching::For(MAX_AGE_SECONDS).of(cache)))
}

/// Returns the narinfo of a path that the cache has, and notes that it was used.
async fn find(app: &Arc<App>, cache: &Arc<Cache>, hash: StoreHash) -> Result<Option<Bytes>, Problem> {
    let (memory, meta) = (&app.http.narinfos, app.engine.meta());
    // Most questions are about paths that somebody else has; they are worth no note, and no change of threads.
    let may_exist =
        memory.get(cache, &hash).map_or_else(|| meta.path_may_exist(&cache.name, &hash), |kept| kept.is_some());
    if !may_exist {
        return Ok(None);
    }
    // In this order: a collection leaves what it was told of, and what it had removed before is not found. The memory of narinfos
    // is told of that a little later than the index.
    app.engine.note_use(&cache.name, hash);
    if !meta.path_may_exist(&cache.name, &hash) {
        return Ok(None);
    }
    if let Some(kept) = memory.get(cache, &hash) {
        return Ok(kept);
    }
    let (shared, cache) = (Arc::clone(app), Arc::clone(cache));
    super::work(app, After::Headers, move || look_up(&shared, &cache, &hash)).await
}

/// Reads and renders a narinfo; `None` if there is none, or its NAR can't be restored.
fn look_up(app: &App, cache: &Cache, hash: &StoreHash) -> Result<Option<Bytes>, Problem> {
    let failed = |error: firn_engine::Error| super::failed(app, error, After::Headers);
    let since = app.http.narinfos.moment(cache, hash);
    let meta = app.engine.meta();
    let row = meta.path(&cache.name, hash).map_err(|error| failed(error.into()))?;
    let Some(row) = row else {
        app.http.narinfos.keep(cache, hash, None, since);
        return Ok(None);
    };
    let nar = meta.nar(&cache.name, &row.nar_hash).map_err(|error| failed(error.into()))?;
    let restorable = match nar {
        Some(nar) => app.engine.is_restorable(&nar.recipe).map_err(failed)?,
        None => false,
    };
    if !restorable {
        // Not kept: a new upload of the same NAR under any path repairs it.
        return Ok(None);
    }
    let text = Bytes::from(render(&row, cache));
    app.http.narinfos.keep(cache, hash, Some(text.clone()), since);
    Ok(Some(text))
}

/// Returns where a cache offers a NAR, how it is compressed there, and how long that is if it is known.
pub(super) fn form(cache: &Cache, nar_hash: &Sha256, nar_size: u64) -> (String, Compression, Option<u64>) {
    let (extension, compression, file_size) = match cache.row.transport {
        Transport::Zstd => (".zst", Compression::Zstd, None),
        Transport::None => ("", Compression::None, Some(nar_size)),
    };
    (format!("nar/{}.nar{extension}", nar_hash.to_nix32()), compression, file_size)
}

/// Prints the narinfo of a path as its cache offers it.
///
/// `FileHash` is always there, because `nix store sign` on a cache needs it; nobody verifies it, so that the NAR's own hash
/// stands in for that of the compressed file.
fn render(row: &PathRow, cache: &Cache) -> String {
    let (url, compression, file_size) = form(cache, &row.nar_hash, row.nar_size);
    let mut info = NarInfo {
        store_path: row.path.clone(),
        url,
        compression,
        file_hash: Some(row.nar_hash),
        file_size,
        nar_hash: row.nar_hash,
        nar_size: row.nar_size,
        references: row.references.iter().cloned().collect(),
        deriver: row.deriver.clone(),
        // A malformed line would make Nix refuse the whole narinfo.
        signatures: row.signatures.iter().filter_map(|signature| signature.parse().ok()).collect(),
        ca: row.ca.as_ref().and_then(|ca| ca.parse().ok()),
    };
    // It may be from before it had to be proven.
    info.take_false_address(&cache.row.store_dir);
    info.to_text(&cache.row.store_dir)
}

#[cfg(test)]
mod tests {
    use firn_index::memory::MemoryMeta;
    use firn_index::{CacheRow, Meta as _, Uploader};

    use super::*;
    use crate::caches::Caches;

    fn row() -> CacheRow {
        CacheRow { public: true, ..CacheRow::new(0) }
    }

    /// Returns a cache, and the same one after a change.
    fn caches() -> [Arc<Cache>; 2] {
        let (meta, name) = (MemoryMeta::new(), "c".parse().unwrap());
        meta.put_cache(&name, &row()).unwrap();
        let caches = Caches::load(&meta).unwrap();
        let first = caches.get(&name).unwrap();
        meta.put_cache(&name, &CacheRow { transport: Transport::None, ..row() }).unwrap();
        caches.refresh(&meta).unwrap();
        [first, caches.get(&name).unwrap()]
    }

    fn hash(byte: u8) -> StoreHash {
        StoreHash([byte; 20])
    }

    #[test]
    fn never_keeps_what_was_looked_up_before_a_change() {
        let (memory, [cache, _]) = (Narinfos::new(1 << 20), caches());
        let before = memory.moment(&cache, &hash(1));
        memory.forget(&cache.name, &hash(1));
        memory.keep(&cache, &hash(1), None, before);
        assert_eq!(memory.get(&cache, &hash(1)), None);

        let before = memory.moment(&cache, &hash(1));
        memory.clear();
        memory.keep(&cache, &hash(1), None, before);
        assert_eq!(memory.get(&cache, &hash(1)), None);
    }

    #[test]
    fn keeps_answers_until_a_change() {
        let (memory, [first, changed]) = (Narinfos::new(1 << 20), caches());
        let text = Bytes::from_static(b"x");
        memory.keep(&first, &hash(1), Some(text.clone()), memory.moment(&first, &hash(1)));
        memory.keep(&first, &hash(2), None, memory.moment(&first, &hash(2)));
        assert_eq!(memory.get(&first, &hash(1)), Some(Some(text)));
        assert_eq!(memory.get(&first, &hash(2)), Some(None));
        // The same name, but not the same settings.
        assert_eq!(memory.get(&changed, &hash(1)), None);
        memory.forget(&first.name, &hash(1));
        assert_eq!(memory.get(&first, &hash(1)), None);
        memory.clear();
        assert_eq!(memory.get(&first, &hash(2)), None);
    }

    #[test]
    fn stays_within_its_bytes() {
        let (memory, [cache, _]) = (Narinfos::new(100_000), caches());
        for byte in 0..=255 {
            let text = Bytes::from(vec![b'x'; 1000]);
            memory.keep(&cache, &hash(byte), Some(text), memory.moment(&cache, &hash(byte)));
        }
        assert!(memory.answers.weight() <= 100_000);
    }

    #[test]
    fn renders_both_transports() {
        let path = || "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top".parse::<firn_nix::StorePath>().unwrap();
        let path_row = PathRow {
            path: path(),
            nar_hash: firn_nix::Sha256([7; 32]),
            nar_size: 600,
            references: vec![path()],
            deriver: None,
            ca: None,
            signatures: vec!["broken".into()],
            committed_at: 0,
            uploader: Uploader { token: None, builder: String::new() },
            conflicts: vec![],
        };
        let nix32 = firn_nix::Sha256([7; 32]).to_nix32();
        let [zstd, none] = caches();
        for (cache, url, size) in
            [(zstd, ".zst\nCompression: zstd", ""), (none, "\nCompression: none", "FileSize: 600\n")]
        {
            let expected = format!(
                "StorePath: /nix/store/0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top\nURL: nar/{nix32}.nar{url}\nFileHash: sha256:{nix32}\n{size}\
                 NarHash: sha256:{nix32}\nNarSize: 600\nReferences: 0fanvwfh6772nmhmbw78d8jmj0dr6lpc-top\n"
            );
            assert_eq!(render(&path_row, &cache), expected);
        }
    }
}
