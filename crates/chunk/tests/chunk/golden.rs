//! Cut points, ids and encodings never change: they are in every store.
//!
//! If a change is meant, it needs a new version in `ChunkerId` (or in the recipe's encoding) and new files; run the
//! tests with `FIRN_BLESS=1` to have them written.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::{env, fs};

use firn_chunk::{Input, Recipe};

use crate::input::{Fragment, Node, Outcome, Random, cut, hashes};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with a golden file.
#[track_caller]
fn compare(name: &str, found: &[u8]) {
    let path = golden(name);
    if env::var_os("FIRN_BLESS").is_some() {
        fs::write(&path, found).expect("the source folder can be written");
    }
    let expected = fs::read(&path).unwrap_or_else(|error| panic!("failed to read {}: {error}", path.display()));
    let readable = String::from_utf8_lossy(found);
    assert!(found == expected, "{name} is no longer what it was, but:\n{readable}");
}

/// Prints what must not change.
fn describe(outcome: &Outcome) -> String {
    let mut text = format!("length {}\nrecipe {}\n", outcome.cut.length, outcome.cut.recipe.id());
    let mut at = 0;
    for (id, data) in &outcome.chunks {
        writeln!(text, "chunk {at} {} {id}", data.len()).expect("strings take everything");
        at += data.len();
    }
    for patch in outcome.cut.recipe.patches.iter() {
        writeln!(text, "patch {} {}", patch.position, patch.slot).expect("strings take everything");
    }
    for slot in &outcome.cut.slots {
        writeln!(text, "slot {slot}").expect("strings take everything");
    }
    text
}

/// Bytes of which no long stretch is alike, a stretch of zeros, and text with references.
fn bytes() -> Vec<u8> {
    let mut bytes = Random(1).bytes(2_000_000);
    bytes.extend(vec![0; 700_001]);
    let hashes = hashes();
    let mut random = Random(2);
    for line in 0..20_000 {
        let hash = &hashes[usize::try_from(random.next() % 4).expect("small")];
        let hash = std::str::from_utf8(hash).expect("hashes are ASCII");
        bytes.extend(format!("{line}: {:x}\n", random.next()).bytes());
        if line % 100 == 99 {
            bytes.extend(format!("/nix/store/{hash}-name-{line}/bin/program {hash}\n").bytes());
        }
    }
    bytes
}

/// A tree with files on both sides of 16 KiB, names and links with hashes.
fn nar() -> Vec<u8> {
    let file = |contents: Vec<Fragment>| Node::Regular { executable: false, contents };
    let large = |seed, length| file(vec![Fragment::Random(seed, length), Fragment::Reference(1), Fragment::Bare(1)]);
    let name = |name: &str| (name.to_owned(), None);
    let small = (0..200).map(|number| (name(&format!("{number:03}=")), file(vec![Fragment::Random(number, 1000)])));
    let library = [
        (name("a="), large(1001, 400_000)),
        (name("b="), large(1002, 16_383 - 76)),
        (name("c="), large(1003, 16_384 - 76)),
        (name("d="), file(vec![Fragment::Run(0, 600_000), Fragment::Reference(0)])),
        (("e=".to_owned(), Some(2)), Node::Symlink(3)),
    ];
    let root = [
        (name("lib="), Node::Directory(library.into())),
        (name("run="), Node::Regular { executable: true, contents: vec![Fragment::Bare(3), Fragment::Reference(3)] }),
        (name("share="), Node::Directory(small.collect())),
    ];
    Node::Directory(root.into()).nar(&hashes())
}

#[test]
fn bytes_are_cut_as_ever() {
    let outcome = cut(Input::Bytes, &bytes()).expect("bytes of any kind are fine");
    compare("bytes-v1.txt", describe(&outcome).as_bytes());
}

#[test]
fn a_nar_is_cut_and_encoded_as_ever() {
    let outcome = cut(Input::Nar, &nar()).expect("it is a NAR");
    compare("nar-v1.txt", describe(&outcome).as_bytes());
    compare("nar-v1.recipe", &outcome.cut.recipe.encode());
}

#[test]
fn a_recipe_of_the_first_version_is_read() {
    let bytes = fs::read(golden("nar-v1.recipe")).expect("the golden file is there");
    let recipe = Recipe::decode(&bytes).expect("it was written by this crate");
    let outcome = cut(Input::Nar, &nar()).expect("it is a NAR");
    assert_eq!(recipe, outcome.cut.recipe);
    assert_eq!(recipe.encode(), bytes);
}
