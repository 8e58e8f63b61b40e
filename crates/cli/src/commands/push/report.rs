//! What is said at a push's beginning and end.

use std::collections::BTreeMap;

use firn_client::plan::{Plan, Skip};
use firn_client::push::{PathFailure, Summary};
use serde_json::{Value, json};

use crate::exit;
use crate::failure::{Failure, Kind};
use crate::progress::{Line, bytes, paths};

/// How many failed paths are named at the end.
const MAX_NAMED: usize = 20;

/// How many paths were skipped and why.
pub(super) struct Skipped {
    present: u64,
    upstream: BTreeMap<String, u64>,
    excluded: u64,
}

impl Skipped {
    pub(super) fn of(plan: &Plan) -> Self {
        let mut skipped = Self { present: 0, upstream: BTreeMap::new(), excluded: 0 };
        for (skip, count) in plan.skipped_counts() {
            match skip {
                Skip::Present => skipped.present = count,
                Skip::Upstream(key) => _ = skipped.upstream.insert(key, count),
                Skip::Excluded => skipped.excluded = count,
            }
        }
        skipped
    }

    fn total(&self) -> u64 {
        self.present + self.excluded + self.upstream.values().sum::<u64>()
    }

    fn text(&self) -> Option<String> {
        let mut parts = Vec::new();
        if self.present > 0 {
            parts.push(format!("{} in the cache already", self.present));
        }
        parts.extend(self.upstream.iter().map(|(key, count)| format!("{count} signed by {key}")));
        if self.excluded > 0 {
            parts.push(format!("{} excluded by name", self.excluded));
        }
        (!parts.is_empty()).then(|| format!("skipped {}: {}", paths(self.total()), parts.join(", ")))
    }

    fn json(&self) -> Value {
        json!({ "present": self.present, "upstream": self.upstream, "excluded": self.excluded })
    }
}

/// Returns what is said before anything is pushed.
pub(super) fn planned(plan: &Plan, is_dry_run: bool) -> Line {
    let skipped = Skipped::of(plan);
    let count = plan.paths.len() as u64;
    let verb = if is_dry_run { "would push" } else { "pushing" };
    let mut text = format!("{verb} {} of {}", paths(count), bytes(plan.logical_bytes()));
    if let Some(skipped) = skipped.text() {
        text.push_str("; ");
        text.push_str(&skipped);
    }
    let json = json!({
        "event": "planned",
        "paths": count,
        "logical_bytes": plan.logical_bytes(),
        "skipped": skipped.json(),
    });
    Line { text, json }
}

/// Returns what is said at the end.
pub(super) fn finished(summary: &Summary, skipped: &Skipped) -> Line {
    let totals = &summary.totals;
    let wire = totals.wire.total_bytes();
    let mut text = format!(
        "pushed {}: {} of NARs, {} over the wire",
        paths(totals.done_paths),
        bytes(summary.done_bytes),
        bytes(wire)
    );
    // What was sent of others saves something only when these are pushed in the end.
    if summary.is_complete() && summary.done_bytes > wire {
        text.push_str(&format!(" ({:.1} % saved)", 100.0 * (1.0 - wire as f64 / summary.done_bytes as f64)));
    }
    for (count, what) in [
        (totals.known_paths, "had contents that the server knew"),
        (summary.merged_paths, "had come there meanwhile"),
        (summary.kept_first_paths, "are there with other contents, which stay"),
    ] {
        if count > 0 {
            text.push_str(&format!("\n  {count} {what}"));
        }
    }
    if let Some(skipped) = skipped.text() {
        text.push_str(&format!("\n  {skipped}"));
    }
    let failed = summary.failed.iter().filter(|(_, failure)| !matches!(failure, PathFailure::Stopped));
    let stopped = summary.failed.len() - failed.clone().count();
    for (path, failure) in failed.clone().take(MAX_NAMED) {
        text.push_str(&format!("\n  not pushed: {path}: {failure}"));
    }
    let more = failed.count().saturating_sub(MAX_NAMED);
    if more > 0 {
        text.push_str(&format!("\n  not pushed: {more} more"));
    }
    if stopped > 0 {
        text.push_str(&format!("\n  not pushed: {}, whose turn had not come or was not over", paths(stopped as u64)));
    }
    let json = json!({
        "event": "finished",
        "done_paths": totals.done_paths,
        "failed_paths": totals.failed_paths,
        "created_paths": summary.created_paths,
        "merged_paths": summary.merged_paths,
        "kept_first_paths": summary.kept_first_paths,
        "known_paths": totals.known_paths,
        "logical_bytes": totals.logical_bytes,
        "read_bytes": totals.read_bytes,
        "settled_bytes": totals.settled_bytes,
        "new_bytes": totals.new_bytes,
        "frame_bytes": totals.frame_bytes,
        "wire": totals.wire,
        "wire_bytes": wire,
        "skipped": skipped.json(),
    });
    Line { text, json }
}

/// Returns the exit code of a push that ended, or why it did not come to its end.
pub(super) fn code(summary: Summary) -> Result<u8, Failure> {
    match summary.stopped_by {
        Some(firn_client::Error::Cancelled) => {
            let failure = Failure::new(Kind::Interrupted, "push all paths: it was interrupted");
            Err(failure.hint("what was pushed is in the cache; the same command goes on from there"))
        }
        Some(error) => {
            Err(super::server(error).hint("what was pushed is in the cache; the same command goes on from there"))
        }
        None if summary.failed.is_empty() => Ok(exit::DONE),
        None => Ok(exit::FAILED),
    }
}

#[cfg(test)]
mod tests {
    use firn_client::push::Totals;
    use firn_client::remote::Wire;

    use super::*;

    fn text(done_paths: u64, done_bytes: u64, stopped_by: Option<firn_client::Error>) -> String {
        let path = |number: u64| format!("{}-path-{number}", "0".repeat(32)).parse().unwrap();
        let failed = (done_paths..3).map(|number| (path(number), PathFailure::Stopped)).collect();
        let wire = Wire { sent_body_bytes: 1000, ..Wire::default() };
        // What a push that is broken off has read or given up counts as read.
        let totals =
            Totals { done_paths, failed_paths: 3 - done_paths, logical_bytes: 3_000_000, wire, ..Totals::default() };
        let summary = Summary {
            totals,
            done_bytes,
            created_paths: done_paths,
            merged_paths: 0,
            kept_first_paths: 0,
            failed,
            stopped_by,
        };
        finished(&summary, &Skipped::of(&Plan::default())).text
    }

    #[test]
    fn only_what_was_pushed_is_said_to_be() {
        let whole = text(3, 3_000_000, None);
        assert!(whole.contains("pushed 3 paths") && whole.contains(&bytes(3_000_000)), "{whole}");
        assert!(whole.contains("100.0 % saved"), "{whole}");
        let cut = text(1, 2000, Some(firn_client::Error::Cancelled));
        assert!(cut.contains("pushed 1 path") && cut.contains(&bytes(2000)), "{cut}");
        assert!(!cut.contains("saved") && !cut.contains(&bytes(3_000_000)), "{cut}");
        assert!(cut.contains("not pushed: 2 paths,") && !cut.contains("-path-1"), "{cut}");
        let nothing = text(0, 0, Some(firn_client::Error::Cancelled));
        assert!(nothing.contains("pushed 0 paths: 0 B of NARs"), "{nothing}");
    }
}
