use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, SystemTime};

use firn_api::{Capabilities, ChunkerId, ErrorAnswer};
use firn_client::agent::{Activity, LostPath, Status};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::nix::Nix;
use super::*;
use crate::cache_ref::{Token, TokenSource};
use crate::nix_settings::NixSettings;
use crate::probe::{Answer, Trouble};
use crate::trust::Trust;

const URL: &str = "https://h/main";

fn with_token() -> CacheRef {
    let token = Token::new("firn_0123456789abcdef_hidden", TokenSource::Environment).expect("a token");
    CacheRef { token: Some(token), ..without_token() }
}

fn without_token() -> CacheRef {
    CacheRef { name: None, url: URL.parse().expect("a URL"), token: None, upstream_keys: None }
}

fn description() -> CacheDescription {
    CacheDescription {
        name: "main".into(),
        can_pull: true,
        can_push: true,
        builder: "b1".into(),
        public_keys: vec!["main-1:AAAA".into()],
        ..CacheDescription::default()
    }
}

/// A server's answer, as Nix's JSON has settings.
fn settings(values: &[(&str, Value)]) -> NixSettings {
    NixSettings::of(values.iter().map(|(name, value)| ((*name).to_owned(), json!({ "value": value }))).collect())
}

fn nix(client: &[(&str, Value)], daemon: &[(&str, Value)], trust: Trust) -> Nix {
    Nix { client: settings(client), daemon: settings(daemon), trust }
}

#[test]
fn a_clock_is_wrong_from_an_hour_on() {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let table = [
        (0, State::Ok),
        (59, State::Ok),
        (60, State::Warn),
        (3599, State::Warn),
        (3600, State::Fail),
        (999_999, State::Fail),
    ];
    for (seconds, expected) in table {
        let skew = Duration::from_secs(seconds);
        let (ahead, behind) = (server::clock(Some(now - skew), now), server::clock(Some(now + skew), now));
        assert_eq!((ahead.state, behind.state), (expected, expected), "{seconds}");
        if seconds >= 60 {
            assert!(ahead.detail.contains("ahead") && behind.detail.contains("behind"), "{ahead:?} {behind:?}");
        }
    }
    assert_eq!(server::clock(None, now).state, State::Skipped);
}

#[test]
fn other_versions_and_other_cuts_fail() {
    let current = Capabilities::current("firnd 1".into(), ChunkerId::CURRENT);
    assert_eq!(server::version(&current).state, State::Ok);
    assert_eq!(server::version(&Capabilities { versions: vec![9], ..current.clone() }).state, State::Fail);
    assert_eq!(server::version(&Capabilities { chunker: "other".into(), ..current }).state, State::Fail);
}

#[test]
fn a_token_that_ends_soon_is_told() {
    let now = Timestamp::from_second(1_000_000_000).expect("a time");
    let table = [
        (None, State::Ok),
        (Some(1_000_000_000), State::Fail),
        (Some(999_999_999), State::Fail),
        (Some(1_000_000_001), State::Warn),
        (Some(1_000_000_000 + 14 * 86_400), State::Ok),
        (Some(u64::MAX), State::Ok),
    ];
    for (token_expires_at, expected) in table {
        let found = server::token(&with_token(), &CacheDescription { token_expires_at, ..description() }, now);
        assert_eq!(found.state, expected, "{token_expires_at:?}");
        assert!(found.detail.contains("0123456789abcdef") && !format!("{found:?}").contains("hidden"), "{found:?}");
    }
    assert_eq!(server::token(&without_token(), &description(), now).state, State::Ok);
}

#[test]
fn missing_rights_are_named_with_the_grant() {
    let of = |cache: &CacheRef, can_pull, can_push| {
        server::rights(cache, &CacheDescription { can_pull, can_push, ..description() })
    };
    assert_eq!(of(&with_token(), true, true).state, State::Ok);
    assert_eq!(of(&without_token(), true, false).state, State::Ok);
    for (can_pull, can_push, expected) in
        [(true, false, State::Warn), (false, true, State::Warn), (false, false, State::Fail)]
    {
        let found = of(&with_token(), can_pull, can_push);
        assert_eq!(found.state, expected);
        assert!(found.advice.is_some_and(|advice| advice.contains("--grant main:pull,push")));
    }
}

#[test]
fn what_is_no_cache_is_told() {
    let of = |body: &str| server::cache_info(Ok(Answer { date: None, body: body.into() }), Some(&description()));
    assert_eq!(of("StoreDir: /nix/store\nPriority: 30\n").state, State::Ok);
    assert_eq!(of("StoreDir: /gnu/store\n").state, State::Fail);
    assert_eq!(of("Priority: many\n").state, State::Fail);
    let refused = || Err(Trouble::Refused { status: 403, answer: ErrorAnswer::default() });
    assert_eq!(server::cache_info(refused(), Some(&description())).state, State::Fail);
    let push_only = CacheDescription { can_pull: false, ..description() };
    assert_eq!(server::cache_info(refused(), Some(&push_only)).state, State::Skipped);
}

#[test]
fn the_substituter_counts_with_and_without_a_final_slash() {
    for (client, expected) in [
        (vec![("substituters", json!(["https://h/main/"]))], State::Ok),
        (vec![("substituters", json!("https://a https://h/main?priority=3"))], State::Ok),
        (vec![("substituters", json!(["https://h/mai"]))], State::Warn),
        (vec![("trusted-substituters", json!([URL]))], State::Warn),
        (vec![], State::Warn),
    ] {
        assert_eq!(
            nix::substituter(&nix(&client, &[], Trust::NoDaemon), &without_token()).state,
            expected,
            "{client:?}"
        );
    }
}

#[test]
fn an_untrusted_user_needs_the_daemons_consent() {
    let of = |daemon: &[(&str, Value)], trust| nix::trusted(&nix(&[], daemon, trust), &without_token());
    assert_eq!(of(&[], Trust::NoDaemon).state, State::Ok);
    assert_eq!(of(&[], Trust::Trusted).state, State::Ok);
    assert_eq!(of(&[], Trust::Unknown("x".into())).state, State::Warn);
    let found = of(&[("substituters", json!(["https://cache.nixos.org"]))], Trust::Untrusted);
    assert_eq!(found.state, State::Fail);
    assert!(
        found.advice.is_some_and(|advice| advice.contains("--system") && advice.contains("extra-trusted-substituters"))
    );
    assert_eq!(of(&[("trusted-substituters", json!([URL]))], Trust::Untrusted).state, State::Ok);
    assert_eq!(of(&[("substituters", json!([URL]))], Trust::Untrusted).state, State::Ok);
}

#[test]
fn a_key_counts_where_it_is_decided() {
    let good = ("trusted-public-keys", json!(["x-1:BBBB", "main-1:AAAA"]));
    let other = ("trusted-public-keys", json!(["main-1:BBBB"]));
    let of = |client: &[(&str, Value)], daemon: &[(&str, Value)], trust| {
        nix::key(&nix(client, daemon, trust), &description())
    };
    assert_eq!(of(from_ref(&good), &[], Trust::NoDaemon).state, State::Ok);
    assert_eq!(
        of(from_ref(&good), &[], Trust::Untrusted).state,
        State::Fail,
        "the daemon doesn't take this user's keys"
    );
    assert_eq!(of(&[], &[good], Trust::Untrusted).state, State::Ok);
    let found = of(&[other], &[], Trust::NoDaemon);
    assert!(found.state == State::Fail && found.detail.contains("another key called main-1"), "{found:?}");
    assert_eq!(of(&[], &[], Trust::NoDaemon).state, State::Fail);
    assert_eq!(of(&[("require-sigs", json!(false))], &[], Trust::NoDaemon).state, State::Warn);
}

#[test]
fn a_private_cache_needs_an_entry_that_others_cannot_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("netrc");
    let nix = nix(&[("netrc-file", json!(path))], &[], Trust::NoDaemon);
    let of = |text: &str, mode| {
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("a mode");
        let found = nix::credentials(&nix, &with_token(), Some(&description()));
        assert!(!format!("{found:?}").contains("hidden"), "{found:?}");
        found.state
    };
    assert_eq!(nix::credentials(&nix, &with_token(), Some(&description())).state, State::Fail, "no file");
    let good = "machine h password firn_0123456789abcdef_hidden\n";
    assert_eq!(of(good, 0o600), State::Ok);
    assert_eq!(of(good, 0o640), State::Ok);
    assert_eq!(of(good, 0o604), State::Warn);
    assert_eq!(of("machine h password other-hidden\n", 0o600), State::Warn);
    assert_eq!(of("machine other password hidden\n", 0o600), State::Fail);
    let public = CacheDescription { public: true, ..description() };
    assert_eq!(nix::credentials(&nix, &with_token(), Some(&public)).state, State::Ok);
}

#[test]
fn a_hook_that_is_no_program_fails() {
    let of = |values: &[(&str, Value)]| nix::hook(&nix(values, &[], Trust::NoDaemon), "2.26.3").state;
    assert_eq!(of(&[]), State::Ok);
    assert_eq!(of(&[("post-build-hook", json!(""))]), State::Ok);
    assert!(Path::new("/bin/sh").exists());
    assert_eq!(of(&[("post-build-hook", json!("/bin/sh"))]), State::Ok);
    assert_eq!(of(&[("post-build-hook", json!("/bin/sh -c true"))]), State::Fail, "no arguments");
    let with_hook = nix(&[("post-build-hook", json!("/bin/sh"))], &[], Trust::NoDaemon);
    assert_eq!(nix::hook(&with_hook, "2.8.0").state, State::Warn, "it names no paths");
}

pub(super) fn status(activity: Activity) -> Status {
    serde_json::from_value(json!({
        "version": "1", "cache": "main", "activity": activity, "trouble": "the reason", "warnings": [], "waiting": 3,
        "waiting_bytes": 1, "retrying": 0, "oldest_at": null, "in_flight": 0, "pinned": 0, "pinned_bytes": 0,
        "behind": 0, "last_scan_at": 0, "last_push_at": 0, "dead": 0, "dead_letters": [], "lost": [], "counters": {},
    }))
    .expect("a status")
}

#[test]
fn an_agent_that_does_nothing_is_told_with_its_reason() {
    for (activity, expected) in [
        (Activity::Running, State::Ok),
        (Activity::Unreachable, State::Warn),
        (Activity::Paused, State::Fail),
        (Activity::Blocked, State::Fail),
        (Activity::Stopped, State::Fail),
    ] {
        let found = agent::running(&status(activity));
        assert_eq!(found.state, expected, "{activity:?}");
        assert!(expected == State::Ok || found.detail.contains("the reason"), "{found:?}");
    }
    let warned = Status { warnings: vec!["no pins".into()], ..status(Activity::Running) };
    assert!(agent::running(&warned).state == State::Warn && agent::running(&warned).detail.contains("no pins"));
}

#[test]
fn an_agent_that_is_meant_to_run_and_does_not_fails() {
    assert_eq!(agent::absent(Path::new("/s"), None).state, State::Ok);
    let found = agent::absent(Path::new("/s"), Some(&status(Activity::Stopped)));
    assert!(found.state == State::Fail && found.detail.contains("3 paths wait"), "{found:?}");
}

#[test]
fn a_queue_that_stands_still_or_lost_something_is_told() {
    let week = 7 * 86_400_000;
    let now = 10 * week;
    let path = "0fanvwfh6772nmhmbw78d8jmj0dr6lpc-x".parse().expect("a path");
    let lost = |at| Status { lost: vec![LostPath { path: Clone::clone(&path), at }], ..status(Activity::Running) };
    let waits = |at| Status { oldest_at: Some(at), ..status(Activity::Running) };
    for (status, expected) in [
        (status(Activity::Running), State::Ok),
        (Status { dead: 1, ..status(Activity::Running) }, State::Warn),
        (waits(now - 3_600_000), State::Ok),
        (waits(now - 3_600_001), State::Warn),
        (lost(now - week + 1), State::Warn),
        (lost(now - week), State::Ok),
    ] {
        assert_eq!(agent::queue(&status, now).state, expected, "{status:?}");
    }
    let advice = agent::queue(&Status { dead: 1, ..status(Activity::Running) }, now).advice;
    assert!(["requeue --all", "forget --all"].iter().all(|word| advice.as_deref().unwrap_or_default().contains(word)));
}

#[test]
fn a_store_that_can_not_be_read_is_told() {
    use firn_nix_store::{Error, Location};

    let location = Location::for_root(Path::new("/m"));
    let judge = |counted| store::judge(&location, counted);
    let found = judge(Ok(store::Count { valid: 1, unreadable: 0 }));
    assert_eq!((found.state, found.detail.as_str()), (State::Ok, "1 path in /m/nix/var/nix/db/db.sqlite"));
    assert_eq!(judge(Ok(store::Count { valid: 1, unreadable: 1 })).state, State::Warn);
    let path = location.database();
    assert_eq!(judge(Err(Error::NoDatabase { path: path.clone() })).state, State::Skipped);
    assert_eq!(judge(Err(Error::Replaced { path: path.clone() })).state, State::Warn);
    let found = judge(Err(Error::Schema { path, found: "11".into() }));
    assert!(found.state == State::Fail && found.detail.contains("schema is 11"), "{found:?}");
}
