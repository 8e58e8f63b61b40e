//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use firn_testkit::corpus::replay;

#[test]
fn chunker() {
    replay("chunker", firn_chunk::fuzz::chunker);
}

#[test]
fn recipe_decode() {
    replay("recipe_decode", firn_chunk::fuzz::recipe_decode);
}
