use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::status::{Activity, Status};
use crate::queue::Counter;

/// Every activity, for the metric that says which one it is.
const ACTIVITIES: [Activity; 5] =
    [Activity::Stopped, Activity::Running, Activity::Unreachable, Activity::Paused, Activity::Blocked];

/// The counters that are reasons for not taking a path, with the reason's name.
const SKIPPED: [(Counter, &str); 6] = [
    (Counter::SkippedUpstream, "upstream"),
    (Counter::SkippedDerivation, "derivation"),
    (Counter::SkippedSource, "source"),
    (Counter::SkippedName, "name"),
    (Counter::SkippedSize, "size"),
    (Counter::Unreadable, "unreadable"),
];

/// The other counters: name, what it counts.
const COUNTERS: [(Counter, &str, &str); 8] = [
    (Counter::Pushed, "pushed_paths", "Paths pushed"),
    (Counter::PushedBytes, "pushed_logical_bytes", "NAR bytes of the paths pushed"),
    (Counter::SentBytes, "sent_bytes", "Bytes sent for the paths pushed"),
    (Counter::AlreadyThere, "already_there_paths", "Paths that the cache had"),
    (Counter::LostBeforePush, "lost_before_push", "Paths that were gone before they could be pushed"),
    (Counter::Refused, "refused_paths", "Paths that became dead letters"),
    (Counter::Retried, "retried_pushes", "Pushes of a path that failed and are tried again"),
    (Counter::Rescans, "rescans", "Times that Nix's database was another one and was read from its beginning"),
];

/// Returns a status as text in the OpenMetrics format.
///
/// Every name begins with `firn_agent_`. The counters survive restarts with the queue.
#[must_use]
pub fn metrics(status: &Status) -> String {
    let mut registry = Registry::with_prefix("firn_agent");
    registry.register_collector(Box::new(Scrape(status.clone())));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = text::encode(&mut out, &registry);
    out
}

#[derive(Debug)]
struct Scrape(Status);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = &self.0;
        let gauges = [
            ("queue_paths", "Paths that wait to be pushed", status.waiting),
            ("queue_logical_bytes", "NAR bytes of the paths that wait", status.waiting_bytes),
            ("queue_retrying_paths", "Paths that wait after a failure", status.retrying),
            (
                "queue_oldest_unix_milliseconds",
                "When the path that waits longest came in",
                status.oldest_at.unwrap_or(0),
            ),
            ("dead_letters", "Paths that are not tried any more", status.dead),
            ("in_flight_paths", "Paths that are being pushed", status.in_flight),
            ("pinned_paths", "Paths that Nix's garbage collector is kept from", status.pinned),
            ("pinned_logical_bytes", "NAR bytes of the pinned paths", status.pinned_bytes),
            ("behind_registrations", "Registrations of Nix's that are not looked at yet", status.behind),
            ("last_scan_unix_milliseconds", "When Nix's database was last read to its end", status.last_scan_at),
            ("last_push_unix_milliseconds", "When a path was last pushed", status.last_push_at),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        for (counter, name, help) in COUNTERS {
            let counter = ConstCounter::new(status.counter(counter));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        let of = |counter| ConstCounter::new(status.counter(counter));
        let help = "Paths not taken, by reason";
        let kind = of(Counter::SkippedName).metric_type();
        let mut family = encoder.encode_descriptor("skipped_paths", help, None, kind)?;
        for (counter, reason) in SKIPPED {
            of(counter).encode(family.encode_family(&[("reason", reason)])?)?;
        }
        let gauge = |activity| ConstGauge::new(i64::from(activity == status.activity));
        let kind = gauge(Activity::Running).metric_type();
        let mut family = encoder.encode_descriptor("activity", "1 for what the agent does", None, kind)?;
        for activity in ACTIVITIES {
            gauge(activity).encode(family.encode_family(&[("is", activity.name())])?)?;
        }
        Ok(())
    }
}
