//! Clients that break off, stand still or read slowly; bytes that go wrong on the disk.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use firn_index::Verb;
use firn_server::http::codec::Codec;
use firn_storage::Storage as _;
use firn_testkit::http::{Request, read_answer};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::support::{Package, Settings, World, code, encode, file_name};

#[test]
fn forgets_an_upload_that_breaks_off() {
    let settings = Settings { max_uploads: 2, ..Settings::default() };
    let world = World::with(Settings { max_uploads: 2, ..Settings::default() });
    let package = Package::new(1, 2_000_000);
    for codec in [Codec::Identity, Codec::Zstd, Codec::Xz] {
        let file = encode(codec, &package.nar);
        let target = format!("/pub/nar/{}", file_name(&file, codec));
        for sent in [0, 1, 1000, file.len() / 2, file.len() - 1] {
            let request = Request::put(&target, "").token(&world.token).claim_length(file.len() as u64);
            let mut stream = request.start(world.address).unwrap();
            stream.write_all(&file[..sent]).unwrap();
            drop(stream);
        }
        world.wait_until_idle(&settings);
        assert_eq!(world.head(&target).status, 404, "{codec:?}");
    }
    assert_eq!(world.get(&format!("/pub/nar/{}.nar", package.nar_hash().to_nix32())).status, 404);
    world.put_path("pub", &package);
}

#[test]
fn ends_an_upload_that_stands_still() {
    let world = World::with(Settings { body_timeout_ms: 50, max_uploads: 1, ..Settings::default() });
    let package = Package::new(2, 1000);
    let target = format!("/pub/nar/{}", file_name(&package.nar, Codec::Identity));
    let request = Request::put(&target, "").token(&world.token).claim_length(package.nar.len() as u64);
    let mut stream = request.start(world.address).unwrap();
    stream.write_all(&package.nar[..100]).unwrap();
    let answer = read_answer(&stream, false).unwrap();
    assert_eq!((answer.status, code(&answer).as_str()), (400, "upload-stalled"));
    world.wait_until_idle(&Settings { max_uploads: 1, ..Settings::default() });
}

#[test]
fn a_builder_whose_uploads_stand_still_keeps_no_other_from_uploading() {
    let world = World::with(Settings { max_uploads: 4, ..Settings::default() });
    let package = Package::new(12, 100_000);
    let target = format!("/pub/nar/{}", file_name(&package.nar, Codec::Identity));
    let held: Vec<_> = (0..6)
        .map(|_| {
            let request = Request::put(&target, "").token(&world.token).claim_length(package.nar.len() as u64);
            let mut stream = request.start(world.address).unwrap();
            stream.write_all(&package.nar[..100]).unwrap();
            stream
        })
        .collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while world.app.uploads.available() > 2 {
        assert!(Instant::now() < deadline, "{} turns are free", world.app.uploads.available());
        std::thread::yield_now();
    }
    let other = world.make_token(77, "pub", &[Verb::Push], |_| {});
    let whole = |token: &str| Request::put(&target, package.nar.clone()).token(token).header("Expect", "100-continue");
    let answer = world.send(whole(&other));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(world.app.uploads.available(), 2);
    drop(held);
}

#[test]
fn gives_its_turn_back_when_a_download_breaks_off() {
    let settings = Settings { max_downloads: 3, ..Settings::default() };
    let world = World::with(Settings { max_downloads: 3, ..Settings::default() });
    let package = Package::new(3, 6_000_000);
    world.put_path("pub", &package);
    let nar = package.nar_hash().to_nix32();
    for target in [format!("/pub/nar/{nar}.nar"), format!("/pub/nar/{nar}.nar.zst")] {
        for read in [0, 1, 100_000] {
            let mut stream = Request::get(&target).start(world.address).unwrap();
            stream.read_exact(&mut vec![0; read]).unwrap();
        }
    }
    world.wait_until_idle(&settings);
    assert!(world.get(&format!("/pub/nar/{nar}.nar")).body == package.nar);
}

#[test]
fn serves_others_while_a_client_reads_slowly() {
    let world = World::new();
    let package = Package::new(4, 6_000_000);
    world.put_path("pub", &package);
    let target = format!("/pub/nar/{}.nar", package.nar_hash().to_nix32());
    let slow: Vec<_> = (0..20).map(|_| Request::get(&target).start(world.address).unwrap()).collect();
    assert!(world.get(&target).body == package.nar);
    for stream in slow {
        let answer = read_answer(&stream, false).unwrap();
        assert!(answer.whole && answer.body == package.nar);
    }
}

/// A world that reads its packs each time, a package in it, and a flipped bit at a part of its only pack.
fn damaged(permille: u64) -> (World, Package) {
    let world = World::with(Settings { frame_cache_bytes: 0, ..Settings::default() });
    let package = Package::of(5, &Node::file(Random::new(5).noise(5_000_000)));
    world.put_path("pub", &package);
    assert_eq!(world.get(&format!("/pub/{}.narinfo", package.hash())).status, 200);
    let objects = world.storage.list("packs/", None, 100).unwrap();
    let pack = objects.iter().max_by_key(|object| object.len).unwrap();
    world.storage.damage(&pack.name, (pack.len * permille / 1000) as usize, 0x10).unwrap();
    (world, package)
}

/// Everything of the path is gone until it is uploaded again.
fn assert_absent_until_repaired(world: &World, package: &Package) {
    let nar = package.nar_hash().to_nix32();
    let targets =
        [format!("/pub/{}.narinfo", package.hash()), format!("/pub/nar/{nar}.nar"), format!("/pub/nar/{nar}.nar.zst")];
    for target in &targets {
        assert_eq!((world.get(target).status, world.head(target).status), (404, 404), "{target}");
    }
    world.put_path("pub", package);
    for target in &targets {
        assert_eq!(world.get(target).status, 200, "{target}");
    }
    assert!(world.get(&targets[1]).body == package.nar);
}

#[test]
fn turns_damage_before_the_first_byte_into_absence() {
    for form in [".nar", ".nar.zst"] {
        let (world, package) = damaged(10);
        let answer = world.get(&format!("/pub/nar/{}{form}", package.nar_hash().to_nix32()));
        assert_eq!((answer.status, code(&answer).as_str()), (404, "not-found"));
        assert_absent_until_repaired(&world, &package);
    }
}

#[test]
fn breaks_off_at_damage_and_never_sends_a_wrong_byte() {
    for form in [".nar", ".nar.zst"] {
        let (world, package) = damaged(900);
        let answer = world.get(&format!("/pub/nar/{}{form}", package.nar_hash().to_nix32()));
        assert!(answer.status == 200 && !answer.whole, "{form}: {}", answer.status);
        if form == ".nar" {
            assert_eq!(answer.header("content-length"), Some(package.nar.len().to_string().as_str()));
            assert!(package.nar.starts_with(&answer.body) && answer.body.len() < package.nar.len());
        }
        assert_absent_until_repaired(&world, &package);
    }
}

#[test]
fn answers_a_refused_upload_that_is_still_being_sent() {
    let world = World::new();
    // No token: refused at once; the client, who was not told to wait, sends 8 MiB first and reads the answer then.
    let body = vec![b'x'; 8 << 20];
    let request = Request::put("/pub/nar/x.nar", "").claim_length(body.len() as u64);
    let mut stream = request.start(world.address).unwrap();
    let began = Instant::now();
    stream.write_all(&body).unwrap();
    let answer = read_answer(&stream, false).unwrap();
    assert_eq!((answer.status, code(&answer).as_str()), (401, "no-credentials"));
    assert!(began.elapsed() < Duration::from_secs(60));
    // The same in the middle of a body that turned out to be no NAR.
    let request = Request::put("/pub/nar/x.nar", "").token(&world.token).claim_length(body.len() as u64);
    let mut stream = request.start(world.address).unwrap();
    stream.write_all(b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0").unwrap();
    stream.write_all(&body[24..]).unwrap();
    let answer = read_answer(&stream, false).unwrap();
    assert_eq!((answer.status, code(&answer).as_str()), (400, "bad-nar"));
}
