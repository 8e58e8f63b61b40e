//! Replays the committed fuzz corpora, so that what a fuzz target once found stays found.

use std::fs;
use std::path::Path;

fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        check(&fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count > 0, "no inputs in {}", dir.display());
}

#[test]
fn nar_decoder() {
    replay("nar_decoder", firn_nix::fuzz::nar_decoder);
}

#[test]
fn narinfo_parse() {
    replay("narinfo_parse", firn_nix::fuzz::narinfo_parse);
}
