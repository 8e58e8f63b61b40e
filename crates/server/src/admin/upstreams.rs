//! The upstreams of a cache that have a URL.

use std::sync::atomic::Ordering;

use firn_index::{CacheName, CacheRow, UnixSeconds, UpstreamMode, UpstreamRow};
use serde::{Deserialize, Serialize};

use super::execute::{Admin, cache_url, invalid, store};
use super::{Answer, Failure, keys};
use crate::binary_cache::{Patience, parse_url};

/// The most upstreams of a cache: a path that none has costs a question to each.
const MAX_UPSTREAMS: usize = 16;
/// The longest time limit, in milliseconds.
const MAX_TIMEOUT_MS: u64 = 300_000;

/// An upstream to add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NewUpstream {
    /// Where it is.
    pub url: String,
    /// What is done with what it has.
    pub mode: UpstreamMode,
    /// Public keys that it is trusted by; of cache.nixos.org, they are known.
    pub keys: Vec<String>,
    /// The lower, the earlier it is asked.
    pub priority: Option<u32>,
    /// How long a connection may take.
    pub connect_timeout_ms: Option<u64>,
    /// How long an answer may take to begin.
    pub first_byte_timeout_ms: Option<u64>,
    /// How long an answer may stand still.
    pub idle_timeout_ms: Option<u64>,
    /// A file with a token for it, on the server.
    pub token_file: Option<String>,
}

/// An upstream of a cache, and how it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamView {
    /// Its settings.
    #[serde(flatten)]
    pub row: UpstreamRow,
    /// How it does, if a server runs and asks it.
    pub activity: Option<Activity>,
}

/// What came of asking an upstream, since the server began or the cache's settings were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Requests that were sent.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// Narinfos that nobody trusted had signed.
    pub untrusted: u64,
    /// Bytes of NARs' files that came.
    pub received_bytes: u64,
    /// Until when it is left alone, if it is in trouble.
    pub rests_until: Option<UnixSeconds>,
}

impl Admin<'_> {
    pub(super) fn add_upstream(&self, cache: &str, new: NewUpstream) -> Result<Answer, Failure> {
        let (name, cache) = self.find_cache(cache)?;
        let row = self.new_row(new)?;
        if self.is_own(&name, &cache, &row.url) {
            let url = &row.url;
            return Err(invalid(format!("add the upstream {url}: that is the cache '{name}' itself")));
        }
        let mut all = self.meta.upstreams(&name).map_err(store)?;
        // Adding it again changes it.
        all.upstreams.retain(|upstream| !is_same(&upstream.url, &row.url));
        all.upstreams.push(row.clone());
        all.upstreams.sort_by(|a, b| (a.priority, a.added_at, &a.url).cmp(&(b.priority, b.added_at, &b.url)));
        if all.upstreams.len() > MAX_UPSTREAMS {
            return Err(invalid(format!("add an upstream: a cache has at most {MAX_UPSTREAMS}")));
        }
        self.meta.put_upstreams(&name, &all).map_err(store)?;
        self.refresh_caches()?;
        Ok(Answer::Upstream(Box::new(UpstreamView { row, activity: None })))
    }

    pub(super) fn remove_upstream(&self, cache: &str, url: &str) -> Result<Answer, Failure> {
        let (name, _) = self.find_cache(cache)?;
        let mut all = self.meta.upstreams(&name).map_err(store)?;
        let at = all.upstreams.iter().position(|upstream| is_same(&upstream.url, url));
        let at = at.ok_or_else(|| Failure::NoSuchUpstream { url: url.to_owned() })?;
        let row = all.upstreams.remove(at);
        self.meta.put_upstreams(&name, &all).map_err(store)?;
        self.refresh_caches()?;
        Ok(Answer::UpstreamRemoved(Box::new(UpstreamView { row, activity: None })))
    }

    pub(super) fn list_upstreams(&self, cache: &str) -> Result<Answer, Failure> {
        let (name, _) = self.find_cache(cache)?;
        let all = self.meta.upstreams(&name).map_err(store)?;
        let running = self.app.and_then(|app| app.caches.get(&name));
        let activity = |row: &UpstreamRow| {
            let upstream = running.as_ref()?.proxies.iter().find(|upstream| upstream.row == *row)?;
            let counters = &upstream.counters;
            Some(Activity {
                requests: counters.requests.load(Ordering::Relaxed),
                failures: counters.failures.load(Ordering::Relaxed),
                untrusted: counters.untrusted.load(Ordering::Relaxed),
                received_bytes: counters.received_bytes.load(Ordering::Relaxed),
                rests_until: upstream.rests_until(self.now),
            })
        };
        Ok(Answer::Upstreams(
            all.upstreams.into_iter().map(|row| UpstreamView { activity: activity(&row), row }).collect(),
        ))
    }

    /// Returns whether a URL is surely a cache's own; many others may lead to it too.
    fn is_own(&self, name: &CacheName, cache: &CacheRow, url: &str) -> bool {
        let mut own = vec![cache_url(self.base_url, name, cache), format!("{}/{name}", self.base_url)];
        for address in self.app.iter().flat_map(|app| &app.config.server.listen.0) {
            own.extend(["http", "https"].map(|scheme| format!("{scheme}://{address}/{name}")));
        }
        let url = parse_url(url);
        url.is_ok() && own.iter().any(|own| parse_url(own) == url)
    }

    fn new_row(&self, new: NewUpstream) -> Result<UpstreamRow, Failure> {
        let url = new.url.trim_end_matches('/').to_owned();
        let parsed = parse_url(&url).map_err(|detail| invalid(format!("add an upstream: {detail}")))?;
        let mut keys = keys::public("upstream", &new.keys)?;
        if keys.is_empty() && parsed.host_str() == Some("cache.nixos.org") {
            keys.push(CacheRow::NIXOS_KEY.to_owned());
        }
        if keys.is_empty() {
            return Err(invalid(format!(
                "add the upstream {url} without a key: give the public key that it signs with (--key name:base64)"
            )));
        }
        let patience = Patience::default();
        let timeout = |name: &str, given: Option<u64>, usual: std::time::Duration| match given {
            None => Ok(u64::try_from(usual.as_millis()).unwrap_or(MAX_TIMEOUT_MS)),
            Some(ms) if (1..=MAX_TIMEOUT_MS).contains(&ms) => Ok(ms),
            Some(ms) => {
                Err(invalid(format!("wait {ms} ms for {name}: allowed are 1 ms to {} s", MAX_TIMEOUT_MS / 1000)))
            }
        };
        if let Some(file) = &new.token_file
            && !file.starts_with('/')
        {
            return Err(invalid(format!(
                "read a token from '{file}': give an absolute path, the server has its own folder"
            )));
        }
        Ok(UpstreamRow {
            url,
            mode: new.mode,
            keys,
            priority: new.priority.unwrap_or(40),
            connect_timeout_ms: timeout("a connection", new.connect_timeout_ms, patience.connect)?,
            first_byte_timeout_ms: timeout(
                "the beginning of an answer",
                new.first_byte_timeout_ms,
                patience.first_byte,
            )?,
            idle_timeout_ms: timeout("the next bytes", new.idle_timeout_ms, patience.idle)?,
            token_file: new.token_file,
            added_at: self.now,
        })
    }
}

fn is_same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}
