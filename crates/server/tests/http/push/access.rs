//! Who may ask what, and who is told what.

use firn_index::Verb;
use firn_testkit::http::{Answer, Request};
use serde_json::Value;

use super::support::{Client, Parcel, body, missing, refusal, status};
use crate::support::World;

const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// How many of the requests below are questions, which whoever may pull may ask.
const QUESTIONS: usize = 4;

/// Requests to every endpoint of a cache: method, path, body.
fn requests() -> Vec<(&'static str, String, Vec<u8>)> {
    let session = "0".repeat(32);
    vec![
        ("GET", String::new(), vec![]),
        ("GET", "/paths?since=5".into(), vec![]),
        ("POST", "/missing-paths".into(), vec![0; 20]),
        ("GET", "/pins".into(), vec![]),
        ("POST", "/sessions".into(), vec![]),
        ("DELETE", format!("/sessions/{session}"), vec![]),
        ("POST", "/known-recipes".into(), vec![0; 32]),
        ("POST", "/missing-chunks".into(), vec![0; 32]),
        ("POST", "/frames".into(), vec![0; 100]),
        ("PUT", format!("/recipes/{ZERO}/0?length=5"), vec![0; 5]),
        ("POST", "/commits".into(), b"{}\n".to_vec()),
        ("POST", "/pins/add".into(), b"{}".to_vec()),
        ("POST", "/pins/remove".into(), b"{}".to_vec()),
    ]
}

fn essence(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, answer.body.clone())
}

#[test]
fn a_private_cache_and_none_look_alike() {
    let world = World::new();
    Client::begin(&world, "priv", &world.token).push(&[&Parcel::new(1, 3000)]);
    let tokens = [
        None,
        Some(world.make_token(20, "other", &[Verb::Pull, Verb::Push], |_| {})),
        Some("firn_nonsense".to_owned()),
        Some(world.make_token(22, "*", &[Verb::Push], |row| row.revoked_at = Some(5))),
        Some(world.make_token(23, "*", &[Verb::Push], |row| row.expires_at = Some(5))),
    ];
    let expected = [
        ["no-credentials", "forbidden"],
        ["not-granted", "forbidden"],
        ["bad-token", "forbidden"],
        ["token-revoked"; 2],
        ["token-expired"; 2],
    ];
    for (token, codes) in tokens.iter().zip(expected) {
        for (index, (method, rest, body)) in requests().into_iter().enumerate() {
            let [private, absent, root] = ["priv", "absent", "_"]
                .map(|cache| Client::new(&world, cache, token.as_deref()).send(method, &rest, body.clone()));
            assert_eq!(essence(&private), essence(&absent), "{method} {rest}");
            let is_question = index < QUESTIONS;
            let (status, code) = refusal(&private);
            assert_eq!(code, codes[usize::from(is_question)], "{method} {rest}");
            let not_granted = code == "not-granted" || is_question;
            assert_eq!(status, if not_granted { 403 } else { 401 }, "{method} {rest}");
            assert_eq!(refusal(&root), (403, "forbidden".into()), "nothing stands at the root");
        }
    }
}

#[test]
fn a_grant_is_enough_and_no_more_than_that() {
    let world = World::new();
    let parcel = Parcel::new(2, 3000);
    Client::begin(&world, "priv", &world.token).push(&[&parcel]);
    let hash = parcel.package.path.hash().0.to_vec();
    let absent = vec![7; 20];
    let question = [hash, absent].concat();
    let puller = world.make_token(30, "priv", &[Verb::Pull], |row| row.expires_at = Some(2_000_000));
    let pusher = world.make_token(31, "priv", &[Verb::Push], |_| {});
    for (token, may) in [(&puller, (true, false)), (&pusher, (false, true)), (&world.token, (true, true))] {
        let client = Client::new(&world, "priv", Some(token));
        // Who may not read the cache is told of what they brought, and this is somebody else's.
        assert_eq!(client.ask("/missing-paths", question.clone(), 2), [!may.0 && token != &world.token, true]);
        let answer = client.send("GET", "", vec![]);
        let about: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((about["can_pull"] == true, about["can_push"] == true), may);
        assert_eq!((about["name"].as_str(), about["public"].as_bool()), (Some("priv"), Some(false)));
        assert_eq!(about["token_expires_at"].as_u64(), (token == &puller).then_some(2_000_000));
        assert_eq!(about["upstream_keys"][0], firn_index::CacheRow::NIXOS_KEY);
        assert_eq!(about["substituters"][0], format!("http://{}/priv", world.address));
        let refused = requests().into_iter().skip(QUESTIONS).filter(|(method, rest, body)| {
            let answer = client.send(method, rest, body.clone());
            answer.status == 403 && refusal(&answer).1 == "not-granted"
        });
        assert_eq!(refused.count(), if may.1 { 0 } else { requests().len() - QUESTIONS });
    }
    // Anyone may ask a public cache what it is and has, and do nothing else.
    let anyone = Client::new(&world, "pub", None);
    assert_eq!(anyone.ask("/missing-paths", question, 2), [true, true]);
    let about: Value = serde_json::from_slice(&anyone.send("GET", "", vec![]).body).unwrap();
    assert_eq!((about["builder"].as_str(), about["can_push"].as_bool()), (Some("anonymous"), Some(false)));
    assert_eq!(refusal(&anyone.post("/frames", parcel.frames())), (401, "no-credentials".into()));
    assert_eq!(refusal(&Client::begin(&world, "pub", &world.token).send("GET", "/../absent", vec![])).0, 404);
}

#[test]
fn the_cache_at_the_root_has_a_name_of_its_own() {
    let world = World::new();
    world.set_cache("pub", |row| row.at_root = true);
    let parcel = Parcel::new(3, 3000);
    assert_eq!(Client::begin(&world, "_", &world.token).push(&[&parcel]), ["created"]);
    let hash = parcel.package.path.hash().0.to_vec();
    assert_eq!(Client::new(&world, "pub", None).ask("/missing-paths", hash, 1), [false]);
    let about: Value = serde_json::from_slice(&Client::new(&world, "_", None).send("GET", "", vec![]).body).unwrap();
    assert_eq!(about["name"], "pub");
    assert_eq!(about["substituters"][0], format!("http://{}", world.address));
}

#[test]
fn what_may_not_be_read_is_missing_until_it_is_sent() {
    let world = World::new();
    let parcel = Parcel::new(4, 300_000);
    let owner = Client::begin(&world, "priv", &world.token);
    assert_eq!(owner.push(&[&parcel]), ["created"]);
    let count = parcel.chunks.len();
    assert_eq!(owner.ask("/missing-chunks", parcel.ids(), count), vec![false; count]);
    let stored = world.stored_bytes();

    let stranger = world.make_token(40, "pub", &[Verb::Push], |_| {});
    let stranger = Client::begin(&world, "pub", &stranger);
    assert_eq!(stranger.ask("/missing-chunks", parcel.ids(), count), vec![true; count]);
    assert_eq!(stranger.ask("/known-recipes", parcel.recipe().0.to_vec(), 1), [false]);
    // To claim it is not to have it.
    let known = serde_json::json!({ "paths": [parcel.item(false)] });
    assert_eq!(status(&stranger.commit(body(&known, &[]))[0]), "recipe-unknown");
    let sent = serde_json::json!({ "paths": [parcel.item(true)] });
    let answer = &stranger.commit(body(&sent, &[&parcel.encoded]))[0];
    assert_eq!((status(answer).as_str(), missing(answer, count)), ("missing-chunks", vec![true; count]));
    assert_eq!(world.get(&format!("/pub/{}.narinfo", parcel.package.hash())).status, 404);
    // Sent, it is there, and was not stored again; which is not told either.
    let (taken, sent_bytes) = (stranger.frames(parcel.frames()), parcel.frames().len() as u64);
    assert_eq!((taken["new_chunks"].as_u64(), taken["stored_bytes"].as_u64()), (Some(count as u64), Some(sent_bytes)));
    assert_eq!(status(&stranger.commit(body(&sent, &[&parcel.encoded]))[0]), "created");
    assert!(world.stored_bytes() - stored < 4000, "{} after {stored}", world.stored_bytes());
    let served = world.get(&format!("/pub/nar/{}.nar", parcel.package.nar_hash().to_nix32()));
    assert!(served.body == parcel.package.nar);
}

#[test]
fn what_may_be_read_is_told_wherever_it_came_from() {
    let world = World::new();
    let parcel = Parcel::new(5, 300_000);
    assert_eq!(Client::begin(&world, "pub", &world.token).push(&[&parcel]), ["created"]);
    world.set_cache("third", |row| row.public = false);
    let ask = |id: u64, verbs: &[Verb]| {
        let token = world.make_token(id, "priv", verbs, |_| {});
        let client = Client::begin(&world, "priv", &token);
        let bits = client.ask("/missing-chunks", parcel.ids(), parcel.chunks.len());
        assert_eq!(client.ask("/known-recipes", parcel.recipe().0.to_vec(), 1), [!bits[0]]);
        bits
    };
    // `pub` is for everybody; what is in it is told to one who pushes elsewhere.
    for (id, verbs) in [(50, &[Verb::Push][..]), (51, &[Verb::Push, Verb::Pull])] {
        assert_eq!(ask(id, verbs), vec![false; parcel.chunks.len()]);
    }
    world.set_cache("pub", |row| row.public = false);
    assert_eq!(ask(52, &[Verb::Push, Verb::Pull]), vec![true; parcel.chunks.len()]);
}

#[test]
fn every_path_has_its_method() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    for (method, rest, _) in requests() {
        for other in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"] {
            if other == method || (other, method) == ("HEAD", "GET") {
                continue;
            }
            let answer = world.send(client.request(other, &rest));
            assert_eq!(answer.status, 405, "{other} {rest}");
            assert!(answer.header("allow").unwrap().starts_with(method), "{other} {rest}");
        }
    }
    for path in
        ["/api", "/api/v1", "/api/v2/capabilities", "/api/v1/caches/pub/nothing", "/api/v1/caches/Pub", "/api/x"]
    {
        for method in ["GET", "POST", "PUT"] {
            let answer = world.send(Request::new(method, path).header("Accept", "application/json"));
            assert_eq!(refusal(&answer), (404, "unsupported-api".into()), "{path}");
        }
    }
    let head = world.send(Request::new("HEAD", "/api/v1/capabilities"));
    let get = world.send(Request::get("/api/v1/capabilities"));
    assert_eq!((head.status, head.header("content-length")), (200, get.header("content-length")));
    let said: Value = serde_json::from_slice(&get.body).unwrap();
    assert_eq!(said["versions"], serde_json::json!([1]));
    assert_eq!(said["limits"]["paths"], 32768);
    assert_eq!(said["chunker"], firn_chunk::ChunkerId::CURRENT.to_string());
}

#[test]
fn who_may_only_push_is_told_of_what_they_sent() {
    let world = World::new();
    let (theirs, mine) = (Parcel::new(8, 200_000), Parcel::new(9, 200_000));
    Client::begin(&world, "priv", &world.token).push(&[&theirs]);
    let pusher = world.make_token(50, "priv", &[Verb::Push], |_| {});
    let pusher = Client::begin(&world, "priv", &pusher);
    let count = theirs.chunks.len();
    assert_eq!(pusher.ask("/missing-chunks", theirs.ids(), count), vec![true; count]);
    assert_eq!(pusher.ask("/known-recipes", theirs.recipe().0.to_vec(), 1), [false]);
    let claim = serde_json::json!({ "paths": [theirs.item(true)] });
    let answer = &pusher.commit(body(&claim, &[&theirs.encoded]))[0];
    assert_eq!((status(answer).as_str(), missing(answer, count)), ("missing-chunks", vec![true; count]));

    let stored = world.stored_bytes();
    assert_eq!(pusher.push(&[&mine]), ["created"]);
    assert!(world.stored_bytes() > stored);
    let count = mine.chunks.len();
    assert_eq!(pusher.ask("/missing-chunks", mine.ids(), count), vec![false; count]);
    assert_eq!(pusher.ask("/known-recipes", mine.recipe().0.to_vec(), 1), [true]);
    let hashes = [mine.package.path.hash().0, theirs.package.path.hash().0].concat();
    assert_eq!(pusher.ask("/missing-paths", hashes, 2), [false, true]);
    // What is the same as theirs is merged once it was sent.
    assert_eq!(pusher.push(&[&theirs]), ["merged"]);
}
