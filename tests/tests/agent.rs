//! The agent, the hook and `firn watch-exec` with real Nix, a real server, and deaths in between.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::nix::{Nix, Settings, Version};
use firn_tests::builder::{Builder, PATIENCE, Result, assert_cached, base_name};
use firn_tests::{client, closure};
use serde_json::Value;

#[test]
fn an_agent_that_is_killed_loses_nothing() -> Result<()> {
    for nix in Nix::require_all() {
        let mut firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let mut builder = Builder::new(&nix, &cache)?;
        let before = builder.store.build_one(&closure(1))?;
        builder.start()?;
        let running = builder.store.build_one(&closure(2))?;
        builder.flush()?;
        assert_cached(&nix, &cache, &builder, &before)?;
        assert_cached(&nix, &cache, &builder, &running)?;

        builder.kill()?;
        let down = builder.store.build_one(&closure(3))?;
        firnd.kill()?;
        builder.start()?;
        builder.until(|status| status["activity"] == "unreachable")?;
        let away = builder.store.build_one(&closure(4))?;
        builder.kill()?;
        firnd.launch()?;
        builder.url = firnd.url("main");
        builder.start()?;
        builder.flush()?;
        let cache = Cache { url: firnd.url("main"), ..cache };
        assert_cached(&nix, &cache, &builder, &down)?;
        assert_cached(&nix, &cache, &builder, &away)?;
        let status = builder.status()?;
        assert_eq!((&status["dead"], &status["counters"]["lost-before-push"]), (&0.into(), &Value::Null), "{status:#}");
    }
    Ok(())
}

#[test]
fn hooks_reach_the_agent_whether_it_runs_or_not() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let script = builder.state.path().join("hook");
    let firn = builder.firn()?;
    let mut text = String::from("#!/bin/sh\n");
    for (name, value) in firn.get_envs() {
        if let Some(value) = value {
            text += &format!("export {}='{}'\n", name.display(), value.display());
        }
    }
    text += &format!("exec {} hook\n", Path::new(firn.get_program()).display());
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let extra = vec![format!("post-build-hook = {}", script.display())];
    builder.store.configure(&Settings { extra, ..Settings::default() })?;

    let path = builder.store.build_one(&closure(1))?;
    let spool = fs::read_to_string(builder.state.path().join("agent/spool"))?;
    assert!(spool.contains(base_name(&path)), "{spool}");
    builder.start()?;
    let path = builder.store.build_one(&closure(2))?;
    builder.flush()?;
    assert_cached(&nix, &cache, &builder, &path)?;
    assert_eq!(fs::metadata(builder.state.path().join("agent/spool"))?.len(), 0);
    Ok(())
}

#[test]
fn a_hook_never_fails_a_build_and_never_speaks_on_standard_output() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    // A socket where nobody ever answers, a folder that can't be made, names that are none.
    let _silent = std::os::unix::net::UnixListener::bind(builder.socket())?;
    let blocked = builder.state.path().join("config.toml/agent");
    let path = format!("/nix/store/{}-x", "0".repeat(32));
    for (state, paths) in [(&blocked, path.as_str()), (&blocked, ""), (&blocked, "nonsense / ../..")] {
        let begun = Instant::now();
        let output = builder.firn()?.arg("hook").env("FIRN_AGENT_STATE", state).env("OUT_PATHS", paths).output()?;
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        assert!(begun.elapsed() < PATIENCE);
    }
    let output = builder.firn()?.args(["hook", "--no-such-option"]).output()?;
    assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
    Ok(())
}

#[test]
fn pins_hold_against_the_garbage_collector_until_the_push() -> Result<()> {
    for nix in Nix::require_all() {
        let mut firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let mut builder = Builder::new(&nix, &cache)?;
        let _daemon = builder.store.daemon()?;
        firnd.kill()?;
        builder.start()?;
        let path = builder.store.build_one(&closure(1))?;
        builder.until(|status| status["pinned"] == 3 && status["waiting"] == 3)?;
        builder.store.check("nix-collect-garbage", [] as [&str; 0])?.done()?;
        assert!(builder.store.has(&path)?);

        firnd.launch()?;
        builder.kill()?;
        builder.url = firnd.url("main");
        builder.start()?;
        builder.flush()?;
        let cache = Cache { url: firnd.url("main"), ..cache };
        let client = client(&nix, &cache)?;
        client.realise(&[&path])?.done()?;
        builder.until(|status| status["pinned"] == 0)?;
    }
    Ok(())
}

#[test]
fn what_is_deleted_before_its_push_is_named() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    firnd.kill()?;
    builder.start()?;
    let keep = builder.store.build_one(&closure(1))?;
    let lose = builder.store.build_one(r#"build { name = "lose"; script = "echo > $out"; }"#)?;
    builder.until(|status| status["waiting"] == 4)?;
    builder.kill()?;
    builder.store.check("nix-store", ["--delete", &lose])?.done()?;
    firnd.launch()?;
    builder.url = firnd.url("main");
    builder.start()?;
    // The agent may have noticed before it is asked.
    let flushed = builder.ask(["flush", "--wait", "--timeout", "120s"])?;
    let names_it = String::from_utf8_lossy(&flushed.stderr).contains(base_name(&lose));
    assert_eq!(flushed.status.code(), Some(i32::from(names_it)), "{flushed:?}");
    builder.flush()?;
    let status = builder.status()?;
    assert_eq!(status["lost"][0]["path"], base_name(&lose), "{status:#}");
    assert_eq!(status["counters"]["lost-before-push"], 1);
    assert!(builder.log().contains(base_name(&lose)), "{}", builder.log());
    let cache = Cache { url: firnd.url("main"), ..cache };
    assert_cached(&nix, &cache, &builder, &keep)?;
    Ok(())
}

#[test]
fn a_rebuilt_database_is_read_from_its_beginning() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    builder.start()?;
    builder.store.build_one(&closure(1))?;
    builder.flush()?;
    let dump = builder.store.check("nix-store", ["--dump-db"])?.text();
    let file = builder.store.write("home/dump", &format!("{dump}\n"))?;
    let database = builder.store.root().join("nix/var/nix/db");
    for name in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm", "schema"] {
        let _ = fs::remove_file(database.join(name));
    }
    let mut load = builder.store.command("nix-store");
    assert!(load.arg("--load-db").stdin(fs::File::open(file)?).status()?.success());
    let path = builder.store.build_one(&closure(2))?;
    builder.until(|status| status["counters"]["rescans"] == 1)?;
    builder.flush()?;
    assert_cached(&nix, &cache, &builder, &path)
}

#[test]
fn a_watched_command_keeps_its_status_and_its_builds_are_pushed() -> Result<()> {
    for nix in Nix::require_all() {
        let mut firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = Builder::new(&nix, &cache)?;
        let before = builder.store.build_one(&closure(1))?;
        let build = |seed: u64, code: u8, exclude: &str| -> Result<Command> {
            let derivation = builder.store.instantiate(&closure(seed))?.concat();
            let nix_store = builder.store.command("nix-store");
            let mut command = builder.firn()?;
            for (name, value) in nix_store.get_envs().filter_map(|(name, value)| Some((name, value?))) {
                command.env(name, value);
            }
            command.args(["watch-exec", &cache.url, "--retry-for", "0", "--fail-on-upload-error"]);
            command.args(["--exclude", exclude, "--", "sh", "-c"]);
            let program = nix.programs().join("nix-store");
            let line = format!("{} --realise {derivation}; exit {code}", program.display());
            command.arg(line);
            Ok(command)
        };
        let output = build(2, 7, "")?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{said}");
        let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(said.contains("3 paths built"), "{said}");
        assert_cached(&nix, &cache, &builder, &path)?;
        assert!(!client(&nix, &cache)?.realise(&[&before])?.succeeded(), "it was there before");

        let output = build(5, 0, "top-*")?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("2 paths built"), "{said}");

        firnd.kill()?;
        let output = build(3, 0, "")?.output()?;
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let output = build(4, 9, "")?.output()?;
        assert_eq!(output.status.code(), Some(9), "{output:?}");
    }
    Ok(())
}

/// Returns a command of `firn watch-exec` around a line for the shell that may build.
fn watched(builder: &Builder, nix: &Nix, options: &[&str], line: &str) -> Result<Command> {
    let mut command = builder.firn()?;
    let nix_store = builder.store.command("nix-store");
    for (name, value) in nix_store.get_envs().filter_map(|(name, value)| Some((name, value?))) {
        command.env(name, value);
    }
    command.arg("watch-exec").arg(&builder.url).args(options);
    command.args(["--", "sh", "-c"]).arg(format!("PATH={}:$PATH; {line}", nix.programs().display()));
    Ok(command)
}

#[test]
fn a_watched_command_may_make_the_store() -> Result<()> {
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let builder = Builder::new(&nix, &cache)?;
        builder.store.instantiate(&closure(1))?;
        fs::remove_dir_all(builder.store.root().join("nix"))?;
        let line = "nix-build --no-out-link $HOME/expression.nix";
        let output = watched(&builder, &nix, &["--fail-on-upload-error"], line)?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("3 paths built"), "{output:?}");
        assert_cached(&nix, &cache, &builder, String::from_utf8_lossy(&output.stdout).trim())?;
    }
    Ok(())
}

#[test]
fn a_watched_command_whose_builds_nobody_can_tell_has_a_failed_upload() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    // No database to read, and no store of which this user would have a hook.
    fs::remove_dir_all(builder.store.root().join("nix/store"))?;
    fs::write(builder.store.root().join("nix/var/nix/db/db.sqlite"), "nonsense".repeat(1000))?;
    for (options, code, expected) in [(&[][..], 0, 0), (&["--fail-on-upload-error"], 0, 1), (&[], 7, 7)] {
        let output = watched(&builder, &nix, options, &format!("exit {code}"))?.output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(expected), "{said}");
        assert!(said.contains("the upload failed") && !said.contains("nothing was built"), "{said}");
    }
    Ok(())
}

#[test]
fn signals_end_the_upload_of_a_watched_command_and_not_its_status() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let builder = Builder::new(&nix, &cache)?;
    builder.store.instantiate(&closure(1))?;
    firnd.kill()?;
    for (name, seed) in [("INT", 1), ("TERM", 2), ("HUP", 3)] {
        builder.store.instantiate(&closure(seed))?;
        let line = "nix-build --no-out-link $HOME/expression.nix; exit 7";
        let mut child = watched(&builder, &nix, &["--retry-for", "3600"], line)?.stderr(Stdio::piped()).spawn()?;
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?).lines();
        assert!(lines.any(|line| line.is_ok_and(|line| line.contains("trying again"))), "the upload is tried");
        assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status()?.success());
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if begun.elapsed() > PATIENCE / 4 {
                child.kill()?;
            }
            thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(status.code(), Some(7), "{name}: {status}");
    }
    Ok(())
}

#[test]
fn what_only_the_configuration_calls_an_upstreams_is_pushed() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let (secret, public) = nix.generate_key("elsewhere-1")?;
    let config = format!("[caches.main]\nurl = \"{}\"\nupstream-keys = [\"{public}\"]\n", cache.url);
    fs::write(builder.state.path().join("config.toml"), config)?;
    let secret = builder.store.write("home/secret", &secret)?;
    let extra = vec![format!("secret-key-files = {}", secret.display())];
    builder.store.configure(&Settings { extra, ..Settings::default() })?;
    builder.store.instantiate(&closure(1))?;
    let line = "nix-build --no-out-link $HOME/expression.nix";
    let output = watched(&builder, &nix, &[], line)?.output()?;
    assert!(output.status.success(), "{output:?}");
    assert_cached(&nix, &cache, &builder, String::from_utf8_lossy(&output.stdout).trim())?;
    builder.store.instantiate(&closure(2))?;
    let output = watched(&builder, &nix, &["--exclude", "*"], line)?.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("3 paths built, none wanted: 3 by their names"), "{said}");
    builder.start()?;
    let path = builder.store.build_one(&closure(3))?;
    builder.flush()?;
    assert_cached(&nix, &cache, &builder, &path)?;

    builder.kill()?;
    let knowing = firnd.cache("knowing", &["--public", "--upstream-key", &public])?;
    (builder.url, builder.token) = (knowing.url.clone(), knowing.token.clone());
    let pushed = builder.status()?["counters"]["pushed"].clone();
    builder.start()?;
    builder.flush()?;
    let status = builder.status()?;
    let skipped = status["counters"]["skipped-upstream"].as_u64();
    assert!(status["counters"]["pushed"] == pushed && skipped >= Some(3), "{status:#}");
    Ok(())
}

#[test]
fn an_agent_of_another_cache_says_so_and_begins_anew_where_asked() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let first = firnd.cache("first", &["--public"])?;
    let mut builder = Builder::new(&nix, &first)?;
    builder.start()?;
    let path = builder.store.build_one(&closure(1))?;
    builder.flush()?;
    builder.kill()?;
    let second = firnd.cache("second", &["--public"])?;
    (builder.url, builder.token) = (second.url.clone(), second.token.clone());
    builder.start()?;
    builder.flush()?;
    assert_cached(&nix, &second, &builder, &path)
}

#[test]
fn a_second_agent_is_refused_and_the_first_goes_on() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    builder.store.build_one(&closure(1))?;
    builder.start()?;
    let second = builder.firn()?.args(["watch-store", &builder.url]).output()?;
    assert_eq!(second.status.code(), Some(6), "{}", String::from_utf8_lossy(&second.stderr));
    builder.flush()?;
    let mode = fs::metadata(builder.socket())?.permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let metrics = builder.ask(["metrics"])?;
    assert!(String::from_utf8_lossy(&metrics.stdout).contains("firn_agent_pushed_paths_total 3"), "{metrics:?}");
    Ok(())
}

/// The longest that an agent's memory ever was, in bytes.
fn peak_bytes(agent: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{agent}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[test]
fn ten_thousand_paths_at_once_are_pushed_in_bounded_memory() -> Result<()> {
    const PATHS: usize = 10_000;
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let _daemon = builder.store.daemon()?;
    builder.start()?;
    let files = tempfile::tempdir()?;
    for number in 0..PATHS {
        fs::write(files.path().join(format!("file-{number}")), format!("{number}\n").repeat(50))?;
    }
    let add = builder.store.command("nix-store").args(["--add"]).args(paths_in(files.path())?).output()?;
    assert!(add.status.success(), "{}", String::from_utf8_lossy(&add.stderr));
    let begun = Instant::now();
    builder.flush()?;
    let took = begun.elapsed();
    let status = builder.status()?;
    assert_eq!(status["counters"]["pushed"], PATHS, "{status:#}");
    let peak = peak_bytes(builder.agent.as_ref().ok_or("no agent")?.id())?;
    println!("{PATHS} paths: {took:?} after the last was added, {} MiB at most", peak >> 20);
    assert!(peak < 256 << 20, "{peak} bytes");
    Ok(())
}

fn paths_in(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::result::Result<_, _>>()?)
}

#[test]
fn an_agent_stops_when_told_to() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    builder.store.build_one(&closure(1))?;
    let manager = UnixDatagram::bind(builder.state.path().join("notify"))?;
    manager.set_nonblocking(true)?;
    let address = builder.state.path().join("notify");
    builder.start_with(|command| command.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "3000000"))?;
    builder.flush()?;
    let mut told = Vec::new();
    let begun = Instant::now();
    while !told.contains(&"WATCHDOG=1".to_owned()) {
        told.extend(heard(&manager)?);
        assert!(begun.elapsed() < PATIENCE, "{told:?}");
        thread::sleep(Duration::from_millis(20));
    }
    builder.signal("TERM")?;
    let mut agent = builder.agent.take().ok_or("no agent")?;
    assert!(agent.wait()?.success());
    assert!(!builder.socket().exists());
    assert_eq!(builder.status()?["activity"], "stopped");
    told.extend(heard(&manager)?);
    for word in ["READY=1", "STATUS=", "STOPPING=1"] {
        assert!(told.iter().any(|line| line.starts_with(word)), "{told:?}");
    }
    Ok(())
}

/// Returns the lines that a service manager was told so far.
fn heard(manager: &UnixDatagram) -> Result<Vec<String>> {
    let (mut lines, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        match manager.recv(&mut buffer) {
            Ok(bytes) => lines.extend(String::from_utf8_lossy(&buffer[..bytes]).lines().map(str::to_owned)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(lines),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn a_new_token_is_read_on_sighup() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builder = Builder::new(&nix, &cache)?;
    let good = std::mem::take(&mut builder.token);
    let file = builder.state.path().join("token");
    fs::write(&file, firnd.token("other:pull")?)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
    let path = builder.store.build_one(&closure(1))?;
    builder.start_with(|command| command.env_remove("FIRN_TOKEN").arg("--token-file").arg(&file))?;
    let status = builder.until(|status| status["activity"] == "paused")?;
    assert_eq!((&status["waiting"], &status["dead"]), (&3.into(), &0.into()), "{status:#}");
    fs::write(&file, good)?;
    builder.signal("HUP")?;
    builder.until(|status| status["counters"]["pushed"] == 3)?;
    assert_cached(&nix, &cache, &builder, &path)
}
