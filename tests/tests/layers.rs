//! Dependencies between firn's crates point down only, RocksDB stays in its leaf crate, tokio stays in what waits, and no
//! source file grows without bound. Read from `cargo metadata`, so what is checked is what Cargo builds.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The longest source file, in lines.
const MAX_LINES: usize = 600;

/// Each crate and those of ours that it may name; what is not here may name none. See docs/ARCHITECTURE.md.
const ALLOWED: [(&str, &[&str]); 15] = [
    ("firn-nix", &[]),
    ("firn-chunk", &["firn-nix"]),
    ("firn-pack", &[]),
    ("firn-storage", &[]),
    ("firn-index", &["firn-nix", "firn-chunk", "firn-pack"]),
    ("firn-index-rocks", &["firn-nix", "firn-chunk", "firn-pack", "firn-index"]),
    ("firn-engine", &["firn-nix", "firn-chunk", "firn-pack", "firn-storage", "firn-index"]),
    ("firn-nix-store", &["firn-nix"]),
    ("firn-api", &["firn-nix", "firn-chunk"]),
    ("firn-client", &["firn-nix", "firn-chunk", "firn-pack", "firn-api", "firn-nix-store"]),
    ("firn-cli", &["firn-nix", "firn-nix-store", "firn-api", "firn-client"]),
    (
        "firn-server",
        &[
            "firn-nix",
            "firn-chunk",
            "firn-nix-store",
            "firn-storage",
            "firn-index",
            "firn-index-rocks",
            "firn-engine",
            "firn-api",
        ],
    ),
    ("firn-testkit", &[]),
    ("firn-tests", &["firn-nix", "firn-testkit"]),
    (
        "firn-benches",
        &[
            "firn-nix",
            "firn-chunk",
            "firn-pack",
            "firn-storage",
            "firn-index",
            "firn-index-rocks",
            "firn-engine",
            "firn-nix-store",
            "firn-client",
            "firn-testkit",
        ],
    ),
];

/// The crate that may name RocksDB.
const ROCKSDB_OWNER: &str = "firn-index-rocks";

/// Crates that only compute: tokio may not be reachable from them at all.
const WITHOUT_TOKIO: [&str; 5] = ["firn-nix", "firn-chunk", "firn-pack", "firn-index", "firn-api"];

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Kind {
    Normal,
    Build,
    Development,
}

/// The workspace's dependency graph, by package names.
struct Graph {
    members: BTreeSet<String>,
    /// What each member declares.
    declared: BTreeMap<String, BTreeSet<(String, Kind)>>,
    /// What Cargo resolves: normal and build dependencies of every package, by package id.
    resolved: BTreeMap<String, Vec<String>>,
    ids: BTreeMap<String, String>,
    names: BTreeMap<String, String>,
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the workspace is there")
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string in cargo's metadata").to_owned()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().expect("an array in cargo's metadata")
}

fn kind(value: &Value) -> Kind {
    match value.as_str() {
        None => Kind::Normal,
        Some("build") => Kind::Build,
        Some("dev") => Kind::Development,
        Some(other) => panic!("cargo knows a kind of dependency that this test does not: {other}"),
    }
}

/// The platform that was built for: what only others need was perhaps never downloaded.
fn host() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output().expect("rustc runs");
    let said = String::from_utf8_lossy(&output.stdout);
    said.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host").to_owned()
}

impl Graph {
    fn read() -> Self {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host()])
            .current_dir(workspace())
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self::parse(&serde_json::from_slice(&output.stdout).expect("cargo prints JSON"))
    }

    fn parse(metadata: &Value) -> Self {
        let names: BTreeMap<_, _> =
            array(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
        let members: BTreeSet<_> =
            array(&metadata["workspace_members"]).iter().map(|id| names[&text(id)].clone()).collect();
        let ids = array(&metadata["workspace_members"]).iter().map(|id| (names[&text(id)].clone(), text(id))).collect();
        let mut declared = BTreeMap::new();
        for package in array(&metadata["packages"]) {
            if members.contains(&text(&package["name"])) && package["source"].is_null() {
                let dependencies = array(&package["dependencies"]).iter();
                let edges = dependencies.map(|edge| (text(&edge["name"]), kind(&edge["kind"]))).collect();
                declared.insert(text(&package["name"]), edges);
            }
        }
        let mut resolved = BTreeMap::new();
        for node in array(&metadata["resolve"]["nodes"]) {
            let ships = |edge: &&Value| array(&edge["dep_kinds"]).iter().any(|k| kind(&k["kind"]) != Kind::Development);
            let edges = array(&node["deps"]).iter().filter(ships).map(|edge| text(&edge["pkg"])).collect();
            resolved.insert(text(&node["id"]), edges);
        }
        Self { members, declared, resolved, ids, names }
    }

    /// Returns a chain of normal and build dependencies from a member to a package of that name, if there is one.
    fn chain(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut paths = vec![vec![self.ids[from].clone()]];
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop() {
            let last = path.last().expect("a path is never empty");
            if self.names[last] == to {
                return Some(path.iter().map(|id| self.names[id].clone()).collect());
            }
            for next in &self.resolved[last] {
                if seen.insert(next.clone()) {
                    paths.push(path.iter().chain([next]).cloned().collect());
                }
            }
        }
        None
    }

    /// Returns every declared dependency that the table does not allow.
    fn forbidden(&self, allowed: &BTreeMap<&str, &[&str]>) -> Vec<String> {
        let mut found = Vec::new();
        for (package, edges) in &self.declared {
            for (to, kind) in edges {
                let ours = self.members.contains(to);
                let listed = allowed.get(package.as_str()).is_some_and(|list| list.contains(&to.as_str()));
                // Tests may use the kit, and their own package with other features.
                let for_tests = *kind == Kind::Development && (to == "firn-testkit" || to == package);
                // The tests' own package is above everything.
                let on_top = *kind == Kind::Development && matches!(package.as_str(), "firn-tests" | "firn-testkit");
                if ours && !listed && !for_tests && !on_top {
                    found.push(format!("{package} -> {to} ({kind:?})"));
                }
                let rocks = to == "rocksdb" || to == "librocksdb-sys";
                if rocks && package != ROCKSDB_OWNER {
                    found.push(format!("{package} -> {to} ({kind:?})"));
                }
            }
        }
        found
    }
}

fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    ALLOWED.into_iter().collect()
}

#[test]
fn dependencies_point_down() {
    let forbidden = Graph::read().forbidden(&allowed());
    assert!(forbidden.is_empty(), "forbidden dependencies: {forbidden:#?}");
}

#[test]
fn every_crate_has_its_place() {
    let listed: BTreeSet<_> = allowed().into_keys().map(str::to_owned).collect();
    assert_eq!(Graph::read().members, listed, "the table in this test and the workspace's members differ");
}

#[test]
fn the_table_has_no_cycle() {
    // A crate may name only those that stand before it.
    for (at, (package, names)) in ALLOWED.iter().enumerate() {
        for name in *names {
            assert!(ALLOWED[..at].iter().any(|(before, _)| before == name), "{package} -> {name} points up");
        }
    }
}

#[test]
fn what_only_computes_is_free_of_tokio() {
    let graph = Graph::read();
    for package in WITHOUT_TOKIO {
        let chain = graph.chain(package, "tokio");
        assert_eq!(chain, None, "tokio is reachable from {package}");
    }
    // The same search does find it where it is.
    assert!(graph.chain("firn-server", "tokio").is_some());
}

#[test]
fn rocksdb_is_reachable_through_its_owner_only() {
    let graph = Graph::read();
    for package in &graph.members {
        let Some(chain) = graph.chain(package, "librocksdb-sys") else { continue };
        assert!(chain.iter().any(|name| name == ROCKSDB_OWNER), "{chain:?}");
    }
    assert!(graph.chain("firn-engine", "librocksdb-sys").is_none(), "the engine's tests would compile RocksDB");
    assert!(graph.chain(ROCKSDB_OWNER, "librocksdb-sys").is_some());
}

#[test]
fn a_forbidden_edge_would_be_found() {
    let package = |name: &str, dependencies: Value| serde_json::json!({ "id": name, "name": name, "source": null, "dependencies": dependencies });
    let edge = |name: &str, kind: Value| serde_json::json!({ "name": name, "kind": kind });
    let graph = Graph::parse(&serde_json::json!({
        "packages": [
            package("firn-nix", serde_json::json!([
                edge("firn-engine", Value::Null), edge("rocksdb", "dev".into()), edge("firn-testkit", "dev".into()),
            ])),
            package("firn-chunk", serde_json::json!([edge("firn-nix", Value::Null), edge("firn-engine", "dev".into())])),
            package("firn-engine", serde_json::json!([])),
            package("firn-testkit", serde_json::json!([])),
        ],
        "workspace_members": ["firn-nix", "firn-chunk", "firn-engine", "firn-testkit"],
        "resolve": { "nodes": [] },
    }));
    let expected = [
        "firn-chunk -> firn-engine (Development)",
        "firn-nix -> firn-engine (Normal)",
        "firn-nix -> rocksdb (Development)",
    ];
    assert_eq!(graph.forbidden(&allowed()), expected);
}

#[test]
fn files_are_short() {
    let mut long = Vec::new();
    for folder in ["crates", "benches", "tests", "fuzz"] {
        let path = workspace().join(folder);
        if path.exists() {
            visit(&path, &mut |file, lines| {
                if lines > MAX_LINES {
                    long.push(format!("{} has {lines} lines", file.display()));
                }
            });
        }
    }
    assert!(long.is_empty(), "split by noun, at most {MAX_LINES} lines: {long:#?}");
}

/// Calls `on` with each Rust source file under a folder and its number of lines.
fn visit(folder: &Path, on: &mut dyn FnMut(&Path, usize)) {
    for entry in fs::read_dir(folder).expect("a folder of the workspace") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                visit(&path, on);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            on(&path, fs::read_to_string(&path).expect("a source file is UTF-8").lines().count());
        }
    }
}
