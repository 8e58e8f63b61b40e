//! The caches in memory, with their keys parsed: every request looks here and never in the index.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use firn_index::{CacheName, CacheRow, Error, Meta};
use firn_nix::{PublicKey, SecretKey};

/// A cache as requests see it; never changed in place.
pub struct Cache {
    /// Its name.
    pub name: CacheName,
    /// Its settings.
    pub row: CacheRow,
    /// The keys by one of which uploads must be signed; empty if none is demanded.
    pub trusted: Vec<PublicKey>,
    /// Differs from every earlier value whenever the cache was changed, or deleted and made again: key memory by it.
    pub generation: u64,
    keys: Vec<SecretKey>,
}

impl Cache {
    fn parse(name: &CacheName, row: &CacheRow, generation: u64) -> Result<Self, Error> {
        let corrupt = |what: &str, index: usize| Error::Corrupt {
            what: format!("cache '{name}'"),
            detail: format!("its {what} number {} does not parse", index + 1),
        };
        let keys = parse_all(&row.signing_keys, SecretKey::parse).map_err(|index| corrupt("signing key", index))?;
        let trusted = parse_all(&row.trusted_keys, str::parse).map_err(|index| corrupt("trusted key", index))?;
        Ok(Self { name: name.clone(), row: row.clone(), trusted, generation, keys })
    }

    /// Returns a signature (`name:base64`) of a narinfo's fingerprint by each of the cache's keys.
    pub fn sign(&self, fingerprint: &str) -> Vec<String> {
        self.keys.iter().map(|key| key.sign(fingerprint.as_bytes()).to_string()).collect()
    }

    /// Returns what clients put into `trusted-public-keys`.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(SecretKey::public).collect()
    }
}

/// Parses all texts, or returns the index of the first that doesn't parse.
fn parse_all<T, E>(texts: &[String], parse: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, usize> {
    texts.iter().enumerate().map(|(index, text)| parse(text).map_err(|_| index)).collect()
}

/// All caches; cheap to read, replaced as a whole.
pub struct Caches {
    snapshot: RwLock<Arc<Snapshot>>,
}

#[derive(Default)]
struct Snapshot {
    by_name: HashMap<CacheName, Arc<Cache>>,
    by_host: HashMap<String, Arc<Cache>>,
    at_root: Option<Arc<Cache>>,
    last_generation: u64,
}

impl Caches {
    /// Reads all caches.
    pub fn load(meta: &dyn Meta) -> Result<Self, Error> {
        let caches = Self { snapshot: RwLock::default() };
        caches.refresh(meta)?;
        Ok(caches)
    }

    /// Reads all caches again; on an error the earlier ones stay. Requests see all of the change or nothing of it.
    pub fn refresh(&self, meta: &dyn Meta) -> Result<(), Error> {
        // Held from before the rows are read, so that two refreshes can't leave the older rows in place.
        let mut place = self.snapshot.write().unwrap_or_else(PoisonError::into_inner);
        let mut next = Snapshot { last_generation: place.last_generation, ..Snapshot::default() };
        for (name, row) in meta.caches()? {
            let cache = match place.by_name.get(&name) {
                Some(cache) if cache.row == row => Arc::clone(cache),
                _ => {
                    next.last_generation += 1;
                    Arc::new(Cache::parse(&name, &row, next.last_generation)?)
                }
            };
            if row.at_root {
                next.at_root = Some(Arc::clone(&cache));
            }
            if let Some(host) = &row.host {
                next.by_host.insert(host.to_ascii_lowercase(), Arc::clone(&cache));
            }
            next.by_name.insert(name, cache);
        }
        *place = Arc::new(next);
        Ok(())
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.snapshot.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns a cache by its name.
    pub fn get(&self, name: &CacheName) -> Option<Arc<Cache>> {
        self.snapshot().by_name.get(name).cloned()
    }

    /// Returns the cache that stands at the root of every host that is no cache's own.
    pub fn at_root(&self) -> Option<Arc<Cache>> {
        self.snapshot().at_root.clone()
    }

    /// Returns the cache whose own host name this is (a port is ignored, and so is letter case).
    pub fn by_host(&self, host: &str) -> Option<Arc<Cache>> {
        let snapshot = self.snapshot();
        if snapshot.by_host.is_empty() {
            return None;
        }
        let name = host
            .rsplit_once(':')
            .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
            .map_or(host, |(name, _)| name);
        snapshot.by_host.get(&name.to_ascii_lowercase()).cloned()
    }

    /// Returns all caches in order of their names.
    pub fn all(&self) -> Vec<Arc<Cache>> {
        let mut caches: Vec<_> = self.snapshot().by_name.values().cloned().collect();
        caches.sort_by(|a, b| a.name.cmp(&b.name));
        caches
    }
}
