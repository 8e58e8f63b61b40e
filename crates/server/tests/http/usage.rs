//! Usage: what is told agrees with what is stored, and is told to those who may know.

use firn_api::usage::{Difference, DiskUse, EntryKind, Found, GroupBy, PathDescription, UsageHistory, UsageReport};
use firn_index::Verb;
use firn_server::collector::Plan;
use firn_server::http::codec::Codec;
use firn_testkit::http::{Answer, Request};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::support::{Package, World, code};

fn ask(world: &World, token: &str, target: &str) -> Answer {
    world.send(Request::get(target).token(token))
}

fn read<T: DeserializeOwned>(answer: &Answer) -> T {
    assert_eq!(answer.status, 200, "{}", answer.text());
    serde_json::from_slice(&answer.body).unwrap()
}

/// Two packages that share a file, in both caches, pushed by two builders.
fn filled() -> (World, String, Package, Package) {
    let world = World::new();
    let watcher = world.make_token(50, "*", &[Verb::Usage], |_| {});
    let shared = Random::new(9).noise(150_000);
    let tree = |seed, link: &str| {
        Node::directory([
            ("own", Node::file(Random::new(seed).noise(80_000))),
            ("shared", Node::file(shared.clone())),
            ("small", Node::file(link.as_bytes().to_vec())),
        ])
    };
    let (first, second) = (Package::of(1, &tree(1, "one")), Package::of(2, &tree(2, "two")));
    world.put_path("pub", &first);
    world.put_path("pub", &second);
    world.put_path("priv", &second);
    (world, watcher, first, second)
}

#[test]
fn live_counters_and_counts_of_the_store_agree() {
    let (world, watcher, first, second) = filled();
    let logical = first.nar.len() as u64 + 2 * second.nar.len() as u64;
    for by in ["cache", "builder", "day"] {
        let report: UsageReport = read(&ask(&world, &watcher, &format!("/api/v1/usage?by={by}&fresh=1")));
        let store = report.store.unwrap();
        assert_eq!((store.paths, store.logical_bytes), (3, logical));
        let sum = |of: fn(&firn_api::usage::UsageGroup) -> u64| report.groups.iter().map(of).sum::<u64>();
        assert_eq!((sum(|group| group.paths), sum(|group| group.logical_bytes)), (3, logical), "{by}");
        for group in &report.groups {
            let traffic = group.traffic.unwrap_or_default();
            assert_eq!(
                (traffic.pushed_paths, traffic.pushed_logical_bytes),
                (group.paths, group.logical_bytes),
                "{by}"
            );
        }
        let live = sum(|group| group.amortised_bytes);
        assert!(live.abs_diff(store.chunk_bytes + store.recipe_bytes) <= 3, "{by}");
    }
    let totals = world.app.engine.stats().unwrap().totals;
    let report: UsageReport = read(&ask(&world, &watcher, "/api/v1/usage"));
    let store = report.store.unwrap();
    assert_eq!((store.stored_bytes, store.stored_bytes), (totals.stored_bytes, world.stored_bytes()));
    let parts = store.chunk_bytes + store.dead_bytes + store.recipe_bytes + store.record_bytes + store.overhead_bytes;
    assert_eq!(parts, store.stored_bytes);
    let history: UsageHistory = read(&ask(&world, &watcher, "/api/v1/usage/history"));
    let (_, day) = history.days.iter().next().unwrap();
    assert_eq!((day.store.paths, day.traffic.pushed_paths), (3, 3));
}

/// The clock stands: to a fresh report it does not matter that an earlier one began in the same second.
#[test]
fn a_fresh_report_counts_what_came_a_moment_ago() {
    let (world, watcher, first, _) = filled();
    let paths = |world: &World| {
        let report: UsageReport = read(&ask(world, &watcher, "/api/v1/usage?fresh=1"));
        report.store.unwrap().paths
    };
    assert_eq!(paths(&world), 3);
    world.put_path("priv", &first);
    let target = format!("/api/v1/caches/priv/disk-use?path={}", first.hash());
    assert_eq!(read::<DiskUse>(&ask(&world, &watcher, &target)).paths, 1);
    assert_eq!(paths(&world), 4);
}

#[test]
fn reports_are_stored_and_read_by_the_next_server() {
    let (world, watcher, ..) = filled();
    let made: UsageReport = read(&ask(&world, &watcher, "/api/v1/usage?by=package&fresh=1"));
    assert_eq!(made.groups[0].name, "tree");
    let stored = world.app.usage.latest().unwrap();
    let again = firn_server::usage::Usage::default();
    again.load(world.app.engine.meta());
    assert_eq!(again.latest().as_deref(), Some(&*stored));
    assert_eq!(stored.by[&GroupBy::Package].total, 1);
}

#[test]
fn what_a_path_takes_and_who_shares_it() {
    let (world, watcher, first, second) = filled();
    let of = |package: &Package, cache: &str| -> DiskUse {
        read(&ask(&world, &watcher, &format!("/api/v1/caches/{cache}/disk-use?path={}", package.hash())))
    };
    let found = of(&first, "pub");
    assert_eq!((found.paths, found.logical_bytes), (1, first.nar.len() as u64));
    assert!((80_000..110_000).contains(&found.exclusive_bytes), "its own file: {found:?}");
    assert!(found.stored_bytes > 230_000);
    let sharing: Vec<_> = found.shares_with.iter().map(|one| (one.path.as_str(), one.cache.as_str())).collect();
    let name = second.path.base_name();
    assert_eq!(sharing, [(name.as_str(), "priv"), (name.as_str(), "pub")]);
    assert!(found.shares_with[0].stored_bytes >= 150_000);
    assert_eq!(of(&second, "pub").exclusive_bytes, 0, "the other cache has it too");
    let absent = ask(&world, &watcher, &format!("/api/v1/caches/pub/disk-use?path={}", "0".repeat(32)));
    assert_eq!(absent.status, 404, "{}", absent.text());
}

#[test]
fn what_changed_between_two_paths() {
    let (world, watcher, first, second) = filled();
    let target = format!("/api/v1/caches/pub/difference?from={}&to={}", first.path, second.hash());
    let found: Difference = read(&ask(&world, &watcher, &target));
    let files: Vec<_> = found.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(files, ["own", "small"]);
    assert_eq!(found.files[0].new_bytes, 80_000);
    // Without any token in a public cache, never in a private one.
    assert_eq!(world.send(Request::get(&target)).status, 200);
    assert_eq!(world.send(Request::get(&target.replace("/pub/", "/priv/"))).status, 401);
}

#[test]
fn where_a_path_came_from_and_what_was_offered_instead() {
    let (world, watcher, first, second) = filled();
    let impostor = Package { path: first.path.clone(), ..second.clone() };
    let other = world.make_token(51, "pub", &[Verb::Push], |_| {});
    let name = crate::support::file_name(&crate::support::encode(Codec::Zstd, &impostor.nar), Codec::Zstd);
    let narinfo = Request::put(&format!("/pub/{}.narinfo", first.hash()), impostor.narinfo(&name, "zstd"));
    assert_eq!(world.send(narinfo.token(&other)).status, 200, "the first stays, and a closure must go on");
    let target = format!("/api/v1/caches/pub/paths/{}", first.hash());
    let found: PathDescription = read(&ask(&world, &watcher, &target));
    let outcomes: Vec<_> = found.pushes.iter().map(|push| (push.outcome.as_str(), push.builder.as_str())).collect();
    assert_eq!(outcomes, [("created", "builder-1"), ("conflict", "builder-51")]);
    assert_eq!(found.pushes[0].signed_by, ["test-1"]);
    assert_eq!(found.pushes[1].token.as_deref(), Some("0000000000000033"));
    let files = found.conflicts[0].files.as_ref().unwrap();
    assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), ["own", "small"]);
    assert_eq!(found.conflicts[0].files_total, Some(2));
    assert_eq!((files[0].from_kind, files[0].to_kind), (Some(EntryKind::File), Some(EntryKind::File)));
    let report: UsageReport = read(&ask(&world, &watcher, "/api/v1/usage?by=builder&fresh=1"));
    let note = &report.conflicts[0];
    assert_eq!((note.files_total, note.files.as_slice()), (Some(2), &["own".to_owned(), "small".to_owned()][..]));
    let traffic = |name: &str| report.groups.iter().find(|group| group.name == name).and_then(|group| group.traffic);
    assert_eq!(traffic("builder-1").unwrap().conflicts, 0);
    let metrics = ask(&world, &watcher, "/metrics").text();
    assert!(metrics.contains("firn_conflicts_total{cache=\"pub\",builder=\"builder-51\"} 1"), "{metrics}");
    // Those who may only pull see the path, and nothing of who pushed it.
    let public: PathDescription = read(&world.send(Request::get(&target)));
    assert_eq!((public.path.as_str(), public.nar_bytes), (found.path.as_str(), found.nar_bytes));
    assert!(public.pushes.is_empty() && public.conflicts.is_empty() && public.builder.is_empty());
}

#[test]
fn usage_needs_its_verb_and_private_caches_stay_private() {
    let (world, _, first, second) = filled();
    let of_pub = world.make_token(60, "pub", &[Verb::Usage], |_| {});
    for target in ["/api/v1/usage", "/api/v1/usage?by=package", "/api/v1/usage/history", "/metrics"] {
        let nobody = world.send(Request::get(target));
        assert_eq!(nobody.status, 401, "{target}");
        let pusher = ask(&world, &world.token, target);
        assert_eq!((pusher.status, read_code(&pusher).as_str()), (403, "not-granted"), "{target}");
    }
    let report: UsageReport = read(&ask(&world, &of_pub, "/api/v1/usage"));
    assert_eq!(report.store, None);
    assert_eq!(report.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["pub"]);
    for target in ["/api/v1/usage?by=builder", "/api/v1/usage/history", "/metrics"] {
        assert_eq!(ask(&world, &of_pub, target).status, 403, "{target}");
    }
    let disk_use = |cache: &str| format!("/api/v1/caches/{cache}/disk-use?path={}", second.hash());
    let found: DiskUse = read(&ask(&world, &of_pub, &disk_use("pub")));
    assert!(found.shares_with.iter().all(|one| one.cache == "pub"), "{found:?}");
    // A cache that is private and one that does not exist look alike.
    let (private, absent) = (ask(&world, &of_pub, &disk_use("priv")), ask(&world, &of_pub, &disk_use("nowhere")));
    assert_eq!((private.status, private.body), (absent.status, absent.body));
    let search = |token: Option<&str>| -> usize {
        let request = Request::get("/api/v1/usage/search?q=TREE");
        let found: Found = read(&world.send(token.map_or(request.clone(), |token| request.token(token))));
        found.paths.len()
    };
    assert_eq!((search(None), search(Some(&of_pub)), search(Some(&world.token))), (2, 2, 3));
    let by_hash: Found = read(&world.send(Request::get(&format!("/api/v1/usage/search?q=/nix/store/{}", first.path))));
    assert_eq!(by_hash.paths[0].path, first.path.base_name());
}

fn read_code(answer: &Answer) -> String {
    firn_api::ErrorAnswer::read(&answer.body).code
}

#[test]
fn malformed_questions_are_told_so() {
    let (world, watcher, ..) = filled();
    for target in [
        "/api/v1/usage?by=colour",
        "/api/v1/usage?top=-1",
        "/api/v1/usage?top=1001",
        "/api/v1/usage?fresh=no",
        "/api/v1/usage?tpo=5",
        "/api/v1/usage?by=cache&by=day",
        "/api/v1/usage/search",
        "/api/v1/usage/search?q=a&page=2",
        "/api/v1/usage/history?since=1&days=2",
        "/api/v1/caches/pub/paths/x",
        "/api/v1/caches/Pub/disk-use?path=x",
        "/api/v1/usage?since=yesterday",
        "/api/v1/caches/pub/disk-use",
        "/api/v1/caches/pub/disk-use?path=x",
        "/api/v1/caches/pub/difference?from=x&to=y",
    ] {
        let answer = ask(&world, &watcher, target);
        assert_eq!((answer.status, read_code(&answer).as_str()), (400, "bad-question"), "{target}");
        assert_eq!(answer.header("content-type"), Some("application/json"), "{target}");
    }
    let posted = world.send(Request::new("POST", "/api/v1/usage").token(&watcher));
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn the_description_names_what_there_is() {
    let (world, watcher, first, second) = filled();
    let text = world.send(Request::get("/api/v1/openapi.yaml")).text();
    let report = ask(&world, &watcher, "/api/v1/usage?by=cache&fresh=1");
    let report: serde_json::Value = serde_json::from_slice(&report.body).unwrap();
    let value = |target: String| -> serde_json::Value {
        serde_json::from_slice(&ask(&world, &world.token, &target).body).unwrap()
    };
    let by_builder = ask(&world, &watcher, "/api/v1/usage?by=builder");
    let by_builder: Value = serde_json::from_slice(&by_builder.body).unwrap();
    let hours = by_builder["groups"][0]["hours"].as_array().unwrap();
    assert_eq!((hours.len(), &hours[47]), (48, &json!(3)));
    let (one, two) = (first.hash(), second.hash());
    let found = value("/api/v1/usage/search?q=tree".to_owned());
    let difference = value(format!("/api/v1/caches/pub/difference?from={one}&to={two}"));
    let path = value(format!("/api/v1/caches/pub/paths/{one}"));
    for object in [
        &report,
        &report["store"],
        &report["groups"][0],
        &report["groups"][0]["traffic"],
        &by_builder["groups"][0],
        &found,
        &found["paths"][0],
        &difference,
        &difference["files"][0],
        &path,
        &value("/api/v1/usage?by=x".to_owned()),
    ] {
        for name in object.as_object().unwrap().keys() {
            assert!(text.contains(&format!("{name}:")), "'{name}' is not described");
        }
    }
}

/// Collects garbage and reads all stored bytes, once.
fn maintain(world: &World) {
    let app = &world.app;
    let plan = Plan::configured(&app.config.gc);
    assert!(app.collector.run(&app.engine, &plan, app.now(), &|_, _| {}).unwrap().is_some());
    let mut scrub = app.engine.scrub().unwrap();
    while scrub.step().unwrap().is_some() {}
}

#[test]
fn how_maintenance_is_doing_is_told_to_those_who_see_all() {
    let (world, watcher, ..) = filled();
    let before: Value = read(&ask(&world, &watcher, "/api/v1/maintenance"));
    assert_eq!((&before["gc"]["runs"], &before["scrub"]["last_ended_at"]), (&json!(0), &Value::Null), "{before}");
    maintain(&world);
    let after: Value = read(&ask(&world, &watcher, "/api/v1/maintenance"));
    assert_eq!((&after["gc"]["runs"], &after["scrub"]["running"]), (&json!(1), &json!(false)), "{after}");
    assert_eq!(after["gc"]["last_ended_at"], world.app.now());
    assert_eq!(after["scrub"]["last_ended_at"], world.app.now());
    let text = world.send(Request::get("/api/v1/openapi.yaml")).text();
    for part in ["gc", "scrub", "squeeze"] {
        for name in after[part].as_object().unwrap().keys() {
            assert!(text.contains(name), "'{part}.{name}' is not described");
        }
    }
    let some = world.make_token(51, "pub", &[Verb::Usage], |_| {});
    assert_eq!(ask(&world, &some, "/api/v1/maintenance").status, 403);
    assert_eq!(world.send(Request::get("/api/v1/maintenance")).status, 401);
}

#[test]
fn dashboards_and_alerts_name_metrics_that_exist() {
    let (world, watcher, ..) = filled();
    let _: UsageReport = read(&ask(&world, &watcher, "/api/v1/usage?fresh=1"));
    maintain(&world);
    let metrics = ask(&world, &watcher, "/metrics");
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    let metrics = metrics.text();
    assert!(metrics.ends_with("# EOF\n"));
    let mut types: Vec<&str> = metrics.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    types.sort_unstable();
    assert!(types.windows(2).all(|two| two[0] != two[1]), "a metric is described twice: {types:?}");
    let names: std::collections::BTreeSet<&str> = metrics
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/grafana");
    let dashboard = std::fs::read_to_string(folder.join("firn.json")).unwrap();
    let parsed: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    assert!(parsed["panels"].as_array().unwrap().len() >= 10);
    let alerts = std::fs::read_to_string(folder.join("alerts.yaml")).unwrap();
    let mut used = 0;
    for text in [&dashboard, &alerts] {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        for word in text.split(|c| !is_name(c)).filter(|word| word.starts_with("firn_")) {
            used += 1;
            // RocksDB tells nothing here, and the disk is memory.
            let is_elsewhere = word.starts_with("firn_index_") || word == "firn_disk_free_bytes";
            assert!(names.contains(word) || is_elsewhere, "there is no metric {word}");
        }
    }
    assert!(used > 20);
    let listed = std::fs::read_to_string(folder.join("../METRICS.md")).unwrap();
    for name in names {
        let part = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_listed = |name: &str| listed.contains(&format!("`{name}`")) || listed.contains(&format!("`{name}{{"));
        assert!(is_listed(name) || part.is_some_and(is_listed), "METRICS.md does not list {name}");
    }
    assert_eq!(code(&world.send(Request::get("/pub/nothing"))), "not-found");
}
