//! References that are upstream's.

use firn_nix::{NarInfo, SecretKey, Sha256};
use serde_json::{Value, json};

use super::support::{Client, Parcel, body, status};
use crate::support::{Package, World};

fn upstream() -> SecretKey {
    SecretKey::generate("up-1", [3; 32]).unwrap()
}

/// Returns a proof by a key.
fn proof(package: &Package, key: &SecretKey) -> Value {
    let info = NarInfo::parse(package.narinfo("x.nar", "none").as_bytes(), "/nix/store").unwrap();
    let references: Vec<_> = package.references.iter().map(ToString::to_string).collect();
    json!({
        "path": package.path.to_string(),
        "nar_hash": package.nar_hash().to_string(),
        "nar_size": package.nar.len(),
        "references": references,
        "signature": key.sign(info.fingerprint("/nix/store").as_bytes()).to_string(),
    })
}

/// Returns what refers to a package, which is not uploaded.
fn referrer(seed: u64, package: &Package) -> Parcel {
    let target = package.path.to_absolute("/nix/store");
    let mut referrer = Package::of(seed, &firn_testkit::nar::Node::file(target));
    referrer.references = vec![package.path.clone()];
    Parcel::of(referrer)
}

fn commit(client: &Client, parcel: &Parcel, proofs: &[Value]) -> (String, String) {
    client.frames(parcel.frames());
    let head = json!({ "paths": [parcel.item(true)], "upstream": proofs });
    let answer = client.commit(body(&head, &[&parcel.encoded])).remove(0);
    (status(&answer), answer["code"].as_str().unwrap_or_default().to_owned())
}

fn refused(code: &str) -> (String, String) {
    ("error".to_owned(), code.to_owned())
}

#[test]
fn what_is_not_proven_is_missing() {
    let world = World::new();
    world.set_cache("pub", |row| row.upstream_keys = vec![upstream().public().to_string()]);
    let client = Client::begin(&world, "pub", &world.token);
    let package = Package::new(1, 300);
    let parcel = referrer(2, &package);
    assert_eq!(commit(&client, &parcel, &[]), refused("references-missing"));
    let unrelated = proof(&Package::new(3, 300), &upstream());
    assert_eq!(commit(&client, &parcel, &[unrelated]), refused("references-missing"));
    let other_name = SecretKey::generate("up-2", [3; 32]).unwrap();
    let other_material = SecretKey::generate("up-1", [4; 32]).unwrap();
    for key in [other_name, other_material] {
        assert_eq!(commit(&client, &parcel, &[proof(&package, &key)]), refused("bad-proof"));
    }
    let genuine = proof(&package, &upstream());
    for (field, value) in
        [("nar_hash", json!(Sha256::of(b"x").to_string())), ("nar_size", json!(1)), ("references", json!([]))]
    {
        let mut forged = genuine.clone();
        forged[field] = value;
        assert_eq!(commit(&client, &parcel, &[forged]), refused("bad-proof"), "{field}");
    }
    // A signature of one path proves nothing of another.
    let mut moved = proof(&Package::new(3, 300), &upstream());
    moved["path"] = json!(package.path.to_string());
    assert_eq!(commit(&client, &parcel, &[moved]), refused("bad-proof"));
    assert_eq!(world.app.engine.stats().unwrap().totals.paths, 0);
    // By the usual key alone nothing of this upstream is proven.
    world.set_cache("pub", |row| row.upstream_keys = vec![firn_index::CacheRow::NIXOS_KEY.to_owned()]);
    assert_eq!(commit(&client, &parcel, &[genuine]), refused("bad-proof"));
}

#[test]
fn what_was_proven_once_is_remembered_while_the_key_is_known() {
    let world = World::new();
    let keys = vec![upstream().public().to_string()];
    for cache in ["pub", "priv"] {
        world.set_cache(cache, |row| row.upstream_keys.clone_from(&keys));
    }
    let client = Client::begin(&world, "pub", &world.token);
    let package = Package::new(11, 300);
    assert_eq!(commit(&client, &referrer(12, &package), &[proof(&package, &upstream())]).0, "created");
    assert_eq!(commit(&client, &referrer(13, &package), &[]).0, "created");
    // Not for another cache, and no longer than the cache is as it was.
    let other = Client::begin(&world, "priv", &world.token);
    assert_eq!(commit(&other, &referrer(14, &package), &[]), refused("references-missing"));
    world.set_cache("pub", |row| row.upstream_keys.clear());
    assert_eq!(commit(&client, &referrer(15, &package), &[]), refused("references-missing"));
    assert_eq!(commit(&client, &referrer(15, &package), &[proof(&package, &upstream())]), refused("bad-proof"));
    assert_eq!(world.get(&format!("/pub/{}.narinfo", package.hash())).status, 404, "it is still not here");
}
