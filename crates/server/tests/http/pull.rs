//! What upstreams are asked, how often, and for whom: by a clock that moves when it is told to.

use std::fs;

use firn_index::{Meta as _, UpstreamMode, UpstreamRow, UpstreamsRow, Verb};
use firn_nix::{NarInfo, SecretKey};
use firn_server::http::codec::Codec;
use firn_testkit::file_server::{FileServer, Trouble};
use firn_testkit::http::Request;
use tempfile::TempDir;

use crate::support::{Package, Settings, World, decode, encode};

/// A plain cache, and a server with it as the upstream of its public cache.
struct Pulled {
    world: World,
    folder: TempDir,
    server: FileServer,
    key: SecretKey,
}

impl Pulled {
    fn new(settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("nar")).unwrap();
        let server = FileServer::start(folder.path()).unwrap();
        let pulled =
            Self { world: World::with(settings), folder, server, key: SecretKey::generate("far-1", [3; 32]).unwrap() };
        pulled.add(&[(&pulled.server, 40)]);
        pulled
    }

    /// Makes these the upstreams of the public cache.
    fn add(&self, servers: &[(&FileServer, u32)]) {
        let upstream = |&(server, priority): &(&FileServer, u32)| UpstreamRow {
            url: server.url(),
            mode: UpstreamMode::Proxy,
            keys: vec![self.key.public().to_string()],
            priority,
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 30_000,
            idle_timeout_ms: 30_000,
            token_file: None,
            added_at: 1,
        };
        let upstreams = servers.iter().map(upstream).collect();
        assert!(self.world.meta.put_upstreams(&"pub".parse().unwrap(), &UpstreamsRow { upstreams }).unwrap());
        self.world.app.caches.refresh(self.world.meta.as_ref()).unwrap();
    }

    /// Puts a package on the plain cache.
    fn provide(&self, package: &Package, codec: Codec) {
        let file = encode(codec, &package.nar);
        fs::write(self.folder.path().join(format!("nar/{}.nar", package.hash())), file).unwrap();
        let text = package.narinfo(&format!("{}.nar", package.hash()), codec.name());
        let mut info = NarInfo::parse(text.as_bytes(), "/nix/store").unwrap();
        info.sign(&self.key, "/nix/store");
        let place = self.folder.path().join(format!("{}.narinfo", package.hash()));
        fs::write(place, info.to_text("/nix/store")).unwrap();
    }

    fn narinfo(&self, package: &Package) -> u16 {
        self.world.send(Request::get(&format!("/pub/{}.narinfo", package.hash()))).status
    }

    fn nar_target(&self, package: &Package) -> String {
        format!("/pub/nar/{}.nar?path={}", package.nar_hash().to_nix32(), package.hash())
    }
}

#[test]
fn what_is_absent_is_asked_for_once_in_a_while() {
    let pulled = Pulled::new(Settings::default());
    let package = Package::new(1, 1000);
    for _ in 0..3 {
        assert_eq!(pulled.narinfo(&package), 404);
    }
    assert_eq!(pulled.server.requests(".narinfo"), 1);
    pulled.world.pass(599);
    pulled.provide(&package, Codec::Xz);
    assert_eq!((pulled.narinfo(&package), pulled.server.requests(".narinfo")), (404, 1));
    pulled.world.pass(1);
    for _ in 0..3 {
        assert_eq!(pulled.narinfo(&package), 200);
    }
    assert_eq!(pulled.server.requests(".narinfo"), 2);
    // Removed upstream meanwhile: believed for an hour, but for the NAR.
    fs::remove_file(pulled.folder.path().join(format!("nar/{}.nar", package.hash()))).unwrap();
    assert_eq!(pulled.world.send(Request::get(&pulled.nar_target(&package))).status, 404);
    assert_eq!(pulled.narinfo(&package), 404);
}

#[test]
fn every_compression_comes_through() {
    let pulled = Pulled::new(Settings::default());
    for (seed, codec) in (10..).zip(Codec::ALL) {
        let package = Package::new(seed, 300_000 + seed as usize);
        pulled.provide(&package, codec);
        assert_eq!(pulled.narinfo(&package), 200);
        let plain = pulled.world.send(Request::get(&pulled.nar_target(&package)));
        assert!(plain.whole && plain.body == package.nar, "{codec:?} {}", plain.status);
        let zstd = pulled.nar_target(&package).replace(".nar?", ".nar.zst?");
        let zstd = pulled.world.send(Request::get(&zstd));
        assert!(zstd.whole && decode(Codec::Zstd, &zstd.body) == package.nar, "{codec:?} {}", zstd.status);
    }
}

#[test]
fn an_upstream_that_fails_is_left_alone_and_tried_again() {
    let pulled = Pulled::new(Settings::default());
    pulled.server.set_trouble("", Trouble::Status(500));
    for seed in 1..9 {
        assert_eq!(pulled.narinfo(&Package::new(seed, 10)), 404);
    }
    assert_eq!(pulled.server.requests(""), 3);
    let package = Package::new(20, 10);
    pulled.provide(&package, Codec::Zstd);
    pulled.server.set_trouble("", Trouble::None);
    assert_eq!(pulled.narinfo(&package), 404);
    // Those that were not asked for are not taken for absent for long.
    pulled.world.pass(10);
    assert_eq!((pulled.narinfo(&package), pulled.server.requests("")), (200, 4));
}

#[test]
fn upstreams_are_asked_by_their_priorities() {
    let pulled = Pulled::new(Settings::default());
    let (empty, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, last) = (FileServer::start(empty.path()).unwrap(), FileServer::start(other.path()).unwrap());
    pulled.add(&[(&last, 50), (&first, 10), (&pulled.server, 40)]);
    let package = Package::new(30, 10);
    pulled.provide(&package, Codec::Identity);
    assert_eq!(pulled.narinfo(&package), 200);
    assert_eq!([&first, &pulled.server, &last].map(|server| server.requests("")), [1, 1, 0]);
    // One in trouble does not hide the others.
    first.set_trouble("", Trouble::Status(503));
    let package = Package::new(31, 10);
    pulled.provide(&package, Codec::Identity);
    assert_eq!(pulled.narinfo(&package), 200);
}

#[test]
fn those_without_a_token_have_so_much_a_day() {
    let pulled = Pulled::new(Settings { anonymous_daily: 250_000, ..Settings::default() });
    let packages = [40, 41, 42].map(|seed| Package::new(seed, 100_000));
    for package in &packages {
        pulled.provide(package, Codec::Identity);
    }
    let get = |package: &Package| pulled.world.send(Request::get(&pulled.nar_target(package))).status;
    assert_eq!((get(&packages[0]), get(&packages[1]), get(&packages[2])), (200, 200, 404));
    // It is held, so it costs nothing.
    assert_eq!(get(&packages[0]), 200);
    let with_token = pulled.world.get(&pulled.nar_target(&packages[2]));
    assert!(with_token.status == 200 && with_token.body == packages[2].nar);
}

#[test]
fn a_nar_is_not_given_for_another_path() {
    let pulled = Pulled::new(Settings::default());
    let (one, other) = (Package::new(50, 1000), Package::new(51, 1000));
    pulled.provide(&one, Codec::Identity);
    pulled.provide(&other, Codec::Identity);
    let target = format!("/pub/nar/{}.nar?path={}", one.nar_hash().to_nix32(), other.hash());
    assert_eq!(pulled.world.send(Request::get(&target)).status, 404);
    let target = format!("/priv/nar/{}.nar?path={}", one.nar_hash().to_nix32(), one.hash());
    assert_eq!(pulled.world.get(&target).status, 404, "a cache without upstreams");
    assert_eq!(pulled.server.requests("nar/"), 0);
}

#[test]
fn metrics_tell_how_each_upstream_does() {
    let pulled = Pulled::new(Settings::default());
    let watcher = pulled.world.make_token(60, "*", &[Verb::Usage], |_| {});
    let metric = |name: &str| -> u64 {
        let text = pulled.world.send(Request::get("/metrics").token(&watcher)).text();
        let label = format!("firn_upstream_{name}{{cache=\"pub\",upstream=\"{}\"}} ", pulled.server.url());
        let value = text.lines().find_map(|line| line.strip_prefix(&label));
        value.unwrap_or_else(|| panic!("no {label} in {text}")).parse().unwrap()
    };
    let package = Package::new(1, 50_000);
    pulled.provide(&package, Codec::Identity);
    assert_eq!((pulled.narinfo(&package), pulled.narinfo(&Package::new(2, 10))), (200, 404));
    assert_eq!(pulled.world.send(Request::get(&pulled.nar_target(&package))).status, 200);
    let stranger = Package::new(3, 10);
    let text = stranger.narinfo("x.nar", "none");
    fs::write(pulled.folder.path().join(format!("{}.narinfo", stranger.hash())), text).unwrap();
    assert_eq!(pulled.narinfo(&stranger), 404);
    let told = |names: [&str; 6]| names.map(metric);
    let names = ["requests_total", "hits_total", "misses_total", "untrusted_total", "failures_total", "resting"];
    assert_eq!(told(names), [4, 1, 1, 1, 0, 0]);
    // Counted when it is stored, which the client does not wait for.
    while metric("received_bytes_total") < package.nar.len() as u64 {
        std::thread::yield_now();
    }
    pulled.server.set_trouble("", Trouble::Status(500));
    (10..13).for_each(|seed| assert_eq!(pulled.narinfo(&Package::new(seed, 10)), 404));
    assert_eq!(told(names), [7, 1, 1, 1, 3, 1]);
}

#[test]
fn the_first_frame_is_passed_on_while_the_next_is_coming() {
    let pulled = Pulled::new(Settings::default());
    let package = Package::new(1, 1_000_000);
    pulled.provide(&package, Codec::Identity);
    pulled.server.set_trouble("nar/", Trouble::Hold(100_000));
    let target = pulled.nar_target(&package).replace(".nar?", ".nar.zst?");
    let first = pulled.world.first_piece(&target, None);
    assert!(zstd::bulk::decompress(&first, 2 << 20).unwrap() == package.nar[..64 << 10]);
    let plain = pulled.world.first_piece(&pulled.nar_target(&package), None);
    assert!(plain == package.nar[..64 << 10]);
    pulled.server.set_trouble("", Trouble::None);
    let whole = pulled.world.send(Request::get(&target));
    assert!(whole.whole && whole.body.starts_with(&first) && decode(Codec::Zstd, &whole.body) == package.nar);
    // What was passed on and what is stored are the same bytes.
    while pulled.world.meta.path(&"pub".parse().unwrap(), &package.path.hash()).unwrap().is_none() {
        std::thread::yield_now();
    }
    assert!(pulled.world.send(Request::get(&target)).body == whole.body);
}

#[test]
fn a_short_nar_is_checked_before_its_first_byte() {
    let pulled = Pulled::new(Settings::default());
    let package = Package::new(1, 200_000);
    let zstd = pulled.nar_target(&package).replace(".nar?", ".nar.zst?");
    let mut wrong = package.nar.clone();
    wrong[150_000] ^= 1;
    for target in [&pulled.nar_target(&package), &zstd] {
        pulled.provide(&package, Codec::Identity);
        fs::write(pulled.folder.path().join(format!("nar/{}.nar", package.hash())), &wrong).unwrap();
        let answer = pulled.world.send(Request::get(target));
        assert_eq!((answer.status, answer.whole), (404, true), "{target}");
        // What was wrong is asked for again later.
        pulled.world.pass(600);
    }
    pulled.provide(&package, Codec::Identity);
    let answer = pulled.world.send(Request::get(&zstd));
    assert!(answer.whole && decode(Codec::Zstd, &answer.body) == package.nar, "{}", answer.status);
    assert_eq!(answer.header("content-length"), Some(answer.body.len().to_string().as_str()));
}

#[test]
fn a_download_that_breaks_off_is_broken_off_for_the_client_and_begun_anew() {
    let pulled = Pulled::new(Settings::default());
    let package = Package::new(1, 3_000_000);
    pulled.provide(&package, Codec::Identity);
    pulled.server.set_trouble("nar/", Trouble::Cut(1_000_000));
    let cut = pulled.world.send(Request::get(&pulled.nar_target(&package)));
    assert!(!cut.whole && cut.body.len() < package.nar.len(), "{} of {}", cut.body.len(), package.nar.len());
    assert!(package.nar.starts_with(&cut.body), "what came was right");
    assert_eq!(pulled.world.meta.path(&"pub".parse().unwrap(), &package.path.hash()).unwrap(), None);
    pulled.server.set_trouble("", Trouble::None);
    // The client goes on where it was cut off.
    let rest = Request::get(&pulled.nar_target(&package)).header("Range", &format!("bytes={}-", cut.body.len()));
    let rest = pulled.world.send(rest);
    assert_eq!((rest.status, rest.whole), (206, true));
    assert!([cut.body, rest.body].concat() == package.nar);
    assert_eq!(pulled.server.requests("nar/"), 2);
}
