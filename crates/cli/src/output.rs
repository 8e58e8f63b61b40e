//! What commands print: data on standard output, all else on standard error; the same with and without colour.

use std::env;
use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::failure::{Failure, Kind};

/// How text may be set off. What it says must not depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// All is well.
    Good,
    /// Someone may want to look.
    Warning,
    /// Something is wrong.
    Bad,
    /// Of less weight.
    Dim,
    /// A heading.
    Strong,
}

/// Whether colour is used, decided once for each stream.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Style {
    colour: bool,
}

impl Style {
    /// Returns the style for a stream: colour on a terminal, unless `NO_COLOR` is set or the terminal is dumb.
    fn of(is_terminal: bool) -> Self {
        let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
            || env::var_os("TERM").is_some_and(|value| value == "dumb");
        Self { colour: is_terminal && !refused }
    }

    /// Returns the text, set off if this stream shows colour.
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        if !self.colour {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Good => "32",
            Paint::Warning => "33",
            Paint::Bad => "31",
            Paint::Dim => "2",
            Paint::Strong => "1",
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

/// Where a command's words go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// Whether data is one line of JSON.
    pub(crate) json: bool,
    /// Whether notes are left out.
    pub(crate) quiet: bool,
    /// Whether more is wanted.
    pub(crate) verbose: bool,
    /// The style of standard output.
    pub(crate) out: Style,
    /// The style of standard error.
    pub(crate) err: Style,
}

impl Output {
    /// Looks at the streams and the environment.
    pub(crate) fn new(json: bool, quiet: bool, verbose: bool) -> Self {
        let (out, err) = (Style::of(io::stdout().is_terminal()), Style::of(io::stderr().is_terminal()));
        Self { json, quiet, verbose, out, err }
    }

    /// Writes text to standard output. A reader who went away early is no error.
    pub(crate) fn data(&self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Err(error) => Err(Failure::doing(Kind::Failed, "write to standard output", error)),
            Ok(()) => Ok(()),
        }
    }

    /// Writes a value as one line of JSON to standard output.
    pub(crate) fn json_line(&self, value: &impl Serialize) -> Result<(), Failure> {
        let line = serde_json::to_string(value).map_err(|error| Failure::doing(Kind::Failed, "write JSON", error))?;
        self.data(&format!("{line}\n"))
    }

    /// Writes names and values, two columns, to standard output.
    pub(crate) fn pairs(&self, rows: &[(&str, String)]) -> Result<(), Failure> {
        let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let line = |(name, value): &(&str, String)| {
            let gap = " ".repeat(width - name.len());
            format!("{}{gap}  {value}\n", self.out.paint(Paint::Strong, name))
        };
        self.data(&rows.iter().map(line).collect::<String>())
    }

    /// Writes a value as one line of JSON to standard error, with `--json`: where standard output is somebody else's.
    pub(crate) fn event(&self, value: &serde_json::Value) {
        if self.json {
            let _ = writeln!(io::stderr().lock(), "{value}");
        }
    }

    /// Writes a line for people to standard error; left out with `--json` and `--quiet`.
    pub(crate) fn note(&self, line: &str) {
        if !self.json && !self.quiet {
            // Nothing is lost when nobody listens there.
            let _ = writeln!(io::stderr().lock(), "{line}");
        }
    }

    /// Writes a warning to standard error; also with `--quiet`.
    pub(crate) fn warn(&self, line: &str) {
        let word = self.err.paint(Paint::Warning, "warning");
        let _ = writeln!(io::stderr().lock(), "firn: {word}: {line}");
    }

    /// Writes a failure with all its causes, and what to do about it, to standard error.
    pub(crate) fn failure(&self, failure: &Failure) {
        let message = format!("failed to {}", failure.chain());
        let text = if self.json {
            format!("{}\n", serde_json::json!({ "error": message, "hint": failure.hint }))
        } else {
            let hint = failure.hint.as_ref().map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
            format!("firn: {}\n{hint}", self.err.paint(Paint::Bad, &message))
        };
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Writes what is wrong with a command line as JSON, on standard error; what clap adds to it is the hint.
pub(crate) fn usage_error(error: &clap::Error) {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, hint) = text.split_once("\n\n").unwrap_or((text, ""));
    let hint = Some(hint.trim()).filter(|hint| !hint.is_empty());
    let line = serde_json::json!({ "error": message.trim(), "hint": hint });
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Says how long a number of seconds is, roughly.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rough() {
        let spans: Vec<_> = [5, 119, 120, 7199, 7200, 200_000].into_iter().map(span).collect();
        assert_eq!(spans, ["5 s", "119 s", "2 min", "119 min", "2 h", "2 d"]);
    }
}
