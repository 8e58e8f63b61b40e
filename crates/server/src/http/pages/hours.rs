//! Who pushed how many paths, by the hour: a chart, and a table with its figures.

use firn_api::usage::{GroupBy, UsageGroup};
use firn_engine::day_name;
use maud::{Markup, html};

use super::Call;
use super::charts::Columns;
use super::layout::{age, count};
use super::table::{Column, cell, table};
use crate::usage::hours::{HOUR, HOURS, beginnings};

/// Builders that a row of the table names.
const NAMED: usize = 8;

/// Writes what the newest report knows of the last hours.
pub(super) fn section(call: &Call) -> Markup {
    let Some(latest) = call.app.usage.latest() else { return html! {} };
    let groups = latest.by.get(&GroupBy::Builder).map_or(&[][..], |stored| stored.groups.as_slice());
    let builders: Vec<&UsageGroup> = groups.iter().filter(|group| group.hours.len() == HOURS).collect();
    let names: Vec<String> = beginnings(latest.at).into_iter().map(name).collect();
    let counts: Vec<u64> = (0..HOURS).map(|at| builders.iter().map(|group| group.hours[at]).sum()).collect();
    let columns = [Column::text("Hour (UTC)"), Column::number("Paths"), Column::text("From")];
    let rows = (0..HOURS)
        .rev()
        .filter(|at| counts[*at] > 0)
        .map(|at| vec![cell(&names[at]), cell(count(counts[at])), cell(pushers(&builders, at))]);
    html! {
        section aria-label="Paths by the hour" {
            (Columns { id: "hours", title: "New paths by the hour of the last two days (UTC)", names: &names, counts: &counts }.draw())
            @if builders.is_empty() {
                p class="quiet" { "None came in these hours, as of " (age(latest.at, call.app.now())) "." }
            } @else {
                details {
                    summary { "By hour and builder" }
                    (table("New paths by hour and builder", &columns, rows))
                }
                p class="quiet" { "Paths that are there, by the time at which they became visible, as of " (age(latest.at, call.app.now())) "." }
            }
        }
    }
}

/// Returns an hour as it is written: `2026-11-28 14:00`.
fn name(beginning: u64) -> String {
    format!("{} {:02}:00", day_name(beginning), beginning / HOUR % 24)
}

/// Returns who pushed in an hour, the one who pushed most first.
fn pushers(builders: &[&UsageGroup], at: usize) -> String {
    let mut found: Vec<(u64, &str)> = builders
        .iter()
        .map(|group| (group.hours[at], if group.name.is_empty() { "(nobody known)" } else { group.name.as_str() }))
        .filter(|(paths, _)| *paths > 0)
        .collect();
    found.sort_by_key(|(paths, name)| (std::cmp::Reverse(*paths), *name));
    let more = found.len().saturating_sub(NAMED);
    let mut text: Vec<String> = found.iter().take(NAMED).map(|(paths, name)| format!("{name} {paths}")).collect();
    if more > 0 {
        text.push(format!("{more} more"));
    }
    text.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_pushers_are_named() {
        assert_eq!(name(1_795_824_000 + 14 * HOUR), "2026-11-28 14:00");
        let group = |name: &str, paths| UsageGroup { name: name.to_owned(), hours: vec![paths], ..Default::default() };
        let all = [group("a", 1), group("b", 20), group("", 3), group("c", 0)];
        assert_eq!(pushers(&all.iter().collect::<Vec<_>>(), 0), "b 20, (nobody known) 3, a 1");
        let many: Vec<UsageGroup> = (0..NAMED + 2).map(|n| group(&n.to_string(), 1)).collect();
        assert!(pushers(&many.iter().collect::<Vec<_>>(), 0).ends_with("7 1, 2 more"));
    }
}
