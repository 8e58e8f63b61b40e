//! Connections that break: downloads go on where they were cut, also on a server that was killed meanwhile; uploads that
//! break leave nothing half-visible and can be made again.

use std::thread;
use std::time::Duration;

use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::nix::{Nix, Settings, Store, Version};
use firn_testkit::proxy::{Fault, Proxy};
use firn_tests::{builder, settings};

/// A path of 3 MB that compresses to about 2 MB, so that both forms are long enough to be cut.
const LARGE: &str = r#"build { name = "large"; script = ''
    mkdir $out; i=0
    for f in /usr/bin/*; do
      [ -f "$f" ] && [ $(stat -L -c %s "$f") -lt 300000 ] || continue
      i=$((i + $(stat -L -c %s "$f"))); [ $i -lt 3000000 ] || break
      cp -L "$f" $out/
    done
''; }"#;

/// The same cache, as seen through a proxy.
fn behind(proxy: &Proxy, cache: &Cache) -> Cache {
    Cache { url: format!("http://{}/{}", proxy.address(), cache.name), ..cache.clone() }
}

#[test]
fn a_download_that_is_cut_goes_on_there() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let proxy = Proxy::start(firnd.address())?;
        for transport in ["zstd", "none"] {
            let cache = firnd.cache(transport, &["--public", "--transport", transport])?;
            let builder = builder(&nix, &cache)?;
            let path = builder.build_one(LARGE)?;
            builder.copy_to(&cache.url, &[&path])?.done()?;
            // The first few hundred bytes are answers before the NAR; four cuts are as many as Nix tries again.
            for (after, times) in [(1_500, 1), (2_000, 2), (30_000, 4), (262_144, 3), (700_001, 2)] {
                let client = Store::new(&nix, &settings(&behind(&proxy, &cache)))?;
                proxy.set_fault(Fault::CutAnswers { after, times });
                client.realise(&[&path])?.done()?;
                assert!(proxy.cuts() > 0, "Nix {} {transport}: nothing was cut after {after} bytes", nix.version());
                assert_eq!(client.dump(&path)?, builder.dump(&path)?);
            }
            proxy.set_fault(Fault::None);
        }
    }
    Ok(())
}

#[test]
fn a_download_goes_on_after_the_server_was_killed() -> Result<()> {
    for nix in Nix::require_all() {
        for transport in ["zstd", "none"] {
            let mut firnd = Firnd::start()?;
            let proxy = Proxy::start(firnd.address())?;
            let cache = firnd.cache("main", &["--public", "--transport", transport])?;
            let builder = builder(&nix, &cache)?;
            let path = builder.build_one(LARGE)?;
            builder.copy_to(&cache.url, &[&path])?.done()?;

            let client = Store::new(&nix, &settings(&behind(&proxy, &cache)))?;
            proxy.set_fault(Fault::CutAnswers { after: 500_000, times: 1 });
            thread::scope(|scope| {
                let download = scope.spawn(|| client.realise(&[&path]));
                assert!(proxy.wait_for_cut(Duration::from_secs(60)), "nothing was cut");
                firnd.kill()?;
                firnd.launch()?;
                download.join().expect("the thread does not panic")?.done()
            })?;
            assert_eq!(client.dump(&path)?, builder.dump(&path)?, "Nix {} {transport}", nix.version());
            assert!(firnd.log().contains("status=206"), "it began anew instead of going on\n{}", firnd.log());
        }
    }
    Ok(())
}

#[test]
fn an_upload_that_is_cut_leaves_nothing_and_can_be_made_again() -> Result<()> {
    // 2.8 sends a cut upload again without its body and waits minutes for an answer that cannot come.
    for version in [Version::V2_26, Version::V2_34] {
        let Some(nix) = Nix::require(version) else { continue };
        for after in [300, 3_000, 100_000, 1_000_000] {
            let firnd = Firnd::start_with("[server]\nbody-timeout = \"5 s\"\n")?;
            let proxy = Proxy::start(firnd.address())?;
            let cache = firnd.cache("main", &["--public"])?;
            let builder = builder(&nix, &cache)?;
            let path = builder.build_one(LARGE)?;
            proxy.set_fault(Fault::CutRequests { after, times: 1 });
            // Whether Nix itself comes through depends on its version.
            let through = builder.copy_to(&format!("{}?compression=none", behind(&proxy, &cache).url), &[&path])?;
            assert_eq!(proxy.cuts(), 1, "nothing was cut after {after} bytes");
            assert_eq!(firnd.status("paths")?, u64::from(through.succeeded()), "after {after} bytes");

            builder.forget_caches()?;
            builder.copy_to(&cache.url, &[&path])?.done()?;
            let client = Store::new(&nix, &settings(&cache))?;
            client.realise(&[&path])?.done()?;
            assert_eq!(client.dump(&path)?, builder.dump(&path)?);
        }
    }
    Ok(())
}

#[test]
fn what_was_uploaded_is_there_after_a_kill_and_after_an_orderly_end() -> Result<()> {
    for nix in Nix::require_all() {
        let mut firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(&nix, &cache)?;
        let path = builder.build_one(LARGE)?;
        builder.copy_to(&cache.url, &[&path])?.done()?;
        firnd.kill()?;
        firnd.launch()?;
        let check = || -> Result<()> {
            let client = Store::new(&nix, &Settings { ..settings(&cache) })?;
            client.realise(&[&path])?.done()?;
            assert_eq!(client.dump(&path)?, builder.dump(&path)?);
            Ok(())
        };
        check()?;
        assert!(firnd.terminate()?.success(), "{}", firnd.log());
        firnd.launch()?;
        check()?;
    }
    Ok(())
}
