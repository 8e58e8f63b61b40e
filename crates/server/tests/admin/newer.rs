//! A store that a newer firn wrote is refused with a clear word, and left as it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use firn_index::{Meta, StoreInfo};
use firn_index_rocks::{MetaOptions, RocksMeta};
use firn_server::cli::exit;
use firn_testkit::http::Request;

use crate::support::Place;

fn index<T>(place: &Place, work: impl FnOnce(&RocksMeta) -> T) -> T {
    work(&RocksMeta::open(&place.data().join("index"), &MetaOptions::default()).expect("opens"))
}

/// Returns the files below a folder with what is in them.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            found.append(&mut files(&entry.path()));
        } else {
            found.insert(entry.path(), fs::read(entry.path()).expect("reads"));
        }
    }
    found
}

#[test]
fn a_store_of_a_newer_firn_is_refused_and_left_as_it_is() {
    let place = Place::new();
    place.ok(&["cache", "create", "main", "--public"]);
    let token = place.ok(&["token", "create", "--grant", "main:push"]);
    let server = place.serve(&[]);
    let log = Request::put("/main/log/0a5bc7y7bsa7r26wzvpnlvw7r8g6nfvs-x.drv", b"a build's log".to_vec());
    assert!(log.token(token.trim_end()).send(server.address()).expect("answers").status < 300);
    server.end();
    let info = index(&place, |meta| meta.store_info().expect("reads").expect("a store has one"));
    let newer = StoreInfo { format_version: info.format_version + 1, ..info.clone() };
    index(&place, |meta| meta.set_store_info(&newer).expect("writes"));
    let before = files(&place.data().join("store"));
    assert!(before.len() > 1, "it holds a pack");
    let version = newer.format_version;
    let expected = format!("its format version is {version}, and this firn knows up to {}: upgrade firn", version - 1);
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["scrub"], &["gc"], &["rebuild-index"]] {
        let said = place.fails(command, exit::FAILED.into());
        assert!(said.contains(&expected), "{command:?}: {said}");
    }
    assert!(files(&place.data().join("store")) == before, "packs are as they were");
    assert_eq!(index(&place, |meta| meta.store_info().expect("reads")), Some(newer));
    index(&place, |meta| meta.set_store_info(&info).expect("writes"));
    place.serve(&[]).end();
}
