//! The agent on a machine that has its own troubles: a Nix daemon that restarts, a database that can't be read, a full disk.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use firn_testkit::firnd::Firnd;
use firn_testkit::nix::{Nix, Version};
use firn_tests::builder::{Builder, PATIENCE, Result, assert_cached, base_name};
use firn_tests::closure;

/// Waits until Nix's daemon keeps the paths for somebody.
fn until_kept(folder: &Path, paths: &[String]) -> Result<()> {
    let begun = Instant::now();
    loop {
        let mut kept = Vec::new();
        for file in fs::read_dir(folder)?.flatten() {
            kept.extend(fs::read(file.path()).unwrap_or_default());
        }
        let kept = String::from_utf8_lossy(&kept);
        if paths.iter().all(|path| kept.contains(base_name(path))) {
            return Ok(());
        }
        assert!(begun.elapsed() < PATIENCE, "{paths:?} are not kept, only {kept}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn pins_are_made_anew_when_the_daemon_was_restarted() -> Result<()> {
    for nix in Nix::require_all() {
        let mut firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let mut builder = Builder::new(&nix, &cache)?;
        let mut daemon = builder.store.daemon()?;
        firnd.kill()?;
        builder.start()?;
        let path = builder.store.build_one(&closure(1))?;
        let paths = builder.store.closure(&path)?;
        let kept = builder.store.root().join("nix/var/nix/temproots");
        until_kept(&kept, &paths)?;
        daemon.kill()?;
        // What its processes kept is of no use any more.
        fs::remove_dir_all(&kept)?;
        fs::create_dir(&kept)?;
        let _daemon = builder.store.daemon()?;
        until_kept(&kept, &paths)?;
        builder.store.check("nix-collect-garbage", [] as [&str; 0])?.done()?;
        firnd.launch()?;
        builder.flush()?;
        assert_cached(&nix, &cache, &builder, &path)?;
    }
    Ok(())
}

#[test]
fn a_database_that_cannot_be_read_is_waited_for() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let before = builder.store.build_one(&closure(1))?;
    builder.start()?;
    builder.flush()?;
    let database = builder.store.root().join("nix/var/nix/db/db.sqlite");
    let away = database.with_extension("away");
    fs::rename(&database, &away)?;
    let status = builder.until(|status| status["activity"] == "blocked")?;
    assert!(status["trouble"].as_str().is_some_and(|trouble| trouble.contains("db.sqlite")), "{status:#}");
    fs::rename(&away, &database)?;
    builder.until(|status| status["activity"] == "running")?;
    let after = builder.store.build_one(&closure(2))?;
    builder.flush()?;
    let status = builder.status()?;
    assert_eq!((&status["counters"]["pushed"], &status["lost"]), (&6.into(), &serde_json::json!([])), "{status:#}");
    for path in [before, after] {
        assert_cached(&nix, &cache, &builder, &path)?;
    }
    Ok(())
}

#[test]
fn a_full_disk_on_the_builder_loses_nothing() -> Result<()> {
    const PATHS: usize = 3000;
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let state = builder.state.path().join("agent");
    fs::create_dir(&state)?;
    firnd.kill()?;
    builder.start_with(|command| {
        let firn: Vec<_> =
            [command.get_program()].into_iter().chain(command.get_args()).map(std::ffi::OsStr::to_owned).collect();
        let envs: Vec<_> =
            command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
        let mut wrapped = Command::new("unshare");
        wrapped.env_clear().envs(envs.into_iter().filter_map(|(name, value)| Some((name, value?))));
        let script = r#"mount -t tmpfs -o size=512k none "$1"; shift; exec "$@""#;
        wrapped.args(["--map-root-user", "--mount", "sh", "-ec", script, "sh"]).arg(&state).args(firn);
        *command = wrapped;
        command
    })?;
    let files = tempfile::tempdir()?;
    let names: Vec<_> = (0..PATHS).map(|number| files.path().join(format!("file-{number}"))).collect();
    for (number, name) in names.iter().enumerate() {
        fs::write(name, format!("{number}\n"))?;
    }
    builder
        .store
        .check("nix-store", ["--add".as_ref()].into_iter().chain(names.iter().map(|name| name.as_os_str())))?
        .done()?;
    // The server is away as well: both are said.
    let status = builder.until(|status| status["warnings"].to_string().contains("full"))?;
    assert_eq!(status["activity"], "unreachable");
    assert!(status["waiting"].as_u64() < Some(PATHS as u64), "{status:#}");
    println!("the disk is full with {} of {PATHS} paths: {}", status["waiting"], status["warnings"]);

    firnd.launch()?;
    let agent = builder.agent.as_ref().ok_or("no agent")?.id().to_string();
    let more = Command::new("nsenter")
        .args(["--user", "--mount", "--preserve-credentials", "--target", &agent, "mount", "-o", "remount,size=64m"])
        .arg(&state)
        .status()?;
    assert!(more.success());
    builder.flush()?;
    let status = builder.status()?;
    assert_eq!((&status["counters"]["pushed"], &status["dead"]), (&PATHS.into(), &0.into()), "{status:#}");
    Ok(())
}

#[test]
fn an_agent_whose_queue_is_deleted_ends_with_an_error() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    builder.store.build_one(&closure(1))?;
    builder.start()?;
    builder.flush()?;
    fs::remove_dir_all(builder.state.path().join("agent"))?;
    let ended = builder.agent.take().ok_or("no agent")?.wait()?;
    assert_eq!(ended.code(), Some(1));
    assert!(!builder.socket().exists());
    Ok(())
}
