//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use firn_testkit::corpus::replay;

#[test]
fn api_answer() {
    replay("api_answer", firn_api::fuzz::api_answer);
}

#[test]
fn api_commit() {
    replay("api_commit", firn_api::fuzz::api_commit);
}

#[test]
fn api_endpoint() {
    replay("api_endpoint", firn_api::fuzz::api_endpoint);
}

#[test]
fn api_hints() {
    replay("api_hints", firn_api::fuzz::api_hints);
}
