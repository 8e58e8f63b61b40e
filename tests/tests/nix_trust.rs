//! Signatures, tokens, private caches, and two builders that disagree: as stock Nix sees them.

use firn_testkit::Result;
use firn_testkit::firnd::Firnd;
use firn_testkit::http::{Answer, Request};
use firn_testkit::nix::{Nix, Settings, Store, Version};
use firn_tests::{assert_same, builder, client, closure, settings};

/// The hash in a store path.
fn hash(path: &str) -> &str {
    path.trim_start_matches("/nix/store/").split('-').next().expect("a split has a first part")
}

#[test]
fn only_who_trusts_the_key_takes_a_path() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let other = firnd.cache("other", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(1))?;
        builder.copy_to(&cache.url, &[&path])?.done()?;

        let name = cache.public_key.split(':').next().expect("a split has a first part");
        let material = other.public_key.split(':').nth(1).expect("a key has a colon");
        for keys in [vec![], vec![other.public_key.clone()], vec![format!("{name}:{material}")]] {
            let stranger = Store::new(&nix, &Settings { trusted_public_keys: keys, ..settings(&cache) })?;
            assert!(!stranger.realise(&[&path])?.succeeded(), "Nix {}", nix.version());
            assert!(!stranger.has(&path)?);
        }
        let client = client(&nix, &cache)?;
        client.realise(&[&path])?.done()?;
        assert_same(&builder, &client, &path)?;
    }
    Ok(())
}

#[test]
fn uploaders_signatures_are_kept() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let (secret, public) = nix.generate_key("builder-1")?;
        let secret = builder.write("secret", &secret)?;
        let path = builder.build_one(&closure(1))?;
        builder.copy_to(&format!("{}?secret-key={}", cache.url, secret.display()), &[&path])?.done()?;
        for key in [&public, &cache.public_key] {
            let settings = Settings { trusted_public_keys: vec![key.clone()], ..settings(&cache) };
            let client = Store::new(&nix, &settings)?;
            client.realise(&[&path])?.done()?;
            assert_same(&builder, &client, &path)?;
        }
    }
    Ok(())
}

#[test]
fn signatures_can_be_added_later() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(1))?;
        builder.copy_to(&cache.url, &[&path])?.done()?;

        let (secret, public) = nix.generate_key("later-1")?;
        let secret = builder.write("secret", &secret)?;
        let secret = secret.to_str().expect("a temporary directory's name is UTF-8");
        builder.forget_caches()?;
        builder.check("nix", ["store", "sign", "--store", &cache.url, "-k", secret, "--recursive", &path])?.done()?;
        for key in [&public, &cache.public_key] {
            let client = Store::new(&nix, &Settings { trusted_public_keys: vec![key.clone()], ..settings(&cache) })?;
            client.realise(&[&path])?.done()?;
            assert_same(&builder, &client, &path)?;
        }
    }
    Ok(())
}

#[test]
fn a_cache_may_demand_signatures_of_uploaders() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let (secret, public) = nix.generate_key("builder-1")?;
        let cache = firnd.cache("main", &["--public", "--trusted-key", &public])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(1))?;
        assert!(!builder.copy_to(&cache.url, &[&path])?.succeeded());
        assert_eq!(firnd.status("paths")?, 0);

        builder.forget_caches()?;
        let secret = builder.write("secret", &secret)?;
        builder.copy_to(&format!("{}?secret-key={}", cache.url, secret.display()), &[&path])?.done()?;
        assert_eq!(firnd.status("paths")?, 3);
    }
    Ok(())
}

#[test]
fn uploads_need_a_token_that_may_push() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        firnd.cache("other", &["--public"])?;
        let builder = nix.store()?;
        let path = builder.build_one(&closure(1))?;
        let refused = |what: &str| -> Result<()> {
            builder.forget_caches()?;
            assert!(!builder.copy_to(&cache.url, &[&path])?.succeeded(), "Nix {}: {what}", nix.version());
            assert_eq!(firnd.status("paths")?, 0, "{what}");
            Ok(())
        };
        refused("no token")?;
        builder.set_token("127.0.0.1", "wrong")?;
        refused("not a token")?;
        builder.set_token("127.0.0.1", &firnd.token("main:pull")?)?;
        refused("another verb")?;
        builder.set_token("127.0.0.1", &firnd.token("other:push")?)?;
        refused("another cache")?;
        let revoked = firnd.json(&["token", "create", "--grant", "main:push"])?;
        builder.set_token("127.0.0.1", revoked["token"].as_str().expect("a token"))?;
        firnd.admin(["token", "revoke", revoked["id"].as_str().expect("an id")])?;
        refused("revoked")?;

        builder.set_token("127.0.0.1", &firnd.token("ma*:push")?)?;
        builder.forget_caches()?;
        builder.copy_to(&cache.url, &[&path])?.done()?;
        assert_eq!(firnd.status("paths")?, 3);
    }
    Ok(())
}

#[test]
fn who_may_only_push_uploads_to_a_private_cache() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("secret", &[])?;
        let builder = nix.store()?;
        let path = builder.build_one(&closure(1))?;
        builder.set_token("127.0.0.1", &firnd.token("secret:push")?)?;
        for _ in 0..2 {
            builder.forget_caches()?;
            builder.copy_to(&cache.url, &[&path])?.done()?;
            assert_eq!(firnd.status("paths")?, 3, "Nix {}", nix.version());
        }
    }
    Ok(())
}

#[test]
fn a_private_cache_is_for_those_with_a_token() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("secret", &[])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(1))?;
        builder.copy_to(&cache.url, &[&path])?.done()?;

        let client = client(&nix, &cache)?;
        assert!(!client.realise(&[&path])?.succeeded(), "Nix {}", nix.version());
        client.set_token("127.0.0.1", &firnd.token("secret:push")?)?;
        client.forget_caches()?;
        assert!(!client.realise(&[&path])?.succeeded(), "Nix {}: push does not include pull", nix.version());
        client.set_token("127.0.0.1", &firnd.token("secret:pull")?)?;
        client.forget_caches()?;
        client.realise(&[&path])?.done()?;
        assert_same(&builder, &client, &path)?;
    }
    Ok(())
}

#[test]
fn a_private_cache_tells_strangers_nothing() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("secret", &[])?;
    let builder = builder(&nix, &cache)?;
    let path = builder.build_one(&closure(1))?;
    builder.copy_to(&format!("{}?compression=none&write-nar-listing=true", cache.url), &[&path])?.done()?;
    let present = hash(&path).to_owned();
    let absent = "0".repeat(32);
    let other_token = firnd.token("other:pull,push")?;
    // All but the date, of an answer to who may not pull.
    let ask = |method: &str, target: String, token: Option<&str>| -> Result<Answer> {
        let mut request = Request::new(method, &target);
        if let Some(token) = token {
            request = request.token(token);
        }
        let mut answer = firnd.send(&request)?;
        answer.headers.retain(|(name, _)| name != "date");
        assert_ne!(answer.status, 200, "{method} {target}");
        Ok(answer)
    };
    for token in [None, Some("wrong"), Some(other_token.as_str())] {
        for method in ["GET", "HEAD"] {
            for suffix in [".narinfo", ".ls"] {
                let one = ask(method, format!("/secret/{present}{suffix}"), token)?;
                assert_eq!(one, ask(method, format!("/secret/{absent}{suffix}"), token)?);
                // Neither is there a difference to a cache that does not exist.
                assert_eq!(one, ask(method, format!("/nothing/{absent}{suffix}"), token)?);
            }
        }
    }
    Ok(())
}

/// An expression whose output differs with every build, so that two builders disagree.
const NOT_REPRODUCIBLE: &str = r#"build { name = "x"; script = "cat /proc/sys/kernel/random/uuid > $out"; }"#;

#[test]
fn of_two_different_builds_the_first_is_kept() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let (first, second) = (builder(&nix, &cache)?, builder(&nix, &cache)?);
        let path = first.build_one(NOT_REPRODUCIBLE)?;
        assert_eq!(second.build_one(NOT_REPRODUCIBLE)?, path);
        assert_ne!(first.nar_hash(&path)?, second.nar_hash(&path)?);
        // The second has asked before the first uploaded, as happens when both build at the same time.
        assert!(!second.run("nix", ["path-info", "--store", &cache.url, &path])?.succeeded());
        first.copy_to(&cache.url, &[&path])?.done()?;
        second.copy_to(&cache.url, &[&path])?.done()?;

        let client = client(&nix, &cache)?;
        client.realise(&[&path])?.done()?;
        assert_same(&first, &client, &path)?;
        assert_eq!(firnd.status("paths")?, 1);
    }
    Ok(())
}

#[test]
fn a_cache_may_reject_another_build() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public", "--on-conflict", "reject"])?;
        let (first, second) = (builder(&nix, &cache)?, builder(&nix, &cache)?);
        let path = first.build_one(NOT_REPRODUCIBLE)?;
        assert_eq!(second.build_one(NOT_REPRODUCIBLE)?, path);
        assert!(!second.run("nix", ["path-info", "--store", &cache.url, &path])?.succeeded());
        first.copy_to(&cache.url, &[&path])?.done()?;
        assert!(!second.copy_to(&cache.url, &[&path])?.succeeded(), "Nix {}", nix.version());

        let client = client(&nix, &cache)?;
        client.realise(&[&path])?.done()?;
        assert_same(&first, &client, &path)?;
    }
    Ok(())
}
