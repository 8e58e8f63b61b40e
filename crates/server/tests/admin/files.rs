//! Caches to files and back, by a running server and without one.

use firn_nix::Sha256;
use firn_server::cli::exit;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::support::{Place, Server, firnd, text};

/// Uploads a path as Nix does, and returns its store hash and its NAR.
fn upload(server: &Server, token: &str) -> (String, Vec<u8>) {
    let hash = Random::new(1).store_hash();
    let nar = Node::package(1, 400_000, &[]).encode();
    let digest = Sha256::of(&nar);
    let file = format!("nar/{}.nar", digest.to_nix32());
    let narinfo = format!(
        "StorePath: /nix/store/{hash}-x\nURL: {file}\nCompression: none\nNarHash: {digest}\nNarSize: {}\nReferences: \n",
        nar.len()
    );
    for (target, body) in
        [(format!("/main/{file}"), nar.clone()), (format!("/main/{hash}.narinfo"), narinfo.into_bytes())]
    {
        let answer = Request::put(&target, body).token(token).send(server.address()).expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    (hash, nar)
}

#[test]
fn a_running_server_writes_and_reads_files() {
    let place = Place::new();
    for cache in ["main", "second"] {
        place.ok(&["cache", "create", cache, "--public"]);
    }
    let token = place.ok(&["token", "create", "--grant", "main:push"]).trim().to_owned();
    let server = place.serve(&[]);
    let (hash, nar) = upload(&server, &token);
    let at = |target: &str| Request::get(target).send(server.address()).expect("an answer");
    let (narinfo, file) =
        (format!("/second/{hash}.narinfo"), format!("/second/nar/{}.nar", Sha256::of(&nar).to_nix32()));
    assert_eq!(at(&narinfo).status, 404);

    // The server stands in another folder than who asks.
    let mut command = firnd();
    command.current_dir(place.path()).args(["export", "files", "--cache", "main", "--json", "--data"]);
    let output = command.arg(place.data()).output().expect("runs");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let done: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&done["paths"], &done["logical_bytes"]), (&1.into(), &nar.len().into()), "{done}");
    let files = place.path().join("files");
    let folder = files.to_str().expect("UTF-8");
    assert!(files.join(format!("{hash}.narinfo")).exists());

    let done = place.json(&["import", folder, "--cache", "second"]);
    assert_eq!((&done["paths"], &done["refused"]), (&1.into(), &0.into()), "{done}");
    assert_eq!(at(&narinfo).status, 200, "what the server remembers is what the cache has");
    assert!(at(&file).body == nar);
    server.end();
    // Without it, by the command itself.
    let done = place.json(&["export", folder, "--cache", "main", &hash]);
    assert_eq!((&done["paths"], &done["present"]), (&0.into(), &1.into()), "{done}");
}

#[test]
fn what_can_not_be_written_or_read_is_said_alike_with_and_without_a_server() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let absent = Random::new(2).store_hash();
    let empty = place.path().join("empty");
    std::fs::create_dir(&empty).expect("made");
    let empty = empty.to_str().expect("UTF-8");
    let taken = place.write("taken", "a file");
    let taken = taken.to_str().expect("UTF-8");
    let tried = || {
        assert!(place.fails(&["export", empty, "--cache", "none"], exit::NOT_FOUND.into()).contains("'none'"));
        let said = place.fails(&["export", empty, &absent, "--cache", "main"], exit::NOT_FOUND.into());
        assert!(said.contains(&absent), "{said}");
        let said = place.fails(&["export", taken, "--cache", "main"], exit::FAILED.into());
        assert!(said.contains("taken/nar"), "{said}");
        let said = place.fails(&["import", taken, "--cache", "main"], exit::FAILED.into());
        assert!(said.contains("taken/nix-cache-info"), "{said}");
        let said = place.fails(&["import", empty, &absent, "--cache", "main"], exit::NOT_FOUND.into());
        assert!(said.contains(&absent) && said.contains("empty"), "{said}");
        place.fails(&["export", empty, "no-path", "--cache", "main"], exit::USAGE.into());
    };
    tried();
    let server = place.serve(&[]);
    tried();
    server.end();
}
