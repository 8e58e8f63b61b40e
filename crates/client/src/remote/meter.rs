//! What went over the wire.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts what is sent and received; shared by all requests to a server.
#[derive(Debug, Default)]
pub struct Meter {
    requests: AtomicU64,
    sent_body_bytes: AtomicU64,
    received_body_bytes: AtomicU64,
    heads_estimated_bytes: AtomicU64,
}

/// What went over the wire so far; repeated requests count each time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Wire {
    /// Requests that were begun.
    pub requests: u64,
    /// Bytes of request bodies, as they were handed to the connection.
    pub sent_body_bytes: u64,
    /// Bytes of answers' bodies.
    pub received_body_bytes: u64,
    /// What request and status lines and headers took as HTTP/1.1 writes them. An estimate: HTTP/2 packs them smaller,
    /// and what proxies add on the way isn't seen. TLS and TCP are not counted anywhere.
    pub heads_estimated_bytes: u64,
}

impl Wire {
    /// Returns the bytes of bodies and heads in both directions.
    #[must_use]
    pub fn total_bytes(&self) -> u64 {
        self.sent_body_bytes + self.received_body_bytes + self.heads_estimated_bytes
    }
}

impl Meter {
    /// Counts a request and its head.
    pub(crate) fn request(&self, head_bytes: u64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.heads_estimated_bytes.fetch_add(head_bytes, Ordering::Relaxed);
    }

    /// Counts an answer's head.
    pub(crate) fn answer(&self, head_bytes: u64) {
        self.heads_estimated_bytes.fetch_add(head_bytes, Ordering::Relaxed);
    }

    /// Counts bytes of a request's body.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes of an answer's body.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_body_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the counts.
    #[must_use]
    pub fn wire(&self) -> Wire {
        Wire {
            requests: self.requests.load(Ordering::Relaxed),
            sent_body_bytes: self.sent_body_bytes.load(Ordering::Relaxed),
            received_body_bytes: self.received_body_bytes.load(Ordering::Relaxed),
            heads_estimated_bytes: self.heads_estimated_bytes.load(Ordering::Relaxed),
        }
    }
}
