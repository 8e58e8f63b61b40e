//! What one machine uploads with stock Nix, another one substitutes with stock Nix, whatever the version and compression.

use firn_testkit::Result;
use firn_testkit::firnd::Firnd;
use firn_testkit::nix::{NAR_COMPRESSIONS, Nix, Settings, Version};
use firn_tests::{assert_same, builder, client, closure, settings};

fn every_compression(version: Version) -> Result<()> {
    let Some(nix) = Nix::require(version) else { return Ok(()) };
    let firnd = Firnd::start()?;
    for (seed, compression) in NAR_COMPRESSIONS.into_iter().enumerate() {
        let cache = firnd.cache(&format!("cache-{compression}"), &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(seed as u64 + 1))?;
        builder.copy_to(&format!("{}?compression={compression}", cache.url), &[&path])?.done()?;

        let client = client(&nix, &cache)?;
        client.realise(&[&path])?.done()?;
        assert_same(&builder, &client, &path)?;
    }
    Ok(())
}

#[test]
fn nix_2_8_in_every_compression() -> Result<()> {
    every_compression(Version::V2_8)
}

#[test]
fn nix_2_26_in_every_compression() -> Result<()> {
    every_compression(Version::V2_26)
}

#[test]
fn nix_2_34_in_every_compression() -> Result<()> {
    every_compression(Version::V2_34)
}

#[test]
fn what_one_version_uploads_every_version_takes() -> Result<()> {
    let all = Nix::require_all();
    let firnd = Firnd::start()?;
    for transport in ["zstd", "none"] {
        for (seed, uploader) in all.iter().enumerate() {
            let name = format!("{transport}-{}", uploader.version());
            let cache = firnd.cache(&name, &["--public", "--transport", transport])?;
            let builder = builder(uploader, &cache)?;
            let path = builder.build_one(&closure(seed as u64 + 100))?;
            builder.copy_to(&cache.url, &[&path])?.done()?;
            for downloader in &all {
                let client = client(downloader, &cache)?;
                client.realise(&[&path])?.done()?;
                assert_same(&builder, &client, &path)?;
            }
        }
    }
    Ok(())
}

#[test]
fn copies_from_the_cache_are_verified() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(&closure(1))?;
        builder.copy_to(&cache.url, &[&path])?.done()?;

        let client = client(&nix, &cache)?;
        client.copy_from(&cache.url, &[&path])?.done()?;
        assert_same(&builder, &client, &path)?;
        client.check("nix", ["store", "verify", "--recursive", &path])?.done()?;
        // The cache verifies itself: every NAR is fetched and hashed.
        client.check("nix", ["store", "verify", "--store", &cache.url, "--recursive", &path])?.done()?;
    }
    Ok(())
}

#[test]
fn a_second_upload_changes_nothing() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let first = builder(&nix, &cache)?;
        let path = first.build_one(&closure(1))?;
        first.copy_to(&cache.url, &[&path])?.done()?;
        let sums = || -> Result<Vec<u64>> {
            ["paths", "logical_bytes", "unique_bytes", "stored_bytes"]
                .map(|field| firnd.status(field))
                .into_iter()
                .collect()
        };
        let before = sums()?;
        assert!(before[0] == 3 && before[1] > 500_000, "{before:?}");
        assert!(before[2..].iter().all(|bytes| *bytes > 50_000), "{before:?}");

        first.forget_caches()?;
        first.copy_to(&cache.url, &[&path])?.done()?;
        // Another machine, whose Nix compresses otherwise.
        let second = builder(&nix, &cache)?;
        assert_eq!(second.build_one(&closure(1))?, path);
        second.copy_to(&format!("{}?compression=zstd", cache.url), &[&path])?.done()?;
        assert_eq!(sums()?, before);
    }
    Ok(())
}

#[test]
fn a_second_cache_shares_the_bytes() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let (one, other) = (firnd.cache("one", &["--public"])?, firnd.cache("other", &["--public"])?);
    let builder = builder(&nix, &one)?;
    let path = builder.build_one(&closure(1))?;
    builder.copy_to(&one.url, &[&path])?.done()?;
    let (logical, unique) = (firnd.status("logical_bytes")?, firnd.status("unique_bytes")?);
    assert!(logical >= unique && unique > 100_000, "{logical} {unique}");
    builder.set_token("127.0.0.1", &other.token)?;
    builder.copy_to(&other.url, &[&path])?.done()?;
    assert_eq!((firnd.status("logical_bytes")?, firnd.status("unique_bytes")?), (2 * logical, unique));
    let client = client(&nix, &other)?;
    client.realise(&[&path])?.done()?;
    assert_same(&builder, &client, &path)
}

#[test]
fn a_rebuild_that_changes_only_hashes_is_nearly_free() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = builder(&nix, &cache)?;
    let build = |revision: u32| {
        builder.build_one(&format!(
            r#"let base = build {{ name = "base"; script = "echo {revision} > $out"; }};
            in build {{ name = "big"; inherit base; script = ''
              mkdir $out
              for i in $(seq 1 200); do seq $((i * 7)) 3000 | sed "s,$, $base," > $out/$i; done
            ''; }}"#
        ))
    };
    builder.copy_to(&cache.url, &[build(1)?])?.done()?;
    let fields = ["logical_bytes", "unique_bytes", "stored_bytes"];
    let first = fields.map(|field| firnd.status(field).expect("a sum"));
    builder.copy_to(&cache.url, &[build(2)?])?.done()?;
    let second = fields.map(|field| firnd.status(field).expect("a sum"));
    assert!(second[0] > first[0] * 19 / 10 && first[1] > 1_000_000 && first[2] > 100_000, "{first:?} {second:?}");
    assert!(second[1] - first[1] < 4096, "{first:?} {second:?}");
    // 600,000 slots are one recipe: what is new is a record or two.
    assert!(second[2] - first[2] < 16 << 10, "{first:?} {second:?}");
    Ok(())
}

#[test]
fn the_url_that_an_uploader_wrote_keeps_answering() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        // An uploader remembers the narinfo that it wrote: its own URL, its own compression, and no signature of the cache.
        let trusting = Settings { require_sigs: false, ..settings(&cache) };
        for (seed, compression) in NAR_COMPRESSIONS.into_iter().enumerate() {
            let builder = builder(&nix, &cache)?;
            builder.configure(&trusting)?;
            let path = builder.build_one(&format!(r#"build {{ name = "x"; script = "seq {seed} 20000 > $out"; }}"#))?;
            let nar = builder.dump(&path)?;
            builder.copy_to(&format!("{}?compression={compression}", cache.url), &[&path])?.done()?;
            builder.check("nix-store", ["--delete", &path])?.done()?;
            builder.realise(&[&path])?.done()?;
            assert_eq!(builder.dump(&path)?, nar, "Nix {} {compression}", nix.version());
        }
    }
    Ok(())
}

#[test]
fn names_and_kinds_of_every_sort_survive() -> Result<()> {
    let script = r#"
        mkdir -p $out/a/b/c/d/e "$out/with space" $out/empty
        printf 'no newline' > $out/a/b/c/d/e/file
        : > $out/empty-file
        printf '\377\376\000' > "$out/$(printf 'bytes-\303\244-\001')"
        ln -s /nowhere/at/all $out/dangling; ln -s . $out/loop
        echo x > "$out/with space/x y"; chmod +x "$out/with space/x y"
        head -c 16383 /dev/zero > $out/16383; head -c 16384 /dev/zero > $out/16384; head -c 300000 /dev/zero > $out/zeros"#;
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        for (name, script) in [("kinds", script), ("file", "echo x > $out"), ("link", "ln -s /target $out")] {
            let path = builder.build_one(&format!("build {{ name = \"{name}\"; script = ''{script}''; }}"))?;
            builder.copy_to(&cache.url, &[&path])?.done()?;
            let client = client(&nix, &cache)?;
            client.realise(&[&path])?.done()?;
            assert_same(&builder, &client, &path)?;
        }
    }
    Ok(())
}

#[test]
fn an_unknown_path_is_built() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let client = client(&nix, &cache)?;
        let path = client.build_one(r#"build { name = "x"; script = "echo x > $out"; }"#)?;
        assert!(client.has(&path)?);
        assert!(client.run("nix", ["path-info", "--store", &cache.url, &path])?.stderr.contains("is not valid"));
    }
    Ok(())
}
