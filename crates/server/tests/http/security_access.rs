//! Who may do what: every route, method and token; and what those learn who may not.

use firn_index::Verb;
use firn_server::http::codec::Codec;
use firn_testkit::http::{Answer, Request};

use crate::support::{Package, World, code, hash_of};

/// Paths of every kind, present and absent, under a cache.
fn targets(cache: &str, package: &Package, alias: &str) -> Vec<String> {
    let (hash, nar) = (package.hash(), package.nar_hash().to_nix32());
    let absent = hash_of(90);
    let hex = "0".repeat(40);
    [
        String::new(),
        "nix-cache-info".into(),
        format!("{hash}.narinfo"),
        format!("{absent}.narinfo"),
        format!("{hash}.ls"),
        format!("{absent}.ls"),
        format!("nar/{nar}.nar"),
        format!("nar/{nar}.nar.zst"),
        format!("nar/{alias}"),
        "nar/absent.nar".into(),
        format!("log/{hash}-x.drv"),
        format!("log/{absent}"),
        format!("realisations/sha256:{}!out.doi", "0".repeat(64)),
        format!("build-trace-v2/{absent}-x.drv/out.doi"),
        format!("debuginfo/{hex}.debug"),
        format!("serve/{hash}/self"),
        format!("serve/{absent}/x"),
        "nothing/at/all".into(),
    ]
    .map(|rest| format!("/{cache}/{rest}"))
    .into()
}

fn essence(answer: &Answer) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, answer.body.clone())
}

#[test]
fn tells_nothing_of_what_may_not_be_read() {
    let world = World::new();
    let package = Package::new(1, 3000);
    world.put_path("priv", &package);
    let alias = world.put_nar("priv", &package.nar, Codec::Xz);
    world.put(&format!("/priv/log/{}-x.drv", package.hash()), "log");
    let tokens = [
        None,
        Some(world.make_token(20, "other*", &[Verb::Pull, Verb::Push], |_| {})),
        Some(world.make_token(21, "priv", &[Verb::Push], |_| {})),
        Some("firn_nonsense".to_owned()),
    ];
    let spoilt = [
        world.make_token(22, "*", &[Verb::Pull], |row| row.revoked_at = Some(5)),
        world.make_token(23, "*", &[Verb::Pull], |row| row.expires_at = Some(5)),
    ];
    for method in ["GET", "HEAD"] {
        let ask = |target: &str, token: &Option<String>| {
            let request = Request::new(method, target);
            essence(&world.send(match token {
                Some(token) => request.token(token),
                None => request,
            }))
        };
        let plain = ask("/absent/nix-cache-info", &None);
        assert_eq!(plain.0, 403);
        for cache in ["priv", "absent"] {
            for target in targets(cache, &package, &alias) {
                for token in &tokens {
                    // Who may push is told as much of the cache by the push API.
                    if target == "/priv/nix-cache-info" && *token == tokens[2] {
                        assert_eq!(ask(&target, token).0, 200, "{method}: Nix asks for it before it uploads");
                        continue;
                    }
                    assert_eq!(ask(&target, token), plain, "{method} {target} with {token:?}");
                }
                // These hear what is wrong with their token, and nothing else.
                for token in &spoilt {
                    let token = Some(token.clone());
                    assert_eq!(ask(&target, &token), ask("/absent/x", &token), "{method} {target}");
                    assert_eq!(ask(&target, &token).0, 403);
                }
            }
        }
    }
}

#[test]
fn lets_in_who_may_read() {
    let world = World::new();
    let package = Package::new(2, 3000);
    world.put_path("priv", &package);
    world.put_path("pub", &package);
    let alias = world.put_nar("priv", &package.nar, Codec::Xz);
    let puller = world.make_token(30, "pri*", &[Verb::Pull], |_| {});
    let mut found = 0;
    for target in targets("priv", &package, &alias) {
        let bearer = world.send(Request::get(&target).token(&puller));
        use base64::Engine as _;
        let basic = base64::engine::general_purpose::STANDARD.encode(format!("anyone:{puller}"));
        let basic = world.send(Request::get(&target).header("Authorization", &format!("Basic {basic}")));
        assert_eq!(essence(&bearer), essence(&basic), "{target}");
        assert!([200, 404].contains(&bearer.status), "{target}");
        found += usize::from(bearer.status == 200);
    }
    assert_eq!(found, 8);
    // A public cache is for everybody, with a bad token, too.
    let target = format!("/pub/{}.narinfo", package.hash());
    assert_eq!(world.send(Request::get(&target)).status, 200);
    assert_eq!(world.send(Request::get(&target).token("nonsense")).status, 200);
    // A grant for all caches does not make one.
    assert_eq!(code(&world.get("/absent/nix-cache-info")), "no-such-cache");
}

#[test]
fn keeps_private_answers_out_of_shared_caches() {
    let world = World::new();
    let package = Package::new(3, 3000);
    for (cache, scope) in [("pub", "public"), ("priv", "private")] {
        world.put_path(cache, &package);
        for target in [format!("{}.narinfo", package.hash()), format!("nar/{}.nar", package.nar_hash().to_nix32())] {
            let answer = world.get(&format!("/{cache}/{target}"));
            assert!(answer.header("cache-control").unwrap().starts_with(scope), "{cache}/{target}");
        }
        assert_eq!(world.get(&format!("/{cache}/{}.narinfo", hash_of(91))).header("cache-control"), Some("no-store"));
    }
}

#[test]
fn takes_uploads_only_from_who_may() {
    let world = World::new();
    let package = Package::new(4, 3000);
    let bad = [
        (None, 401, "no-credentials"),
        (Some("firn_nonsense".to_owned()), 401, "bad-token"),
        (Some(world.make_token(40, "*", &[Verb::Push], |row| row.revoked_at = Some(5))), 401, "token-revoked"),
        (Some(world.make_token(41, "*", &[Verb::Push], |row| row.expires_at = Some(5))), 401, "token-expired"),
        (Some(world.make_token(42, "*", &[Verb::Pull], |_| {})), 403, "not-granted"),
        (Some(world.make_token(43, "other", &[Verb::Push], |_| {})), 403, "not-granted"),
    ];
    for cache in ["pub", "priv", "absent"] {
        for target in targets(cache, &package, "x.nar.xz") {
            for (token, status, expected) in &bad {
                let request = Request::put(&target, "body");
                let answer = world.send(match token {
                    Some(token) => request.token(token),
                    None => request,
                });
                if answer.status == 405 {
                    assert_eq!(answer.header("allow"), Some("GET, HEAD"), "{target}");
                    continue;
                }
                assert_eq!((answer.status, code(&answer).as_str()), (*status, *expected), "{target}");
                assert_eq!(answer.header("www-authenticate").is_some(), *status == 401, "{target}");
            }
        }
    }
    assert_eq!(code(&world.put("/absent/nix-cache-info", "")), "no-such-cache");
    assert_eq!(world.app.engine.stats().unwrap().totals.paths, 0);
}

#[test]
fn knows_no_other_methods() {
    let world = World::new();
    let package = Package::new(5, 300);
    for method in ["POST", "DELETE", "PATCH", "OPTIONS", "MKCOL"] {
        for target in targets("pub", &package, "x.nar.xz") {
            let answer = world.send(Request::new(method, &target).token(&world.token));
            assert_eq!(answer.status, 405, "{method} {target}");
            assert!(answer.header("allow").unwrap().starts_with("GET, HEAD"));
        }
    }
}
