//! What comes out: both forms, every range, every name under which a file was uploaded.

use firn_server::http::codec::Codec;
use firn_testkit::http::{Answer, Request};

use crate::support::{Package, Settings, World, code, decode, hash_of};

#[test]
fn answers_head_like_get() {
    let world = World::new();
    let package = Package::new(1, 600_000);
    let alias = world.put_nar("pub", &package.nar, Codec::Xz);
    world.put_path("pub", &package);
    let hash = package.hash();
    world.put(&format!("/pub/log/{hash}-x.drv"), "short log");
    world.put(&format!("/pub/log/{}", hash_of(77)), "long log\n".repeat(50_000));
    let nar = package.nar_hash().to_nix32();
    for target in [
        "/".into(),
        "/pub".into(),
        "/pub/nix-cache-info".into(),
        format!("/pub/{hash}.narinfo"),
        format!("/pub/{}.narinfo", hash_of(9)),
        format!("/pub/{hash}.ls"),
        format!("/pub/nar/{nar}.nar"),
        format!("/pub/nar/{nar}.nar.zst"),
        format!("/pub/nar/{alias}"),
        "/pub/nar/absent.nar".into(),
        format!("/pub/log/{hash}-x.drv"),
        format!("/pub/log/{}", hash_of(77)),
        format!("/pub/debuginfo/{}", "0".repeat(40)),
        format!("/pub/serve/{hash}/self"),
        format!("/pub/serve/{hash}/contents/bin"),
        "/pub/nothing".into(),
    ] {
        let head = world.head(&target);
        let get = world.get(&target);
        assert!(head.body.is_empty() && get.whole, "{target}");
        assert_eq!(head.status, get.status, "{target}");
        assert_eq!(headers(&head), headers(&get), "{target}");
        // The GET may have learnt the length, and both know it now.
        assert_eq!(headers(&world.head(&target)), headers(&world.get(&target)), "{target}");
    }
}

fn headers(answer: &Answer) -> Vec<(String, String)> {
    let mut headers = answer.headers.clone();
    // A body whose length is not known is chunked, and to HEAD there is none.
    headers.retain(|(name, _)| name != "date" && name != "transfer-encoding");
    headers.sort();
    headers
}

#[test]
fn http_1_0_gets_a_length_or_what_nobody_keeps() {
    let world = World::new();
    let package = Package::new(1, 600_000);
    let alias = world.put_nar("pub", &package.nar, Codec::Xz);
    world.put_path("pub", &package);
    let nar = format!("/pub/nar/{}.nar.zst", package.nar_hash().to_nix32());
    let alias = format!("/pub/nar/{alias}");
    let begin = |target: &str, version| world.begin_request(http::Request::get(target).version(version));
    let caching = |answer: &http::Response<_>| answer.headers()["cache-control"].to_str().unwrap().to_owned();
    let immutable = "public, max-age=31536000, immutable";
    let answer = begin(&nar, http::Version::HTTP_11);
    assert_eq!((answer.body().length(), caching(&answer)), (None, immutable.to_owned()), "not measured yet");
    let answer = begin(&nar, http::Version::HTTP_10);
    let whole = world.get(&nar).body.len() as u64;
    assert_eq!((answer.body().length(), caching(&answer)), (Some(whole), immutable.to_owned()));
    let answer = begin(&alias, http::Version::HTTP_11);
    assert_eq!((answer.body().length(), caching(&answer)), (None, immutable.to_owned()));
    let answer = begin(&alias, http::Version::HTTP_10);
    assert_eq!((answer.body().length(), caching(&answer)), (None, "no-store".to_owned()));
}

#[test]
fn never_sends_what_breaks_clients() {
    let world = World::new();
    let package = Package::new(2, 50_000);
    world.put_path("pub", &package);
    let nar = package.nar_hash().to_nix32();
    for target in [
        format!("/pub/{}.narinfo", package.hash()),
        format!("/pub/nar/{nar}.nar"),
        format!("/pub/nar/{nar}.nar.zst"),
        format!("/pub/{}.ls", package.hash()),
        "/pub/nix-cache-info".into(),
    ] {
        let request = Request::get(&target).header("Accept-Encoding", "zstd, br, gzip").header("If-None-Match", "*");
        let answer = world.send(request);
        assert_eq!(answer.status, 200, "{target}");
        for header in ["etag", "content-encoding", "last-modified", "location"] {
            assert_eq!(answer.header(header), None, "{target}");
        }
    }
    assert_eq!(world.get(&format!("/pub/nar/{nar}.nar")).header("accept-ranges"), Some("bytes"));
    assert_eq!(world.get(&format!("/pub/nar/{nar}.nar.zst")).header("accept-ranges"), Some("bytes"));
}

#[test]
fn resumes_at_every_byte() {
    let world = World::new();
    let package = Package::new(3, 300);
    world.put_path("pub", &package);
    let nar = package.nar_hash().to_nix32();
    for (target, codec) in
        [(format!("/pub/nar/{nar}.nar"), Codec::Identity), (format!("/pub/nar/{nar}.nar.zst"), Codec::Zstd)]
    {
        let whole = world.get(&target);
        assert_eq!(whole.header("content-length"), Some(whole.body.len().to_string().as_str()), "{target}");
        assert!(decode(codec, &whole.body) == package.nar, "{target}");
        let total = whole.body.len();
        for first in 0..total {
            let answer = world.send(Request::get(&target).header("Range", &format!("bytes={first}-")));
            assert_eq!(answer.status, 206, "{target} from {first}");
            assert_eq!(answer.header("content-range").unwrap(), format!("bytes {first}-{}/{total}", total - 1));
            assert_eq!(answer.header("content-encoding"), None);
            assert!(answer.body == whole.body[first..], "{target} from {first}");
        }
        for (range, expected) in [("0-0", 0..1), ("5-9", 5..10), ("-7", total - 7..total), ("7-99999999", 7..total)] {
            let answer = world.send(Request::get(&target).header("Range", &format!("bytes={range}")));
            assert_eq!(answer.status, 206, "{target}: {range}");
            assert!(answer.body == whole.body[expected], "{target}: {range}");
        }
        for range in [format!("{total}-"), format!("{}-", total + 5), "-0".into()] {
            let answer = world.send(Request::get(&target).header("Range", &format!("bytes={range}")));
            assert_eq!(answer.status, 416, "{target}: {range}");
            assert_eq!(answer.header("content-range").unwrap(), format!("bytes */{total}"));
        }
        for range in ["bytes=1-2,4-5", "bytes=9-1", "items=1-2", "bytes=x"] {
            let answer = world.send(Request::get(&target).header("Range", range));
            assert_eq!(answer.status, 200, "{target}: {range}");
            assert!(answer.body == whole.body, "{target}: {range}");
        }
    }
}

#[test]
fn resumes_large_bodies_where_pieces_and_frames_meet() {
    let world = World::new();
    let package = Package::new(4, 1_500_000);
    world.put_path("pub", &package);
    let nar = package.nar_hash().to_nix32();
    for target in [format!("/pub/nar/{nar}.nar.zst"), format!("/pub/nar/{nar}.nar")] {
        // The range comes first: nothing has measured the encoded form yet.
        let late = world.send(Request::get(&target).header("Range", "bytes=300000-"));
        let whole = world.get(&target).body;
        assert!(late.body == whole[300_000..], "{target}");
        for edge in edges(&target, &whole) {
            for first in [edge - 1, edge, edge + 1] {
                if first >= whole.len() {
                    continue;
                }
                let answer = world.send(Request::get(&target).header("Range", &format!("bytes={first}-")));
                assert!(answer.status == 206 && answer.body == whole[first..], "{target} from {first}");
                let last = (first + 300_000).min(whole.len() - 1);
                let answer = world.send(Request::get(&target).header("Range", &format!("bytes={first}-{last}")));
                assert!(answer.body == whole[first..=last], "{target}: {first} to {last}");
            }
        }
    }
}

/// Where pieces of a body meet; frames too, if it has some.
fn edges(target: &str, whole: &[u8]) -> Vec<usize> {
    let mut edges = vec![64 << 10, 256 << 10, 320 << 10, 512 << 10, 1 << 20];
    if target.ends_with(".zst") {
        let mut edge = 0;
        while edge < whole.len() {
            edge += zstd::zstd_safe::find_frame_compressed_size(&whole[edge..]).unwrap();
            edges.push(edge);
        }
        assert_eq!(edges.len(), 5 + 7, "a short frame and six others");
    }
    edges
}

#[test]
fn tells_the_length_of_what_is_small() {
    let world = World::new();
    for (seed, bytes) in [(20, 10_000), (21, 100_000), (22, 250_000)] {
        let package = Package::new(seed, bytes);
        assert!(package.nar.len() <= 256 << 10);
        world.put_path("pub", &package);
        let target = format!("/pub/nar/{}.nar.zst", package.nar_hash().to_nix32());
        let head = world.head(&target);
        let get = world.get(&target);
        assert!(decode(Codec::Zstd, &get.body) == package.nar, "{bytes}");
        for answer in [&head, &get] {
            assert_eq!(answer.header("content-length"), Some(get.body.len().to_string().as_str()), "{bytes}");
        }
        assert!(world.first_piece(&target, None) == get.body, "it is sent at once");
    }
}

#[test]
fn the_first_byte_waits_for_no_more_than_the_first_frame() {
    let world = World::new();
    let package = Package::new(23, 1_500_000);
    world.put_path("pub", &package);
    let target = format!("/pub/nar/{}.nar.zst", package.nar_hash().to_nix32());
    for range in [None, Some("bytes=0-")] {
        let first = world.first_piece(&target, range);
        assert!(zstd::bulk::decompress(&first, 2 << 20).unwrap() == package.nar[..64 << 10], "{range:?}");
    }
    let whole = world.get(&target).body;
    assert!(world.first_piece(&target, Some("bytes=5-9")) == whole[5..10]);
    // From the middle too it is one frame, or what is left of it.
    let border = zstd::zstd_safe::find_frame_compressed_size(&whole).unwrap();
    let next = border + zstd::zstd_safe::find_frame_compressed_size(&whole[border..]).unwrap();
    assert!(world.first_piece(&target, Some(&format!("bytes={}-", border + 1))) == whole[border + 1..next]);
}

#[test]
fn serves_every_name_that_an_uploader_chose() {
    let world = World::new();
    let package = Package::new(5, 700_000);
    let nar = package.nar_hash().to_nix32();
    let mut names = vec![];
    for codec in Codec::ALL {
        names.push((world.put_nar("pub", &package.nar, codec), codec));
    }
    for (name, codec) in names {
        let answer = world.get(&format!("/pub/nar/{name}"));
        assert_eq!(answer.status, 200, "{codec:?}");
        assert!(answer.whole && decode(codec, &answer.body) == package.nar, "{codec:?}");
        assert_eq!(answer.header("content-type"), Some("application/x-nix-nar"), "{codec:?}");
        let resumes = matches!(codec, Codec::Identity | Codec::Zstd);
        assert_eq!(answer.header("accept-ranges").is_some(), resumes, "{codec:?}");
        if codec == Codec::Zstd {
            assert!(answer.body == world.get(&format!("/pub/nar/{nar}.nar.zst")).body);
        }
        // Of what can't be resumed, a range is the whole.
        let ranged = world.send(Request::get(&format!("/pub/nar/{name}")).header("Range", "bytes=5-"));
        assert_eq!(ranged.status, if resumes { 206 } else { 200 }, "{codec:?}");
    }
    // What one cache holds is not in another.
    assert_eq!(world.get(&format!("/priv/nar/{nar}.nar")).status, 404);
}

#[test]
fn tells_people_how_to_use_it() {
    let world = World::new();
    let page = world.send(Request::get("/pub/"));
    assert!(
        page.text().contains("extra-trusted-public-keys = test-1:") && page.text().contains("/pub"),
        "{}",
        page.text()
    );
    assert_eq!(page.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(world.send(Request::get("/")).status, 200);
    let info = world.send(Request::get("/pub/nix-cache-info"));
    assert_eq!(info.text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
    assert_eq!(info.text(), world.send(Request::get("//pub//nix-cache-info")).text());
}

#[test]
fn stands_at_the_root_and_on_its_own_host() {
    let world = World::new();
    world.set_cache("root", |row| row.at_root = true);
    world.set_cache("own", |row| {
        row.host = Some("own.example".into());
        row.priority = 7;
    });
    assert!(world.send(Request::get("/nix-cache-info")).text().contains("Priority: 30"));
    // The second Host header of the test's client would be refused by a strict parser; the URL's host counts first.
    let own = world.send(Request::get("http://own.example:8080/nix-cache-info"));
    assert!(own.text().contains("Priority: 7"), "{}", own.text());
    let named = world.send(Request::get("http://own.example/pub/nix-cache-info"));
    assert!(named.text().contains("Priority: 30"));
    let package = Package::new(6, 1000);
    world.put_path("own", &package);
    let target = format!("http://own.example/{}.narinfo", package.hash());
    assert_eq!(world.send(Request::get(&target)).status, 200);
    assert_eq!(world.send(Request::get(&format!("/{}.narinfo", package.hash()))).status, 404);
}

#[test]
fn says_when_it_is_busy() {
    let world = World::new();
    let package = Package::new(7, 1000);
    world.put_path("pub", &package);
    // Nobody gets a turn any more.
    world.app.downloads.close();
    let answer = world.get(&format!("/pub/nar/{}.nar", package.nar_hash().to_nix32()));
    assert_eq!((answer.status, code(&answer).as_str(), answer.header("retry-after")), (503, "busy", Some("1")));
    // narinfos need none.
    assert_eq!(world.get(&format!("/pub/{}.narinfo", package.hash())).status, 200);
}

#[test]
fn compresses_few_nars_at_once() {
    let world = World::new();
    let package = Package::new(8, 1000);
    let target = format!("/pub/nar/{}", world.put_nar("pub", &package.nar, Codec::Xz));
    let plain = format!("/pub/nar/{}.nar", package.nar_hash().to_nix32());
    let all = world.app.encoders.available_permits();
    assert!(all >= 4, "{all}");
    let begun: Vec<_> = (0..all).map(|_| world.begin(&target, None)).collect();
    assert!(begun.iter().all(|answer| answer.status() == 200));
    assert_eq!(world.app.encoders.available_permits(), 0);
    drop(begun);
    assert_eq!(world.app.encoders.available_permits(), all);
    // Nobody gets a turn any more.
    world.app.encoders.close();
    let answer = world.get(&target);
    assert_eq!((answer.status, code(&answer).as_str(), answer.header("retry-after")), (503, "busy", Some("1")));
    assert_eq!((world.head(&target).status, world.get(&plain).status), (200, 200));
    // Who is refused, or waits, keeps no one from what needs no encoder.
    assert_eq!(world.app.downloads.available(), Settings::default().max_downloads);
}
