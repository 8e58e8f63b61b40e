//! Builders and packages: who pushes what, and what it costs.

use std::cmp::Reverse;
use std::collections::HashMap;

use firn_api::usage::{GroupBy, Traffic, UsageGroup};
use firn_index::{CacheName, UsageRow};
use maud::{Markup, html};

use super::charts::{Bar, bars, spark};
use super::layout::{age, bytes, count, factor, percent, time};
use super::table::{Column, cell, table};
use super::{Answer, Call, Made, Problem};
use crate::usage::RECENT_DAYS;
use crate::usage::counters::day_of;
use crate::usage::traffic::told;

/// Rows that a page shows.
const ROWS: usize = 200;

/// Bars that a chart shows.
const BARS: usize = 10;

/// What was counted of pairs of a cache and a builder.
pub(super) type Pairs = Vec<((CacheName, String), UsageRow)>;

/// Returns what happened until now, by cache and builder.
pub(super) fn pairs(call: &Call) -> Result<Pairs, Problem> {
    let found = call.app.usage.traffic_by_pair(call.app.engine.meta(), call.app.now());
    found.map_err(|error| call.index(error))
}

/// Adds pairs up under the names that `name` gives them.
fn sums<'a>(pairs: &'a Pairs, name: impl Fn(&'a CacheName, &'a str) -> Option<&'a str>) -> HashMap<&'a str, UsageRow> {
    let mut sums: HashMap<&str, UsageRow> = HashMap::new();
    for ((cache, builder), row) in pairs {
        if let Some(name) = name(cache, builder) {
            sums.entry(name).or_default().add(row);
        }
    }
    sums
}

/// Returns the groups of the newest report with what happened until now; those that came since have no bytes yet.
pub(super) fn groups(call: &Call, by: GroupBy) -> Result<Vec<UsageGroup>, Problem> {
    let latest = call.app.usage.latest();
    let mut groups = latest.and_then(|latest| Some(latest.by.get(&by)?.groups.clone())).unwrap_or_default();
    let pairs = pairs(call)?;
    let mut traffic = sums(&pairs, |cache, builder| match by {
        GroupBy::Cache => Some(cache.as_str()),
        GroupBy::Builder => Some(builder),
        GroupBy::Package | GroupBy::Pin | GroupBy::Day => None,
    });
    for group in &mut groups {
        group.traffic = traffic.remove(group.name.as_str()).map(|row| told(&row));
    }
    let mut new: Vec<_> = traffic.into_iter().filter(|(name, row)| !name.is_empty() && pushes(row)).collect();
    new.sort_by_key(|(name, _)| *name);
    groups.extend(new.into_iter().map(|(name, row)| UsageGroup {
        name: name.to_owned(),
        traffic: Some(told(&row)),
        ..UsageGroup::default()
    }));
    Ok(groups)
}

/// Says whether somebody pushed, or tried to.
fn pushes(row: &UsageRow) -> bool {
    row.pushes + row.paths + row.conflicts > 0
}

pub(super) fn builders(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let (mut named, unnamed): (Vec<_>, Vec<_>) =
        groups(call, GroupBy::Builder)?.into_iter().partition(|group| !group.name.is_empty());
    let hours = pushes_by_hour(call)?;
    let total = named.len();
    named.truncate(ROWS);
    let columns = [
        Column::text("Builder"),
        Column::text("New paths by the hour"),
        Column::number("Pushes/h"),
        Column::number("Pushed"),
        Column::number("Paths"),
        Column::number("Saved"),
        Column::number("Stored"),
        Column::number("Exclusive"),
        Column::number("Errors"),
        Column::number("Conflicts"),
        Column::text("Last seen"),
    ];
    let rows = named.iter().map(|group| {
        let traffic = group.traffic.unwrap_or_default();
        vec![
            cell(&group.name),
            if group.hours.is_empty() { cell("–") } else { spark(&group.hours) },
            cell(hours.get(&group.name).map_or_else(|| "–".to_owned(), |n| format!("{n:.1}"))),
            cell(bytes(traffic.pushed_logical_bytes)),
            cell(count(group.paths)),
            cell(percent(traffic.saved_bytes, traffic.pushed_logical_bytes)),
            cell(bytes(group.stored_bytes)),
            cell(bytes(group.exclusive_bytes)),
            cell(count(traffic.errors)),
            alarming(traffic.conflicts),
            time(traffic.last_seen_at.max(group.last_at)),
        ]
    });
    let content = html! {
        h1 { "Builders" }
        @if total == 0 { p { "Nobody has pushed anything yet. " a href="/-/caches" { "A cache's page" } " says how." } }
        @else { (super::hours::section(call)) (table("Builders, the one with the most exclusive bytes first", &columns, rows)) }
        @for group in unnamed.iter().filter(|group| group.stored_bytes > 0) {
            p { (bytes(group.stored_bytes)) " more are stored for NARs without a path and for documents; " (bytes(group.exclusive_bytes)) " of these for nothing else." }
        }
        (legend(&[
            ("New paths by the hour", "of the last two days, each builder by its own measure"),
            ("Pushes/h", "of today, UTC"),
            ("Saved", "the part of the pushed NAR bytes that did not have to be sent; stock Nix sends all"),
            ("Exclusive", "stored bytes that would come back if all that this builder pushed first went"),
        ]))
        (counted(call, total, named.len()))
    };
    Ok(call.shell("Builders", "builders", content))
}

/// Writes a count that should be 0.
fn alarming(n: u64) -> Markup {
    html! { @if n > 0 { strong class="alarm" { (count(n)) } } @else { "0" } }
}

/// Says what columns mean.
pub(super) fn legend(words: &[(&str, &str)]) -> Markup {
    html! { p class="quiet" { @for (word, meaning) in words { (word) ": " (meaning) ". " } } }
}

/// Says how old the figures are, and whether there are more.
pub(super) fn counted(call: &Call, total: usize, shown: usize) -> Markup {
    html! {
        @if shown < total { p class="quiet" { "The first " (count(shown as u64)) " of " (count(total as u64)) "." } }
        @match call.app.usage.latest() {
            Some(latest) => p class="quiet" { "Bytes were counted " (age(latest.at, call.app.now())) "; what happened is up to date." },
            None => p class="quiet" { "Bytes have not been counted yet: the first report is made a minute after the server started." },
        }
    }
}

/// Returns how many pushes an hour each builder made today.
fn pushes_by_hour(call: &Call) -> Result<HashMap<String, f64>, Problem> {
    let now = call.app.now();
    let hours = ((now % 86_400) as f64 / 3600.0).max(1.0);
    let (usage, meta) = (&call.app.usage, call.app.engine.meta());
    let today = usage.traffic_since(meta, now, day_of(now), |key| Some(key.builder.clone()));
    let today = today.map_err(|error| call.index(error))?;
    Ok(today.into_iter().map(|(builder, row)| (builder, row.pushes as f64 / hours)).collect())
}

/// Writes who pushes to a cache, the one who pushed most first.
pub(super) fn builders_of(call: &Call, cache: &CacheName) -> Result<Markup, Problem> {
    let pairs = pairs(call)?;
    let of_cache = sums(&pairs, |of, builder| (of == cache).then_some(builder));
    let mut rows: Vec<(&str, Traffic)> =
        of_cache.into_iter().filter(|(_, row)| pushes(row)).map(|(name, row)| (name, told(&row))).collect();
    rows.sort_by_key(|(name, traffic)| (Reverse(traffic.pushed_logical_bytes), *name));
    rows.truncate(ROWS);
    let columns = [
        Column::text("Builder"),
        Column::number("Paths"),
        Column::number("Pushed"),
        Column::number("Saved"),
        Column::number("Errors"),
        Column::number("Conflicts"),
        Column::text("Last seen"),
    ];
    let cells = rows.iter().map(|(name, traffic)| {
        vec![
            cell(name),
            cell(count(traffic.pushed_paths)),
            cell(bytes(traffic.pushed_logical_bytes)),
            cell(percent(traffic.saved_bytes, traffic.pushed_logical_bytes)),
            cell(count(traffic.errors)),
            alarming(traffic.conflicts),
            time(traffic.last_seen_at),
        ]
    });
    Ok(
        html! { @if !rows.is_empty() { section { h2 { "Who pushes to it" } (table("Builders that push to this cache", &columns, cells)) } } },
    )
}

/// By what packages can be sorted: the name in the URL, the column's name, and the value.
type Order = (&'static str, &'static str, fn(&UsageGroup) -> u64);

const ORDERS: [Order; 5] = [
    ("exclusive", "Exclusive", |group| group.exclusive_bytes),
    ("stored", "Stored", |group| group.stored_bytes),
    ("logical", "Logical", |group| group.logical_bytes),
    ("paths", "Paths", |group| group.paths),
    ("growth", "Growth", |group| group.recent_bytes),
];

pub(super) fn packages(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let (mut named, unnamed): (Vec<_>, Vec<_>) =
        groups(call, GroupBy::Package)?.into_iter().partition(|group| !group.name.is_empty());
    let mut growing: Vec<&UsageGroup> = named.iter().filter(|group| group.recent_bytes > 0).collect();
    growing.sort_by_key(|group| Reverse(group.recent_bytes));
    let bar = |group: &&UsageGroup| Bar {
        name: package(&group.name),
        value: group.recent_bytes,
        note: format!("of {} stored", bytes(group.stored_bytes)),
        class: "two",
    };
    let of_growth: Vec<Bar> = growing.iter().take(BARS).map(bar).collect();
    let asked = call.query.get("sort").unwrap_or_default();
    let order = ORDERS.iter().find(|(name, ..)| *name == asked).unwrap_or(&ORDERS[0]);
    named.sort_by_key(|group| Reverse(order.2(group)));
    let total = named.len();
    named.truncate(ROWS);
    let content = html! {
        h1 { "Packages" }
        @if total == 0 { p { "Nothing has been counted yet." } }
        @if !of_growth.is_empty() {
            section { h2 { "Fastest growing" } (bars(&format!("Stored bytes that came in the last {RECENT_DAYS} days"), &of_growth)) }
        }
        @if total > 0 { section { h2 { "Largest" } (package_table(&named, order.0)) } }
        @for group in unnamed.iter().filter(|group| group.stored_bytes > 0) {
            p { "NARs without a path, and documents: " (bytes(group.stored_bytes)) " stored, " (bytes(group.exclusive_bytes)) " of it exclusive." }
        }
        (legend(&[
            ("Exclusive", "stored bytes that would come back if all paths of the package went"),
            ("Stored", "what they need, shared or not"),
            ("Growth", "stored bytes that came in the last 7 days"),
        ]))
        (counted(call, total, named.len()))
    };
    Ok(call.shell("Packages", "packages", content))
}

fn package(name: &str) -> Markup {
    html! { a href=(format!("/-/search?q={}", percent_encode(name))) { (name) } }
}

fn package_table(groups: &[UsageGroup], order: &str) -> Markup {
    let mut columns = vec![Column::text("Package")];
    let sorted = |(name, title, _): &Order| Column::sorted(title, format!("/-/packages?sort={name}"), *name == order);
    columns.extend(ORDERS.iter().map(sorted));
    columns.extend([Column::number("Dedup"), Column::number("Compressed"), Column::text("Newest")]);
    let rows = groups.iter().map(|group| {
        let mut cells = vec![package(&group.name)];
        cells.extend(ORDERS.iter().map(|(name, _, value)| match *name {
            "paths" => cell(count(value(group))),
            _ => cell(bytes(value(group))),
        }));
        cells.extend([cell(factor(group.dedup_factor)), cell(factor(group.compression_factor)), time(group.last_at)]);
        cells
    });
    table("Packages, the largest first", &columns, rows)
}

/// Writes any text as a part of a URL.
pub(super) fn percent_encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}
