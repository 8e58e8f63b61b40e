//! Pull-through: what a cache lacks and an upstream has, as stock Nix gets it, and what upstreams' troubles do to nobody.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use firn_testkit::Result;
use firn_testkit::file_server::{FileServer, Trouble};
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::{Answer, Request, read_answer};
use firn_testkit::nix::{Nix, Store, Version};
use firn_tests::{Package, assert_same, builder, client, closure};
use tempfile::TempDir;

/// How long to wait for what is about to happen.
const PATIENCE: Duration = Duration::from_secs(60);

/// A plain binary cache on a web server, filled by stock Nix.
struct Upstream {
    folder: TempDir,
    server: FileServer,
    public_key: String,
    store: Store,
    path: String,
}

impl Upstream {
    fn new(nix: &Nix, seed: u64, compression: &str) -> Result<Self> {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let store = nix.store()?;
        let (secret, public_key) = nix.generate_key("upstream-1")?;
        let secret = store.write("secret", &secret)?;
        let path = store.build_one(&closure(seed))?;
        let url =
            format!("file://{}?compression={compression}&secret-key={}", folder.path().display(), secret.display());
        store.copy_to(&url, &[&path])?.done()?;
        let server = FileServer::start(folder.path())?;
        Ok(Self { folder, server, public_key, store, path })
    }

    fn hash(&self) -> &str {
        hash(&self.path)
    }
}

fn hash(path: &str) -> &str {
    path.trim_start_matches("/nix/store/").split('-').next().expect("a split has a first part")
}

/// Returns a server with a public cache that has an upstream.
fn proxy(url: &str, key: &str, more: &[&str]) -> Result<(Firnd, Cache)> {
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let add = ["upstream", "add", url, "--key", key];
    firnd.admin(add.iter().chain(more))?;
    Ok((firnd, cache))
}

fn narinfo(firnd: &Firnd, hash: &str) -> Result<Answer> {
    firnd.send(&Request::get(&format!("/main/{hash}.narinfo")))
}

/// Returns the target of the NAR that a narinfo names.
fn nar_target(narinfo: &Answer) -> String {
    let text = narinfo.text();
    let url = text.lines().find_map(|line| line.strip_prefix("URL: "));
    format!("/main/{}", url.unwrap_or_else(|| panic!("no URL in {text}")))
}

/// Waits until a cache has so many paths: what is fetched is stored a little after its last byte was sent.
fn wait_for_paths(firnd: &Firnd, paths: u64) -> Result<()> {
    let start = Instant::now();
    while firnd.status("paths")? != paths {
        assert!(start.elapsed() < PATIENCE, "{} paths, expected {paths}", firnd.status("paths")?);
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn nix_gets_what_only_upstream_has_and_it_is_stored() -> Result<()> {
    for (nix, compression) in Nix::require_all().iter().zip(["xz", "zstd", "none"]) {
        let upstream = Upstream::new(nix, 1, compression)?;
        let (mut firnd, cache) = proxy(&upstream.server.url(), &upstream.public_key, &[])?;
        // It trusts the cache's key alone, and knows nothing of an upstream.
        let first = client(nix, &cache)?;
        first.realise(&[&upstream.path])?.done()?;
        assert_same(&upstream.store, &first, &upstream.path)?;
        wait_for_paths(&firnd, 3)?;
        let explained = firnd.admin(["explain", &upstream.path])?;
        assert!(explained.contains(&format!("upstream {}", upstream.server.url())), "{explained}");
        // One question and one download for each path.
        assert_eq!((upstream.server.requests(".narinfo"), upstream.server.requests("nar/")), (3, 3));
        let stored = narinfo(&firnd, upstream.hash())?;
        assert!(stored.text().contains("Sig: upstream-1:") && !stored.text().contains("?path="), "{}", stored.text());

        // From now on it needs nobody.
        drop(upstream.server);
        firnd.terminate()?;
        firnd.launch()?;
        let second = client(nix, &cache)?;
        second.realise(&[&upstream.path])?.done()?;
        assert_same(&upstream.store, &second, &upstream.path)?;
    }
    Ok(())
}

#[test]
fn another_firnd_is_an_upstream_and_a_private_one_with_a_token() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let far = Firnd::start()?;
    let private = far.cache("main", &[])?;
    let maker = builder(&nix, &private)?;
    let path = maker.build_one(&closure(2))?;
    maker.copy_to(&format!("{}?compression=zstd", private.url), &[&path])?.done()?;
    let token = maker.write("token", &private.token)?;
    let token = token.to_str().expect("a temporary directory's name is UTF-8");
    let (near, cache) = proxy(&private.url, &private.public_key, &["--token-file", token])?;
    let client = client(&nix, &cache)?;
    client.realise(&[&path])?.done()?;
    assert_same(&maker, &client, &path)?;
    wait_for_paths(&near, 3)
}

#[test]
fn nix_does_not_upload_what_upstream_has() -> Result<()> {
    for nix in Nix::require_all() {
        let upstream = Upstream::new(&nix, 3, "xz")?;
        let (firnd, cache) = proxy(&upstream.server.url(), &upstream.public_key, &[])?;
        let builder = &upstream.store;
        builder.set_token("127.0.0.1", &cache.token)?;
        let own = builder.build_one(&format!(
            r#"build {{ name = "own"; dependency = ({}); script = "echo $dependency > $out"; }}"#,
            closure(3)
        ))?;
        builder.copy_to(&cache.url, &[&own])?.done()?;
        assert_eq!(firnd.status("paths")?, 1, "Nix {}", nix.version());
        assert_eq!(upstream.server.requests("nar/"), 0);
        let client = client(&nix, &cache)?;
        client.realise(&[&own])?.done()?;
        assert_same(builder, &client, &own)?;
        wait_for_paths(&firnd, 4)?;
    }
    Ok(())
}

#[test]
fn what_nobody_trusted_has_signed_is_not_there() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let upstream = Upstream::new(&nix, 4, "xz")?;
    let (_, other_key) = nix.generate_key("upstream-1")?;
    let (firnd, cache) = proxy(&upstream.server.url(), &other_key, &[])?;
    let client = client(&nix, &cache)?;
    assert!(!client.realise(&[&upstream.path])?.succeeded());
    assert_eq!(narinfo(&firnd, upstream.hash())?.status, 404);
    assert_eq!((upstream.server.requests("nar/"), firnd.status("paths")?), (0, 0));
    // The same cache with the right key.
    firnd.admin(["upstream", "add", &upstream.server.url(), "--key", &upstream.public_key])?;
    client.forget_caches()?;
    client.realise(&[&upstream.path])?.done()
}

#[test]
fn a_nar_that_is_not_what_was_signed_is_broken_off_and_never_stored() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let nar = |size: usize| Package::new(7, size).nar;
    // Another NAR, bytes that are none, and one that is cut short and looks whole.
    let right = Upstream::new(&nix, 5, "none")?;
    let info = fs::read_to_string(right.folder.path().join(format!("{}.narinfo", right.hash()))).expect("a narinfo");
    let file = info.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL");
    let file = right.folder.path().join(file);
    let original = fs::read(&file).expect("a NAR");
    let mut flipped = original.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for wrong in [nar(100_000), b"<html>no NAR</html>".to_vec(), original[..original.len() - 8].to_vec(), flipped] {
        let (firnd, cache) = proxy(&right.server.url(), &right.public_key, &[])?;
        fs::write(&file, &wrong).expect("written");
        let said = narinfo(&firnd, right.hash())?;
        assert_eq!(said.status, 200, "{}", said.text());
        let got = firnd.send(&Request::get(&nar_target(&said)))?;
        assert!(got.status == 404 || !got.whole, "{} {}", got.status, got.body.len());
        let client = client(&nix, &cache)?;
        assert!(!client.realise(&[&right.path])?.succeeded());
        // Its references may well be there.
        assert_eq!(narinfo(&firnd, right.hash())?.status, 404, "it is not offered again");
        let explained = firnd.run(["explain", &right.path])?;
        assert!(!explained.succeeded(), "{}", explained.text());
    }
    fs::write(&file, &original).expect("written");
    let (_firnd, cache) = proxy(&right.server.url(), &right.public_key, &[])?;
    client(&nix, &cache)?.realise(&[&right.path])?.done()
}

#[test]
fn an_upstream_in_trouble_keeps_nobody_from_what_the_cache_holds() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let upstream = Upstream::new(&nix, 6, "zstd")?;
    let short = ["--first-byte-timeout", "300 ms", "--idle-timeout", "300 ms"];
    let (firnd, cache) = proxy(&upstream.server.url(), &upstream.public_key, &short)?;
    let held = Package::new(9, 400_000);
    held.upload(&firnd, &cache)?;
    let absent = "0".repeat(32);
    let troubles = [Trouble::Status(500), Trouble::Silent, Trouble::Cut(0), Trouble::Status(429), Trouble::Cut(40)];
    for trouble in troubles {
        upstream.server.set_trouble("", trouble.clone());
        assert_eq!(narinfo(&firnd, upstream.hash())?.status, 404, "{trouble:?}");
        assert_eq!(narinfo(&firnd, &absent)?.status, 404, "{trouble:?}");
        for _ in 0..3 {
            let info = narinfo(&firnd, &held.hash())?;
            assert_eq!(info.status, 200, "{trouble:?}");
            let got = firnd.send(&Request::get(&held.nar_target("main")))?;
            assert!(got.status == 200 && got.whole && got.body == held.nar, "{trouble:?}");
        }
        // Changing the upstream forgets its troubles.
        let add = ["upstream", "add", &upstream.server.url(), "--key", &upstream.public_key, "--priority", "41"];
        firnd.admin(add.iter().chain(&short))?;
        let add = ["upstream", "add", &upstream.server.url(), "--key", &upstream.public_key];
        firnd.admin(add.iter().chain(&short))?;
    }
    // In the middle of a NAR: what came is broken off, and the next try gets it.
    upstream.server.set_trouble("", Trouble::None);
    let said = narinfo(&firnd, upstream.hash())?;
    for trouble in [Trouble::Cut(20), Trouble::Hold(20), Trouble::Status(503)] {
        upstream.server.set_trouble("nar/", trouble.clone());
        let got = firnd.send(&Request::get(&nar_target(&said)))?;
        assert!(got.status == 404 || !got.whole, "{trouble:?}: {}", got.status);
        upstream.server.set_trouble("", Trouble::None);
    }
    firnd.admin(["upstream", "add", &upstream.server.url(), "--key", &upstream.public_key])?;
    client(&nix, &cache)?.realise(&[&upstream.path])?.done()?;
    // Gone altogether: what was fetched and what was pushed stay.
    wait_for_paths(&firnd, 4)?;
    drop(upstream.server);
    assert_eq!(narinfo(&firnd, &absent)?.status, 404);
    assert_eq!(narinfo(&firnd, &held.hash())?.status, 200);
    let listed = firnd.json(&["upstream", "list"])?;
    assert!(listed[0]["activity"]["failures"].as_u64() > Some(0), "{listed}");
    client(&nix, &cache)?.realise(&[&upstream.path])?.done()
}

/// Reads the head of an answer and a first byte of its body.
fn begin(firnd: &Firnd, target: &str) -> Result<TcpStream> {
    let stream = Request::get(target).start(firnd.address())?;
    let mut first = [0];
    stream.peek(&mut first).expect("an answer begins");
    Ok(stream)
}

#[test]
fn fifty_clients_cause_one_download() -> Result<()> {
    const CLIENTS: usize = 50;
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let megabytes: u64 = std::env::var("FIRN_PULL_MEGABYTES").map_or(8, |text| text.parse().expect("a number"));
    let store = nix.store()?;
    let (secret, key) = nix.generate_key("upstream-1")?;
    let secret = store.write("secret", &secret)?;
    let path = store.build_one(&format!(
        r#"build {{ name = "large"; script = "head -c {} /dev/urandom > $out"; }}"#,
        megabytes << 20
    ))?;
    let folder = tempfile::tempdir().expect("a temporary directory");
    let url = format!("file://{}?compression=none&secret-key={}", folder.path().display(), secret.display());
    store.copy_to(&url, &[&path])?.done()?;
    let nar = store.dump(&path)?;
    let server = FileServer::start(folder.path())?;
    let (firnd, cache) = proxy(&server.url(), &key, &["--idle-timeout", "120 s"])?;
    firnd.admin(["cache", "set", "main", "--transport", "none"])?;

    server.set_trouble("nar/", Trouble::Hold(1 << 20));
    let said = thread::scope(|scope| {
        let asking: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| narinfo(&firnd, hash(&path)))).collect();
        asking.into_iter().map(|asked| asked.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    assert!(said.iter().all(|answer| answer.status == 200 && answer.text() == said[0].text()));
    assert_eq!(server.requests(".narinfo"), 1);
    let target = nar_target(&said[0]);
    thread::scope(|scope| -> Result<()> {
        // One reads nothing more until all others are done; one leaves.
        let slow = begin(&firnd, &target)?;
        drop(begin(&firnd, &target)?);
        let (begun, all_begun) = mpsc::channel();
        let clients: Vec<_> = (0..CLIENTS - 2)
            .map(|_| {
                let (begun, firnd, target) = (begun.clone(), &firnd, &target);
                scope.spawn(move || {
                    let stream = begin(firnd, target)?;
                    begun.send(()).expect("somebody listens");
                    read_answer(&stream, false)
                })
            })
            .collect();
        for _ in 0..clients.len() {
            all_begun.recv_timeout(PATIENCE).expect("all begin before the rest comes");
        }
        server.set_trouble("", Trouble::None);
        for client in clients {
            let got = client.join().expect("no panic")?;
            assert!(got.status == 200 && got.whole && got.body == nar, "{} {}", got.status, got.body.len());
        }
        wait_for_paths(&firnd, 1)?;
        let got = read_answer(&slow, false)?;
        assert!(got.whole && got.body == nar);
        Ok(())
    })?;
    assert_eq!(server.requests("nar/"), 1);
    client(&nix, &cache)?.realise(&[&path])?.done()?;
    assert_eq!(server.requests("nar/"), 1);
    // What was read on its way has no name on the disk.
    let spooled = fs::read_dir(firnd.data().join("spool")).expect("the folder of spools").count();
    assert_eq!(spooled, 0);
    Ok(())
}

#[test]
fn who_may_not_read_the_cache_makes_it_ask_nobody_and_refer_asks_nobody_either() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_8) else { return Ok(()) };
    let upstream = Upstream::new(&nix, 8, "xz")?;
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &[])?;
    let add = ["upstream", "add", &upstream.server.url(), "--key", &upstream.public_key];
    firnd.admin(add)?;
    assert_eq!(narinfo(&firnd, upstream.hash())?.status, 403);
    assert_eq!(upstream.server.requests(""), 0);
    let reader = client(&nix, &cache)?;
    reader.set_token("127.0.0.1", &cache.token)?;
    reader.realise(&[&upstream.path])?.done()?;
    wait_for_paths(&firnd, 3)?;

    let before = upstream.server.requests("");
    let other = firnd.cache("other", &["--public"])?;
    firnd.admin(add.iter().chain(&["--cache", "other", "--mode", "refer"]))?;
    assert_eq!(firnd.send(&Request::get(&format!("/other/{}.narinfo", upstream.hash())))?.status, 404);
    assert_eq!(upstream.server.requests(""), before);
    // Its keys count for references and for what need not be pushed.
    let told = firnd.send(&Request::get("/api/v1/caches/other").token(&other.token))?;
    assert!(told.text().contains(&upstream.public_key), "{}", told.text());
    firnd.admin(["upstream", "remove", &upstream.server.url(), "--cache", "other"])?;
    let told = firnd.send(&Request::get("/api/v1/caches/other").token(&other.token))?;
    assert!(!told.text().contains(&upstream.public_key), "{}", told.text());
    Ok(())
}

#[test]
fn a_nar_can_be_had_after_a_restart_and_from_any_byte() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let upstream = Upstream::new(&nix, 10, "bzip2")?;
    let (mut firnd, _cache) = proxy(&upstream.server.url(), &upstream.public_key, &[])?;
    let said = narinfo(&firnd, upstream.hash())?;
    firnd.terminate()?;
    firnd.launch()?;
    let target = nar_target(&said);
    assert_eq!(firnd.send(&Request::new("HEAD", &target))?.status, 200);
    assert_eq!(upstream.server.requests("nar/"), 0);
    let part = firnd.send(&Request::get(&target).header("Range", "bytes=100-"))?;
    assert_eq!(part.status, 206, "{}", part.text());
    let whole = firnd.send(&Request::get(&target))?;
    assert!(whole.status == 200 && whole.whole);
    let length = whole.body.len();
    assert_eq!(part.header("content-range"), Some(format!("bytes 100-{}/{length}", length - 1).as_str()));
    assert_eq!(part.body, whole.body[100..]);
    wait_for_paths(&firnd, 1)?;
    // The store gives the same bytes.
    let stored = firnd.send(&Request::get(&target))?;
    assert_eq!(stored.body, whole.body);
    let plain = target.replace(".nar.zst", ".nar");
    let plain = firnd.send(&Request::get(&plain))?;
    assert_eq!(zstd_decode(&whole.body), plain.body);
    assert_eq!(plain.body, upstream.store.dump(&upstream.path)?);
    assert_eq!(upstream.server.requests("nar/"), 1);
    assert!(Path::new(&firnd.data()).join("spool").is_dir());
    Ok(())
}

fn zstd_decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    zstd::stream::read::Decoder::new(bytes).expect("a decoder").read_to_end(&mut decoded).expect("zstd");
    decoded
}
