//! What all pages have around their content, and how they write sizes and times.

use firn_index::UnixSeconds;
use maud::{DOCTYPE, Markup, html};

use crate::usage::viewer::Viewer;

/// What stands around a page's content.
pub(super) struct Shell<'a> {
    pub(super) title: &'a str,
    /// Which entry of the navigation it is.
    pub(super) page: &'static str,
    pub(super) viewer: &'a Viewer,
    pub(super) sees_all: bool,
}

impl Shell<'_> {
    /// Returns the whole document.
    pub(super) fn around(&self, content: &Markup) -> Markup {
        let entries: &[(&str, &str)] = if self.sees_all {
            &[
                ("overview", "Overview"),
                ("caches", "Caches"),
                ("builders", "Builders"),
                ("packages", "Packages"),
                ("state", "State"),
            ]
        } else {
            &[("overview", "Overview"), ("caches", "Caches")]
        };
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) " · firn" }
                    link rel="stylesheet" href="/-/style.css";
                    link rel="icon" href="data:,";
                }
                body {
                    a class="skip" href="#content" { "Skip to the content" }
                    header {
                        a class="brand" href="/-/overview" { "firn" }
                        nav aria-label="Pages" {
                            @for (page, name) in entries {
                                @let current = (*page == self.page).then_some("page");
                                a href=(format!("/-/{page}")) aria-current=[current] { (name) }
                            }
                        }
                        form class="find" action="/-/search" method="get" role="search" {
                            label class="hidden" for="q" { "Find a path by its name or hash" }
                            input id="q" name="q" type="search" placeholder="Find a path" maxlength="250";
                            button type="submit" { "Find" }
                        }
                        @if let Some(builder) = self.viewer.builder() {
                            form class="who" action="/-/logout" method="post" {
                                span { (builder) }
                                button type="submit" { "Log out" }
                            }
                        } @else {
                            a class="who" href="/-/login" { "Log in" }
                        }
                    }
                    main id="content" { (content) }
                    footer { "Served by firn " (env!("CARGO_PKG_VERSION")) }
                }
            }
        }
    }
}

/// Returns a number of bytes as people read it.
pub(super) fn bytes(count: u64) -> String {
    bytesize::ByteSize(count).display().iec().to_string()
}

/// Returns a count with its digits in groups of three.
pub(super) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// Returns a time, in UTC.
pub(super) fn time(at: UnixSeconds) -> Markup {
    let at = i64::try_from(at).ok().filter(|at| *at > 0).and_then(|at| jiff::Timestamp::from_second(at).ok());
    html! {
        @match at {
            Some(at) => time datetime=(at.to_string()) { (at.strftime("%Y-%m-%d %H:%M").to_string()) },
            None => span class="quiet" { "never" },
        }
    }
}

/// Returns `part` of `whole` as a percentage; nothing of nothing.
pub(super) fn percent(part: u64, whole: u64) -> String {
    match (u128::from(part) * 1000).checked_div(u128::from(whole)) {
        Some(tenths) => format!("{}.{} %", tenths / 10, tenths % 10),
        None => "–".to_owned(),
    }
}

/// Returns a factor as people read it.
pub(super) fn factor(factor: f64) -> String {
    format!("{factor:.2}×")
}

/// Returns a figure with its name, for the row of figures above a page.
pub(super) fn figure(name: &str, value: &str, note: &str) -> Markup {
    html! {
        div class="figure" {
            dt { (name) }
            dd { strong { (value) } @if !note.is_empty() { span class="quiet" { (note) } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!((count(0), count(999)), ("0".to_owned(), "999".to_owned()));
        assert_eq!((percent(1, 3), percent(5, 0)), ("33.3 %".to_owned(), "–".to_owned()));
        assert_eq!(time(0).into_string(), "<span class=\"quiet\">never</span>");
        assert!(time(1_795_824_000).into_string().contains("2026-11-28 00:00"));
    }
}
