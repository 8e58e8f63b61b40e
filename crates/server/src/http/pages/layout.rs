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
                    footer { "firn " (env!("CARGO_PKG_VERSION")) ". Times are UTC. Sizes are in powers of 1024." }
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

/// Returns a day as its number since 1970, for charts.
pub(super) fn day_number(name: &str) -> Option<i64> {
    let date: jiff::civil::Date = name.parse().ok()?;
    let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(midnight.as_second() / 86_400)
}

/// Returns how long ago a time was, roughly, after the time itself.
pub(super) fn age(at: UnixSeconds, now: UnixSeconds) -> String {
    let seconds = now.saturating_sub(at);
    let of = |n: u64, unit: &str| format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" });
    match seconds {
        0..60 => "just now".to_owned(),
        60..3600 => of(seconds / 60, "minute"),
        3600..172_800 => of(seconds / 3600, "hour"),
        _ => of(seconds / 86_400, "day"),
    }
}

/// Returns a duration as people read it.
pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Writes a store path's base name with its hash apart, as it stands above a page.
pub(super) fn path_title(base_name: &str) -> Markup {
    html! {
        h1 class="path" {
            @match base_name.split_at_checked(33) {
                Some((hash, name)) if !name.is_empty() => { span class="hash" { (hash) } (name) },
                _ => (base_name),
            }
        }
    }
}

/// Writes a link to a path's page.
pub(super) fn path_link(cache: &str, base_name: &str) -> Markup {
    let hash = base_name.get(..32).unwrap_or_default();
    html! { a class="path" href=(format!("/-/paths/{cache}/{hash}")) { (base_name) } }
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
        assert_eq!(
            (age(100, 130), age(0, 3600), age(0, 200_000)),
            ("just now".into(), "1 hour ago".into(), "2 days ago".into())
        );
        assert_eq!((duration(90), duration(90 * 86_400)), ("90 s".to_owned(), "90 days".to_owned()));
        assert_eq!((day_number("1970-01-02"), day_number("nonsense")), (Some(1), None));
        assert_eq!(time(0).into_string(), "<span class=\"quiet\">never</span>");
        assert!(time(1_795_824_000).into_string().contains("2026-11-28 00:00"));
    }
}
