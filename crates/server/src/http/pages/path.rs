//! A path: what it is, what is in it, who refers to it, where it came from. And how to find one.

use firn_api::usage::{FileChange, FileDifference, PathDescription};
use firn_index::CacheName;
use firn_nix::StoreHash;
use firn_nix::nar::{Listing, Node};
use maud::{Markup, html};
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

use super::layout::{bytes, count, figure, time};
use super::{Answer, Call, Made};
use crate::caches::Cache;
use crate::usage::view;

/// Files that a page lists.
const FILES: usize = 500;

/// Paths that a list on a page has.
const PATHS: usize = 50;

/// Files of a difference that a page lists.
const CHANGES: usize = 50;

pub(super) fn page(call: &Call, name: &CacheName, hash: &StoreHash) -> Made {
    let Some(cache) = call.cache(name) else { return Ok(Answer::Private) };
    let sees_usage = call.viewer.may_see_usage(&cache);
    let found = match view::path(&call.app.engine, name, hash, sees_usage) {
        Ok(found) => found,
        Err(firn_engine::Error::NotFound { .. }) => return Ok(Answer::Missing("This path")),
        Err(error) => return Err(call.engine(error)),
    };
    let meta = call.app.engine.meta();
    let referrers = view::referrers(meta, name, hash, PATHS).map_err(|error| call.index(error))?;
    let content = html! {
        h1 class="path" { (found.path) }
        p { "In cache " a href=(format!("/-/caches/{name}")) { (name) } ", since " (time(found.committed_at)) " UTC." }
        @if !found.conflicts.is_empty() { (conflicts(&found)) }
        (narinfo(name, hash, &found))
        (cost(call, &cache, hash, sees_usage)?)
        (references("Refers to", name, found.references.iter().map(String::as_str)))
        @let from: Vec<String> = referrers.iter().map(|row| row.path.base_name()).collect();
        (references("Referred to by", name, from.iter().map(String::as_str)))
        (files(call, name, hash)?)
        @if sees_usage { (pushes(&found)) (super::state::why_kept(call, name, hash)?) }
    };
    Ok(call.shell(&found.path, "caches", content))
}

fn narinfo(cache: &CacheName, hash: &StoreHash, found: &PathDescription) -> Markup {
    let stem = found.nar_hash.trim_start_matches("sha256:");
    html! {
        section {
            h2 { "Narinfo" }
            table class="facts" { tbody {
                tr { th scope="row" { "NAR hash" } td { code { (found.nar_hash) } } }
                tr { th scope="row" { "NAR size" } td { (bytes(found.nar_bytes)) } }
                @if let Some(deriver) = &found.deriver {
                    tr { th scope="row" { "Deriver" } td { code { (deriver) } " " (log(cache, deriver)) } }
                }
                @if let Some(ca) = &found.ca { tr { th scope="row" { "Content address" } td { code { (ca) } } } }
                tr { th scope="row" { "Signed by" } td {
                    @for signature in &found.signatures { code { (signature.split(':').next().unwrap_or_default()) } " " }
                    @if found.signatures.is_empty() { span class="quiet" { "nobody" } }
                } }
                tr { th scope="row" { "Get it" } td {
                    a href=(format!("/{cache}/{hash}.narinfo")) { "narinfo" } " · "
                    a href=(format!("/{cache}/{hash}.ls")) { "listing" } " · "
                    a href=(format!("/{cache}/nar/{stem}.nar")) { "NAR" } " · "
                    a href=(format!("/{cache}/nar/{stem}.nar.zst")) { "NAR as zstd" }
                } }
            } }
        }
    }
}

fn log(cache: &CacheName, deriver: &str) -> Markup {
    let hash = deriver.get(..32).unwrap_or_default();
    html! { a href=(format!("/{cache}/log/{hash}")) { "log" } }
}

fn cost(call: &Call, cache: &Cache, hash: &StoreHash, sees_usage: bool) -> Result<Markup, super::Problem> {
    // From the kept pass only: a page never waits for a count of the store.
    let Some(mark) = call.app.usage.kept().filter(|_| sees_usage) else { return Ok(html! {}) };
    if mark.path(&cache.name, hash).is_none() {
        return Ok(html! {});
    }
    let may_name = |name: &CacheName| call.cache(name).is_some();
    let app = &call.app;
    let found = view::disk_use_in(&mark, &app.engine, &cache.name, &[*hash], &may_name);
    let found = found.map_err(|error| call.engine(error))?;
    Ok(html! {
        section {
            h2 { "What it costs" }
            dl class="figures" {
                (figure("Unique", &bytes(found.unique_bytes), ""))
                (figure("Stored", &bytes(found.stored_bytes), ""))
                (figure("Exclusive", &bytes(found.exclusive_bytes), "comes back when it goes"))
            }
            @if !found.shares_with.is_empty() {
                h3 { "Shares most with" }
                ul class="paths" {
                    @for one in &found.shares_with {
                        li { (link(&one.cache, &one.path)) " " span class="quiet" { (bytes(one.stored_bytes)) } }
                    }
                }
            }
        }
    })
}

fn link(cache: &str, base_name: &str) -> Markup {
    let hash = base_name.get(..32).unwrap_or_default();
    html! { a href=(format!("/-/paths/{cache}/{hash}")) { (base_name) } }
}

fn references<'a>(title: &str, cache: &CacheName, paths: impl Iterator<Item = &'a str>) -> Markup {
    let paths: Vec<&str> = paths.collect();
    html! {
        @if !paths.is_empty() {
            section {
                h2 { (title) }
                ul class="paths" { @for path in paths.iter().take(PATHS) { li { (link(cache.as_str(), path)) } } }
                @if paths.len() > PATHS { p class="quiet" { "and " (count((paths.len() - PATHS) as u64)) " more" } }
            }
        }
    }
}

/// Writes a name that may be any bytes as a part of a URL.
fn encoded(name: &[u8]) -> String {
    percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn files(call: &Call, cache: &CacheName, hash: &StoreHash) -> Result<Markup, super::Problem> {
    let meta = call.app.engine.meta();
    let row = meta.path(cache, hash).map_err(|error| call.index(error))?;
    let nar = row.map(|row| meta.nar(cache, &row.nar_hash)).transpose().map_err(|error| call.index(error))?.flatten();
    let listing = nar.map(|nar| call.app.engine.listing(&nar.recipe, &nar.slots));
    let Some(Ok(listing)) = listing else {
        return Ok(html! { p class="alarm" role="alert" { "Its NAR can't be read: upload it again." } });
    };
    let all = walk(&listing);
    Ok(html! {
        section {
            h2 { "Files" }
            div class="wide" { table {
                caption class="hidden" { "Files in the path" }
                thead { tr { th scope="col" { "Name" } th scope="col" { "Type" } th scope="col" class="number" { "Size" } } }
                tbody {
                    @for (names, node) in all.iter().take(FILES) {
                        @let shown = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect::<Vec<_>>().join("/");
                        @let url = names.iter().map(|name| encoded(name)).collect::<Vec<_>>().join("/");
                        tr {
                            @match node {
                                Node::Directory(_) => { td { (shown) "/" } td { "directory" } td {} },
                                Node::Symlink { target } => {
                                    td { (shown) } td { "→ " (String::from_utf8_lossy(target)) } td {}
                                },
                                Node::Regular { executable, size, .. } => {
                                    td { a href=(format!("/{cache}/serve/{hash}/{url}")) download { @if shown.is_empty() { "(the file)" } @else { (shown) } } }
                                    td { @if *executable { "program" } @else { "file" } }
                                    td class="number" { (bytes(*size)) }
                                },
                            }
                        }
                    }
                }
            } }
            @if all.len() > FILES { p class="quiet" { "There are more: the listing has them all." } }
        }
    })
}

/// Returns the first entries of a listing with their names, in its order; one more than a page shows.
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
        if !(names.is_empty() && matches!(node, Node::Directory(_))) {
            all.push((names, node));
        }
        if all.len() > FILES {
            break;
        }
    }
    all
}

fn pushes(found: &PathDescription) -> Markup {
    html! {
        section {
            h2 { "Who pushed it" }
            @if found.pushes.is_empty() {
                p { (found.builder) ", before the server kept records of pushes." }
            } @else {
                div class="wide" { table {
                    thead { tr {
                        th scope="col" { "When" } th scope="col" { "Builder" } th scope="col" { "Token" }
                        th scope="col" { "Address" } th scope="col" { "Signed by" } th scope="col" { "Outcome" }
                    } }
                    tbody { @for push in &found.pushes { tr {
                        td { (time(push.at)) }
                        td { (push.builder) }
                        td { code { (push.token.as_deref().unwrap_or("–")) } }
                        td { (push.address.as_deref().unwrap_or("–")) }
                        td { (push.signed_by.join(" ")) }
                        td { (push.outcome) }
                    } } }
                } }
            }
        }
    }
}

fn conflicts(found: &PathDescription) -> Markup {
    html! {
        section class="alarm" role="alert" {
            h2 { "Other NARs were offered for this path" }
            p { "The first one stays. The build is not reproducible, or one of the builders is not to be trusted." }
            @for conflict in &found.conflicts {
                h3 { (conflict.builder) ", " (time(conflict.at)) }
                p { code { (conflict.nar_hash) } ", " (bytes(conflict.nar_bytes)) }
                @match &conflict.files {
                    None => p class="quiet" { "That NAR is not held: which files differ can't be told any more." },
                    Some(files) => (differences(files)),
                }
            }
        }
    }
}

fn differences(files: &[FileDifference]) -> Markup {
    let length = |bytes_of: Option<u64>| bytes_of.map_or_else(|| "–".to_owned(), bytes);
    html! {
        div class="wide" { table {
            caption class="hidden" { "Files that differ" }
            thead { tr {
                th scope="col" { "File" } th scope="col" { "Change" } th scope="col" class="number" { "Here" }
                th scope="col" class="number" { "There" } th scope="col" class="number" { "New bytes" }
            } }
            tbody { @for file in files.iter().take(CHANGES) { tr {
                td { (file.path) }
                td { @match file.change { FileChange::Added => "added", FileChange::Removed => "removed", FileChange::Changed => "changed" } }
                td class="number" { (length(file.from_bytes)) }
                td class="number" { (length(file.to_bytes)) }
                td class="number" { (bytes(file.new_bytes)) }
            } } }
        } }
        @if files.len() > CHANGES { p class="quiet" { "and " (count((files.len() - CHANGES) as u64)) " more" } }
    }
}

pub(super) fn search(call: &Call) -> Made {
    let text = call.query.get("q").unwrap_or_default();
    let caches: Vec<CacheName> = call.viewer.caches(&call.app).iter().map(|cache| cache.name.clone()).collect();
    let found = view::search(call.app.engine.meta(), &caches, text, 200).map_err(|error| call.index(error))?;
    let content = html! {
        h1 { "Search" }
        form action="/-/search" method="get" class="search" {
            label for="text" { "Name, hash or store path" }
            input id="text" name="q" type="search" value=(text) maxlength="250";
            button type="submit" { "Find" }
        }
        @if !text.is_empty() {
            p role="status" {
                @if found.paths.is_empty() { "Nothing that you may see has this name." }
                @else { (count(found.paths.len() as u64)) @if found.paths.len() == 1 { " path" } @else { " paths" } }
                @if found.is_partial { "; not everything was looked at: be more exact, or give the hash" }
            }
            @if !found.paths.is_empty() {
                div class="wide" { table {
                    thead { tr { th scope="col" { "Path" } th scope="col" { "Cache" } th scope="col" class="number" { "Size" } th scope="col" { "Since" } } }
                    tbody { @for one in &found.paths { tr {
                        td class="path" { (link(&one.cache, &one.path)) }
                        td { (one.cache) }
                        td class="number" { (bytes(one.nar_bytes)) }
                        td { (time(one.committed_at)) }
                    } } }
                } }
            }
        }
    };
    Ok(call.shell("Search", "search", content))
}
