//! NARs in: every compression, bad input, limits, many at once.

use std::io::Write as _;

use firn_server::http::codec::Codec;
use firn_testkit::http::{Request, read_answer};
use firn_testkit::nar::Node;

use crate::support::{Package, Settings, World, code, decode, encode, file_name};

#[test]
fn takes_every_compression_and_stores_one_nar() {
    let world = World::new();
    let package = Package::new(1, 900_000);
    world.put_nar("pub", &package.nar, Codec::Identity);
    let stored = world.stored_bytes();
    for codec in Codec::ALL {
        let name = world.put_nar("pub", &package.nar, codec);
        let answer = world.put(&format!("/pub/{}.narinfo", package.hash()), package.narinfo(&name, codec.name()));
        assert_eq!(answer.status, 200, "{codec:?}: {}", answer.text());
        assert_eq!(world.head(&format!("/pub/nar/{name}")).status, 200, "{codec:?}");
    }
    // Names and the path are records of some hundred bytes; the NAR is not stored again.
    assert!(world.stored_bytes() - stored < 20_000, "{stored} grew to {}", world.stored_bytes());
}

#[test]
fn refuses_what_is_no_nar() {
    let world = World::new();
    let nar = Node::directory([("a", Node::file("x")), ("b", Node::file("y"))]).encode();
    let mut unsorted = nar.clone();
    let names: Vec<_> =
        nar.windows(2).enumerate().filter(|(_, w)| w[1] == 0 && (w[0] == b'a' || w[0] == b'b')).collect();
    for (at, window) in names {
        unsorted[at] = if window[0] == b'a' { b'b' } else { b'a' };
    }
    let trailing = [&nar[..], &[0; 8]].concat();
    for codec in [Codec::Identity, Codec::Zstd, Codec::Xz] {
        for bytes in [&nar[..nar.len() - 8], &nar[..16], &unsorted, &trailing] {
            let file = encode(codec, bytes);
            let answer = world.put(&format!("/pub/nar/{}", file_name(&file, codec)), file);
            assert_eq!((answer.status, code(&answer).as_str()), (400, "bad-nar"), "{codec:?}");
        }
    }
    let answer = world.put("/pub/nar/x.nar", "");
    assert_eq!(answer.status, 415, "{}", answer.text());
}

#[test]
fn refuses_what_does_not_decode() {
    let world = World::new();
    let nar = Package::new(2, 20_000).nar;
    for codec in Codec::ALL.into_iter().filter(|&codec| codec != Codec::Identity) {
        let file = encode(codec, &nar);
        let mut cut = file.clone();
        cut.truncate(file.len() / 2);
        let answer = world.put(&format!("/pub/nar/{}", file_name(&cut, codec)), cut);
        assert!(["bad-nar", "bad-compression"].contains(&code(&answer).as_str()), "{codec:?}: {}", answer.text());
        assert_eq!(answer.status, 400);
        if !matches!(codec, Codec::Brotli) {
            let trailing = [&file[..], b"garbage that follows"].concat();
            let answer = world.put(&format!("/pub/nar/{}", file_name(&trailing, codec)), trailing);
            assert_eq!(answer.status, 400, "{codec:?}: {}", answer.text());
        }
        // Whole, but under another name.
        let answer = world.put(&format!("/pub/nar/{}", file_name(b"other", codec)), file);
        assert_eq!(code(&answer), "file-hash-mismatch", "{codec:?}");
    }
    let answer = world.put(&format!("/pub/nar/{}", file_name(b"other", Codec::Identity)), nar);
    assert_eq!(code(&answer), "file-hash-mismatch");
}

#[test]
fn a_name_without_a_hash_stays_with_its_nar() {
    let world = World::new();
    let [one, other] = [1, 2].map(|seed| Package::new(seed, 10_000));
    let file = |package: &Package| encode(Codec::Zstd, &package.nar);
    assert_eq!(world.put("/pub/nar/name.nar.zst", file(&one)).status, 200);
    assert_eq!(world.put("/pub/nar/name.nar.zst", file(&one)).status, 200, "again");
    let answer = world.put("/pub/nar/name.nar.zst", file(&other));
    assert_eq!((answer.status, code(&answer).as_str()), (409, "path-conflict"));
    assert!(decode(Codec::Zstd, &world.get("/pub/nar/name.nar.zst").body) == one.nar);
    assert_eq!(world.put("/priv/nar/name.nar.zst", file(&other)).status, 200, "another cache");
}

#[test]
fn says_which_compressions_it_does_not_know() {
    let world = World::new();
    for (name, body) in [("x.nar.lrz", "LRZI"), ("x.nar", "LRZI and more"), ("x.nar", "\u{89}LZO"), ("x.nar.foo", "")] {
        let answer = world.put(&format!("/pub/nar/{name}"), body);
        assert_eq!((answer.status, code(&answer).as_str()), (415, "unsupported-compression"), "{name}");
    }
    let request = Request::put("/pub/nar/x.nar", "x").token(&world.token).header("Content-Encoding", "gzip");
    assert_eq!(world.send(request).status, 400);
}

#[test]
fn stops_bombs() {
    let world = World::with(Settings { max_nar_bytes: 4 << 20, ..Settings::default() });
    let bomb = Node::file(vec![0; 40 << 20]).encode();
    for codec in [Codec::Zstd, Codec::Xz, Codec::Gzip, Codec::Bzip2, Codec::Brotli, Codec::Lzma] {
        let file = encode(codec, &bomb);
        assert!(file.len() < 1 << 20);
        let answer = world.put(&format!("/pub/nar/{}", file_name(&file, codec)), file);
        assert_eq!((answer.status, code(&answer).as_str()), (413, "too-large"), "{codec:?}");
    }
}

#[test]
fn refuses_by_its_length_before_the_body() {
    let world = World::with(Settings { max_nar_bytes: 1 << 20, ..Settings::default() });
    let request =
        Request::put("/pub/nar/x.nar", "").token(&world.token).header("Expect", "100-continue").claim_length(1 << 40);
    // Not a byte of the body is sent, and the first word is the final one.
    let stream = request.start(world.address).unwrap();
    let answer = read_answer(&stream, false).unwrap();
    assert_eq!((answer.status, code(&answer).as_str()), (413, "too-large"));
}

#[test]
fn says_continue() {
    use std::io::Read as _;
    let world = World::new();
    let nar = Package::new(3, 1000).nar;
    let name = file_name(&nar, Codec::Identity);
    let request =
        Request::put(&format!("/pub/nar/{name}"), nar.clone()).token(&world.token).header("Expect", "100-continue");
    let mut stream = request.start(world.address).unwrap();
    let mut word = [0; 25];
    stream.read_exact(&mut word).unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&nar).unwrap();
    assert_eq!(read_answer(&stream, false).unwrap().status, 200);
}

#[test]
fn says_that_it_is_busy_or_full_before_the_body() {
    let settings = Settings { max_uploads: 1, ..Settings::default() };
    let world = World::with(settings);
    let nar = Package::new(4, 1000).nar;
    let name = file_name(&nar, Codec::Identity);
    let target = format!("/pub/nar/{name}");
    let patient = || Request::put(&target, nar.clone()).token(&world.token).header("Expect", "100-continue");
    let hasty = || Request::put(&target, nar.clone()).token(&world.token);
    world.storage.set_capacity(Some(1000));
    let full = read_answer(&patient().start(world.address).unwrap(), false).unwrap();
    assert_eq!((full.status, code(&full).as_str()), (503, "storage-full"));
    assert_eq!(full.header("retry-after"), Some("60"));
    // A client that has sent its body must not be told to come again.
    let full = world.send(hasty());
    assert_eq!((full.status, code(&full).as_str()), (413, "storage-full"));
    world.storage.set_capacity(None);

    let turn = world.app.uploads.try_take(None).unwrap();
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| world.send(hasty()).status);
        drop(turn);
        waiting.join().unwrap()
    });
    assert_eq!(waiting, 200);

    // Nobody gets a turn any more.
    world.app.uploads.close();
    let busy = read_answer(&patient().start(world.address).unwrap(), false).unwrap();
    assert_eq!((busy.status, code(&busy).as_str(), busy.header("retry-after")), (503, "busy", Some("1")));
    let busy = world.send(hasty());
    assert_eq!((busy.status, code(&busy).as_str()), (409, "busy"));
}

#[test]
fn stores_a_hundred_uploads_of_one_path_once() {
    let world = World::new();
    let package = Package::new(5, 400_000);
    let other = World::new();
    other.put_path("pub", &package);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| world.put_path("pub", &package));
        }
    });
    let totals = world.app.engine.stats().unwrap().totals;
    let once = other.app.engine.stats().unwrap().totals;
    assert_eq!((totals.paths, totals.logical_bytes), (1, package.nar.len() as u64));
    assert_eq!(totals.unique_bytes, once.unique_bytes);
    assert!(world.get(&format!("/pub/nar/{}.nar", package.nar_hash().to_nix32())).body == package.nar);
}

#[test]
fn takes_chunked_bodies() {
    let world = World::new();
    let nar = Package::new(6, 3000).nar;
    let name = file_name(&nar, Codec::Identity);
    // The test's client gives every PUT a length, so this one is made by hand.
    let mut stream = std::net::TcpStream::connect(world.address).unwrap();
    let head = format!(
        "PUT /pub/nar/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        world.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    for piece in nar.chunks(1000) {
        stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).unwrap();
        stream.write_all(piece).unwrap();
        stream.write_all(b"\r\n").unwrap();
    }
    stream.write_all(b"0\r\n\r\n").unwrap();
    assert_eq!(read_answer(&stream, false).unwrap().status, 200);
}

#[test]
fn takes_what_another_cache_has_by_its_hash_alone() {
    for codec in Codec::ALL {
        let world = World::new();
        let package = Package::new(7, 400_000);
        let name = world.put_nar("pub", &package.nar, codec);
        let before = world.stored_bytes();
        assert_eq!(world.put_nar("priv", &package.nar, codec), name);
        let answer = world.put(&format!("/priv/{}.narinfo", package.hash()), package.narinfo(&name, codec.name()));
        assert_eq!(answer.status, 200, "{codec:?}: {}", answer.text());
        let served = world.get(&format!("/priv/nar/{}.nar", package.nar_hash().to_nix32()));
        assert!(served.body == package.nar, "{codec:?}");
        assert!(world.stored_bytes() - before < 2000, "{codec:?}: records of some hundred bytes");
    }
}

#[test]
fn refuses_another_file_under_the_name_of_a_known_one() {
    for codec in [Codec::Identity, Codec::Zstd, Codec::Xz] {
        let world = World::new();
        let package = Package::new(8, 200_000);
        let name = world.put_nar("pub", &package.nar, codec);
        let other = encode(codec, &Package::new(9, 200_000).nar);
        let longer = [&encode(codec, &package.nar)[..], b"\0"].concat();
        for body in [&other[..], &other[..1000], &longer] {
            // A cut body may be no whole file of its kind before it is another one.
            let answer = world.put(&format!("/priv/nar/{name}"), body);
            assert_eq!((answer.status, code(&answer).as_str()), (400, "file-hash-mismatch"), "{codec:?}");
        }
        let narinfo = world.put(&format!("/priv/{}.narinfo", package.hash()), package.narinfo(&name, codec.name()));
        assert_eq!((narinfo.status, code(&narinfo).as_str()), (400, "nar-missing"), "{codec:?}");
        assert_eq!(world.put_nar("priv", &package.nar, codec), name);
    }
}
