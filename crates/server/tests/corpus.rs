//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use firn_testkit::corpus::replay;

#[test]
fn backup_manifest() {
    replay("backup_manifest", firn_server::http::fuzz::fuzz_manifest);
}

#[test]
fn config() {
    replay("config", firn_server::http::fuzz::fuzz_config);
}

#[test]
fn http_range() {
    replay("http_range", firn_server::http::fuzz::fuzz_range);
}

#[test]
fn http_route() {
    replay("http_route", firn_server::http::fuzz::fuzz_route);
}
