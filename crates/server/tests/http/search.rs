//! A search by name finds first what is called so, tells when there was no time for all, and claims no more than it knows.

use std::cell::Cell;

use firn_api::usage::Found;
use firn_index::CacheName;
use firn_server::usage::{Packages, search, view};
use firn_testkit::http::Request;
use firn_testkit::nar::Node;

use crate::support::{Package, World, hash_of};

fn put(world: &World, cache: &str, seed: u64, name: &str) {
    let path = format!("{}-{name}", hash_of(seed)).parse().unwrap();
    let nar = Node::file(name).encode();
    world.put_path(cache, &Package { path, nar, references: vec![], extra: String::new() });
    world.pass(60);
}

fn filled() -> World {
    let world = World::new();
    for (seed, name) in (1..).zip(["hello-2.10", "othello-1.0", "hello-2.12", "Hello-wrapper-3", "other-2.12"]) {
        put(&world, "pub", seed, name);
    }
    world
}

fn packages(world: &World, most: usize) -> Packages {
    Packages::of(&world.app.engine.mark(&|| false).unwrap().unwrap(), most)
}

/// Searches the public cache with time for so many looks.
fn find(world: &World, packages: Option<&Packages>, text: &str, most: usize, looks: u32) -> Found {
    let left = Cell::new(looks);
    let has_time = || {
        let has_some = left.get() > 0;
        left.set(left.get().saturating_sub(1));
        has_some
    };
    let caches: [CacheName; 1] = ["pub".parse().unwrap()];
    search::search(world.meta.as_ref(), packages, &caches, text, most, &|_| has_time()).unwrap()
}

fn names(found: &Found) -> Vec<&str> {
    found.paths.iter().map(|path| &path.path[33..]).collect()
}

#[test]
fn what_is_called_just_so_comes_first() {
    let world = filled();
    let all = packages(&world, 100);
    for known in [None, Some(&all)] {
        let of = |text: &str| find(&world, known, text, 100, 100);
        let found = of("HELLO");
        assert_eq!(names(&found), ["hello-2.12", "hello-2.10", "Hello-wrapper-3", "othello-1.0"]);
        assert_eq!((found.is_partial, found.counted_at), (false, None));
        assert_eq!(names(&of(" /nix/store/hello-2.1 ")), ["hello-2.12", "hello-2.10"]);
        assert_eq!(names(&of("llo-1")), ["othello-1.0"]);
        assert_eq!(names(&of("2.12")), ["other-2.12", "hello-2.12"]);
        assert_eq!(names(&of("-wrap")), ["Hello-wrapper-3"]);
        assert_eq!(names(&of(&format!("{}-x", hash_of(2)))), ["othello-1.0"]);
        assert!(of("nothing").paths.is_empty() && of(" ").paths.is_empty());
    }
}

#[test]
fn without_time_for_all_paths_packages_are_found_still() {
    let world = filled();
    let all = packages(&world, 100);
    let counted_at = Some(world.now());
    put(&world, "pub", 10, "hello-3.0");
    put(&world, "priv", 11, "hello-4.0");
    let none = find(&world, None, "hello", 100, 0);
    assert_eq!((names(&none).len(), none.is_partial, none.counted_at), (0, true, None));
    // Four paths of three packages.
    let found = find(&world, Some(&all), "hello", 100, 4);
    assert_eq!(names(&found), ["hello-2.12", "hello-2.10", "Hello-wrapper-3", "othello-1.0"]);
    assert_eq!((found.is_partial, found.counted_at), (true, counted_at));
    let version = find(&world, Some(&all), "hello-2.1", 100, 3);
    assert_eq!((names(&version), version.counted_at), (vec!["hello-2.12", "hello-2.10"], counted_at));
    // No time even for these.
    let some = find(&world, Some(&all), "hello", 100, 2);
    assert_eq!((names(&some), some.is_partial, some.counted_at), (vec!["hello-2.12", "hello-2.10"], true, None));
    // With time, what came since is found too.
    let whole = find(&world, Some(&all), "hello", 100, 6);
    assert_eq!((names(&whole)[0], names(&whole).len(), whole.is_partial), ("hello-3.0", 5, false));
}

#[test]
fn a_search_hurries_only_if_a_package_was_found() {
    let world = filled();
    let all = packages(&world, 100);
    let caches: [CacheName; 1] = ["pub".parse().unwrap()];
    // Out of time as soon as a package was found.
    let hurried =
        |known, text| search::search(world.meta.as_ref(), known, &caches, text, 100, &|found| !found).unwrap();
    assert!(hurried(Some(&all), "hello").is_partial);
    assert_eq!((names(&hurried(None, "hello")).len(), hurried(None, "hello").is_partial), (4, false));
    assert!(!hurried(Some(&all), "nothing").is_partial);
}

#[test]
fn what_is_left_out_is_told() {
    let world = filled();
    // The newest two: other and Hello-wrapper.
    let few = packages(&world, 2);
    let found = find(&world, Some(&few), "hello", 100, 1);
    assert_eq!((names(&found), found.is_partial, found.counted_at), (vec!["Hello-wrapper-3"], true, None));
    let all = packages(&world, 100);
    for known in [None, Some(&all)] {
        let found = find(&world, known, "hello", 1, 100);
        assert_eq!((names(&found), found.is_partial, found.counted_at), (vec!["hello-2.12"], true, None));
    }
    let request = Request::get("/api/v1/usage/search?q=hello").token(&world.token);
    let told: Found = serde_json::from_slice(&world.send(request).body).unwrap();
    assert_eq!((told.paths.len(), told.is_partial), (4, false));
}

#[test]
fn referrers_are_looked_for_as_long_as_there_is_time() {
    let world = World::new();
    let target = Package::of(1000, &Node::file("target"));
    world.put_path("pub", &target);
    for seed in 0..260 {
        let nar = Node::file(format!("/nix/store/{} {seed}", target.path)).encode();
        let path = format!("{}-referrer", hash_of(seed)).parse().unwrap();
        world.put_path("pub", &Package { path, nar, references: vec![target.path.clone()], extra: String::new() });
    }
    let of = |most: usize, has_time: bool| {
        let cache = "pub".parse().unwrap();
        let found = view::referrers(world.meta.as_ref(), &cache, &target.path.hash(), most, &|| has_time).unwrap();
        (found.0.len(), found.1)
    };
    assert_eq!((of(500, true), of(260, true), of(259, true)), ((260, true), (260, true), (259, false)));
    let (some, is_whole) = of(500, false);
    assert!((249..=250).contains(&some) && !is_whole, "of the first 250 rows: {some}");
}
