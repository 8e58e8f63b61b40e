//! A path: what it is, what is in it, who refers to it, where it came from. And how to find one.

use std::time::{Duration, Instant};

use firn_api::usage::{EntryKind, FileChange, FileDifference, Found, PathDescription};
use firn_index::{CacheName, DocumentKey, DocumentKind, UnixSeconds};
use firn_nix::StoreHash;
use firn_nix::nar::{Listing, Node};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::caches::snippet;
use super::layout::{age, bytes, count, figure, path_link, path_title, time};
use super::table::{Column, cell, facts, table};
use super::{Answer, Call, Made};
use crate::caches::Cache;
use crate::usage::{search, view};

/// Files that a page lists.
const FILES: usize = 500;

/// How large a count of the store may be in memory for a page to look through it: some ten milliseconds' work.
const COUNTED_BYTES: u64 = 16 << 20;

/// How long a page looks for what refers to its path: somebody waits for it, and rows lie in no order that helps.
const LOOK_TIME: Duration = Duration::from_millis(40);

/// Paths that a list on a page has.
const PATHS: usize = 50;

/// Paths that a search shows.
const FOUND: usize = 200;

/// Files of a difference that a page lists.
const CHANGES: usize = 100;

pub(super) fn page(call: &Call, name: &CacheName, hash: &StoreHash) -> Made {
    let Some(cache) = call.cache(name) else { return Ok(Answer::Private) };
    let sees_usage = call.viewer.may_see_usage(&cache);
    let found = match view::path(&call.app.engine, name, hash, sees_usage) {
        Ok(found) => found,
        Err(firn_engine::Error::NotFound { .. }) => return Ok(Answer::Missing("This path")),
        Err(error) => return Err(call.engine(error)),
    };
    let meta = call.app.engine.meta();
    let began = Instant::now();
    let referrers = view::referrers(meta, name, hash, PATHS, &|| began.elapsed() < LOOK_TIME);
    let (referrers, is_whole) = referrers.map_err(|error| call.index(error))?;
    let asked_at = meta.last_use(name, hash).map_err(|error| call.index(error))?;
    let used_at = asked_at.unwrap_or(0).max(found.committed_at);
    let own = found.path.as_str();
    let from: Vec<String> = referrers.iter().map(|row| row.path.base_name()).collect();
    let content = html! {
        (path_title(&found.path))
        p { "In cache " a href=(format!("/-/caches/{name}")) { (name) } ", since " (time(found.committed_at)) "." }
        @if !found.conflicts.is_empty() { (conflicts(&found)) }
        (cost(call, &cache, hash, &found, sees_usage)?)
        (narinfo(call, &cache, hash, &found, asked_at)?)
        (references(call, "Refers to", name, found.references.iter().map(String::as_str).filter(|path| *path != own))?)
        (references(call, "Referred to by", name, from.iter().map(String::as_str))?)
        @if !is_whole { p class="quiet" { "There may be more: not the whole cache was looked through." } }
        (files(call, name, hash)?)
        @if sees_usage { (pushes(&found)) (super::state::why_kept(call, name, hash, used_at)?) }
    };
    Ok(call.shell(&found.path, "caches", content))
}

fn narinfo(
    call: &Call,
    cache: &Cache,
    hash: &StoreHash,
    found: &PathDescription,
    asked_at: Option<UnixSeconds>,
) -> Result<Markup, super::Problem> {
    let stem = found.nar_hash.trim_start_matches("sha256:");
    let name = &cache.name;
    let mut rows = vec![("NAR hash", html! { code { (found.nar_hash) } }), ("NAR size", cell(exact(found.nar_bytes)))];
    if let Some(deriver) = &found.deriver {
        rows.push(("Deriver", html! { code { (deriver) } }));
        if let Some(hash) = log(call, name, deriver)? {
            rows.push(("Build log", html! { a href=(format!("/{name}/log/{hash}")) { "log" } }));
        }
    }
    if let Some(ca) = &found.ca {
        rows.push(("Content address", html! { code { (ca) } }));
    }
    let signers = found.signatures.iter().map(|signature| signature.split(':').next().unwrap_or_default());
    let signed = signers.collect::<Vec<_>>().join(", ");
    rows.push((
        "Signed by",
        if signed.is_empty() {
            cell("nobody")
        } else {
            html! { code { (signed) } }
        },
    ));
    rows.push(("Asked for last", asked_at.map_or_else(|| cell("never"), time)));
    rows.push((
        "Get it",
        html! {
            a href=(format!("/{name}/{hash}.narinfo")) { "narinfo" } " · "
            a href=(format!("/{name}/{hash}.ls")) { "listing" } " · "
            a href=(format!("/{name}/nar/{stem}.nar")) { "NAR" } " · "
            a href=(format!("/{name}/nar/{stem}.nar.zst")) { "NAR as zstd" }
        },
    ));
    let path = format!("{}/{}", cache.row.store_dir, found.path);
    Ok(html! {
        section {
            h2 { "Narinfo" }
            (facts("What the narinfo says", rows))
            (snippet("Command to fetch the path", &format!("nix copy --from {}/{name} {path}", call.base)))
        }
    })
}

/// Writes a size, with all digits.
fn exact(size: u64) -> String {
    if size < 1024 { bytes(size) } else { format!("{} ({} bytes)", bytes(size), count(size)) }
}

/// Returns by what hash the build log of a derivation is found, if there is one.
fn log(call: &Call, cache: &CacheName, deriver: &str) -> Result<Option<String>, super::Problem> {
    let Some(hash) = deriver.get(..32) else { return Ok(None) };
    let key = DocumentKey { kind: DocumentKind::Log, name: hash.to_owned() };
    let found = call.app.engine.meta().document(cache, &key).map_err(|error| call.index(error))?;
    Ok(found.map(|_| hash.to_owned()))
}

fn cost(
    call: &Call,
    cache: &Cache,
    hash: &StoreHash,
    found: &PathDescription,
    sees_usage: bool,
) -> Result<Markup, super::Problem> {
    // From the kept pass only: a page never waits for a count of the store.
    let is_small =
        |mark: &firn_engine::Mark| mark.memory_bytes() <= COUNTED_BYTES && mark.path(&cache.name, hash).is_some();
    let mark = call.app.usage.kept().filter(|mark| sees_usage && is_small(mark));
    let Some(mark) = mark else {
        return Ok(html! {
            dl class="figures" { (figure("NAR", &bytes(found.nar_bytes), "logical bytes")) }
            @if sees_usage {
                p class="quiet" { "What it costs and shares is shown for a while after the count of a store that is not too large; else: " code { "firn du /nix/store/" (found.path) } }
            }
        });
    };
    let may_name = |name: &CacheName| call.cache(name).is_some();
    let app = &call.app;
    let used = view::disk_use_in(&mark, &app.engine, &cache.name, &[*hash], &may_name);
    let used = used.map_err(|error| call.engine(error))?;
    let columns = [Column::text("Path"), Column::text("Cache"), Column::number("Shared")];
    let rows = used
        .shares_with
        .iter()
        .map(|one| vec![path_link(&one.cache, &one.path), cell(&one.cache), cell(bytes(one.stored_bytes))]);
    Ok(html! {
        dl class="figures" {
            (figure("NAR", &bytes(found.nar_bytes), "logical bytes"))
            (figure("Unique", &bytes(used.unique_bytes), "its chunks, uncompressed"))
            (figure("Stored", &bytes(used.stored_bytes), "what these take in packs"))
            (figure("Exclusive", &bytes(used.exclusive_bytes), "comes back when it goes"))
        }
        @if !used.shares_with.is_empty() {
            details {
                summary { "Shares chunks with " (used.shares_with.len()) @if used.shares_with.len() == 1 { " path" } @else { " paths" } }
                (table("Paths that share most with it", &columns, rows))
            }
        }
    })
}

/// Lists paths: those that the cache has as links.
fn references<'a>(
    call: &Call,
    title: &str,
    cache: &CacheName,
    paths: impl Iterator<Item = &'a str>,
) -> Result<Markup, super::Problem> {
    let paths: Vec<&str> = paths.collect();
    let mut shown = Vec::new();
    for path in paths.iter().take(PATHS) {
        let hash = path.get(..32).and_then(|hash| hash.parse().ok());
        let row = hash.map(|hash| call.app.engine.meta().path(cache, &hash)).transpose();
        let is_here = row.map_err(|error| call.index(error))?.flatten().is_some();
        shown.push(html! {
            @if is_here { (path_link(cache.as_str(), path)) } @else { (path) " " span class="quiet" { "not in this cache" } }
        });
    }
    Ok(html! {
        @if !paths.is_empty() {
            section {
                h2 { (title) }
                ul class="paths" { @for path in shown { li { (path) } } }
                @if paths.len() > PATHS { p class="quiet" { "and " (count((paths.len() - PATHS) as u64)) " more" } }
            }
        }
    })
}

/// Writes a name that may be any bytes as a part of a URL.
fn encoded(name: &[u8]) -> String {
    percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn files(call: &Call, cache: &CacheName, hash: &StoreHash) -> Result<Markup, super::Problem> {
    let meta = call.app.engine.meta();
    let row = meta.path(cache, hash).map_err(|error| call.index(error))?;
    let nar = row.map(|row| meta.nar(cache, &row.nar_hash)).transpose().map_err(|error| call.index(error))?.flatten();
    let room = nar.as_ref().map(|nar| call.app.http.listings.try_take(&call.app, nar));
    if matches!(room, Some(None)) {
        return Ok(
            html! { p class="quiet" { "The server lists as many files as it does at once: come again in a minute." } },
        );
    }
    let listing = nar.map(|nar| call.app.engine.listing(&nar.recipe, &nar.slots));
    let Some(Ok(listing)) = listing else {
        return Ok(html! { p class="alarm" role="alert" { "Its NAR can't be read: upload it again." } });
    };
    let all = walk(&listing);
    let columns = [Column::text("Name"), Column::text("Type"), Column::number("Size")];
    let rows = all.iter().take(FILES).map(|(names, node)| {
        let shown = names.iter().map(|name| String::from_utf8_lossy(name)).collect::<Vec<_>>().join("/");
        match node {
            Node::Directory(_) => vec![cell(format!("{shown}/")), cell("empty directory"), cell("")],
            Node::Symlink { target } => {
                vec![cell(shown), cell(format!("→ {}", String::from_utf8_lossy(target))), cell("")]
            }
            Node::Regular { executable, size, .. } => {
                let url = names.iter().map(|name| encoded(name)).collect::<Vec<_>>().join("/");
                let shown = if shown.is_empty() { "(the file)" } else { shown.as_str() };
                let link = html! { a href=(format!("/{cache}/serve/{hash}/{url}")) download { (shown) } };
                vec![link, cell(if *executable { "program" } else { "file" }), cell(bytes(*size))]
            }
        }
    });
    Ok(html! {
        (super::debug_info::section(call, cache, hash, &listing)?)
        section {
            h2 { "Files" }
            @if all.is_empty() { p { "None." } } @else { (table("Files in the path", &columns, rows)) }
            @if all.len() > FILES { p class="quiet" { "The first " (FILES) ": the listing has them all." } }
        }
    })
}

/// Returns the first entries of a listing with their names, in its order; one more than a page shows. Of directories only
/// empty ones: the others are in the names of what is in them.
fn walk(listing: &Listing) -> Vec<(Vec<&[u8]>, Node<'_>)> {
    let (mut all, mut open) = (Vec::new(), vec![(Vec::new(), listing.root())]);
    while let Some((names, node)) = open.pop() {
        if let Node::Directory(directory) = node {
            let mut below: Vec<_> = directory
                .entries()
                .take(FILES + 1)
                .map(|(name, node)| {
                    let mut names = names.clone();
                    names.push(name);
                    (names, node)
                })
                .collect();
            below.reverse();
            open.append(&mut below);
        }
        let is_full = matches!(node, Node::Directory(directory) if directory.entries().next().is_some());
        if !is_full {
            all.push((names, node));
        }
        if all.len() > FILES {
            break;
        }
    }
    all
}

fn pushes(found: &PathDescription) -> Markup {
    let columns = [
        Column::text("When"),
        Column::text("Builder"),
        Column::text("Outcome"),
        Column::text("Token"),
        Column::text("Address"),
        Column::text("Signed by"),
    ];
    let rows = found.pushes.iter().map(|push| {
        let outcome = match push.outcome.as_str() {
            "conflict" => html! { strong class="alarm" { "conflict" } },
            other => cell(other),
        };
        vec![
            time(push.at),
            cell(&push.builder),
            outcome,
            html! { code { (push.token.as_deref().unwrap_or("–")) } },
            cell(push.address.as_deref().unwrap_or("–")),
            cell(push.signed_by.join(" ")),
        ]
    });
    html! {
        section {
            h2 { "Who pushed it" }
            @if found.pushes.is_empty() { p { (found.builder) ", before the server kept records of pushes." } }
            @else { (table("Pushes that changed something", &columns, rows)) }
        }
    }
}

fn conflicts(found: &PathDescription) -> Markup {
    html! {
        section class="alarm" aria-label="Conflicts" {
            h2 { "Other NARs were offered for this path" }
            p { "The first one stays. The build is not reproducible, or one of the builders is not to be trusted." }
            @for conflict in &found.conflicts {
                h3 { (conflict.builder) ", " (time(conflict.at)) }
                p { code { (conflict.nar_hash) } ", " (bytes(conflict.nar_bytes)) }
                @match &conflict.files {
                    _ if conflict.nar_hash == found.nar_hash => p { "It is the same NAR, with other references: the log names them." },
                    None => p { "Which files differ was not recorded, and that NAR is not held any more." },
                    Some(files) => {
                        @if !files.is_empty() { (differences(files, conflict.files_total)) }
                        @if conflict.is_partial { p { "There was too much to compare: other files may differ too." } }
                    },
                }
            }
        }
    }
}

fn differences(files: &[FileDifference], total: Option<u64>) -> Markup {
    let what = |kind: Option<EntryKind>, length: Option<u64>| {
        cell(match (kind, length) {
            (None, _) => "–".to_owned(),
            (Some(kind @ (EntryKind::File | EntryKind::Executable)), Some(length)) => {
                format!("{}, {}", kind.as_str(), bytes(length))
            }
            (Some(kind), _) => kind.as_str().to_owned(),
        })
    };
    let columns = [
        Column::text("File"),
        Column::text("Change"),
        Column::text("Here"),
        Column::text("There"),
        Column::number("New bytes"),
    ];
    let rows = files.iter().take(CHANGES).map(|file| {
        let change = match file.change {
            FileChange::Added => "added",
            FileChange::Removed => "removed",
            FileChange::Changed => "changed",
        };
        vec![
            cell(if file.path.is_empty() { "(the whole)" } else { &file.path }),
            cell(change),
            what(file.from_kind, file.from_bytes),
            what(file.to_kind, file.to_bytes),
            cell(bytes(file.new_bytes)),
        ]
    });
    let shown = files.len().min(CHANGES) as u64;
    html! {
        (table("Files that differ", &columns, rows))
        @if let Some(more) = total.map(|total| total - shown.min(total)).filter(|more| *more > 0) {
            p { "and " (count(more)) " more" }
        }
    }
}

/// Says what a search may have left out.
fn incomplete(call: &Call, found: &Found) -> Markup {
    html! {
        @match (found.is_partial, found.counted_at) {
            (false, _) => {},
            (true, Some(at)) => {
                " There was no time to look through all paths: those whose package is called so are here as of "
                (age(at, call.app.now())) ", later ones and texts in versions may be missing."
            },
            (true, None) => { " There may be more: be more exact, or give the hash." },
        }
    }
}

pub(super) fn search(call: &Call) -> Made {
    let text = call.query.get("q").unwrap_or_default();
    let caches: Vec<CacheName> = call.viewer.caches(&call.app).iter().map(|cache| cache.name.clone()).collect();
    let found = search::find(&call.app.usage, call.app.engine.meta(), &caches, text, FOUND);
    let found = found.map_err(|error| call.index(error))?;
    let columns = [Column::text("Path"), Column::text("Cache"), Column::number("NAR"), Column::text("Since")];
    let rows = found.paths.iter().map(|one| {
        vec![path_link(&one.cache, &one.path), cell(&one.cache), cell(bytes(one.nar_bytes)), time(one.committed_at)]
    });
    let content = html! {
        h1 { "Search" }
        form action="/-/search" method="get" class="search" {
            label for="text" { "Name, hash or store path" }
            input id="text" name="q" type="search" value=(text) maxlength="250";
            button type="submit" { "Find" }
        }
        @if !text.is_empty() {
            p role="status" {
                @if found.paths.is_empty() && !found.is_partial { "Nothing that you may see has this name." }
                @else if found.paths.is_empty() { "Nothing was found in the time that a search has." }
                @else { (count(found.paths.len() as u64)) @if found.paths.len() == 1 { " path." } @else { " paths, what is called just so first, then the newest." } }
                (incomplete(call, &found))
            }
            @if !found.paths.is_empty() { (table("Paths that were found", &columns, rows)) }
        }
    };
    Ok(call.shell("Search", "search", content))
}
