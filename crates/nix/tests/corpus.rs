//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use firn_testkit::corpus::replay;

#[test]
fn nar_decoder() {
    replay("nar_decoder", firn_nix::fuzz::nar_decoder);
}

#[test]
fn narinfo_parse() {
    replay("narinfo_parse", firn_nix::fuzz::narinfo_parse);
}
