//! What is shipped beside the programs: Nix files, systemd units, the container file. Each is read by the program that it is
//! for, as far as this machine has it; what could not be tried is said.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use firn_testkit::firnd::{self, Firnd};
use firn_testkit::nix::{Nix, Version};
use firn_testkit::{Result, firn};
use firn_tests::builder::{Builder, assert_cached};
use firn_tests::closure;
use firn_tests::shipped::{files_below, read, workspace};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The exposure that `systemd-analyze security` may find, in tenths; 100 is no protection at all.
const MAX_EXPOSURE: u32 = 25;

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text, and not {value}"))
}

/// Says that a test was left out, past the capture of test output.
fn skip(why: &str) {
    let current = thread::current();
    let _ = writeln!(std::io::stderr().lock(), "\nSKIPPED {}: {why}", current.name().unwrap_or("a test"));
}

fn has_program(name: &str) -> bool {
    let ran = Command::new(name).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}

/// Evaluates `nix/tests` with a Nix.
fn evaluate(nix: &Nix) -> Result<Value> {
    let store = nix.store()?;
    let tests = workspace().join("nix/tests");
    let arguments = ["--eval", "--read-write-mode", "--strict", "--json", tests.to_str().expect("UTF-8")];
    let out = store.check("nix-instantiate", arguments)?.text();
    Ok(serde_json::from_str(&out).expect("JSON"))
}

#[test]
fn every_nix_parses_every_file() -> Result<()> {
    let mut files = Vec::new();
    files_below(&workspace().join("nix"), "nix", &mut files);
    assert!(files.len() >= 10, "{files:?}");
    for nix in Nix::require_all() {
        let store = nix.store()?;
        for file in &files {
            store.check("nix-instantiate", [Path::new("--parse"), file])?.done()?;
        }
    }
    Ok(())
}

#[test]
fn the_modules_refuse_what_is_wrong_and_say_the_same_in_every_nix() -> Result<()> {
    let mut first: Option<Value> = None;
    for nix in Nix::require_all() {
        let found = evaluate(&nix)?;
        let refused = found["refused"].as_object().expect("an object");
        assert!(refused.len() >= 6 && refused.values().all(|refused| refused == true), "{refused:?}");
        assert_eq!(found["nothing-by-default"], json!([{}, {}, {}, []]), "a module that is not enabled does nothing");
        assert_eq!(first.get_or_insert_with(|| found.clone()), &found, "{nix:?}");
    }
    Ok(())
}

#[test]
fn the_modules_wire_what_they_should() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let found = evaluate(&nix)?;
    assert!(text(&found["settings"]["post-build-hook"]).ends_with("/bin/firn-hook"));
    assert_eq!(found["without-hook"], json!({}));
    assert_eq!((&found["ports"], &found["users"]), (&json!([8080]), &json!(["firnd"])));
    let agent = text(&found["units"]["firn-watch-store"]);
    assert!(agent.contains(" watch-store --token-file %d/token 'http://127.0.0.1:8080/main'\n"), "{agent}");
    assert!(agent.contains("\nLoadCredential=token:/run/secrets/firn-token\n"), "{agent}");
    assert!(text(&found["odd-url"]).ends_with(" 'https://h/a%%20b$$x'"), "{}", found["odd-url"]);
    let tls = &found["tls"];
    assert!(text(&tls["config"]).contains("tls-key = \"/run/credentials/firnd.service/tls-key\"\n"), "{tls}");
    let unit = text(&tls["units"]["firnd"]);
    for line in ["CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "LoadCredential=tls-key:/k.pem", "PrivateUsers=false"] {
        assert!(unit.lines().any(|found| found == line), "no {line} in\n{unit}");
    }
    Ok(())
}

#[test]
fn the_packages_build_the_programs_that_there_are() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let packages = &evaluate(&nix)?["packages"];
    for (program, crate_folder) in [("firn", "cli"), ("firnd", "server")] {
        let manifest = read(format!("crates/{crate_folder}/Cargo.toml"));
        let flags = packages[program]["cargoBuildFlags"].as_array().expect("a list");
        assert_eq!((&flags[0], &flags[2], &flags[3]), (&json!("--package"), &json!("--bin"), &json!(program)));
        assert!(manifest.contains(&format!("\nname = {}\n", flags[1])), "{crate_folder} is no {}", flags[1]);
        assert!(manifest.contains(&format!("[[bin]]\nname = \"{program}\"\n")));
        assert_eq!(packages[program]["meta"]["mainProgram"], json!(program));
    }
    assert!(text(&packages["firn"]["postInstall"]).contains("firn-hook"));
    Ok(())
}

#[test]
fn the_flake_evaluates() -> Result<()> {
    // In place of the network; 2.8 knows no `dir` in a path.
    let copy = tempfile::tempdir().expect("a folder");
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(workspace()).status().expect("runs");
        assert!(status.success(), "{program} {arguments:?}");
    };
    let target = copy.path().to_str().expect("UTF-8");
    run("cp", &["-r", "nix", ".cargo", "Cargo.toml", "Cargo.lock", target]);
    for folder in ["crates", "benches", "tests"] {
        fs::create_dir(copy.path().join(folder)).expect("a folder");
    }
    let flake = format!("path:{target}?dir=nix");
    let stub = format!("path:{target}/nix/tests/nixpkgs");
    for version in [Version::V2_26, Version::V2_34] {
        let Some(nix) = Nix::require(version) else { continue };
        let store = nix.store()?;
        let eval = |attribute: &str| {
            let wanted = format!("{flake}#{attribute}");
            let offline = ["--offline", "eval", "--raw", "--no-write-lock-file", "--override-input", "nixpkgs", &stub];
            store.check("nix", offline.into_iter().chain([wanted.as_str()])).map(|ran| ran.text())
        };
        for system in ["x86_64-linux", "aarch64-linux"] {
            for attribute in [
                "packages.SYSTEM.firnd",
                "packages.SYSTEM.default",
                "checks.SYSTEM.firnd-unit",
                "checks.SYSTEM.firn-watch-store-unit",
            ] {
                let path = eval(&format!("{}.drvPath", attribute.replace("SYSTEM", system)))?;
                assert!(path.ends_with(".drv"), "{attribute}: {path}");
            }
        }
        assert!(eval("nixosModules.firnd")?.ends_with("firnd.nix"));
        // Every output is of the kind that its name says.
        let check =
            ["--offline", "flake", "check", "--no-build", "--no-write-lock-file", "--override-input", "nixpkgs"];
        store.check("nix", check.into_iter().chain([stub.as_str(), flake.as_str()]))?.done()?;
    }
    Ok(())
}

#[test]
fn the_modules_configuration_is_good_for_firnd() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let found = evaluate(&nix)?;
    let folder = tempfile::tempdir().expect("a folder");
    let fixtures = workspace().join("crates/server/tests/admin/fixtures");
    for config in [&found["config"], &found["tls"]["config"]] {
        let path = folder.path().join("firnd.toml");
        // systemd puts the files there.
        let config = text(config)
            .replace("/run/credentials/firnd.service/tls-cert", fixtures.join("cert-1.pem").to_str().expect("UTF-8"))
            .replace("/run/credentials/firnd.service/tls-key", fixtures.join("key-1.pem").to_str().expect("UTF-8"));
        fs::write(&path, &config).expect("written");
        let ran =
            Command::new(firnd::binary()?).args(["config", "check", "--config"]).arg(&path).output().expect("runs");
        assert!(ran.status.success(), "{config}: {}", String::from_utf8_lossy(&ran.stderr));
    }
    Ok(())
}

#[test]
fn the_modules_caches_are_made_once() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let script = evaluate(&nix)?;
    let script = text(&script["create-caches"]);
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, nix.generate_key("team-1")?.0).expect("written");
    let program = script.split_whitespace().find(|word| word.ends_with("/bin/firnd")).expect("it calls firnd");
    let script = script
        .replace(program, firnd::binary()?.to_str().expect("UTF-8"))
        .replace("/run/credentials/firnd.service/key-team", key.to_str().expect("UTF-8"));
    let path = folder.path().join("create-caches");
    fs::write(&path, script).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    let data = folder.path().join("data");
    let list = || {
        let ran = Command::new(firnd::binary()?)
            .args(["cache", "list", "--json", "--data"])
            .arg(&data)
            .output()
            .expect("runs");
        Ok::<_, firn_testkit::Error>(String::from_utf8(ran.stdout).expect("UTF-8"))
    };
    let mut before = None;
    for _ in 0..2 {
        let ran = Command::new(&path).env("FIRN_DATA", &data).output().expect("runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let caches = list()?;
        assert!(caches.contains("main") && caches.contains("team"), "{caches}");
        assert_eq!(before.get_or_insert_with(|| caches.clone()), &caches, "the second run changes nothing");
    }
    Ok(())
}

/// Writes units into a folder, with programs that are there in place of those that they name.
fn units(nix: Option<&Nix>) -> Result<(TempDir, Vec<PathBuf>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let mut texts = Vec::new();
    for name in ["firnd", "firn-watch-store"] {
        texts.push((name.to_owned(), read(format!("contrib/systemd/{name}.service"))));
    }
    if let Some(nix) = nix {
        let found = evaluate(nix)?;
        for (kind, units) in [("nixos", &found["units"]), ("tls", &found["tls"]["units"])] {
            for (name, unit) in units.as_object().expect("an object") {
                texts.push((format!("{kind}-{name}"), text(unit).to_owned()));
            }
        }
    }
    let mut paths = Vec::new();
    for (name, unit) in texts {
        let lines = unit.lines().map(|line| match line.split_once('=') {
            Some((key @ ("ExecStart" | "ExecStartPre" | "ExecReload"), value)) => {
                let arguments = value.split_once(' ').map_or("", |(_, rest)| rest);
                format!("{key}=/bin/true {arguments}\n")
            }
            _ => format!("{line}\n"),
        });
        let path = folder.path().join(format!("{name}.service"));
        fs::write(&path, lines.collect::<String>()).expect("written");
        paths.push(path);
    }
    Ok((folder, paths))
}

#[test]
fn systemd_takes_the_units_and_finds_them_closed() -> Result<()> {
    if !has_program("systemd-analyze") {
        skip("there is no systemd-analyze");
        return Ok(());
    }
    let nix = Nix::require(Version::V2_26);
    let (_folder, paths) = units(nix.as_ref())?;
    for path in &paths {
        let ran = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(path).output().expect("runs");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        // Of other units of this machine it may say what it wants.
        let name = path.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let ours: Vec<&str> = said.lines().filter(|line| line.contains(name)).collect();
        assert!(ours.is_empty(), "{ours:?}");
        let threshold = format!("--threshold={MAX_EXPOSURE}");
        let ran = Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", &threshold])
            .arg(path)
            .output()
            .expect("runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
    }
    Ok(())
}

/// Returns what starts a program under the filter of system calls and the capabilities of a plain unit; `None` if this machine
/// can't do that.
fn under_unit(name: &str) -> Option<Vec<OsString>> {
    let script = workspace().join("tests/src/in_unit.py");
    let unit = workspace().join(format!("contrib/systemd/{name}.service"));
    let starter = vec!["python3".into(), script.into_os_string(), unit.into_os_string()];
    let tried = Command::new(&starter[0]).args(&starter[1..]).arg("/bin/true").env("PATH", "/usr/bin:/bin").output();
    match tried {
        Ok(ran) if ran.status.success() => return Some(starter),
        Ok(ran) if ran.status.code() == Some(77) => skip(&String::from_utf8_lossy(&ran.stderr)),
        Ok(ran) => panic!("{name}: {}", String::from_utf8_lossy(&ran.stderr)),
        Err(error) => skip(&format!("start python3: {error}")),
    }
    None
}

#[test]
fn the_agent_does_all_that_it_has_to_under_the_filter_of_its_unit() -> Result<()> {
    let Some(starter) = under_unit("firn-watch-store") else { return Ok(()) };
    for nix in Nix::require_all() {
        let firnd = Firnd::start()?;
        let cache = firnd.cache("main", &["--public"])?;
        let mut builder = Builder::new(&nix, &cache).expect("a builder");
        builder.starter.clone_from(&starter);
        let _daemon = builder.store.daemon()?;
        builder.start().expect("the agent starts");
        // The files of the database's log are there or not, depending on who else has it open.
        let path = builder.store.build_one(&closure(1))?;
        builder.flush().expect("all is pushed");
        assert_cached(&nix, &cache, &builder, &path).expect("it is there");
        builder.signal("HUP").expect("told");
        builder.until(|status| status["activity"] == "running").expect("it goes on");
        builder.signal("TERM").expect("told");
        let status = builder.agent.take().expect("an agent").wait().expect("it ends");
        assert!(status.success(), "{status}: {}", builder.log());
    }
    Ok(())
}

/// Returns the settings of a unit's service, lists taken apart.
fn service(unit: &str) -> BTreeSet<String> {
    let section = unit.split("[Service]").nth(1).and_then(|rest| rest.split("[Install]").next()).expect("a service");
    let mut found = BTreeSet::new();
    for line in section.lines().filter(|line| !line.starts_with('#')) {
        let Some((key, value)) = line.split_once('=') else { continue };
        let words: Vec<&str> = if key == "RestrictAddressFamilies" { value.split(' ').collect() } else { vec![value] };
        found.extend(words.into_iter().map(|word| format!("{key}={word}")));
    }
    found
}

#[test]
fn the_plain_units_are_those_of_the_modules() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let found = evaluate(&nix)?;
    let differs = |line: &String| {
        let key = line.split('=').next().unwrap_or_default();
        // Programs and where secrets are; and how a token is read again.
        !matches!(
            key,
            "ExecStart" | "ExecStartPre" | "ExecReload" | "Environment" | "LoadCredential" | "AmbientCapabilities"
        )
    };
    for name in ["firnd", "firn-watch-store"] {
        let of_module: BTreeSet<String> = service(text(&found["units"][name])).into_iter().filter(differs).collect();
        let plain = service(&read(format!("contrib/systemd/{name}.service")));
        assert_eq!(plain.into_iter().filter(differs).collect::<BTreeSet<_>>(), of_module, "{name}");
    }
    Ok(())
}

#[test]
fn the_container_file_takes_files_that_there_are() {
    let file = read("contrib/Containerfile");
    let mut stages = BTreeSet::new();
    for line in file.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", _, "AS", stage] => drop(stages.insert(*stage)),
            ["COPY", from, source, target] if from.starts_with("--from=") => {
                assert!(stages.contains(from.trim_start_matches("--from=")), "{line}");
                assert_eq!(Path::new(source).file_name(), Path::new(target).file_name(), "{line}");
            }
            ["COPY", sources @ .., _] => {
                for source in sources {
                    assert!(workspace().join(source).exists(), "{line}");
                }
            }
            ["RUN" | "WORKDIR" | "ENTRYPOINT" | "CMD" | "USER" | "ENV" | "VOLUME" | "EXPOSE" | "STOPSIGNAL", ..] => {}
            _ => panic!("{line}"),
        }
    }
    assert_eq!(stages, BTreeSet::from(["build", "firn", "firnd"]));
    // What Cargo needs to load the workspace is all there.
    for part in ["Cargo.toml", "Cargo.lock", ".cargo", "crates", "benches", "tests", "scripts"] {
        assert!(
            file.lines().any(|line| line.starts_with("COPY") && line.split(' ').any(|word| word == part)),
            "{part}"
        );
    }
}

#[test]
fn sources_take_in_files_of_their_own_crate_only() {
    let mut seen = 0;
    for part in fs::read_dir(workspace().join("crates")).expect("crates") {
        let home = fs::canonicalize(part.expect("a crate").path()).expect("is there");
        let mut files = Vec::new();
        files_below(&home, "rs", &mut files);
        for file in files {
            let source = fs::read_to_string(&file).expect("a source");
            for call in ["include_str!(\"", "include_bytes!(\""] {
                for (at, _) in source.match_indices(call) {
                    let named = source[at + call.len()..].split('"').next().expect("an end");
                    let taken = fs::canonicalize(file.parent().expect("a folder").join(named));
                    // The container file and the Nix packages copy crates whole, and little else.
                    assert!(taken.is_ok_and(|path| path.starts_with(&home)), "{}: {named}", file.display());
                    seen += 1;
                }
            }
        }
    }
    assert!(seen > 2, "{seen}");
}

#[test]
fn login_use_and_doctor_work_with_a_real_server() -> Result<()> {
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &[])?;
    for nix in Nix::require_all() {
        let home = tempfile::tempdir().expect("a folder");
        let firn = |arguments: &[&str], input: &str| {
            let mut command = Command::new(firn::binary().expect("a firn"));
            command
                .args(arguments)
                .env_clear()
                .env("PATH", format!("{}:/usr/bin:/bin", nix.programs().display()))
                .env("HOME", home.path())
                .env("NIX_REMOTE", home.path().join("root"))
                .env("NIX_CONF_DIR", home.path().join("etc"))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut child = command.spawn().expect("starts");
            let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
            let output = child.wait_with_output().expect("ends");
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert!(!said.contains(&cache.token), "a token is shown");
            (output.status.code(), said)
        };
        let wrong = format!("{}x", cache.token);
        let (code, said) = firn(&["login", &cache.url], &wrong);
        assert_eq!(code, Some(3), "{said}");
        let (code, said) = firn(&["login", &cache.url], &cache.token);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = firn(&["use"], "");
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = firn(&["doctor"], "");
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = firn(&["status", "--json"], "");
        assert!(code == Some(0) && said.contains("\"can_push\":true"), "{said}");
    }
    Ok(())
}
