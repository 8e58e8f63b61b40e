//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use std::fs;
use std::path::Path;

use firn_pack::fuzz;

fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let inputs: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!inputs.is_empty(), "{} has no inputs", folder.display());
    for input in inputs {
        println!("{}", input.display());
        check(&fs::read(&input).unwrap());
    }
}

#[test]
fn frame_decode() {
    replay("frame_decode", fuzz::frame_decode);
}

#[test]
fn pack_open() {
    replay("pack_open", fuzz::pack_open);
}
