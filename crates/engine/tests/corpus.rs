//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use firn_testkit::corpus::replay;

#[test]
fn placement_decode() {
    replay("placement_decode", firn_engine::fuzz::placement_decode);
}

#[test]
fn record_decode() {
    replay("record_decode", firn_engine::fuzz::record_decode);
}
