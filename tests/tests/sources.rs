//! The server pulls from builders: local stores, ssh with what stock Nix offers there, folders, and builders that have firn.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::nix::{Nix, Store, Version};
use firn_testkit::sshd::Sshd;
use firn_tests::builder::{PATIENCE, Result};
use firn_tests::{assert_same, client, closure};
use serde_json::Value;

/// A server with a cache, and a builder behind an sshd.
struct World {
    firnd: Firnd,
    cache: Cache,
    builder: Store,
    sshd: Sshd,
}

impl World {
    fn new(nix: &Nix) -> Result<Self> {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = builder(nix)?;
        let sshd = Sshd::start(&builder)?;
        Ok(Self { firnd, cache, builder, sshd })
    }

    fn url(&self, scheme: &str) -> String {
        let address = self.sshd.address();
        format!("{scheme}://root@{address}?remote-store={}", self.builder.root().display())
    }

    /// Adds a trusted source that leads through ssh.
    fn add(&self, name: &str, url: &str, more: &[&str]) -> Result<()> {
        let key = self.sshd.user_key().display().to_string();
        let own = ["source", "add", name, url, "--cache", "main", "--ssh-key", &key, "--every", "0 s"];
        self.firnd.admin(own.into_iter().chain(more.iter().copied()))?;
        Ok(())
    }

    fn sync(&self, name: &str) -> Result<Value> {
        Ok(self.firnd.json(&["source", "sync", name])?)
    }

    /// Runs a sync that has to fail, and returns what it says.
    #[track_caller]
    fn fails(&self, name: &str) -> Result<String> {
        let ran = self.firnd.run(["source", "sync", name])?;
        assert_eq!(ran.status.code(), Some(1), "{ran:?}");
        Ok(ran.stderr)
    }

    fn show(&self, name: &str) -> Result<Value> {
        Ok(self.firnd.json(&["source", "show", name])?)
    }

    /// Compares a path with what another machine substitutes from the cache.
    #[track_caller]
    fn assert_cached(&self, path: &str) -> Result<()> {
        let client = client(self.builder.nix(), &self.cache)?;
        client.realise(&[path])?.done()?;
        assert_same(&self.builder, &client, path)?;
        Ok(())
    }

    fn has(&self, path: &str) -> Result<bool> {
        let hash = path.trim_start_matches("/nix/store/").split('-').next().unwrap_or_default();
        let target = format!("/main/{hash}.narinfo");
        Ok(self.firnd.send(&firn_testkit::http::Request::get(&target))?.status == 200)
    }
}

fn builder(nix: &Nix) -> Result<Store> {
    let store = nix.store()?;
    store.check("nix-store", ["--init"])?.done()?;
    Ok(store)
}

fn number(view: &Value, field: &str) -> u64 {
    view["last"][field].as_u64().unwrap_or_else(|| panic!("no {field} in {view:#}"))
}

/// Writes a program that stands in for one of the builder's.
fn script(store: &Store, name: &str, text: &str) -> Result<PathBuf> {
    let path = store.write(name, &format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// An expression of a path of a few megabytes that no compression makes small.
fn noise(name: &str, megabytes: u32) -> String {
    format!(r#"build {{ name = "{name}"; script = "head -c {megabytes}000000 /dev/urandom > $out"; }}"#)
}

#[test]
fn what_a_local_store_builds_comes_and_only_once() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = builder(&nix)?;
    let first = builder.build_one(&closure(1))?;
    let root = builder.root().display().to_string();
    firnd.admin(["source", "add", "here", &root, "--cache", "main", "--trust", "--every", "0 s"])?;
    let view = firnd.json(&["source", "sync", "here"])?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (3, 0), "{view:#}");
    assert!(number(&view, "filtered") >= 3, "derivations stay: {view:#}");
    let substituted = client(&nix, &cache)?;
    substituted.realise(&[&first])?.done()?;
    assert_same(&builder, &substituted, &first)?;

    let view = firnd.json(&["source", "sync", "here"])?;
    assert_eq!((number(&view, "listed"), number(&view, "paths")), (0, 0), "the cursor is at the end: {view:#}");
    let second = builder.build_one(&closure(2))?;
    let view = firnd.json(&["source", "sync", "here"])?;
    assert_eq!((number(&view, "paths"), number(&view, "present")), (3, 0), "{view:#}");
    let substituted = client(&nix, &cache)?;
    substituted.realise(&[&second])?.done()?;

    // Recorded as the source's, and there after a restart; a whole list again fetches nothing.
    let view = firnd.json(&["source", "sync", "here", "--full"])?;
    assert_eq!((number(&view, "paths"), number(&view, "present"), number(&view, "nar_bytes")), (0, 6, 0), "{view:#}");
    assert_eq!(view["total"]["paths"], 6);
    let explained = firnd.admin(["explain", "--cache", "main", &second])?;
    assert!(explained.contains("here"), "{explained}");
    Ok(())
}

#[test]
fn a_builder_with_stock_nix_behind_ssh_needs_nothing_installed() -> Result<()> {
    for nix in Nix::require_all() {
        let world = World::new(&nix)?;
        for (scheme, seed) in [("ssh-ng", 1), ("ssh", 2)] {
            let path = world.builder.build_one(&closure(seed))?;
            world.add(scheme, &world.url(scheme), &["--trust"])?;
            let view = world.sync(scheme)?;
            assert_eq!(
                (number(&view, "paths"), number(&view, "refused")),
                (3, 0),
                "{scheme} {}: {view:#}",
                nix.version()
            );
            world.assert_cached(&path)?;
            assert_eq!(view["host_key"], world.sshd.host_key()?, "the first sync makes it known");
            let again = world.sync(scheme)?;
            assert_eq!((number(&again, "paths"), number(&again, "nar_bytes")), (0, 0), "{again:#}");
            println!(
                "{} {scheme}: {} bytes of metadata, then {}",
                nix.version(),
                number(&view, "metadata_bytes"),
                number(&again, "metadata_bytes")
            );
        }
    }
    Ok(())
}

#[test]
fn where_no_shell_can_tell_what_is_new_everything_is_listed_and_compared() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let world = World::new(&nix)?;
    // As an account that may only do this one thing: whatever is asked for, the daemon answers.
    let root = world.builder.root().display().to_string();
    let forced = script(&world.builder, "forced", &format!("exec nix-daemon --stdio --store {root}"))?;
    let session = world.sshd.user_key().with_file_name("session");
    let text =
        fs::read_to_string(&session)?.replace("${SSH_ORIGINAL_COMMAND:-exec /bin/sh}", &forced.display().to_string());
    fs::write(&session, text)?;
    let path = world.builder.build_one(&closure(1))?;
    world.add("ng", &world.url("ssh-ng"), &["--trust"])?;
    let view = world.sync("ng")?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (3, 0), "{view:#}");
    world.assert_cached(&path)?;
    world.builder.build_one(&closure(2))?;
    let view = world.sync("ng")?;
    assert_eq!(
        (number(&view, "paths"), number(&view, "present")),
        (3, 0),
        "what was seen is not asked about: {view:#}"
    );
    let view = world.sync("ng")?;
    assert_eq!(number(&view, "listed"), 0, "{view:#}");
    // The other protocol can't list at all, and says so.
    world.add("serve", &world.url("ssh"), &["--trust"])?;
    let said = world.fails("serve")?;
    assert!(said.contains("root@127.0.0.1"), "{said}");
    Ok(())
}

#[test]
fn a_folder_that_nix_copies_to_is_a_source() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = builder(&nix)?;
    let folder = tempfile::tempdir()?;
    let url = format!("file://{}", folder.path().display());
    let first = builder.build_one(&closure(1))?;
    builder.copy_to(&url, &[&first])?.done()?;
    firnd.admin(["source", "add", "files", &url, "--cache", "main", "--trust", "--every", "0 s"])?;
    let view = firnd.json(&["source", "sync", "files"])?;
    assert_eq!(number(&view, "paths"), 3, "{view:#}");
    let second = builder.build_one(&closure(2))?;
    builder.copy_to(&format!("{url}?compression=zstd"), &[&second])?.done()?;
    let view = firnd.json(&["source", "sync", "files"])?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (3, 0), "{view:#}");
    let substituted = client(&nix, &cache)?;
    substituted.realise(&[&first, &second])?.done()?;

    // Wrong bytes: the path is named, and the others come.
    let (good, bad) = (builder.build_one(&noise("good", 1))?, builder.build_one(&noise("bad", 1))?);
    builder.copy_to(&format!("{url}?compression=none"), &[&good, &bad])?.done()?;
    let hash = bad.trim_start_matches("/nix/store/").split('-').next().unwrap_or_default();
    let narinfo = fs::read_to_string(folder.path().join(format!("{hash}.narinfo")))?;
    let nar = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).ok_or("no URL")?;
    let nar = folder.path().join(nar);
    let mut bytes = fs::read(&nar)?;
    bytes[500_000] ^= 1;
    fs::write(&nar, &bytes)?;
    let view = firnd.json(&["source", "sync", "files"])?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (1, 1), "{view:#}");
    assert!(view["problems"][0]["path"].as_str().is_some_and(|path| path.ends_with("-bad")), "{view:#}");
    assert_eq!(view["problems"][0]["again"], true);
    // Healed, it comes with the next sync.
    bytes[500_000] ^= 1;
    fs::write(&nar, &bytes)?;
    let view = firnd.json(&["source", "sync", "files"])?;
    assert_eq!((number(&view, "paths"), view["problems"].as_array().map(Vec::len)), (1, Some(0)), "{view:#}");
    Ok(())
}

#[test]
fn a_builder_with_firn_sends_only_the_chunks_that_are_missing() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let world = World::new(&nix)?;
    let firn = firn_testkit::firn::binary()?;
    let url = format!("{}&remote-firn={}", world.url("ssh-ng"), firn.display());
    world.add("own", &url, &["--trust"])?;
    let first = world.builder.build_one(&noise("noise", 8))?;
    let view = world.sync("own")?;
    assert_eq!((number(&view, "paths"), number(&view, "nar_bytes")), (1, 0), "{view:#}");
    assert!(view["note"].is_null(), "{view:#}");
    world.assert_cached(&first)?;
    // The same 8 MB in another path: nothing of it travels again.
    let before = received(&world)?;
    let second = world.builder.build_one(&format!(
        r#"let first = builtins.storePath "{first}"; in build {{ name = "again"; inherit first; script = "cat $first > $out; echo more >> $out"; }}"#
    ))?;
    let view = world.sync("own")?;
    assert_eq!((number(&view, "paths"), number(&view, "nar_bytes")), (1, 0), "{view:#}");
    let travelled = received(&world)? - before;
    println!("8 MB that are known, in another path: {travelled} bytes travelled");
    assert!(travelled < 400_000, "{travelled}");
    world.assert_cached(&second)?;
    let tokens = world.firnd.json(&["token", "list"])?;
    let left: Vec<_> = tokens.as_array().into_iter().flatten().filter(|token| token["builder"] == "own").collect();
    assert!(left.len() == 1 && left[0]["state"] == "revoked", "{tokens:#}");

    // One that can't reach the server costs nothing but the chance.
    let broken = script(&world.builder, "broken-firn", "echo 'no way out' >&2; exit 3")?;
    let url = format!("{}&remote-firn={}", world.url("ssh-ng"), broken.display());
    world.firnd.admin(["source", "set", "own", "--url", &url])?;
    let third = world.builder.build_one(&closure(3))?;
    let view = world.sync("own")?;
    assert_eq!(number(&view, "paths"), 3, "{view:#}");
    assert!(
        number(&view, "nar_bytes") > 0 && view["note"].as_str().is_some_and(|note| note.contains("no way out")),
        "{view:#}"
    );
    world.assert_cached(&third)
}

/// Returns how many bytes the server was sent by the source's own firn.
fn received(world: &World) -> Result<u64> {
    let token = world.firnd.token("*:usage")?;
    let answer = world.firnd.send(&firn_testkit::http::Request::get("/metrics").token(&token))?;
    let text = answer.text();
    let lines = text.lines().filter(|line| line.contains("http_received_bytes"));
    let sum: f64 = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    assert!(sum > 0.0, "no bytes are counted: {text}");
    Ok(sum as u64)
}

#[test]
fn only_what_is_signed_comes_from_one_who_is_not_trusted() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let world = World::new(&nix)?;
    let (secret, public) = nix.generate_key("builder-1")?;
    let key = world.builder.write("secret", &secret)?;
    let signed = world.builder.build_one(&noise("signed", 1))?;
    let unsigned = world.builder.build_one(r#"build { name = "unsigned"; script = "echo 1 > $out"; }"#)?;
    let over = world.builder.build_one(&format!(
        r#"let below = builtins.storePath "{unsigned}"; in build {{ name = "over"; inherit below; script = "echo $below > $out"; }}"#
    ))?;
    for path in [&signed, &over] {
        world.builder.check("nix", ["store", "sign", "--key-file", &key.display().to_string(), path])?.done()?;
    }
    world.add("ci", &world.url("ssh-ng"), &["--key", &public])?;
    let view = world.sync("ci")?;
    assert_eq!((number(&view, "paths"), view["error"].clone()), (1, Value::Null), "{view:#}");
    assert!(world.has(&signed)? && !world.has(&unsigned)? && !world.has(&over)?);
    let problems = view["problems"].to_string();
    assert!(
        problems.contains("-unsigned") && problems.contains("-over") && problems.contains("builder-1"),
        "{problems}"
    );
    // Trusted from now on, and everything looked at again.
    world.firnd.admin(["source", "set", "ci", "--trust"])?;
    let view = world.firnd.json(&["source", "sync", "ci", "--full"])?;
    assert_eq!((number(&view, "paths"), view["problems"].as_array().map(Vec::len)), (2, Some(0)), "{view:#}");
    assert!(world.has(&over)?);
    Ok(())
}

#[test]
fn filters_leave_out_and_closures_stay_whole() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let world = World::new(&nix)?;
    let top = world.builder.build_one(&closure(1))?;
    world.builder.build_one(&noise("large", 3))?;
    world.add(
        "some",
        &world.url("ssh-ng"),
        &["--trust", "--include", "top-*", "--include", "large", "--max-nar-size", "2 MiB"],
    )?;
    let view = world.sync("some")?;
    assert_eq!(number(&view, "paths"), 3, "what the top refers to comes with it: {view:#}");
    world.assert_cached(&top)?;
    // From now on only.
    let later = &["--trust", "--new-only"];
    world.add("later", &world.url("ssh-ng"), later)?;
    let view = world.sync("later")?;
    assert_eq!(number(&view, "paths"), 0, "{view:#}");
    Ok(())
}

#[test]
fn a_changed_host_key_opens_the_circuit_until_it_is_made_known() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut world = World::new(&nix)?;
    let path = world.builder.build_one(&closure(1))?;
    world.add("ng", &world.url("ssh-ng"), &["--trust"])?;
    world.sync("ng")?;
    world.sshd.change_host_key()?;
    let next = world.builder.build_one(&closure(2))?;
    let said = world.fails("ng")?;
    assert!(said.contains("host key") && said.contains("--host-key"), "{said}");
    let view = world.show("ng")?;
    assert_eq!((view["failures"].as_u64(), view["total"]["paths"].as_u64()), (Some(1), Some(3)), "{view:#}");
    assert!(world.has(&path)? && !world.has(&next)?);
    let key = world.sshd.host_key()?;
    world.firnd.admin(["source", "set", "ng", "--host-key", &key])?;
    let view = world.sync("ng")?;
    assert_eq!((number(&view, "paths"), view["failures"].as_u64()), (3, Some(0)), "{view:#}");
    Ok(())
}

#[test]
fn a_builder_that_goes_away_fails_its_own_sync_only() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut world = World::new(&nix)?;
    world.add("ng", &world.url("ssh-ng"), &["--trust"])?;
    let root = world.builder.root().display().to_string();
    let other = builder(&nix)?;
    let path = other.build_one(&closure(5))?;
    let other_root = other.root().display().to_string();
    world.firnd.admin(["source", "add", "other", &other_root, "--cache", "main", "--trust", "--every", "0 s"])?;
    world.sshd.kill()?;
    let said = world.fails("ng")?;
    assert!(said.contains("refused"), "{said}");
    assert_eq!(number(&world.sync("other")?, "paths"), 3);
    assert!(world.has(&path)?);
    world.sshd.launch()?;

    // The connection is cut in the middle of a NAR: once, and the path comes all the same.
    let large = world.builder.build_one(&noise("large", 4))?;
    let flag = world.builder.root().join("cut-once");
    let program = script(
        &world.builder,
        "cutting-daemon",
        &format!(
            "if [ -e {flag} ]; then exec nix-daemon \"$@\"; fi\nnix-daemon \"$@\" | {{ stdbuf -o0 head -c 2000000; touch {flag}; }}",
            flag = flag.display()
        ),
    )?;
    let address = world.sshd.address();
    let url = format!("ssh-ng://root@{address}?remote-store={root}&remote-program={}", program.display());
    world.add("cut", &url, &["--trust"])?;
    let view = world.sync("cut")?;
    assert!(flag.exists(), "it was never cut: {view:#}");
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (1, 0), "{view:#}");
    world.assert_cached(&large)?;

    // Always: the path is named, and nothing of it is in the cache.
    let larger = world.builder.build_one(&noise("larger", 5))?;
    script(&world.builder, "cutting-daemon", "nix-daemon \"$@\" | stdbuf -o0 head -c 2000000")?;
    let view = world.sync("cut")?;
    assert_eq!((number(&view, "paths"), number(&view, "refused")), (0, 1), "{view:#}");
    assert!(view["problems"].to_string().contains("-larger") && !world.has(&larger)?, "{view:#}");
    Ok(())
}

#[test]
fn wrong_bytes_and_collected_paths_harm_nothing_but_themselves() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let world = World::new(&nix)?;
    let good = world.builder.build_one(&closure(1))?;
    let bad = world.builder.build_one(&noise("bad", 1))?;
    let gone = world.builder.build_one(&noise("gone", 1))?;
    // One is not what the database says, the other is not there, and the database does not know it yet.
    let bytes = fs::read(world.builder.on_disk(&bad))?;
    let wrong = |byte: u8| -> Result<()> {
        let path = world.builder.on_disk(&bad);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        let mut bytes = bytes.clone();
        bytes[1000] ^= byte;
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444))?;
        Ok(())
    };
    wrong(1)?;
    fs::remove_file(world.builder.on_disk(&gone))?;
    for (name, url) in
        [("ng", world.url("ssh-ng")), ("serve", world.url("ssh")), ("here", world.builder.root().display().to_string())]
    {
        world.add(name, &url, &["--trust"])?;
        let view = world.sync(name)?;
        assert!(world.has(&good)? && !world.has(&bad)? && !world.has(&gone)?, "{name}: {view:#}");
        assert!(view["problems"].to_string().contains("-bad"), "{name}: {view:#}");
    }
    world.assert_cached(&good)?;
    wrong(0)?;
    let view = world.sync("ng")?;
    assert!(world.has(&bad)?, "{view:#}");
    Ok(())
}

#[test]
fn what_is_collected_between_list_and_question_is_left_out_and_the_rest_comes() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    for scheme in ["ssh-ng", "ssh"] {
        let world = World::new(&nix)?;
        let (stays, goes) = (world.builder.build_one(&closure(1))?, world.builder.build_one(&noise("goes", 1))?);
        // Whoever asks for a list has it made, and then the builder's own garbage collector runs.
        let folder = world.builder.root().join("before");
        fs::create_dir(&folder)?;
        let root = world.builder.root().display().to_string();
        let text = format!(
            "/usr/bin/find \"$@\" || exit\ncase \"$*\" in *newerct*) nix-store --store {root} --delete {goes} >&2;; esac"
        );
        fs::rename(script(&world.builder, "find", &text)?, folder.join("find"))?;
        let session = world.sshd.user_key().with_file_name("session");
        let before = fs::read_to_string(&session)?;
        let (first, rest) = before.split_once('\n').ok_or("a session of one line")?;
        let last = rest.lines().last().ok_or("a session without a command")?;
        let own = format!("export PATH={}:$PATH\n{last}", folder.display());
        fs::write(&session, format!("{first}\n{}\n", rest.replace(last, &own)))?;
        world.add("builder", &world.url(scheme), &["--trust"])?;
        let view = world.sync("builder")?;
        assert!(!world.builder.on_disk(&goes).exists(), "it was not collected: {view:#}");
        assert_eq!((number(&view, "paths"), number(&view, "refused")), (3, 0), "{scheme}: {view:#}");
        assert!(number(&view, "gone") >= 1 && view["error"].is_null(), "{scheme}: {view:#}");
        assert!(world.has(&stays)? && !world.has(&goes)?);
    }
    Ok(())
}

#[test]
fn schedules_pauses_and_stops_are_obeyed() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut world = World::new(&nix)?;
    let path = world.builder.build_one(&closure(1))?;
    let root = world.builder.root().display().to_string();
    world.firnd.admin(["source", "add", "here", &root, "--cache", "main", "--trust", "--every", "1 s"])?;
    until("the schedule does it", || world.has(&path))?;
    world.firnd.admin(["source", "pause", "here"])?;
    assert!(world.show("here")?["next_at"].is_null());
    until("it is idle", || Ok(world.show("here")?["running"] == false))?;

    // A transfer that would take hours is under way when the server ends; it ends at once, and the next one takes it up.
    let large = world.builder.build_one(&noise("large", 4))?;
    world.add("slow", &world.url("ssh-ng"), &["--trust", "--rate", "1 KiB"])?;
    world.firnd.admin(["source", "sync", "slow", "--detach"])?;
    until("bytes come", || Ok(number(&world.show("slow")?, "nar_bytes") > 0))?;
    let view = world.show("slow")?;
    assert_eq!((view["running"].clone(), view["waiting_paths"].clone()), (true.into(), 1.into()), "{view:#}");
    assert!(world.firnd.terminate()?.success());
    // Offline, the same commands work on what is on the disk, the sync too.
    let view = world.show("slow")?;
    assert_eq!((view["running"].clone(), view["failures"].clone()), (false.into(), 0.into()), "{view:#}");
    world.firnd.admin(["source", "set", "slow", "--rate", "0 B"])?;
    let view = world.sync("slow")?;
    assert_eq!(number(&view, "paths"), 1, "{view:#}");
    world.firnd.launch()?;
    world.assert_cached(&large)?;
    let listed = world.firnd.json(&["source", "list"])?;
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed:#}");
    world.firnd.admin(["source", "remove", "slow"])?;
    let ran = world.firnd.run(["source", "show", "slow"])?;
    assert_eq!(ran.status.code(), Some(5), "{ran:?}");
    assert!(world.has(&large)?, "what came stays");
    Ok(())
}

#[track_caller]
fn until(what: &str, mut is: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !is()? {
        assert!(begun.elapsed() < PATIENCE, "waited too long until {what}");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[test]
fn bad_sources_are_refused_when_they_are_added() -> Result<()> {
    let firnd = Firnd::start()?;
    firnd.cache("main", &[])?;
    let bad: &[(&[&str], i32)] = &[
        (&["x", "local", "--cache", "main"], 2),
        (&["x", "local", "--cache", "none", "--trust"], 5),
        (&["X y", "local", "--cache", "main", "--trust"], 2),
        (&["x", "ssh://-oProxyCommand=x", "--cache", "main", "--trust"], 2),
        (&["x", "https://user:secret@cache.example.org", "--cache", "main", "--trust"], 2),
        (&["x", "local", "--cache", "main", "--key", "nonsense"], 2),
        (&["x", "local", "--cache", "main", "--trust", "--parallel", "0"], 2),
        (&["x", "ssh://h", "--cache", "main", "--trust", "--ssh-key", "relative"], 2),
        (&["x", "ssh://h", "--cache", "main", "--trust", "--host-key", "nonsense"], 2),
    ];
    for (arguments, code) in bad {
        let ran = firnd.run(["source", "add"].iter().chain(arguments.iter()))?;
        assert_eq!(ran.status.code(), Some(*code), "{arguments:?}: {ran:?}");
    }
    assert_eq!(firnd.json(&["source", "list"])?.as_array().map(Vec::len), Some(0));
    firnd.admin(["source", "add", "x", "local", "--cache", "main", "--trust", "--every", "0 s"])?;
    assert_eq!(firnd.run(["source", "add", "x", "local", "--cache", "main", "--trust"])?.status.code(), Some(6));
    Ok(())
}
