//! An index that the disk damaged: nothing that was acknowledged is lost without a word, and there is a way out.

use std::fs;
use std::path::{Path, PathBuf};

use firn_server::cli::exit;
use firn_testkit::http::Request;
use rustix::process::Signal;

use crate::support::Place;

/// How many logs of builds [`filled`] uploads.
const LOGS: usize = 30;

fn log_path(n: usize) -> String {
    let digit = char::from(b"0123456789abcdfghijklmnpqrsvwxyz"[n % 32]);
    format!("/main/log/{digit}a5bc7y7bsa7r26wzvpnlvw7r8g6nfvs-x{n}.drv")
}

/// Returns a store whose server was killed after the last answer.
fn filled() -> Place {
    let place = Place::new();
    place.ok(&["cache", "create", "main", "--public"]);
    let token = place.ok(&["token", "create", "--grant", "main:push"]);
    let revoked = place.ok(&["token", "create", "--grant", "main:push", "--name", "revoked"]);
    let mut server = place.serve(&[]);
    for n in 0..LOGS {
        let log = Request::put(&log_path(n), format!("the log of build {n}").into_bytes());
        assert!(log.token(token.trim_end()).send(server.address()).expect("answers").status < 300);
    }
    place.ok(&["token", "revoke", &revoked[5..21]]);
    server.signal(Signal::KILL);
    server.wait();
    place
}

/// Returns the files of a database that end like this.
fn files(place: &Place, database: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.data().join("index").join(database)).expect("lists").flatten();
    let mut files: Vec<_> =
        entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().ends_with(end)).collect();
    files.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).map_or(0, |metadata| metadata.len())));
    files
}

fn flip(file: &Path, part: f64) {
    let mut bytes = fs::read(file).expect("reads");
    let at = (bytes.len() as f64 * part) as usize;
    bytes[at] ^= 4;
    fs::write(file, bytes).expect("writes");
}

#[track_caller]
fn check_logs(place: &Place) {
    let server = place.serve(&[]);
    for n in 0..LOGS {
        let answer = Request::get(&log_path(n)).send(server.address()).expect("answers");
        assert_eq!((answer.status, answer.body), (200, format!("the log of build {n}").into_bytes()));
    }
    server.end();
}

const SERVE: [&str; 3] = ["serve", "--listen", "127.0.0.1:0"];

#[test]
fn a_bit_that_flips_in_the_log_of_the_index_is_told_and_nothing_is_lost() {
    let place = filled();
    flip(&files(&place, "meta", ".log")[0], 0.2);
    for command in [&SERVE[..], &["gc"], &["status"]] {
        let said = place.fails(command, exit::FAILED.into());
        assert!(said.contains("damaged at byte") && said.contains("firnd rebuild-index"), "{command:?}: {said}");
    }
    let output = place.run(&["rebuild-index"]);
    let said = crate::support::text(&output.stderr);
    assert_eq!(output.status.code(), Some(exit::DAMAGED.into()), "{said}");
    assert!(said.contains("the earlier index is damaged") && said.contains("a token that was revoked"), "{said}");
    assert!(place.data().join("index.old/meta").is_dir());
    check_logs(&place);
}

#[test]
fn an_index_whose_log_is_gone_is_told_and_nothing_is_lost() {
    let place = filled();
    for log in files(&place, "meta", ".log") {
        fs::remove_file(log).expect("removes");
    }
    for command in [&SERVE[..], &["gc"], &SERVE] {
        let said = place.fails(command, exit::FAILED.into());
        // With its only log all that the index said is gone.
        assert!(said.contains("its index is missing or empty"), "{command:?}: {said}");
        assert!(said.contains("firnd rebuild-index"), "{command:?}: {said}");
    }
    place.run(&["rebuild-index"]);
    // What it said of caches is gone too.
    place.ok(&["cache", "set", "main", "--public"]);
    check_logs(&place);
}

#[test]
fn a_damaged_chunk_index_is_made_anew() {
    let place = filled();
    place.serve(&[]).end();
    let damages: [&dyn Fn(); 2] =
        [&|| files(&place, "chunks", ".sst").iter().for_each(|table| flip(table, 0.9)), &|| {
            fs::remove_file(place.data().join("index/chunks/CURRENT")).expect("removes");
        }];
    for damage in damages {
        damage();
        let server = place.serve(&[]);
        let log = server.end();
        assert!(log.contains("chunk index is damaged") && log.contains("ERROR"), "{log}");
        assert!(place.data().join("index/chunks.damaged").is_dir());
        check_logs(&place);
    }
    fs::remove_file(place.data().join("index/meta/CURRENT")).expect("removes");
    let said = place.fails(&SERVE, exit::FAILED.into());
    assert!(said.contains("CURRENT") && said.contains("firnd rebuild-index"), "{said}");
}

#[test]
fn a_scrub_that_finds_damage_nobody_needs_says_so_with_its_exit_code() {
    let place = filled();
    place.serve(&[]).end();
    assert_eq!(place.json(&["scrub"])["last"]["damaged_frames"], 0);
    let mut packs = vec![place.data().join("store/packs")];
    while packs[0].is_dir() {
        let below = fs::read_dir(&packs[0]).expect("lists").flatten().map(|entry| entry.path());
        packs.splice(0..1, below.collect::<Vec<_>>());
    }
    // Records and recipes of short logs, which are in the index: no path needs a pack's footer.
    let bytes = fs::read(&packs[0]).expect("reads").len();
    flip(&packs[0], (bytes - 30) as f64 / bytes as f64);
    let output = place.run(&["scrub"]);
    let said = crate::support::text(&output.stdout);
    assert_eq!(output.status.code(), Some(exit::DAMAGED.into()), "{said}");
    assert!(said.contains("no path is harmed"), "{said}");
    let status = place.run(&["scrub", "--status"]);
    assert_eq!(status.status.code(), Some(exit::DAMAGED.into()));
}

/// Returns a copy of a data directory.
fn copied(place: &Place) -> Place {
    let copy = Place::new();
    let done = std::process::Command::new("cp").arg("-a").args([place.data(), copy.data()]).status();
    assert!(done.expect("cp").success());
    copy
}

#[test]
fn a_damaged_file_of_the_index_costs_a_rebuild_no_more_than_what_it_held() {
    let place = filled();
    place.ok(&["cache", "set", "main", "--quota", "10 GiB"]);
    place.ok(&["cache", "create", "empty"]);
    place.serve(&[]).end();
    let settings = |place: &Place| {
        let of = |name| place.json(&["cache", "show", name]);
        ["main", "empty"].map(|name| of(name)["public_keys"].clone())
    };
    let tokens = |place: &Place| place.json(&["token", "list"]).as_array().map_or(0, Vec::len);
    let (whole, whole_tokens) = (settings(&place), tokens(&place));
    let (tables, mut seen) = (files(&place, "meta", ".sst").len(), std::collections::BTreeSet::new());
    for nth in 0..tables {
        let place = copied(&place);
        let table = files(&place, "meta", ".sst").swap_remove(nth);
        let mut bytes = fs::read(&table).expect("reads");
        let at = bytes.len().saturating_sub(700);
        bytes[at..at + 8].copy_from_slice(b"XXXXXXXX");
        fs::write(&table, bytes).expect("writes");
        let output = place.run(&["rebuild-index", "--json"]);
        let said = crate::support::text(&output.stderr);
        let done: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
        assert_eq!(done["kept_from_old"], true, "{done}");
        let code = if done["old_is_damaged"] == true { exit::DAMAGED } else { exit::DONE };
        assert_eq!(output.status.code(), Some(code.into()), "{done}");
        let lost: Vec<&str> = done["not_read"].as_array().expect("names").iter().filter_map(|it| it.as_str()).collect();
        assert!(lost.len() <= 1, "{done}");
        seen.extend(lost.iter().map(|name| (*name).to_owned()));
        let is_lost = |name: &str| lost.contains(&name);
        if !is_lost("settings and signing keys of caches") {
            assert_eq!(settings(&place), whole, "{done}");
        }
        assert!(is_lost("tokens") || tokens(&place) == whole_tokens, "{done}");
        assert!(
            is_lost("retention and quotas") || place.json(&["cache", "show", "main"])["quota_bytes"] == 10_u64 << 30,
            "{done}"
        );
        place.ok(&["cache", "set", "main", "--public"]);
        check_logs(&place);
    }
    assert!(seen.len() > 3 && seen.contains("tokens"), "{seen:?}");
}

#[test]
fn a_damaged_usage_report_keeps_no_server_from_starting() {
    let place = filled();
    place.serve(&[]).end();
    place.json(&["usage", "--fresh"]);
    let mut told = 0;
    for nth in 0..files(&place, "meta", ".sst").len() {
        let place = copied(&place);
        let table = files(&place, "meta", ".sst").swap_remove(nth);
        // The end of a property's name, and its value.
        let of_usage = b"nameusage";
        if fs::read(&table).expect("reads").windows(of_usage.len()).any(|part| part == of_usage) {
            let damages: [&dyn Fn(); 2] = [&|| flip(&table, 0.01), &|| {
                let bytes = fs::metadata(&table).expect("is there").len();
                flip(&table, (bytes - 20) as f64 / bytes as f64);
            }];
            for damage in damages {
                damage();
                let log = place.serve(&[]).end();
                told += usize::from(log.contains("usage report can't be read") || log.contains("begin anew"));
            }
        }
    }
    assert!(told > 0);
}
