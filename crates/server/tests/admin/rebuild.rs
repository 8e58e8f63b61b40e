//! `firnd rebuild-index` over packs that are damaged.

use std::fs;
use std::path::{Path, PathBuf};

use firn_server::cli::exit;
use firn_testkit::http::Request;
use serde_json::Value;

use crate::support::{Place, text};

/// Returns the files of a store's packs.
fn packs(place: &Place) -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path()).collect()
    };
    let store = place.data().join("store/packs");
    below(&store).iter().flat_map(|folder| below(folder)).collect()
}

/// Flips a bit in the payload of each record frame of a pack, and returns how many there are.
fn damage_records(pack: &Path) -> usize {
    let mut bytes = fs::read(pack).expect("reads");
    let heads: Vec<usize> = (0..bytes.len() - 32).filter(|at| bytes[*at..].starts_with(b"\xf1RNf\x03")).collect();
    for at in &heads {
        let number = |from: usize| u32::from_le_bytes(bytes[at + from..][..4].try_into().expect("4 bytes")) as usize;
        let end = at + number(12) + number(16);
        bytes[end - 1] ^= 1;
    }
    fs::write(pack, bytes).expect("writes");
    heads.len()
}

fn rebuild(place: &Place, arguments: &[&str], code: u8) -> Value {
    let output = place.run(&[&["rebuild-index", "--json"], arguments].concat());
    assert_eq!(output.status.code(), Some(code.into()), "{}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// A store with some logs, whose records are damaged.
fn damaged() -> Place {
    let place = Place::new();
    place.ok(&["cache", "create", "main", "--public"]);
    let token = place.ok(&["token", "create", "--grant", "main:push"]);
    let server = place.serve(&[]);
    for nth in 1..4 {
        let target = format!("/main/log/{nth}a5bc7y7bsa7r26wzvpnlvw7r8g6nfvs-x.drv");
        let log = Request::put(&target, b"a build's log".to_vec());
        assert!(log.token(token.trim_end()).send(server.address()).expect("answers").status < 300);
    }
    server.end();
    assert!(packs(&place).iter().map(|pack| damage_records(pack)).sum::<usize>() > 1);
    place
}

#[test]
fn what_damaged_records_said_comes_from_the_present_index_which_is_kept() {
    let place = damaged();
    let done = rebuild(&place, &[], exit::DAMAGED);
    assert_eq!(
        (&done["documents"], &done["lost"], &done["rows_from_old"]),
        (&3.into(), &0.into(), &3.into()),
        "{done}"
    );
    let old = place.data().join("index.old");
    assert_eq!(done["old_index"], old.to_str().expect("a plain path"));
    assert!(old.join("meta").is_dir());
    // Nothing that was kept goes with a later one.
    let done = rebuild(&place, &["--without-old"], exit::DAMAGED);
    assert_eq!(done["documents"], 3, "they have records again: {done}");
    assert!(old.join("meta").is_dir() && place.data().join("index.old.2").is_dir(), "{done}");
    assert!(!place.data().join("index.new").exists());
}

#[test]
fn damaged_records_without_an_index_are_told() {
    let place = damaged();
    fs::remove_dir_all(place.data().join("index")).expect("the index");
    let output = place.run(&["cache", "create", "other"]);
    assert!(!output.status.success() && text(&output.stderr).contains("firnd rebuild-index"), "no other index is made");
    let output = place.run(&["rebuild-index"]);
    assert_eq!(output.status.code(), Some(exit::DAMAGED.into()), "{}", text(&output.stderr));
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(said.contains("what the damaged frames held is lost"), "{said}");
}

#[test]
fn a_cache_that_was_deleted_and_made_again_keeps_what_came_to_it() {
    let place = Place::new();
    for nth in 0..2 {
        if nth > 0 {
            place.ok(&["cache", "delete", "main", "--yes"]);
        }
        place.ok(&["cache", "create", "main", "--public"]);
        let token = place.ok(&["token", "create", "--grant", "main:push"]);
        let server = place.serve(&[]);
        let target = format!("/main/log/{nth}a5bc7y7bsa7r26wzvpnlvw7r8g6nfvs-x.drv");
        let log = Request::put(&target, b"a build's log".to_vec());
        assert!(log.token(token.trim_end()).send(server.address()).expect("answers").status < 300);
        server.end();
    }
    place.serve(&[]).end();
    let done = rebuild(&place, &["--without-old"], exit::DONE);
    assert_eq!(done["documents"], 1, "what the second one has: {done}");
}
