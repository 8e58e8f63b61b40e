//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use firn_pack::fuzz;
use firn_testkit::corpus::replay;

#[test]
fn frame_decode() {
    replay("frame_decode", fuzz::frame_decode);
}

#[test]
fn pack_open() {
    replay("pack_open", fuzz::pack_open);
}
