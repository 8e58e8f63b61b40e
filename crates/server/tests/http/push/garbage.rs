//! Bodies that are wrong, too long, too slow or cut.

use std::io::Write as _;
use std::net::Shutdown;

use firn_server::http::codec::Codec;
use firn_testkit::http::read_answer;
use firn_testkit::random::Random;
use serde_json::{Value, json};

use super::support::{Client, Parcel, body, code, frame, refusal, status};
use crate::support::{Settings, World, encode};

fn bad(client: &Client, rest: &str, body: Vec<u8>) -> (u16, String) {
    let method = if rest.starts_with("/recipes") { "PUT" } else { "POST" };
    refusal(&client.send(method, rest, body))
}

#[test]
fn lists_are_whole_and_bounded() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    for (question, id_bytes, limit) in
        [("/missing-paths", 20, 32_768), ("/known-recipes", 32, 16_384), ("/missing-chunks", 32, 65_536)]
    {
        assert_eq!(bad(&client, question, vec![0; id_bytes + 1]), (400, "bad-request".into()), "{question}");
        assert_eq!(bad(&client, question, vec![0; id_bytes * (limit + 1)]), (413, "too-large".into()), "{question}");
        assert_eq!(client.ask(question, vec![], 0), [] as [bool; 0]);
        let all = client.ask(question, vec![9; id_bytes * limit], limit);
        assert!(all.iter().all(|&bit| bit == (question != "/known-recipes")), "{question}");
    }
}

#[test]
fn bodies_are_bounded_whether_their_length_is_said_or_not() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let limit = 8 << 20;
    for rest in ["/frames", "/commits"] {
        assert_eq!(bad(&client, rest, vec![0; limit + 1]), (413, "too-large".into()), "{rest}");
        let request = client.request("POST", rest).chunked();
        let mut stream = request.start(world.address).unwrap();
        let piece = [format!("{:x}\r\n", 1 << 20).as_bytes(), &vec![0; 1 << 20], b"\r\n"].concat();
        for _ in 0..9 {
            stream.write_all(&piece).unwrap();
        }
        stream.write_all(b"0\r\n\r\n").unwrap();
        assert_eq!(refusal(&read_answer(&stream, false).unwrap()), (413, "too-large".into()), "{rest}");
    }
    // What unpacks to more is as much too large.
    let bomb = encode(Codec::Zstd, &vec![0; limit + 1]);
    let answer = world.send(client.request("POST", "/commits").header("Content-Encoding", "zstd").body(bomb));
    assert_eq!(refusal(&answer), (413, "too-large".into()));
}

#[test]
fn only_bytes_are_taken_and_only_commits_compressed() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    for rest in ["/missing-paths", "/known-recipes", "/missing-chunks", "/frames", "/commits"] {
        let json = world.send(client.request("POST", rest).header("Content-Type", "application/json").body("{}\n"));
        assert_eq!(refusal(&json), (415, "unsupported-type".into()), "{rest}");
        for encoding in ["gzip", "zstd", "nonsense", "zstd, zstd"] {
            let answer = world.send(client.request("POST", rest).header("Content-Encoding", encoding).body("x"));
            let is_zstd = rest == "/commits" && encoding == "zstd";
            let expected = if is_zstd { (400, "bad-compression") } else { (415, "unsupported-compression") };
            assert_eq!(refusal(&answer), (expected.0, expected.1.into()), "{rest} {encoding}");
        }
    }
    let packed = encode(Codec::Zstd, b"{}\n");
    let answer = world.send(client.request("POST", "/commits").header("Content-Encoding", "zstd").body(packed));
    assert_eq!((answer.status, answer.body.len()), (200, 0));
}

#[test]
fn garbage_is_refused_everywhere() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let mut random = Random::new(1);
    for len in [1, 7, 39, 1000] {
        let noise = random.noise(len);
        assert_eq!(bad(&client, "/frames", noise.clone()), (400, "bad-frame".into()));
        assert_eq!(bad(&client, "/commits", noise.clone()), (400, "bad-request".into()));
        let recipe = format!("/recipes/{}/0?length={len}", firn_chunk::RecipeId([1; 32]));
        assert_eq!(bad(&client, &recipe, noise.clone()), (400, "bad-recipe".into()));
        let parcel = Parcel::new(1, 3000);
        let mut item = parcel.item(false);
        item["recipe"] = firn_chunk::RecipeId::of(&noise).to_string().into();
        item["recipe_bytes"] = len.into();
        let answers = client.commit(body(&json!({ "paths": [item] }), &[&noise]));
        assert_eq!((status(&answers[0]).as_str(), answers[0]["code"].as_str()), ("error", Some("bad-recipe")));
    }
    assert_eq!(bad(&client, "/frames", vec![]), (400, "bad-frame".into()));
    assert_eq!(world.app.engine.stats().unwrap().totals.paths, 0);
}

#[test]
fn a_bad_frame_is_named_and_those_before_it_stay() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(2, 200_000);
    let first = frame(&[&parcel.chunks[0].1]);
    let mut second = frame(&[&parcel.chunks[1].1]);
    let last = second.len() - 1;
    second[last] ^= 1;
    let answer = client.post("/frames", [&first[..], &second].concat());
    assert_eq!(refusal(&answer), (400, "bad-frame".into()));
    assert!(answer.text().contains(&format!("at byte {}", first.len())), "{}", answer.text());
    assert_eq!(client.ask("/missing-chunks", parcel.ids()[..64].to_vec(), 2), [false, true]);
}

#[test]
fn hints_are_taken_if_there_is_one_for_each_chunk() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let capabilities: Value = serde_json::from_slice(&world.get("/api/v1/capabilities").body).unwrap();
    assert_eq!(capabilities["features"], json!(["hints"]));
    let parcel = Parcel::new(2, 200_000);
    let count = parcel.chunks.len();
    let whole = [&parcel.hints[..], &parcel.frames()].concat();
    let send = |count: usize, body: &[u8]| client.post(&format!("/frames?hints={count}"), body);
    assert_eq!(refusal(&send(count, &parcel.hints[1..])), (400, "bad-request".into()));
    assert_eq!(refusal(&send(65_537, &whole)), (413, "too-large".into()));
    // Then hints are taken for frames, and frames for hints.
    assert_eq!(refusal(&send(count - 1, &whole)), (400, "bad-frame".into()));
    assert_eq!(refusal(&send(count + 1, &whole)), (400, "bad-frame".into()));
    assert_eq!(refusal(&send(1, &[&parcel.hints[..32], &parcel.frames()].concat())), (400, "bad-frame".into()));
    let answer = send(count, &whole);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(
        status(&client.commit(body(&json!({ "paths": [parcel.item(true)] }), &[&parcel.encoded]))[0]),
        "created"
    );
}

#[test]
fn a_session_is_needed_and_ends() {
    let world = World::new();
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(3, 3000);
    let recipe = format!("/recipes/{}/0?length=5", parcel.recipe());
    let requests = [
        ("POST", "/known-recipes", vec![]),
        ("POST", "/missing-chunks", vec![]),
        ("POST", "/frames", parcel.frames()),
        ("PUT", recipe.as_str(), vec![0; 4]),
        ("POST", "/commits", b"{}\n".to_vec()),
    ];
    let without = client.in_session(None);
    let never = client.in_session(Some(&"f".repeat(32)));
    let odd = client.in_session(Some("F"));
    for (method, rest, body) in &requests {
        assert_eq!(client.send(method, rest, body.clone()).status, 200, "{rest}");
        assert_eq!(refusal(&without.send(method, rest, body.clone())), (400, "session-required".into()), "{rest}");
        for client in [&never, &odd] {
            assert_eq!(refusal(&client.send(method, rest, body.clone())), (409, "session-expired".into()), "{rest}");
        }
    }
    let ending = format!("/sessions/{}", client.session.clone().unwrap());
    for _ in 0..2 {
        assert_eq!(client.send("DELETE", &ending, vec![]).status, 200);
    }
    for (method, rest, body) in requests {
        assert_eq!(refusal(&client.send(method, rest, body)), (409, "session-expired".into()), "{rest}");
    }
    assert_eq!(code(&client.post("/missing-paths", vec![])), "session-expired");
}

#[test]
fn a_body_that_is_cut_or_stands_still_leaves_nothing_and_holds_no_turn() {
    let settings = Settings { body_timeout_ms: 200, max_uploads: 1, ..Settings::default() };
    let world = World::with(Settings { body_timeout_ms: 200, max_uploads: 1, ..Settings::default() });
    let client = Client::begin(&world, "pub", &world.token);
    let parcel = Parcel::new(4, 300_000);
    let head = json!({ "paths": [parcel.item(true)] });
    for (rest, whole) in [("/frames", parcel.frames()), ("/commits", body(&head, &[&parcel.encoded]))] {
        let half = &whole[..whole.len() / 2];
        let request = client.request("POST", rest).claim_length(whole.len() as u64);
        let mut cut = request.start(world.address).unwrap();
        cut.write_all(half).unwrap();
        cut.shutdown(Shutdown::Write).unwrap();
        drop(cut);
        // This one stands still; meanwhile others have their turn.
        let mut still = request.start(world.address).unwrap();
        still.write_all(half).unwrap();
        let other = Parcel::new(5, 1000);
        assert!(["created", "merged"].contains(&client.push(&[&other])[0].as_str()));
        assert_eq!(refusal(&read_answer(&still, false).unwrap()), (400, "upload-stalled".into()), "{rest}");
    }
    let count = parcel.chunks.len();
    assert_eq!(client.ask("/missing-chunks", parcel.ids(), count), vec![true; count]);
    world.wait_until_idle(&settings);
}
