//! What Prometheus is told of traces, if they are sent.

use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::Registry;

use super::load;
use crate::app::App;

pub(super) fn register(app: &App, registry: &mut Registry) {
    let Some(counts) = app.traces.get() else { return };
    for (name, help, count) in [
        ("trace_spans", "Spans that were to be sent to the collector", &counts.ended),
        ("trace_sent_spans", "Of these, those that it took", &counts.sent),
        ("trace_failed_spans", "Of these, those that it did not take or that did not get there", &counts.failed),
    ] {
        registry.register(name, help, ConstCounter::new(load(count)));
    }
}
