//! How the server is, what keeps the store in order, and why a path is kept.

use std::collections::{HashSet, VecDeque};

use firn_index::{CacheName, DamagedPath, PinName, PinRow, ScrubPass};
use firn_nix::StoreHash;
use maud::{Markup, html};

use super::caches::keeps;
use super::layout::{age, bytes, count, path_link, percent, time};
use super::table::{Column, cell, facts, table};
use super::{Answer, Call, Made, Problem};
use crate::maintenance::GcState;
use crate::squeeze::Progress;

/// Stuck packs that are shown.
const STUCK: usize = 5;

/// Paths that are looked at to find out which pins keep one: some tens of milliseconds' work.
const LOOKED_AT: usize = 4000;

pub(super) fn page(call: &Call) -> Made {
    if !call.viewer.sees_all(&call.app) {
        return Ok(Answer::Private);
    }
    let content = html! {
        h1 { "State" }
        (now(call)?)
        (collection(call)?)
        (scrub(call)?)
        (squeeze(&call.app.squeezer.control().progress()))
        (counting(call))
    };
    Ok(call.shell("State", "state", content))
}

fn now(call: &Call) -> Result<Markup, Problem> {
    let app = &call.app;
    let stats = app.engine.stats().map_err(|error| call.engine(error))?;
    let config = &app.config.server;
    let busy = |most: usize, free: usize| cell(format!("{} of {most}", most.saturating_sub(free)));
    let room = match app.engine.check_room() {
        Ok(()) => html! { span class="good" { "yes" } },
        Err(error) => html! { strong class="alarm" { "no: " (error.to_string()) } },
    };
    let rows = [
        ("Takes uploads", room),
        ("Uploads in progress", busy(config.max_uploads, app.uploads.available())),
        ("Downloads in progress", busy(config.max_downloads, app.downloads.available())),
        ("Chunks on their way to the disk", cell(count(stats.chunks_in_flight as u64))),
        ("Chunks known to the index, roughly", cell(count(stats.chunks))),
        ("Decoded frames in memory", cell(bytes(stats.frame_cache_bytes))),
    ];
    Ok(html! { section { h2 { "Now" } (facts("How the server is", rows)) } })
}

fn collection(call: &Call) -> Result<Markup, Problem> {
    let latest = call.app.usage.latest();
    let gc = GcState::of(&call.app).map_err(|error| call.engine(error))?;
    let mut rows = Vec::new();
    rows.extend(gc.running_since.map(|at| ("Under way", html! { "since " (time(at)) })));
    let last = match gc.last_ended_at {
        Some(at) => html! {
            (age(at, call.app.now())) ": " (count(gc.last_removed_paths)) " paths went, "
            (bytes(gc.last_deleted.stored_bytes)) " came back"
        },
        None => cell("never"),
    };
    rows.extend([
        ("Last", last),
        ("Came back since the server began", cell(bytes(gc.deleted.stored_bytes))),
        ("Is to come", cell(bytes(gc.reclaimable_bytes))),
        ("Condemned: waits for uploads", cell(bytes(gc.condemned.stored_bytes))),
        ("Doomed: waits for downloads", cell(bytes(gc.doomed.stored_bytes))),
    ]);
    let alarm = |text: String| html! { strong class="alarm" { (text) } };
    let failed = gc.problem.into_iter().zip(gc.failed_at);
    rows.extend(failed.map(|(problem, at)| ("Failed", html! { (age(at, call.app.now())) ": " (alarm(problem)) })));
    rows.extend(
        gc.stuck.into_iter().take(STUCK).map(|stuck| ("Stuck", alarm(format!("pack {}: {}", stuck.pack, stuck.why)))),
    );
    Ok(html! {
        section {
            h2 { "Garbage collection" }
            @match &latest {
                Some(latest) => p {
                    (bytes(latest.store.dead_bytes)) " in packs (" (percent(latest.store.dead_bytes, latest.store.stored_bytes))
                    ") are chunks that nothing needs, counted " (age(latest.at, call.app.now())) "."
                },
                None => p { "The store has not been counted yet." },
            }
            (facts("How collections are", rows))
        }
    })
}

fn scrub(call: &Call) -> Result<Markup, Problem> {
    let app = &call.app;
    let found = app.engine.meta().scrub().map_err(|error| call.index(error))?;
    let state = app.scrubber.state();
    let next = match (state.running, app.scrubber.next_at(&app.engine)) {
        (Some(rate), _) => html! { "under way, at " (bytes(rate)) " a second at most" },
        (None, Ok(Some(at))) if at <= app.now() => cell("due now"),
        (None, Ok(Some(at))) => html! { "due " (time(at)) },
        (None, Ok(None)) => cell("only when asked for"),
        (None, Err(error)) => cell(error),
    };
    let mut rows = vec![("Next", next)];
    if let Some(problem) = state.problem {
        rows.push(("Broke off", html! { strong class="alarm" { (problem) } }));
    }
    let damaged: Vec<_> = found.last.iter().chain(&found.current).flat_map(|pass| &pass.paths).collect();
    if let Some(pass) = &found.current {
        rows.push(("This pass", passed(pass)));
    }
    if let Some(pass) = &found.last {
        rows.push(("Last pass", passed(pass)));
    }
    let columns = [Column::text("Path"), Column::text("Cache")];
    let cells = damaged.iter().map(|one| vec![damaged_link(one), cell(&one.cache)]);
    Ok(html! {
        section {
            h2 { "Scrub" }
            p { "Reads all stored bytes again, and names what is damaged." }
            (facts("How scrubbing is", rows))
            @if !damaged.is_empty() {
                section class="alarm" aria-label="Damaged paths" {
                    h3 { "Can't be had until they are uploaded again" }
                    (table("Damaged paths", &columns, cells))
                }
            }
        }
    })
}

/// Writes a path as a link to its page; a document has none.
fn damaged_link(one: &DamagedPath) -> Markup {
    if one.path.parse::<firn_nix::StorePath>().is_ok() { path_link(&one.cache, &one.path) } else { cell(&one.path) }
}

fn passed(pass: &ScrubPass) -> Markup {
    let damage = pass.damaged_packs + pass.damaged_frames + pass.damaged_paths;
    html! {
        "began " (time(pass.started_at))
        @if let Some(at) = pass.finished_at { ", ended " (time(at)) }
        ": " (count(pass.packs)) " packs, " (bytes(pass.read_bytes)) " read, "
        @if damage == 0 { span class="good" { "no damage" } }
        @else { strong class="alarm" { (count(pass.damaged_packs)) " packs, " (count(pass.damaged_frames)) " frames, " (count(pass.damaged_paths)) " paths damaged" } }
        @if pass.unreadable_packs > 0 { ", " (count(pass.unreadable_packs)) " packs could not be read" }
    }
}

fn squeeze(progress: &Progress) -> Markup {
    let how = match (progress.running, progress.packs) {
        (true, _) => "under way",
        (false, 0) => "no pass since the server started",
        (false, _) if progress.stopped => "stopped before it was through",
        (false, _) => "done",
    };
    let mut rows = vec![("Last pass", cell(how))];
    if progress.packs > 0 {
        rows.push(("Packs", cell(format!("{} of {}", count(progress.done_packs), count(progress.packs)))));
        let saved = percent(progress.read_bytes.saturating_sub(progress.written_bytes), progress.read_bytes);
        rows.push(("Read", cell(bytes(progress.read_bytes))));
        rows.push(("Written", cell(format!("{} (−{saved})", bytes(progress.written_bytes)))));
    }
    if let Some(error) = &progress.error {
        rows.push(("Failed", html! { strong class="alarm" { (error) } }));
    }
    html! {
        section {
            h2 { "Squeeze" }
            p { "Compresses cold packs again, smaller." }
            (facts("How squeezing is", rows))
        }
    }
}

fn counting(call: &Call) -> Markup {
    let app = &call.app;
    html! {
        @if let Some(latest) = app.usage.latest() {
            section {
                h2 { "Count" }
                p { "Bytes on these pages are those of the newest count of the whole store." }
                (facts("The newest count", [
                    ("Began", html! { (time(latest.at)) ", " (age(latest.at, app.now())) }),
                    ("Took", cell(format!("{} ms", count(latest.took_ms)))),
                    ("Missing chunks", if latest.missing_chunks == 0 { html! { span class="good" { "none" } } } else { html! { strong class="alarm" { (count(latest.missing_chunks)) } } }),
                ]))
            }
        }
    }
}

/// Says why a path is kept: which pins reach it, and what the rules of its cache say. What keeps what refers to it takes
/// reading the whole cache.
pub(super) fn why_kept(call: &Call, cache: &CacheName, hash: &StoreHash, used_at: u64) -> Result<Markup, Problem> {
    let meta = call.app.engine.meta();
    let index = |error| call.index(error);
    let rules = meta.retention(cache).map_err(index)?;
    let mut pins = meta.pins(cache).map_err(index)?;
    let now = call.app.now();
    pins.retain(|(_, row)| row.counts(now));
    let (keeping, is_whole) = keeping_pins(call, cache, hash, &pins)?;
    let until = rules.keep_seconds.map(|seconds| used_at.saturating_add(seconds));
    Ok(html! {
        section {
            h2 { "Why it is kept" }
            @if !keeping.is_empty() {
                p { "By " @if keeping.len() == 1 { "the pin " } @else { "the pins " } strong { (keeping.join(", ")) } ", whatever the rules say." }
            }
            @if !is_whole { p class="quiet" { "There are more pinned paths than were looked through: other pins may keep it as well." } }
            p {
                "The cache keeps " (keeps(&rules)) ". "
                @match until {
                    Some(until) if until > now => { "By its last use that is until " (time(until)) ", and as long as something that is kept refers to it." },
                    Some(until) => { "By its last use that was until " (time(until)) "; it stays as long as something that is kept refers to it." },
                    None if rules.keeps_all() => {},
                    None => { "What is kept keeps all that it refers to." },
                }
            }
            @if !rules.keeps_all() {
                p { "All that counts, on the server:" }
                (super::caches::snippet("Command that explains why a path is kept", &format!("firnd explain --cache {cache} {hash}")))
            }
        }
    })
}

/// Returns the pins whose closures have a path, and whether all were looked through.
fn keeping_pins(
    call: &Call,
    cache: &CacheName,
    hash: &StoreHash,
    pins: &[(PinName, PinRow)],
) -> Result<(Vec<String>, bool), Problem> {
    let meta = call.app.engine.meta();
    let (mut keeping, mut left) = (Vec::new(), LOOKED_AT);
    'pins: for (name, pin) in pins {
        let mut seen = HashSet::from([pin.path.hash()]);
        let mut ahead = VecDeque::from([pin.path.hash()]);
        while let Some(next) = ahead.pop_front() {
            if next == *hash {
                keeping.push(name.to_string());
                continue 'pins;
            }
            if left == 0 {
                return Ok((keeping, false));
            }
            left -= 1;
            let row = meta.path(cache, &next).map_err(|error| call.index(error))?;
            let references = row.iter().flat_map(|row| &row.references).map(firn_nix::StorePath::hash);
            ahead.extend(references.filter(|hash| seen.insert(*hash)));
        }
    }
    Ok((keeping, true))
}
