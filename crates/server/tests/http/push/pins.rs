//! Pins by clients.

use firn_index::Verb;
use firn_testkit::http::Answer;
use serde_json::{Value, json};

use super::support::{Client, Parcel, refusal};
use crate::support::World;

const BOTH: [Verb; 2] = [Verb::Push, Verb::Pull];

fn value(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

fn add(client: &Client, name: &str, path: &str) -> Answer {
    client.post("/pins/add", json!({ "name": name, "path": path, "expires_in": 60 }).to_string())
}

fn remove(client: &Client, name: &str) -> Answer {
    client.post("/pins/remove", json!({ "name": name }).to_string())
}

#[test]
fn whoever_may_push_may_pin_and_change_their_own() {
    let world = World::new();
    let parcel = Parcel::new(1, 3000);
    Client::begin(&world, "priv", &world.token).push(&[&parcel]);
    let make = |id, verbs: &[Verb], builder: &str| {
        let name = builder.to_owned();
        Client::new(&world, "priv", Some(&world.make_token(id, "priv", verbs, move |row| row.builder = name)))
    };
    let (ci, other, reader) = (make(31, &BOTH, "ci"), make(32, &BOTH, "other"), make(33, &[Verb::Pull], "reader"));
    let pin = value(&add(&ci, "release", &format!("/nix/store/{}", parcel.path())));
    assert_eq!((&pin["path"], &pin["by"]), (&json!(parcel.path()), &json!("ci")));
    assert_eq!(pin["expires_at"].as_u64().unwrap() - pin["pinned_at"].as_u64().unwrap(), 60);
    let listed = value(&reader.send("GET", "/pins", Vec::new()));
    assert_eq!(listed, json!({ "pins": [pin] }));
    // Moved by its builder; by nobody else, and not removed either.
    value(&add(&ci, "release", &parcel.path()));
    for answer in [add(&other, "release", &parcel.path()), remove(&other, "release")] {
        assert_eq!(refusal(&answer), (403, "not-granted".to_owned()));
    }
    assert_eq!(refusal(&add(&reader, "mine", &parcel.path())).0, 403);
    assert_eq!(refusal(&remove(&reader, "release")).0, 403);

    let absent = Parcel::new(2, 3000).path();
    assert_eq!(refusal(&add(&ci, "x", &absent)), (404, "no-such-path".to_owned()));
    assert_eq!(refusal(&add(&ci, "no spaces", &parcel.path())), (400, "bad-request".to_owned()));
    assert_eq!(refusal(&add(&ci, "x", "no path")), (400, "bad-request".to_owned()));
    assert_eq!(refusal(&ci.post("/pins/add", "{")), (400, "bad-request".to_owned()));
    assert_eq!(refusal(&ci.post("/pins/add", vec![b' '; 5000])), (413, "too-large".to_owned()));
    assert_eq!(refusal(&remove(&ci, "none")), (404, "no-such-pin".to_owned()));
    assert_eq!(value(&remove(&ci, "release"))["name"], "release");
    assert_eq!(value(&ci.send("GET", "/pins", Vec::new())), json!({ "pins": [] }));
}

#[test]
fn who_may_only_push_learns_nothing_of_what_others_brought() {
    let world = World::new();
    let [mine, theirs, absent] = [1, 2, 3].map(|seed| Parcel::new(seed, 3000));
    let token = |id, verbs: &[Verb], builder: &str| {
        let name = builder.to_owned();
        world.make_token(id, "priv", verbs, move |row| row.builder = name)
    };
    let pusher = Client::begin(&world, "priv", &token(41, &[Verb::Push], "pusher"));
    let other = Client::begin(&world, "priv", &token(42, &BOTH, "other"));
    pusher.push(&[&mine]);
    other.push(&[&theirs]);
    value(&add(&other, "of-theirs", &theirs.path()));
    value(&add(&other, "of-mine", &mine.path()));

    let answers = [&theirs, &absent].map(|parcel| {
        let answer = add(&pusher, "x", &parcel.path());
        assert_eq!(refusal(&answer), (404, "no-such-path".to_owned()));
        answer.text().replace(&parcel.path(), "PATH")
    });
    assert_eq!(answers[0], answers[1]);
    value(&add(&pusher, "own", &mine.path()));
    let listed = |client: &Client| {
        let pins = value(&client.send("GET", "/pins", Vec::new()));
        pins["pins"].as_array().unwrap().iter().map(|pin| pin["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed(&pusher), ["of-mine", "own"]);
    assert_eq!(listed(&other), ["of-mine", "of-theirs", "own"]);
    // It was the builder's own once: another of its tokens sees the pin, and may take it away.
    let later = Client::new(&world, "priv", Some(&token(43, &[Verb::Push], "pusher")));
    assert_eq!(listed(&later), ["own"]);
    assert_eq!(refusal(&add(&later, "own", &theirs.path())), (404, "no-such-path".to_owned()));
    value(&remove(&later, "own"));
}
