//! Spans of the main steps, for those who trace them: ingest, verify, commit, the passes of a collection.
//!
//! They have a target of their own, so that they are made only when somebody asks for that one: no log level does. Their
//! names and fields are the same few for any content, and none holds a secret.

/// The target of all spans.
pub const TARGET: &str = "spans";

/// Returns a number as the field of a span: OpenTelemetry's are signed.
#[must_use]
pub fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Begins the span of a commit: the wait for the committer, and for the disk.
pub(crate) fn commit(changes: usize) -> tracing::span::EnteredSpan {
    tracing::info_span!(target: TARGET, "commit", firn.changes = number(changes as u64)).entered()
}
