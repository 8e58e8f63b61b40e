//! The caches in memory, with their keys parsed: every request looks here and never in the index.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use firn_engine::{MAX_SIGNATURES, PathUpload};
use firn_index::{CacheName, CacheRow, Error, Meta, ReferencePolicy, Uploader, UpstreamMode, UpstreamsRow};
use firn_nix::{NarInfo, PublicKey, SecretKey, Signature, StorePath};

use crate::upstream::Upstream;

/// Signatures of one upload that are verified at most, each some 50 µs; what comes after them in the names of known keys is left out.
const MAX_VERIFIED: usize = 256;

/// A cache as requests see it; never changed in place.
pub struct Cache {
    /// Its name.
    pub name: CacheName,
    /// Its settings.
    pub row: CacheRow,
    /// The keys by one of which uploads must be signed; empty if none is demanded.
    pub trusted: Vec<PublicKey>,
    /// The keys of upstreams, with a URL or without: what they signed need not be in the cache.
    pub upstreams: Vec<PublicKey>,
    /// The upstreams that are asked for what the cache lacks, in order of their priorities.
    pub proxies: Vec<Arc<Upstream>>,
    /// All keys that it knows: its own, `trusted` and `upstreams`.
    known: Vec<PublicKey>,
    listed: UpstreamsRow,
    /// Differs from every earlier value whenever the cache was changed, or deleted and made again: key memory by it.
    pub generation: u64,
    keys: Vec<SecretKey>,
}

impl Cache {
    fn parse(name: &CacheName, row: &CacheRow, listed: UpstreamsRow, generation: u64) -> Result<Self, Error> {
        let corrupt = |what: &str, index: usize| Error::Corrupt {
            what: format!("cache '{name}'"),
            detail: format!("its {what} number {} does not parse", index + 1),
        };
        let keys = parse_all(&row.signing_keys, SecretKey::parse).map_err(|index| corrupt("signing key", index))?;
        let trusted = parse_all(&row.trusted_keys, str::parse).map_err(|index| corrupt("trusted key", index))?;
        let mut upstreams =
            parse_all(&row.upstream_keys, str::parse).map_err(|index| corrupt("upstream key", index))?;
        for upstream in &listed.upstreams {
            let keys: Vec<PublicKey> =
                parse_all(&upstream.keys, str::parse).map_err(|index| corrupt("upstream's key", index))?;
            upstreams.extend(keys.into_iter().filter(|key| !row.upstream_keys.contains(&key.to_string())));
        }
        let mut proxies: Vec<Arc<Upstream>> = Vec::new();
        for upstream in listed.upstreams.iter().filter(|upstream| upstream.mode == UpstreamMode::Proxy) {
            match Upstream::new(upstream) {
                Ok(upstream) => proxies.push(Arc::new(upstream)),
                // What the cache holds needs no upstream.
                Err(error) => tracing::error!(cache = %name, url = upstream.url, error, "an upstream can't be used"),
            }
        }
        proxies.sort_by_key(|upstream| upstream.row.priority);
        let (name, row) = (name.clone(), row.clone());
        let known = keys.iter().map(SecretKey::public).chain(trusted.iter().chain(&upstreams).cloned()).collect();
        Ok(Self { name, row, trusted, upstreams, proxies, known, listed, generation, keys })
    }

    /// Returns a signature (`name:base64`) of a narinfo's fingerprint by each of the cache's keys.
    pub fn sign(&self, fingerprint: &str) -> Vec<String> {
        self.keys.iter().map(|key| key.sign(fingerprint.as_bytes()).to_string()).collect()
    }

    /// Returns what is committed of a path: signed by the cache's keys, all its references here, from nobody knows what address.
    pub fn upload(&self, mut info: NarInfo, uploader: Uploader) -> PathUpload {
        let fingerprint = info.fingerprint(&self.row.store_dir);
        let mut signatures = self.sign(&fingerprint);
        signatures.extend(self.plausible(&fingerprint, info.signatures.iter()).map(ToString::to_string));
        // Those that the path was made with need not occur in the NAR: `builtins.toFile` makes such paths.
        let false_address = info.take_false_address(&self.row.store_dir);
        let references_policy = match self.row.references {
            ReferencePolicy::Strict if info.ca.is_some() => ReferencePolicy::Present,
            policy => policy,
        };
        if let Some(ca) = false_address {
            let (cache, path) = (&self.name, &info.store_path);
            tracing::warn!(%cache, %path, ca = ca.as_str(), "a content address was left out: the path does not follow from it");
        }
        PathUpload {
            path: info.store_path,
            nar_hash: info.nar_hash,
            nar_size: info.nar_size,
            references: info.references.into_iter().collect(),
            elsewhere: Vec::new(),
            named: Vec::new(),
            deriver: info.deriver,
            ca: info.ca.map(|ca| ca.as_str().to_owned()),
            signatures,
            known_keys: self.known.iter().map(|key| key.name().to_owned()).collect(),
            uploader,
            address: None,
            on_conflict: self.row.on_conflict,
            references_policy,
        }
    }

    /// Returns those of some signatures that may be real: in the name of a key that the cache knows, they are by that key.
    fn plausible<'a>(
        &'a self,
        fingerprint: &'a str,
        signatures: impl Iterator<Item = &'a Signature>,
    ) -> impl Iterator<Item = &'a Signature> {
        let mut judge = self.judge();
        signatures.filter(move |signature| judge.weigh(&[fingerprint], signature).is_some())
    }

    /// Returns what tells the signatures of one upload apart.
    pub(crate) fn judge(&self) -> Judge<'_> {
        Judge { known: &self.known, to_verify: MAX_VERIFIED }
    }

    /// After a commit: says in the log how many of the signatures that came with a path it did not take, and returns the number.
    pub fn note_left_out(&self, meta: &dyn Meta, path: &StorePath, sent: &[String]) -> usize {
        if sent.is_empty() {
            return 0;
        }
        // The path stands: what can't be counted must not fail it.
        let Ok(Some(row)) = meta.path(&self.name, &path.hash()) else { return 0 };
        let kept: HashSet<&String> = row.signatures.iter().collect();
        let signatures = sent.iter().filter(|signature| !kept.contains(signature)).count();
        if signatures > 0 {
            tracing::warn!(
                cache = %self.name, %path, signatures, most = MAX_SIGNATURES,
                "signatures were left out: they are not by the keys whose names they have, or the path has too many"
            );
        }
        signatures
    }

    /// Returns what clients put into `trusted-public-keys`.
    pub fn public_keys(&self) -> Vec<PublicKey> {
        self.keys.iter().map(SecretKey::public).collect()
    }
}

/// Tells signatures that may be real from those that are not.
pub(crate) struct Judge<'a> {
    known: &'a [PublicKey],
    to_verify: usize,
}

impl Judge<'_> {
    /// Returns whether a signature is by a key that the cache knows: `Some(false)` if it has no such name, `None` if it has and
    /// the key signed none of `fingerprints`.
    pub(crate) fn weigh(&mut self, fingerprints: &[&str], signature: &Signature) -> Option<bool> {
        let mut known = self.known.iter().filter(|key| key.name() == signature.key_name()).peekable();
        if known.peek().is_none() {
            return Some(false);
        }
        let is_verified = self.to_verify > 0;
        self.to_verify = self.to_verify.saturating_sub(1);
        let signed = |key: &PublicKey| fingerprints.iter().any(|text| key.verify(text.as_bytes(), signature));
        (is_verified && known.any(signed)).then_some(true)
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
            let listed = meta.upstreams(&name)?;
            let cache = match place.by_name.get(&name) {
                Some(cache) if cache.row == row && cache.listed == listed => Arc::clone(cache),
                _ => {
                    next.last_generation += 1;
                    Arc::new(Cache::parse(&name, &row, listed, next.last_generation)?)
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

#[cfg(test)]
mod tests {
    use firn_index::memory::MemoryMeta;

    use super::*;

    fn row(seed: u8) -> CacheRow {
        let key = SecretKey::generate("key-1", [seed; 32]).expect("a name");
        CacheRow { public: true, signing_keys: vec![key.to_text().to_string()], ..CacheRow::new(1) }
    }

    fn name(text: &str) -> CacheName {
        text.parse().expect("a name")
    }

    #[test]
    fn a_change_gives_a_new_generation_and_leaves_the_others() {
        let meta = MemoryMeta::new();
        meta.put_cache(&name("a"), &row(1)).expect("written");
        meta.put_cache(&name("b"), &row(2)).expect("written");
        let caches = Caches::load(&meta).expect("read");
        let (a, b) = (caches.get(&name("a")).expect("there"), caches.get(&name("b")).expect("there"));
        meta.put_cache(&name("a"), &CacheRow { priority: 1, ..row(1) }).expect("written");
        caches.refresh(&meta).expect("read");
        let changed = caches.get(&name("a")).expect("there");
        assert_eq!(changed.row.priority, 1);
        assert!(changed.generation > a.generation.max(b.generation));
        assert!(Arc::ptr_eq(&b, &caches.get(&name("b")).expect("there")));
        // Deleted and made again as it was: what was remembered of the first must not count for the second.
        meta.delete_cache(&name("b")).expect("deleted");
        caches.refresh(&meta).expect("read");
        assert!(caches.get(&name("b")).is_none());
        meta.put_cache(&name("b"), &row(2)).expect("written");
        caches.refresh(&meta).expect("read");
        assert!(caches.get(&name("b")).expect("there").generation > changed.generation);
        assert_eq!(caches.all().iter().map(|cache| cache.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn hosts_match_whatever_their_port_and_case() {
        let meta = MemoryMeta::new();
        let hosted = CacheRow { host: Some("cache.example.org".to_owned()), at_root: true, ..row(1) };
        let caches = Caches::load(&meta).expect("read");
        assert!(caches.by_host("cache.example.org").is_none() && caches.at_root().is_none());
        meta.put_cache(&name("a"), &hosted).expect("written");
        caches.refresh(&meta).expect("read");
        for host in ["cache.example.org", "Cache.Example.ORG", "cache.example.org:8080"] {
            assert!(caches.by_host(host).is_some(), "{host}");
        }
        for host in ["", "example.org", "cache.example.org.", "[::1]:8080", "cache.example.org:x", ":"] {
            assert!(caches.by_host(host).is_none(), "{host}");
        }
        assert_eq!(caches.at_root().map(|cache| cache.name.clone()), Some(name("a")));
    }

    #[test]
    fn a_row_that_is_corrupt_is_an_error_and_the_earlier_ones_stay() {
        let meta = MemoryMeta::new();
        meta.put_cache(&name("a"), &row(1)).expect("written");
        let caches = Caches::load(&meta).expect("read");
        let broken = CacheRow { signing_keys: vec!["key-1:nonsense".to_owned()], priority: 1, ..row(1) };
        meta.put_cache(&name("a"), &broken).expect("written");
        let error = caches.refresh(&meta).expect_err("corrupt").to_string();
        assert!(error.contains("cache 'a'") && !error.contains("nonsense"), "{error}");
        assert_eq!(caches.get(&name("a")).expect("there").row.priority, 30);
    }

    #[test]
    fn every_key_signs() {
        let meta = MemoryMeta::new();
        let second = SecretKey::generate("key-2", [9; 32]).expect("a name").to_text().to_string();
        let mut both = row(1);
        both.signing_keys.push(second);
        meta.put_cache(&name("a"), &both).expect("written");
        let cache = Caches::load(&meta).expect("read").get(&name("a")).expect("there");
        let (keys, signatures) = (cache.public_keys(), cache.sign("1;x"));
        assert_eq!((keys.len(), signatures.len()), (2, 2));
        for (key, signature) in keys.iter().zip(&signatures) {
            assert!(key.verify(b"1;x", &signature.parse().expect("a signature")));
            assert!(!key.verify(b"1;y", &signature.parse().expect("a signature")));
        }
    }
}
