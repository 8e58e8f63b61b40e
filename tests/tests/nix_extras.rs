//! What else stock Nix keeps in a cache: logs, listings, debug information, realisations; and files inside paths.

use firn_testkit::Result;
use firn_testkit::firnd::Firnd;
use firn_testkit::http::Request;
use firn_testkit::nix::{Host, Nix, Settings};
use firn_tests::{builder, client, closure};
use serde_json::Value;

fn hash(path: &str) -> &str {
    path.trim_start_matches("/nix/store/").split('-').next().expect("a split has a first part")
}

#[test]
fn build_logs_go_up_and_come_back() -> Result<()> {
    // A name that old and new versions spell differently in the URL.
    let expression = r#"build { name = "a+b=c"; script = "echo the log says this; echo x > $out"; }"#;
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(expression)?;
        let derivation = builder.instantiate(expression)?.concat();
        builder.copy_to(&cache.url, &[&path])?.done()?;
        builder.check("nix", ["store", "copy-log", "--to", &cache.url, &derivation])?.done()?;

        let client = client(&nix, &cache)?;
        let from_store = client.check("nix", ["log", "--store", &cache.url, &path])?;
        assert!(from_store.text().contains("the log says this"), "Nix {}: {from_store:?}", nix.version());
        let from_substituter = client.check("nix", ["log", &path])?;
        assert!(from_substituter.text().contains("the log says this"), "Nix {}: {from_substituter:?}", nix.version());

        let name = derivation.trim_start_matches("/nix/store/").replace('+', "%2B");
        let answer = firnd.send(&Request::get(&format!("/main/log/{name}")))?;
        assert_eq!((answer.status, answer.text().as_str()), (200, "the log says this\n"));
        assert!(answer.header("content-type").is_some_and(|value| value.starts_with("text/plain")));
    }
    Ok(())
}

#[test]
fn listings_are_the_ones_that_nix_writes() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(1))?;
        let with_listing = builder.build_one(&closure(2))?;
        builder.copy_to(&cache.url, &[&path])?.done()?;
        builder.copy_to(&format!("{}?write-nar-listing=true", cache.url), &[&with_listing])?.done()?;

        // Nix's own, by way of a cache of files.
        let files = tempfile::tempdir().expect("a temporary directory");
        let url = format!("file://{}?write-nar-listing=true", files.path().display());
        for top in [&path, &with_listing] {
            builder.copy_to(&url, &[top])?.done()?;
            for path in builder.closure(top)? {
                let name = format!("{}.ls", hash(&path));
                let expected = std::fs::read(files.path().join(&name)).expect("Nix has written it");
                let answer = firnd.send(&Request::get(&format!("/main/{name}")))?;
                assert_eq!(answer.status, 200, "{name}");
                let parse = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("a listing is JSON");
                assert_eq!(parse(&answer.body), parse(&expected), "Nix {} {path}", nix.version());
            }
        }
    }
    Ok(())
}

#[test]
fn debug_information_is_found_by_build_id() -> Result<()> {
    let expression = r#"build { name = "x"; script = ''
        d=$out/lib/debug/.build-id/ab; mkdir -p $d
        echo first > $d/cdef0123456789abcdef0123456789abcdef01.debug
        echo second > $d/0000000000000000000000000000000000000f.debug
    ''; }"#;
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(expression)?;
        builder.copy_to(&format!("{}?index-debug-info=true&compression=zstd", cache.url), &[&path])?.done()?;

        for (id, contents) in [
            ("abcdef0123456789abcdef0123456789abcdef01", "first\n"),
            ("ab0000000000000000000000000000000000000f", "second\n"),
        ] {
            let answer = firnd.send(&Request::get(&format!("/main/debuginfo/{id}.debug")))?;
            assert_eq!(answer.status, 200, "Nix {}", nix.version());
            let index: Value = serde_json::from_slice(&answer.body).expect("JSON");
            let member = index["member"].as_str().expect("a member");
            assert_eq!(member, format!("lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..]));
            let archive = index["archive"].as_str().and_then(|url| url.strip_prefix("../")).expect("an archive");
            assert_eq!(firnd.send(&Request::get(&format!("/main/{archive}")))?.status, 200);
            let file = firnd.send(&Request::get(&format!("/main/serve/{}/{member}", hash(&path))))?;
            assert_eq!((file.status, file.text().as_str()), (200, contents));
        }
        let unknown = format!("/main/debuginfo/{}.debug", "1".repeat(40));
        assert_eq!(firnd.send(&Request::get(&unknown))?.status, 404);
    }
    Ok(())
}

#[test]
fn content_addressed_derivations_are_substituted() -> Result<()> {
    // Its output differs with every build: who has the same one has not built it.
    let expression = r#"build {
        name = "ca"; script = "cat /proc/sys/kernel/random/uuid > $out";
        __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
    }"#;
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(expression)?;
        let file = builder.root().join("../home/expression.nix");
        let file = file.to_str().expect("a temporary directory's name is UTF-8");
        builder.check("nix", ["copy", "--to", &cache.url, "--file", file, ""])?.done()?;

        let client = client(&nix, &cache)?;
        assert_eq!(client.build_one(expression)?, path, "Nix {}", nix.version());
        assert_eq!(client.dump(&path)?, builder.dump(&path)?);
    }
    Ok(())
}

#[test]
fn added_files_go_straight_into_the_cache() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let file = builder.write("home/added", "added contents\n")?;
        let file = file.to_str().expect("a temporary directory's name is UTF-8");
        let path = builder.check("nix", ["store", "add-file", "--store", &cache.url, file])?.text();
        // Content-addressed paths need no signature.
        let client = nix.store()?;
        client.copy_from(&cache.url, &[&path])?.done()?;
        assert!(std::fs::read(client.on_disk(&path)).is_ok_and(|bytes| bytes == b"added contents\n"));
    }
    Ok(())
}

#[test]
fn derivations_are_paths_like_any_other() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let derivation = builder.instantiate(&closure(1))?.concat();
        // 2.8 takes a derivation for its outputs unless told otherwise; later ones warn that this is not needed.
        builder.check("nix", ["copy", "--derivation", "--to", &cache.url, &derivation])?.done()?;
        let client = client(&nix, &cache)?;
        client.check("nix", ["copy", "--derivation", "--from", &cache.url, &derivation])?.done()?;
        assert_eq!(client.dump(&derivation)?, builder.dump(&derivation)?);
    }
    Ok(())
}

#[test]
fn what_hydras_queue_runner_does_with_its_store_works() -> Result<()> {
    let expression = r#"build { name = "job"; script = ''
        echo the log of the job
        d=$out/lib/debug/.build-id/ab; mkdir -p $d $out/nix-support
        echo symbols > $d/cdef0123456789abcdef0123456789abcdef01.debug
        echo "doc none $out/report" > $out/nix-support/hydra-build-products
        echo a report > $out/report
    ''; }"#;
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let queue_runner = builder(&nix, &cache)?;
        let (secret, public) = nix.generate_key("hydra-1")?;
        let key = queue_runner.write("key", &secret)?;
        // As `store_uri` has it: what it does with outputs, then with logs, then what its pages read.
        let store_uri = format!(
            "{}?compression=zstd&parallel-compression=true&write-nar-listing=true&index-debug-info=true&secret-key={}",
            cache.url,
            key.display()
        );
        let path = queue_runner.build_one(expression)?;
        let derivation = queue_runner.instantiate(expression)?.concat();
        queue_runner.copy_to(&store_uri, &[&path])?.done()?;
        queue_runner.check("nix", ["store", "copy-log", "--to", &store_uri, &derivation])?.done()?;

        let get = |target: String| firnd.send(&Request::get(&target));
        let narinfo = get(format!("/main/{}.narinfo", hash(&path)))?.text();
        assert!(narinfo.contains("\nSig: hydra-1:") && narinfo.contains("\nSig: main-1:"), "{narinfo}");
        let listing: Value = serde_json::from_slice(&get(format!("/main/{}.ls", hash(&path)))?.body).expect("JSON");
        let products = &listing["root"]["entries"]["nix-support"]["entries"]["hydra-build-products"];
        assert_eq!(products["type"], "regular", "{listing:#}");
        let log = get(format!("/main/log/{}", derivation.trim_start_matches("/nix/store/")))?;
        assert_eq!((log.status, log.text().as_str()), (200, "the log of the job\n"), "Nix {}", nix.version());
        assert_eq!(get("/main/debuginfo/abcdef0123456789abcdef0123456789abcdef01.debug".to_owned())?.status, 200);
        let shown = queue_runner.check("nix", ["store", "cat", "--store", &cache.url, &format!("{path}/report")])?;
        assert_eq!(shown.text(), "a report");

        // Whoever trusts Hydra's key, as before there was firn, goes on as they are.
        let mut settings = firn_tests::settings(&cache);
        settings.trusted_public_keys = vec![public];
        let user = firn_testkit::nix::Store::new(&nix, &settings)?;
        user.realise(&[&path])?.done()?;
        assert_eq!(user.dump(&path)?, queue_runner.dump(&path)?);
    }
    Ok(())
}

#[test]
fn a_build_whose_store_is_the_cache_ends_up_in_it() -> Result<()> {
    let expression = r#"let low = build { name = "low"; script = "echo low > $out"; };
        in build { name = "straight"; inherit low; script = "cat $low > $out; echo straight >> $out"; }"#;
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let host = Host::new(&nix, &Settings::default())?;
        host.store().set_token("127.0.0.1", &cache.token)?;
        let file = host.expression(expression)?;
        // A binary cache builds nothing: the machine's own store is the remote builder. That what is not there yet is not
        // there in an hour either is Nix's own belief, with every HTTP cache.
        let settings = ["--builders", "auto - - 1 1", "-j0", "--option", "narinfo-cache-negative-ttl", "0"];
        let arguments = ["--no-out-link", "--store", &cache.url, &file].into_iter().chain(settings);
        let path = host.check("nix-build", arguments)?.text();
        let client = client(&nix, &cache)?;
        client.realise(&[&path])?.done()?;
        assert_eq!(client.dump(&path)?, firn_testkit::nar::Node::file("low\nstraight\n").encode(), "{}", nix.version());
    }
    Ok(())
}
