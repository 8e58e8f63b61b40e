//! A gateway: its daemon builds nothing itself, builders behind it do, and what they make goes to the cache. The table in
//! `docs/guides/gateway.md` says for which clients it works; these tests hold it.

use std::process::Output;

use firn_testkit::nix::{MACHINE, Nix, Version};
use firn_tests::builder::Result;
use firn_tests::site::{SYSTEM, Site};
use firn_tests::{client, closure};

fn said(output: &Output) -> String {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{:?}\n{out}\n{err}", output.status)
}

/// Returns the path that a build printed last on standard output.
fn built(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn what_is_built_through_a_gateway_is_built_behind_it_and_reaches_the_cache() -> Result<()> {
    for (nix, proto) in Nix::require_all().iter().zip(["ssh", "ssh-ng", "ssh-ng"]) {
        let mut site = Site::new(nix, proto, &[])?;
        // The hook hands over what was built before the agent is there, the agent finds the rest.
        let early = built(&site.on_client("nix-build --no-out-link --store ssh-ng://gate EXPRESSION", &closure(1))?);
        site.start_agent()?;
        let line = "nix-build --no-out-link --store ssh-ng://gate-nobody EXPRESSION";
        let late = built(&site.on_client(line, &closure(2))?);
        site.flush()?;
        let hooked = site.hooked();
        assert_eq!(hooked.len(), 6, "it runs on the gateway, for every build behind it: {hooked:?}");
        // 2.8 runs it without a name, so the agent finds by itself what was built before.
        let paths = if nix.version() == Version::V2_8 { vec![late] } else { vec![early, late] };
        let elsewhere = client(nix, &site.cache)?;
        for path in &paths {
            assert!(site.builder.store().on_disk(path).exists() && site.gate.store().on_disk(path).exists());
            elsewhere.realise(&[path])?.done()?;
            assert_eq!(elsewhere.dump(path)?, site.builder.store().dump(path)?, "{path}");
        }
    }
    Ok(())
}

/// How a client uses the gateway, by whom its daemon trusts and by whom it does not.
const STORE: [&str; 2] = [
    "nix build --no-link --store ssh-ng://LOGIN -f EXPRESSION",
    "nix build --no-link --eval-store auto --store ssh-ng://LOGIN -f EXPRESSION",
];

#[test]
fn a_gateway_passes_on_what_the_guide_says() -> Result<()> {
    for nix in Nix::require_all() {
        let site = Site::new(&nix, "ssh-ng", &[])?;
        let mut seed = 0;
        let mut try_it = |line: &str, login: &str| -> Result<Output> {
            seed += 1;
            let expression = format!(r#"build {{ name = "try-{seed}"; script = "echo {seed} > $out"; }}"#);
            site.on_client(&line.replace("LOGIN", login), &expression)
        };
        for login in ["gate", "gate-nobody"] {
            for line in STORE {
                let output = try_it(line, login)?;
                assert!(output.status.success(), "Nix {}, {login}, {line}: {}", nix.version(), said(&output));
            }
            let output = try_it("nix build --no-link --store ssh://LOGIN -f EXPRESSION", login)?;
            assert!(!output.status.success() && said(&output).contains("not supported by store"), "{}", said(&output));
        }
        let by_builders = "nix-build --no-out-link -j0 --builders 'PROTO://LOGIN SYSTEM - 2 1 - - -' EXPRESSION";
        let can_not =
            if nix.version() == Version::V2_34 { "local builds are disabled" } else { "unable to start any build" };
        for (proto, login, refusal) in [
            // A client that is trusted sends a build without its derivation, which can't be passed on.
            ("ssh-ng", "gate", Some(can_not)),
            ("ssh", "gate", Some(can_not)),
            ("ssh", "gate-nobody", Some("")),
            // One that is not sends the derivation; 2.8 does not know that yet.
            ("ssh-ng", "gate-nobody", (nix.version() == Version::V2_8).then_some("not privileged")),
        ] {
            let output = try_it(&by_builders.replace("PROTO", proto), login)?;
            let is_as_told = match refusal {
                Some(refusal) => !output.status.success() && said(&output).to_lowercase().contains(refusal),
                None => output.status.success(),
            };
            assert!(is_as_told, "Nix {}, {proto}://{login}: {}", nix.version(), said(&output));
        }
    }
    Ok(())
}

#[test]
fn builders_take_inputs_from_the_cache_and_not_from_the_gateway() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let mut site = Site::new(&nix, "ssh-ng", &[])?;
    site.start_agent()?;
    let input = r#"input = build { name = "input"; script = "echo input > $out"; };"#;
    let line = "nix-build --no-out-link --store ssh-ng://gate EXPRESSION";
    let path = built(&site.on_client(line, &format!("let {input} in input"))?);
    site.flush()?;
    // As a builder that is new, or that collected its garbage.
    site.builder.check("nix-store", ["--delete", &path])?.done()?;
    let user = r#"build { name = "user"; inherit input; script = "cat $input > $out"; }"#;
    built(&site.on_client(line, &format!("let {input} in {user}"))?);
    let sigs = site.builder.check("nix", ["path-info", "--sigs", &path])?.text();
    assert!(sigs.contains("main-1:"), "what comes over ssh has no signature of the cache: {sigs}");
    Ok(())
}

#[test]
fn a_builder_that_is_away_fails_the_build_and_nothing_else() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let mut site = Site::new(&nix, "ssh-ng", &[])?;
    let expression = r#"build { name = "x"; script = "echo > $out"; }"#;
    let line = "nix-build --no-out-link --store ssh-ng://gate EXPRESSION";
    site.builder_sshd.kill()?;
    let output = site.on_client(line, expression)?;
    assert!(!output.status.success() && said(&output).contains("failed to start SSH connection"), "{}", said(&output));
    site.builder_sshd.launch()?;
    built(&site.on_client(line, expression)?);
    Ok(())
}

/// Returns how each check came out, with what was found; those of builders in order.
fn examined(output: &Output) -> Vec<(String, String, String)> {
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", said(output)));
    let text = |check: &serde_json::Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
    let checks = report["checks"].as_array().unwrap_or_else(|| panic!("{report}"));
    checks.iter().map(|check| (text(check, "check"), text(check, "state"), text(check, "detail"))).collect()
}

fn troubles(output: &Output) -> Vec<(String, String)> {
    let bad = examined(output).into_iter().filter(|(_, state, _)| state == "warn" || state == "fail");
    bad.map(|(check, state, _)| (check, state)).collect()
}

#[test]
fn the_doctor_finds_nothing_in_a_good_gateway_and_each_trap_in_others() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_34) else { return Ok(()) };
    let mut site = Site::new(&nix, "ssh-ng", &[])?;
    site.start_agent()?;
    let url = site.cache.url.clone();
    let doctor = |site: &Site| -> Result<Output> { Ok(site.firn(["doctor", "gateway", "--json", &url])?.output()?) };
    let output = doctor(&site)?;
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(troubles(&output), [], "{}", said(&output));
    for check in ["max-jobs", "builders", "builder", "trusted-users", "substituter", "key", "hook", "agent", "queue"] {
        let is_ok = |(name, state, _): &(String, String, String)| name == check && state == "ok";
        assert!(examined(&output).iter().any(is_ok), "{check}: {}", said(&output));
    }

    let line = format!("builders = ssh-ng://builder {SYSTEM} ; ssh://stranger {SYSTEM}");
    site.configure(&[
        "max-jobs = 1",
        "trusted-users = root nobody",
        &line,
        "post-build-hook = /none",
        "require-sigs = false",
    ])?;
    site.builder_sshd.change_host_key()?;
    let output = doctor(&site)?;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let expected = [
        ("max-jobs", "warn"),
        ("builder", "fail"),
        ("builder", "fail"),
        ("builders-use-substitutes", "warn"),
        ("trusted-users", "warn"),
        ("hook", "fail"),
        ("require-sigs", "warn"),
    ];
    let expected = expected.map(|(check, state)| (check.to_owned(), state.to_owned()));
    assert_eq!(troubles(&output), expected, "{}", said(&output));
    let details: Vec<String> =
        examined(&output).into_iter().filter(|found| found.0 == "builder").map(|found| found.2).collect();
    assert!(details[0].contains("Host key verification failed") || details[0].contains("HAS CHANGED"), "{details:?}");
    assert!(details[1].contains("Could not resolve hostname"), "{details:?}");
    Ok(())
}

#[test]
fn the_doctor_looks_at_a_gateway_from_afar() -> Result<()> {
    let Some(nix) = Nix::require(Version::V2_26) else { return Ok(()) };
    let site = Site::new(&nix, "ssh-ng", &[])?;
    let doctor = |at: &str| -> Result<Output> {
        let firn = firn_testkit::firn::binary()?;
        let firn = firn.to_str().ok_or("a path of UTF-8")?;
        let url = &site.cache.url;
        let line = format!("FIRN_CONFIG={MACHINE}/config.toml {firn} doctor gateway --json --at {at} {url}");
        site.client.store().write("config.toml", "")?;
        site.on_client(&line, "1")
    };
    let output = doctor("ssh-ng://gate")?;
    let found = examined(&output);
    let login = found.iter().find(|(check, ..)| check == "login");
    assert!(login.is_some_and(|(_, _, detail)| detail.contains("trusts this login")), "{}", said(&output));
    assert!(found.iter().any(|(check, state, _)| check == "builder" && state == "ok"), "{}", said(&output));
    let output = doctor("gate-nobody")?;
    let found = examined(&output);
    let login = found.iter().find(|(check, ..)| check == "login");
    assert!(login.is_some_and(|(_, _, detail)| detail.contains("does not trust")), "{}", said(&output));
    assert!(found.iter().any(|(check, state, _)| check == "builder" && state == "skipped"), "{}", said(&output));
    let output = doctor("ssh://nowhere.invalid")?;
    assert_eq!((output.status.code(), troubles(&output).len()), (Some(1), 1), "{}", said(&output));
    let output = doctor("https://gate")?;
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    Ok(())
}
