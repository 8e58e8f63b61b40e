//! `firnd gc` beside a server at work: what is deleted comes back from the disk, and nobody who is at it loses anything.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::nix::{Nix, Version};
use firn_tests::{Package, assert_same, builder, client, closure, is_taken};

const CONFIG: &str = "[store]\npack-size = \"1 MiB\"\n[gc]\ninterval = \"0 s\"\n";

fn bytes_below(folder: &Path) -> u64 {
    let mut sum = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => sum += bytes_below(&entry.path()),
            Ok(metadata) => sum += metadata.len(),
            Err(_) => {}
        }
    }
    sum
}

fn gc(firnd: &Firnd) -> Result<serde_json::Value> {
    firnd.json(&["gc", "--grace", "0 s", "--rate", "1 GiB"])
}

/// Uploads packages of consecutive seeds until it is told to stop; returns the seeds of those that were acknowledged.
fn upload(address: std::net::SocketAddr, cache: &Cache, stop: &AtomicBool) -> Vec<u64> {
    let mut done = Vec::new();
    for seed in 1000..2000_u64 {
        // Every second shares its bytes with what is being deleted.
        let nar = if seed % 2 == 0 { Package::new(seed % 8, 300_000).nar } else { Package::new(seed, 50_000).nar };
        let package = Package::of(seed, nar);
        let requests = [
            Request::put(&package.nar_target(&cache.name), package.nar.clone()),
            Request::put(&package.narinfo_target(&cache.name), package.narinfo()),
        ];
        let taken =
            requests.into_iter().all(|request| request.token(&cache.token).send(address).is_ok_and(|a| is_taken(&a)));
        if taken {
            done.push(seed);
        }
        if stop.load(Ordering::SeqCst) && done.len() >= 4 {
            break;
        }
    }
    done
}

#[test]
fn what_is_deleted_comes_back_while_everybody_goes_on() -> Result<()> {
    let Some(nix) = Nix::require(Version::ALL[0]) else { return Ok(()) };
    let firnd = Firnd::start_with(CONFIG)?;
    let main = firnd.cache("main", &["--public"])?;
    let doomed = firnd.cache("doomed", &["--public"])?;
    let ours = builder(&nix, &main)?;
    let path = ours.build_one(&closure(1))?;
    ours.copy_to(&main.url, &[&path])?.done()?;
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    firnd.admin(["pin", "add", "release", &name])?;
    for seed in 0..8 {
        Package::new(seed, 300_000).upload(&firnd, &doomed)?;
    }
    let large = Package::new(77, 24_000_000);
    large.upload(&firnd, &doomed)?;
    let packs = firnd.data().join("store");
    let before = bytes_below(&packs);

    // A download that has begun, and that its client reads slowly: what fits into sockets' buffers is less.
    let mut slow = TcpStream::connect(firnd.address()).expect("connects");
    slow.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
    write!(slow, "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", large.nar_target("doomed")).expect("sends");
    let mut first = [0; 4096];
    slow.read_exact(&mut first).expect("begins");

    let stop = AtomicBool::new(false);
    let (uploaded, reports) = thread::scope(|scope| {
        let uploading = scope.spawn(|| upload(firnd.address(), &main, &stop));
        let collecting = || -> Result<Vec<serde_json::Value>> {
            firnd.admin(["cache", "delete", "doomed", "--yes"])?;
            let mut reports = Vec::new();
            for _ in 0..3 {
                reports.push(gc(&firnd)?);
                let theirs = client(&nix, &main)?;
                theirs.copy_from(&main.url, &[&path])?.done()?;
                assert_same(&ours, &theirs, &path)?;
            }
            Ok(reports)
        };
        let reports = collecting();
        stop.store(true, Ordering::SeqCst);
        (uploading.join().expect("the thread does not panic"), reports)
    });
    let reports = reports?;
    assert!(reports.iter().any(|report| report["recipes"].as_u64() > Some(0)), "{reports:?}");

    let mut rest = first.to_vec();
    slow.read_to_end(&mut rest).expect("goes on");
    let head = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    assert!(rest[head..] == large.nar[..], "the download did not go to its end: {} bytes", rest.len() - head);
    drop(slow);

    for seed in &uploaded {
        let answer = firnd.send(&Request::get(&Package::new(*seed, 10).narinfo_target("main")))?;
        assert_eq!(answer.status, 200, "package {seed} was acknowledged and is gone\n{}", firnd.log());
        let nar = if seed % 2 == 0 { Package::new(seed % 8, 300_000).nar } else { Package::new(*seed, 50_000).nar };
        let answer = firnd.send(&Request::get(&Package::of(*seed, nar.clone()).nar_target("main")))?;
        assert!(answer.whole && answer.body == nar, "package {seed} is visible and wrong");
    }
    assert!(uploaded.len() >= 4, "{uploaded:?}");
    let missing = firnd.send(&Request::get(&large.narinfo_target("doomed")))?;
    assert!(missing.status == 404 || missing.status == 401 || missing.status == 403, "{}", missing.status);
    // Nobody reads it any more.
    gc(&firnd)?;
    gc(&firnd)?;
    let after = bytes_below(&packs);
    // At most what came meanwhile is there besides.
    let came = uploaded.len() as u64 * 60_000;
    assert!(
        after + 20_000_000 < before + came,
        "{before} bytes before, {after} afterwards: {reports:?}\n{}",
        firnd.log()
    );
    let status = firnd.json(&["status"])?;
    assert!(status["maintenance"]["gc"]["deleted"]["stored_bytes"].as_u64() > Some(20_000_000), "{status}");
    Ok(())
}

/// Without a server, by a server, and by the next one: how the last collection went is in the index.
#[test]
fn the_last_collection_is_known_after_a_restart() -> Result<()> {
    let mut firnd = Firnd::start_with(CONFIG)?;
    let main = firnd.cache("main", &["--public"])?;
    let package = Package::new(1, 300_000);
    package.upload(&firnd, &main)?;
    let before = firnd.json(&["status"])?["maintenance"]["gc"].clone();
    assert!(before["last_ended_at"].is_null() && before["runs"] == 0, "{before}");
    firnd.admin(["cache", "set", "main", "--keep", "1 s"])?;
    firnd.admin(["path", "delete", &package.base_name])?;
    gc(&firnd)?;
    let during = firnd.json(&["status"])?["maintenance"]["gc"].clone();
    assert!(during["last_ended_at"].as_u64() > Some(0) && during["runs"] == 1, "{during}");
    firnd.terminate()?;
    firnd.launch()?;
    let after = firnd.json(&["status"])?["maintenance"]["gc"].clone();
    assert_eq!(after["runs"], 0, "sums begin with the server");
    for field in
        ["last_started_at", "last_ended_at", "last_removed_paths", "last_deleted", "reclaimable_bytes", "stuck"]
    {
        assert_eq!(after[field], during[field], "{field}");
    }
    firnd.terminate()?;
    let offline = gc(&firnd)?;
    assert_eq!(firnd.json(&["status"])?["last_collected_at"], offline["ended_at"]);
    firnd.launch()?;
    let after = firnd.json(&["status"])?["maintenance"]["gc"].clone();
    assert_eq!(after["last_started_at"], offline["started_at"], "the command's own collection counts as well");
    Ok(())
}

/// What an operator is told who asks for what can't be: which thing, why, and an exit code that is not that of a broken store.
#[test]
fn refused_pins_and_deletions_say_why() -> Result<()> {
    let firnd = Firnd::start_with(CONFIG)?;
    let main = firnd.cache("main", &["--public"])?;
    let needed = Package::new(1, 1000);
    needed.upload(&firnd, &main)?;
    let mut needs = Package::of(2, Node::file(format!("/nix/store/{}", needed.base_name)).encode());
    needs.references.push(needed.base_name.clone());
    needs.upload(&firnd, &main)?;
    firnd.admin(["pin", "add", "by-hash", &needs.hash()])?;
    assert_eq!(firnd.json(&["pin", "list"])?[0]["path"], needs.base_name);
    let unknown = "0".repeat(32);
    for (arguments, code, words) in [
        (&["path", "delete", &needed.hash()][..], 2, "1 paths refer to it"),
        (&["path", "delete", &needs.hash()], 2, "the pin 'by-hash' keeps it"),
        (&["path", "delete", "nonsense"], 2, "failed to find 'nonsense': that is no store path of this cache"),
        (&["explain", "/nix/store/nonsense"], 2, "failed to find '/nix/store/nonsense'"),
        (&["pin", "add", "other", "nonsense"], 2, "failed to find 'nonsense'"),
        (&["pin", "add", "other", &unknown], 5, "the cache does not have it"),
        (&["pin", "remove", "other"], 5, "failed to find the pin 'other'"),
        (&["cache", "set", "main", "--host", "a b"], 2, "failed to take the host name 'a b'"),
    ] {
        let ran = firnd.run(arguments)?;
        assert_eq!(ran.status.code(), Some(code), "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{arguments:?}: {}", ran.stderr);
    }
    firnd.admin(["pin", "add", "by-hash", &needs.hash(), "--expires", "1 s"])?;
    // A command takes some ms, and the pin a second.
    let is_over = || firnd.admin(["pin", "list"]).is_ok_and(|listed| listed.contains("(over)"));
    assert!((0..5000).any(|_| is_over()), "{}", firnd.admin(["pin", "list"])?);
    Ok(())
}

#[test]
fn an_import_repairs_what_a_scrub_found_damaged() -> Result<()> {
    let firnd = Firnd::start_with(CONFIG)?;
    let main = firnd.cache("main", &["--public"])?;
    let package = Package::new(1, 300_000);
    package.upload(&firnd, &main)?;
    let files = tempfile::tempdir().expect("a folder");
    let files = files.path().to_str().expect("UTF-8");
    firnd.admin(["export", files, "--cache", "main"])?;
    damage(&firnd.data().join("store/packs"));
    assert_eq!(firnd.run(["scrub"])?.status.code(), Some(8));
    assert!(!package.is_visible(&firnd, &main)?);
    assert!(firnd.admin(["explain", &package.hash()])?.contains("can't be restored"));
    let done = firnd.json(&["import", files, "--cache", "main"])?;
    assert_eq!((&done["repaired"], &done["present"], &done["paths"]), (&1.into(), &0.into(), &0.into()), "{done}");
    let answer = firnd.send(&Request::get(&package.nar_target("main")))?;
    assert!(answer.status == 200 && answer.body == package.nar);
    let done = firnd.json(&["import", files, "--cache", "main"])?;
    assert_eq!((&done["repaired"], &done["present"]), (&0.into(), &1.into()), "{done}");
    Ok(())
}

/// Changes a byte in the midst of the largest file below a folder.
fn damage(folder: &Path) {
    let files = fs::read_dir(folder).expect("a folder").flatten();
    let files = files.flat_map(|inner| fs::read_dir(inner.path()).expect("a folder").flatten());
    let largest = files.max_by_key(|file| file.metadata().map_or(0, |metadata| metadata.len())).expect("a pack");
    let mut bytes = fs::read(largest.path()).expect("it can be read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(largest.path(), bytes).expect("it can be written");
}

#[test]
fn files_that_nix_copies_meanwhile_are_a_cache_of_their_own() -> Result<()> {
    let Some(nix) = Nix::require(Version::ALL[0]) else { return Ok(()) };
    let mut firnd = Firnd::start_with(CONFIG)?;
    let main = firnd.cache("main", &["--public"])?;
    let other = firnd.cache("other", &["--public"])?;
    let ours = builder(&nix, &main)?;
    let path = ours.build_one(&closure(2))?;
    ours.copy_to(&main.url, &[&path])?.done()?;
    for seed in 0..8 {
        Package::new(seed, 300_000).upload(&firnd, &other)?;
    }
    let (folder, beside) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let files = folder.path().to_str().expect("UTF-8");

    let stop = AtomicBool::new(false);
    let machine = client(&nix, &main)?;
    let url = format!("file://{files}?compression=zstd");
    let (uploaded, copied) = thread::scope(|scope| {
        let uploading = scope.spawn(|| upload(firnd.address(), &main, &stop));
        let copying = || -> Result<serde_json::Value> {
            firnd.admin(["cache", "delete", "other", "--yes"])?;
            gc(&firnd)?;
            thread::scope(|scope| {
                let collecting = scope.spawn(|| gc(&firnd));
                let copied = machine.run("nix", ["copy", "--from", &main.url, "--to", &url, &path]);
                // And what the server writes itself.
                let exported = firnd.json(&["export", &beside.path().display().to_string(), "--cache", "main", &path]);
                collecting.join().expect("the thread does not panic")?;
                copied?.done()?;
                exported
            })
        };
        let copied = copying();
        stop.store(true, Ordering::SeqCst);
        (uploading.join().expect("the thread does not panic"), copied)
    });
    let exported = copied?;
    let closure = ours.closure(&path)?.len() as u64;
    assert_eq!((exported["paths"].as_u64(), exported["damaged"].as_u64()), (Some(closure), Some(0)), "{exported}");
    assert!(uploaded.len() >= 4, "{uploaded:?}");
    assert!(firnd.terminate()?.success());
    let theirs = client(&nix, &main)?;
    theirs.copy_from(&format!("file://{files}"), &[&path])?.done()?;
    assert_same(&ours, &theirs, &path)?;
    let again = client(&nix, &main)?;
    again.copy_from(&format!("file://{}", beside.path().display()), &[&path])?.done()?;
    assert_same(&ours, &again, &path)?;
    // The command adds what came meanwhile, and leaves alone what is there.
    let done = firnd.json(&["export", files, "--cache", "main"])?;
    assert_eq!(done["present"].as_u64(), Some(closure), "{done}");
    assert_eq!((done["paths"].as_u64(), done["damaged"].as_u64()), (Some(uploaded.len() as u64), Some(0)), "{done}");
    Ok(())
}

#[test]
fn a_token_that_is_revoked_in_mid_upload_makes_nothing_visible() -> Result<()> {
    let firnd = Firnd::start_with(CONFIG)?;
    let cache = firnd.cache("main", &["--public"])?;
    let package = Package::new(5, 2_000_000);
    let tokens = firnd.json(&["token", "list"])?;
    let id = tokens[0]["id"].as_str().expect("an id").to_owned();
    let mut upload = TcpStream::connect(firnd.address()).expect("connects");
    upload.set_read_timeout(Some(Duration::from_secs(120))).expect("a socket");
    let (target, length) = (package.nar_target("main"), package.nar.len());
    let token = &cache.token;
    write!(
        upload,
        "PUT {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n"
    )
    .expect("sends");
    let (half, rest) = package.nar.split_at(length / 2);
    upload.write_all(half).expect("sends");
    firnd.admin(["token", "revoke", &id])?;
    // The body may be refused at any moment from now on.
    let _ = upload.write_all(rest);
    let mut answer = Vec::new();
    let _ = upload.read_to_end(&mut answer);
    let refused = package.put_narinfo(&firnd, &cache)?;
    assert_eq!(refused.status, 401, "{}", refused.text());
    assert!(!package.is_visible(&firnd, &cache)?);
    gc(&firnd)?;
    Ok(())
}
