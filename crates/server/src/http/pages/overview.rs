//! The first page: what the store takes and why it takes no more. And how the server is.

use firn_api::usage::{StoreUsage, UsageHistory};
use maud::{Markup, html};

use super::charts::{Bar, Series, bars, lines};
use super::layout::{bytes, count, figure, percent, time};
use super::{Answer, Call, Made, caches};
use crate::usage::counters::day_of;
use crate::usage::report;

/// Days that charts show.
const DAYS: u32 = 90;

pub(super) fn page(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return caches::list(call);
    }
    let meta = call.app.engine.meta();
    let history = report::history(meta, day_of(call.app.now()).saturating_sub(DAYS)).map_err(|e| call.index(e))?;
    let totals = call.app.engine.stats().map_err(|error| call.engine(error))?.totals;
    let latest = call.app.usage.latest();
    let content = html! {
        h1 { "Overview" }
        dl class="figures" {
            (figure("Logical", &bytes(totals.logical_bytes), "NAR bytes of all paths"))
            (figure("Stored", &bytes(totals.stored_bytes), "in packs, now"))
            (figure("Smaller by", &times(totals.logical_bytes, totals.stored_bytes), "logical to stored"))
            (figure("Paths", &count(totals.paths), ""))
        }
        @match &latest {
            Some(latest) => {
                (savings(&latest.store))
                (parts(&latest.store))
                @if latest.missing_chunks > 0 {
                    p class="alarm" role="alert" {
                        (count(latest.missing_chunks)) " chunks are needed and were not found: see the server's log, and upload again what is damaged."
                    }
                }
            }
            None => p { "The store has not been counted yet. The first report is made a minute after the server started." },
        }
        (over_time(&history))
        @if let Some(latest) = &latest {
            p class="quiet" { "Counted " (time(latest.at)) " UTC in " (count(latest.took_ms)) " ms." }
        }
    };
    Ok(call.shell("Overview", "overview", content))
}

fn times(of: u64, to: u64) -> String {
    if to == 0 { "–".to_owned() } else { format!("{:.1}×", of as f64 / to as f64) }
}

/// From what whole NARs would take down to what is on the disk, and which idea saves what.
fn savings(store: &StoreUsage) -> Markup {
    let plain = store.chunk_bytes.saturating_add(store.delta_saved_bytes);
    let step = |before: u64, after: u64| percent(before.saturating_sub(after), store.logical_bytes);
    let bar = |name: &str, value, note: String, class| Bar { name: name.to_owned(), value, note, class };
    let all = [
        bar("All NARs", store.logical_bytes, String::new(), "one"),
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
            (bars("From whole NARs down to what their chunks take; the part of all NAR bytes that each idea saves", &all))
            p class="quiet" {
                "Normalisation counts here where a whole NAR differs in nothing but store hashes; where more differs, what it saves is in the chunks."
            }
        }
    }
}

/// What the bytes on the disk are.
fn parts(store: &StoreUsage) -> Markup {
    let bar = |name: &str, value, class| Bar {
        name: name.to_owned(),
        value,
        note: percent(value, store.disk_bytes()),
        class,
    };
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
    let labels: Vec<String> = days.iter().map(|(name, _)| (*name).clone()).collect();
    let of = |field: fn(&StoreUsage) -> u64| days.iter().map(|(_, day)| field(&day.store)).collect();
    let series = [
        Series { name: "logical", class: "one", values: of(|store| store.logical_bytes) },
        Series { name: "unique", class: "two", values: of(|store| store.unique_bytes) },
        Series { name: "on the disk", class: "three", values: of(StoreUsage::disk_bytes) },
    ];
    html! {
        @if !days.is_empty() {
            section {
                h2 { "Over time" }
                (lines("over-time", "Stored against logical bytes, by day", &labels, &series))
                details {
                    summary { "The figures" }
                    div class="wide" { table {
                        thead { tr {
                            th scope="col" { "Day" }
                            th scope="col" class="number" { "Paths" }
                            th scope="col" class="number" { "Logical" }
                            th scope="col" class="number" { "Unique" }
                            th scope="col" class="number" { "On the disk" }
                        } }
                        tbody {
                            @for (name, day) in days.iter().rev() {
                                tr {
                                    th scope="row" { (name) }
                                    td class="number" { (count(day.store.paths)) }
                                    td class="number" { (bytes(day.store.logical_bytes)) }
                                    td class="number" { (bytes(day.store.unique_bytes)) }
                                    td class="number" { (bytes(day.store.disk_bytes())) }
                                }
                            }
                        }
                    } }
                }
            }
        }
    }
}

/// How the server is: work in progress, collection, scrubbing.
pub(super) fn state(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let app = &call.app;
    let stats = app.engine.stats().map_err(|error| call.engine(error))?;
    let config = &app.config.server;
    let busy = |most: usize, free: usize| format!("{} of {most}", most.saturating_sub(free));
    let room = app.engine.check_room();
    let rows = [
        ("Uploads in progress", busy(config.max_uploads, app.uploads.available_permits())),
        ("Downloads in progress", busy(config.max_downloads, app.downloads.available_permits())),
        ("Chunks on their way to the disk", count(stats.chunks_in_flight as u64)),
        ("Chunks known to the index", count(stats.chunks)),
        ("Decoded frames in memory", bytes(stats.frame_cache_bytes)),
        ("Takes uploads", room.map_or_else(|error| format!("no: {error}"), |()| "yes".to_owned())),
    ];
    let content = html! {
        h1 { "State" }
        section {
            h2 { "Now" }
            table class="facts" { tbody {
                @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } }
            } }
        }
        (super::state::maintenance(call)?)
    };
    Ok(call.shell("State", "state", content))
}
