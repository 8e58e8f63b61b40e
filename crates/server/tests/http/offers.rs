//! What becomes of a path's narinfo when others are offered: references and signatures.

use firn_index::{ConflictPolicy, Meta as _, PathRow};
use firn_nix::{NarInfo, SecretKey};
use firn_server::http::codec::Codec;
use firn_testkit::nar::Node;

use crate::support::{Package, World, code};

/// Returns a package whose NAR mentions two others, which the cache has.
fn with_dependencies(world: &World) -> (Package, [Package; 2]) {
    let dependencies = [Package::new(21, 1000), Package::new(22, 1000)];
    let mentions: Vec<_> = dependencies.iter().map(|one| one.path.to_absolute("/nix/store")).collect();
    for dependency in &dependencies {
        world.put_path("pub", dependency);
    }
    (Package::of(23, &Node::file(mentions.join(" "))), dependencies)
}

/// Returns the narinfo of a package that refers to some others, signed by a key.
fn offer(world: &World, package: &Package, references: &[&Package], key: Option<&SecretKey>) -> NarInfo {
    let references = references.iter().map(|one| one.path.clone()).collect();
    let package = Package { references, ..package.clone() };
    let file = world.put_nar("pub", &package.nar, Codec::Zstd);
    let mut info = NarInfo::parse(package.narinfo(&file, "zstd").as_bytes(), "/nix/store").unwrap();
    if let Some(key) = key {
        info.sign(key, "/nix/store");
    }
    info
}

fn put(world: &World, info: &NarInfo) -> (u16, String) {
    let answer = world.put(&format!("/pub/{}.narinfo", info.store_path.hash()), info.to_text("/nix/store"));
    (answer.status, if answer.status == 200 { String::new() } else { code(&answer) })
}

fn served(world: &World, package: &Package) -> NarInfo {
    let answer = world.get(&format!("/pub/{}.narinfo", package.hash()));
    assert_eq!(answer.status, 200, "{}", answer.text());
    NarInfo::parse(&answer.body, "/nix/store").unwrap()
}

fn row(world: &World, package: &Package) -> PathRow {
    world.meta.path(&"pub".parse().unwrap(), &package.path.hash()).unwrap().unwrap()
}

fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::generate(name, [seed; 32]).unwrap()
}

#[test]
fn a_narinfo_with_too_few_references_gives_way_to_one_with_more() {
    let world = World::new();
    let (package, [a, b]) = with_dependencies(&world);
    let [early, late, server] = [key("early-1", 1), key("late-1", 2), key("test-1", 5)];
    let ok = (200, String::new());
    assert_eq!(put(&world, &offer(&world, &package, &[], Some(&early))), ok);
    assert!(served(&world, &package).references.is_empty());

    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    let whole = offer(&world, &package, &[&a, &b], Some(&late));
    assert_eq!(put(&world, &whole), ok, "it adds what was left out");
    let info = served(&world, &package);
    assert_eq!(info.references, whole.references);
    assert!(info.is_signed_by(&late.public(), "/nix/store") && info.is_signed_by(&server.public(), "/nix/store"));
    assert_eq!(info.signatures.len(), 2, "what was signed before is not this any more");
    assert_eq!(row(&world, &package).conflicts, []);

    // What says less is a conflict: told as one, recorded once, and nothing of it is taken.
    let less = offer(&world, &package, &[&a], Some(&early));
    assert_eq!(put(&world, &less), (409, "path-conflict".to_owned()));
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::KeepFirst);
    assert_eq!(put(&world, &less), ok);
    assert_eq!(served(&world, &package), info);
    let conflicts = row(&world, &package).conflicts;
    assert_eq!((conflicts.len(), conflicts[0].nar_hash), (1, package.nar_hash()));
}

#[test]
fn more_references_must_be_there_like_those_of_a_new_path() {
    let world = World::new();
    let (a, absent) = (Package::new(24, 1000), Package::new(25, 1000));
    world.put_path("pub", &a);
    let mentions = [&a, &absent].map(|one| one.path.to_absolute("/nix/store")).join(" ");
    let package = Package::of(26, &Node::file(mentions));
    assert_eq!(put(&world, &offer(&world, &package, &[&a], None)).0, 200);
    let both = offer(&world, &package, &[&a, &absent], None);
    assert_eq!(put(&world, &both), (400, "references-missing".to_owned()));
    assert_eq!(served(&world, &package).references.len(), 1);
    // Neither more nor less.
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    world.put_path("pub", &absent);
    assert_eq!(put(&world, &offer(&world, &package, &[&absent], None)), (409, "path-conflict".to_owned()));
    assert_eq!(put(&world, &both).0, 200);
    assert_eq!(served(&world, &package).references.len(), 2);
}

/// Returns lines of signatures that nobody made, in names that begin alike.
fn made_up(name: impl Fn(usize) -> String, count: usize) -> String {
    let signature =
        |n| format!("Sig: {}\n", key("x", n as u8).sign(b"anything").to_string().replacen("x", &name(n), 1));
    (0..count).map(signature).collect()
}

#[test]
fn signatures_of_keys_that_the_cache_knows_come_first_and_are_real() {
    let world = World::new();
    let [good, other, server] = [key("zgood-1", 1), key("other-1", 2), key("test-1", 5)];
    world.set_cache("pub", |row| {
        row.upstream_keys = vec![good.public().to_string()];
        row.trusted_keys = vec![other.public().to_string()];
    });
    let package = Package::new(27, 1000);
    let signed = offer(&world, &package, &[&package], Some(&other));
    let flood = |info: &NarInfo| {
        let forged = ["test-1", "zgood-1", "other-1"].map(|name| made_up(|_| name.to_owned(), 2)).concat();
        let text = format!("{}{}{forged}", info.to_text("/nix/store"), made_up(|n| format!("evil-{n}"), 100));
        let answer = world.put(&format!("/pub/{}.narinfo", package.hash()), text);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.text()
    };
    assert!(flood(&signed).contains("44 signatures"), "6 that are not real, and 38 of 100");
    let names = |info: &NarInfo, name: &str| info.signatures.iter().filter(|sig| sig.key_name() == name).count();
    let check = |known: &[&SecretKey]| {
        let info = served(&world, &package);
        assert_eq!(info.signatures.len(), 64);
        for key in known {
            assert!(info.is_signed_by(&key.public(), "/nix/store"));
        }
        assert_eq!(["test-1", "other-1"].map(|name| names(&info, name)), [1, 1]);
        assert_eq!(names(&info, "zgood-1"), known.len() - 2);
    };
    check(&[&server, &other]);

    // Of a key that the cache knows, it finds room.
    let mut better = signed.clone();
    better.sign(&good, "/nix/store");
    flood(&better);
    check(&[&server, &other, &good]);
}

#[test]
fn references_are_added_only_where_a_nar_names_them() {
    let world = World::new();
    let [mine, server] = [key("mine-1", 1), key("test-1", 5)];
    // 32 letters that any NAR may have, and that anyone can give a path of his own.
    let zeros = Package {
        path: format!("{}-evil", "0".repeat(32)).parse().unwrap(),
        references: vec![],
        ..Package::new(31, 1000)
    };
    world.put_path("pub", &zeros);
    let package = Package::of(32, &Node::file("0".repeat(40)));
    assert_eq!(put(&world, &offer(&world, &package, &[], Some(&mine))).0, 200);
    assert_eq!(put(&world, &offer(&world, &package, &[&zeros], None)).0, 200, "one of two offers stays");
    let info = served(&world, &package);
    assert!(info.references.is_empty());
    assert!(info.is_signed_by(&mine.public(), "/nix/store") && info.is_signed_by(&server.public(), "/nix/store"));
    assert_eq!(row(&world, &package).conflicts.len(), 1);

    // It names one that a known key left out when it signed: that stays as well.
    world.set_cache("pub", |row| row.upstream_keys = vec![mine.public().to_string()]);
    let (package, [a, b]) = with_dependencies(&world);
    assert_eq!(put(&world, &offer(&world, &package, &[&a], Some(&mine))).0, 200);
    assert_eq!(put(&world, &offer(&world, &package, &[&a, &b], None)).0, 200);
    assert_eq!(served(&world, &package).references.len(), 1);
    assert_eq!(put(&world, &offer(&world, &package, &[&a, &b], Some(&mine))).0, 200);
    assert_eq!(served(&world, &package).references.len(), 2);
}
