//! Through which caches a question came: so that those that are each other's upstreams don't ask in a circle.
//!
//! Each cache that asks an upstream adds its mark to the header `Firn-Via`. Whoever finds its own mark there, as many as are
//! allowed, or something else than marks, answers from what it holds.

use std::fmt::Write as _;

use firn_index::CacheName;
use firn_nix::Sha256;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::caches::Cache;

/// The header with the marks, the first asker's first, with commas in between.
const VIA: HeaderName = HeaderName::from_static("firn-via");
/// Through how many caches a question goes at most before it comes to the last one.
const MAX_MARKS: usize = 8;
/// Letters and digits of a mark.
const MARK_LEN: usize = 16;

/// What marks this server's caches: drawn when the server began, so that no two servers have the same.
pub(super) struct Marks(u128);

impl Marks {
    pub(super) fn new(server: u128) -> Self {
        Self(server)
    }

    /// Returns what stands for a cache of this server; its name can't be told from that.
    fn of(&self, cache: &CacheName) -> String {
        let mut text = format!("{:032x}/", self.0).into_bytes();
        text.extend(cache.as_str().bytes());
        let mut mark = String::with_capacity(MARK_LEN);
        for byte in &Sha256::of(&text).0[..MARK_LEN / 2] {
            let _ = write!(mark, "{byte:02x}");
        }
        mark
    }

    /// Returns how a question to a cache goes on to its upstreams; `None` if it has come far enough.
    pub(super) fn onward(&self, headers: &HeaderMap, cache: &Cache) -> Option<Way> {
        let own = self.of(&cache.name);
        let mut marks = Vec::new();
        for value in headers.get_all(VIA) {
            for mark in value.to_str().ok()?.split(',') {
                let mark = mark.trim();
                let is_mark = mark.len() == MARK_LEN && mark.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
                if !is_mark || mark == own || marks.len() + 1 >= MAX_MARKS {
                    return None;
                }
                marks.push(mark.to_owned());
            }
        }
        let is_first = marks.is_empty();
        marks.push(own);
        let value = HeaderValue::from_str(&marks.join(", ")).ok()?;
        Some(Way { via: (VIA, value), is_first })
    }

    /// Returns how a cache of this server asks for itself.
    pub(super) fn first(&self, cache: &Cache) -> Option<Way> {
        self.onward(&HeaderMap::new(), cache)
    }
}

/// How a question to upstreams is marked.
#[derive(Debug, Clone)]
pub(in crate::http) struct Way {
    /// The header that goes along.
    pub(super) via: (HeaderName, HeaderValue),
    /// Whether no other cache has asked before. What is found on a longer way may leave out what those on it have.
    pub(super) is_first: bool,
}
