//! An upstream of a cache at work: its client, the keys that it is trusted by, and whether it is worth asking.

mod breaker;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use firn_index::{UnixSeconds, UpstreamRow};
use firn_nix::{NarInfo, PublicKey, StoreHash};
use http::{HeaderName, HeaderValue};

pub use breaker::Breaker;

use crate::binary_cache::{BinaryCache, FetchError, NarFile, Patience};

/// An upstream that is asked for what a cache lacks. Whoever changes the cache's settings gets another one.
pub struct Upstream {
    /// Its settings.
    pub row: UpstreamRow,
    /// What counts since the cache's settings were changed, or the server began.
    pub counters: Counters,
    cache: BinaryCache,
    keys: Vec<PublicKey>,
    breaker: Breaker,
}

/// What an upstream was asked, and what came of it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests that were sent.
    pub requests: AtomicU64,
    /// Those that failed.
    pub failures: AtomicU64,
    /// Narinfos that it had, signed by one of its keys.
    pub hits: AtomicU64,
    /// Narinfos that it did not have.
    pub misses: AtomicU64,
    /// Narinfos that nobody trusted had signed.
    pub untrusted: AtomicU64,
    /// Bytes of NARs' files that came.
    pub received_bytes: AtomicU64,
}

/// What an upstream says of a path.
pub enum Said {
    /// It has it, signed by one of its keys.
    Has(Box<NarInfo>),
    /// It does not have it, or nothing that may be trusted.
    Not,
    /// It could not be asked.
    Trouble,
}

impl Upstream {
    /// Returns an upstream; the error says what is wrong with its settings. Nothing is sent.
    pub fn new(row: &UpstreamRow) -> Result<Self, String> {
        let patience = Patience {
            connect: Duration::from_millis(row.connect_timeout_ms),
            first_byte: Duration::from_millis(row.first_byte_timeout_ms),
            idle: Duration::from_millis(row.idle_timeout_ms),
        };
        let cache = BinaryCache::new(&row.url, patience, row.token_file.as_ref().map(Into::into));
        let cache = cache.map_err(|error| error.to_string())?;
        let keys = row.keys.iter().map(|key| key.parse()).collect::<Result<_, _>>();
        let keys = keys.map_err(|error: firn_nix::Error| error.to_string())?;
        Ok(Self { row: row.clone(), counters: Counters::default(), cache, keys, breaker: Breaker::default() })
    }

    /// Returns the name under which what comes from here is recorded.
    pub fn builder(&self) -> String {
        format!("upstream {}", self.cache.url())
    }

    /// Returns until when it is left alone, if it is in trouble.
    pub fn rests_until(&self, now: UnixSeconds) -> Option<UnixSeconds> {
        self.breaker.rests_until(now)
    }

    /// Asks for a path, unless the upstream rests; `via` goes along. What nobody trusted has signed is as good as absent.
    pub async fn narinfo(
        &self,
        hash: &StoreHash,
        store_dir: &str,
        now: UnixSeconds,
        via: &(HeaderName, HeaderValue),
    ) -> Said {
        if !self.breaker.may_ask(now) {
            return Said::Trouble;
        }
        let mut info = match self.note(self.cache.with_header(via).narinfo(hash, store_dir).await, now) {
            Ok(Some(info)) => info,
            Ok(None) => {
                self.counters.misses.fetch_add(1, Ordering::Relaxed);
                return Said::Not;
            }
            Err(error) if error.is_outage() => return Said::Trouble,
            Err(_) => return Said::Not,
        };
        // A signature that is not by one of these says nothing, and a path keeps only so many.
        let fingerprint = info.fingerprint(store_dir);
        let keys = &self.keys;
        info.signatures.retain(|signature| keys.iter().any(|key| key.verify(fingerprint.as_bytes(), signature)));
        if info.signatures.is_empty() {
            self.counters.untrusted.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(upstream = self.cache.url(), path = %info.store_path, "nobody trusted has signed a path of an upstream");
            return Said::Not;
        }
        self.counters.hits.fetch_add(1, Ordering::Relaxed);
        Said::Has(Box::new(info))
    }

    /// Asks for the file of a NAR; `via` goes along. `None` if it is not there.
    ///
    /// # Errors
    /// [`FetchError`]; none is sent while the upstream rests.
    pub async fn nar(
        &self,
        info: &NarInfo,
        now: UnixSeconds,
        via: &(HeaderName, HeaderValue),
    ) -> Result<Option<NarFile>, FetchError> {
        if !self.breaker.may_ask(now) {
            let detail = "it is left alone for a while, after several failures".to_owned();
            return Err(FetchError::Unusable { url: self.cache.url().to_owned(), detail });
        }
        self.note(self.cache.with_header(via).nar(info).await, now)
    }

    /// Notes that a file that had begun to come did not come to its end.
    pub fn broke_off(&self, now: UnixSeconds) {
        self.counters.failures.fetch_add(1, Ordering::Relaxed);
        self.note_outage(now);
    }

    fn note<T>(&self, result: Result<T, FetchError>, now: UnixSeconds) -> Result<T, FetchError> {
        self.counters.requests.fetch_add(1, Ordering::Relaxed);
        match &result {
            Ok(_) => self.breaker.succeeded(),
            Err(error) => {
                self.counters.failures.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(error = error as &dyn std::error::Error, "an upstream did not answer as it should");
                if error.is_outage() {
                    self.note_outage(now);
                } else {
                    self.breaker.succeeded();
                }
            }
        }
        result
    }

    fn note_outage(&self, now: UnixSeconds) {
        if let Some(until) = self.breaker.failed(now) {
            let seconds = until.saturating_sub(now);
            tracing::warn!(upstream = self.cache.url(), seconds, "an upstream is left alone after several failures");
        }
    }
}
