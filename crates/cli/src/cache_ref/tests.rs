use std::fs;

use super::*;
use crate::config::CacheConfig;

fn url(text: &str) -> CacheUrl {
    text.parse().unwrap_or_else(|problem| panic!("{text}: {problem}"))
}

fn config(caches: &[(&str, &str)]) -> Config {
    let cache = |text: &str| CacheConfig { url: url(text), token_file: None, token: None, upstream_keys: None };
    Config {
        caches: caches.iter().map(|(name, text)| ((*name).to_owned(), cache(text))).collect(),
        ..Config::default()
    }
}

fn token(text: &str) -> Token {
    Token::new(text, TokenSource::Environment).expect(text)
}

#[test]
fn refuses_what_is_no_cache() {
    for bad in [
        "",
        "main",
        "cache.example.org/main",
        "ftp://host/main",
        "https://",
        "https://host/main?x=1",
        "https://host/main#x",
        "https://host//main",
        "https://host/api",
        "https://host/a b",
        "https://host/a%2Fb",
        "https://host/main,",
        "https://user@host/main",
        "file:///main",
    ] {
        assert!(bad.parse::<CacheUrl>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_password_in_a_url_is_not_repeated() {
    let error = resolve(&config(&[]), Some("https://u:hidden@host/main")).expect_err("refused");
    assert!(!error.chain().contains("hidden"), "{}", error.chain());
}

#[test]
fn urls_are_taken_apart() {
    let table = [
        ("https://host/main", "https://host/main", "https://host", "main", "host"),
        ("https://host/main/", "https://host/main", "https://host", "main", "host"),
        ("http://Host:8080/nix/main", "http://host:8080/nix/main", "http://host:8080/nix", "main", "host"),
        ("https://host:443/x", "https://host/x", "https://host", "x", "host"),
        ("https://host", "https://host", "https://host", "_", "host"),
        ("https://host/_", "https://host/_", "https://host", "_", "host"),
        ("http://[::1]:80/main", "http://[::1]/main", "http://[::1]", "main", "::1"),
    ];
    for (text, whole, server, name, host) in table {
        let url = url(text);
        assert_eq!((url.as_str(), url.server(), url.name(), url.host()), (whole, server, name, host), "{text}");
    }
    assert!(url("http://127.0.0.1:1/x").is_loopback() && url("http://[::1]/x").is_loopback());
    assert!(!url("http://10.0.0.1/x").is_loopback());
}

#[test]
fn an_argument_is_a_name_or_a_url() {
    let config = config(&[("main", "https://host/main"), ("other", "https://host/other")]);
    assert_eq!(resolve(&config, Some("main")).expect("known").url, url("https://host/main"));
    let known = resolve(&config, Some("https://HOST/other/")).expect("a URL");
    assert_eq!(known.name.as_deref(), Some("other"), "a URL of the configuration has its name, and so its token");
    assert_eq!(resolve(&config, Some("https://host/third")).expect("a URL").name, None);
}

#[test]
fn a_name_with_capitals_is_refused_where_it_is_typed() {
    for good in ["http://HOST/demo", "http://host/Prefix/demo", "http://HOST"] {
        assert!(resolve(&config(&[]), Some(good)).is_ok(), "{good}");
    }
    let failure = resolve(&config(&[]), Some("http://host/Demo")).expect_err("no such name");
    assert!(failure.kind == Kind::Usage && failure.chain().contains("'Demo'"), "{}", failure.chain());
}

#[test]
fn an_unknown_name_is_told_with_what_to_do() {
    let table = [
        (config(&[]), "main", "firn login"),
        (config(&[("a", "https://h/a")]), "main", "known are: a"),
        (config(&[]), "host.example/main", "https://"),
        (Config { skipped: vec!["/etc/firn/config.toml".into()], ..config(&[]) }, "main", "/etc/firn/config.toml"),
    ];
    for (config, name, expected) in table {
        let failure = resolve(&config, Some(name)).expect_err(name);
        assert_eq!(failure.kind, Kind::Usage);
        assert!(failure.hint.as_ref().is_some_and(|hint| hint.contains(expected)), "{:?}", failure.hint);
    }
}

#[test]
fn without_an_argument_it_is_the_default_or_the_only_one() {
    assert!(resolve(&config(&[]), None).is_err());
    let mut two = config(&[("a", "https://h/a"), ("b", "https://h/b")]);
    assert!(resolve(&two, None).expect_err("two").hint.is_some_and(|hint| hint.contains("a, b")));
    two.default_cache = Some("b".to_owned());
    assert_eq!(resolve(&two, None).expect("the default").name.as_deref(), Some("b"));
    two.default_cache = Some("c".to_owned());
    assert!(resolve(&two, None).is_err(), "a default that is not there is no other one");
    let one = config(&[("a", "https://h/a")]);
    assert_eq!(resolve(&one, None).expect("the only one").name.as_deref(), Some("a"));
}

#[test]
fn tokens_are_one_word_and_never_shown() {
    for bad in ["", "  \n", "two words", "käse", "x\u{7}", &"x".repeat(MAX_TOKEN_LEN + 1)] {
        assert!(Token::new(bad, TokenSource::Environment).is_err(), "{bad:?}");
    }
    let token = token(" firn_0123456789abcdef_secret\n");
    assert_eq!(token.expose(), "firn_0123456789abcdef_secret");
    assert_eq!(token.id(), Some("0123456789abcdef"));
    assert!(!format!("{token:?}").contains("secret"));
    assert_eq!(super::Token::new("other_0123456789abcdef_x", TokenSource::Environment).expect("a word").id(), None);
}

#[test]
fn the_token_is_the_first_that_there_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    };
    let named = write("named", "named\n");
    let configured = write("configured", "configured\n");
    let netrc = write("netrc", "machine other password no\nmachine host login x password from-netrc\n");
    let mut config = config(&[("main", "https://host/main")]);
    let cache = resolve(&config, Some("main")).expect("known");
    let find = |config: &Config, file: Option<&Path>, environment: Option<&str>| {
        find_token_with(config, &cache, file, environment.map(str::to_owned), || netrc.clone())
            .expect("no error")
            .map(|token| token.expose().to_owned())
    };
    assert_eq!(find(&config, None, None).as_deref(), Some("from-netrc"));
    config.caches.get_mut("main").expect("there").token_file = Some(configured);
    assert_eq!(find(&config, None, Some("  ")).as_deref(), Some("configured"), "an empty variable is none");
    assert_eq!(find(&config, None, Some("environment")).as_deref(), Some("environment"));
    assert_eq!(find(&config, Some(&named), Some("environment")).as_deref(), Some("named"));
}

#[test]
fn a_token_that_was_named_and_is_not_there_is_an_error() {
    let mut config = config(&[("main", "https://host/main")]);
    let cache = resolve(&config, Some("main")).expect("known");
    let missing = Path::new("/nonexistent/token");
    let find = |config: &Config, file: Option<&Path>, environment: Option<&str>| {
        find_token_with(config, &cache, file, environment.map(str::to_owned), || "/nonexistent/netrc".into())
    };
    assert_eq!(find(&config, Some(missing), None).expect_err("missing").kind, Kind::Config);
    assert_eq!(find(&config, None, Some("two words")).expect_err("bad").kind, Kind::Config);
    assert_eq!(find(&config, None, None).expect("none is fine"), None);
    config.caches.get_mut("main").expect("there").token_file = Some(missing.into());
    assert!(find(&config, None, None).expect_err("missing").chain().contains("/nonexistent/token"));
}
