//! What commands print: data on standard output, all else on standard error.

use std::error::Error;
use std::io::{self, Write};

use comfy_table::{CellAlignment, ContentArrangement, Table};
use firn_index::UnixSeconds;
use serde::Serialize;

/// What a command has to say.
#[derive(Debug, Default)]
pub struct Report {
    /// For standard output, as people read it.
    pub text: String,
    /// For standard output with `--json`: one line, or none if it is null.
    pub json: serde_json::Value,
    /// For standard error; left out with `--json`.
    pub notes: String,
    /// What the program ends with.
    pub code: u8,
}

impl Report {
    /// Makes a report that says the same in both forms.
    pub fn new(text: impl Into<String>, value: &impl Serialize) -> Self {
        let json = serde_json::to_value(value).expect("views have string keys only");
        Self { text: text.into(), json, notes: String::new(), code: super::exit::DONE }
    }

    /// Writes it. A reader who went away early is no error.
    pub fn write(&self, json: bool) -> io::Result<()> {
        let text = match &self.json {
            serde_json::Value::Null if json => String::new(),
            value if json => format!("{value}\n"),
            _ => self.text.clone(),
        };
        if !json && !self.notes.is_empty() {
            // Nothing is lost when nobody listens there.
            let _ = io::stderr().write_all(self.notes.as_bytes());
        }
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Writes an error with all its causes, and what to do about it, on standard error.
pub(super) fn write_error(error: &(dyn Error + 'static), hint: Option<&str>, json: bool) {
    let mut message = format!("failed to {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        message.push_str(": ");
        message.push_str(&cause.to_string());
        source = cause.source();
    }
    let text = if json {
        format!("{}\n", serde_json::json!({ "error": message, "hint": hint }))
    } else {
        let hint = hint.map(|hint| format!("hint: {hint}\n")).unwrap_or_default();
        format!("firnd: {message}\n{hint}")
    };
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Writes what is wrong with a command line as JSON, on standard error; what clap adds to it is the hint.
pub(super) fn write_usage_error(error: &clap::Error) {
    let text = error.to_string();
    let text = text.strip_prefix("error: ").unwrap_or(&text);
    let (message, hint) = text.split_once("\n\n").unwrap_or((text, ""));
    let hint = Some(hint.trim()).filter(|hint| !hint.is_empty());
    let line = serde_json::json!({ "error": message.trim(), "hint": hint });
    let _ = io::stderr().write_all(format!("{line}\n").as_bytes());
}

/// Lays rows out under a head; columns whose index is in `right` are aligned right.
pub(super) fn table(head: &[&str], rows: Vec<Vec<String>>, right: &[usize]) -> String {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(head);
    for row in rows {
        table.add_row(row);
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim());
        text.push('\n');
    }
    text
}

/// Lays out names and values, two columns.
pub(super) fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// Returns a number of bytes as people read it.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// Returns a time as people read it, in UTC.
pub(super) fn time(at: UnixSeconds) -> String {
    i64::try_from(at)
        .ok()
        .and_then(|at| jiff::Timestamp::from_second(at).ok())
        .map_or_else(|| at.to_string(), |at| at.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
