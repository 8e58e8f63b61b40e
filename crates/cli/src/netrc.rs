//! netrc files: where Nix finds the password for a host. Changed without touching what else is in them.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

/// A word of the file and where it stands.
#[derive(Debug)]
struct Word<'a> {
    text: Cow<'a, str>,
    span: Range<usize>,
}

/// One entry: from its `machine` or `default` to the next entry.
#[derive(Debug)]
struct Entry<'a> {
    /// None for `default`.
    machine: Option<Cow<'a, str>>,
    password: Option<Word<'a>>,
    login: Option<Word<'a>>,
    /// From the keyword to the end of the last word that belongs to it.
    span: Range<usize>,
}

/// Returns the password for a host: that of its first entry, else of `default`.
pub(crate) fn password(text: &str, host: &str) -> Option<String> {
    let entries = entries(text);
    let found = entries.iter().find(|entry| entry.machine.as_deref().is_none_or(|machine| is_same(machine, host)))?;
    found.password.as_ref().map(|word| word.text.clone().into_owned())
}

/// Returns the login name of the host's first entry by name.
pub(crate) fn login(text: &str, host: &str) -> Option<String> {
    let entries = entries(text);
    find(&entries, host)?.login.as_ref().map(|word| word.text.clone().into_owned())
}

/// Says if the file has an entry for the host by name.
pub(crate) fn has_entry(text: &str, host: &str) -> bool {
    find(&entries(text), host).is_some()
}

/// Returns the file with the host's entry set: its first one changed, or a new one before `default`.
pub(crate) fn set(text: &str, host: &str, login: &str, password: &str) -> String {
    let line = format!("machine {host} login {login} password {password}");
    let entries = entries(text);
    if let Some(entry) = find(&entries, host) {
        return replace(text, entry.span.clone(), &line);
    }
    if let Some(default) = entries.iter().find(|entry| entry.machine.is_none()) {
        let start = default.span.start;
        return replace(text, start..start, &format!("{line}\n"));
    }
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{line}\n")
}

/// Returns the file with the entries of another one for hosts that it has none for, and its `default`; and how many those were.
pub(crate) fn with_entries_of(text: &str, other: &str) -> (String, usize) {
    let (mut text, mut added) = (text.to_owned(), 0);
    for entry in entries(other) {
        let own = entries(&text);
        let known = match &entry.machine {
            Some(machine) => find(&own, machine).is_some(),
            None => own.iter().any(|own| own.machine.is_none()),
        };
        if known {
            continue;
        }
        let default = own.iter().find(|own| own.machine.is_none()).map(|default| default.span.start);
        let at = default.unwrap_or(text.len());
        let gap = if text[..at].is_empty() || text[..at].ends_with('\n') { "" } else { "\n" };
        text = replace(&text, at..at, &format!("{gap}{}\n", &other[entry.span]));
        added += 1;
    }
    (text, added)
}

/// Returns the file without the host's entries.
pub(crate) fn remove(text: &str, host: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let span = {
            let entries = entries(&text);
            let Some(entry) = find(&entries, host) else { return text };
            entry.span.clone()
        };
        // With its line, when nothing else is on it.
        let alone = text[..span.start].ends_with('\n') || span.start == 0;
        let end = if alone && text[span.end..].starts_with('\n') { span.end + 1 } else { span.end };
        text.replace_range(span.start..end, "");
    }
}

fn find<'a, 'b>(entries: &'b [Entry<'a>], host: &str) -> Option<&'b Entry<'a>> {
    entries.iter().find(|entry| entry.machine.as_deref().is_some_and(|machine| is_same(machine, host)))
}

fn is_same(machine: &str, host: &str) -> bool {
    machine.eq_ignore_ascii_case(host)
}

fn replace(text: &str, span: Range<usize>, with: &str) -> String {
    format!("{}{with}{}", &text[..span.start], &text[span.end..])
}

/// Finds the entries, as curl reads them: words between blanks, `#` at the start of a line is a comment, and a macro
/// definition goes to the next empty line.
fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut at = 0;
    while let Some(word) = next_word(text, at) {
        at = word.span.end;
        match word.text.as_ref() {
            "machine" => {
                let Some(name) = next_word(text, at) else { break };
                at = name.span.end;
                let span = word.span.start..at;
                entries.push(Entry { machine: Some(name.text), password: None, login: None, span });
            }
            "default" => entries.push(Entry { machine: None, password: None, login: None, span: word.span }),
            "macdef" => at += text[at..].find("\n\n").map_or(text.len() - at, |end| end + 2),
            keyword @ ("login" | "password" | "account") => {
                let Some(value) = next_word(text, at) else { break };
                at = value.span.end;
                let Some(entry) = entries.last_mut() else { continue };
                entry.span.end = at;
                match keyword {
                    "login" => entry.login = Some(value),
                    "password" => entry.password = Some(value),
                    _ => {}
                }
            }
            _ => {}
        }
    }
    entries
}

fn next_word(text: &str, from: usize) -> Option<Word<'_>> {
    let mut start = from;
    loop {
        start += text[start..].find(|c: char| !c.is_ascii_whitespace())?;
        let at_line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let is_comment = text[start..].starts_with('#') && text[at_line_start..start].trim().is_empty();
        if !is_comment {
            break;
        }
        start += text[start..].find('\n')?;
    }
    let rest = &text[start..];
    if let Some(quoted) = rest.strip_prefix('"') {
        let (word, len) = unquote(quoted);
        return Some(Word { text: Cow::Owned(word), span: start..start + 1 + len });
    }
    let len = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
    Some(Word { text: Cow::Borrowed(&rest[..len]), span: start..start + len })
}

/// Reads up to the closing quote; returns the word and how many bytes it took, the quote included.
fn unquote(text: &str) -> (String, usize) {
    let mut word = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (word, at + 1),
            '\\' => match characters.next() {
                Some((_, 'n')) => word.push('\n'),
                Some((_, 't')) => word.push('\t'),
                Some((_, 'r')) => word.push('\r'),
                Some((_, other)) => word.push(other),
                None => {}
            },
            other => word.push(other),
        }
    }
    (word, text.len())
}
