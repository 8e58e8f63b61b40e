//! What a push shows while it goes: a bar on a terminal, lines elsewhere, or events as JSON.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use bytesize::ByteSize;
use firn_client::plan::{Plan, Skip};
use firn_client::push::{Event, Outcome, PathFailure, Totals};
use firn_client::remote::Waiting;
use firn_nix::StorePath;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::eta::{Eta, Left};
use crate::failure::Failure;
use crate::output::{Output, span};

/// A thing to say, for people and for programs.
#[derive(Debug)]
pub(crate) struct Line {
    /// For people.
    pub(crate) text: String,
    /// For programs.
    pub(crate) json: Value,
}

/// Shows a push. Everything for people goes to standard error, events as JSON to standard output.
#[derive(Debug)]
pub(crate) struct Progress {
    output: Output,
    /// On a terminal.
    bar: Option<ProgressBar>,
    paths: AtomicU64,
    logical_bytes: AtomicU64,
    eta: Mutex<Eta>,
    /// What kept standard output from being written.
    unwritten: Mutex<Option<Failure>>,
}

/// What a terminal's line has room for beside the bar and the percentage.
const BESIDE_BAR: usize = BAR_CELLS + 8;

/// How wide the bar itself is.
const BAR_CELLS: usize = 16;

/// How wide a terminal is that doesn't say so.
const USUAL_CELLS: usize = 80;

impl Progress {
    /// Returns what shows on the terminal, if standard error is one.
    pub(crate) fn new(output: Output) -> Self {
        use std::io::IsTerminal as _;
        let is_able = std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let is_wanted = !output.json && !output.quiet && is_able;
        Self {
            output,
            bar: is_wanted.then(bar),
            paths: AtomicU64::new(0),
            logical_bytes: AtomicU64::new(0),
            eta: Mutex::default(),
            unwritten: Mutex::default(),
        }
    }

    /// Fails if something that belongs on standard output is not there. A reader who went away early did not want it.
    pub(crate) fn check_written(&self) -> Result<(), Failure> {
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }

    /// Says something.
    pub(crate) fn line(&self, line: &Line) {
        if self.output.json {
            self.json(&line.json);
        } else {
            self.note(&line.text);
        }
    }

    /// Says something, the last of all.
    pub(crate) fn finish(&self, line: &Line) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.line(line);
    }

    /// Says what would be pushed, one path a line on standard output, and, where more is wanted, what would not and why.
    pub(crate) fn dry_run(&self, plan: &Plan) {
        for info in &plan.paths {
            if self.output.json {
                self.json(&json!({ "event": "would-push", "path": info.path, "logical_bytes": info.nar_size }));
            } else {
                self.wrote(self.output.data(&format!("{}\n", info.path)));
            }
        }
        for (path, skip) in &plan.skipped {
            let (reason, key) = match skip {
                Skip::Present => ("present", None),
                Skip::Upstream(key) => ("upstream", Some(key)),
                Skip::Excluded => ("excluded", None),
            };
            if self.output.json {
                self.json(&json!({ "event": "would-skip", "path": path, "reason": reason, "key": key }));
            } else if self.output.verbose {
                self.note(&skipped(path, skip));
            }
        }
    }

    /// Shows that a request waits.
    pub(crate) fn waiting(&self, waiting: &Waiting) {
        let Waiting { doing, tries, wait, reason } = waiting;
        if self.output.json {
            let mut event = serde_json::to_value(waiting).unwrap_or_default();
            if let Some(fields) = event.as_object_mut() {
                fields.insert("event".to_owned(), "waiting".into());
            }
            self.json(&event);
        } else {
            self.note(&format!("{doing}: {reason}; try {} in {:.1} s", tries + 1, wait.as_secs_f64()));
        }
    }

    /// Shows an event.
    pub(crate) fn event(&self, event: &Event) {
        if let Event::Waiting(waiting) = event {
            return self.waiting(waiting);
        }
        if self.output.json {
            if let Some(event) = event_json(event) {
                self.json(&event);
            }
            return;
        }
        match event {
            Event::Started { paths, logical_bytes } => {
                self.paths.store(*paths, Ordering::Relaxed);
                self.logical_bytes.store(*logical_bytes, Ordering::Relaxed);
                if let Some(bar) = &self.bar {
                    // Each byte is read and then settled.
                    bar.set_length(logical_bytes.saturating_mul(2));
                }
            }
            Event::PathDone { path, outcome, logical_bytes, sent_bytes } if self.bar.is_none() => {
                let how = match outcome {
                    Outcome::Created => "pushed",
                    Outcome::Merged => "was there",
                    Outcome::KeptFirst => "is there with other contents",
                };
                self.note(&format!("{how} {path} ({}, sent {})", bytes(*logical_bytes), bytes(*sent_bytes)));
            }
            // There may be thousands of them; the last line says how many.
            Event::PathFailed { failure: PathFailure::Stopped, .. } => {}
            Event::PathFailed { path, failure } => self.note(&format!("not pushed: {path}: {failure}")),
            Event::Progress(totals) => self.show(totals),
            _ => {}
        }
    }

    fn show(&self, totals: &Totals) {
        let Some(bar) = &self.bar else { return };
        let (wire, all) = (totals.wire.total_bytes(), self.logical_bytes.load(Ordering::Relaxed));
        let left = self.eta.lock().unwrap_or_else(PoisonError::into_inner).left(totals, all, Instant::now());
        let left = match left {
            Left::Unknown => "ETA -".to_owned(),
            Left::About(left) => format!("ETA {}", span(left.as_secs())),
            Left::Commits => "committing".to_owned(),
        };
        let parts = [
            format!("{}/{} paths", totals.done_paths + totals.failed_paths, self.paths.load(Ordering::Relaxed)),
            left,
            format!("{}/{}", bytes(totals.settled_bytes), bytes(all)),
            format!("sent {}", bytes(wire)),
            format!("saved {}", bytes(totals.settled_bytes.saturating_sub(wire))),
        ];
        bar.set_position(totals.read_bytes.saturating_add(totals.settled_bytes));
        let cells = cells();
        bar.set_message(fit(&parts, cells.checked_sub(BESIDE_BAR).unwrap_or(cells)));
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }

    fn json(&self, event: &Value) {
        self.wrote(self.output.json_line(event));
    }

    /// Keeps the first failure for [`Self::check_written`]; the push goes on.
    fn wrote(&self, result: Result<(), Failure>) {
        if let Err(failure) = result {
            self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(failure);
        }
    }
}

/// Says why a path is left out.
fn skipped(path: &StorePath, skip: &Skip) -> String {
    match skip {
        Skip::Present => format!("skipped {path}: it is in the cache already"),
        Skip::Upstream(key) => format!("skipped {path}: signed by {key}, an upstream's key"),
        Skip::Excluded => format!("skipped {path}: excluded by name"),
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template(&template(cells())) {
        bar.set_style(style);
    }
    bar
}

/// Returns what a line holds. What is too long for it is cut off and never wraps; the bar itself can't be cut.
fn template(cells: usize) -> String {
    if cells < BESIDE_BAR {
        return "{wide_msg}".to_owned();
    }
    format!("{{bar:{BAR_CELLS}}} {{percent:>3}} % {{wide_msg}}")
}

/// Returns how many characters a line of the terminal has.
fn cells() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|cells| *cells > 0).unwrap_or(USUAL_CELLS)
}

/// Returns as many of the parts, the first ones first, as a line of that width holds.
fn fit(parts: &[String], cells: usize) -> String {
    let mut line = String::new();
    for part in parts {
        let comma = if line.is_empty() { "" } else { ", " };
        if !line.is_empty() && line.len() + comma.len() + part.len() > cells {
            break;
        }
        line.push_str(comma);
        line.push_str(part);
    }
    line
}

/// Returns an event as programs get it, or `None` for those that only people want. docs/PUSH.md describes them.
fn event_json(event: &Event) -> Option<Value> {
    let outcome = |outcome: &Outcome| match outcome {
        Outcome::Created => "created",
        Outcome::Merged => "merged",
        Outcome::KeptFirst => "kept-first",
    };
    match event {
        Event::PathStarted { path, logical_bytes } => {
            Some(json!({ "event": "path-started", "path": path, "logical_bytes": logical_bytes }))
        }
        Event::PathDone { path, outcome: how, logical_bytes, sent_bytes } => Some(json!({
            "event": "path-done",
            "path": path,
            "outcome": outcome(how),
            "logical_bytes": logical_bytes,
            "sent_bytes": sent_bytes,
        })),
        Event::PathFailed { path, failure } => Some(json!({
            "event": "path-failed",
            "path": path,
            "failure": failure.name(),
            "message": failure.to_string(),
            "may_pass": failure.may_pass(),
        })),
        Event::Progress(totals) => {
            let mut value = serde_json::to_value(totals).ok()?;
            value.as_object_mut()?.insert("event".to_owned(), "progress".into());
            Some(value)
        }
        _ => None,
    }
}

/// Returns a count of paths in words.
pub(crate) fn paths(count: u64) -> String {
    if count == 1 { "1 path".to_owned() } else { format!("{count} paths") }
}

/// Returns a count of paths that wait in words.
pub(crate) fn paths_wait(count: u64) -> String {
    format!("{} wait{}", paths(count), if count == 1 { "s" } else { "" })
}

/// Returns a count of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    ByteSize::b(count).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_most_stays_on_a_narrow_terminal() {
        let parts = ["1/2 paths", "ETA 3 s", "sent 4 MiB"].map(str::to_owned);
        assert_eq!(fit(&parts, 80), "1/2 paths, ETA 3 s, sent 4 MiB");
        assert_eq!(fit(&parts, 30), "1/2 paths, ETA 3 s, sent 4 MiB");
        assert_eq!(fit(&parts, 29), "1/2 paths, ETA 3 s");
        assert_eq!(fit(&parts, 0), "1/2 paths");
    }

    #[test]
    fn a_terminal_that_is_narrower_than_the_bar_has_none() {
        assert!(!template(10).contains("{bar") && !template(BESIDE_BAR - 1).contains("{bar"));
        assert!(template(BESIDE_BAR).contains("{bar"));
    }

    #[test]
    fn what_is_left_out_is_told_with_its_reason() {
        let path = format!("{}-a", "0".repeat(32)).parse().unwrap();
        let told = [Skip::Present, Skip::Upstream("up-1".to_owned()), Skip::Excluded].map(|skip| skipped(&path, &skip));
        assert!(told.iter().all(|line| line.contains(&path.to_string())), "{told:?}");
        assert!(told[0].contains("in the cache") && told[1].contains("up-1") && told[2].contains("name"), "{told:?}");
    }
}
