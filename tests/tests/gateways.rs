//! Between builders and their server there is TLS, HTTP/2, and proxies of both kinds.

use std::path::PathBuf;
use std::process::Output;

use firn_testkit::firnd::Firnd;
use firn_testkit::gateway::Gateway;
use firn_testkit::nix::{Nix, Version};
use firn_tests::builder::{Builder, Result, assert_cached};
use firn_tests::{assert_same, closure, settings, shipped};

/// Returns a certificate for `127.0.0.1` and its key, or others than these.
fn certificate(number: u8) -> (PathBuf, PathBuf) {
    let folder = shipped::workspace().join("crates/server/tests/admin/fixtures");
    (folder.join(format!("cert-{number}.pem")), folder.join(format!("key-{number}.pem")))
}

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{:?}\n{out}\n{err}", output.status)
}

#[test]
fn a_push_over_tls_speaks_http_2_and_trusts_only_whom_it_may() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let (trusted, key) = certificate(1);
    let firnd = Firnd::start_secure(&trusted, &key)?;
    let cache = firnd.cache("main", &["--public"])?;
    assert!(cache.url.starts_with("https://"), "{}", cache.url);
    let builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let push = |certificate: &PathBuf| -> Result<Output> {
        let mut command = builder.push(&[&path])?;
        command.env("NIX_SSL_CERT_FILE", certificate).env("FIRN_LOG", "firn_client=trace");
        Ok(command.args(["--retry-for", "0"]).output()?)
    };
    let refused = push(&certificate(2).0)?;
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("certificate"), "{}", said(&refused));

    let pushed = push(&trusted)?;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert!(said(&pushed).contains("HTTP/2.0") && !said(&pushed).contains("HTTP/1.1"), "{}", said(&pushed));
    let mut settings = settings(&cache);
    settings.extra.push(format!("ssl-cert-file = {}", trusted.display()));
    let client = firn_testkit::nix::Store::new(&nix, &settings)?;
    client.realise(&[&path])?.done()?;
    assert_same(&builder.store, &client, &path)?;

    // The same through a proxy, which sees nothing but a tunnel.
    let gateway = Gateway::forward()?;
    let path = builder.store.build_one(&closure(2))?;
    let mut command = builder.push(&[&path])?;
    command.env("NIX_SSL_CERT_FILE", &trusted).env("https_proxy", gateway.url());
    let pushed = command.output()?;
    assert!(pushed.status.success() && gateway.tunnels() > 0, "{}", said(&pushed));
    client.realise(&[&path])?.done()?;
    Ok(())
}

#[test]
fn a_forward_proxy_is_used_unless_the_environment_says_otherwise() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let (firnd, gateway) = (Firnd::start()?, Gateway::forward()?);
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let pushed = builder.push(&[&path])?.env("http_proxy", gateway.url()).output()?;
    assert!(pushed.status.success() && gateway.requests() > 0, "{}", said(&pushed));
    assert_cached(&nix, &cache, &builder, &path)?;

    let through = gateway.requests();
    let path = builder.store.build_one(&closure(2))?;
    let pushed = builder.push(&[&path])?.env("http_proxy", gateway.url()).env("no_proxy", "127.0.0.1").output()?;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert_eq!(gateway.requests(), through);

    // The agent as well, whose unit has the variable.
    builder.start_with(|command| command.env("http_proxy", gateway.url()))?;
    builder.flush()?;
    assert!(gateway.requests() > through);
    Ok(())
}

#[test]
fn a_reverse_proxy_that_refuses_long_bodies_is_no_hindrance() -> Result<()> {
    const MIB: u64 = 1 << 20;
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let noise = |name: &str| {
        builder.store.build_one(&format!(
            r#"build {{ name = "{name}"; script = "mkdir $out; for i in 1 2 3 4; do head -c 4000000 /dev/urandom > $out/$i; done"; }}"#
        ))
    };
    let paths = [noise("for-32-mib")?, noise("for-1-mib")?];
    // As a well-known platform has it, and as nginx has it unless it is told otherwise.
    for (limit, path) in [32 * MIB, MIB].into_iter().zip(&paths) {
        let gateway = Gateway::reverse(firnd.address(), limit)?;
        builder.url = format!("{}/main", gateway.url());
        let pushed = builder.push(&[path])?.output()?;
        assert!(pushed.status.success(), "{limit}: {}", said(&pushed));
        println!(
            "limit {limit}: the longest body had {} bytes, {} were refused",
            gateway.longest_body(),
            gateway.refused()
        );
        assert!(gateway.longest_body() <= 8 * MIB);
        assert_eq!(gateway.refused() > 0, limit == MIB, "{}", gateway.refused());
        assert_cached(&nix, &cache, &builder, path)?;
    }
    Ok(())
}

/// A path of 2,200 files whose chunks all differ and nearly vanish when they are compressed: its recipe takes 75 kB at least.
/// Making it is what takes the time here, so it is no longer than it has to be.
const MANY_CHUNKS: &str = r#"build { name = "many-chunks"; script = ''
  mkdir $out; cd $out; seq -f '%0255.0f' 143000 | split -l 65 -a 5 -d - file-
''; }"#;

#[test]
fn a_recipe_of_many_parts_gets_there() -> Result<()> {
    const LIMIT: u64 = 60_000;
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let gateway = Gateway::reverse(firnd.address(), LIMIT)?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(MANY_CHUNKS)?;
    builder.url = format!("{}/main", gateway.url());
    let pushed = builder.push(&[&path])?.env("FIRN_LOG", "firn_client=trace").output()?;
    assert!(pushed.status.success(), "{}", said(&pushed));
    let parts = firnd.log().matches("method=PUT path=/api/v1/caches/main/recipes/").count();
    assert!(parts > 1, "the recipe went with the commit, in {parts} parts");
    assert_cached(&nix, &cache, &builder, &path)?;

    // A second one, whose recipe is known by now.
    let again = builder.push(&[&path])?.arg("--recheck").output()?;
    assert!(again.status.success(), "{}", said(&again));
    Ok(())
}
