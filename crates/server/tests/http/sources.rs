//! Pulling from HTTP caches: another server like this one, and plain ones with a list.

use std::fs;
use std::sync::Arc;

use firn_engine::Entropy;
use firn_index::{
    CacheName, Commit, Meta as _, Op, PathRow, SourceFilter, SourceName, SourceRow, SourceStateRow, SourceTrust,
    Sources as _, Uploader, Verb,
};
use firn_nix::{NarInfo, SecretKey, StoreHash, StorePath};
use firn_server::http::codec::Codec;
use firn_server::sources::run::Run;
use firn_server::sources::{Context, SyncError, sync};
use firn_testkit::file_server::{FileServer, Trouble};
use firn_testkit::http::Request;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{Package, World, encode};

struct NoTokens;

impl Entropy for NoTokens {
    fn draw(&self) -> u128 {
        panic!("HTTP sources need no tokens of ours")
    }
}

fn name(text: &str) -> SourceName {
    text.parse().unwrap()
}

/// Makes a source of the public cache.
fn add(world: &World, url: &str, change: impl FnOnce(&mut SourceRow)) {
    let mut row = SourceRow {
        url: url.to_owned(),
        cache: "pub".parse().unwrap(),
        builder: "far".to_owned(),
        trust: SourceTrust::Builder,
        filter: SourceFilter {
            skip_upstream: true,
            include: vec![],
            exclude: vec![],
            max_nar_bytes: None,
            derivations: false,
            sources: false,
        },
        every_seconds: 0,
        parallel: 2,
        bytes_per_second: None,
        ssh_key: None,
        host_key: None,
        use_firn: true,
        new_only: false,
        paused: false,
        created_at: 1,
    };
    change(&mut row);
    world.meta.put_source(&name("far"), &row).unwrap();
}

/// Syncs once, by a process that knows only what the index does.
fn pull(world: &World) -> Result<SourceStateRow, SyncError> {
    let folder = tempfile::tempdir().unwrap();
    let now = || world.now();
    let context = Context {
        engine: &world.app.engine,
        app: Some(&world.app),
        folder: folder.path().to_owned(),
        base_url: None,
        entropy: &NoTokens,
        now: &now,
    };
    sync(&context, &name("far"), &Arc::new(Run::default()), false)
}

/// Syncs once and returns paths that were listed, came, and were there.
#[track_caller]
fn pulled(world: &World) -> (u64, u64, u64) {
    let state = pull(world).unwrap();
    assert_eq!(state.error, None);
    (state.last.listed, state.last.paths, state.last.present)
}

#[track_caller]
fn assert_held(world: &World, package: &Package) {
    let text = world.get(&format!("/pub/{}.narinfo", package.hash()));
    assert_eq!(text.status, 200, "{}", package.path);
    let info = NarInfo::parse(&text.body, "/nix/store").unwrap();
    let nar = world.get(&format!("/pub/nar/{}.nar", info.nar_hash.to_nix32()));
    assert!(nar.whole && nar.body == package.nar, "{}", package.path);
}

fn url(world: &World, cache: &str) -> String {
    format!("http://{}/{cache}", world.address)
}

/// A plain cache: a folder behind a server, with a list.
struct Plain {
    folder: TempDir,
    server: FileServer,
}

impl Plain {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("nar")).unwrap();
        fs::write(folder.path().join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        let server = FileServer::start(folder.path()).unwrap();
        Self { folder, server }
    }

    fn provide(&self, package: &Package, key: Option<&SecretKey>) {
        let file = encode(Codec::Xz, &package.nar);
        self.write(&format!("nar/{}.nar.xz", package.hash()), &file);
        let text = package.narinfo(&format!("{}.nar.xz", package.hash()), "xz");
        let mut info = NarInfo::parse(text.as_bytes(), "/nix/store").unwrap();
        if let Some(key) = key {
            info.sign(key, "/nix/store");
        }
        self.write(&format!("{}.narinfo", package.hash()), info.to_text("/nix/store").as_bytes());
    }

    fn list(&self, packages: &[&Package]) {
        let text: String = packages.iter().map(|package| format!("/nix/store/{}\n", package.path)).collect();
        self.write("store-paths.xz", &encode(Codec::Xz, text.as_bytes()));
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.folder.path().join(name), bytes).unwrap();
    }

    fn url(&self) -> String {
        format!("{}?list=store-paths.xz", self.server.url())
    }
}

#[test]
fn what_comes_to_another_firn_comes_here_and_only_once() {
    let (far, near) = (World::new(), World::new());
    let (first, second) = (Package::new(1, 200_000), Package::new(2, 70_000));
    far.put_path("pub", &first);
    add(&near, &url(&far, "pub"), |_| {});
    assert_eq!(pulled(&near), (1, 1, 0));
    assert_held(&near, &first);
    // What is young is told again, and known.
    far.put_path("pub", &second);
    assert_eq!(pulled(&near), (2, 1, 1));
    assert_held(&near, &second);
    far.pass(600);
    assert_eq!(pulled(&near), (2, 0, 2));
    let state = pull(&near).unwrap();
    assert_eq!((state.last.listed, state.last.nar_bytes, state.total.paths), (0, 0, 2));
    assert!((1..1000).contains(&state.last.metadata_bytes), "{}", state.last.metadata_bytes);
    let third = Package::new(3, 1000);
    far.put_path("pub", &third);
    assert_eq!(pulled(&near), (1, 1, 0));
    assert_held(&near, &third);
}

#[test]
fn a_path_that_was_deleted_there_and_came_again_comes_again() {
    let (far, near) = (World::new(), World::new());
    let package = Package::new(1, 5000);
    far.put_path("pub", &package);
    add(&near, &url(&far, "pub"), |_| {});
    assert_eq!(pulled(&near), (1, 1, 0));
    let delete = |world: &World| {
        let op = Op::DeletePath("pub".parse().unwrap(), package.path.hash());
        let commit = Commit { session: None, packs: vec![], ops: vec![op] };
        world.meta.commit(1, &[commit]).unwrap().into_iter().for_each(|done| done.unwrap());
    };
    delete(&far);
    delete(&near);
    far.pass(1000);
    assert_eq!(pulled(&near), (0, 0, 0));
    far.pass(1000);
    far.put_path("pub", &package);
    assert_eq!(pulled(&near), (1, 1, 0));
    assert_held(&near, &package);
}

#[test]
fn a_private_cache_wants_its_token_for_the_list_as_well() {
    let (far, near) = (World::new(), World::new());
    let package = Package::new(1, 5000);
    far.put_path("priv", &package);
    add(&near, &url(&far, "priv"), |_| {});
    let said = pull(&near).unwrap().error.expect("nobody may read that");
    assert!(said.contains("token"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let with = |verbs: &[Verb], id| {
        fs::write(&file, far.make_token(id, "priv", verbs, |_| {})).unwrap();
        let url = format!("{}?token-file={}", url(&far, "priv"), file.display());
        add(&near, &url, |_| {});
        pull(&near).unwrap()
    };
    // Who may only push is told of nothing.
    assert!(with(&[Verb::Push], 50).error.is_some());
    let state = with(&[Verb::Pull], 51);
    assert_eq!((state.error, state.last.paths), (None, 1));
    assert_held(&near, &package);
}

#[test]
fn only_what_a_known_key_signed_is_believed_of_one_who_is_not_trusted() {
    let (far, near) = (World::new(), World::new());
    far.put_path("pub", &Package::new(1, 5000));
    let stranger = SecretKey::generate("stranger-1", [9; 32]).unwrap();
    let trust = |key: String| move |row: &mut SourceRow| row.trust = SourceTrust::Keys(vec![key]);
    add(&near, &url(&far, "pub"), trust(stranger.public().to_string()));
    let state = pull(&near).unwrap();
    assert_eq!((state.last.paths, state.last.refused, state.problems.len()), (0, 1, 1));
    assert!(state.problems[0].why.contains("stranger-1"), "{:?}", state.problems);
    // Its own key signs there.
    let own = SecretKey::generate("test-1", [5; 32]).unwrap();
    add(&near, &url(&far, "pub"), trust(own.public().to_string()));
    assert_eq!(pull(&near).unwrap().last.paths, 1);
}

#[test]
fn references_that_an_http_cache_lacks_are_upstreams() {
    let (plain, near) = (Plain::new(), World::new());
    let (base, mut top) = (Package::new(1, 1000), Package::new(2, 1000));
    let missing: StorePath = format!("{}-libc", crate::support::hash_of(77)).parse().unwrap();
    let tree = firn_testkit::nar::Node::package(
        2,
        100_000,
        &[base.path.to_absolute("/nix/store"), missing.to_absolute("/nix/store")],
    );
    (top.nar, top.references) = (tree.encode(), vec![base.path.clone(), missing]);
    plain.provide(&base, None);
    plain.provide(&top, None);
    plain.list(&[&top]);
    add(&near, &plain.url(), |_| {});
    // Its base is not on the list, and comes along.
    assert_eq!(pulled(&near), (1, 2, 0));
    assert_held(&near, &base);
    assert_held(&near, &top);
}

#[test]
fn of_a_plain_list_only_new_names_are_asked_for() {
    let (plain, near) = (Plain::new(), World::new());
    let packages: Vec<_> = (1..5).map(|seed| Package::new(seed, 20_000)).collect();
    for package in &packages {
        plain.provide(package, None);
    }
    let all: Vec<_> = packages.iter().collect();
    plain.list(&all[..3]);
    add(&near, &plain.url(), |_| {});
    assert_eq!(pulled(&near), (3, 3, 0));
    let asked = plain.server.requests(".narinfo");
    plain.list(&all);
    assert_eq!(pulled(&near), (1, 1, 0));
    assert_eq!(plain.server.requests(".narinfo"), asked + 1);
    for package in &all {
        assert_held(&near, package);
    }
    // A list that is none says nothing, and is not taken for an empty one.
    plain.write("store-paths.xz", &encode(Codec::Xz, b"<html>Sorry</html>\n"));
    let said = pull(&near).unwrap().error.expect("that is no list");
    assert!(said.contains("line 1"), "{said}");
    plain.write("store-paths.xz", &encode(Codec::Xz, b"/nix/store/x")[..20]);
    assert!(pull(&near).unwrap().error.is_some());
    fs::remove_file(plain.folder.path().join("store-paths.xz")).unwrap();
    assert!(pull(&near).unwrap().error.is_some());
    plain.list(&all);
    assert_eq!(pulled(&near), (0, 0, 0), "what was seen is still known");
}

#[test]
fn a_cache_that_lists_nothing_is_told_so() {
    let (plain, near) = (Plain::new(), World::new());
    add(&near, &plain.server.url(), |_| {});
    let said = pull(&near).unwrap().error.expect("it has no list");
    assert!(said.contains("?list="), "{said}");
}

#[test]
fn wrong_bytes_stay_out_and_the_others_come() {
    let (plain, near) = (Plain::new(), World::new());
    let packages: Vec<_> = (1..5).map(|seed| Package::new(seed, 20_000)).collect();
    for package in &packages {
        plain.provide(package, None);
    }
    plain.list(&packages.iter().collect::<Vec<_>>());
    let file = |n: usize| format!("nar/{}.nar.xz", packages[n].hash());
    plain.write(&file(0), &encode(Codec::Xz, &packages[1].nar));
    plain.write(&file(1), b"no xz at all");
    fs::remove_file(plain.folder.path().join(file(2))).unwrap();
    add(&near, &plain.url(), |_| {});
    let state = pull(&near).unwrap();
    assert_eq!((state.error, state.last.paths, state.last.refused, state.last.gone), (None, 1, 2, 1));
    assert_held(&near, &packages[3]);
    for package in &packages[..3] {
        assert_eq!(near.get(&format!("/pub/{}.narinfo", package.hash())).status, 404);
    }
    // Healed, they come with the next sync.
    for package in &packages[..2] {
        plain.provide(package, None);
    }
    assert_eq!(pull(&near).unwrap().last.paths, 2);
    for package in &packages[..2] {
        assert_held(&near, package);
    }
}

#[test]
fn a_server_that_goes_away_in_the_middle_ends_its_own_sync_and_the_next_one_goes_on() {
    let (plain, near) = (Plain::new(), World::new());
    let packages: Vec<_> = (1..7).map(|seed| Package::new(seed, 100_000)).collect();
    for package in &packages {
        plain.provide(package, None);
    }
    plain.list(&packages.iter().collect::<Vec<_>>());
    add(&near, &plain.url(), |row| row.parallel = 1);
    plain.server.set_trouble("nar/", Trouble::Cut(5000));
    let state = pull(&near).unwrap();
    assert!(state.error.is_some_and(|error| error.contains("lost")), "{:?}", state.problems);
    assert_eq!((state.failures, state.last.paths), (1, 0));
    assert!(state.retry_at.is_some(), "the circuit is open");
    plain.server.set_trouble(".narinfo", Trouble::Status(500));
    assert!(pull(&near).unwrap().error.is_some());
    plain.server.set_trouble("", Trouble::None);
    let state = pull(&near).unwrap();
    assert_eq!((state.error, state.failures, state.last.paths), (None, 0, 6));
    for package in &packages {
        assert_held(&near, package);
    }
}

#[test]
fn a_sync_that_waits_for_an_answer_is_stopped_at_once() {
    let (plain, near) = (Plain::new(), World::new());
    let package = Package::new(1, 400_000);
    plain.provide(&package, None);
    plain.list(&[&package]);
    add(&near, &plain.url(), |_| {});
    plain.server.set_trouble("nar/", Trouble::Hold(1000));
    let run = Arc::new(Run::default());
    let state = std::thread::scope(|scope| {
        let stopper = Arc::clone(&run);
        let server = &plain.server;
        scope.spawn(move || {
            while server.requests("nar/") == 0 {
                std::thread::yield_now();
            }
            stopper.stop();
        });
        let folder = tempfile::tempdir().unwrap();
        let now = || near.now();
        let context = Context {
            engine: &near.app.engine,
            app: None,
            folder: folder.path().to_owned(),
            base_url: None,
            entropy: &NoTokens,
            now: &now,
        };
        sync(&context, &name("far"), &run, false).unwrap()
    });
    // Nobody is to blame.
    assert_eq!((state.error, state.failures, state.last.paths), (None, 0, 0));
}

/// Writes rows of paths that nobody can read, every other one a second later.
fn fill(world: &World, count: u64) {
    let cache: CacheName = "pub".parse().unwrap();
    let row = |n: u64| {
        let hash = StoreHash([[0; 12].as_slice(), &n.to_be_bytes()].concat().try_into().unwrap());
        PathRow {
            path: StorePath::new(hash, "filler-of-a-cache").unwrap(),
            nar_hash: firn_nix::Sha256([1; 32]),
            nar_size: 1,
            references: vec![],
            deriver: None,
            ca: None,
            signatures: vec![],
            committed_at: 500 + n % 2,
            uploader: Uploader { token: None, builder: "b".to_owned() },
            conflicts: vec![],
        }
    };
    let ops = (0..count).map(row).map(|row| Op::Path(cache.clone(), row.path.hash(), row));
    let commit = Commit { session: None, packs: vec![], ops: ops.collect() };
    world.meta.commit(1, &[commit]).unwrap().into_iter().for_each(|done| done.unwrap());
}

#[test]
fn a_list_has_pages_and_begins_where_it_is_told() {
    let world = World::new();
    fill(&world, 25_000);
    let pages = |since: u64| {
        let (mut lens, mut last, mut after) = (Vec::new(), String::new(), String::new());
        loop {
            let target = format!("/api/v1/caches/pub/paths?since={since}{after}");
            let page: Value = serde_json::from_slice(&world.send(Request::get(&target)).body).unwrap();
            assert_eq!(page["until"], world.now() - 300);
            let paths = page["paths"].as_array().unwrap();
            lens.push(paths.len());
            for path in paths {
                assert!(path["committed_at"].as_u64().unwrap() >= since);
                let next = path["path"].as_str().unwrap().to_owned();
                assert!(last < next, "in order, and none twice");
                last = next;
            }
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return lens,
            }
        }
    };
    assert_eq!(pages(0), [10_000, 10_000, 5000]);
    assert_eq!(pages(501), [5000, 5000, 2500]);
    assert_eq!(pages(502), [0, 0, 0]);
}

#[test]
fn a_hundred_new_paths_among_a_hundred_thousand_are_a_small_list() {
    let (far, near) = (World::new(), World::new());
    fill(&far, 100_000);
    add(&near, &url(&far, "pub"), |row| row.filter.include = vec!["package-*".to_owned()]);
    let first = pull(&near).unwrap();
    assert_eq!((first.error, first.last.listed, first.last.filtered), (None, 100_000, 100_000));
    let packages: Vec<_> = (0..100).map(|seed| Package::new(seed, 20_000)).collect();
    for package in &packages {
        far.put_path("pub", package);
    }
    let state = pull(&near).unwrap();
    assert_eq!((state.last.listed, state.last.paths), (100, 100));
    let logical: u64 = packages.iter().map(|package| package.nar.len() as u64).sum();
    assert_eq!(state.last.nar_bytes, logical);
    println!("metadata: {} bytes for all, then {}", first.last.metadata_bytes, state.last.metadata_bytes);
    assert!(state.last.metadata_bytes < 200_000, "{}", state.last.metadata_bytes);
}
