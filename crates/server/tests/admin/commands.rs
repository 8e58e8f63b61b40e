//! Commands: the same with and without a running server.

use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use firn_server::cli::exit;
use firn_testkit::http::Request;

use crate::support::{Place, firnd, text};

const TOKEN_LENGTH: usize = 69;

/// What an operator does on a first day; the answers must not depend on who executes it.
fn first_day(place: &Place) {
    let created = place.json(&["cache", "create", "main", "--public", "--priority", "20"]);
    assert_eq!(created["name"], "main");
    assert_eq!(created["public"], true);
    assert_eq!(created["priority"], 20);
    assert_eq!(created["on_conflict"], "keep-first");
    let key = created["public_keys"][0].as_str().expect("a key").to_owned();

    let shown = place.ok(&["cache", "show", "main"]);
    for part in [
        "public",
        "extra-substituters = http://",
        "/main\n",
        &format!("extra-trusted-public-keys = {key}"),
        "keep-first",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    let changed = place.json(&["cache", "set", "main", "--private", "--transport", "none", "--new-signing-key"]);
    assert_eq!(changed["public"], false);
    assert_eq!(changed["transport"], "none");
    assert_eq!(changed["public_keys"].as_array().map(Vec::len), Some(2));
    assert!(place.ok(&["cache", "show", "main"]).contains("machine "), "a private cache needs a netrc line");

    let output = place.run(&[
        "token",
        "create",
        "--grant",
        "main:push",
        "--grant",
        "*:pull",
        "--name",
        "b1",
        "--expires",
        "30 d",
    ]);
    let token = text(&output.stdout);
    assert!(
        token.starts_with("firn_") && token.trim_end().len() == TOKEN_LENGTH && token.lines().count() == 1,
        "{token}"
    );
    assert!(!text(&output.stderr).contains(token.trim_end()), "the secret is on standard output only");
    let tokens = place.json(&["token", "list"]);
    let id = tokens[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(tokens[0]["grants"], serde_json::json!(["main:push", "*:pull"]));
    assert_eq!((&tokens[0]["builder"], &tokens[0]["state"]), (&"b1".into(), &"active".into()));
    assert!(tokens[0].get("token").is_none() && text(&output.stderr).contains(&id));
    place.ok(&["token", "revoke", &id]);
    assert_eq!(place.json(&["token", "list"])[0]["state"], "revoked");

    let status = place.json(&["status"]);
    for field in
        ["caches", "active_tokens", "paths", "logical_bytes", "unique_bytes", "stored_bytes", "packs", "index_bytes"]
    {
        assert!(status[field].is_u64(), "{field} in {status}");
    }
    assert_eq!((&status["caches"], &status["active_tokens"]), (&1.into(), &0.into()));

    assert!(place.ok(&["cache", "list"]).contains("main"));
    assert!(place.fails(&["cache", "create", "main"], exit::EXISTS.into()).contains("firnd cache set"));
    place.fails(&["cache", "show", "other"], exit::NOT_FOUND.into());
    place.fails(&["token", "revoke", "0123456789abcdef"], exit::NOT_FOUND.into());
    place.fails(&["cache", "create", "Not a name"], exit::USAGE.into());
    place.fails(&["cache", "delete", "main"], exit::USAGE.into());
    place.ok(&["cache", "delete", "main", "--yes"]);
    assert_eq!(place.json(&["cache", "list"]), serde_json::json!([]));
}

#[test]
fn a_first_day_without_a_server() {
    let place = Place::new();
    first_day(&place);
    assert_eq!(place.json(&["status"])["running"], false);
}

#[test]
fn a_first_day_with_a_server() {
    let place = Place::new();
    let server = place.serve(&[]);
    first_day(&place);
    let status = place.json(&["status"]);
    assert_eq!((&status["running"], &status["pid"]), (&true.into(), &server.id().into()));
    server.end();
}

#[test]
fn what_was_made_without_a_server_is_served_and_the_reverse() {
    let place = Place::new();
    place.ok(&["cache", "create", "before", "--public"]);
    let server = place.serve(&[]);
    let info = |name: &str| Request::get(&format!("/{name}/nix-cache-info")).send(server.address()).expect("answers");
    assert_eq!(info("before").status, 200);
    assert_ne!(info("during").status, 200);
    place.ok(&["cache", "create", "during", "--public", "--priority", "7"]);
    assert!(info("during").text().contains("Priority: 7"));
    place.ok(&["cache", "set", "during", "--priority", "8"]);
    assert!(info("during").text().contains("Priority: 8"), "a change counts at once");
    place.ok(&["cache", "set", "during", "--private"]);
    assert_eq!(info("during").status, 403);
    let token = place.ok(&["token", "create", "--grant", "during:pull"]);
    let pull = || {
        Request::get("/during/nix-cache-info").token(token.trim_end()).send(server.address()).expect("answers").status
    };
    assert_eq!(pull(), 200);
    let id = token.get(5..21).expect("an id");
    place.ok(&["token", "revoke", id]);
    assert_eq!(pull(), 403, "a revocation counts at once");
    server.end();
    assert_eq!(place.json(&["cache", "list"]).as_array().map(Vec::len), Some(2));
}

#[test]
fn many_commands_at_once_wait_for_each_other() {
    let place = Place::new();
    place.ok(&["cache", "create", "first"]);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let place = &place;
            scope.spawn(move || place.ok(&["cache", "create", &format!("c{number}")]));
        }
    });
    assert_eq!(place.json(&["cache", "list"]).as_array().map(Vec::len), Some(7));
}

#[test]
fn usage_is_told_since_a_date_or_for_days() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    for (since, days) in [("7d", 7), ("400d", 400)] {
        assert_eq!(place.json(&["usage", "--since", since])["recent_days"], days, "{since}");
    }
    assert!(place.json(&["usage", "--since", "2020-01-01"])["recent_days"].as_u64() > Some(365));
}

#[test]
fn the_data_directory_is_private() {
    let place = Place::new();
    let server = place.serve(&[]);
    let mode = |path: std::path::PathBuf| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(place.data()), 0o700);
    assert_eq!(mode(place.data().join("firnd.sock")), 0o600);
    assert_eq!(mode(place.data().join("lock")), 0o600);
    assert_eq!(mode(place.data().join("index")), 0o700);
    server.end();
    assert!(!place.data().join("firnd.sock").exists(), "an orderly end leaves no socket");
}

#[test]
fn a_long_path_to_the_data_directory_is_no_trouble() {
    let place = Place::new();
    let data = place.path().join("x".repeat(120)).join("data");
    let data = data.to_str().expect("UTF-8");
    let server = crate::support::Server::start(firnd().args(["serve", "--listen", "127.0.0.1:0", "--data", data]));
    let output = firnd().args(["status", "--json", "--data", data]).output().expect("runs");
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(status["running"], true);
    server.end();
}

#[test]
fn without_a_store_reading_commands_say_so_and_make_none() {
    let place = Place::new();
    for command in [&["status"][..], &["cache", "list"], &["cache", "show", "x"], &["token", "list"]] {
        let said = place.fails(command, exit::NOT_FOUND.into());
        assert!(said.contains("--data") && said.contains("hint:"), "{said}");
    }
    assert!(!place.data().exists());
}

#[test]
fn a_data_directory_that_cannot_be_looked_at_is_not_an_empty_one() {
    let place = Place::new();
    // For the tests' user nothing is forbidden; a name that leads in a circle fails as well.
    std::os::unix::fs::symlink("data", place.data()).expect("made");
    for command in [
        &["status"][..],
        &["token", "list"],
        &["usage"],
        &["scrub"],
        &["squeeze"],
        &["source", "sync", "x"],
        &["rebuild-index"],
        &["backup", "/nonexistent/backup"],
    ] {
        let said = place.fails(command, exit::FAILED.into());
        assert!(said.contains("look at") && !said.contains("there is none"), "{command:?}: {said}");
    }
}

#[test]
fn keys_are_imported_from_files() {
    let place = Place::new();
    let key = firn_nix::SecretKey::generate("org-1", [9; 32]).expect("a name");
    let file = place.write("key.secret", format!("{}\n", *key.to_text()));
    let file = file.to_str().expect("UTF-8");
    let made = place.json(&["cache", "create", "main", "--signing-key", file, "--host", "cache.example.org"]);
    assert_eq!(made["public_keys"], serde_json::json!([key.public().to_string()]));
    assert_eq!(made["host"], "cache.example.org");
    let bad = place.write("bad.secret", "org-1:tooshort\n");
    let said =
        place.fails(&["cache", "create", "bad", "--signing-key", bad.to_str().expect("UTF-8")], exit::USAGE.into());
    assert!(!said.contains("tooshort"), "what may be a secret is not shown: {said}");
    let said = place.fails(&["cache", "create", "bad", "--signing-key", "/nonexistent"], exit::USAGE.into());
    assert!(said.contains("/nonexistent"), "{said}");
}

#[test]
fn errors_are_json_when_asked() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let said = place.fails(&["cache", "show", "other", "--json"], exit::NOT_FOUND.into());
    let error: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert!(error["error"].as_str().is_some_and(|text| text.starts_with("failed to find the cache 'other'")), "{said}");
}

#[test]
fn bad_usage_is_json_when_asked() {
    let place = Place::new();
    for (bad, wrong) in [
        (&["cahce", "--json"][..], "unrecognized subcommand 'cahce'"),
        (&["token", "create", "--json"], "--grant <"),
        (&["--json", "pin", "add", "x", "--nonsense"], "unexpected argument '--nonsense'"),
        (&["--json", "token"], "requires a subcommand"),
    ] {
        let said = place.fails(bad, exit::USAGE.into());
        let error: serde_json::Value = serde_json::from_str(&said).expect("JSON");
        assert!(error["error"].as_str().is_some_and(|text| text.contains(wrong)), "{bad:?}: {said}");
        assert!(error["hint"].as_str().is_some_and(|text| text.contains("Usage: firnd")), "{bad:?}: {said}");
    }
    assert!(place.fails(&["cahce"], exit::USAGE.into()).starts_with("error: "));
    // After `--` it is a word like others.
    assert!(place.fails(&["cache", "--", "--json"], exit::USAGE.into()).starts_with("error: "));
}

#[test]
fn values_that_are_too_small_are_refused() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    for bad in [
        &["source", "add", "x", "https://cache.example.org", "--cache", "main", "--trust", "--every", "1 ms"][..],
        &["source", "add", "x", "https://cache.example.org", "--cache", "main", "--trust", "--rate", "1 B"],
        &["pin", "add", "x", "0fanvwfh6772nmhmbw78d8jmj0dr6lpc", "--expires", "0 s"],
        &["token", "create", "--grant", "main:pull", "--expires", "1 ms"],
        &["cache", "set", "main", "--keep", "1 ms"],
        &["gc", "--rate", "0 B"],
        &["squeeze", "--rate", "1 KiB"],
        &["scrub", "--rate", "0 B"],
    ] {
        let said = place.fails(bad, exit::USAGE.into());
        assert!(said.contains("give at least"), "{bad:?}: {said}");
    }
    place.ok(&["cache", "set", "main", "--keep", "0 s"]);
}

#[test]
fn a_token_is_revoked_by_its_id_or_itself_and_never_repeated() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let token = place.ok(&["token", "create", "--grant", "main:usage"]);
    let token = token.trim_end();
    let (id, secret) = (&token[5..21], &token[22..]);
    let output = place.run(&["token", "revoke", token]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains(id));
    assert_eq!(place.json(&["token", "list"])[0]["state"], "revoked");
    let other = format!("firn_0123456789abcdef_{secret}");
    let damaged = format!("firn_{secret}");
    for (given, code) in [(&other, exit::NOT_FOUND), (&damaged, exit::USAGE)] {
        let said = place.fails(&["token", "revoke", given], code.into());
        assert!(!said.contains(&secret[..8]) && said.contains("firnd token list"), "{said}");
    }
    assert!(place.ok(&["token", "create", "--help"]).contains("usage"));
}

#[test]
fn configurations_are_checked_and_printed() {
    let place = Place::new();
    let example = place.ok(&["config", "example"]);
    let file = place.write("firnd.toml", &example);
    assert!(place.ok(&["config", "check", "--config", file.to_str().expect("UTF-8")]).contains("good"));
    assert_eq!(place.json(&["config", "check"])["server"]["listen"][0], "127.0.0.1:8080");
    let table = [
        ("[server]\nmax-uploads = 0\n", "server.max-uploads is 0: allowed are 1 to 10000"),
        ("[server]\nport = 80\n", "unknown field `port`"),
        ("[server]\ntls-cert = \"none.pem\"\ntls-key = \"none.pem\"\n", "none.pem"),
    ];
    for (bad, expected) in table {
        let file = place.write("bad.toml", bad);
        let file = file.to_str().expect("UTF-8");
        for command in [&["config", "check"][..], &["serve"]] {
            let mut arguments = command.to_vec();
            arguments.extend(["--config", file]);
            let said = place.fails(&arguments, exit::CONFIG.into());
            assert!(said.contains("bad.toml") || said.contains("none.pem"), "names the file: {said}");
            assert!(said.contains(expected), "{expected} in {said}");
        }
    }
}

#[test]
fn the_data_directory_comes_from_flag_environment_or_file() {
    let place = Place::new();
    let file = place.write("firnd.toml", "[server]\ndata = \"from-file\"\n");
    let create = |command: &mut std::process::Command| {
        assert!(command.args(["cache", "create", "main"]).output().expect("runs").status.success());
    };
    create(firnd().env("FIRN_CONFIG", &file));
    assert!(place.path().join("from-file/index").is_dir());
    create(firnd().env("FIRN_CONFIG", &file).env("FIRN_DATA", place.path().join("from-environment")));
    assert!(place.path().join("from-environment/index").is_dir());
    create(firnd().env("FIRN_DATA", "/nonexistent/x").arg("--data").arg(place.path().join("from-flag")));
    assert!(place.path().join("from-flag/index").is_dir());
    create(firnd().current_dir(place.path()));
    assert!(place.path().join("data/index").is_dir());
}

#[test]
fn help_is_there_for_everything_and_bad_usage_has_its_code() {
    let place = Place::new();
    let commands = [
        &[][..],
        &["serve"],
        &["cache"],
        &["cache", "create"],
        &["cache", "list"],
        &["cache", "show"],
        &["cache", "set"],
        &["cache", "delete"],
        &["token"],
        &["token", "create"],
        &["token", "list"],
        &["token", "revoke"],
        &["config"],
        &["config", "check"],
        &["config", "example"],
        &["status"],
    ];
    for command in commands {
        let mut arguments = command.to_vec();
        arguments.push("--help");
        let help = place.ok(&arguments);
        assert!(help.contains("--data") && help.contains("--json"), "{command:?}: {help}");
    }
    for bad in [
        &["cahce"][..],
        &["serve", "--listen", "localhost"],
        &["token", "create"],
        &["token", "create", "--grant", "main"],
        &["usage", "--since", "yesterday"],
    ] {
        place.fails(bad, exit::USAGE.into());
    }
    assert!(place.fails(&["cache", "set", "x", "--public", "--private"], 2).contains("--private"));
}

#[test]
fn a_reader_who_goes_away_is_no_error() {
    let place = Place::new();
    let mut child = firnd().args(["config", "example"]).stdout(Stdio::piped()).spawn().expect("runs");
    drop(child.stdout.take());
    assert!(child.wait().expect("ends").success());
    // The same where the pipe is closed before anything is written.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = firnd().args(["cache", "create", "x", "--data"]).arg(place.data()).stdout(writer).status();
    assert!(status.expect("runs").success());
}

#[test]
fn the_allocator_is_set_by_the_program_and_then_by_the_environment() {
    let output =
        firnd().env("MALLOC_CONF", "confirm_conf:true,dirty_decay_ms:500").arg("--version").output().expect("runs");
    let said = text(&output.stderr);
    let set: Vec<&str> =
        said.lines().filter_map(|line| line.split_once("Set conf value: ")).map(|(_, set)| set).collect();
    assert_eq!(set, ["narenas:2", "oversize_threshold:0", "confirm_conf:true", "dirty_decay_ms:500"], "{said}");
}

#[test]
fn root_uses_no_store_of_another_user() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let files = [place.data(), place.data().join("lock")];
    let give = |to: u32| files.iter().all(|file| chown(file, Some(to), Some(to)).is_ok());
    let me = std::fs::metadata(place.data()).expect("there").uid();
    if me != 0 || !give(65_534) {
        // Others are held back by permissions.
        return;
    }
    let folder = place.path().join("backup");
    let folder = folder.to_str().expect("UTF-8");
    for command in [
        &["status"][..],
        &["cache", "create", "other"],
        &["gc"],
        &["scrub"],
        &["rebuild-index"],
        &["backup", folder],
        &["import", place.path().to_str().expect("UTF-8"), "--cache", "main"],
        &["serve", "--listen", "127.0.0.1:0"],
    ] {
        let said = place.fails(command, exit::USAGE.into());
        assert!(said.contains("sudo -u") && said.contains("chown -R"), "{command:?}: {said}");
    }
    let left: Vec<_> =
        std::fs::read_dir(place.data()).expect("there").flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("owner")), "{left:?}");
    // Where root made the store it is root's, whomever the folder belongs to; so it is where the folder is root's and the
    // store another's.
    assert!(chown(&files[1], Some(0), None).is_ok());
    place.ok(&["status"]);
    assert!(chown(&files[0], Some(0), None).is_ok() && chown(&files[1], Some(65_534), None).is_ok());
    place.fails(&["status"], exit::USAGE.into());
    // A folder that waits for its first store.
    std::fs::remove_dir_all(place.data()).expect("removed");
    std::fs::create_dir(place.data()).expect("made");
    assert!(chown(&files[0], Some(65_534), None).is_ok());
    place.fails(&["cache", "create", "main"], exit::USAGE.into());
    place.serve(&[]).end();
    place.ok(&["cache", "create", "main"]);
}

#[test]
fn no_backup_lies_in_the_store_that_it_is_of() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    std::os::unix::fs::symlink(place.data(), place.path().join("link")).expect("made");
    let inside = [place.data(), place.data().join("a/b"), place.path().join("link/c"), place.data().join("../data/d")];
    for folder in inside {
        let said = place.fails(&["backup", folder.to_str().expect("UTF-8")], exit::USAGE.into());
        assert!(said.contains("lies in the data directory"), "{said}");
    }
    assert!(!place.data().join("a").exists());
    place.ok(&["backup", place.path().join("data-backup").to_str().expect("UTF-8")]);
}

#[test]
fn a_backup_that_is_not_there_is_said_before_anything_is_made() {
    let place = Place::new();
    let said = place.fails(&["restore-backup", "/nonexistent"], exit::USAGE.into());
    assert!(said.contains("manifest.jsonl") && !place.data().exists(), "{said}");
}

#[test]
fn every_command_waits_for_a_server_that_starts() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    for command in [&["squeeze"][..], &["usage"], &["status"], &["scrub"]] {
        let lock = std::fs::OpenOptions::new().write(true).open(place.data().join("lock")).expect("opens");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locks");
        std::fs::write(place.data().join("lock"), "1 firnd serve\n").expect("writes");
        let mut child = firnd();
        let child = child.args(command).arg("--data").arg(place.data()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = child.spawn().expect("starts");
        // It has slept now and then, and so was refused the lock.
        let status = format!("/proc/{}/status", child.id());
        let sleeps = || {
            let text = std::fs::read_to_string(&status).unwrap_or_default();
            assert!(!text.contains("State:\tZ"), "{command:?} gave up at once");
            let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:").map(str::to_owned));
            line.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(u64::MAX)
        };
        while sleeps() < 50 {
            std::thread::yield_now();
        }
        drop(lock);
        let output = child.wait_with_output().expect("ends");
        assert!(output.status.success(), "{command:?}: {}", text(&output.stderr));
    }
}

#[test]
fn a_backup_that_was_killed_holds_up_no_other_one() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let server = place.serve(&[]);
    let folder = place.path().join("first");
    std::fs::create_dir(&folder).expect("made");
    // It waits for ever when it reads this.
    let pipe = folder.join("manifest.jsonl");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let mut child = firnd().arg("backup").arg(&folder).arg("--data").arg(place.data()).spawn().expect("starts");
    while !place.data().join("index.backup").exists() {
        assert!(child.try_wait().expect("is ours").is_none(), "it ended");
        std::thread::yield_now();
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let said = text(&place.run(&["backup", place.path().join("second").to_str().expect("UTF-8")]).stderr);
    assert!(!said.contains("waiting"), "{said}");
    place.ok(&["backup", place.path().join("second").to_str().expect("UTF-8"), "--verify"]);
    server.end();
}

#[test]
fn empty_variables_are_not_set() {
    let place = Place::new();
    let said = firnd().args(["status"]).env("FIRN_DATA", "").env("FIRN_CONFIG", "").current_dir(place.path()).output();
    let said = text(&said.expect("runs").stderr);
    assert!(said.contains("find a store in data"), "{said}");
    place.fails(&["--config", "", "status"], exit::USAGE.into());
}

#[test]
fn a_grant_for_no_cache_is_said() {
    let place = Place::new();
    place.ok(&["cache", "create", "main"]);
    let grants = ["main:push", "mian:push", "team-*:pull", "m*:pull"].map(|grant| ["--grant", grant]).concat();
    let output = place.run(&[&["token", "create"][..], &grants].concat());
    let said = text(&output.stderr);
    assert!(output.status.success() && said.contains("'mian'") && said.contains("'team-*'"), "{said}");
    assert_eq!(said.matches("there is no cache").count(), 2, "{said}");
}
