//! Three builders that build overlapping things, with agents and a server that are killed in the middle of pushes, and with
//! garbage collections: in the end everything is in the cache.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::process::{Child, Stdio};

use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::nix::{Daemon, Nix};
use firn_testkit::proxy::{Fault, Proxy};
use firn_tests::builder::{Builder, PATIENCE, Result};
use firn_tests::{client, closure};

/// Everything that was ever built, with its NAR as it was on its builder.
type Built = BTreeMap<String, Vec<u8>>;

/// Starts builds on every builder at once: one that all of them make, one of its own.
fn start_builds(builders: &[Builder], seed: u64) -> Result<Vec<Child>> {
    let mut builds = Vec::new();
    for (number, builder) in (1..).zip(builders) {
        for seed in [seed, seed + number] {
            let derivation = builder.store.instantiate(&closure(seed))?.concat();
            let mut command = builder.store.command("nix-store");
            command.args(["--realise", &derivation]).stdout(Stdio::piped()).stderr(Stdio::piped());
            builds.push(command.spawn()?);
        }
    }
    Ok(builds)
}

/// Waits for the builds and writes down what they made. Nothing may be collected meanwhile.
fn finish_builds(builders: &[Builder], builds: Vec<Child>, built: &mut Built) -> Result<()> {
    let each = builds.len() / builders.len();
    // All are waited for before any is judged: none outlives its builder.
    let ended: Vec<_> = builds.into_iter().map(Child::wait_with_output).collect();
    for (number, output) in ended.into_iter().enumerate() {
        let output = output?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let store = &builders[number / each].store;
        for path in store.closure(String::from_utf8(output.stdout)?.trim())? {
            if let Entry::Vacant(new) = built.entry(path) {
                let nar = store.dump(new.key())?;
                new.insert(nar);
            }
        }
    }
    Ok(())
}

/// Substitutes everything on another machine and compares it with what was built.
fn assert_all_cached(nix: &Nix, cache: &Cache, built: &Built) -> Result<()> {
    let paths: Vec<&String> = built.keys().collect();
    let client = client(nix, cache)?;
    client.realise(&paths)?.done()?;
    for (path, nar) in built {
        assert!(client.dump(path)? == *nar, "{path} is another one in the cache");
    }
    Ok(())
}

/// Where requests stand still: behind all questions about a build, within its frames.
const MIDDLE: Fault = Fault::HoldRequests { after: 20_000 };

/// Waits until every agent is in the middle of sending frames.
fn until_in_the_middle(builders: &[Builder], proxies: &[Proxy]) -> Result<()> {
    for (builder, proxy) in builders.iter().zip(proxies) {
        assert!(proxy.wait_for_hold(PATIENCE), "nothing is sent: {}", builder.log());
        let status = builder.status()?;
        assert!(status["in_flight"].as_u64() >= Some(1), "{status:#}");
    }
    Ok(())
}

/// Runs Nix's garbage collector on each builder, once so many paths wait there and all are pinned.
fn collect_garbage(builders: &[Builder], waiting: u64) -> Result<()> {
    for builder in builders {
        builder.until(|status| status["waiting"] == waiting && status["pinned"] == waiting)?;
        builder.store.check("nix-collect-garbage", [] as [&str; 0])?.done()?;
    }
    Ok(())
}

#[test]
fn everything_that_three_builders_built_is_in_the_cache() -> Result<()> {
    let nix = Nix::require_all();
    let Some(any) = nix.first() else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builders = nix.iter().map(|nix| Builder::new(nix, &cache)).collect::<Result<Vec<_>>>()?;
    let _daemons =
        builders.iter().map(|builder| builder.store.daemon()).collect::<firn_testkit::Result<Vec<Daemon>>>()?;
    let proxies =
        builders.iter().map(|_| Proxy::start(firnd.address())).collect::<firn_testkit::Result<Vec<Proxy>>>()?;
    for (builder, proxy) in builders.iter_mut().zip(&proxies) {
        builder.url = format!("http://{}/main", proxy.address());
    }
    let all = |fault: Fault| proxies.iter().for_each(|proxy| proxy.set_fault(fault));
    let mut built = Built::new();

    // The agents start while things are built, and die in the middle of sending them. Collections in between take nothing.
    all(MIDDLE);
    let builds = start_builds(&builders, 10)?;
    for builder in &mut builders {
        builder.start()?;
    }
    finish_builds(&builders, builds, &mut built)?;
    until_in_the_middle(&builders, &proxies)?;
    collect_garbage(&builders, 6)?;
    for builder in &mut builders {
        builder.kill()?;
    }

    // They begin again, and this time the server dies in the middle, and is away while more is built and garbage collected.
    // What the dead had sent may not come to it now: nothing would be left to be in the middle of.
    proxies.iter().for_each(Proxy::end_held);
    all(MIDDLE);
    for builder in &mut builders {
        builder.start()?;
    }
    until_in_the_middle(&builders, &proxies)?;
    firnd.kill()?;
    all(Fault::None);
    let builds = start_builds(&builders, 20)?;
    finish_builds(&builders, builds, &mut built)?;
    collect_garbage(&builders, 12)?;

    // Everything comes back; then, in the middle of sending more, both ends die at once.
    firnd.launch()?;
    for builder in &builders {
        builder.flush()?;
    }
    all(MIDDLE);
    // What is open goes on as it was: only new connections are held.
    for builder in &mut builders {
        builder.kill()?;
    }
    let builds = start_builds(&builders, 30)?;
    for builder in &mut builders {
        builder.start()?;
    }
    finish_builds(&builders, builds, &mut built)?;
    until_in_the_middle(&builders, &proxies)?;
    for builder in &mut builders {
        builder.kill()?;
    }
    firnd.kill()?;
    all(Fault::None);
    firnd.launch()?;
    for builder in &mut builders {
        builder.start()?;
    }
    for builder in &builders {
        builder.flush()?;
        let status = builder.status()?;
        assert_eq!((&status["dead"], &status["lost"]), (&0.into(), &serde_json::json!([])), "{status:#}");
    }
    assert_eq!(built.len(), 3 * 3 * (nix.len() + 1));
    assert_all_cached(any, &cache, &built)
}
