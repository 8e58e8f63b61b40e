use firn_testkit::nix::{Nix, Version};
use serde_json::{Value, json};

use crate::support::{Home, Ran, Server, TOKEN, ok, refusal};

#[test]
fn requests_before_the_push_are_counted() {
    let server = Server::firnd(|_| ());
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    // No path at all: what is asked before is everything there is.
    let ran = home.firn_with(&["push", "--json", "--stdin", &server.url()], "").expect(0);
    let events: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let finished = events.last().expect("a last event");
    assert_eq!(finished["event"], "finished", "{ran:?}");
    let asked: Vec<String> = server.seen().into_iter().map(|request| request.target).collect();
    assert_eq!(asked, ["/api/v1/capabilities", "/api/v1/caches/main"]);
    let wire = &finished["wire"];
    assert_eq!(wire["requests"], 2);
    assert!(wire["received_body_bytes"].as_u64() > Some(100) && wire["heads_estimated_bytes"].as_u64() > Some(100));
    let sum: u64 = ["sent_body_bytes", "received_body_bytes", "heads_estimated_bytes"]
        .iter()
        .map(|name| wire[*name].as_u64().expect("a number"))
        .sum();
    assert_eq!(finished["wire_bytes"], sum);
}

#[test]
fn who_may_not_push_is_told_what_it_takes() {
    let server = Server::start(|request| match request.target.as_str() {
        "/api/v1/capabilities" => {
            let chunker = firn_api::ChunkerId::CURRENT.to_string();
            ok(&json!({ "server": "firnd 9.9", "versions": [1], "chunker": chunker }).to_string())
        }
        _ => refusal(403, "forbidden", "there is no such cache, or it may not be read"),
    });
    let mut home = Home::new();
    let ran = home.firn(&["push", "--stdin", &server.url()]).expect(3);
    assert!(ran.err.contains("--token-file") && ran.err.contains("`firn login`"), "{}", ran.err);
    assert!(!ran.err.contains("the server's hint"), "{}", ran.err);
    home.set("FIRN_TOKEN", TOKEN);
    let ran = home.firn(&["push", "--stdin", &server.url()]).expect(3);
    assert!(ran.err.contains("FIRN_TOKEN") && ran.err.contains("--grant main:push"), "{}", ran.err);
}

#[test]
fn a_list_that_could_not_be_written_is_a_failure() {
    let server = Server::firnd(|_| ());
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    let url = server.url();
    for arguments in [["push", "--json", "--stdin", &url].as_slice(), &["push", "--json", "--dry-run", "--stdin", &url]]
    {
        let mut command = home.command(env!("CARGO_BIN_EXE_firn"));
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full disk");
        let ran = command.args(arguments).stdin(std::process::Stdio::null()).stdout(full).output().expect("firn runs");
        let told = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!((ran.status.code(), told.contains("write to standard output")), (Some(1), true), "{told}");
    }
}

#[test]
fn what_came_of_a_watched_command_is_one_line_of_json() {
    let server = Server::firnd(|_| ());
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    let ran = home.firn(&["watch-exec", "--json", &server.url(), "--", "echo", "the command's"]).expect(0);
    assert_eq!(ran.out, "the command's\n");
    let told = |ran: &Ran| -> Vec<Value> {
        ran.err.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{ran:?}"))).collect()
    };
    let events = told(&ran);
    assert_eq!((events.len(), &events[0]["event"], &events[0]["built_paths"]), (1, &json!("finished"), &json!(0)));
    let ran = home.firn(&["watch-exec", "--json", &server.url(), "--", "/nonexistent/command"]).expect(127);
    let error = told(&ran)[0]["error"].as_str().expect("an error").to_owned();
    assert!(error.contains("failed to run /nonexistent/command"), "{error}");
}

#[test]
fn a_token_that_the_server_does_not_know_is_doubted() {
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    let told = |builder: &'static str| {
        let server = Server::firnd(move |cache| {
            cache["can_push"] = false.into();
            cache["builder"] = builder.into();
        });
        home.firn(&["push", "--stdin", &server.url()]).expect(3).err
    };
    let unknown = told("anonymous");
    assert!(unknown.contains("FIRN_TOKEN: is it whole") && unknown.contains("--grant main:push"), "{unknown}");
    let known = told("b1");
    assert!(known.contains("the token from FIRN_TOKEN has no grant to push there"), "{known}");
}

#[test]
fn a_token_among_the_names_is_not_repeated() {
    let home = Home::new();
    let url = Server::firnd(|_| ()).url();
    for (arguments, input) in [
        (["push", "--stdin", &url].as_slice(), TOKEN),
        (&["push", TOKEN, &url], ""),
        (&["push", "./result", TOKEN], ""),
    ] {
        let ran = home.firn_with(arguments, input).expect(2);
        assert!(ran.err.contains("one of the names is a token"), "{ran:?}");
    }
}

#[test]
fn a_daemon_that_is_named_says_what_is_valid() {
    let Some(nix) = Nix::require(Version::V2_26) else { return };
    let machine = nix.store().expect("a machine");
    let path = machine.build_one(r#"build { name = "a"; script = "echo > $out"; }"#).expect("built");
    let mut daemon = machine.daemon().expect("a daemon");
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    home.set("NIX_REMOTE", &format!("unix://{}", daemon.socket().display()));
    // A state directory whose database knows nothing of it.
    let other = nix.store().expect("another machine");
    other.build_one(r#"build { name = "b"; script = "echo > $out"; }"#).expect("built");
    home.set("NIX_STATE_DIR", other.root().join("nix/var/nix").to_str().expect("UTF-8"));
    let server = Server::firnd(|_| ());
    let arguments = ["push", "--json", "--dry-run", "--exclude", "*", &path, &server.url()];
    let ran = home.firn(&arguments).expect(0);
    assert!(ran.out.contains("would-skip") && ran.out.contains("-a\""), "{ran:?}");
    daemon.kill().expect("killed");
    let ran = home.firn(&arguments).expect(5);
    assert!(ran.err.contains("not a valid path of this store, by ") && ran.err.contains("db.sqlite"), "{ran:?}");
}

#[test]
fn a_port_without_tls_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("https://{}/main", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // It may have gone.
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    let ran = home.firn(&["push", "--retry-for", "0", "--stdin", &url]).expect(3);
    assert!(ran.err.contains("is it http:// and not https://?"), "{}", ran.err);
}

#[test]
fn a_bad_command_line_is_json_where_that_is_wanted() {
    let home = Home::new();
    let ran = home.firn(&["push", "--json", "--nonsense"]).expect(2);
    let told: Value = serde_json::from_str(&ran.err).expect("JSON");
    assert!(told["error"].as_str().is_some_and(|error| error.contains("--nonsense")), "{ran:?}");
    let ran = home.firn(&["watch-exec", "--nonsense", "--", "true", "--json"]).expect(2);
    assert!(ran.err.starts_with("error: "), "{ran:?}");
}
