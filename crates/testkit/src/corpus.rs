//! Replays of committed fuzz corpora, so that what a fuzz target once found stays found.

use std::fs;
use std::path::Path;

/// Runs `check` on each input of a fuzz target's corpus and prints which.
///
/// # Panics
/// If the corpus is empty or can't be read, and where `check` does.
pub fn replay(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("the corpus can be listed").path();
        println!("{}", path.display());
        check(&fs::read(&path).expect("the corpus can be read"));
        count += 1;
    }
    assert!(count > 0, "no inputs in {}", folder.display());
}
