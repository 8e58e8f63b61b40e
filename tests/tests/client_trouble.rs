//! What a builder may be in for: another clock than the server's, a database of Nix that it may not read, a server of another
//! version.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use firn_testkit::firnd::Firnd;
use firn_testkit::gateway::{Edit, Gateway};
use firn_testkit::nix::{Nix, Version};
use firn_tests::builder::{Builder, Result, assert_cached};
use firn_tests::closure;
use serde_json::{Value, json};

/// A user without rights.
const NOBODY: u32 = 65534;

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{:?}\n{out}\n{err}", output.status)
}

/// Returns a finding of the doctor: its state and what was found.
fn finding(builder: &Builder, check: &str) -> Result<(String, String)> {
    let output = builder.firn()?.args(["doctor", "--json", &builder.url]).output()?;
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|_| said(&output))?;
    let found = report["checks"].as_array().into_iter().flatten().find(|found| found["check"] == check);
    let text = |field: &str| found.and_then(|found| found[field].as_str()).unwrap_or_default().to_owned();
    Ok((text("state"), text("detail")))
}

#[test]
fn a_clock_that_is_wrong_is_told_and_holds_up_no_push() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let edits: [(Edit, &str); 2] = [
        (|_, head, _| set_date(head, "Sat, 01 Jan 2000 00:00:00 GMT"), "ahead"),
        (|_, head, _| set_date(head, "Thu, 01 Jan 2099 00:00:00 GMT"), "behind"),
    ];
    for (seed, (edit, expected)) in (1..).zip(edits) {
        let skewed = Gateway::editing(firnd.address(), edit)?;
        builder.url = format!("{}/main", skewed.url());
        let (state, detail) = finding(&builder, "clock")?;
        assert!(state == "fail" && detail.contains(expected), "{state}: {detail}");
        let path = builder.store.build_one(&closure(seed))?;
        let pushed = builder.push(&[&path])?.output()?;
        assert!(pushed.status.success(), "{}", said(&pushed));
        assert_cached(&nix, &cache, &builder, &path)?;
    }
    Ok(())
}

fn set_date(head: &mut Vec<String>, date: &str) {
    head.retain(|line| !line.to_ascii_lowercase().starts_with("date:"));
    head.push(format!("date: {date}"));
}

#[test]
fn a_database_that_is_locked_is_told_and_then_waited_for() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let locked = builder.store.lock_database()?;
    let refused = builder.push(&[&path])?.output()?;
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains("keeps it locked"), "{}", said(&refused));
    // The agent goes on by itself.
    builder.start()?;
    builder.until(|status| status["activity"] == "blocked")?;
    drop(locked);
    builder.flush()?;
    assert_cached(&nix, &cache, &builder, &path)
}

#[test]
fn a_database_that_another_user_keeps_is_told_with_what_to_do() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let database = builder.store.root().join("nix/var/nix/db/db.sqlite");
    let home = tempfile::tempdir()?;
    let allow = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode));
    allow(&builder.store.root(), 0o755)?;
    for (mode, expected) in [(0o000, None), (0o644, Some(0))] {
        allow(&database, mode)?;
        let pushed = somebody(&builder.push(&[&path])?, home.path())?.output()?;
        let (code, said) = (pushed.status.code(), said(&pushed));
        match expected {
            None => assert!(code == Some(5) && said.contains("run as root, or go through the Nix daemon"), "{said}"),
            Some(good) => assert_eq!(code, Some(good), "{said}"),
        }
    }
    assert_cached(&nix, &cache, &builder, &path)
}

/// Returns a command as an ordinary user runs it: whoever runs the tests, or nobody in place of root.
fn somebody(command: &Command, home: &Path) -> Result<Command> {
    let program = home.join("firn");
    if !program.exists() {
        fs::copy(command.get_program(), &program)?;
        for path in [home, &program] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
    }
    let config = home.join("config.toml");
    fs::write(&config, "")?;
    let mut copy = Command::new(program);
    copy.args(command.get_args()).env_clear().current_dir(home);
    copy.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    copy.env("HOME", home).env("FIRN_CONFIG", &config);
    if fs::metadata("/proc/self")?.uid() == 0 {
        std::os::unix::fs::chown(&config, Some(NOBODY), Some(NOBODY))?;
        fs::set_permissions(&config, fs::Permissions::from_mode(0o600))?;
        copy.uid(NOBODY).gid(NOBODY);
    }
    Ok(copy)
}

#[test]
fn a_database_that_is_damaged_or_gone_is_told_with_what_to_do() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let database = builder.store.root().join("nix/var/nix/db/db.sqlite");
    let good = fs::read(&database)?;
    for name in ["db.sqlite-wal", "db.sqlite-shm"] {
        let _ = fs::remove_file(database.with_file_name(name));
    }
    fs::write(
        &database,
        "this is no database, but it is long enough to have a header that says what it is, or is it not? ",
    )?;
    let refused = builder.push(&[&path])?.output()?;
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains("nix-store --verify"), "{}", said(&refused));
    fs::remove_file(&database)?;
    let refused = builder.push(&[&path])?.output()?;
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains("does not exist"), "{}", said(&refused));
    fs::write(&database, good)?;
    fs::set_permissions(&database, fs::Permissions::from_mode(0o644))?;
    Ok(())
}

/// Changes what a server says that it can.
fn capabilities(request: &str, body: &mut Vec<u8>, change: fn(&mut Value)) {
    if request.starts_with("GET /api/v1/capabilities")
        && let Ok(mut value) = serde_json::from_slice(body)
    {
        change(&mut value);
        *body = value.to_string().into_bytes();
    }
}

#[test]
fn a_newer_server_is_spoken_to_in_what_both_know() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    let newer = Gateway::editing(firnd.address(), |request, _, body| {
        capabilities(request, body, |value| {
            value["server"] = json!("firnd 99.0.0");
            value["versions"].as_array_mut().expect("versions").push(json!(99));
            value["features"] = json!(["telepathy"]);
            value["telepathy"] = json!({ "channels": [1, 2] });
            value["limits"]["thoughts"] = json!(7);
        });
    })?;
    builder.url = format!("{}/main", newer.url());
    let pushed = builder.push(&[&path])?.output()?;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert_cached(&nix, &cache, &builder, &path)?;
    assert_eq!(finding(&builder, "server")?.0, "ok");

    // One that no longer speaks our version: nothing is tried, and who has to be brought up to date is said.
    let other = Gateway::editing(firnd.address(), |request, _, body| {
        capabilities(request, body, |value| value["versions"] = json!([99]));
    })?;
    builder.url = format!("{}/main", other.url());
    let path = builder.store.build_one(&closure(2))?;
    let refused = builder.push(&[&path])?.args(["--retry-for", "0"]).output()?;
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    assert!(said(&refused).contains("version"), "{}", said(&refused));
    assert_eq!(finding(&builder, "server")?.0, "fail");
    Ok(())
}

#[test]
fn a_newer_client_is_answered_by_an_older_server() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let path = builder.store.build_one(&closure(1))?;
    // It says nothing of limits, and has no push API of ours at all.
    let older = Gateway::editing(firnd.address(), |request, _, body| {
        capabilities(request, body, |value| {
            value.as_object_mut().expect("an object").remove("limits");
        });
    })?;
    builder.url = format!("{}/main", older.url());
    let pushed = builder.push(&[&path])?.output()?;
    assert!(pushed.status.success(), "{}", said(&pushed));
    assert_cached(&nix, &cache, &builder, &path)?;

    let none = Gateway::editing(firnd.address(), |request, head, body| {
        if request.contains(" /api/") {
            head[0] = "HTTP/1.1 404 Not Found".to_owned();
            *body = b"no such page".to_vec();
        }
    })?;
    builder.url = format!("{}/main", none.url());
    let refused = builder.push(&[&path])?.args(["--retry-for", "0"]).output()?;
    assert_eq!(refused.status.code(), Some(3), "{}", said(&refused));
    Ok(())
}
