//! Stores that earlier versions of firn and this one wrote are opened, served, and give back the bytes that were put in.
//!
//! A store is a folder of `tests/compat`; its README says how one is made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use firn_nix::Sha256;
use firn_testkit::Result;
use firn_testkit::firnd::Firnd;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;
use firn_tests::Package;

fn stores() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("compat")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let to = to.join(entry.file_name());
        match entry.file_type().expect("a kind") {
            kind if kind.is_dir() => copy_folder(&entry.path(), &to),
            // What RocksDB was told, which it does not need and which is the most of a small index.
            _ if entry.file_name().to_string_lossy().starts_with("OPTIONS-") => {}
            kind if kind.is_file() => _ = fs::copy(entry.path(), to).expect("a file"),
            // The socket of the process that made it.
            _ => {}
        }
    }
}

/// Starts a server on a copy of a store.
fn serve(store: &Path) -> Result<Firnd> {
    let mut firnd = Firnd::start()?;
    firnd.kill()?;
    fs::remove_dir_all(firnd.data()).expect("a folder");
    copy_folder(store, &firnd.data());
    firnd.launch()?;
    Ok(firnd)
}

/// Checks that everything in the list is served as it was put in.
fn check(firnd: &Firnd, list: &str) -> Result<usize> {
    for line in list.lines() {
        let (hash, nar_hash) = line.split_once(' ').expect("two words a line");
        let narinfo = firnd.send(&Request::get(&format!("/main/{hash}.narinfo")))?;
        assert_eq!(narinfo.status, 200, "{hash}: {}", narinfo.text());
        assert!(narinfo.text().contains(&format!("NarHash: sha256:{nar_hash}")), "{}", narinfo.text());
        let nar = firnd.send(&Request::get(&format!("/main/nar/{nar_hash}.nar")))?;
        assert!(nar.status == 200 && nar.whole, "{hash}: {}", nar.status);
        assert_eq!(Sha256::of(&nar.body).to_nix32(), nar_hash, "{hash}");
        let nar = firnd.send(&Request::get(&format!("/main/nar/{nar_hash}.nar.zst")))?;
        let body = zstd::decode_all(&nar.body[..]).expect("zstd");
        assert_eq!(Sha256::of(&body).to_nix32(), nar_hash, "{hash}");
    }
    Ok(list.lines().count())
}

#[test]
fn every_store_of_an_earlier_firn_is_served_and_goes_on() -> Result<()> {
    let mut tried = 0;
    for entry in fs::read_dir(stores()).expect("tests/compat").flatten().filter(|entry| entry.path().is_dir()) {
        let list = fs::read_to_string(entry.path().join("paths")).expect("what it holds");
        let mut firnd = serve(&entry.path().join("data"))?;
        assert!(check(&firnd, &list)? >= 5);
        // All packs are read and found whole, it takes more, and its index can be made from them.
        firnd.admin(["scrub", "--rate", "1 GiB"])?;
        let token = firnd.token("main:pull,push")?;
        let new = Package::new(999, 50_000);
        let sent = Request::put(&new.nar_target("main"), new.nar.clone()).token(&token);
        assert!(firn_tests::is_taken(&firnd.send(&sent)?));
        firnd.admin(["gc"])?;
        assert!(firnd.terminate()?.success());
        firnd.admin(["rebuild-index"])?;
        firnd.launch()?;
        check(&firnd, &list)?;
        tried += 1;
    }
    assert!(tried > 0, "there is no store");
    Ok(())
}

/// Returns a build of a program, of which others differ in a few bytes.
fn program(build: u8) -> Vec<u8> {
    let mut bytes = Random::new(1).noise(40_000);
    bytes[20_000..20_020].fill(build);
    let text = format!("build {build} of a program\n").repeat(200).into_bytes();
    Node::directory([("README", Node::file(text)), ("program", Node::file(bytes))]).encode()
}

/// Makes a store: plain and delta frames, squeezed and repacked packs, deleted paths, and a pack that was not sealed.
#[test]
#[ignore = "writes into tests/compat: see its README"]
fn make_a_store() -> Result<()> {
    let name = std::env::var("FIRN_COMPAT_NAME").expect("FIRN_COMPAT_NAME is the new folder's name");
    let to = stores().join(name);
    let mut firnd = Firnd::start_with("[store]\npack-size = \"1 MiB\"\n[gc]\ngrace = \"0 s\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut list = String::new();
    let mut put = |firnd: &Firnd, package: &Package, is_kept: bool| -> Result<()> {
        package.upload(firnd, &cache)?;
        if is_kept {
            list += &format!("{} {}\n", package.hash(), package.nar_hash());
        }
        Ok(())
    };
    for build in 1..4 {
        put(&firnd, &Package::of(build.into(), program(build)), true)?;
    }
    let old = Package::new(20, 30_000);
    put(&firnd, &old, false)?;
    put(&firnd, &Package::new(21, 3000), true)?;
    assert!(firnd.terminate()?.success());
    firnd.launch()?;
    firnd.admin(["path", "delete", &format!("/nix/store/{}", old.base_name), "--cache", "main"])?;
    firnd.admin(["squeeze", "--min-age", "0 s", "--level", "9"])?;
    firnd.admin(["gc"])?;
    firnd.admin([
        "pin",
        "add",
        "kept",
        &format!("/nix/store/{}", Package::of(1, program(1)).base_name),
        "--cache",
        "main",
    ])?;
    for build in 4..6 {
        put(&firnd, &Package::of(build.into(), program(build)), true)?;
    }
    put(&firnd, &Package::new(22, 9000), true)?;
    firnd.kill()?;
    fs::create_dir_all(&to).expect("a folder");
    copy_folder(&firnd.data(), &to.join("data"));
    fs::write(to.join("paths"), list).expect("the list");
    let bytes = Command::new("du").args(["-sk"]).arg(&to).output().expect("du");
    println!("{}", String::from_utf8_lossy(&bytes.stdout));
    Ok(())
}
