use crate::support::{Home, Server, TOKEN, refusal};

const CONFIG: &str = ".config/firn/config.toml";

#[test]
fn a_token_that_the_server_refuses_is_not_kept() {
    let server = Server::start(|_| refusal(403, "token-revoked", "the token was revoked"));
    let home = Home::new();
    let ran = home.firn_with(&["login", &server.url()], TOKEN).expect(3);
    assert!(ran.err.contains("the token was revoked") && ran.err.contains("the server's hint"), "{}", ran.err);
    // The server tells nobody whether it is the cache or the token that it does not know, and its hint is for Nix.
    let unknown = Server::start(|_| refusal(403, "forbidden", "there is no such cache, or it may not be read"));
    let ran = home.firn_with(&["login", &unknown.url()], TOKEN).expect(3);
    assert!(ran.err.contains("hint: check the URL, and the token"), "{}", ran.err);
    assert!(!home.exists(".config"));
}

#[test]
fn a_token_that_grants_nothing_is_not_kept() {
    let server = Server::firnd(|cache| cache["can_push"] = false.into());
    let home = Home::new();
    let ran = home.firn_with(&["login", &server.url()], TOKEN).expect(3);
    assert!(ran.err.contains("grants nothing") && ran.err.contains("--grant main:pull,push"), "{}", ran.err);
    assert!(!home.exists(".config"));
}

#[test]
fn what_is_no_token_is_not_sent() {
    let server = Server::firnd(|_| ());
    let home = Home::new();
    let ran = home.firn_with(&["login", &server.url()], " \n").expect(4);
    assert!(ran.err.contains("hint: give it as in"), "{}", ran.err);
    home.firn_with(&["login", &server.url()], "two words").expect(4);
    home.firn(&["login", &server.url(), "--token-file", "missing"]).expect(4);
    assert_eq!(server.seen(), []);
}

#[test]
fn no_server_and_no_firnd_are_told_apart() {
    let home = Home::new();
    // A port that nothing can listen on.
    let ran = home.firn_with(&["login", "http://127.0.0.1:0/main"], TOKEN).expect(3);
    assert!(ran.err.contains("hint: check the URL"), "{}", ran.err);
    let other = Server::start(|_| (404, String::new(), "<html>nothing here</html>".to_owned()));
    let ran = home.firn_with(&["login", &other.url()], TOKEN).expect(3);
    assert!(ran.err.contains("does not look like firnd"), "{}", ran.err);
    let odd = Server::start(|_| (200, String::new(), "hello".to_owned()));
    home.firn_with(&["login", &odd.url()], TOKEN).expect(3);
    let endless = Server::start(|_| (200, String::new(), "x".repeat(1 << 20)));
    assert!(home.firn_with(&["login", &endless.url()], TOKEN).expect(3).err.contains("longer than"));
}

#[test]
fn a_redirect_gets_no_token() {
    let other = Server::firnd(|_| ());
    let target = other.url();
    let server = Server::start(move |_| (302, format!("Location: {target}\r\n"), String::new()));
    let ran = Home::new().firn_with(&["login", &server.url()], TOKEN).expect(3);
    assert!(ran.err.contains("redirects to http://127.0.0.1"), "{}", ran.err);
    assert_eq!(other.seen(), []);
}

#[test]
fn a_good_token_is_kept_and_found_again() {
    let server = Server::firnd(|cache| cache["public"] = false.into());
    let home = Home::new();
    let ran = home.firn_with(&["login", &server.url()], &format!("{TOKEN}\n")).expect(0);
    assert!(ran.out.is_empty() && ran.err.contains("pull and push as b1"), "{ran:?}");
    assert_eq!((home.mode(".config/firn/tokens/main"), home.mode(".config/firn/tokens")), (0o600, 0o700));
    assert_eq!(home.read(".config/firn/tokens/main"), format!("{TOKEN}\n"));
    assert_eq!(server.seen()[0].authorization.as_deref(), Some(&*format!("Bearer {TOKEN}")));

    let status = home.firn(&["status", "--json"]).expect(0).json();
    assert_eq!((&status["cache"], &status["token"]["id"]), (&"main".into(), &"0123456789abcdef".into()));
    let status = home.firn(&["status", "main"]).expect(0);
    assert!(status.out.contains("private; b1 may pull and push"), "{}", status.out);
    assert_eq!(server.seen().last().expect("asked").authorization.as_deref(), Some(&*format!("Bearer {TOKEN}")));
}

#[test]
fn the_configuration_keeps_what_else_is_in_it() {
    let server = Server::firnd(|_| ());
    let home = Home::new();
    let text = "# by hand\n[caches.other] # the other\nurl = \"https://other.example/x\"\n";
    home.write(CONFIG, text);
    home.firn_with(&["login", &server.url(), "--name", "work"], TOKEN).expect(0);
    let changed = home.read(CONFIG);
    assert!(changed.starts_with(text) && changed.contains("[caches.work]\n"), "{changed}");
    assert!(!changed.contains("default-cache"), "the second cache is not the default");
    home.firn_with(&["login", "work"], TOKEN).expect(0);
    assert_eq!(home.read(CONFIG), changed);
    home.firn_with(&["login", "work", "--default"], TOKEN).expect(0);
    assert!(home.read(CONFIG).contains("default-cache = \"work\""));
}

#[test]
fn a_name_that_another_cache_has_is_refused() {
    let server = Server::firnd(|_| ());
    let home = Home::new();
    home.write(CONFIG, "[caches.main]\nurl = \"https://other.example/main\"\n");
    let ran = home.firn_with(&["login", &server.url()], TOKEN).expect(2);
    assert!(ran.err.contains("--name"), "{}", ran.err);
    home.firn_with(&["login", &server.url(), "--name", "../x"], TOKEN).expect(2);
    assert_eq!(server.seen(), []);
}

#[test]
fn a_bad_configuration_is_not_overwritten() {
    let server = Server::firnd(|_| ());
    let home = Home::new();
    home.write(CONFIG, "colour = 1\n");
    let ran = home.firn_with(&["login", &server.url()], TOKEN).expect(4);
    assert!(ran.err.contains("config.toml") && ran.err.contains("line 1"), "{}", ran.err);
    assert_eq!(home.read(CONFIG), "colour = 1\n");
}

#[test]
fn a_machine_without_a_home_names_the_file() {
    let server = Server::firnd(|_| ());
    let mut home = Home::new();
    home.set("HOME", "");
    let ran = home.firn_with(&["login", &server.url()], TOKEN).expect(4);
    assert!(ran.err.contains("--config"), "{}", ran.err);
    let file = home.file("new/config.toml");
    home.firn_with(&["login", &server.url(), "--config", file.to_str().expect("UTF-8")], TOKEN).expect(0);
    assert_eq!((home.mode("new/config.toml"), home.read("new/tokens/main")), (0o600, format!("{TOKEN}\n")));
    home.firn_with(&["login", &server.url(), "--config", "here.toml"], TOKEN).expect(0);
    assert_eq!((home.mode("here.toml"), home.read("tokens/main")), (0o600, format!("{TOKEN}\n")));
    home.set("FIRN_CONFIG", file.to_str().expect("UTF-8"));
    assert!(home.firn(&["status"]).expect(0).out.contains(&server.url()));
    // Only for login: elsewhere it is a mistake.
    home.set("FIRN_CONFIG", home.file("none.toml").to_str().expect("UTF-8"));
    home.firn(&["status"]).expect(4);
}

#[test]
fn an_empty_variable_is_none() {
    let server = Server::firnd(|_| ());
    let mut home = Home::new();
    for name in ["FIRN_CONFIG", "FIRN_TOKEN", "FIRN_AGENT_SOCKET", "FIRN_AGENT_STATE"] {
        home.set(name, "");
    }
    home.firn_with(&["login", &server.url()], TOKEN).expect(0);
    assert!(home.exists(CONFIG));
    home.firn(&["status"]).expect(0);
    let ran = home.firn(&["watch-store", "status", "--name", "none-of-this-name"]).expect(6);
    assert!(ran.err.contains("none-of-this-name.sock"), "{}", ran.err);
}
