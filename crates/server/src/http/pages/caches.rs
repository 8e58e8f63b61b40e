//! Caches: which there are, what they cost, and how to use one.

use firn_api::usage::{GroupBy, UsageGroup};
use firn_index::CacheName;
use maud::{Markup, html};

use super::layout::{bytes, count, factor, figure, time};
use super::{Answer, Call, Made};
use crate::caches::Cache;
use crate::usage::report;

/// Returns the groups of the newest report, with what was counted of them while it happened.
pub(super) fn groups(call: &Call, by: GroupBy) -> Result<Vec<UsageGroup>, super::Problem> {
    let Some(latest) = call.app.usage.latest() else { return Ok(Vec::new()) };
    let mut groups = latest.by.get(&by).map(|found| found.groups.clone()).unwrap_or_default();
    let meta = call.app.engine.meta();
    let traffic = report::traffic(meta, 0, |key| match by {
        GroupBy::Cache => Some(key.cache.to_string()),
        GroupBy::Builder => Some(key.builder.clone()),
        GroupBy::Package | GroupBy::Pin | GroupBy::Day => None,
    });
    let traffic = traffic.map_err(|error| call.index(error))?;
    for group in &mut groups {
        group.traffic = traffic.get(&group.name).map(report::traffic_of);
    }
    Ok(groups)
}

pub(super) fn list(call: &Call) -> Made {
    let caches = call.viewer.caches(&call.app);
    let groups = groups(call, GroupBy::Cache)?;
    let of = |cache: &Cache| {
        let is_seen = call.viewer.may_see_usage(cache);
        groups.iter().find(|group| is_seen && group.name == cache.name.as_str())
    };
    let shows_usage = caches.iter().any(|cache| of(cache).is_some());
    let content = html! {
        h1 { "Caches" }
        @if caches.is_empty() {
            p { "There is no cache here that is open to everybody. " @if !call.viewer.is_known() { a href="/-/login" { "Log in" } " with a token to see more." } }
        } @else {
            div class="wide" { table {
                caption class="hidden" { "Caches and what they cost" }
                thead { tr {
                    th scope="col" { "Cache" }
                    th scope="col" { "Open to" }
                    @if shows_usage {
                        th scope="col" class="number" { "Paths" }
                        th scope="col" class="number" { "Logical" }
                        th scope="col" class="number" { "Stored" }
                        th scope="col" class="number" { "Exclusive" }
                        th scope="col" class="number" { "Served" }
                        th scope="col" class="number" { "Hits" }
                    }
                } }
                tbody {
                    @for cache in &caches {
                        tr {
                            th scope="row" { a href=(format!("/-/caches/{}", cache.name)) { (cache.name) } }
                            td { @if cache.row.public { "everybody" } @else { "those with a token" } }
                            @if shows_usage {
                                @let group = of(cache).cloned().unwrap_or_default();
                                @let traffic = group.traffic.unwrap_or_default();
                                td class="number" { (count(group.paths)) }
                                td class="number" { (bytes(group.logical_bytes)) }
                                td class="number" { (bytes(group.stored_bytes)) }
                                td class="number" { (bytes(group.exclusive_bytes)) }
                                td class="number" { (bytes(traffic.served_bytes)) }
                                td class="number" { (super::layout::percent(traffic.hits, traffic.hits + traffic.misses)) }
                            }
                        }
                    }
                }
            } }
        }
        @if !call.viewer.is_known() && !caches.is_empty() {
            p class="quiet" { "What things cost, and private caches, are for those who " a href="/-/login" { "log in" } "." }
        }
    };
    Ok(call.shell("Caches", "caches", content))
}

pub(super) fn one(call: &Call, name: &CacheName) -> Made {
    let Some(cache) = call.cache(name) else { return Ok(Answer::Private) };
    let groups = if call.viewer.may_see_usage(&cache) { groups(call, GroupBy::Cache)? } else { Vec::new() };
    let group = groups.iter().find(|group| group.name == cache.name.as_str());
    let content = html! {
        h1 { "Cache " (cache.name) }
        @if let Some(group) = group {
            dl class="figures" {
                (figure("Paths", &count(group.paths), ""))
                (figure("Logical", &bytes(group.logical_bytes), ""))
                (figure("Stored", &bytes(group.stored_bytes), &format!("{} shared with other caches", bytes(group.shared_bytes))))
                (figure("Exclusive", &bytes(group.exclusive_bytes), "comes back when the cache goes"))
                (figure("Deduplicated", &factor(group.dedup_factor), ""))
                (figure("Compressed", &factor(group.compression_factor), ""))
            }
            @if let Some(traffic) = &group.traffic {
                table class="facts" { tbody {
                    tr { th scope="row" { "Pushed" } td { (count(traffic.pushed_paths)) " paths, " (bytes(traffic.pushed_logical_bytes)) ", of which " (bytes(traffic.received_bytes)) " were sent" } }
                    tr { th scope="row" { "Served" } td { (bytes(traffic.served_bytes)) ", " (count(traffic.hits)) " hits, " (count(traffic.misses)) " misses" } }
                    tr { th scope="row" { "Errors" } td { (count(traffic.errors)) } }
                    @if traffic.conflicts > 0 {
                        tr class="alarm" { th scope="row" { "Conflicts" } td { (count(traffic.conflicts)) " offers of another NAR for a path" } }
                    }
                    tr { th scope="row" { "Last seen" } td { (time(traffic.last_seen_at)) } }
                } }
            }
        }
        (how_to_use(call, &cache))
    };
    Ok(call.shell(&format!("Cache {}", cache.name), "caches", content))
}

fn how_to_use(call: &Call, cache: &Cache) -> Markup {
    let url = format!("{}/{}", call.base, cache.name);
    let keys: Vec<String> = cache.public_keys().iter().map(ToString::to_string).collect();
    let keys = keys.join(" ");
    let machine = super::super::home::machine(&url);
    let conf = if keys.is_empty() {
        format!("extra-substituters = {url}")
    } else {
        format!("extra-substituters = {url}\nextra-trusted-public-keys = {keys}")
    };
    html! {
        section {
            h2 { "Use it" }
            p { "In " code { "nix.conf" } ", or with " code { "firn use " (url) } ":" }
            pre tabindex="0" { code { (conf) } }
            p { "On NixOS:" }
            pre tabindex="0" { code {
                "nix.settings.extra-substituters = [ \"" (url) "\" ];\n"
                @if !keys.is_empty() { "nix.settings.extra-trusted-public-keys = [ \"" (keys.replace(' ', "\" \"")) "\" ];" }
            } }
            @if !cache.row.public {
                p { "It is private: put a token into the netrc file of the Nix daemon." }
                pre tabindex="0" { code { "machine " (machine) " login any password TOKEN" } }
            }
            h2 { "Push to it" }
            p { "With a token that may push:" }
            pre tabindex="0" { code { "firn login " (url) "\nfirn push " (url) " PATH" } }
            p { "Or with nothing but Nix:" }
            pre tabindex="0" { code { "nix copy --netrc-file FILE --to '" (url) "?compression=zstd' PATH" } }
        }
    }
}
