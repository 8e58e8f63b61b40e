//! Listings, files inside paths, logs, realisations, debug info.

use firn_index::{ConflictPolicy, Verb};
use firn_nix::nar::{Decoder, ListingBuilder};
use firn_server::http::codec::Codec;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use serde_json::{Value, json};

use crate::support::{Package, World, code, encode, hash_of};

fn link(target: &str) -> Node {
    Node::Symlink { target: target.as_bytes().to_vec() }
}

fn site() -> Package {
    let home = format!("/nix/store/{}-tree-1", hash_of(1));
    let tree = Node::directory([
        ("a.html", Node::file("<script>alert(1)</script>")),
        ("a.svg", Node::file("<svg/>")),
        ("a.txt", Node::file("0123456789")),
        ("absolute", link(&format!("{home}/dir/b.png"))),
        ("dir", Node::directory([("b.png", Node::file("png")), ("up", link("../a.txt")), ("out", link("../../x"))])),
        ("elsewhere", link("/etc/passwd")),
        ("loop", link("loop")),
        ("prefix", link(&format!("{home}-evil/x"))),
        ("program", Node::Regular { executable: true, contents: b"#!/bin/sh\n".to_vec() }),
        ("to-dir", link("dir")),
    ]);
    Package::of(1, &tree)
}

#[test]
fn serves_files_so_that_nothing_of_them_runs() {
    let world = World::new();
    let package = site();
    world.put_path("pub", &package);
    for (path, status, body, content_type, attachment) in [
        ("a.txt", 200, "0123456789", "text/plain; charset=utf-8", false),
        ("a.html", 200, "<script>alert(1)</script>", "text/html", true),
        ("a.svg", 200, "<svg/>", "image/svg+xml", true),
        ("dir/b.png", 200, "png", "image/png", false),
        ("absolute", 200, "png", "application/octet-stream", false),
        ("dir/up", 200, "0123456789", "application/octet-stream", false),
        ("to-dir/b.png", 200, "png", "image/png", false),
        ("to-dir/up", 200, "0123456789", "application/octet-stream", false),
        ("program", 200, "#!/bin/sh\n", "application/octet-stream", false),
        ("elsewhere", 404, "", "", false),
        ("prefix", 404, "", "", false),
        ("loop", 404, "", "", false),
        ("dir/out", 404, "", "", false),
        ("a.txt/b", 404, "", "", false),
        ("nothing", 404, "", "", false),
    ] {
        for base in [package.hash(), package.path.to_string()] {
            let answer = world.get(&format!("/pub/serve/{base}/{path}"));
            assert_eq!(answer.status, status, "{path}: {}", answer.text());
            if status == 200 {
                assert_eq!(answer.text(), body, "{path}");
                assert_eq!(answer.header("content-type"), Some(content_type), "{path}");
                assert_eq!(answer.header("content-disposition").is_some(), attachment, "{path}");
                assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
                assert!(answer.header("content-security-policy").unwrap().contains("sandbox"));
            }
        }
    }
    let part = world.send(Request::get(&format!("/pub/serve/{}/a.txt", package.hash())).header("Range", "bytes=3-5"));
    assert_eq!((part.status, part.text().as_str()), (206, "345"));
    assert_eq!(part.header("content-range"), Some("bytes 3-5/10"));
}

#[test]
fn lists_directories_and_whole_paths() {
    let world = World::new();
    let package = site();
    world.put_path("pub", &package);
    let directory: Value =
        serde_json::from_slice(&world.get(&format!("/pub/serve/{}/dir", package.hash())).body).unwrap();
    assert_eq!(directory["entries"]["b.png"], json!({"type": "regular", "size": 3}));
    let listing = world.get(&format!("/pub/{}.ls", package.hash()));
    assert_eq!(listing.header("content-type"), Some("application/json"));
    let listing: Value = serde_json::from_slice(&listing.body).unwrap();
    let file = &listing["root"]["entries"]["a.txt"];
    let offset = file["narOffset"].as_u64().unwrap() as usize;
    assert_eq!(&package.nar[offset..offset + 10], b"0123456789");
    assert_eq!(world.get(&format!("/pub/{}.ls", hash_of(5))).status, 404);
    // Uploaded ones are taken and not believed.
    assert_eq!(world.put(&format!("/pub/{}.ls", package.hash()), r#"{"version":1,"root":{}}"#).status, 200);
    assert_eq!(world.put(&format!("/pub/{}.ls", package.hash()), "[]").status, 400);
    assert_eq!(world.put(&format!("/pub/{}.ls", package.hash()), "").status, 400);
    let bomb = encode(Codec::Gzip, &[b"{".as_slice(), &vec![b' '; 80 << 20]].concat());
    let request = Request::put(&format!("/pub/{}.ls", package.hash()), bomb).token(&world.token);
    assert_eq!(world.send(request.header("Content-Encoding", "gzip")).status, 413);
    let again: Value = serde_json::from_slice(&world.get(&format!("/pub/{}.ls", package.hash())).body).unwrap();
    assert_eq!(again, listing);
}

#[test]
fn long_listings_come_in_pieces() {
    const PIECE_BYTES: usize = 256 << 10;
    let world = World::new();
    let name = |n: usize| format!("a-file-of-many-{n:06}");
    let tree = Node::directory([
        ("many", Node::directory((0..20_000).map(|n| (name(n), Node::file(""))))),
        ("one", Node::file("x")),
    ]);
    let package = Package::of(1, &tree);
    world.put_path("pub", &package);
    let listing = listing_of(&package.nar);
    let many: Vec<_> = (0..20_000).map(|n| format!("\"{}\":{{\"size\":0,\"type\":\"regular\"}}", name(n))).collect();
    let many = format!("{{\"entries\":{{{}}},\"type\":\"directory\"}}", many.join(","));
    for (target, expected) in
        [(format!("/pub/{}.ls", package.hash()), listing), (format!("/pub/serve/{}/many", package.hash()), many)]
    {
        let first = world.first_piece(&target, None);
        assert!((PIECE_BYTES..PIECE_BYTES + 1000).contains(&first.len()), "{target}: {}", first.len());
        let answer = world.get(&target);
        assert!(answer.text() == expected, "{target}");
        assert_eq!(answer.header("content-length"), Some(expected.len().to_string().as_str()), "{target}");
        assert_eq!(world.head(&target).header("content-length"), answer.header("content-length"), "{target}");
    }
    let root = world.get(&format!("/pub/serve/{}/", package.hash())).text();
    assert_eq!(
        root,
        r#"{"entries":{"many":{"type":"directory"},"one":{"size":1,"type":"regular"}},"type":"directory"}"#
    );
}

/// Returns a NAR's `.ls`.
fn listing_of(nar: &[u8]) -> String {
    let (mut decoder, mut listing) = (Decoder::new(), ListingBuilder::new());
    decoder.push(nar, &mut |event| listing.event(event)).unwrap();
    String::from_utf8(listing.finish().unwrap().to_json()).unwrap()
}

#[test]
fn keeps_logs_of_any_length_under_every_spelling() {
    let world = World::new();
    let hash = hash_of(3);
    for text in [String::new(), "short\n".into(), "line of a log\n".repeat(400), "line of a log\n".repeat(100_000)] {
        for encoding in ["identity", "gzip", "zstd", "br"] {
            let body = encode(Codec::from_content_encoding(encoding).unwrap(), text.as_bytes());
            let request = Request::put(&format!("/pub/log/{hash}-a%2Bb.drv"), body).token(&world.token);
            let answer = world.send(request.header("Content-Encoding", encoding));
            assert_eq!(answer.status, 200, "{}", answer.text());
            for name in ["-a+b.drv", "-a%2Bb.drv", "-q?x.drv", ""] {
                let answer = world.get(&format!("/pub/log/{hash}{name}"));
                assert!(answer.status == 200 && answer.text() == text, "{encoding}: {name}");
                assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
            }
        }
    }
    let bomb = encode(Codec::Zstd, &vec![b'x'; 300 << 20]);
    let request = Request::put(&format!("/pub/log/{}", hash_of(4)), bomb).token(&world.token);
    assert_eq!(world.send(request.header("Content-Encoding", "zstd")).status, 413);
    assert_eq!(world.get(&format!("/pub/log/{}", hash_of(4))).status, 404);
}

fn signature(n: u8) -> String {
    firn_nix::SecretKey::generate(&format!("key-{n}"), [n; 32]).unwrap().sign(b"x").to_string()
}

#[test]
fn merges_realisations() {
    let world = World::new();
    let id = format!("sha256:{}!out", "a7".repeat(32));
    let target = format!("/pub/realisations/{}.doi", id.replace('!', "%21"));
    let raw = format!("/pub/realisations/{id}.doi");
    // Without keys of its own, a cache adds nothing.
    world.set_cache("pub", |row| row.signing_keys = Vec::new());
    let [package, other] = [5, 6].map(|seed| Package::new(seed, 1000));
    world.put_path("pub", &package);
    world.put_path("pub", &other);
    let path = package.path.to_string();
    let text = |path: &str, signatures: Vec<String>| {
        json!({"dependentRealisations": {}, "id": id, "outPath": path, "signatures": signatures}).to_string()
    };
    assert_eq!(world.get(&target).status, 404);
    for bad in [
        "x".to_owned(),
        "[]".into(),
        "{}".into(),
        text("/nix/store/x", vec![]),
        text(&path, vec!["unsigned".into()]),
        text(&path, vec![]).replace("a7a7", "b7b7"),
        text(&path, vec![]) + &" ".repeat(70_000),
        "[".repeat(60_000),
    ] {
        let answer = world.put(&target, bad);
        assert!([400, 413].contains(&answer.status), "{}", answer.text());
    }
    assert_eq!(world.put(&target, text(&path, vec![signature(1)])).status, 200);
    // As it was sent, under both spellings.
    for target in [&target, &raw] {
        assert_eq!(world.get(target).text(), text(&path, vec![signature(1)]));
    }
    assert_eq!(world.put(&raw, text(&path, vec![signature(2)])).status, 200);
    let merged: Value = serde_json::from_slice(&world.get(&target).body).unwrap();
    assert_eq!(merged["signatures"], json!([signature(1), signature(2)]));
    // Another path: the first stays.
    let other = text(&other.path.to_string(), vec![signature(3)]);
    assert_eq!(world.put(&target, other.clone()).status, 200);
    assert_eq!(serde_json::from_slice::<Value>(&world.get(&target).body).unwrap(), merged);
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    assert_eq!(world.put(&target, other).status, 409);
    // Many signatures make it too long for a row.
    for n in 3..80 {
        assert_eq!(world.put(&target, text(&path, vec![signature(n)])).status, 200);
    }
    let merged: Value = serde_json::from_slice(&world.get(&target).body).unwrap();
    assert_eq!(merged["signatures"].as_array().unwrap().len(), 64, "as many as a path may have");
}

#[test]
fn keeps_build_traces_and_debug_info() {
    let world = World::new();
    world.set_cache("pub", |row| row.signing_keys = Vec::new());
    let output = Package::new(8, 1000);
    world.put_path("pub", &output);
    let trace = format!("/pub/build-trace-v2/{}-x.drv/out.doi", hash_of(7));
    let (name, sig) = (signature(1).split_once(':').map(|(n, s)| (n.to_owned(), s.to_owned()))).unwrap();
    let text = json!({"outPath": output.path, "signatures": [{"keyName": name, "sig": sig}]}).to_string();
    assert_eq!(world.put(&trace, text.clone()).status, 200);
    assert_eq!(world.get(&trace).text(), text);
    assert_eq!(code(&world.put(&trace, "{\"outPath\":1}")), "bad-document");

    let id = "0123456789abcdef0123456789abcdef01234567";
    let target = format!("/pub/debuginfo/{id}.debug");
    assert_eq!(world.head(&target).status, 404);
    let package = Package::new(9, 1000);
    let nar = world.put_nar("pub", &package.nar, Codec::Xz);
    let text = json!({"archive": format!("../nar/{nar}"), "member": "lib/debug/x.debug"}).to_string();
    assert_eq!(world.put(&target, text.clone()).status, 200);
    for target in [&target, &format!("/pub/debuginfo/{id}")] {
        let answer = world.get(target);
        assert_eq!((answer.status, answer.text()), (200, text.clone()));
    }
    assert_eq!(world.head(&target).status, 200);
    assert_eq!(world.get(&format!("/pub/nar/{nar}")).status, 200);
    assert_eq!(code(&world.put(&target, "{}")), "bad-document");
}

#[test]
fn logs_stay_with_their_first_builder() {
    let world = World::new();
    let others = world.make_token(2, "*", &[Verb::Push], |_| {});
    let target = format!("/pub/log/{}-x.drv", hash_of(3));
    for text in ["a line of the first\n".repeat(10), "a line of the first\n".repeat(10_000)] {
        assert_eq!(world.put(&target, text.clone()).status, 200);
        assert_eq!(world.get(&target).text(), text, "its own builder replaces it");
        for other in ["another".to_owned(), "a line of another\n".repeat(20_000)] {
            // Nix takes anything else for a failure.
            assert_eq!(world.send(Request::put(&target, other).token(&others)).status, 200);
            assert!(world.get(&target).text() == text);
        }
    }
    let absent = format!("/pub/log/{}-x.drv", hash_of(4));
    assert_eq!(world.send(Request::put(&absent, "first").token(&others)).status, 200);
    assert_eq!(world.put(&absent, "second").status, 200);
    assert_eq!(world.get(&absent).text(), "first");
}

#[test]
fn debug_info_stays_with_its_first_builder_while_its_file_is_here() {
    let world = World::new();
    let others = world.make_token(2, "*", &[Verb::Push], |_| {});
    let put = |target: &str, text: &str, token: &str| world.send(Request::put(target, text).token(token)).status;
    let target = format!("/pub/debuginfo/{}.debug", "ab".repeat(20));
    let nar = world.put_nar("pub", &Package::new(9, 1000).nar, Codec::Xz);
    let [mine, again, gone, theirs] =
        [(&*nar, "lib/a"), (&*nar, "lib/b"), ("gone.nar.xz", "lib/a"), (&*nar, "lib/theirs")]
            .map(|(nar, member)| json!({"archive": format!("../nar/{nar}"), "member": member}).to_string());
    assert_eq!(put(&target, &mine, &world.token), 200);
    assert_eq!(put(&target, &again, &world.token), 200);
    assert_eq!(world.get(&target).text(), again, "its own builder replaces it");
    // Who sends the same does not become its builder.
    for text in [&theirs, &again, &theirs] {
        assert_eq!(put(&target, text, &others), 200);
        assert_eq!(world.get(&target).text(), again);
    }
    assert_eq!(put(&target, &gone, &world.token), 200);
    assert_eq!(put(&target, &theirs, &others), 200);
    assert_eq!(world.get(&target).text(), theirs, "what names no file that is here");
}

#[test]
fn debug_info_names_a_file_of_the_cache() {
    let world = World::new();
    let target = format!("/pub/debuginfo/{}.debug", "cd".repeat(20));
    let put = |archive: &str, member: &str| {
        world.put(&target, json!({"archive": archive, "member": member}).to_string()).status
    };
    let nar = format!("../nar/{}.nar", "0".repeat(52));
    let member = "lib/debug/.build-id/ab/cdef.debug";
    for archive in
        ["http://evil.example/x.nar", "/nar/x.nar", "nar/x.nar", "../nar/../x.nar", "../nar/x", "../nar/", ""]
    {
        assert_eq!(put(archive, member), 400, "{archive}");
    }
    for member in ["../../etc/passwd", "/etc/passwd", "lib/../x", "lib//x", "lib/./x", "", "lib/", "lib/\u{1b}x"] {
        assert_eq!(put(&nar, member), 400, "{member}");
    }
    // Of every compression, and before the NAR: so stock Nix sends it.
    for extension in ["", ".xz", ".zst", ".bz2", ".br", ".lzip", ".lz4"] {
        assert_eq!(put(&format!("{nar}{extension}"), member), 200, "{extension}");
    }
}
