use serde_json::{Value, json};

use super::gather::{Agent, Gateway, Reach};
use super::machines::{self, Machine};
use super::*;
use crate::doctor::State;
use crate::nix_settings::NixSettings;

fn machines(text: &str) -> Vec<Machine> {
    machines::parse(text, |_| Ok::<_, ()>(None)).expect("no file is named")
}

/// A gateway that is in no trap.
fn good() -> Gateway {
    let builders = "ssh-ng://b1 x86_64-linux - 4; ssh-ng://b2 x86_64-linux - 4";
    Gateway {
        place: "this machine".into(),
        version: "2.26.3".into(),
        settings: settings(&[]),
        machines: Ok(machines(builders)),
        reached: Some(vec![Reach::Answers { trusts: Some(true) }, Reach::Answers { trusts: None }]),
        hook_runs: Some(true),
        absent_keys: Vec::new(),
        agent: Agent::Answers(Box::new(crate::doctor::tests::status(firn_client::agent::Activity::Running))),
        trusts_login: None,
    }
}

/// The settings of a gateway that is in no trap, but for these.
fn settings(other: &[(&str, Value)]) -> NixSettings {
    let mut values = json!({
        "max-jobs": { "value": 0 },
        "system": { "value": "x86_64-linux" },
        "builders-use-substitutes": { "value": true },
        "trusted-users": { "value": ["root"] },
        "require-sigs": { "value": true },
        "post-build-hook": { "value": "/run/hook" },
        "min-free": { "value": 0 },
    });
    for (name, value) in other {
        values[*name] = json!({ "value": value });
    }
    NixSettings::of(values)
}

/// Returns what was found that is not as it should be.
fn troubles(gateway: &Gateway) -> Vec<(&'static str, State)> {
    let all = judge::builds(gateway).into_iter().chain(judge::results(gateway));
    let bad = all.filter(|finding| matches!(finding.state, State::Warn | State::Fail));
    bad.map(|finding| {
        assert!(finding.advice.is_some(), "{finding:?}");
        (finding.check, finding.state)
    })
    .collect()
}

#[test]
fn a_good_gateway_is_in_no_trap() {
    assert_eq!(troubles(&good()), []);
    let finds_by_itself = Gateway { settings: settings(&[("post-build-hook", json!(""))]), hook_runs: None, ..good() };
    assert_eq!(troubles(&finds_by_itself), []);
}

#[test]
fn each_trap_of_the_settings_is_told() {
    for (name, value, expected) in [
        ("max-jobs", json!(2), ("max-jobs", State::Warn)),
        ("max-jobs", json!("4"), ("max-jobs", State::Warn)),
        ("system", json!("aarch64-linux"), ("builders", State::Warn)),
        ("builders-use-substitutes", json!(false), ("builders-use-substitutes", State::Warn)),
        ("trusted-users", json!(["root", "@wheel"]), ("trusted-users", State::Warn)),
        ("require-sigs", json!(false), ("require-sigs", State::Warn)),
    ] {
        let gateway = Gateway { settings: settings(&[(name, value.clone())]), ..good() };
        assert_eq!(troubles(&gateway), [expected], "{name} {value}");
    }
    let absent = Gateway { absent_keys: vec!["/k".into()], ..good() };
    assert_eq!(troubles(&absent), [("secret-key-files", State::Fail)]);
}

#[test]
fn builders_that_are_none_or_can_not_be_used_fail() {
    for machines in [Ok(machines("")), Ok(machines("b1 - - 0")), Err("Permission denied".to_owned())] {
        let gateway = Gateway { machines, reached: Some(Vec::new()), ..good() };
        assert_eq!(troubles(&gateway)[0], ("builders", State::Fail), "{gateway:?}");
    }
    let of = |reach: Reach| Gateway { reached: Some(vec![reach, Reach::Answers { trusts: Some(true) }]), ..good() };
    for (said, advice) in [
        ("Host key verification failed.", "known_hosts"),
        ("b1: Permission denied (publickey).", "authorized_keys"),
        ("ssh: connect to host b1 port 22: Connection refused", "sshd"),
        ("unexpected end-of-file", "nix store info"),
    ] {
        let gateway = of(Reach::Fails(said.into()));
        assert_eq!(troubles(&gateway), [("builder", State::Fail)], "{said}");
        let found = judge::builds(&gateway).into_iter().find(|finding| finding.state == State::Fail).expect("it fails");
        assert!(found.detail.contains(said) && found.advice.is_some_and(|text| text.contains(advice)), "{said}");
    }
    assert_eq!(troubles(&of(Reach::Answers { trusts: Some(false) })), [("builder", State::Warn)]);
    let untried = Gateway { reached: None, ..good() };
    assert_eq!(troubles(&untried), []);
    assert!(judge::builds(&untried).iter().any(|finding| finding.detail.contains("as root")));
}

#[test]
fn results_that_nobody_sends_on_fail() {
    let none = || Agent::None("none answers".into());
    let unhooked = || settings(&[("post-build-hook", json!(""))]);
    let gateway = Gateway { settings: unhooked(), hook_runs: None, agent: none(), ..good() };
    assert_eq!(troubles(&gateway), [("hook", State::Fail)]);
    let unknown = Agent::Unknown("x".into());
    let gateway = Gateway { settings: unhooked(), hook_runs: None, agent: unknown, ..good() };
    assert_eq!(troubles(&gateway), [("hook", State::Warn)]);
    assert_eq!(troubles(&Gateway { hook_runs: Some(false), ..good() }), [("hook", State::Fail)]);
    assert_eq!(troubles(&Gateway { version: "2.8.0".into(), ..good() }), [("hook", State::Warn)]);
    assert_eq!(troubles(&Gateway { agent: none(), ..good() }), [("hook", State::Warn)]);
    let frees = settings(&[("min-free", json!(1 << 30))]);
    assert_eq!(troubles(&Gateway { settings: frees.clone(), ..good() }), []);
    let unheld = Gateway { settings: frees, agent: none(), ..good() };
    assert_eq!(troubles(&unheld), [("hook", State::Warn), ("garbage", State::Warn)]);
}

#[test]
fn whoever_looks_from_afar_learns_how_it_may_be_used() {
    for (trusts_login, expected) in [(Some(true), "would not pass builds on"), (Some(false), "works")] {
        let found = judge::builds(&Gateway { trusts_login, ..good() });
        let login = found.iter().find(|finding| finding.check == "login").expect("it is told");
        assert!(login.detail.contains(expected), "{login:?}");
    }
    assert!(judge::builds(&good()).iter().all(|finding| finding.check != "login"));
}
