//! Builders and packages: who pushes what, and what it costs.

use firn_api::usage::{GroupBy, UsageGroup};
use maud::{Markup, html};

use super::caches::groups;
use super::charts::{Bar, bars};
use super::layout::{bytes, count, factor, percent, time};
use super::{Answer, Call, Made};
use crate::usage::RECENT_DAYS;

/// Rows that a page shows.
const ROWS: usize = 200;

/// Bars that a chart shows.
const BARS: usize = 12;

pub(super) fn builders(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let groups = groups(call, GroupBy::Builder)?;
    let hours = pushes_by_hour(call);
    let content = html! {
        h1 { "Builders" }
        @if groups.is_empty() { p { "Nothing was pushed yet, or nothing was counted since." } }
        @else { div class="wide" { table {
            caption class="hidden" { "Builders, the one with the most exclusive bytes first" }
            thead { tr {
                th scope="col" { "Builder" }
                th scope="col" class="number" { "Paths" }
                th scope="col" class="number" { "Exclusive" }
                th scope="col" class="number" { "Stored" }
                th scope="col" class="number" { "Pushed" }
                th scope="col" class="number" { "Saved" }
                th scope="col" class="number" { "Pushes/h" }
                th scope="col" class="number" { "Errors" }
                th scope="col" class="number" { "Conflicts" }
                th scope="col" { "Last seen" }
            } }
            tbody {
                @for group in groups.iter().take(ROWS) {
                    @let traffic = group.traffic.unwrap_or_default();
                    tr {
                        th scope="row" { @if group.name.is_empty() { span class="quiet" { "unknown" } } @else { (group.name) } }
                        td class="number" { (count(group.paths)) }
                        td class="number" { (bytes(group.exclusive_bytes)) }
                        td class="number" { (bytes(group.stored_bytes)) }
                        td class="number" { (bytes(traffic.pushed_logical_bytes)) }
                        td class="number" { (percent(traffic.saved_bytes, traffic.pushed_logical_bytes)) }
                        td class="number" { (hours.get(&group.name).map_or_else(|| "–".to_owned(), |n| format!("{n:.1}"))) }
                        td class="number" { (count(traffic.errors)) }
                        td class=(if traffic.conflicts > 0 { "number alarm" } else { "number" }) { (count(traffic.conflicts)) }
                        td { (time(traffic.last_seen_at.max(group.last_at))) }
                    }
                }
            }
        } } }
        p class="quiet" { "Saved: NAR bytes that did not have to be sent. Pushes/h: of today, UTC." }
    };
    Ok(call.shell("Builders", "builders", content))
}

/// Returns how many pushes an hour each builder made today.
fn pushes_by_hour(call: &Call) -> std::collections::HashMap<String, f64> {
    let now = call.app.now();
    let hours = ((now % 86_400) as f64 / 3600.0).max(1.0);
    let today = crate::usage::counters::day_of(now);
    let counted = crate::usage::report::traffic(call.app.engine.meta(), today, |key| Some(key.builder.clone()));
    let counted = counted.unwrap_or_default().into_iter();
    counted.map(|(builder, row)| (builder, row.pushes as f64 / hours)).collect()
}

pub(super) fn packages(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let groups = groups(call, GroupBy::Package)?;
    let mut growing: Vec<&UsageGroup> = groups.iter().filter(|group| group.recent_bytes > 0).collect();
    growing.sort_by_key(|group| std::cmp::Reverse(group.recent_bytes));
    growing.truncate(BARS);
    let of_growth: Vec<Bar> = growing
        .iter()
        .map(|group| Bar {
            name: name(group),
            value: group.recent_bytes,
            note: format!("of {}", bytes(group.stored_bytes)),
            class: "two",
        })
        .collect();
    let content = html! {
        h1 { "Packages" }
        @if !of_growth.is_empty() {
            section { h2 { "Fastest growing" } (bars(&format!("Stored bytes that came in the last {RECENT_DAYS} days"), &of_growth)) }
        }
        section { h2 { "Largest" } (table(&groups)) }
    };
    Ok(call.shell("Packages", "packages", content))
}

fn name(group: &UsageGroup) -> String {
    if group.name.is_empty() { "(documents, NARs without a path)".to_owned() } else { group.name.clone() }
}

fn table(groups: &[UsageGroup]) -> Markup {
    html! {
        div class="wide" { table {
            caption class="hidden" { "Packages, the one with the most exclusive bytes first" }
            thead { tr {
                th scope="col" { "Package" }
                th scope="col" class="number" { "Paths" }
                th scope="col" class="number" { "Exclusive" }
                th scope="col" class="number" { "Shared" }
                th scope="col" class="number" { "Logical" }
                th scope="col" class="number" { "Dedup" }
                th scope="col" class="number" { "Compr." }
                th scope="col" { "Newest" }
            } }
            tbody {
                @for group in groups.iter().take(ROWS) {
                    tr {
                        th scope="row" {
                            @if group.name.is_empty() { span class="quiet" { (name(group)) } }
                            @else { a href=(format!("/-/search?q={}", percent_encode(&group.name))) { (group.name) } }
                        }
                        td class="number" { (count(group.paths)) }
                        td class="number" { (bytes(group.exclusive_bytes)) }
                        td class="number" { (bytes(group.shared_bytes)) }
                        td class="number" { (bytes(group.logical_bytes)) }
                        td class="number" { (factor(group.dedup_factor)) }
                        td class="number" { (factor(group.compression_factor)) }
                        td { (time(group.last_at)) }
                    }
                }
            }
        } }
    }
}

/// Writes any text as a part of a URL.
pub(super) fn percent_encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
