//! Collection and scrubbing: how they are, and why a path is kept.

use firn_index::CacheName;
use firn_nix::StoreHash;
use maud::{Markup, html};

use super::Call;
use super::layout::{bytes, percent, time};

/// Returns what is known of the work that keeps the store in order.
pub(super) fn maintenance(call: &Call) -> Result<Markup, super::Problem> {
    let latest = call.app.usage.latest();
    Ok(html! {
        section {
            h2 { "Collection" }
            @match &latest {
                Some(latest) => p {
                    (bytes(latest.store.dead_bytes)) " in packs (" (percent(latest.store.dead_bytes, latest.store.stored_bytes))
                    ") are chunks that nothing needs, counted " (time(latest.at)) " UTC."
                },
                None => p { "The store has not been counted yet." },
            }
        }
    })
}

/// Says why a path is kept: which pins name it. What the rules of its cache make of it takes reading the whole cache.
pub(super) fn why_kept(call: &Call, cache: &CacheName, hash: &StoreHash) -> Result<Markup, super::Problem> {
    let pins = call.app.engine.meta().pins(cache).map_err(|error| call.index(error))?;
    let naming: Vec<String> =
        pins.iter().filter(|(_, row)| row.path.hash() == *hash).map(|(name, _)| name.to_string()).collect();
    Ok(html! {
        section {
            h2 { "Why it is kept" }
            @if !naming.is_empty() { p { "Pinned as " (naming.join(", ")) "." } }
            p { "What the rules of the cache make of it: " code { "firnd explain --cache " (cache) " " (hash) } }
        }
    })
}
