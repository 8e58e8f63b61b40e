//! What no proper client sends. Nothing of it becomes visible, stops the server, or is answered in a way that makes Nix try
//! again; and what is sent properly afterwards is taken.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::thread;

use firn_testkit::Result;
use firn_testkit::firnd::{Cache, Firnd};
use firn_testkit::http::{Request, read_answer};
use firn_testkit::nar::{Node, put, put_all};
use firn_testkit::random::Random;
use firn_tests::{Package, is_refused_for_good, is_taken};

fn start() -> Result<(Firnd, Cache)> {
    let firnd = Firnd::start()?;
    let cache = firnd.cache("main", &["--public"])?;
    Ok((firnd, cache))
}

/// Sends NAR and narinfo of what must not be taken; the narinfo is refused whatever the NAR's answer was.
fn assert_refused(firnd: &Firnd, cache: &Cache, package: &Package, what: &str) -> Result<()> {
    let nar = package.put_nar(firnd, cache)?;
    assert!(is_taken(&nar) || is_refused_for_good(&nar), "{what}: the NAR was answered with {}", nar.status);
    let narinfo = package.put_narinfo(firnd, cache)?;
    assert!(is_refused_for_good(&narinfo), "{what}: the narinfo was answered with {}", narinfo.status);
    assert!(narinfo.body.len() < 1024, "{what}: Nix shows answers under 1 KiB only");
    assert!(!package.is_visible(firnd, cache)?, "{what} is visible");
    Ok(())
}

#[test]
fn what_is_not_a_nar_is_refused() -> Result<()> {
    let (firnd, cache) = start()?;
    let good = Package::new(1, 50_000).nar;
    let mut words = vec![("an empty body", Vec::new()), ("text", b"hello".to_vec())];
    words.push(("a truncated NAR", good[..good.len() - 8].to_vec()));
    words.push(("half a NAR", good[..good.len() / 2].to_vec()));
    words.push(("a NAR and eight zeros", [&good[..], &[0; 8]].concat()));
    words.push(("two NARs", [&good[..], &good[..]].concat()));
    let mut padding = Node::file("abc").encode();
    let at = padding.windows(3).position(|window| window == b"abc").expect("the contents are in it");
    padding[at + 4] = 1;
    words.push(("padding that is not zero", padding));
    for (what, entries) in [
        ("unsorted entries", [&b"b"[..], b"a"]),
        ("an entry twice", [b"a", b"a"]),
        ("an entry called ..", [b"..", b"a"]),
        ("an entry with a slash", [b"a/b", b"c"]),
        ("an entry without a name", [b"", b"a"]),
    ] {
        words.push((what, directory(&entries)));
    }
    words.push(("a file of absurd length", absurd_length()));
    words.push(("deep nesting", nested(100_000)));
    for (seed, (what, nar)) in words.into_iter().enumerate() {
        assert_refused(&firnd, &cache, &Package::of(seed as u64, nar), what)?;
    }
    assert_eq!(firnd.status("paths")?, 0);
    Package::new(1, 50_000).upload(&firnd, &cache)
}

/// A directory of empty files with the given names, in that order.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut nar = Vec::new();
    put_all(&mut nar, &[b"nix-archive-1", b"(", b"type", b"directory"]);
    for name in names {
        put_all(
            &mut nar,
            &[b"entry", b"(", b"name", name, b"node", b"(", b"type", b"regular", b"contents", b"", b")", b")"],
        );
    }
    put(&mut nar, b")");
    nar
}

fn absurd_length() -> Vec<u8> {
    let mut nar = Vec::new();
    put_all(&mut nar, &[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]);
    nar.extend_from_slice(&u64::MAX.to_le_bytes());
    nar.extend_from_slice(b"and that was all");
    nar
}

fn nested(depth: usize) -> Vec<u8> {
    let mut nar = Vec::new();
    put(&mut nar, b"nix-archive-1");
    for _ in 0..depth {
        put_all(&mut nar, &[b"(", b"type", b"directory", b"entry", b"(", b"name", b"a", b"node"]);
    }
    put_all(&mut nar, &[b"(", b"type", b"regular", b"contents", b"", b")"]);
    for _ in 0..depth {
        put_all(&mut nar, &[b")", b")"]);
    }
    nar
}

#[test]
fn a_narinfo_that_does_not_fit_its_nar_is_refused() -> Result<()> {
    let (firnd, cache) = start()?;
    let package = Package::new(1, 100_000);
    assert!(is_taken(&package.put_nar(&firnd, &cache)?));
    let (hash, len) = (package.nar_hash(), package.nar.len());
    let other = Package::new(2, 100_000);
    let present = format!("References: {}", package.base_name);
    let edits = [
        ("another hash", format!("NarHash: sha256:{hash}"), format!("NarHash: sha256:{}", other.nar_hash())),
        ("another size", format!("NarSize: {len}"), format!("NarSize: {}", len + 1)),
        ("a size of nothing", format!("NarSize: {len}"), "NarSize: 0".to_owned()),
        ("a reference that is not there", "References: ".to_owned(), format!("References: {}", other.base_name)),
        (
            "a full path as reference",
            "References: ".to_owned(),
            format!("References: /nix/store/{}", package.base_name),
        ),
        ("another store directory", "/nix/store/".to_owned(), "/gnu/store/".to_owned()),
        ("another path's name", package.base_name.clone(), other.base_name.clone()),
        ("no hash", format!("NarHash: sha256:{hash}\n"), String::new()),
        ("a hash of nothing", format!("NarHash: sha256:{hash}"), "NarHash: sha256:".to_owned()),
        ("a malformed signature", present.clone(), format!("{present}\nSig: no-colon")),
        ("lines with CR", "\n".to_owned(), "\r\n".to_owned()),
    ];
    let mut good = package.clone();
    good.references = vec![package.base_name.clone()];
    for (what, from, to) in edits {
        let base = if from == present { good.narinfo() } else { package.narinfo() };
        let text = base.replace(&from, &to);
        assert_ne!(text, base, "{what}: the edit changes nothing");
        let request = Request::put(&package.narinfo_target("main"), text).token(&cache.token);
        let answer = firnd.send(&request)?;
        assert!(is_refused_for_good(&answer), "{what}: answered with {}", answer.status);
        assert!(!package.is_visible(&firnd, &cache)?, "{what} is visible");
        assert!(!other.is_visible(&firnd, &cache)?, "{what} is visible");
    }
    // What was refused has spoiled nothing.
    assert!(is_taken(&good.put_narinfo(&firnd, &cache)?));
    let served = firnd.send(&Request::get(&package.narinfo_target("main")))?.text();
    assert!(served.contains(&format!("NarHash: sha256:{hash}\n")), "{served}");
    Ok(())
}

#[test]
fn a_narinfo_without_a_nar_is_refused() -> Result<()> {
    let (firnd, cache) = start()?;
    let package = Package::new(1, 10_000);
    assert!(is_refused_for_good(&package.put_narinfo(&firnd, &cache)?));
    assert!(!package.is_visible(&firnd, &cache)?);
    package.upload(&firnd, &cache)
}

#[test]
fn a_nar_under_another_ones_name_is_refused() -> Result<()> {
    let (firnd, cache) = start()?;
    let (package, other) = (Package::new(1, 10_000), Package::new(2, 10_000));
    let request = Request::put(&package.nar_target("main"), other.nar.clone()).token(&cache.token);
    let nar = firnd.send(&request)?;
    assert!(is_refused_for_good(&nar), "answered with {}", nar.status);
    assert!(is_refused_for_good(&package.put_narinfo(&firnd, &cache)?));
    package.upload(&firnd, &cache)
}

#[test]
fn compressed_bombs_are_stopped() -> Result<()> {
    let firnd = Firnd::start_with("[store]\nmax-nar-size = \"8 MiB\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let bomb = Package::of(1, Node::file(vec![0; 256 << 20]).encode());
    let small = zstd::bulk::compress(&bomb.nar, 3).expect("it is in memory");
    assert!(small.len() < 100_000);
    let hash = firn_nix::Sha256::of(&small).to_nix32();
    let request = Request::put(&format!("/main/nar/{hash}.nar.zst"), small).token(&cache.token);
    let answer = firnd.send(&request)?;
    assert!(is_refused_for_good(&answer), "answered with {}", answer.status);
    // The same without compression is refused by its length alone, before the body.
    let request = Request::put(&bomb.nar_target("main"), bomb.nar.clone()).token(&cache.token);
    assert!(is_refused_for_good(&firnd.send(&request)?));
    Package::new(2, 100_000).upload(&firnd, &cache)
}

#[test]
fn tokens_are_checked_before_anything_else() -> Result<()> {
    let (firnd, cache) = start()?;
    firnd.cache("other", &["--public"])?;
    let package = Package::new(1, 10_000);
    let tokens = [
        None,
        Some("wrong".to_owned()),
        Some(format!("{}x", cache.token)),
        Some(firnd.token("main:pull")?),
        Some(firnd.token("other:push")?),
    ];
    for token in tokens {
        let targets = [package.nar_target("main"), package.narinfo_target("main"), "/main/nix-cache-info".to_owned()];
        for target in targets
            .iter()
            .chain(&["/nothing/nix-cache-info".to_owned(), format!("/main/log/{}.drv", package.base_name)])
        {
            let mut request = Request::put(target, package.nar.clone());
            if let Some(token) = &token {
                request = request.token(token);
            }
            let answer = firnd.send(&request)?;
            assert!(matches!(answer.status, 401 | 403), "{target} with {token:?}: {}", answer.status);
        }
    }
    assert_eq!(firnd.status("paths")?, 0);
    Ok(())
}

#[test]
fn no_route_leads_out_of_a_cache() -> Result<()> {
    let (firnd, cache) = start()?;
    let mut tree = Node::package(1, 10_000, &[]);
    if let Node::Directory(entries) = &mut tree {
        entries.insert(b"out".to_vec(), Node::Symlink { target: b"/etc/passwd".to_vec() });
        entries.insert(b"up".to_vec(), Node::Symlink { target: b"../../../../../../etc".to_vec() });
    }
    let package = Package::of(1, tree.encode());
    package.upload(&firnd, &cache)?;
    let hash = package.hash();
    let escapes = ["..", "../..", "%2e%2e/%2e%2e", "..%2f..", "....//", "%2e%2e%2f%2e%2e%2f", "\\..\\..", "%00", "."];
    let bases =
        ["/", "/main/", "/main/nar/", "/main/log/", "/main/serve/", "/main/debuginfo/", "/main/realisations/", "//"];
    for base in bases {
        for escape in escapes {
            for leaf in ["/etc/passwd", "/meta", "/firnd.sock", ""] {
                let target = format!("{base}{escape}{leaf}");
                let answer = firnd.send(&Request::get(&target))?;
                assert!(matches!(answer.status, 400..=404) || target == "/./", "{target}: {}", answer.status);
                assert!(!answer.text().contains("root:"), "{target}");
            }
        }
    }
    for inside in ["out", "up/passwd", "up/../out", "../out", "share/../../out", "%2e%2e/out", "bin/start/x"] {
        let answer = firnd.send(&Request::get(&format!("/main/serve/{hash}/{inside}")))?;
        assert!(!answer.text().contains("root:"), "{inside}");
        assert!(answer.status < 500, "{inside}: {}", answer.status);
    }
    Ok(())
}

#[test]
fn a_hundred_uploads_of_the_same_path_are_stored_once() -> Result<()> {
    let (firnd, cache) = start()?;
    Package::new(1, 2_000_000).upload(&firnd, &cache)?;
    let once = firnd.status("unique_bytes")?;
    assert!(once > 1_000_000, "{once}");
    let package = Package::new(2, 2_000_000);
    thread::scope(|scope| {
        let uploads: Vec<_> = (0..100).map(|_| scope.spawn(|| patient_upload(&package, &firnd, &cache))).collect();
        uploads.into_iter().try_for_each(|upload| upload.join().expect("the thread does not panic"))
    })?;
    assert_eq!(firnd.status("paths")?, 2);
    let twice = firnd.status("unique_bytes")?;
    assert!(twice > once + 1_000_000 && twice < once + package.nar.len() as u64 * 11 / 10, "{once} {twice}");
    assert_eq!(nar_of(&package, &firnd, &cache)?, package.nar);
    Ok(())
}

/// Uploads as Nix does: 503 before the body means to come again.
fn patient_upload(package: &Package, firnd: &Firnd, cache: &Cache) -> Result<()> {
    loop {
        let answer = package.put_nar(firnd, cache)?;
        if answer.status != 503 {
            assert!(is_taken(&answer), "{}: {}", answer.status, answer.text());
            break;
        }
        thread::yield_now();
    }
    let answer = package.put_narinfo(firnd, cache)?;
    assert!(is_taken(&answer), "{}: {}", answer.status, answer.text());
    Ok(())
}

/// The uncompressed NAR, by its hash.
fn nar_of(package: &Package, firnd: &Firnd, cache: &Cache) -> Result<Vec<u8>> {
    let answer = firnd.send(&Request::get(&package.nar_target(&cache.name)).token(&cache.token))?;
    assert!(answer.status == 200 && answer.whole, "the NAR was answered with {}", answer.status);
    Ok(answer.body)
}

#[test]
fn clients_that_go_away_leave_nothing_behind() -> Result<()> {
    let (firnd, cache) = start()?;
    let package = Package::new(1, 3_000_000);
    let head = Request::put(&package.nar_target("main"), Vec::new()).token(&cache.token);
    let head = head.claim_length(package.nar.len() as u64);
    for part in [0, 1, 1000, 1_000_000, package.nar.len() - 1] {
        let mut stream = head.start(firnd.address())?;
        let _ = stream.write_all(&package.nar[..part]);
        drop(stream);
    }
    // One that only stops to send gets an answer or an end, not patience without end.
    let mut stream = head.start(firnd.address())?;
    let _ = stream.write_all(&package.nar[..1000]);
    let _ = stream.shutdown(Shutdown::Write);
    if let Ok(answer) = read_answer(&stream, false) {
        assert!(!is_taken(&answer), "half a NAR was answered with {}", answer.status);
    }
    assert!(!package.is_visible(&firnd, &cache)?);
    package.upload(&firnd, &cache)?;

    for part in [1, 5_000, 200_000] {
        let mut stream = Request::get(&package.nar_target("main")).start(firnd.address())?;
        let mut bytes = vec![0; part];
        let _ = stream.read_exact(&mut bytes);
    }
    assert_eq!(nar_of(&package, &firnd, &cache)?, package.nar);
    assert_eq!(firnd.send(&Request::get("/readyz"))?.status, 200);
    Ok(())
}

#[test]
fn ranges_give_exactly_the_bytes_asked_for() -> Result<()> {
    let (firnd, cache) = start()?;
    let package = Package::new(1, 3_000_000);
    package.upload(&firnd, &cache)?;
    let narinfo = firnd.send(&Request::get(&package.narinfo_target("main")))?.text();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL");
    for target in [package.nar_target("main"), format!("/main/{url}")] {
        let whole = firnd.send(&Request::get(&target))?;
        assert!(whole.status == 200 && whole.whole, "{target}");
        assert_eq!(whole.header("accept-ranges"), Some("bytes"));
        assert_eq!(whole.header("content-encoding"), None);
        let len = whole.body.len();
        for start in [0, 1, 100, 65_536, 262_143, 1_048_576, len - 1] {
            let answer = firnd.send(&Request::get(&target).header("Range", &format!("bytes={start}-")))?;
            assert_eq!(answer.status, 206, "{target} from {start}");
            assert!(answer.body == whole.body[start..], "{target} from {start}");
            let range = format!("bytes {start}-{}/{len}", len - 1);
            assert_eq!(answer.header("content-range"), Some(range.as_str()));
            assert_eq!(answer.header("content-encoding"), None);
        }
        let beyond = firnd.send(&Request::get(&target).header("Range", &format!("bytes={len}-")))?;
        assert_eq!(beyond.status, 416);
        let head = firnd.send(&Request::new("HEAD", &target))?;
        assert_eq!((head.status, head.header("content-length")), (200, Some(len.to_string().as_str())));
    }
    Ok(())
}

#[test]
fn a_full_disk_refuses_uploads_and_nothing_else() -> Result<()> {
    let firnd = Firnd::start_on_disk_of(24 << 20, "[store]\nmin-free = \"1 KiB\"\n")?;
    let cache = firnd.cache("main", &["--public"])?;
    let first = Package::of(1, Node::file(Random::new(1).noise(3_000_000)).encode());
    first.upload(&firnd, &cache)?;
    let mut refused = None;
    for seed in 2..12 {
        let package = Package::of(seed, Node::file(Random::new(seed).noise(5_000_000)).encode());
        let nar = package.put_nar(&firnd, &cache)?;
        let taken = is_taken(&nar) && is_taken(&package.put_narinfo(&firnd, &cache)?);
        if !taken {
            assert!(nar.status == 503 || is_taken(&nar) || is_refused_for_good(&nar), "{}", nar.status);
            assert!(!package.is_visible(&firnd, &cache)?);
            refused = Some(package);
            break;
        }
        assert_eq!(nar_of(&package, &firnd, &cache)?, package.nar);
    }
    let refused = refused.expect("50 MB of noise do not fit into 24 MiB");
    assert_eq!(nar_of(&first, &firnd, &cache)?, first.nar);
    assert_eq!(firnd.send(&Request::get("/healthz"))?.status, 200);
    // With room again, it goes on without a restart.
    firnd.resize_disk(96 << 20)?;
    refused.upload(&firnd, &cache)?;
    assert_eq!(nar_of(&refused, &firnd, &cache)?, refused.nar);
    assert_eq!(nar_of(&first, &firnd, &cache)?, first.nar);
    Ok(())
}
