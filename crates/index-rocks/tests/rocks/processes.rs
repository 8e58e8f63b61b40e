//! Engines in processes that are killed or that run out of room.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use firn_index::conformance::samples::{
    cache, cache_row, chunk, commit, location, nar_hash, nar_row, pack, path_row, recipe, recipe_row, store_hash,
    token_row,
};
use firn_index::{ChunkIndex, Commit, Error, Meta, Op, TokenId, Totals};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};

/// Names the folder that a child works in; without it, a child has nothing to do.
const FOLDER: &str = "FIRN_TEST_FOLDER";

fn meta(folder: &Path) -> Result<RocksMeta, Error> {
    RocksMeta::open(folder, &MetaOptions::default())
}

fn chunks(folder: &Path) -> Result<RocksChunkIndex, Error> {
    RocksChunkIndex::open(folder, &ChunkIndexOptions { write_buffer_bytes: 256 << 10, ..ChunkIndexOptions::default() })
}

/// Returns the arguments that make this program run one of its ignored tests.
fn child(name: &str) -> [&str; 4] {
    [name, "--exact", "--ignored", "--nocapture"]
}

fn this_program() -> PathBuf {
    std::env::current_exe().expect("a running program has a path")
}

/// Everything of one path, `n`.
fn whole_path(n: u8) -> Commit {
    let a = cache("a");
    let ops = vec![
        Op::Recipe(recipe(n), recipe_row(&[1])),
        Op::Nar(a.clone(), nar_hash(n), nar_row(n)),
        Op::Path(a, store_hash(n), path_row(n, 10)),
        Op::PackDurable(pack(1), u64::from(n)),
        Op::Count(Totals { paths: 1, logical_bytes: 10, ..Totals::default() }),
    ];
    commit(&[1], ops)
}

#[test]
fn killed_at_any_moment() {
    for acknowledged in [0, 1, 5, 20, 60] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut writer = Command::new(this_program())
            .args(child("processes::child_commits"))
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(writer.stdout.take().expect("it is piped")).lines();
        let mut last = None;
        let mut note = |line: &str| {
            // The first stands behind what the test harness prints.
            if let Some((_, n)) = line.rsplit_once("acknowledged ") {
                last = Some(n.parse::<u8>().expect("a number"));
            }
            last
        };
        for line in lines.by_ref() {
            if note(&line.expect("reads")) >= Some(acknowledged) {
                break;
            }
        }
        writer.kill().expect("kills");
        writer.wait().expect("ends");
        for line in lines.map_while(Result::ok) {
            note(&line);
        }
        check_what_is_left(folder.path(), last.expect("one was acknowledged"));
    }
}

/// Commits paths until it is killed, and says which are acknowledged.
#[test]
#[ignore = "is run by killed_at_any_moment"]
fn child_commits() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let meta = meta(folder.as_ref()).expect("opens");
    meta.put_cache(&cache("a"), &cache_row(1)).expect("writes");
    meta.reserve_pack(pack(1), 1).expect("writes");
    let mut stdout = std::io::stdout();
    for n in 0..=255 {
        meta.commit(1, &[whole_path(n)]).expect("writes").remove(0).expect("is not refused");
        if n % 16 == 15 {
            meta.flush().expect("flushes");
        }
        writeln!(stdout, "acknowledged {n}").and_then(|()| stdout.flush()).expect("somebody listens");
    }
}

/// Checks that everything acknowledged is there, and what was not is there wholly or not at all.
fn check_what_is_left(folder: &Path, acknowledged: u8) {
    let meta = meta(folder).expect("opens");
    let a = cache("a");
    let paths = meta.paths(&a, None, 300).expect("reads").len();
    assert!(paths > usize::from(acknowledged), "{acknowledged} was acknowledged and {paths} are there");
    for n in 0..=255 {
        let there = usize::from(n) < paths;
        assert_eq!(meta.path(&a, &store_hash(n)).expect("reads").is_some(), there, "path {n}");
        assert_eq!(meta.nar(&a, &nar_hash(n)).expect("reads").is_some(), there, "NAR {n}");
        assert_eq!(meta.recipe(&recipe(n)).expect("reads").is_some(), there, "recipe {n}");
    }
    assert_eq!(meta.recipes_of_pack(pack(1), None, 300).expect("reads").len(), paths);
    assert_eq!(meta.totals().expect("reads").paths, paths as u64);
    let durable = meta.pack(pack(1)).expect("reads").expect("is there").durable_bytes;
    assert_eq!(durable + 1, paths as u64);
}

/// Needs a small file system of its own: where the system grants no user namespace to mount one in, it says so.
#[test]
fn a_full_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mount = "mount -t tmpfs -o size=8m firn-test \"$0\"";
    let inside = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(folder.path()).env(FOLDER, folder.path());
        command
    };
    if !inside(mount).status().is_ok_and(|status| status.success()) {
        eprintln!("skipped: no file system can be mounted here");
        return;
    }
    let run = inside(&format!("{mount} && exec \"$@\""))
        .arg(this_program())
        .args(child("processes::child_fills_the_disk"))
        .output()
        .expect("starts");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("went on after"), "{said}{}", String::from_utf8_lossy(&run.stderr));
}

/// Writes until there is no room, then makes some.
#[test]
#[ignore = "is run by a_full_disk"]
fn child_fills_the_disk() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let folder: &Path = folder.as_ref();
    let open = (meta(folder).expect("opens"), chunks(folder).expect("opens"));
    let filler = folder.join("filler");
    let mut file = File::create(&filler).expect("creates");
    while file.write_all(&[1; 4096]).is_ok() {}

    let token = |meta: &RocksMeta, n| {
        let mut row = token_row(1);
        row.builder = "x".repeat(50_000);
        meta.put_token(&TokenId(n), &row)
    };
    let full = (0..1000).find_map(|n| token(&open.0, n).err().map(|error| (n, error)));
    let (refused, error) = full.expect("it is full some time");
    assert!(matches!(error, Error::Full), "{error:?}");
    assert_eq!(open.0.tokens().expect("reading goes on").len() as u64, refused);

    // More than the write buffers hold, which can't be written out.
    let entries = |n: u64| (n * 500..n * 500 + 500).map(|n| (chunk(n), location(n))).collect::<Vec<_>>();
    let full = (0..10_000).find_map(|n| open.1.apply(&entries(n)).err()).expect("it is full some time");
    assert!(matches!(full, Error::Full), "{full:?}");
    assert!(open.1.flush().is_err(), "nothing can be made durable");
    drop(open);
    assert!(matches!(meta(folder).err(), Some(Error::Full)), "opening needs some room as well");

    drop(file);
    fs::remove_file(&filler).expect("removes");
    let (meta, chunks) = (meta(folder).expect("opens"), chunks(folder).expect("opens"));
    assert_eq!(meta.tokens().expect("reads").len() as u64, refused, "what was acknowledged, and nothing else");
    token(&meta, refused).expect("writes");
    chunks.apply(&entries(0)).and_then(|()| chunks.flush()).expect("writes");
    println!("went on after {refused} tokens");
}
