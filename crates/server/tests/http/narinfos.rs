//! narinfos in and out.

use firn_index::{Commit, ConflictPolicy, Meta as _, Op, ReferencePolicy, Transport};
use firn_nix::{ContentAddress, NarInfo, SecretKey, Sha256, StorePath};
use firn_server::http::codec::Codec;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;

use crate::support::{Package, World, code, encode, hash_of};

fn read(world: &World, cache: &str, package: &Package) -> NarInfo {
    let answer = world.get(&format!("/{cache}/{}.narinfo", package.hash()));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/x-nix-narinfo")));
    NarInfo::parse(&answer.body, "/nix/store").unwrap()
}

#[test]
fn refuses_lies() {
    let world = World::new();
    let package = Package::new(1, 5000);
    let name = world.put_nar("pub", &package.nar, Codec::Zstd);
    let other = Package::new(2, 5000);
    let other_name = world.put_nar("pub", &other.nar, Codec::Zstd);
    let target = format!("/pub/{}.narinfo", package.hash());
    let good = package.narinfo(&name, "zstd");
    let other_hash = other.nar_hash().to_string();
    let size = format!("NarSize: {}", package.nar.len());
    let absent = format!("{}-absent", hash_of(99));
    for (text, expected) in [
        (good.replace(&package.nar_hash().to_string(), &other_hash), "nar-mismatch"),
        (good.replace(&size, &format!("NarSize: {}", package.nar.len() + 1)), "nar-mismatch"),
        (good.replace(&name, &other_name), "nar-mismatch"),
        (good.replace(&name, "0000000000000000000000000000000000000000000000000000.nar.xz"), "nar-missing"),
        (good.replace("nar/", "../priv/nar/"), "nar-missing"),
        (good.replace("nar/", "http://elsewhere.example/nar/"), "nar-missing"),
        (good.replace(&package.hash(), &hash_of(50)), "wrong-path"),
        (good.replace("References: ", &format!("References: {absent} ")), "references-foreign"),
        (good.replace("References: ", &format!("References: /nix/store/{absent} ")), "bad-narinfo"),
        (good.replace("/nix/store", "/gnu/store"), "bad-narinfo"),
        (format!("{good}Sig: nocolon\n"), "bad-narinfo"),
        (format!("{good}Sig: key:AAAA\n"), "bad-narinfo"),
        (format!("{good}CA: garbage\n"), "bad-narinfo"),
        (good.replace('\n', "\r\n"), "bad-narinfo"),
        (good.trim_end().to_owned(), "bad-narinfo"),
        ("<html></html>\n".into(), "bad-narinfo"),
        (String::new(), "bad-narinfo"),
        (format!("{good}{}", "X: y\n".repeat(1 << 20)), "too-large"),
    ] {
        let answer = world.put(&target, text);
        assert_eq!(code(&answer), expected);
        assert!((400..500).contains(&answer.status) && answer.body.len() < 1024, "{expected}");
        assert_eq!(world.get(&target).status, 404, "{expected}");
    }
    assert_eq!(world.put(&target, good).status, 200);
    assert_eq!(world.get(&target).status, 200);
}

#[test]
fn holds_references_to_the_policy() {
    let world = World::new();
    let dependency = Package::new(3, 1000);
    let mut package = Package::of(4, &Node::file(dependency.path.to_absolute("/nix/store")));
    let foreign = Package::new(5, 1000);
    world.put_path("pub", &foreign);
    let target = format!("/pub/{}.narinfo", package.hash());
    let put = |package: &Package| {
        let name = world.put_nar("pub", &package.nar, Codec::Zstd);
        code(&world.put(&target, package.narinfo(&name, "zstd")))
    };
    package.references = vec![dependency.path.clone()];
    assert_eq!(put(&package), "references-missing");
    assert_eq!(world.get(&target).status, 404);
    package.references = vec![foreign.path.clone()];
    assert_eq!(put(&package), "references-foreign");
    world.set_cache("pub", |row| row.references = ReferencePolicy::Present);
    package.references = vec![dependency.path.clone()];
    assert_eq!(put(&package), "references-missing");
    package.references = vec![foreign.path.clone()];
    assert_eq!(put(&package), "");
    let other = Package { references: vec![dependency.path.clone()], ..Package::of(6, &Node::file("x")) };
    world.set_cache("any", |row| row.references = ReferencePolicy::Any);
    world.put_path("any", &other);
    world.set_cache("strict", |_| {});
    world.put_path("strict", &dependency);
    let name = world.put_nar("strict", &package.nar, Codec::Zstd);
    package.references = vec![dependency.path.clone()];
    let answer = world.put(&target.replace("pub", "strict"), package.narinfo(&name, "zstd"));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[test]
fn references_that_the_path_was_made_with_need_not_occur_in_the_nar() {
    let world = World::new();
    let dependency = Package::new(3, 1000);
    // As `builtins.toFile` makes it of a text that lost what it was made of.
    let text = "nothing here";
    let ca = format!("text:{}", Sha256::of(text.as_bytes()));
    let address: ContentAddress = ca.parse().unwrap();
    let path = address.store_path("odd", [&dependency.path], false, "/nix/store").unwrap();
    let odd = Package { path, references: vec![dependency.path.clone()], ..Package::of(4, &Node::file(text)) };
    let name = world.put_nar("pub", &odd.nar, Codec::Zstd);
    let target = format!("/pub/{}.narinfo", odd.hash());
    let put = |package: &Package| code(&world.put(&target, package.narinfo(&name, "zstd")));
    assert_eq!(put(&odd), "references-foreign", "without its address, nothing proves them");
    let proven = Package { extra: format!("CA: {ca}\n"), ..odd.clone() };
    assert_eq!(put(&proven), "references-missing");
    let foreign = Package::new(5, 1000);
    world.put_path("pub", &foreign);
    world.put_path("pub", &dependency);
    assert_eq!(put(&Package { references: vec![foreign.path], ..proven.clone() }), "references-foreign");
    assert_eq!(put(&proven), "");
    assert_eq!(read(&world, "pub", &proven).references, [dependency.path].into());
}

#[test]
fn a_content_address_is_kept_only_if_the_path_follows_from_it() {
    let world = World::new();
    let text = "some text";
    let ca = format!("text:{}", Sha256::of(text.as_bytes()));
    let address: ContentAddress = ca.parse().unwrap();
    let path = address.store_path("text", [], false, "/nix/store").unwrap();
    let package = Package { path, ..Package::of(8, &Node::file(text)) };
    let name = world.put_nar("pub", &package.nar, Codec::Zstd);
    let target = format!("/pub/{}.narinfo", package.hash());
    let put = |ca: &str| {
        let offer = Package { extra: format!("CA: {ca}\n"), ..package.clone() };
        let answer = world.put(&target, offer.narinfo(&name, "zstd"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        read(&world, "pub", &package).ca
    };
    // No signature is over it: anyone can add a line, and Nix would refuse the path.
    let wrong = format!("fixed:r:sha256:{}", "0".repeat(52));
    assert_eq!(put(&wrong), None);
    assert_eq!(put(&ca), Some(address.clone()));
    assert_eq!(put(&wrong), Some(address));

    // What an earlier firn has stored is not served either.
    let cache = "pub".parse().unwrap();
    let mut row = world.meta.path(&cache, &package.path.hash()).unwrap().unwrap();
    row.ca = Some(wrong);
    let op = Op::Path(cache, package.path.hash(), row);
    world.meta.commit(1, &[Commit { session: None, packs: vec![], ops: vec![op] }]).unwrap()[0].clone().unwrap();
    world.app.http.forget_narinfos();
    assert_eq!(read(&world, "pub", &package).ca, None);
    assert_eq!(put(&ca), Some(ca.parse().unwrap()));
}

#[test]
fn a_hash_that_has_another_name_is_a_conflict() {
    let world = World::new();
    let package = Package::new(9, 1000);
    let squatter = Package { path: StorePath::new(package.path.hash(), "squatted").unwrap(), ..Package::new(10, 1000) };
    world.put_path("pub", &Package { references: vec![], ..squatter.clone() });
    let name = world.put_nar("pub", &package.nar, Codec::Zstd);
    let target = format!("/pub/{}.narinfo", package.hash());
    let offer = Package { references: vec![], ..package };
    assert_eq!(world.put(&target, offer.narinfo(&name, "zstd")).status, 200);
    let row = world.meta.path(&"pub".parse().unwrap(), &offer.path.hash()).unwrap().unwrap();
    assert_eq!((&row.path, row.conflicts.len()), (&squatter.path, 1));
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    assert_eq!(world.put(&target, offer.narinfo(&name, "zstd")).status, 409);
}

#[test]
fn prints_what_was_said_and_signs_it() {
    let world = World::new();
    let mut package = Package::new(5, 1000);
    package.extra = format!("Deriver: {}-x.drv\nSystem: x86_64-linux\n", hash_of(6));
    let key = SecretKey::generate("uploader-1", [9; 32]).unwrap();
    let unsigned = NarInfo::parse(package.narinfo("x", "zstd").as_bytes(), "/nix/store").unwrap();
    package.extra += &format!("Sig: {}\n", key.sign(unsigned.fingerprint("/nix/store").as_bytes()));
    for (cache, transport) in [("pub", "nar.zst"), ("priv", "nar")] {
        world.put_path(cache, &package);
        let info = read(&world, cache, &package);
        assert_eq!(info.url, format!("nar/{}.{transport}", package.nar_hash().to_nix32()));
        assert!(info.file_hash.is_some());
        assert_eq!((&info.references, &info.deriver), (&unsigned.references, &unsigned.deriver));
        let server = SecretKey::generate("test-1", [5; 32]).unwrap();
        assert!(info.is_signed_by(&key.public(), "/nix/store") && info.is_signed_by(&server.public(), "/nix/store"));
        assert_eq!(world.get(&format!("/{cache}/{}", info.url)).status, 200);
    }
}

#[test]
fn merges_signatures_without_a_nar() {
    let world = World::new();
    let package = Package::new(7, 1000);
    world.put_path("pub", &package);
    // As `nix store sign --store` does: what was served, and one line more.
    let mut info = read(&world, "pub", &package);
    let keys: Vec<_> = [1, 2].map(|n| SecretKey::generate(&format!("key-{n}"), [n; 32]).unwrap()).into();
    for key in &keys {
        info.sign(key, "/nix/store");
        let answer = world.put(&format!("/pub/{}.narinfo", package.hash()), info.to_text("/nix/store"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let merged = read(&world, "pub", &package);
        assert!(merged.is_signed_by(&key.public(), "/nix/store"));
        assert_eq!(merged.signatures.len(), info.signatures.len());
    }
    // An older narinfo takes nothing away.
    world.put_path("pub", &package);
    assert_eq!(read(&world, "pub", &package).signatures.len(), 3);
}

#[test]
fn keeps_the_first_of_two_builds() {
    let world = World::new();
    let first = Package::of(8, &Node::file("first"));
    let second = Package { nar: Node::file("second").encode(), ..first.clone() };
    world.put_path("pub", &first);
    world.put_path("pub", &second);
    assert_eq!(read(&world, "pub", &first).nar_hash, first.nar_hash());
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    let name = world.put_nar("pub", &second.nar, Codec::Xz);
    let answer = world.put(&format!("/pub/{}.narinfo", first.hash()), second.narinfo(&name, "xz"));
    assert_eq!((answer.status, code(&answer).as_str()), (409, "path-conflict"));
    assert_eq!(read(&world, "pub", &first).nar_hash, first.nar_hash());
    // Both files can still be had.
    assert_eq!(world.get(&format!("/pub/nar/{name}")).status, 200);
}

#[test]
fn demands_a_trusted_signature() {
    let world = World::new();
    let trusted = SecretKey::generate("trusted-1", [3; 32]).unwrap();
    let other = SecretKey::generate("trusted-1", [4; 32]).unwrap();
    world.set_cache("pub", |row| row.trusted_keys = vec![trusted.public().to_string()]);
    let package = Package::new(9, 1000);
    let name = world.put_nar("pub", &package.nar, Codec::Zstd);
    let target = format!("/pub/{}.narinfo", package.hash());
    let mut info = NarInfo::parse(package.narinfo(&name, "zstd").as_bytes(), "/nix/store").unwrap();
    assert_eq!(code(&world.put(&target, info.to_text("/nix/store"))), "signature-required");
    info.sign(&other, "/nix/store");
    assert_eq!(code(&world.put(&target, info.to_text("/nix/store"))), "signature-required");
    info.sign(&trusted, "/nix/store");
    assert_eq!(world.put(&target, info.to_text("/nix/store")).status, 200);
}

#[test]
fn takes_encoded_narinfos_and_no_bombs() {
    let world = World::new();
    let package = Package::new(10, 1000);
    let name = world.put_nar("pub", &package.nar, Codec::Zstd);
    let target = format!("/pub/{}.narinfo", package.hash());
    let text = package.narinfo(&name, "zstd");
    let put = |encoding: &str, body: Vec<u8>| {
        world.send(Request::put(&target, body).token(&world.token).header("Content-Encoding", encoding))
    };
    for (encoding, codec) in [
        ("gzip", Codec::Gzip),
        ("zstd", Codec::Zstd),
        ("br", Codec::Brotli),
        ("xz", Codec::Xz),
        ("bzip2", Codec::Bzip2),
    ] {
        let bomb = put(encoding, encode(codec, &vec![b'x'; 80 << 20]));
        assert_eq!((bomb.status, code(&bomb).as_str()), (413, "too-large"), "{encoding}");
        let mut cut = encode(codec, text.as_bytes());
        cut.truncate(cut.len() - 5);
        assert_eq!(put(encoding, cut).status, 400, "{encoding}");
        assert_eq!(put(encoding, encode(codec, text.as_bytes())).status, 200, "{encoding}");
    }
    assert_eq!(put("deflate", vec![]).status, 415);
    assert_eq!(put("gzip, gzip", vec![]).status, 415);
    assert_eq!(put("identity", text.clone().into_bytes()).status, 200);
}

#[test]
fn never_serves_stale_text() {
    let world = World::new();
    let package = Package::new(11, 1000);
    let target = format!("/pub/{}.narinfo", package.hash());
    for _ in 0..3 {
        assert_eq!(world.get(&target).status, 404);
    }
    world.put_path("pub", &package);
    assert!(world.get(&target).text().contains(".nar.zst"));
    world.set_cache("pub", |row| row.transport = Transport::None);
    assert!(world.get(&target).text().contains(".nar\n"));
    let delete = |world: &World| {
        use firn_index::Meta as _;
        world.meta.delete_cache(&"pub".parse().unwrap()).unwrap();
        world.app.caches.refresh(world.meta.as_ref()).unwrap();
    };
    delete(&world);
    assert_eq!(world.get(&target).status, 404);
    world.set_cache("pub", |_| {});
    assert_eq!(world.get(&target).status, 404);
}

#[test]
fn agrees_on_the_store_directory() {
    let world = World::new();
    assert_eq!(world.put("/pub/nix-cache-info", "StoreDir: /nix/store\n").status, 200);
    assert_eq!(world.put("/pub/nix-cache-info", "").status, 200);
    assert_eq!(code(&world.put("/pub/nix-cache-info", "StoreDir: /gnu/store\n")), "wrong-store-dir");
    assert_eq!(world.put("/pub/nix-cache-info", "Priority: many\n").status, 400);
    assert_eq!(world.put("/pub/nix-cache-info", "x".repeat(1 << 20)).status, 413);
}

#[test]
fn a_deleted_path_is_gone_under_every_name_of_its_nar() {
    let world = World::new();
    let package = Package::new(31, 5000);
    let file = world.put_nar("pub", &package.nar, Codec::Xz);
    let narinfo = format!("/pub/{}.narinfo", package.hash());
    assert_eq!(world.put(&narinfo, package.narinfo(&file, "xz")).status, 200);
    let hash = package.nar_hash().to_nix32();
    let names = [
        narinfo,
        format!("/pub/{}.ls", package.hash()),
        format!("/pub/serve/{}/self", package.hash()),
        format!("/pub/nar/{file}"),
        format!("/pub/nar/{hash}.nar"),
        format!("/pub/nar/{hash}.nar.zst"),
    ];
    let get_all = || names.iter().map(|name| world.get(name).status).collect::<Vec<_>>();
    assert_eq!(get_all(), [200; 6]);
    let removed = |cache: &_, paths: &[_]| paths.iter().for_each(|hash| world.app.http.forget_path(cache, hash));
    let cache = "pub".parse().unwrap();
    world.app.engine.delete_path(&cache, &package.path.hash(), false, &removed).unwrap();
    assert_eq!(get_all(), [404; 6]);
}
