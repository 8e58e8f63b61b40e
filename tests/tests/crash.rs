//! A server that is killed at any moment, and bytes that change on the disk: everything acknowledged is there afterwards or
//! is said to be gone, nothing is half-visible, and no answer is ever whole and wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::Request;
use firn_testkit::random::Random;
use firn_tests::{Package, is_taken};

/// Uploads packages of consecutive seeds until the server is gone; returns their seeds, and whether each was acknowledged.
fn upload_until_killed(
    address: std::net::SocketAddr,
    cache: &Cache,
    first_seed: u64,
    stop: &AtomicBool,
) -> Vec<(u64, bool)> {
    let mut uploads = Vec::new();
    for seed in first_seed..first_seed + 10_000 {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let package = package_of(seed);
        let requests = [
            Request::put(&package.nar_target(&cache.name), package.nar.clone()),
            Request::put(&package.narinfo_target(&cache.name), package.narinfo()),
        ];
        let taken =
            requests.into_iter().all(|request| request.token(&cache.token).send(address).is_ok_and(|a| is_taken(&a)));
        uploads.push((seed, taken));
        if !taken {
            break;
        }
    }
    uploads
}

/// The same package for the same seed, of some length.
fn package_of(seed: u64) -> Package {
    Package::new(seed, 20_000 + (seed as usize * 7919) % 600_000)
}

#[test]
fn what_was_acknowledged_survives_kill_9_at_any_moment() -> Result<()> {
    let mut firnd = Firnd::start_with("[store]\npack-size = \"1 MiB\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let mut all = Vec::new();
    let mut random = Random::new(2);
    for round in 0..6u64 {
        let stop = AtomicBool::new(false);
        let address = firnd.address();
        let uploads = thread::scope(|scope| {
            let workers: Vec<_> = (0..3u64)
                .map(|worker| {
                    let (cache, stop) = (&cache, &stop);
                    scope.spawn(move || upload_until_killed(address, cache, round * 100_000 + worker * 20_000, stop))
                })
                .collect();
            // Somewhere in the middle of what the server does, which is elsewhere in each round.
            let paths = firnd.status("paths").unwrap_or(0) + 3 + random.below(12) as u64;
            while firnd.status("paths").is_ok_and(|now| now < paths)
                && workers.iter().any(|worker| !worker.is_finished())
            {}
            let killed = firnd.kill();
            stop.store(true, Ordering::SeqCst);
            let uploads: Vec<_> =
                workers.into_iter().flat_map(|w| w.join().expect("the thread does not panic")).collect();
            killed.map(|()| uploads)
        })?;
        assert!(uploads.iter().any(|(_, taken)| *taken), "nothing was uploaded before the kill");
        all.extend(uploads);
        firnd.launch()?;
        for &(seed, acknowledged) in &all {
            let package = package_of(seed);
            let answer = firnd.send(&Request::get(&package.narinfo_target("main")))?;
            if acknowledged {
                assert_eq!(answer.status, 200, "package {seed} was acknowledged and is gone\n{}", firnd.log());
            }
            if answer.status == 200 {
                let nar = firnd.send(&Request::get(&package.nar_target("main")))?;
                assert!(nar.whole && nar.body == package.nar, "package {seed} is visible and wrong");
            }
        }
    }
    Ok(())
}

/// All files under a folder, with their lengths.
fn files(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let kind = entry.file_type().expect("a kind");
        if kind.is_dir() {
            found.extend(files(&entry.path()));
        } else if kind.is_file() {
            found.push((entry.path(), entry.metadata().expect("a length").len()));
        }
    }
    found
}

/// Flips a bit of every second pack of a stopped server.
fn damage_packs(firnd: &Firnd, place: impl Fn(usize) -> usize) {
    let mut packs: Vec<_> = files(&firnd.data()).into_iter().filter(|(_, len)| *len > 400_000).collect();
    packs.retain(|(path, _)| !path.components().any(|part| part.as_os_str() == "index"));
    packs.sort();
    assert!(packs.len() >= 2, "{packs:?}");
    for (path, _) in packs.iter().step_by(2) {
        let mut bytes = fs::read(path).expect("a pack");
        let at = place(bytes.len());
        bytes[at] ^= 0x40;
        fs::write(path, bytes).expect("a pack");
    }
}

/// Damages packs at a place that depends on their length; returns how many of six paths that took away for a while.
fn flip_and_repair(place: impl Fn(usize) -> usize) -> Result<usize> {
    let mut firnd = Firnd::start_with("[store]\npack-size = \"1 MiB\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let packages: Vec<_> = (0..6).map(|seed| Package::new(seed, 900_000)).collect();
    for package in &packages {
        package.upload(&firnd, &cache)?;
    }
    assert!(firnd.terminate()?.success());
    damage_packs(&firnd, place);
    firnd.launch()?;
    let mut damaged = 0;
    for package in &packages {
        let nar = firnd.send(&Request::get(&package.nar_target("main")))?;
        if nar.status == 200 && nar.whole {
            assert!(nar.body == package.nar, "a wrong NAR was served as whole");
            continue;
        }
        damaged += 1;
        assert!(matches!(nar.status, 200 | 404), "{}", nar.status);
        // From then on the path is said to be gone, so that a client takes it from elsewhere or builds it.
        assert!(!package.is_visible(&firnd, &cache)?);
        assert_eq!(firnd.send(&Request::get(&package.nar_target("main")))?.status, 404);
        // Until somebody uploads it again.
        package.upload(&firnd, &cache)?;
        let nar = firnd.send(&Request::get(&package.nar_target("main")))?;
        assert!(nar.status == 200 && nar.whole && nar.body == package.nar, "{}", nar.status);
    }
    Ok(damaged)
}

#[test]
fn a_flipped_byte_is_never_served() -> Result<()> {
    assert!(flip_and_repair(|len| len / 3)? > 0, "no damage was met");
    assert!(flip_and_repair(|len| len / 2)? > 0, "no damage was met");
    // The first frame's header, and the end of the last pages: whether that takes anything away is the format's business.
    for place in [40, 44, 52, 60] {
        flip_and_repair(|_| place)?;
    }
    for from_end in [1, 9, 40, 200, 1500] {
        flip_and_repair(|len| len - from_end)?;
    }
    flip_and_repair(|_| 3)?;
    Ok(())
}

#[test]
fn an_orderly_end_finishes_what_is_in_progress() -> Result<()> {
    let mut firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    let package = Package::new(1, 4_000_000);
    package.upload(&firnd, &cache)?;
    let stream = Request::get(&package.nar_target("main")).start(firnd.address())?;
    // The answer has begun when its first byte is here; the rest comes while the server ends.
    let mut first = [0];
    stream.peek(&mut first).expect("an answer");
    let address = firnd.address();
    let (ended, answer) = thread::scope(|scope| {
        let reader = scope.spawn(|| firn_testkit::http::read_answer(&stream, false));
        let ended = firnd.terminate();
        (ended, reader.join().expect("the thread does not panic"))
    });
    assert!(ended?.success(), "{}", firnd.log());
    let answer = answer?;
    assert!(answer.whole && answer.body == package.nar);
    assert!(Request::get("/readyz").send(address).is_err(), "it still listens");
    Ok(())
}
