use firn_testkit::nix::{Nix, Settings, Store};
use serde_json::Value;

use crate::support::{Home, Ran, Server, TOKEN, refusal};

fn state<'a>(report: &'a Value, check: &str) -> &'a str {
    let found = report["checks"].as_array().expect("a list").iter().find(|found| found["check"] == check);
    found.unwrap_or_else(|| panic!("no {check} in {report}"))["state"].as_str().expect("a text")
}

fn report(ran: Ran, code: i32) -> Value {
    ran.expect(code).json()
}

#[test]
fn a_server_that_is_away_is_one_failure_and_the_rest_says_so() {
    let home = Home::new();
    let found = report(home.firn(&["doctor", "http://127.0.0.1:0/main", "--json"]), 1);
    assert_eq!((state(&found, "connection"), state(&found, "server")), ("fail", "fail"));
    for check in ["clock", "token", "rights", "cache-info"] {
        assert_eq!(state(&found, check), "skipped", "{check}");
    }
    assert_eq!(state(&found, "nix"), "fail", "there is none on this PATH");
}

#[test]
fn a_name_without_an_address_is_told() {
    let found = report(Home::new().firn(&["doctor", "http://no-such-host.invalid/main", "--json"]), 1);
    assert_eq!(state(&found, "address"), "fail");
    assert_eq!(state(&found, "encryption"), "warn");
}

#[test]
fn a_server_that_is_no_firnd_is_told() {
    let server = Server::start(|_| (404, String::new(), String::new()));
    let ran = Home::new().firn(&["doctor", &server.url()]).expect(1);
    assert!(ran.out.contains("does not look like firnd"), "{}", ran.out);
}

#[test]
fn a_revoked_token_is_told_with_the_servers_hint() {
    let server = Server::start(|request| match request.target.as_str() {
        "/api/v1/caches/main" => refusal(403, "token-revoked", "the token was revoked"),
        _ => refusal(404, "not-found", "nothing"),
    });
    let mut home = Home::new();
    home.set("FIRN_TOKEN", TOKEN);
    let ran = home.firn(&["doctor", &server.url()]).expect(1);
    assert!(ran.out.contains("the token of FIRN_TOKEN: the token was revoked (token-revoked)"), "{}", ran.out);
    assert!(ran.out.contains("-> the server's hint"), "{}", ran.out);
}

#[test]
fn a_wrong_clock_is_told() {
    let server = Server::start(|_| {
        (200, "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n".to_owned(), "{\"versions\": [1], \"chunker\": \"\"}".to_owned())
    });
    let found = report(Home::new().firn(&["doctor", &server.url(), "--json"]), 1);
    assert_eq!((state(&found, "clock"), state(&found, "server")), ("fail", "fail"));
}

#[test]
fn without_a_cache_this_machine_is_still_looked_at() {
    let home = Home::new()
        .with_fake_nix("*version*) echo nix 9.9;; *show*) echo '{}';; *store*info*) echo '{\"url\": \"local\"}';;");
    let found = report(home.firn(&["doctor", "--json"]), 1);
    assert_eq!((state(&found, "configuration"), state(&found, "nix"), state(&found, "hook")), ("fail", "ok", "ok"));
}

#[test]
fn after_use_all_is_well_with_every_nix() {
    for nix in Nix::require_all() {
        let home = Home::new().with_nix(nix.programs());
        let server = Server::firnd(|cache| cache["public"] = false.into());
        home.firn_with(&["login", &server.url()], TOKEN).expect(0);
        let before = report(home.firn(&["doctor", "--json"]), 1);
        assert_eq!(
            (state(&before, "substituter"), state(&before, "key"), state(&before, "netrc")),
            ("warn", "fail", "fail")
        );
        home.firn(&["use"]).expect(0);
        let after = report(home.firn(&["doctor", "--json"]), 0);
        for check in ["server", "token", "rights", "cache-info", "nix", "substituter", "trust", "key", "netrc"] {
            assert_eq!(state(&after, check), "ok", "{nix:?}: {check} in {after}");
        }
        assert_eq!(after["failed"], 0);
    }
}

#[test]
fn an_untrusted_user_is_told_what_the_daemon_has_to_allow() {
    let server = Server::firnd(|_| ());
    for nix in Nix::require_all() {
        let settings =
            |line: String| Settings { extra: vec!["trusted-users = nobody".to_owned(), line], ..Settings::default() };
        let store = Store::new(&nix, &settings(String::new())).expect("a machine");
        let mut daemon = store.daemon().expect("a daemon");
        let mut home = Home::new().with_nix(nix.programs());
        home.set("NIX_REMOTE", "daemon");
        home.set("NIX_DAEMON_SOCKET_PATH", daemon.socket().to_str().expect("UTF-8"));
        home.set("NIX_CONF_DIR", store.root().with_file_name("conf").to_str().expect("UTF-8"));
        let ran = home.firn(&["use", &server.url()]).expect(0);
        assert!(ran.err.contains("does not trust this user"), "{nix:?}: {}", ran.err);
        let found = report(home.firn(&["doctor", &server.url(), "--json"]), 1);
        assert_eq!((state(&found, "trust"), state(&found, "key")), ("fail", "fail"), "{nix:?}: {found}");

        let allowed = format!("trusted-substituters = {}\ntrusted-public-keys = {}", server.url(), crate::support::KEY);
        store.configure(&settings(allowed)).expect("configured");
        daemon.kill().expect("killed");
        let _daemon = store.daemon().expect("a daemon");
        let found = report(home.firn(&["doctor", &server.url(), "--json"]), 0);
        assert_eq!((state(&found, "trust"), state(&found, "key")), ("ok", "ok"), "{nix:?}: {found}");
    }
}

#[test]
fn what_is_said_of_dead_letters_can_be_done() {
    let mut home = Home::new();
    home.set("FIRN_AGENT_SOCKET", home.file("none.sock").to_str().expect("UTF-8"));
    home.set("FIRN_AGENT_STATE", home.file("state").to_str().expect("UTF-8"));
    for command in ["requeue", "forget"] {
        // There is no agent and no queue: all else is right.
        home.firn(&["watch-store", command, "--all"]).expect(6);
        home.firn(&["watch-store", command]).expect(2);
    }
}
