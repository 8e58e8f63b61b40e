//! The harness itself, against Nix's own file cache: what it claims about real Nix has to be so before firn is blamed.

use firn_testkit::Result;
use firn_testkit::nar::Node;
use firn_testkit::nix::{NAR_COMPRESSIONS, Nix, Settings, Store};

#[test]
fn a_build_gives_the_nar_that_our_encoder_gives() -> Result<()> {
    for nix in Nix::require_all() {
        let store = nix.store()?;
        let script = r#"mkdir $out; echo hi > $out/file; ln -s file $out/link; cp $out/file $out/program; chmod +x $out/program"#;
        let path = store.build_one(&format!(r#"build {{ name = "tree"; script = "{script}"; }}"#))?;
        let tree = Node::directory([
            ("file", Node::file("hi\n")),
            ("link", Node::Symlink { target: b"file".to_vec() }),
            ("program", Node::Regular { executable: true, contents: b"hi\n".to_vec() }),
        ]);
        assert_eq!(store.dump(&path)?, tree.encode(), "Nix {}", nix.version());
    }
    Ok(())
}

#[test]
fn a_failing_build_is_an_error_with_its_output() -> Result<()> {
    for nix in Nix::require_all() {
        let failed = nix.store()?.build(r#"build { name = "x"; script = "echo some-reason >&2; exit 1"; }"#);
        assert!(failed.expect_err("it exits with 1").to_string().contains("some-reason"));
    }
    Ok(())
}

#[test]
fn copies_go_through_a_file_cache_in_every_compression() -> Result<()> {
    for nix in Nix::require_all() {
        let builder = nix.store()?;
        let path = builder.build_one(r#"build { name = "x"; script = "seq 1 2000 > $out"; }"#)?;
        let client = Store::new(&nix, &Settings { require_sigs: false, ..Settings::default() })?;
        for compression in NAR_COMPRESSIONS {
            let cache = tempfile::tempdir().expect("a temporary directory");
            let url = format!("file://{}", cache.path().display());
            builder.copy_to(&format!("{url}?compression={compression}"), &[&path])?.done()?;
            if client.has(&path)? {
                client.check("nix-store", ["--delete", &path])?.done()?;
            }
            client.copy_from(&url, &[&path])?.done()?;
            assert_eq!(client.dump(&path)?, builder.dump(&path)?, "Nix {} {compression}", nix.version());
        }
    }
    Ok(())
}

#[test]
fn signatures_decide_what_is_substituted() -> Result<()> {
    for nix in Nix::require_all() {
        let builder = nix.store()?;
        let (secret, public) = nix.generate_key("test-1")?;
        let secret = builder.write("secret", &secret)?;
        let path = builder.build_one(r#"build { name = "x"; script = "echo x > $out"; }"#)?;
        let cache = tempfile::tempdir().expect("a temporary directory");
        let url = format!("file://{}", cache.path().display());
        builder.copy_to(&format!("{url}?secret-key={}", secret.display()), &[&path])?.done()?;

        let settings = Settings { substituters: vec![url], ..Settings::default() };
        let stranger = Store::new(&nix, &settings)?;
        assert!(!stranger.realise(&[&path])?.succeeded(), "Nix {}", nix.version());
        let client = Store::new(&nix, &Settings { trusted_public_keys: vec![public], ..settings })?;
        client.realise(&[&path])?.done()?;
        assert!(client.has(&path)?);
        assert_eq!(client.nar_hash(&path)?, builder.nar_hash(&path)?);
    }
    Ok(())
}

#[test]
fn stores_are_strangers_to_each_other() -> Result<()> {
    for nix in Nix::require_all() {
        let (one, other) = (nix.store()?, nix.store()?);
        let path = one.build_one(r#"build { name = "x"; script = "echo x > $out"; }"#)?;
        assert!(one.has(&path)? && !other.has(&path)?);
        assert_eq!(one.closure(&path)?, [path.as_str()]);
        assert!(std::fs::read(one.on_disk(&path)).is_ok_and(|bytes| bytes == b"x\n"));
    }
    Ok(())
}
