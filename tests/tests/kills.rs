//! A server that is killed at named calls of its storage and at random moments, while stock Nix and others upload, paths are
//! deleted, garbage is collected and packs are squeezed: what was acknowledged is there afterwards, byte for byte, what was
//! deleted is not, and nothing is half there.
//!
//! `FIRN_SOAK=N` makes N times as many kills.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd, binary};
use firn_testkit::http::Request;
use firn_testkit::nix::{Nix, Store, Version};
use firn_testkit::random::Random;
use firn_tests::{Package, builder, client, is_taken};

/// Kills in `make test`.
const KILLS: u64 = 12;

/// Calls of the storage at which the process ends, and how often they come in a round, about.
const CALLS: [(&str, usize); 6] =
    [("append", 60), ("sync", 16), ("create", 4), ("delete", 2), ("read", 40), ("resume", 1)];

/// How long a sign of life is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Uploads in a round after which the process is killed at the latest.
const UPLOADS: usize = 60;

fn kills() -> u64 {
    KILLS * std::env::var("FIRN_SOAK").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1)
}

/// The same package for the same seed, of some length; many have parts in common.
fn package_of(seed: u64) -> Package {
    Package::new(seed, 10_000 + (seed as usize * 7919) % 300_000)
}

/// Uploads packages of consecutive seeds until the server is gone; tells of each that was acknowledged.
fn upload(address: SocketAddr, cache: &Cache, first_seed: u64, stop: &AtomicBool, told: &Sender<u64>) {
    for seed in first_seed..first_seed + 1000 {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let package = package_of(seed);
        let requests = [
            Request::put(&package.nar_target(&cache.name), package.nar.clone()),
            Request::put(&package.narinfo_target(&cache.name), package.narinfo()),
        ];
        let mut answers = requests.into_iter().map(|request| request.token(&cache.token).send(address));
        if answers.all(|answer| answer.is_ok_and(|answer| is_taken(&answer))) {
            let _ = told.send(seed);
        } else if Request::get("/readyz").send(address).is_err() {
            return;
        }
    }
}

/// Builds a path and copies it with Nix; returns it if Nix says that it was uploaded.
fn copy(machine: &Store, cache: &Cache, round: u64) -> Result<Option<String>> {
    let script = format!("mkdir $out; seq {round} 4000 > $out/numbers; head -c 90000 /usr/bin/env > $out/program");
    let path = machine.build_one(&format!(r#"build {{ name = "n-{round}"; script = "{script}"; }}"#))?;
    Ok(machine.copy_to(&cache.url, &[&path])?.ok().is_ok().then_some(path))
}

/// Deletes a package, collects garbage and squeezes, again and again. Returns whether the package is gone, if that is known.
fn administer(data: &Path, cache: &str, victim: Option<&Package>, level: u64, stop: &AtomicBool) -> Option<bool> {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary().expect("it was started"));
        command.args(arguments).arg("--data").arg(data).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let mut is_gone = None;
    if let Some(victim) = victim {
        let path = format!("/nix/store/{}", victim.base_name);
        if run(&["path", "delete", &path, "--cache", cache]) {
            is_gone = Some(true);
        }
    }
    while !stop.load(Ordering::SeqCst) {
        run(&["squeeze", "--min-age", "0 s", "--level", &level.to_string(), "--no-wait"]);
        run(&["gc"]);
    }
    is_gone
}

/// Waits until so many uploads were acknowledged, or nobody uploads any more.
fn wait_for(uploads: usize, told: &Receiver<u64>, acknowledged: &mut Vec<u64>) {
    while acknowledged.len() < uploads {
        match told.recv_timeout(PATIENCE) {
            Ok(seed) => acknowledged.push(seed),
            Err(_) => return,
        }
    }
}

/// What a store must hold.
#[derive(Default)]
struct Held {
    packages: BTreeMap<u64, Package>,
    nix: Vec<String>,
}

impl Held {
    /// Checks what is said of packages, and that what is there is whole.
    fn check(&self, firnd: &Firnd, seeds: impl IntoIterator<Item = u64>) -> Result<()> {
        for package in seeds.into_iter().filter_map(|seed| self.packages.get(&seed)) {
            let answer = firnd.send(&Request::get(&package.narinfo_target("main")))?;
            assert_eq!(answer.status, 200, "{} was acknowledged and is gone", package.base_name);
            check_nar(firnd, package)?;
        }
        for path in &self.nix {
            let hash = path.trim_start_matches("/nix/store/").split('-').next().unwrap_or_default();
            let answer = firnd.send(&Request::get(&format!("/main/{hash}.narinfo")))?;
            assert_eq!(answer.status, 200, "{path} was acknowledged and is gone");
        }
        Ok(())
    }
}

fn check_nar(firnd: &Firnd, package: &Package) -> Result<()> {
    let nar = firnd.send(&Request::get(&package.nar_target("main")))?;
    assert!(nar.status == 200 && nar.whole && nar.body == package.nar, "{} is not whole", package.base_name);
    Ok(())
}

/// Loads the server until it is killed; returns what was acknowledged, and whether the victim is known to be gone.
fn round(
    firnd: &mut Firnd,
    cache: &Cache,
    machine: Option<&Store>,
    number: u64,
    victim: Option<&Package>,
    uploads: usize,
) -> Result<(Vec<u64>, Option<String>, Option<bool>)> {
    let (address, data) = (firnd.address(), firnd.data());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = &stop;
        let (tell, told) = channel();
        for worker in 0..2 {
            let tell = tell.clone();
            let first = number * 10_000 + worker * 5000;
            scope.spawn(move || upload(address, cache, first, stop, &tell));
        }
        drop(tell);
        let copying = machine.map(|machine| scope.spawn(move || copy(machine, cache, number)));
        let data = data.as_path();
        let administering = scope.spawn(move || administer(data, &cache.name, victim, 1 + number % 9, stop));
        let mut acknowledged = Vec::new();
        wait_for(uploads, &told, &mut acknowledged);
        let killed = firnd.kill();
        stop.store(true, Ordering::SeqCst);
        let copied = copying.map_or(Ok(None), |copying| copying.join().expect("the thread does not panic"));
        let gone = administering.join().expect("the thread does not panic");
        acknowledged.extend(told.iter());
        killed?;
        Ok((acknowledged, copied?, gone))
    })
}

#[test]
fn what_was_acknowledged_survives_kills_at_every_call_and_moment() -> Result<()> {
    let mut firnd = Firnd::start_with("[store]\npack-size = \"1 MiB\"\n[gc]\ngrace = \"0 s\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let nix = Nix::require(Version::V2_26);
    let machine = nix.as_ref().map(|nix| builder(nix, &cache)).transpose()?;
    let (mut held, mut random, mut met) = (Held::default(), Random::new(7), 0);
    for number in 0..kills() {
        // Every second kill is at a named call, the others somewhere in what the server does.
        let mut uploads = 1 + random.below(30);
        if number % 2 == 0 {
            firnd.kill()?;
            let (call, often) = CALLS[(number / 2) as usize % CALLS.len()];
            let after = if random.below(2) == 0 { ":after" } else { "" };
            if !firnd.launch_until(&format!("{call}:{}{after}", random.below(often)))? {
                firnd.launch()?;
            }
            uploads = UPLOADS;
        }
        let victim = held.packages.iter().nth(random.below(held.packages.len().max(1))).map(|(seed, _)| *seed);
        let victim_package = victim.and_then(|seed| held.packages.remove(&seed));
        let (acknowledged, copied, gone) =
            round(&mut firnd, &cache, machine.as_ref(), number, victim_package.as_ref(), uploads)?;
        met += usize::from(acknowledged.len() < uploads);
        held.packages.extend(acknowledged.iter().map(|seed| (*seed, package_of(*seed))));
        held.nix.extend(copied);
        firnd.launch()?;
        held.check(&firnd, acknowledged)?;
        if let Some(package) = victim_package {
            let is_there = package.is_visible(&firnd, &cache)?;
            assert!(!(is_there && gone == Some(true)), "{} was deleted and is there", package.base_name);
            if is_there {
                check_nar(&firnd, &package)?;
            }
        }
    }
    assert!(met > 0, "no kill came by itself");
    held.check(&firnd, held.packages.keys().copied().collect::<Vec<_>>())?;
    if let (Some(nix), Some(machine)) = (&nix, &machine) {
        assert!(!held.nix.is_empty(), "Nix never got through");
        let client = client(nix, &cache)?;
        for path in &held.nix {
            client.realise(&[path])?.done()?;
            firn_tests::assert_same(machine, &client, path)?;
        }
    }
    // Nothing is damaged, and what is needed by nobody goes.
    let scrubbed = firnd.json(&["scrub", "--rate", "1 GiB"]);
    assert!(scrubbed.is_ok(), "{scrubbed:?}");
    firnd.admin(["gc"])?;
    held.check(&firnd, held.packages.keys().copied().collect::<Vec<_>>())
}
