//! What a push shows while it goes: a bar on a terminal, lines elsewhere, or events as JSON.

use std::sync::atomic::{AtomicU64, Ordering};

use bytesize::ByteSize;
use firn_client::plan::{Plan, Skip};
use firn_client::push::{Event, Outcome, Totals};
use firn_client::remote::Waiting;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use crate::output::Output;

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
}

impl Progress {
    /// Returns what shows on the terminal, if standard error is one.
    pub(crate) fn new(output: Output) -> Self {
        use std::io::IsTerminal as _;
        let is_wanted = !output.json && !output.quiet && std::io::stderr().is_terminal();
        Self { output, bar: is_wanted.then(bar), paths: AtomicU64::new(0) }
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

    /// Says what would be pushed: one path a line on standard output.
    pub(crate) fn dry_run(&self, plan: &Plan) {
        for info in &plan.paths {
            if self.output.json {
                self.json(&json!({ "event": "would-push", "path": info.path, "logical_bytes": info.nar_size }));
            } else {
                let _ = self.output.data(&format!("{}\n", info.path));
            }
        }
        if !self.output.json {
            return;
        }
        for (path, skip) in &plan.skipped {
            let (reason, key) = match skip {
                Skip::Present => ("present", None),
                Skip::Upstream(key) => ("upstream", Some(key)),
                Skip::Excluded => ("excluded", None),
            };
            self.json(&json!({ "event": "would-skip", "path": path, "reason": reason, "key": key }));
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
                if let Some(bar) = &self.bar {
                    bar.set_length(*logical_bytes);
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
            Event::PathFailed { path, failure } => self.note(&format!("not pushed: {path}: {failure}")),
            Event::Progress(totals) => self.show(totals),
            _ => {}
        }
    }

    fn show(&self, totals: &Totals) {
        let Some(bar) = &self.bar else { return };
        let wire = totals.wire.total_bytes();
        let all = self.paths.load(Ordering::Relaxed);
        bar.set_position(totals.logical_bytes);
        bar.set_message(format!(
            "{}/{all} paths, sent {}, saved {}",
            totals.done_paths + totals.failed_paths,
            bytes(wire),
            bytes(totals.logical_bytes.saturating_sub(wire)),
        ));
    }

    fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| self.output.note(text)),
            None => self.output.note(text),
        }
    }

    fn json(&self, event: &Value) {
        // Whoever reads the events may have gone; the push goes on.
        let _ = self.output.json_line(event);
    }
}

fn bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    let style = "{bar:24} {binary_bytes}/{binary_total_bytes} {msg}, ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    bar
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

/// Returns a count of bytes for people.
pub(crate) fn bytes(count: u64) -> String {
    ByteSize::b(count).display().iec().to_string()
}
