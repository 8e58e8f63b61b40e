//! Pins by clients.

use firn_index::Verb;
use serde_json::{Value, json};

use super::support::{Client, Parcel, refusal};
use crate::support::World;

fn value(answer: &firn_testkit::http::Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
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
    let (ci, other, reader) =
        (make(31, &[Verb::Push], "ci"), make(32, &[Verb::Push], "other"), make(33, &[Verb::Pull], "reader"));
    let add = |client: &Client, name: &str, path: &str| {
        client.post("/pins/add", json!({ "name": name, "path": path, "expires_in": 60 }).to_string())
    };
    let remove = |client: &Client, name: &str| client.post("/pins/remove", json!({ "name": name }).to_string());

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
