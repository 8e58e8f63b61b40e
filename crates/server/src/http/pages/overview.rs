//! The first page: what the store takes, why it takes no more, and what is wrong.

use firn_api::usage::{ConflictNote, StoreUsage, UsageHistory};
use maud::{Markup, html};

use super::charts::{Bar, Lines, Series, bars};
use super::layout::{age, bytes, count, day_number, figure, path_link, percent, time};
use super::table::{Column, cell, table};
use super::{Answer, Call, Made, caches};
use crate::usage::counters::day_of;
use crate::usage::{RECENT_DAYS, StoredReport, report};

/// Days that charts show.
const DAYS: u32 = 90;

/// Conflicts that the first page shows.
const CONFLICTS: usize = 5;

pub(super) fn page(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return caches::list(call);
    }
    let (app, now) = (&call.app, call.app.now());
    let history = report::history(&app.usage, app.engine.meta(), now, day_of(now).saturating_sub(DAYS));
    let history = history.map_err(|error| call.index(error))?;
    let totals = app.engine.stats().map_err(|error| call.engine(error))?.totals;
    let latest = app.usage.latest();
    let content = html! {
        h1 { "Overview" }
        dl class="figures" {
            (figure("Logical", &bytes(totals.logical_bytes), "NAR bytes of all paths"))
            (figure("Stored", &bytes(totals.stored_bytes), "in packs"))
            (figure("Smaller by", &times(totals.logical_bytes, totals.stored_bytes), "logical to stored"))
            (figure("Paths", &count(totals.paths), &format!("in {} caches", app.caches.all().len())))
        }
        @if let Some(latest) = &latest { (alarms(latest)) }
        (over_time(&history))
        (week(&history, day_of(now)))
        @match &latest {
            Some(latest) => {
                (savings(&latest.store, totals.logical_bytes))
                (parts(&latest.store))
                p class="quiet" { "Counted " (age(latest.at, now)) ", " (time(latest.at)) ", in " (count(latest.took_ms)) " ms." }
            }
            None => p { "The store has not been counted yet. The first report is made a minute after the server started." },
        }
    };
    Ok(call.shell("Overview", "overview", content))
}

/// What somebody has to do something about.
fn alarms(latest: &StoredReport) -> Markup {
    html! {
        @if latest.missing_chunks > 0 {
            p class="alarm" role="alert" {
                (count(latest.missing_chunks)) " chunks are needed and were not found: see the server's log, and upload again what is damaged."
            }
        }
        @if !latest.conflicts.is_empty() {
            section class="alarm" aria-label="Conflicts" {
                h2 { "Other NARs were offered for " (count(latest.conflicts_total)) @if latest.conflicts_total == 1 { " path" } @else { " paths" } }
                p { "The first one stayed. A build that is not reproducible does this, and so would a builder that can't be trusted." }
                (conflict_table(&latest.conflicts, CONFLICTS))
                @if latest.conflicts.len() > CONFLICTS { p { a href="/-/conflicts" { "All conflicts" } } }
            }
        }
    }
}

fn conflict_table(conflicts: &[ConflictNote], most: usize) -> Markup {
    let columns = [
        Column::text("Path"),
        Column::text("Cache"),
        Column::text("First from"),
        Column::text("Another from"),
        Column::text("Files that differ"),
        Column::text("When"),
    ];
    let rows = conflicts.iter().take(most).map(|one| {
        vec![
            path_link(&one.cache, &one.path),
            cell(&one.cache),
            cell(&one.builder),
            cell(&one.other_builder),
            files(one),
            time(one.at),
        ]
    });
    table("Paths that were offered with another NAR", &columns, rows)
}

/// Writes the first files that differ, and how many more there are.
fn files(conflict: &ConflictNote) -> Markup {
    let Some(total) = conflict.files_total else { return cell("not recorded") };
    if total == 0 && conflict.is_partial {
        return cell("too much to compare");
    }
    let more = total.saturating_sub(conflict.files.len() as u64);
    html! {
        @for (number, file) in conflict.files.iter().enumerate() {
            @if number > 0 { ", " }
            @if file.is_empty() { "the whole" } @else { code { (file) } }
        }
        @if more > 0 { " and " (count(more)) " more" }
        @if conflict.is_partial { " (not all were compared)" }
    }
}

/// All conflicts that the newest report knows.
pub(super) fn conflicts(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let latest = call.app.usage.latest();
    let content = html! {
        h1 { "Conflicts" }
        p { "Paths that were offered with another NAR than the one that is there. The first one stays." }
        @match latest.as_ref().filter(|latest| !latest.conflicts.is_empty()) {
            Some(latest) => {
                (conflict_table(&latest.conflicts, usize::MAX))
                p class="quiet" { (count(latest.conflicts.len() as u64)) " of " (count(latest.conflicts_total)) ", counted " (age(latest.at, call.app.now())) "." }
            }
            None => p { "There were none when the store was counted last." },
        }
    };
    Ok(call.shell("Conflicts", "overview", content))
}

fn times(of: u64, to: u64) -> String {
    if to == 0 { "–".to_owned() } else { format!("{:.1}×", of as f64 / to as f64) }
}

/// What happened in the last days.
fn week(history: &UsageHistory, today: u32) -> Markup {
    let from = i64::from(today) - RECENT_DAYS as i64 + 1;
    let mut sum = firn_api::usage::Traffic::default();
    for (_, day) in history.days.iter().filter(|(name, _)| day_number(name).is_some_and(|day| day >= from)) {
        let one = &day.traffic;
        sum.pushed_paths += one.pushed_paths;
        sum.pushed_logical_bytes += one.pushed_logical_bytes;
        sum.received_bytes += one.received_bytes;
        sum.saved_bytes += one.saved_bytes;
        sum.served_bytes += one.served_bytes;
        sum.hits += one.hits;
        sum.misses += one.misses;
        sum.errors += one.errors;
    }
    let asked = sum.hits + sum.misses;
    let found = match asked {
        0 => "nothing was asked for".to_owned(),
        _ => format!("{} of what was asked for was there", percent(sum.hits, asked)),
    };
    html! {
        section {
            h2 { "The last " (RECENT_DAYS) " days" }
            dl class="figures" {
                (figure("Pushed", &bytes(sum.pushed_logical_bytes), &format!("{} paths", count(sum.pushed_paths))))
                (figure("Received", &bytes(sum.received_bytes), &format!("{} not sent", percent(sum.saved_bytes, sum.pushed_logical_bytes))))
                (figure("Served", &bytes(sum.served_bytes), &found))
                (figure("Errors", &count(sum.errors), "refused or failed"))
            }
        }
    }
}

/// From what whole NARs would take down to what is on the disk, and which idea saves what.
fn savings(store: &StoreUsage, logical_bytes: u64) -> Markup {
    let plain = store.chunk_bytes.saturating_add(store.delta_saved_bytes);
    let step = |before: u64, after: u64| percent(before.saturating_sub(after), store.logical_bytes);
    let bar = |name: &str, value, note: String, class| Bar { name: cell(name), value, note, class };
    // NARs that no path names yet, and documents, are stored too.
    let unnamed = store.logical_bytes.saturating_sub(logical_bytes);
    let note = if unnamed > store.logical_bytes / 100 {
        format!("{} of them without a path", bytes(unnamed))
    } else {
        String::new()
    };
    let all = [
        bar("All NARs", store.logical_bytes, note, "one"),
        bar(
            "… each NAR once",
            store.distinct_nar_bytes,
            format!("same NAR: −{}", step(store.logical_bytes, store.distinct_nar_bytes)),
            "one",
        ),
        bar(
            "… but for store hashes",
            store.distinct_recipe_bytes,
            format!("normalisation: −{}", step(store.distinct_nar_bytes, store.distinct_recipe_bytes)),
            "one",
        ),
        bar(
            "… each chunk once",
            store.unique_bytes,
            format!("chunks: −{}", step(store.distinct_recipe_bytes, store.unique_bytes)),
            "one",
        ),
        bar("… compressed", plain, format!("compression: −{}", step(store.unique_bytes, plain)), "two"),
        bar(
            "… against what is like it",
            store.chunk_bytes,
            format!("delta frames: −{} (estimated)", step(plain, store.chunk_bytes)),
            "two",
        ),
    ];
    html! {
        section {
            h2 { "What saves how much" }
            (bars("From whole NARs down to what their chunks take, and the part of all NAR bytes that each idea saves", &all))
            p class="quiet" {
                "Normalisation counts here where a whole NAR differs in nothing but store hashes; where more differs, what it saves is in the chunks."
            }
        }
    }
}

/// What the bytes on the disk are.
fn parts(store: &StoreUsage) -> Markup {
    let bar =
        |name: &str, value, class| Bar { name: cell(name), value, note: percent(value, store.disk_bytes()), class };
    let all = [
        bar("Chunks that are needed", store.chunk_bytes, "one"),
        bar("Chunks that nothing needs", store.dead_bytes, "three"),
        bar("Recipes", store.recipe_bytes, "two"),
        bar("Records of paths", store.record_bytes, "two"),
        bar("Headers and footers", store.overhead_bytes, "two"),
        bar("Index", store.index_bytes, "two"),
    ];
    html! {
        section {
            h2 { "What is on the disk" }
            (bars(&format!("{} in packs and indexes", bytes(store.disk_bytes())), &all))
        }
    }
}

fn over_time(history: &UsageHistory) -> Markup {
    let days: Vec<_> = history.days.iter().filter(|(_, day)| day.store.stored_bytes > 0).collect();
    let names: Vec<_> = days.iter().filter_map(|(name, _)| Some((day_number(name)?, (*name).clone()))).collect();
    let of = |field: fn(&StoreUsage) -> u64| days.iter().map(|(_, day)| field(&day.store)).collect();
    let series = [
        Series { name: "logical", class: "one", values: of(|store| store.logical_bytes) },
        Series { name: "unique", class: "two", values: of(|store| store.unique_bytes) },
        Series { name: "on the disk", class: "three", values: of(StoreUsage::disk_bytes) },
    ];
    let lines = Lines { id: "over-time", title: "Stored against logical bytes, by day", days: &names, series: &series };
    let columns = [
        Column::text("Day"),
        Column::number("Paths"),
        Column::number("Logical"),
        Column::number("Unique"),
        Column::number("On the disk"),
    ];
    let rows = days.iter().rev().map(|(name, day)| {
        let store = &day.store;
        vec![
            cell(name),
            cell(count(store.paths)),
            cell(bytes(store.logical_bytes)),
            cell(bytes(store.unique_bytes)),
            cell(bytes(store.disk_bytes())),
        ]
    });
    html! {
        @if !days.is_empty() {
            section {
                h2 { "Over time" }
                (lines.draw())
                details { summary { "The figures" } (table("The store by day", &columns, rows)) }
            }
        }
    }
}
