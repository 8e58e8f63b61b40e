//! Caches that are each other's upstreams: each answers the other from what it holds, and nobody waits for himself.

use std::sync::atomic::Ordering;

use firn_index::{Meta as _, UpstreamMode, UpstreamRow, UpstreamsRow};
use firn_nix::SecretKey;
use firn_testkit::http::Request;

use crate::support::{Package, Settings, World};

fn worlds<const N: usize>() -> [World; N] {
    std::array::from_fn(|at| World::with(Settings { seed: 1 << (32 + at), ..Settings::default() }))
}

/// Makes these, by server and cache, the upstreams of a cache.
fn link(from: (&World, &str), to: &[(&World, &str)]) {
    let key = SecretKey::generate("test-1", [5; 32]).unwrap().public().to_string();
    let upstream = |&(world, cache): &(&World, &str)| UpstreamRow {
        url: format!("http://{}/{cache}", world.address),
        mode: UpstreamMode::Proxy,
        keys: vec![key.clone()],
        priority: 40,
        connect_timeout_ms: 5_000,
        first_byte_timeout_ms: 30_000,
        idle_timeout_ms: 30_000,
        token_file: None,
        added_at: 1,
    };
    let upstreams = to.iter().map(upstream).collect();
    assert!(from.0.meta.put_upstreams(&from.1.parse().unwrap(), &UpstreamsRow { upstreams }).unwrap());
    from.0.app.caches.refresh(from.0.meta.as_ref()).unwrap();
}

/// What a cache's first upstream was asked: how often it had the path, had not, and did not answer.
fn asked(world: &World, cache: &str) -> [u64; 3] {
    let cache = world.app.caches.get(&cache.parse().unwrap()).unwrap();
    let counters = &cache.proxies[0].counters;
    [&counters.hits, &counters.misses, &counters.failures].map(|counter| counter.load(Ordering::Relaxed))
}

fn narinfo(world: &World, cache: &str, package: &Package) -> u16 {
    world.send(Request::get(&format!("/{cache}/{}.narinfo", package.hash()))).status
}

fn is_fetched(world: &World, cache: &str, package: &Package) -> bool {
    let target = format!("/{cache}/nar/{}.nar?path={}", package.nar_hash().to_nix32(), package.hash());
    let answer = world.send(Request::get(&target));
    answer.status == 200 && answer.whole && answer.body == package.nar
}

#[test]
fn two_servers_that_are_each_others_upstream_help_each_other() {
    let [a, b] = worlds();
    link((&a, "pub"), &[(&b, "pub")]);
    link((&b, "pub"), &[(&a, "pub")]);
    let absent = Package::new(1, 1000);
    assert_eq!(narinfo(&a, "pub", &absent), 404);
    assert_eq!((asked(&a, "pub"), asked(&b, "pub")), ([0, 1, 0], [0, 1, 0]));
    // What B found while A asked is not the whole truth; what it finds on its own is.
    assert_eq!([narinfo(&b, "pub", &absent), narinfo(&b, "pub", &absent), narinfo(&a, "pub", &absent)], [404; 3]);
    assert_eq!((asked(&a, "pub"), asked(&b, "pub")), ([0, 1, 0], [0, 2, 0]));
    let [one, other] = [2, 3].map(|seed| Package::new(seed, 500_000));
    b.put_path("pub", &one);
    a.put_path("pub", &other);
    for (world, package) in [(&a, &one), (&b, &other)] {
        assert_eq!(narinfo(world, "pub", package), 200);
        assert!(is_fetched(world, "pub", package));
    }
    // Both are asked at the same time for what neither has.
    for seed in 10..20 {
        let absent = Package::new(seed, 1000);
        std::thread::scope(|scope| {
            for world in [&a, &b] {
                let absent = &absent;
                scope.spawn(move || assert_eq!(narinfo(world, "pub", absent), 404));
            }
        });
    }
    assert_eq!([asked(&a, "pub")[2], asked(&b, "pub")[2]], [0, 0]);
}

#[test]
fn caches_of_one_server_may_ask_each_other_and_themselves() {
    let [world] = worlds();
    world.set_cache("other", |_| {});
    link((&world, "pub"), &[(&world, "other")]);
    link((&world, "other"), &[(&world, "other"), (&world, "pub")]);
    let (absent, package) = (Package::new(1, 1000), Package::new(2, 300_000));
    assert_eq!([narinfo(&world, "pub", &absent), narinfo(&world, "other", &absent)], [404, 404]);
    world.put_path("pub", &package);
    assert_eq!(narinfo(&world, "other", &package), 200);
    assert!(is_fetched(&world, "other", &package));
    assert_eq!([asked(&world, "pub")[2], asked(&world, "other")[2]], [0, 0]);
}

#[test]
fn a_chain_of_servers_is_asked_to_its_end_and_no_further_than_its_limit() {
    let chain = worlds::<10>();
    for pair in chain.windows(2) {
        link((&pair[0], "pub"), &[(&pair[1], "pub")]);
    }
    // Eight marks are followed: the last one asks nobody any more.
    let [near, far] = [1, 2].map(|seed| Package::new(seed, 300_000));
    chain[8].put_path("pub", &near);
    chain[9].put_path("pub", &far);
    assert_eq!([narinfo(&chain[0], "pub", &near), narinfo(&chain[0], "pub", &far)], [200, 404]);
    assert!(is_fetched(&chain[0], "pub", &near));
    assert_eq!(narinfo(&chain[1], "pub", &far), 200);
    // Nobody on the way took the end of the way for the end of the world.
    assert_eq!(narinfo(&chain[7], "pub", &far), 200);
}

#[test]
fn a_mark_that_cannot_be_read_ends_the_way() {
    let [a, b] = worlds();
    link((&a, "pub"), &[(&b, "pub")]);
    let package = Package::new(1, 1000);
    b.put_path("pub", &package);
    let narinfo = format!("/pub/{}.narinfo", package.hash());
    for bad in
        ["", "x", "00", "0123456789abcdefg", "0123456789abcdef,,0123456789abcdef", &"0123456789abcdef,".repeat(9)]
    {
        assert_eq!(a.send(Request::get(&narinfo).header("Firn-Via", bad)).status, 404, "{bad}");
    }
    assert_eq!(asked(&a, "pub"), [0, 0, 0]);
    let two = Request::get(&narinfo).header("Firn-Via", "0123456789abcdef").header("Firn-Via", "fedcba9876543210");
    assert_eq!(a.send(two).status, 200, "others may be on the way");
}
