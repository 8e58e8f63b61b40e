//! `nix.conf`: the lines that make Nix use a cache, set and removed without touching anything else in the file.
//!
//! What firn writes stands between two comments that name the cache, behind every `substituters = …` without `extra-`, which
//! would undo it.

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

/// What a `nix.conf` is to say of one cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The substituter's URL.
    pub(crate) url: String,
    /// Its public keys.
    pub(crate) keys: Vec<String>,
    /// The file with the credentials, if Nix has to be told.
    pub(crate) netrc_file: Option<PathBuf>,
}

impl Entry {
    /// Returns the lines, without a newline.
    pub(crate) fn lines(&self) -> Vec<String> {
        lines(
            &[self.url.as_str()],
            &self.keys.iter().map(String::as_str).collect::<Vec<_>>(),
            self.netrc_file.as_deref(),
        )
    }
}

fn lines(substituters: &[&str], keys: &[&str], netrc_file: Option<&Path>) -> Vec<String> {
    let mut lines = Vec::new();
    if !substituters.is_empty() {
        lines.push(format!("extra-substituters = {}", substituters.join(" ")));
    }
    if !keys.is_empty() {
        lines.push(format!("extra-trusted-public-keys = {}", keys.join(" ")));
    }
    if let Some(path) = netrc_file {
        lines.push(format!("netrc-file = {}", path.display()));
    }
    lines
}

/// Returns the file with a block that says of the entry's cache what people's lines lack. What other blocks say counts for
/// nothing: they may be removed. Setting twice is setting once.
pub(crate) fn set(text: &str, entry: &Entry) -> String {
    let by_hand = by_hand(text);
    let known = |name| words(&by_hand, name);
    let (urls, known_keys, netrc) = (known("substituters"), known("trusted-public-keys"), known("netrc-file"));
    let substituters: Vec<&str> =
        [entry.url.as_str()].into_iter().filter(|url| !urls.iter().any(|word| is_same(word, url))).collect();
    let keys: Vec<&str> =
        entry.keys.iter().map(String::as_str).filter(|key| !known_keys.iter().any(|word| word == key)).collect();
    let netrc_file =
        entry.netrc_file.as_deref().filter(|path| netrc.last().is_none_or(|word| Path::new(word) != *path));
    let lines = lines(&substituters, &keys, netrc_file);
    if lines.is_empty() {
        return remove(text, &entry.url);
    }
    let block = format!("{}\n{}\n{}\n", begin(&entry.url), lines.join("\n"), end(&entry.url));
    if let Some((before, after)) = around(text, &entry.url) {
        return format!("{before}{block}{after}");
    }
    let text = remove(text, &entry.url);
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{block}")
}

/// Returns what stands before and behind the block of a cache, if there is one, whole, and nothing behind it that may undo it.
fn around<'a>(text: &'a str, url: &str) -> Option<(&'a str, &'a str)> {
    let (begin, end) = (begin(url), end(url));
    let mut rest = text;
    while let Some((line, after)) = split_line(rest) {
        if line.trim_end() == begin {
            let before = &text[..text.len() - rest.len()];
            let after = skip_to(after, &end)?;
            let is_last = !after.lines().any(|line| line.trim_end() == begin) && !by_hand(after).lines().any(sets);
            return is_last.then_some((before, after));
        }
        rest = after;
    }
    None
}

/// Says whether a line gives one of our settings a new value, whatever was said before.
fn sets(line: &str) -> bool {
    let key = line.split_once('=').map(|(key, _)| key.trim());
    key.is_some_and(|key| ["substituters", "trusted-public-keys", "netrc-file"].contains(&key))
}

/// Returns the file without any block of firn's.
fn by_hand(text: &str) -> String {
    urls(text).into_iter().fold(text.to_owned(), |text, url| remove(&text, url))
}

/// Returns the file without what firn wrote of a cache; what people wrote stays.
pub(crate) fn remove(text: &str, url: &str) -> String {
    let (begin, end) = (begin(url), end(url));
    let mut kept = String::new();
    let mut rest = text;
    while let Some((line, after)) = split_line(rest) {
        if line.trim_end() == begin {
            // Without its end it was changed by hand: then only the comment is ours.
            rest = skip_to(after, &end).unwrap_or(after);
            continue;
        }
        kept.push_str(line);
        rest = after;
    }
    kept
}

/// Returns the URLs of the caches that firn wrote into the file.
pub(crate) fn urls(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.trim_end().strip_prefix(BEGIN)).collect()
}

const BEGIN: &str = "# firn use ";

fn begin(url: &str) -> String {
    format!("{BEGIN}{url}")
}

fn end(url: &str) -> String {
    format!("# end of firn use {url}")
}

/// Splits off a line with its newline.
fn split_line(text: &str) -> Option<(&str, &str)> {
    let end = text.find('\n').map_or(text.len(), |newline| newline + 1);
    (!text.is_empty()).then(|| text.split_at(end))
}

fn skip_to<'a>(mut text: &'a str, end: &str) -> Option<&'a str> {
    while let Some((line, after)) = split_line(text) {
        if line.trim_end() == end {
            return Some(after);
        }
        text = after;
    }
    None
}

/// Returns the words that a setting has after the whole file, as Nix reads it: `NAME = …` sets, `extra-NAME = …` adds.
fn words(text: &str, name: &str) -> Vec<String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let Some((key, value)) = line.split_once('=') else { continue };
        let value = value.split_whitespace().map(str::to_owned);
        match key.trim() {
            key if key == name => words = value.collect(),
            key if key.strip_prefix("extra-") == Some(name) => words.extend(value),
            _ => {}
        }
    }
    words
}

/// Says if two URLs of substituters mean the same one: a final slash makes no difference.
pub(crate) fn is_same(one: &str, other: &str) -> bool {
    let plain = |url: &str| url.split('?').next().unwrap_or_default().trim_end_matches('/').to_owned();
    plain(one) == plain(other)
}
