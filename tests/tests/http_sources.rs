//! A server pulls from another one over HTTP: both are real, and so is the Nix that uploads to the one and reads from the other.

use firn_testkit::firnd::Firnd;
use firn_testkit::nix::{Nix, Version};
use firn_tests::builder::Result;
use firn_tests::{assert_same, builder, client, closure};
use serde_json::Value;

fn number(view: &Value, field: &str) -> u64 {
    view["last"][field].as_u64().unwrap_or_else(|| panic!("no {field} in {view:#}"))
}

#[test]
fn what_is_uploaded_to_one_server_is_substituted_from_the_other() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let (far, mut near) = (Firnd::start()?, Firnd::start()?);
    let (from, to) = (far.cache("main", &[])?, near.cache("all", &["--public"])?);
    let builder = builder(&nix, &from)?;
    let upload = |seed: u64| -> Result<String> {
        let path = builder.build_one(&closure(seed))?;
        builder.copy_to(&far.url("main"), &[&path])?.done()?;
        Ok(path)
    };
    let first = upload(1)?;

    // The list of a private cache is private.
    let refused = near.run([
        "source",
        "add",
        "far",
        &far.url("main"),
        "--cache",
        "all",
        "--key",
        &from.public_key,
        "--every",
        "0 s",
    ])?;
    assert!(refused.status.success(), "{refused:?}");
    let refused = near.run(["source", "sync", "far"])?;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("token");
    std::fs::write(&file, far.token("main:pull")?)?;
    let url = format!("{}?token-file={}", far.url("main"), file.display());
    near.admin(["source", "set", "far", "--url", &url])?;
    let view = near.json(&["source", "sync", "far"])?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (3, 0), "{view:#}");
    let substituted = client(&nix, &to)?;
    substituted.realise(&[&first])?.done()?;
    assert_same(&builder, &substituted, &first)?;

    // What was listed is known after a crash, with a server and without.
    near.kill()?;
    let second = upload(2)?;
    let view = near.json(&["source", "sync", "far"])?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (3, 0), "{view:#}");
    near.launch()?;
    let view = near.json(&["source", "sync", "far"])?;
    assert_eq!((number(&view, "paths"), number(&view, "nar_bytes")), (0, 0), "{view:#}");
    assert_eq!(view["total"]["paths"], 6, "{view:#}");
    let substituted = client(&nix, &to)?;
    substituted.realise(&[&second])?.done()?;
    assert_same(&builder, &substituted, &second)?;
    Ok(())
}

#[test]
fn a_server_that_is_gone_opens_the_circuit_and_harms_nothing() -> Result<()> {
    let (mut far, near) = (Firnd::start()?, Firnd::start()?);
    far.cache("main", &["--public"])?;
    near.cache("all", &["--public"])?;
    near.admin(["source", "add", "far", &far.url("main"), "--cache", "all", "--trust", "--every", "0 s"])?;
    near.admin(["source", "sync", "far"])?;
    far.kill()?;
    let ran = near.run(["source", "sync", "far"])?;
    assert_eq!(ran.status.code(), Some(1), "{ran:?}");
    let view = near.json(&["source", "show", "far"])?;
    assert_eq!(view["failures"], 1, "{view:#}");
    let address = far.address().to_string();
    assert!(view["error"].as_str().is_some_and(|error| error.contains(&address)), "{view:#}");
    far.launch()?;
    near.admin(["source", "sync", "far"])?;
    assert_eq!(near.json(&["source", "show", "far"])?["failures"], 0);
    Ok(())
}
