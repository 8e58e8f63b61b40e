//! What keeps a store whole for years, with the real server and stock Nix: scrub, an index made again, backups, and caches
//! as folders of files.

use std::fs;
use std::path::PathBuf;

use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::Request;
use firn_testkit::nix::{Nix, Version};
use firn_tests::{Package, assert_same, builder, client, closure};

/// Returns the packs of a server's store.
fn packs(firnd: &Firnd) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in fs::read_dir(firnd.data().join("store/packs")).expect("the packs").flatten() {
        found.extend(fs::read_dir(folder.path()).expect("packs").flatten().map(|entry| entry.path()));
    }
    found.sort();
    found
}

fn flip_middle(path: &PathBuf) {
    let mut bytes = fs::read(path).expect("a pack");
    let at = bytes.len() / 2;
    bytes[at] ^= 0x10;
    fs::write(path, bytes).expect("a pack");
}

/// Pulls a path with its closure into an empty store and compares it with the builder's.
fn assert_substitutes(nix: &Nix, cache: &Cache, from: &firn_testkit::nix::Store, path: &str) -> Result<()> {
    let client = client(nix, cache)?;
    client.realise(&[path])?.done()?;
    assert_same(from, &client, path)
}

#[test]
fn scrub_names_damage_and_the_next_upload_repairs_it() -> Result<()> {
    let mut firnd = Firnd::start_with("[store]\npack-size = \"1 MiB\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let packages: Vec<_> = (0..4).map(|seed| Package::new(seed, 900_000)).collect();
    for package in &packages {
        package.upload(&firnd, &cache)?;
    }
    let clean = firnd.json(&["scrub", "--rate", "1 GiB"])?;
    assert_eq!(clean["last"]["damaged_paths"], 0, "{clean}");
    assert!(firnd.terminate()?.success());
    packs(&firnd).iter().filter(|path| path.metadata().expect("a length").len() > 400_000).for_each(flip_middle);
    firnd.launch()?;
    // In memory from now on: what scrub finds must not be hidden by it.
    for package in &packages {
        assert!(package.is_visible(&firnd, &cache)?);
    }
    let ran = firnd.run(["scrub", "--rate", "1 GiB", "--json"])?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(8), "{said}");
    let mut gone = 0;
    for package in &packages {
        let is_gone = !package.is_visible(&firnd, &cache)?;
        assert_eq!(is_gone, said.contains(&package.base_name), "{said}");
        if is_gone {
            gone += 1;
            assert!(firnd.log().contains(&package.base_name));
            package.upload(&firnd, &cache)?;
        }
        let nar = firnd.send(&Request::get(&package.nar_target("main")))?;
        assert!(nar.status == 200 && nar.whole && nar.body == package.nar, "{}", nar.status);
    }
    assert!(gone > 0, "no damage was met");
    // What no path needs any more is damaged as before.
    let after = firnd.run(["scrub", "--rate", "1 GiB", "--json"])?;
    assert_eq!(after.status.code(), Some(8));
    let after: serde_json::Value = serde_json::from_slice(&after.stdout).expect("JSON");
    assert_eq!(after["last"]["damaged_paths"], 0, "{after}");
    Ok(())
}

#[test]
fn nix_substitutes_from_a_rebuilt_index() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let machine = builder(&nix, &cache)?;
    let top = machine.build_one(&closure(1))?;
    machine.copy_to(&cache.url, &[&top])?.done()?;
    let busy = firnd.run(["rebuild-index"])?;
    assert_eq!(busy.status.code(), Some(4), "a server uses the directory: {}", busy.stderr);
    firnd.kill()?;
    let kept = firnd.json(&["rebuild-index"])?;
    assert_eq!((&kept["kept_from_old"], &kept["lost"], &kept["paths"]), (&true.into(), &0.into(), &3.into()), "{kept}");
    firnd.launch()?;
    assert_substitutes(&nix, &cache, &machine, &top)?;
    // The token is as good as before.
    let second = machine.build_one(&closure(2))?;
    machine.copy_to(&cache.url, &[&second])?.done()?;
    // Without the index nothing is known but what packs say: the cache is private and has another key.
    assert!(firnd.terminate()?.success());
    fs::remove_dir_all(firnd.data().join("index")).expect("the index");
    let fresh = firnd.json(&["rebuild-index", "--lineage"])?;
    assert_eq!((&fresh["kept_from_old"], &fresh["paths"]), (&false.into(), &6.into()), "{fresh}");
    assert_eq!(fresh["new_caches"][0], "main");
    firnd.admin(["cache", "set", "main", "--public"])?;
    firnd.launch()?;
    // Signatures by the old key are there yet.
    assert_substitutes(&nix, &cache, &machine, &second)?;
    let clean = firnd.json(&["scrub", "--rate", "1 GiB"])?;
    assert_eq!(clean["last"]["damaged_paths"], 0, "{clean}");
    Ok(())
}

#[test]
fn a_backup_of_a_running_server_comes_back() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let machine = builder(&nix, &cache)?;
    let first = machine.build_one(&closure(1))?;
    machine.copy_to(&cache.url, &[&first])?.done()?;
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("backup");
    let to = place.to_str().expect("a plain path");
    let one = firnd.json(&["backup", to])?;
    assert!(one["packs"].as_u64() > Some(0), "{one}");
    let second = machine.build_one(&closure(2))?;
    machine.copy_to(&cache.url, &[&second])?.done()?;
    firnd.json(&["backup", to])?;
    firnd.json(&["backup", to, "--verify"])?;
    let third = Package::new(9, 100_000);
    third.upload(&firnd, &cache)?;
    // The store is lost.
    firnd.kill()?;
    for name in ["index", "store"] {
        fs::remove_dir_all(firnd.data().join(name)).expect("the store");
    }
    let back = firnd.json(&["restore-backup", to])?;
    assert!(back["files"].as_u64() > Some(3), "{back}");
    assert_eq!(firnd.run(["restore-backup", to])?.status.code(), Some(6), "there is a store now");
    firnd.launch()?;
    assert_substitutes(&nix, &cache, &machine, &first)?;
    assert_substitutes(&nix, &cache, &machine, &second)?;
    assert!(!third.is_visible(&firnd, &cache)?, "it came after the backup");
    third.upload(&firnd, &cache)?;
    Ok(())
}

#[test]
fn caches_go_to_files_and_come_back_with_stock_nix() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    firnd.cache("second", &["--public"])?;
    let machine = builder(&nix, &cache)?;
    let top = machine.build_one(&closure(1))?;
    let other = machine.build_one(&closure(2))?;
    machine.copy_to(&cache.url, &[&top, &other])?.done()?;
    assert!(firnd.terminate()?.success());
    let folder = tempfile::tempdir().expect("a folder");
    for compression in ["zstd", "xz", "none"] {
        let place = folder.path().join(compression);
        let to = place.to_str().expect("a plain path");
        let done = firnd.json(&["export", to, &top, "--cache", "main", "--compression", compression])?;
        assert_eq!((&done["paths"], &done["damaged"]), (&3.into(), &0.into()), "{done}");
        let again = firnd.json(&["export", to, &top, "--cache", "main"])?;
        assert_eq!((&again["paths"], &again["present"]), (&0.into(), &3.into()), "{again}");
        let files = Cache { url: format!("file://{to}"), ..cache.clone() };
        assert_substitutes(&nix, &files, &machine, &top)?;
    }
    // What stock Nix writes, in a cache of its own.
    let place = folder.path().join("nix");
    let url = format!("file://{}?compression=xz", place.display());
    machine.copy_to(&url, &[&top])?.done()?;
    let from = place.to_str().expect("a plain path");
    let done = firnd.json(&["import", from, "--cache", "second"])?;
    assert_eq!((&done["paths"], &done["refused"]), (&3.into(), &0.into()), "{done}");
    firnd.launch()?;
    let shown = firnd.json(&["cache", "show", "second"])?;
    let key = shown["public_keys"][0].as_str().expect("a key").to_owned();
    let second = Cache { url: firnd.url("second"), public_key: key, ..cache.clone() };
    assert_substitutes(&nix, &second, &machine, &top)
}

#[test]
fn of_two_servers_on_one_directory_the_second_is_refused() -> Result<()> {
    let firnd = Firnd::start()?;
    let ran = firnd.run(["serve", "--listen", "127.0.0.1:0"])?;
    assert_eq!(ran.status.code(), Some(4), "{}", ran.stderr);
    assert!(ran.stderr.contains("firnd serve"), "{}", ran.stderr);
    Ok(())
}
