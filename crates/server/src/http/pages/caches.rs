//! Caches: which there are, what they cost, and how to use one.

use firn_api::usage::{GroupBy, UsageGroup};
use firn_index::{CacheName, ConflictPolicy, ReferencePolicy, RetentionRow, Transport};
use maud::{Markup, html};

use super::groups::{builders_of, counted, groups, legend};
use super::layout::{bytes, count, duration, factor, figure, path_link, percent, time};
use super::table::{Column, cell, facts, table};
use super::{Answer, Call, Made, Problem};
use crate::caches::Cache;

/// Pins that a page shows.
const PINS: usize = 50;

pub(super) fn list(call: &Call) -> Made {
    let caches = call.viewer.caches(&call.app);
    let groups = groups(call, GroupBy::Cache)?;
    let shows_usage = caches.iter().any(|cache| call.viewer.may_see_usage(cache));
    let mut columns = vec![Column::text("Cache"), Column::text("Open to")];
    if shows_usage {
        columns.extend(["Paths", "Logical", "Stored", "Exclusive", "Served", "Found"].map(Column::number));
    }
    let rows = caches.iter().map(|cache| {
        let group = groups.iter().find(|group| group.name == cache.name.as_str());
        let name = html! { a href=(format!("/-/caches/{}", cache.name)) { (cache.name) } };
        let mut cells = vec![name, cell(if cache.row.public { "everybody" } else { "those with a token" })];
        if call.viewer.may_see_usage(cache) {
            cells.extend(costs(&group.cloned().unwrap_or_default()));
        } else if shows_usage {
            cells.extend((0..6).map(|_| cell("–")));
        }
        cells
    });
    let content = html! {
        h1 { "Caches" }
        @if !call.viewer.is_known() { p { "This is firn, a binary cache for Nix. A cache's page says how to use it." } }
        @if caches.is_empty() {
            p { "There is no cache here that is open to everybody. " @if !call.viewer.is_known() { a href="/-/login" { "Log in" } " with a token to see more." } }
        } @else {
            (table("Caches and what they cost", &columns, rows))
        }
        @if shows_usage {
            (legend(&[
                ("Exclusive", "stored bytes that no other cache needs: they would come back if the cache went"),
                ("Found", "the part of narinfos and NARs asked for that was there"),
            ]))
            (counted(call, caches.len(), caches.len()))
        }
        @if !call.viewer.is_known() && !caches.is_empty() {
            p class="quiet" { "What things cost, and private caches, are for those who " a href="/-/login" { "log in" } "." }
        }
    };
    Ok(call.shell("Caches", "caches", content))
}

fn costs(group: &UsageGroup) -> [Markup; 6] {
    let traffic = group.traffic.unwrap_or_default();
    [
        cell(count(group.paths)),
        cell(bytes(group.logical_bytes)),
        cell(bytes(group.stored_bytes)),
        cell(bytes(group.exclusive_bytes)),
        cell(bytes(traffic.served_bytes)),
        cell(percent(traffic.hits, traffic.hits + traffic.misses)),
    ]
}

pub(super) fn one(call: &Call, name: &CacheName) -> Made {
    let Some(cache) = call.cache(name) else { return Ok(Answer::Private) };
    let sees_usage = call.viewer.may_see_usage(&cache);
    let content = html! {
        h1 { "Cache " (cache.name) }
        p {
            @if cache.row.public { "Open to everybody." } @else { "Private: it needs a token." }
            " " a href="#use" { "How to use it" } "."
        }
        @if sees_usage { (usage(call, &cache)?) }
        section { h2 { "Settings" } (settings(call, &cache)?) }
        @if sees_usage { (builders_of(call, name)?) (pins(call, name)?) }
        (how_to_use(call, &cache))
    };
    Ok(call.shell(&format!("Cache {}", cache.name), "caches", content))
}

fn usage(call: &Call, cache: &Cache) -> Result<Markup, Problem> {
    let groups = groups(call, GroupBy::Cache)?;
    let Some(group) = groups.iter().find(|group| group.name == cache.name.as_str()) else { return Ok(html! {}) };
    let traffic = group.traffic.unwrap_or_default();
    Ok(html! {
        dl class="figures" {
            (figure("Paths", &count(group.paths), ""))
            (figure("Logical", &bytes(group.logical_bytes), "NAR bytes"))
            (figure("Stored", &bytes(group.stored_bytes), &format!("{} shared with others", bytes(group.shared_bytes))))
            (figure("Exclusive", &bytes(group.exclusive_bytes), "comes back when the cache goes"))
            (figure("Deduplicated", &factor(group.dedup_factor), "logical to unique"))
            (figure("Compressed", &factor(group.compression_factor), "unique to stored"))
            (figure("Served", &bytes(traffic.served_bytes), &format!("{} hits, {} misses", count(traffic.hits), count(traffic.misses))))
            (figure("Received", &bytes(traffic.received_bytes), &format!("{} not sent", percent(traffic.saved_bytes, traffic.pushed_logical_bytes))))
        }
        @if traffic.conflicts > 0 {
            p class="alarm" { "Another NAR was offered " (count(traffic.conflicts)) @if traffic.conflicts == 1 { " time" } @else { " times" } " for a path that is there: see " a href="/-/conflicts" { "conflicts" } "." }
        }
        (counted(call, 1, 1))
    })
}

/// Says what a cache keeps.
pub(super) fn keeps(row: &RetentionRow) -> String {
    if row.keeps_all() {
        return "everything".to_owned();
    }
    let used = row.keep_seconds.map(|seconds| format!("what was used within {}", duration(seconds)));
    let newest = row.keep_last.map(|n| format!("the newest {n} of each package"));
    let rules: Vec<String> = used.into_iter().chain(newest).collect();
    let rules = if rules.is_empty() { "everything".to_owned() } else { rules.join(", and ") };
    match row.quota_bytes {
        Some(quota) => format!("{rules}, but about {} at most", bytes(quota)),
        None => rules,
    }
}

fn settings(call: &Call, cache: &Cache) -> Result<Markup, Problem> {
    let row = &cache.row;
    let retention = call.app.engine.meta().retention(&cache.name).map_err(|error| call.index(error))?;
    let keys = cache.public_keys();
    let signs = html! {
        @if keys.is_empty() { "nothing" }
        @for (n, key) in keys.iter().enumerate() { @if n > 0 { br; } code { (key.to_string()) } }
    };
    let mut rows = vec![("Keeps", cell(keeps(&retention))), ("Signs with", signs)];
    let names = |keys: &[String]| {
        let names: Vec<&str> = keys.iter().map(|key| key.split(':').next().unwrap_or(key)).collect();
        cell(names.join(", "))
    };
    if !row.trusted_keys.is_empty() {
        rows.push(("Takes what is signed by", names(&row.trusted_keys)));
    }
    rows.push((
        "Another NAR for a path",
        cell(match row.on_conflict {
            ConflictPolicy::KeepFirst => "the first one stays, the other is noted",
            ConflictPolicy::Reject => "is refused and noted",
        }),
    ));
    rows.push((
        "References must be",
        cell(match row.references {
            ReferencePolicy::Strict => "in the cache and in the NAR",
            ReferencePolicy::Present => "in the cache",
            ReferencePolicy::Any => "well-formed",
        }),
    ));
    rows.push((
        "Offers NARs as",
        cell(match row.transport {
            Transport::Zstd => "zstd",
            Transport::None => "they are",
        }),
    ));
    rows.push(("Priority", cell(row.priority)));
    rows.push(("Store directory", html! { code { (row.store_dir) } }));
    rows.push(("Made", time(row.created_at)));
    Ok(facts("Settings of the cache", rows))
}

fn pins(call: &Call, name: &CacheName) -> Result<Markup, Problem> {
    let pins = call.app.engine.meta().pins(name).map_err(|error| call.index(error))?;
    let latest = call.app.usage.latest();
    let costs = latest.as_ref().and_then(|latest| latest.by.get(&GroupBy::Pin));
    let cost =
        |pin: &str| costs.and_then(|costs| costs.groups.iter().find(|group| group.name == format!("{name}/{pin}")));
    let columns = [
        Column::text("Pin"),
        Column::text("Path"),
        Column::number("Stored"),
        Column::number("Exclusive"),
        Column::text("Until"),
    ];
    let rows = pins.iter().take(PINS).map(|(pin, row)| {
        let cost = cost(pin.as_str());
        let shown = |of: fn(&UsageGroup) -> u64| cell(cost.map_or_else(|| "–".to_owned(), |cost| bytes(of(cost))));
        vec![
            cell(pin.to_string()),
            path_link(name.as_str(), &row.path.base_name()),
            shown(|cost| cost.stored_bytes),
            shown(|cost| cost.exclusive_bytes),
            row.expires_at.map_or_else(|| cell("it is removed"), time),
        ]
    });
    Ok(html! {
        @if !pins.is_empty() {
            section {
                h2 { "Pins" }
                (table("What is pinned, with all that it refers to", &columns, rows))
                @if pins.len() > PINS { p class="quiet" { "The first " (PINS) " of " (count(pins.len() as u64)) "." } }
            }
        }
    })
}

/// Writes lines to copy: a click selects them all.
pub(super) fn snippet(what: &str, text: &str) -> Markup {
    html! { pre tabindex="0" role="region" aria-label=(what) { code { (text) } } }
}

fn how_to_use(call: &Call, cache: &Cache) -> Markup {
    let url = format!("{}/{}", call.base, cache.name);
    let keys: Vec<String> = cache.public_keys().iter().map(ToString::to_string).collect();
    let netrc = format!("machine {} login any password TOKEN", super::super::home::machine(&url));
    let (mut conf, mut nixos) =
        (format!("extra-substituters = {url}"), format!("nix.settings.extra-substituters = [ \"{url}\" ];"));
    if !keys.is_empty() {
        conf.push_str(&format!("\nextra-trusted-public-keys = {}", keys.join(" ")));
        nixos.push_str(&format!("\nnix.settings.extra-trusted-public-keys = [ \"{}\" ];", keys.join("\" \"")));
    }
    html! {
        section id="use" {
            h2 { "Use it" }
            p { "With firn's client, which writes " code { "nix.conf" } " and keeps the token:" }
            (snippet("Command to use the cache", &format!("firn use {url}")))
            p { "Or in " code { "nix.conf" } ":" }
            (snippet("Lines for nix.conf", &conf))
            p { "On NixOS:" }
            (snippet("Lines for a NixOS configuration", &nixos))
            @if !cache.row.public {
                p { "It is private: put a token into the netrc file of the Nix daemon." }
                (snippet("Line for the netrc file", &netrc))
            }
            h2 { "Push to it" }
            p { "Make a token on the server:" }
            (snippet("Command to make a token", &format!("firnd token create --grant {}:push --name BUILDER", cache.name)))
            p { "Push what was built, sending only what the cache lacks:" }
            (snippet("Commands to push", &format!("firn login {url} < token\nfirn push {url} ./result")))
            p { "Everything that a machine builds, from now on:" }
            (snippet("Command to push everything", &format!("firn watch-store {url}")))
            p { "Or with nothing but Nix, and the token in a netrc file (" code { (netrc) } "):" }
            (snippet("Command to push with Nix", &format!("nix copy --netrc-file FILE --to '{url}?compression=zstd' PATH")))
        }
    }
}
