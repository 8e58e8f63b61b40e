//! `firn push` with real Nix on both ends and a real server: what one machine pushes, another one substitutes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use firn_testkit::firnd::Firnd;
use firn_testkit::nix::{Nix, Version};
use firn_testkit::proxy::{Fault, Proxy};
use firn_tests::builder::{Builder, PATIENCE, Result, assert_cached, base_name};
use firn_tests::{client, closure};
use serde_json::Value;

/// What one push said: its exit code, its events, and both outputs for messages.
struct Pushed {
    code: Option<i32>,
    events: Vec<Value>,
    said: String,
}

impl Pushed {
    fn of(output: &Output) -> Result<Self> {
        let text = String::from_utf8_lossy(&output.stdout);
        let said = format!("{:?}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        let events = text.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
        Ok(Self { code: output.status.code(), events, said })
    }

    /// Returns a number of the last line, after a push that did everything.
    #[track_caller]
    fn number(&self, field: &str) -> u64 {
        assert_eq!(self.code, Some(0), "{}", self.said);
        let last = self.events.last().filter(|event| event["event"] == "finished");
        last.and_then(|event| event[field].as_u64()).unwrap_or_else(|| panic!("no {field} in {}", self.said))
    }

    /// Returns the stable name of why a path was not pushed.
    #[track_caller]
    fn failure(&self, path: &str) -> &str {
        let is_it = |event: &&Value| {
            event["event"] == "path-failed" && event["path"].as_str().map(base_name) == Some(base_name(path))
        };
        let found = self.events.iter().find(is_it).and_then(|event| event["failure"].as_str());
        found.unwrap_or_else(|| panic!("{path} did not fail: {}", self.said))
    }
}

fn push(builder: &Builder, paths: &[&str]) -> Result<Pushed> {
    Pushed::of(&builder.push(paths)?.output()?)
}

#[test]
fn what_any_version_pushes_every_version_substitutes() -> Result<()> {
    let all = Nix::require_all();
    let firnd = Firnd::start()?;
    for (seed, uploader) in all.iter().enumerate() {
        let cache = firnd.cache(&format!("from-{}", uploader.version()), &["--public"])?;
        let builder = Builder::new(uploader, &cache)?;
        let path = builder.store.build_one(&closure(seed as u64 + 1))?;
        assert_eq!(push(&builder, &[&path])?.number("created_paths"), 3);
        for downloader in &all {
            assert_cached(downloader, &cache, &builder, &path)?;
        }
        let again = push(&builder, &[&path])?;
        assert_eq!((again.number("done_paths"), again.number("frame_bytes")), (0, 0), "{}", again.said);
    }
    Ok(())
}

#[test]
fn a_rebuild_that_changed_only_hashes_sends_less_than_a_kilobyte_a_path() -> Result<()> {
    const PACKAGES: u64 = 24;
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    let build = |revision: u32| {
        builder.store.build_one(&format!(
            r#"let
              base = build {{ name = "base"; script = "echo {revision} > $out"; }};
              package = number: build {{
                name = "package-${{toString number}}"; inherit base; number = toString number;
                script = ''mkdir $out; seq $number 3000 | sed "s,$, $base," > $out/a; seq 900 | sed "s,^,$out/$number ," > $out/b'';
              }};
            in build {{ name = "top"; packages = map package (builtins.genList (n: n + 1) {PACKAGES});
              script = "for each in $packages; do echo $each; done > $out"; }}"#
        ))
    };
    let first = push(&builder, &[&build(1)?])?;
    assert_eq!(first.number("created_paths"), PACKAGES + 2);
    let path = build(2)?;
    let second = push(&builder, &[&path])?;
    assert_eq!(second.number("created_paths"), PACKAGES + 2);
    assert!(second.number("known_paths") >= PACKAGES, "{}", second.said);
    let (wire, logical) = (second.number("wire_bytes"), second.number("logical_bytes"));
    println!("{} paths of {logical} bytes in all: {wire} bytes over the wire", PACKAGES + 2);
    assert!(logical > PACKAGES * 100_000, "{}", second.said);
    assert!(wire < 1024 * (PACKAGES + 2), "{}", second.said);
    assert_cached(&nix, &cache, &builder, &path)
}

#[test]
fn a_corrupt_and_a_vanished_path_are_named_and_hold_up_no_other() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = Builder::new(&nix, &cache)?;
        let good = builder.store.build_one(&closure(1))?;
        let build = |name: &str| {
            builder.store.build_one(&format!(r#"build {{ name = "{name}"; script = "echo {name} > $out"; }}"#))
        };
        let (corrupt, vanished) = (build("corrupt")?, build("vanished")?);
        let file = builder.store.on_disk(&corrupt);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
        fs::write(&file, "CORRUPT\n")?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o444))?;
        fs::remove_file(builder.store.on_disk(&vanished))?;

        let pushed = push(&builder, &[&corrupt, &good, &vanished])?;
        assert_eq!(pushed.code, Some(1), "{}", pushed.said);
        assert_eq!((pushed.failure(&corrupt), pushed.failure(&vanished)), ("corrupt", "vanished"), "{}", pushed.said);
        assert_cached(&nix, &cache, &builder, &good)?;
        let client = client(&nix, &cache)?;
        for path in [&corrupt, &vanished] {
            assert!(!client.realise(&[path])?.succeeded(), "{path} is in the cache");
        }
    }
    Ok(())
}

#[test]
fn two_pushes_of_one_closure_at_once_both_succeed() -> Result<()> {
    let nixes = Nix::require_all();
    let firnd = Firnd::start()?;
    for (seed, nix) in nixes.iter().enumerate() {
        let cache = firnd.cache(&format!("from-{}", nix.version()), &["--public"])?;
        let builders = [Builder::new(nix, &cache)?, Builder::new(nix, &cache)?];
        let mut path = String::new();
        for builder in &builders {
            path = builder.store.build_one(&closure(seed as u64 + 1))?;
        }
        let mut pushes = Vec::new();
        for builder in builders.iter().cycle().take(4) {
            let mut command = builder.push(&[&path])?;
            pushes.push(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
        }
        // All are waited for before any is judged: none outlives the test's server.
        let ended: Vec<_> = pushes.into_iter().map(std::process::Child::wait_with_output).collect();
        let mut created = 0;
        for output in ended {
            created += Pushed::of(&output?)?.number("created_paths");
        }
        assert_eq!(created, 3, "each path is new to one of them");
        assert_cached(nix, &cache, &builders[0], &path)?;
    }
    Ok(())
}

/// A path of about 3 MB that compresses badly, and one that refers to it.
const LARGE: &str = r#"let large = build { name = "large"; script = ''
    mkdir $out; i=0
    for f in /usr/bin/*; do
      [ -f "$f" ] && [ $(stat -L -c %s "$f") -lt 300000 ] || continue
      i=$((i + $(stat -L -c %s "$f"))); [ $i -lt 3000000 ] || break
      cp -L "$f" $out/
    done
''; }; in build { name = "top"; inherit large; script = "echo $large > $out"; }"#;

#[test]
fn a_push_goes_on_after_cuts_and_after_deaths_of_both_ends() -> Result<()> {
    for nix in Nix::require_all() {
        let mut firnd = Firnd::start()?;
        let proxy = Proxy::start(firnd.address())?;
        let cache = firnd.cache("main", &["--public"])?;
        let mut builder = Builder::new(&nix, &cache)?;
        let path = builder.store.build_one(LARGE)?;

        // Nothing of 200 kB ever comes through: the push tries again until it is killed.
        proxy.set_fault(Fault::CutRequests { after: 200_000, times: u64::MAX });
        builder.url = format!("http://{}/main", proxy.address());
        let mut command = builder.push(&[&path])?;
        let mut killed = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let was_cut = proxy.wait_for_cut(PATIENCE);
        let ended = killed.try_wait()?;
        killed.kill()?;
        killed.wait()?;
        assert!(was_cut && ended.is_none(), "cut: {was_cut}, ended by itself: {ended:?}");
        firnd.kill()?;
        firnd.launch()?;
        assert!(!client(&nix, &cache)?.realise(&[&path])?.succeeded(), "it is there though it was never sent");

        // The next one is cut as well, and comes through by itself.
        proxy.set_fault(Fault::CutRequests { after: 200_000, times: 2 });
        let pushed = push(&builder, &[&path])?;
        assert_eq!(pushed.number("created_paths"), 2, "{}", pushed.said);
        assert_eq!(proxy.cuts(), 2, "{}", pushed.said);
        assert_cached(&nix, &cache, &builder, &path)?;
    }
    Ok(())
}

/// The bytes of [`NOISE`], which nothing compresses.
const NOISE_BYTES: u64 = 24 << 20;

/// A path that takes six requests, each other than any before.
const NOISE: &str = r#"build { name = "noise"; script = "head -c 25165824 /dev/urandom > $out"; }"#;

#[test]
fn a_push_that_is_made_again_sends_only_the_rest() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let proxy = Proxy::start(firnd.address())?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(NOISE)?;

    // On each connection one request comes through, and the next one is cut: the push gives up at once.
    proxy.set_fault(Fault::CutRequests { after: 5 << 20, times: u64::MAX });
    builder.url = format!("http://{}/main", proxy.address());
    let mut command = builder.push(&[&path])?;
    let first = Pushed::of(&command.args(["--retry-for", "0"]).output()?)?;
    assert_eq!(first.code, Some(3), "{}", first.said);
    let stored = first.events.iter().rev().find_map(|event| event["frame_bytes"].as_u64()).unwrap_or(0);
    assert!(stored >= 4 << 20, "one request at least was answered: {}", first.said);

    proxy.set_fault(Fault::None);
    let rest = push(&builder, &[&path])?;
    assert_eq!(rest.number("created_paths"), 1, "{}", rest.said);
    let wire = rest.number("wire_bytes");
    println!("a fresh push sends {NOISE_BYTES} bytes at least; this one sent {wire} after {stored} were stored");
    assert!(wire + stored < NOISE_BYTES + (1 << 20), "{}", rest.said);
    assert_cached(&nix, &cache, &builder, &path)
}

#[test]
fn a_database_that_is_no_use_ends_the_push_before_anything_is_sent() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let database = builder.store.root().join("nix/var/nix/db/db.sqlite");
    let refused = |arguments: &[&str], expected: &str| -> Result<()> {
        let pushed = builder.push(arguments)?.output()?;
        let said = String::from_utf8_lossy(&pushed.stderr);
        assert_eq!(pushed.status.code(), Some(5), "{said}");
        assert!(said.contains(expected), "{said}");
        Ok(())
    };
    refused(&["/nix/store/00000000000000000000000000000000-nothing"], "not a valid path")?;
    let kept = database.with_extension("kept");
    fs::rename(&database, &kept)?;
    refused(&[&path], "db.sqlite")?;
    fs::write(&database, vec![7; 100_000])?;
    refused(&[&path], "db.sqlite")?;
    fs::rename(&kept, &database)?;
    assert_eq!(push(&builder, &[&path])?.number("created_paths"), 3);
    Ok(())
}
