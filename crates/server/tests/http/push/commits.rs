//! Pushes from their first question to the path that is served.

use std::io::Read as _;

use firn_index::{ConflictPolicy, ReferencePolicy, Verb};
use firn_nix::{NarInfo, SecretKey};
use firn_server::http::codec::Codec;
use firn_storage::Storage as _;
use firn_testkit::http::Request;
use serde_json::{Value, json};

use super::support::{Client, Parcel, body, missing, status};
use crate::support::{Package, Settings, World, encode};

fn about(answer: &Value) -> (String, Option<&str>) {
    (status(answer), answer["code"].as_str())
}

#[test]
fn a_push_is_served_as_what_was_uploaded_by_nix() {
    let world = World::new();
    let client = Client::begin(&world, "priv", &world.token);
    let parcel = Parcel::new(1, 900_000);
    let count = parcel.chunks.len();
    let hash = parcel.package.path.hash().0.to_vec();
    assert_eq!(client.ask("/missing-paths", hash.clone(), 1), [true]);
    assert_eq!(client.ask("/known-recipes", parcel.recipe().0.to_vec(), 1), [false]);
    assert_eq!(client.ask("/missing-chunks", parcel.ids(), count), vec![true; count]);
    let taken = client.frames(parcel.frames());
    assert_eq!((taken["frames"].as_u64(), taken["chunks"].as_u64()), (Some(count as u64), Some(count as u64)));
    assert_eq!(taken["new_chunks"].as_u64(), Some(count as u64));
    assert_eq!(client.frames(parcel.frames())["new_chunks"], 0, "once more");
    assert_eq!(client.ask("/missing-chunks", parcel.ids(), count), vec![false; count]);
    assert_eq!(world.get(&format!("/priv/{}.narinfo", parcel.package.hash())).status, 404);

    let head = json!({ "paths": [parcel.item(true)], "later": { "x": [1] } });
    let packed = encode(Codec::Zstd, &body(&head, &[&parcel.encoded]));
    let answer = world.send(client.request("POST", "/commits").header("Content-Encoding", "zstd").body(packed));
    let line: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((line["path"].as_str(), status(&line)), (Some(parcel.path().as_str()), "created".into()));
    assert_eq!(client.ask("/missing-paths", hash, 1), [false]);
    assert_eq!(client.ask("/known-recipes", parcel.recipe().0.to_vec(), 1), [true]);
    let narinfo = world.get(&format!("/priv/{}.narinfo", parcel.package.hash()));
    let info = NarInfo::parse(&narinfo.body, "/nix/store").unwrap();
    let key = SecretKey::generate("test-1", [5; 32]).unwrap().public();
    assert!(info.is_signed_by(&key, "/nix/store") && info.nar_hash == parcel.package.nar_hash());
    assert!(world.get(&format!("/priv/{}", info.url)).body == parcel.package.nar);
    let again = client.commit(body(&head, &[&parcel.encoded]));
    assert_eq!(about(&again[0]), ("merged".into(), None));
}

#[test]
fn a_client_of_another_version_is_understood() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::of(Package { references: vec![], ..Package::new(2, 3000) });
    client.frames(parcel.frames());
    let mut item = parcel.item(true);
    let fields = item.as_object_mut().unwrap();
    fields.insert("from_the_future".into(), json!({ "deep": [null] }));
    assert!(fields.remove("references").is_some());
    assert_eq!(status(&client.commit(body(&json!({ "paths": [item] }), &[&parcel.encoded]))[0]), "created");
    // One that speaks only what comes next finds nothing.
    let future = firn_testkit::http::Request::get("/api/v2/capabilities").send(world.address).unwrap();
    assert_eq!(future.status, 404);
    assert!(future.text().starts_with("unsupported-api: "), "{}", future.text());
}

#[test]
fn answers_come_in_order_whatever_became_of_each() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let base = Parcel::new(10, 400_000);
    let mut package = Package::of(11, &firn_testkit::nar::Node::file(base.package.path.to_absolute("/nix/store")));
    package.references = vec![base.package.path.clone()];
    let referrer = Parcel::of(package);
    let (absent, liar) = (Parcel::new(12, 200_000), Parcel::new(13, 3000));
    for parcel in [&base, &referrer, &liar] {
        client.frames(parcel.frames());
    }
    client.frames(super::support::frame(&[&absent.chunks[0].1]));
    let mut lie = liar.item(true);
    lie["nar_hash"] = base.package.nar_hash().to_string().into();
    let unknown = Parcel::new(14, 3000);
    let head = json!({ "paths": [absent.item(true), base.item(true), lie, unknown.item(false), referrer.item(true), base.item(true)] });
    let recipes = [&absent, &base, &liar, &referrer, &base].map(|parcel| &parcel.encoded[..]);
    let answers = client.commit(body(&head, &recipes));
    let mut expected = vec![true; absent.chunks.len()];
    expected[0] = false;
    assert_eq!(missing(&answers[0], absent.chunks.len()), expected);
    let came: Vec<_> = answers.iter().map(about).collect();
    let wanted = [
        ("missing-chunks", None),
        ("created", None),
        ("error", Some("nar-mismatch")),
        ("recipe-unknown", None),
        ("created", None),
        ("merged", None),
    ];
    assert_eq!(came, wanted.map(|(status, code)| (status.to_owned(), code)));
    let paths: Vec<_> = answers.iter().map(|answer| answer["path"].as_str().unwrap().to_owned()).collect();
    let order = [&absent, &base, &liar, &unknown, &referrer, &base].map(Parcel::path);
    assert_eq!(paths, order);
    for parcel in [&absent, &liar, &unknown] {
        assert_eq!(world.get(&format!("/pub/{}.narinfo", parcel.package.hash())).status, 404);
    }
}

#[test]
fn a_long_batch_is_committed_whole() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcels: Vec<_> = (0..300).map(|seed| Parcel::new(1000 + seed, 200)).collect();
    let parcels: Vec<_> = parcels.iter().collect();
    assert_eq!(client.push(&parcels), vec!["created"; 300]);
    assert_eq!(client.push(&parcels[..200]), vec!["merged"; 200]);
    let hashes = parcels.iter().flat_map(|parcel| parcel.package.path.hash().0).collect();
    assert_eq!(client.ask("/missing-paths", hashes, 300), vec![false; 300]);
}

#[test]
fn a_recipe_comes_in_parts_and_goes_on_where_it_was() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(20, 900_000);
    client.frames(parcel.frames());
    let (recipe, whole) = (parcel.recipe(), &parcel.encoded);
    let put = |offset: usize, part: &[u8]| {
        let answer = client.send("PUT", &format!("/recipes/{recipe}/{offset}?length={}", whole.len()), part);
        let value: Value = serde_json::from_slice(&answer.body).unwrap();
        (answer.status, value["received"].as_u64(), value["code"].as_str().map(str::to_owned))
    };
    let commit = || status(&client.commit(body(&json!({ "paths": [parcel.item(false)] }), &[]))[0]);
    assert_eq!(put(100, &whole[100..]), (409, None, Some("part-out-of-order".into())));
    assert_eq!(put(0, &whole[..100]), (200, Some(100), None));
    assert_eq!(commit(), "recipe-unknown");
    assert_eq!(put(0, &whole[..100]), (200, Some(100), None), "as after a connection that broke");
    assert_eq!(put(0, &[]).0, 400);
    assert_eq!(put(100, &whole[100..]), (200, Some(whole.len() as u64), None));
    assert_eq!(commit(), "created");
    assert_eq!(commit(), "merged");
    assert_eq!(put(100, &whole[100..]).0, 409, "what was committed is forgotten");
}

#[test]
fn what_a_cache_demands_it_demands_of_pushes_too() {
    let world = World::new();
    let key = SecretKey::generate("builder-1", [9; 32]).unwrap();
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(30, 3000);
    client.frames(parcel.frames());
    let commit = |item: &Value| {
        let answer = &client.commit(body(&json!({ "paths": [item] }), &[&parcel.encoded]))[0];
        (status(answer), answer["code"].as_str().unwrap_or_default().to_owned())
    };
    world.set_cache("pub", |row| row.trusted_keys = vec![key.public().to_string()]);
    let mut item = parcel.item(true);
    let said = ("error".to_owned(), "signature-required".to_owned());
    assert_eq!(commit(&item), said);
    item["signatures"] = json!([key.sign(b"something else").to_string()]);
    assert_eq!(commit(&item), said);
    let text = parcel.package.narinfo("x.nar", "none");
    let info = NarInfo::parse(text.as_bytes(), "/nix/store").unwrap();
    item["signatures"] = json!([key.sign(info.fingerprint("/nix/store").as_bytes()).to_string()]);
    item["references"] = json!([]);
    assert_eq!(commit(&item), said, "another path than the one that was signed");
    item["references"] = parcel.item(true)["references"].clone();
    assert_eq!(commit(&item), ("created".into(), String::new()));
    let narinfo = world.get(&format!("/pub/{}.narinfo", parcel.package.hash())).text();
    assert!(narinfo.contains("Sig: builder-1:") && narinfo.contains("Sig: test-1:"), "{narinfo}");

    // Another NAR of the same path.
    world.set_cache("pub", |row| row.trusted_keys.clear());
    let mut other = Parcel::new(31, 3000);
    other.package.path = parcel.package.path.clone();
    client.frames(other.frames());
    let again = |client: &Client| {
        let mut item = other.item(true);
        item["references"] = json!([]);
        let answer = &client.commit(body(&json!({ "paths": [item] }), &[&other.encoded]))[0];
        (status(answer), answer["code"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(again(&client), ("kept-first".into(), String::new()));
    let watcher = world.make_token(60, "pub", &[Verb::Pull, Verb::Usage], |_| {});
    let target = format!("/api/v1/caches/pub/paths/{}", parcel.package.hash());
    let told: Value = serde_json::from_slice(&world.send(Request::get(&target).token(&watcher)).body).unwrap();
    let conflict = &told["conflicts"][0];
    assert!(conflict["files_total"].as_u64() > Some(0) && conflict["files"][0]["path"].is_string(), "{told}");
    world.set_cache("pub", |row| row.on_conflict = ConflictPolicy::Reject);
    assert_eq!(again(&client), ("rejected".into(), "path-conflict".into()));
    let narinfo = NarInfo::parse(&world.get(&format!("/pub/{}.narinfo", parcel.package.hash())).body, "/nix/store");
    assert_eq!(narinfo.unwrap().nar_hash, parcel.package.nar_hash());
}

#[test]
fn references_are_there_and_in_the_nar() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let (absent, other) = (Package::new(42, 10), Parcel::new(41, 3000));
    let text = firn_testkit::nar::Node::file(absent.path.to_absolute("/nix/store"));
    let parcel = Parcel::of(Package::of(40, &text));
    assert_eq!(client.push(&[&other]), ["created"]);
    client.frames(parcel.frames());
    let commit = |reference: &str| {
        let mut item = parcel.item(true);
        item["references"] = json!([reference]);
        let answer = client.commit(body(&json!({ "paths": [item] }), &[&parcel.encoded])).remove(0);
        (status(&answer), answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let absent = absent.path.to_string();
    assert_eq!(commit(&absent), ("error".into(), "references-missing".into()));
    assert_eq!(commit(&other.path()), ("error".into(), "references-foreign".into()));
    world.set_cache("pub", |row| row.references = ReferencePolicy::Any);
    assert_eq!(commit(&absent), ("created".into(), String::new()));
}

#[test]
fn what_is_gone_or_damaged_is_asked_for_again() {
    let world = World::with(Settings { frame_cache_bytes: 0, ..Settings::default() });
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(50, 500_000);
    assert_eq!(client.push(&[&parcel]), ["created"]);
    let hash = parcel.package.path.hash().0.to_vec();
    let objects = world.storage.list("packs/", None, 100).unwrap();
    let pack = objects.iter().max_by_key(|object| object.len).unwrap();
    world.storage.damage(&pack.name, (pack.len / 2) as usize, 0x10).unwrap();
    // A reader finds the damage.
    let nar = format!("/pub/nar/{}.nar", parcel.package.nar_hash().to_nix32());
    let read = world.get(&nar);
    assert!(read.status == 404 || !read.whole);
    assert_eq!(client.ask("/missing-paths", hash.clone(), 1), [true]);
    assert_eq!(client.ask("/known-recipes", parcel.recipe().0.to_vec(), 1), [false]);
    let head = json!({ "paths": [parcel.item(true)] });
    // Questions are hints: whatever they said, the commit tells what to send.
    for _ in 0..4 {
        let answer = &client.commit(body(&head, &[&parcel.encoded]))[0];
        if status(answer) != "missing-chunks" {
            assert!(["created", "merged"].contains(&status(answer).as_str()), "{answer}");
            break;
        }
        let wanted = missing(answer, parcel.chunks.len());
        let frames = parcel.chunks.iter().zip(wanted).filter(|(_, missing)| *missing);
        client.frames(frames.flat_map(|((_, chunk), _)| super::support::frame(&[chunk])).collect());
    }
    assert_eq!(client.ask("/missing-paths", hash, 1), [false]);
    assert!(world.get(&nar).body == parcel.package.nar);
}

#[test]
fn a_client_that_goes_away_leaves_a_server_that_goes_on() {
    let settings = Settings::default();
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcels: Vec<_> = (0..20).map(|seed| Parcel::new(2000 + seed, 100_000)).collect();
    for parcel in &parcels {
        client.frames(parcel.frames());
    }
    let items: Vec<_> = parcels.iter().map(|parcel| parcel.item(true)).collect();
    let recipes: Vec<&[u8]> = parcels.iter().map(|parcel| &parcel.encoded[..]).collect();
    let whole = body(&json!({ "paths": items }), &recipes);
    let request = client.request("POST", "/commits").body(whole.clone());
    let mut stream = request.start(world.address).unwrap();
    std::io::Write::write_all(&mut stream, &whole).unwrap();
    // It has begun to answer.
    stream.read_exact(&mut [0; 12]).unwrap();
    drop(stream);
    world.wait_until_idle(&settings);
    let parcels: Vec<_> = parcels.iter().collect();
    let came = client.push(&parcels);
    assert!(came.iter().all(|status| ["created", "merged"].contains(&status.as_str())), "{came:?}");
}

#[test]
fn overload_and_a_full_disk_are_told_apart() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(60, 3000);
    world.storage.set_capacity(Some(world.stored_bytes() + 10));
    for (rest, body) in [("/frames", parcel.frames()), ("/commits", b"{}\n".to_vec())] {
        let answer = client.post(rest, body);
        assert_eq!(super::support::refusal(&answer), (507, "storage-full".into()));
        assert_eq!(answer.header("retry-after"), Some("60"));
    }
    assert_eq!(client.ask("/missing-chunks", parcel.ids(), parcel.chunks.len()).len(), parcel.chunks.len());
    world.storage.set_capacity(None);
    assert_eq!(client.push(&[&parcel]), ["created"]);
}
