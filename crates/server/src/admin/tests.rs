use std::sync::atomic::{AtomicU64, Ordering};

use firn_engine::Entropy;
use firn_index::memory::MemoryMeta;
use firn_index::{CacheName, CacheRow, Commit, Meta, Op, TokenId};
use firn_nix::SecretKey;

use super::*;
use crate::auth::{Token, parse_grant};
use crate::data_dir::DataDir;

/// Counts instead of drawing.
struct Counter(AtomicU64);

impl Entropy for Counter {
    fn draw(&self) -> u128 {
        u128::from(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

struct Bench {
    meta: MemoryMeta,
    entropy: Counter,
    data: DataDir,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self { meta: MemoryMeta::new(), entropy: Counter(AtomicU64::new(1)), data: DataDir::new("/nowhere"), now: 1000 }
    }

    fn ask(&self, request: Request) -> Result<Answer, Failure> {
        let Self { meta, entropy, data, now } = self;
        let admin = Admin {
            meta,
            index: None,
            app: None,
            engine: None,
            gc: &crate::config::GcConfig::default(),
            data,
            base_url: "http://cache.test:8080",
            entropy,
            now: *now,
        };
        execute(&admin, request)
    }

    fn create(&self, name: &str, settings: Settings) -> Result<CacheView, Failure> {
        match self.ask(Request::CacheCreate { name: name.to_owned(), settings })? {
            Answer::Cache(view) => Ok(*view),
            other => panic!("{other:?}"),
        }
    }

    fn set(&self, name: &str, settings: Settings) -> Result<CacheView, Failure> {
        match self.ask(Request::CacheSet { name: name.to_owned(), settings })? {
            Answer::Cache(view) => Ok(*view),
            other => panic!("{other:?}"),
        }
    }

    fn token(&self, grants: &[&str], builder: Option<&str>, expires_in: Option<u64>) -> Result<NewToken, Failure> {
        let grants = grants.iter().map(|text| parse_grant(text).expect(text)).collect();
        match self.ask(Request::TokenCreate { grants, builder: builder.map(str::to_owned), expires_in })? {
            Answer::NewToken(token) => Ok(token),
            other => panic!("{other:?}"),
        }
    }
}

fn none() -> Settings {
    Settings::default()
}

fn detail(result: Result<CacheView, Failure>) -> String {
    match result {
        Err(Failure::Invalid { detail }) => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_cache_has_the_defaults_and_a_key_of_its_own() {
    let bench = Bench::new();
    let view = bench.create("main", none()).expect("created");
    assert!(!view.public && !view.at_root && view.priority == 30 && view.store_dir == "/nix/store");
    assert_eq!((view.url.as_str(), view.created_at), ("http://cache.test:8080/main", 1000));
    let [key] = &view.public_keys[..] else { panic!("{view:?}") };
    assert!(key.starts_with("main-1:"), "{key}");
    assert_eq!(view.nix_conf[1], format!("extra-trusted-public-keys = {key}"));
    let row = bench.meta.cache(&"main".parse().expect("a name")).expect("read").expect("there");
    let secret = SecretKey::parse(&row.signing_keys[0]).expect("a key");
    assert_eq!(&secret.public().to_string(), key);
    let other = bench.create("other", none()).expect("created");
    assert_ne!(key.split(':').nth(1), other.public_keys[0].split(':').nth(1), "keys differ");
}

#[test]
fn names_that_can_not_be_are_refused() {
    let bench = Bench::new();
    for name in ["", "Main", "a b", "../x", "api", "nar", "healthz", ".x", "x.narinfo", &"x".repeat(65)] {
        assert!(matches!(bench.create(name, none()), Err(Failure::Invalid { .. })), "{name:?}");
    }
    bench.create("main", none()).expect("created");
    assert_eq!(bench.create("main", none()), Err(Failure::CacheExists { name: "main".to_owned() }));
    assert_eq!(bench.set("other", none()), Err(Failure::NoSuchCache { name: "other".to_owned() }));
    for request in [Request::CacheShow { name: "other".into() }, Request::CacheDelete { name: "other".into() }] {
        assert_eq!(bench.ask(request), Err(Failure::NoSuchCache { name: "other".to_owned() }));
    }
}

#[test]
fn bad_settings_are_refused_and_change_nothing() {
    let bench = Bench::new();
    bench.create("main", none()).expect("created");
    let before = bench.meta.caches().expect("read");
    let text = |text: &str| Some(text.to_owned());
    let secret = |text: &str| vec![SecretText(text.to_owned())];
    let table = [
        Settings { host: text("http://x"), ..none() },
        Settings { host: text("a..b"), ..none() },
        Settings { host: text("-a"), ..none() },
        Settings { store_dir: text("/gnu/store"), ..none() },
        Settings { trusted_keys: Some(vec!["nonsense".to_owned()]), ..none() },
        Settings { upstream_keys: Some(vec!["nonsense".to_owned()]), ..none() },
        Settings { add_keys: secret("nonsense"), ..none() },
        Settings { add_keys: secret("name:AAAA"), ..none() },
        Settings { remove_keys: vec!["main-2".to_owned()], ..none() },
        Settings { remove_keys: vec!["main-1".to_owned()], ..none() },
    ];
    for settings in table {
        // Whatever else is in the request does not happen either.
        let settings = Settings { public: Some(true), ..settings };
        let shown = format!("{settings:?}");
        assert!(matches!(bench.set("main", settings), Err(Failure::Invalid { .. })), "{shown}");
    }
    for store_dir in ["nix/store", "/", "/nix//store", "/nix/../store", "/nix/store/", "/ni x"] {
        let settings = Settings { store_dir: text(store_dir), ..none() };
        assert!(matches!(bench.create("new", settings), Err(Failure::Invalid { .. })), "{store_dir}");
    }
    assert_eq!(bench.meta.caches().expect("read"), before);
}

#[test]
fn a_secret_key_is_never_in_an_error_or_an_answer() {
    let bench = Bench::new();
    let key = SecretKey::generate("imported-1", [7; 32]).expect("a name").to_text().to_string();
    let secret = key.split(':').nth(1).expect("two parts").to_owned();
    let settings = Settings { add_keys: vec![SecretText(key.clone())], ..none() };
    assert!(!format!("{settings:?}").contains(&secret[..20]));
    let view = bench.create("main", settings.clone()).expect("created");
    assert_eq!(view.public_keys.len(), 1, "an imported key takes the place of a new one");
    assert!(view.public_keys[0].starts_with("imported-1:"));
    assert!(!serde_json::to_string(&view).expect("JSON").contains(&secret[..20]));
    assert!(detail(bench.set("main", settings)).contains("has one of that name"));
    let cut = Settings { add_keys: vec![SecretText(key[..key.len() - 3].to_owned())], ..none() };
    assert!(!detail(bench.set("main", cut)).contains(&secret[..20]));
}

#[test]
fn keys_are_added_and_removed_without_reusing_a_name() {
    let bench = Bench::new();
    bench.create("main", none()).expect("created");
    let names = |view: &CacheView| -> Vec<String> {
        view.public_keys.iter().map(|key| key.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let view = bench.set("main", Settings { new_key: true, ..none() }).expect("added");
    assert_eq!(names(&view), ["main-1", "main-2"]);
    let view = bench.set("main", Settings { remove_keys: vec!["main-1".into()], ..none() }).expect("removed");
    assert_eq!(names(&view), ["main-2"]);
    // At once: there is never a moment without a key.
    let swap = Settings { new_key: true, remove_keys: vec!["main-2".into()], ..none() };
    assert_eq!(names(&bench.set("main", swap).expect("swapped")), ["main-3"]);
    let host = Settings { host: Some("Cache.Example.org".into()), ..none() };
    let view = bench.create("hosted", host).expect("created");
    assert_eq!(
        (names(&view), view.url.as_str()),
        (vec!["cache.example.org-hosted-1".to_owned()], "http://cache.example.org:8080")
    );
}

#[test]
fn the_name_of_a_key_that_is_gone_is_not_given_to_another() {
    let bench = Bench::new();
    let names = |view: &CacheView| -> Vec<String> {
        view.public_keys.iter().map(|key| key.split(':').next().unwrap_or_default().to_owned()).collect()
    };
    let new_key = || Settings { new_key: true, ..none() };
    let remove = |name: &str| Settings { remove_keys: vec![name.to_owned()], ..none() };
    bench.create("main", none()).expect("created");
    let own = SecretKey::generate("own", [7; 32]).expect("a name").to_text().to_string();
    bench.set("main", Settings { add_keys: vec![SecretText(own)], ..none() }).expect("added");
    bench.set("main", remove("main-1")).expect("removed");
    assert_eq!(names(&bench.set("main", new_key()).expect("added")), ["own", "main-2"]);
    bench.set("main", remove("main-2")).expect("removed");
    assert_eq!(names(&bench.set("main", new_key()).expect("added")), ["own", "main-3"]);
    let delete = |name: &str| {
        bench.ask(Request::CacheDelete { name: name.to_owned() }).expect("deleted");
        let ops = vec![Op::CacheGoneRecorded(name.parse().expect("a name"))];
        let commit = Commit { session: None, packs: Vec::new(), ops };
        assert!(bench.meta.commit(1, &[commit]).expect("written")[0].is_ok());
    };
    delete("main");
    assert_eq!(names(&bench.create("main", none()).expect("created")), ["main-4"]);
    // One that was made before numbers were noted.
    let name = "old".parse().expect("a name");
    let key = SecretKey::generate("old-1", [8; 32]).expect("a name").to_text().to_string();
    bench.meta.put_cache(&name, &CacheRow { signing_keys: vec![key], ..CacheRow::new(1) }).expect("written");
    delete("old");
    assert_eq!(names(&bench.create("old", none()).expect("created")), ["old-2"]);
    let made = fresh_cache(&name, 1_700_000_000, &bench.entropy).expect("made");
    assert!(made.signing_keys[0].starts_with("old-1700000001:"), "nothing tells which names there were");
}

#[test]
fn only_one_cache_stands_at_the_root_and_on_a_host() {
    let bench = Bench::new();
    let root = Settings { at_root: Some(true), ..none() };
    let host = Settings { host: Some("a.test".into()), ..none() };
    let view = bench.create("main", Settings { host: host.host.clone(), ..root.clone() }).expect("created");
    assert_eq!(view.url, "http://a.test:8080");
    bench.create("other", none()).expect("created");
    assert!(detail(bench.set("other", root.clone())).contains("'main' stands there"));
    assert!(detail(bench.set("other", host.clone())).contains("'main' has it"));
    let away = Settings { at_root: Some(false), host: Some(String::new()), ..none() };
    bench.set("main", away).expect("taken away");
    assert_eq!(bench.set("other", root).expect("free now").url, "http://cache.test:8080");
    bench.set("other", host).expect("free now");
}

#[test]
fn what_is_not_named_stays() {
    let bench = Bench::new();
    let key = SecretKey::generate("up", [3; 32]).expect("a name").public().to_string();
    let settings = Settings {
        public: Some(true),
        priority: Some(7),
        transport: Some(firn_index::Transport::None),
        on_conflict: Some(firn_index::ConflictPolicy::Reject),
        references: Some(firn_index::ReferencePolicy::Any),
        trusted_keys: Some(vec![key.clone(), format!(" {key} ")]),
        upstream_keys: Some(vec![key.clone(), key.clone()]),
        ..none()
    };
    let made = bench.create("main", settings).expect("created");
    assert_eq!(made.trusted_keys, std::slice::from_ref(&key), "given twice, kept once");
    assert_eq!(made.upstream_keys, [key]);
    let same = bench.set("main", none()).expect("unchanged");
    assert_eq!(CacheView { contents: None, ..made }, same);
    let demand_none = Settings { trusted_keys: Some(Vec::new()), ..none() };
    assert!(bench.set("main", demand_none).expect("changed").trusted_keys.is_empty());
    let no_upstream = Settings { upstream_keys: Some(Vec::new()), ..none() };
    assert!(bench.set("main", no_upstream).expect("changed").upstream_keys.is_empty());
    let usual = bench.create("usual", none()).expect("created");
    assert_eq!(usual.upstream_keys, [firn_index::CacheRow::NIXOS_KEY]);
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let mut bench = Bench::new();
    let made = bench.token(&["main:push", "*:pull"], Some("builder-1"), Some(60)).expect("made");
    let token: Token = made.token.0.parse().expect("a token");
    assert_eq!(made.view.id, token.id().to_string());
    assert_eq!(made.view.grants, ["main:push", "*:pull"]);
    let row = bench.meta.token(&token.id()).expect("read").expect("there");
    assert!(token.matches(&row.secret_hash));
    let other = bench.token(&["main:push"], None, None).expect("made");
    assert_eq!((other.view.builder.as_str(), other.view.expires_at), (other.view.id.as_str(), None));
    assert_ne!(other.token, made.token);
    let states = |bench: &Bench| match bench.ask(Request::TokenList) {
        Ok(Answer::Tokens(views)) => views.iter().map(|view| view.state).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(states(&bench), [TokenState::Active, TokenState::Active]);
    bench.now = 1060;
    assert_eq!(states(&bench), [TokenState::Expired, TokenState::Active]);
    let id: TokenId = other.view.id.parse().expect("an id");
    for now in [2000, 3000] {
        bench.now = now;
        let Ok(Answer::Revoked(view)) = bench.ask(Request::TokenRevoke { id }) else { panic!("not revoked") };
        assert_eq!((view.state, view.revoked_at), (TokenState::Revoked, Some(2000)), "the first time counts");
    }
    let missing = TokenId(0xdead);
    let failure = Failure::NoSuchToken { id: missing.to_string() };
    assert_eq!(bench.ask(Request::TokenRevoke { id: missing }), Err(failure));
}

#[test]
fn bad_tokens_are_refused() {
    let bench = Bench::new();
    let refused = |result: Result<NewToken, Failure>| matches!(result, Err(Failure::Invalid { .. }));
    assert!(refused(bench.token(&[], None, None)));
    assert!(refused(bench.token(&["main:push"; 65], None, None)));
    assert!(refused(bench.token(&["main:push"], Some(""), None)));
    assert!(refused(bench.token(&["main:push"], Some("a\nb"), None)));
    assert!(refused(bench.token(&["main:push"], Some(&"x".repeat(129)), None)));
    assert!(refused(bench.token(&["main:push"], None, Some(0))));
    assert!(refused(bench.token(&["main:push"], None, Some(u64::MAX))));
    // What comes through the socket was not parsed from text.
    let odd = firn_index::Grant { cache: "../x".into(), verbs: vec![firn_index::Verb::Push] };
    let empty = firn_index::Grant { cache: "main".into(), verbs: Vec::new() };
    for grant in [odd, empty] {
        let request = Request::TokenCreate { grants: vec![grant], builder: None, expires_in: None };
        assert!(matches!(bench.ask(request), Err(Failure::Invalid { .. })));
    }
    assert!(bench.meta.tokens().expect("read").is_empty());
}

#[test]
fn requests_and_replies_survive_the_socket() {
    let bench = Bench::new();
    let request = Request::CacheCreate {
        name: "main".into(),
        settings: Settings { public: Some(true), add_keys: vec![SecretText("a:b".into())], ..none() },
    };
    let text = serde_json::to_string(&request).expect("JSON");
    assert_eq!(serde_json::from_str::<Request>(&text).expect("reads"), request);
    bench.create("main", none()).expect("created");
    let answers = [
        bench.ask(Request::CacheList),
        bench.ask(Request::CacheShow { name: "main".into() }),
        bench.ask(Request::CacheShow { name: "x".into() }),
        bench.token(&["*:pull"], None, None).map(Answer::NewToken),
        bench.ask(Request::TokenList),
        bench.ask(Request::CacheDelete { name: "main".into() }),
    ];
    for answer in answers {
        let reply = answer.clone().map_or_else(socket::Reply::Failure, socket::Reply::Answer);
        let text = serde_json::to_string(&reply).expect("JSON");
        assert!(!text.contains('\n'));
        let read = match serde_json::from_str(&text).expect("reads") {
            socket::Reply::Answer(answer) => Ok(answer),
            socket::Reply::Failure(failure) => Err(failure),
        };
        assert_eq!(read, answer);
    }
    for bad in [
        r#"{"request":"format-disk"}"#,
        r#"{"request":"cache-show"}"#,
        r#"{"request":"cache-show","name":"x","now":1}"#,
        "[]",
        "",
    ] {
        assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_deleted_cache_is_gone() {
    let bench = Bench::new();
    bench.create("main", none()).expect("created");
    let Ok(Answer::Deleted(view)) = bench.ask(Request::CacheDelete { name: "main".into() }) else {
        panic!("not deleted")
    };
    assert_eq!((view.name.as_str(), view.contents), ("main", Some(Contents::default())));
    let name: CacheName = "main".parse().expect("a name");
    assert_eq!(bench.meta.cache(&name).expect("read"), None);
}

#[test]
fn a_cache_is_not_its_own_upstream() {
    let bench = Bench::new();
    let key = bench.create("main", none()).expect("made").public_keys.remove(0);
    bench.create("rooted", Settings { at_root: Some(true), ..none() }).expect("made");
    bench.create("hosted", Settings { host: Some("nix.example.org".to_owned()), ..none() }).expect("made");
    let add = |cache: &str, url: &str| {
        let upstream = NewUpstream { url: url.to_owned(), keys: vec![key.clone()], ..NewUpstream::default() };
        bench.ask(Request::UpstreamAdd { cache: cache.to_owned(), upstream: Box::new(upstream) })
    };
    for (cache, own) in [
        ("main", "http://cache.test:8080/main"),
        ("main", "HTTP://Cache.Test:8080/main/"),
        ("rooted", "http://cache.test:8080"),
        ("rooted", "http://cache.test:8080/rooted"),
        ("hosted", "http://nix.example.org:8080"),
    ] {
        let refused = add(cache, own);
        assert!(matches!(&refused, Err(Failure::Invalid { detail }) if detail.contains("itself")), "{own} {refused:?}");
    }
    for other in ["http://cache.test:8080/rooted", "http://cache.test:8081/main", "https://cache.test:8080/main"] {
        assert!(add("main", other).is_ok(), "{other}");
    }
}

#[test]
fn a_cache_whose_name_a_deleted_one_had_waits_for_packs_to_be_told() {
    let bench = Bench::new();
    bench.create("main", none()).expect("created");
    bench.ask(Request::CacheDelete { name: "main".into() }).expect("deleted");
    let Err(Failure::Busy { detail }) = bench.create("main", none()) else { panic!("packs can't be told here") };
    assert!(detail.contains("make room, and try again"), "{detail}");
    assert_eq!(bench.meta.caches().expect("read"), []);
    bench.create("other", none()).expect("created");
}
