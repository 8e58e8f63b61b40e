//! Reports as text: a table for people, CSV for spreadsheets.

use std::fmt;

use crate::usage::{ConflictNote, GroupBy, UsageGroup, UsageReport};

/// A column of a table: its head, its value of a group, and whether it is a number.
type Column = (&'static str, fn(&UsageGroup, fn(u64) -> String) -> String);

/// The columns of a table, the most important first: those that don't fit are left out.
const COLUMNS: [Column; 11] = [
    ("exclusive", |group, bytes| bytes(group.exclusive_bytes)),
    ("stored", |group, bytes| bytes(group.stored_bytes)),
    ("logical", |group, bytes| bytes(group.logical_bytes)),
    ("paths", |group, _| group.paths.to_string()),
    ("dedup", |group, _| format!("{:.2}x", group.dedup_factor)),
    ("compr", |group, _| format!("{:.2}x", group.compression_factor)),
    ("recent", |group, bytes| bytes(group.recent_bytes)),
    ("saved", |group, bytes| group.traffic.map_or_else(String::new, |traffic| bytes(traffic.saved_bytes))),
    ("served", |group, bytes| group.traffic.map_or_else(String::new, |traffic| bytes(traffic.served_bytes))),
    ("errors", |group, _| group.traffic.map_or_else(String::new, |traffic| traffic.errors.to_string())),
    ("unique", |group, bytes| bytes(group.unique_bytes)),
];

/// Paths that were offered with another NAR that alarms name.
const MAX_ALARMS: usize = 3;

/// The widest name of a group that is shown whole.
const MAX_NAME: usize = 48;

impl fmt::Display for ConflictNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [path, cache, builder, other] =
            [&self.path, &self.cache, &self.builder, &self.other_builder].map(|text| plain(text));
        write!(f, "{other} made another NAR of {path} than {builder}, whose one stays in cache {cache}")?;
        let Some(total) = self.files_total else { return Ok(()) };
        if total == 0 && self.is_partial {
            return write!(f, ": to find out which files differ was too much");
        }
        let name = |file: &String| if file.is_empty() { "the whole".to_owned() } else { clipped(file) };
        let names: Vec<String> = self.files.iter().map(name).collect();
        write!(f, ": {}", names.join(", "))?;
        match total.saturating_sub(names.len() as u64) {
            0 => write!(f, " differ")?,
            more => write!(f, " and {more} more differ")?,
        }
        if self.is_partial { write!(f, ", and not all were compared") } else { Ok(()) }
    }
}

impl UsageReport {
    /// Returns a table of at most `width` characters a line (but for the narrowest terminals), without colour. `bytes` writes
    /// sizes.
    #[must_use]
    pub fn table(&self, width: usize, bytes: fn(u64) -> String) -> String {
        let name = |group: &UsageGroup| clipped(if group.name.is_empty() { "(none)" } else { &group.name });
        let names: Vec<String> = self.groups.iter().map(name).collect();
        let head = self.by.as_str();
        let name_width = names.iter().map(|name| name.chars().count()).chain([head.len()]).max().unwrap_or(0);
        let mut lines = vec![format!("{head:name_width$}")];
        lines.extend(names.iter().map(|name| format!("{name:name_width$}")));
        let mut used = name_width;
        for (number, (title, value)) in COLUMNS.into_iter().enumerate() {
            let values: Vec<String> = self.groups.iter().map(|group| value(group, bytes)).collect();
            let column = values.iter().map(|value| value.chars().count()).chain([title.len()]).max().unwrap_or(0);
            if values.iter().all(String::is_empty) && !values.is_empty() {
                continue;
            }
            if number > 0 && used + 2 + column > width {
                break;
            }
            used += 2 + column;
            for (line, value) in lines.iter_mut().zip(std::iter::once(&title.to_owned()).chain(&values)) {
                line.push_str(&format!("  {value:>column$}"));
            }
        }
        lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
    }

    /// Returns what somebody should look at, a line each: chunks that are missing, and the newest paths that were offered with
    /// another NAR.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        let mut alarms = Vec::new();
        if self.missing_chunks > 0 {
            alarms.push(format!("{} chunks are needed and were not found", self.missing_chunks));
        }
        alarms.extend(self.conflicts.iter().take(MAX_ALARMS).map(ToString::to_string));
        if let Some(more) = self.conflicts.len().checked_sub(MAX_ALARMS).filter(|more| *more > 0) {
            alarms.push(format!("{more} more paths were offered with another NAR: --json names them"));
        }
        alarms
    }

    /// Returns all figures as CSV (RFC 4180) with a head; names stay.
    #[must_use]
    pub fn to_csv(&self) -> String {
        let mut text = String::from(
            "name,paths,logical_bytes,unique_bytes,stored_bytes,exclusive_bytes,shared_bytes,amortised_bytes,\
             delta_saved_bytes,recent_bytes,dedup_factor,compression_factor,last_at,pushed_paths,received_bytes,\
             saved_bytes,served_bytes,hits,misses,errors,conflicts,pushes,pushed_logical_bytes,last_seen_at\r\n",
        );
        for group in &self.groups {
            let traffic = group.traffic.unwrap_or_default();
            let figures = [
                group.paths,
                group.logical_bytes,
                group.unique_bytes,
                group.stored_bytes,
                group.exclusive_bytes,
                group.shared_bytes,
                group.amortised_bytes,
                group.delta_saved_bytes,
                group.recent_bytes,
            ];
            text.push_str(&field(&group.name));
            for figure in figures {
                text.push_str(&format!(",{figure}"));
            }
            text.push_str(&format!(",{:.4},{:.4},{}", group.dedup_factor, group.compression_factor, group.last_at));
            let counted = [
                traffic.pushed_paths,
                traffic.received_bytes,
                traffic.saved_bytes,
                traffic.served_bytes,
                traffic.hits,
                traffic.misses,
                traffic.errors,
                traffic.conflicts,
                traffic.pushes,
                traffic.pushed_logical_bytes,
                traffic.last_seen_at,
            ];
            for figure in counted {
                text.push_str(&format!(",{figure}"));
            }
            text.push_str("\r\n");
        }
        text
    }
}

/// Returns a text that breaks neither line nor terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Returns a name that breaks neither line nor terminal, with its middle left out if it is long.
fn clipped(name: &str) -> String {
    let plain: Vec<char> = plain(name).chars().collect();
    if plain.len() <= MAX_NAME {
        return plain.into_iter().collect();
    }
    let half = MAX_NAME / 2;
    plain[..half].iter().chain(&['…']).chain(&plain[plain.len() - half + 1..]).collect()
}

/// Quotes what CSV must have quoted, and what a spreadsheet would take for a formula.
fn field(text: &str) -> String {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if is_formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) || is_formula {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text
    }
}

/// Returns by what a report may be grouped, for people.
#[must_use]
pub fn group_names() -> String {
    GroupBy::ALL.map(GroupBy::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Traffic;

    fn report(names: &[&str]) -> UsageReport {
        let group = |name: &&str| UsageGroup {
            name: (*name).to_owned(),
            exclusive_bytes: 1000,
            dedup_factor: 2.0,
            traffic: Some(Traffic::default()),
            ..UsageGroup::default()
        };
        UsageReport {
            at: 0,
            took_ms: 0,
            recent_days: 7,
            store: None,
            by: GroupBy::Package,
            groups_total: 1,
            groups: names.iter().map(group).collect(),
            missing_chunks: 0,
            conflicts: Vec::new(),
        }
    }

    #[test]
    fn tables_fit() {
        let long = "x".repeat(200);
        let report = report(&["hello", &long, "", "a\x1b[31mb"]);
        for width in [20, 60, 80, 120, 200] {
            let table = report.table(width, |n| format!("{n} B"));
            let widest = table.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= width.max(MAX_NAME + 14), "{width}: {table}");
            assert!(!table.contains('\x1b') && table.lines().count() == 5);
        }
        let wide = report.table(200, |n| format!("{n} B"));
        assert!(wide.contains("unique") && wide.contains("(none)") && wide.contains('…'));
    }

    #[test]
    fn alarms_name_what_differs() {
        let conflict = |files: &[&str], files_total| ConflictNote {
            at: 1,
            path: "tool".to_owned(),
            cache: "main".to_owned(),
            builder: "a".to_owned(),
            other_builder: "b\x1b".to_owned(),
            files_total,
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            is_partial: false,
        };
        let start = "b\u{fffd} made another NAR of tool than a, whose one stays in cache main";
        let two = conflict(&["bin/x", ""], Some(2));
        for (conflict, end) in [
            (conflict(&[], None), ""),
            (two.clone(), ": bin/x, the whole differ"),
            (conflict(&["bin/x"], Some(8)), ": bin/x and 7 more differ"),
            (ConflictNote { is_partial: true, ..two.clone() }, ": bin/x, the whole differ, and not all were compared"),
            (
                ConflictNote { is_partial: true, ..conflict(&[], Some(0)) },
                ": to find out which files differ was too much",
            ),
        ] {
            assert_eq!(conflict.to_string(), format!("{start}{end}"));
        }
        let all = UsageReport { missing_chunks: 2, conflicts: vec![two; 5], ..report(&[]) };
        let alarms = all.alarms();
        assert_eq!((alarms.len(), report(&[]).alarms().len()), (5, 0));
        assert!(alarms[0].starts_with("2 chunks") && alarms[4].starts_with("2 more paths"), "{alarms:?}");
    }

    #[test]
    fn csv_is_quoted() {
        let csv = report(&["a,b", "say \"x\"", "=1+1", "plain"]).to_csv();
        let lines: Vec<_> = csv.split("\r\n").collect();
        assert!(lines[1].starts_with("\"a,b\",0,"));
        assert!(lines[2].starts_with("\"say \"\"x\"\"\",0,"));
        assert!(lines[3].starts_with("\"'=1+1\",0,"));
        assert!(lines[4].starts_with("plain,0,"));
        let columns = lines[0].split(',').count();
        assert_eq!(lines[4].split(',').count(), columns);
    }
}
