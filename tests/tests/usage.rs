//! What is told of a store's size agrees with what it takes on the disk, and what is counted live with what is counted.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use firn_testkit::firnd::Firnd;
use firn_testkit::http::Request;
use firn_testkit::nar::Node;
use firn_testkit::random::Random;
use firn_tests::Package;
use firn_tests::builder::Result;
use serde_json::Value;

/// Adds up what a folder takes on the disk, as `du` does.
fn du(path: &Path) -> Result<u64> {
    let metadata = path.symlink_metadata()?;
    let mut bytes = metadata.blocks() * 512;
    if metadata.is_dir() {
        for entry in std::fs::read_dir(path)? {
            bytes += du(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// Uploads packages, some of which share files and some of which are in two caches; returns how many, and their NAR bytes.
fn fill(firnd: &Firnd) -> Result<(u64, u64)> {
    let caches = [firnd.cache("one", &["--public"])?, firnd.cache("two", &[])?];
    let (mut paths, mut bytes) = (0, 0);
    for seed in 0..12 {
        let tree = Node::directory([
            ("own", Node::file(Random::new(seed).noise(3 << 20))),
            ("shared", Node::file(Random::new(1000 + seed / 3).noise(1 << 20))),
            ("text", Node::file((0..20_000).map(|n| format!("{seed} {n}\n")).collect::<String>())),
        ]);
        let package = Package::of(seed, tree.encode());
        for cache in caches.iter().take(if seed % 4 == 0 { 2 } else { 1 }) {
            assert_eq!(package.put_nar(firnd, cache)?.status, 200);
            assert_eq!(package.put_narinfo(firnd, cache)?.status, 200);
            paths += 1;
            bytes += package.nar.len() as u64;
        }
    }
    Ok((paths, bytes))
}

#[test]
fn sums_agree_with_the_disk_and_with_what_was_counted_live() -> Result<()> {
    let mut firnd = Firnd::start_with("[usage]\nreport-interval = \"0 s\"\n")?;
    let (paths, logical) = fill(&firnd)?;
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let assert_near = |told: u64, found: u64, when: &str| {
        assert!(told.abs_diff(found) * 100 <= found, "{when}: {told} bytes are told of, {found} are there");
    };
    // While packs and the log of the index are open, and once more after a start that sealed all of it.
    for when in ["running", "started again"] {
        // The first row that is written after a start has RocksDB set a megabyte aside for its log: here that row is a report.
        firnd.json(&["usage", "--fresh"])?;
        let report = firnd.json(&["usage", "--fresh", "--by", "builder"])?;
        let store = &report["store"];
        let (stored, index) = (number(&store["stored_bytes"]), number(&store["index_bytes"]));
        assert_near(stored + index, du(&firnd.data())?, when);
        let parts = ["chunk_bytes", "dead_bytes", "recipe_bytes", "record_bytes", "overhead_bytes"];
        assert_eq!(parts.iter().map(|part| number(&store[part])).sum::<u64>(), stored, "{when}: {store}");
        assert_eq!((number(&store["paths"]), number(&store["logical_bytes"])), (paths, logical), "{when}");
        assert_eq!((firnd.status("stored_bytes")?, firnd.status("paths")?), (stored, paths), "{when}");
        // Live counters say what the count finds, by builder as well.
        for group in report["groups"].as_array().into_iter().flatten() {
            let traffic = &group["traffic"];
            assert_eq!(
                (&traffic["pushed_paths"], &traffic["pushed_logical_bytes"]),
                (&group["paths"], &group["logical_bytes"])
            );
        }
        firnd.terminate()?;
        firnd.launch()?;
    }
    let watcher = firnd.token("*:usage")?;
    let metrics = firnd.send(&Request::get("/metrics").token(&watcher))?.text();
    let metric = |name: &str| {
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse::<u64>().ok())
    };
    assert_eq!((metric("firn_store_paths"), metric("firn_store_logical_bytes")), (Some(paths), Some(logical)));
    let packs = metric("firn_packs_stored_bytes{state=\"live\"}").ok_or_else(|| metrics.clone())?;
    assert_eq!(Some(packs), metric("firn_store_stored_bytes"));
    assert!(metric("firn_index_table_bytes{database=\"meta\"}").is_some(), "RocksDB tells of itself: {metrics}");
    assert!(metric("firn_memory_limit_bytes{memory=\"frames\"}").is_some_and(|limit| limit > 0));
    Ok(())
}
