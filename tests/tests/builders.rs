//! Three builders that build overlapping things, with agents that are killed, a garbage collection and a server that dies:
//! in the end everything is in the cache.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::process::{Child, Stdio};

use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::nix::{Daemon, Nix};
use firn_tests::builder::{Builder, Result};
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

#[test]
fn everything_that_three_builders_built_is_in_the_cache() -> Result<()> {
    let nix = Nix::require_all();
    let Some(any) = nix.first() else { return Ok(()) };
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut builders = nix.iter().map(|nix| Builder::new(nix, &cache)).collect::<Result<Vec<_>>>()?;
    let _daemons =
        builders.iter().map(|builder| builder.store.daemon()).collect::<firn_testkit::Result<Vec<Daemon>>>()?;
    let mut built = Built::new();

    // The agents start and die while things are built and pushed.
    let builds = start_builds(&builders, 10)?;
    for builder in &mut builders {
        builder.start()?;
        builder.kill()?;
    }
    finish_builds(&builders, builds, &mut built)?;

    // The server dies while the agents push, and is away while more is built.
    for builder in &mut builders {
        builder.start()?;
    }
    firnd.kill()?;
    let builds = start_builds(&builders, 20)?;
    finish_builds(&builders, builds, &mut built)?;
    // What waits is pinned, so that a collection takes none of it.
    for builder in &builders {
        builder.until(|status| status["activity"] == "unreachable")?;
        builder.until(|status| status["waiting"].as_u64() >= Some(6) && status["pinned"] == status["waiting"])?;
        builder.store.check("nix-collect-garbage", [] as [&str; 0])?.done()?;
    }

    // Server and agents come back, and all die once more in the midst of it.
    firnd.launch()?;
    let builds = start_builds(&builders, 30)?;
    for builder in &mut builders {
        builder.kill()?;
    }
    finish_builds(&builders, builds, &mut built)?;
    firnd.kill()?;
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
