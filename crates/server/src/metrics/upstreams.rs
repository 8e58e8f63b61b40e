//! Metrics of the binary caches that caches pull through.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use super::{Counters, MAX_SERIES, load};
use crate::app::App;
use crate::upstream::Counters as Row;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByUpstream {
    cache: String,
    upstream: String,
}

/// Registers what came of asking each upstream; of more than [`MAX_SERIES`] of them, the first are told.
pub(super) fn register(app: &App, registry: &mut Registry) {
    type Field = fn(&Row) -> u64;
    const COUNTERS: [(&str, &str, Option<Unit>, Field); 6] = [
        ("upstream_requests", "Requests that were sent to an upstream", None, |row| load(&row.requests)),
        ("upstream_hits", "Narinfos that it had, signed by one of its keys", None, |row| load(&row.hits)),
        ("upstream_misses", "Narinfos that it did not have", None, |row| load(&row.misses)),
        ("upstream_untrusted", "Narinfos that none of its keys had signed", None, |row| load(&row.untrusted)),
        ("upstream_failures", "Requests that failed, or broke off", None, |row| load(&row.failures)),
        ("upstream_received", "Bytes of NARs' files that came", Some(Unit::Bytes), |row| load(&row.received_bytes)),
    ];
    let caches = app.caches.all();
    let all = caches.iter().flat_map(|cache| cache.proxies.iter().map(move |upstream| (cache, upstream)));
    let all: Vec<_> = all
        .take(MAX_SERIES)
        .map(|(cache, upstream)| {
            (ByUpstream { cache: cache.name.to_string(), upstream: upstream.row.url.clone() }, upstream)
        })
        .collect();
    for (name, help, unit, field) in COUNTERS {
        let family = Counters::<ByUpstream>::default();
        for (label, upstream) in &all {
            family.get_or_create(label).inc_by(field(&upstream.counters));
        }
        match unit {
            Some(unit) => registry.register_with_unit(name, help, unit, family),
            None => registry.register(name, help, family),
        }
    }
    let (resting, now) = (Family::<ByUpstream, Gauge>::default(), app.now());
    for (label, upstream) in &all {
        resting.get_or_create(label).set(i64::from(upstream.rests_until(now).is_some()));
    }
    registry.register("upstream_resting", "1 while it is left alone after failures", resting);
}
