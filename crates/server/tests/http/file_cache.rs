//! Caches to files and back, in a server that ends, or that does so already.

use std::cell::Cell;

use firn_engine::{Clock as _, SystemClock};
use firn_server::admin::{Admin, Answer, Failure, FilesRequest, Request, execute};
use firn_server::config::GcConfig;
use firn_server::data_dir::{DataDir, SystemEntropy};
use firn_server::file_cache::{
    Compression, DocumentCounts, Exported, FileCacheError, Imported, Selection, export, import,
};
use firn_server::http::codec::Codec;
use serde_json::json;

use crate::support::{Package, World, hash_of};

/// Says so many times that it goes on.
fn times(count: usize) -> impl Fn() -> bool {
    let left = Cell::new(count);
    move || left.replace(left.get().saturating_sub(1)) > 0
}

#[test]
fn both_end_where_they_are_told_to_and_go_on_the_next_time() {
    let world = World::new();
    for seed in 0..3 {
        world.put_path("pub", &Package::new(seed, 600_000));
    }
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = ("pub".parse().unwrap(), "priv".parse().unwrap());
    let mut stops = 0;
    loop {
        let goes_on = times(stops);
        match export(&world.app.engine, &from, &Selection::All, Compression::Zstd, folder.path(), &goes_on) {
            Err(FileCacheError::Ended) => stops += 1,
            Ok(Exported { paths, present, .. }) => {
                assert_eq!(paths + present, 3);
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
        let left = std::fs::read_dir(folder.path().join("nar")).unwrap();
        assert!(left.into_iter().all(|file| !file.unwrap().file_name().to_string_lossy().ends_with(".tmp")));
    }
    // It was told in the midst of NARs, too.
    assert!(stops > 6, "{stops}");
    let mut ended = 0;
    for stops in 0.. {
        let app = Some(&*world.app);
        match import(&world.app.engine, app, &to, &Selection::All, folder.path(), &times(stops)) {
            Err(FileCacheError::Ended) => ended += 1,
            Ok(Imported { paths, present, refused, .. }) => {
                assert_eq!((paths + present, refused), (3, 0));
                break;
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    assert!(ended > 6, "{ended}");
    for seed in 0..3 {
        let package = Package::new(seed, 600_000);
        let answer = world.get(&format!("/priv/nar/{}.nar", package.nar_hash().to_nix32()));
        assert!(answer.status == 200 && answer.body == package.nar);
    }
}

#[test]
fn one_at_a_time_and_none_when_the_server_ends() {
    let world = World::new();
    let folder = tempfile::tempdir().unwrap();
    let ask = |dir: &str| {
        let files = FilesRequest { cache: "pub".into(), selection: Selection::All, dir: dir.to_owned() };
        let admin = Admin {
            meta: world.app.engine.meta(),
            index: None,
            app: Some(&world.app),
            engine: None,
            gc: &GcConfig::default(),
            data: &DataDir::new(folder.path()),
            base_url: "http://cache.test",
            entropy: &SystemEntropy,
            now: SystemClock.now(),
        };
        execute(&admin, Request::Export { files: Box::new(files), compression: Compression::None })
    };
    let dir = folder.path().join("files");
    let dir = dir.to_str().unwrap();
    let turn = world.app.files.take().expect("nobody has it");
    assert!(matches!(ask(dir), Err(Failure::Busy { .. })));
    drop(turn);
    assert!(matches!(ask("files"), Err(Failure::Invalid { .. })));
    assert_eq!(ask(dir), Ok(Answer::Exported(Exported::default())));
    world.put_path("pub", &Package::new(1, 10_000));
    world.app.files.end();
    assert!(matches!(ask(dir), Err(Failure::Busy { .. })));
}

const DEBUG_ID: &str = "0123456789abcdef0123456789abcdef01234567";

fn id(seed: u64) -> String {
    format!("sha256:{}!out", format!("{seed:02x}").repeat(32))
}

/// Gives a path all kinds of documents; its NAR's file has a name of its own.
fn put_documents(world: &World, seed: u64, log: &str) -> Package {
    let deriver = format!("{}-package.drv", hash_of(seed + 100));
    let package = Package { extra: format!("Deriver: {deriver}\n"), ..Package::new(seed, 50_000) };
    let file = world.put_nar("pub", &package.nar, Codec::Xz);
    assert_eq!(world.put(&format!("/pub/{}.narinfo", package.hash()), package.narinfo(&file, "xz")).status, 200);
    let build_id = DEBUG_ID.replace("01234567", &format!("{seed:08}"));
    for (target, text) in [
        (format!("log/{deriver}"), log.to_owned()),
        (format!("realisations/{}.doi", id(seed)), json!({"id": id(seed), "outPath": package.path}).to_string()),
        (format!("build-trace-v2/{deriver}/out.doi"), json!({"outPath": package.path}).to_string()),
        (
            format!("debuginfo/{build_id}.debug"),
            json!({"archive": format!("../nar/{file}"), "member": "lib/debug/x.debug"}).to_string(),
        ),
    ] {
        let answer = world.put(&format!("/pub/{target}"), text);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
    }
    package
}

#[test]
fn documents_go_along_with_their_paths() {
    let world = World::new();
    let log = "a line of a log\n".repeat(10_000);
    let (one, _) = (put_documents(&world, 1, &log), put_documents(&world, 2, "short"));
    // Of nothing that is here.
    assert_eq!(world.put(&format!("/pub/log/{}-gone.drv", hash_of(300)), "gone").status, 200);
    let (from, to) = ("pub".parse().unwrap(), "priv".parse().unwrap());
    let each = |count| DocumentCounts { logs: count, realisations: count, build_traces: count, debug_info: count };
    let (some, all) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let of_one = Selection::Closure(vec![one.path.hash()]);
    let write = |selection: &Selection, to: &std::path::Path| {
        export(&world.app.engine, &from, selection, Compression::Zstd, to, &|| true).unwrap()
    };
    let read = |selection: &Selection, folder: &std::path::Path| {
        import(&world.app.engine, Some(&world.app), &to, selection, folder, &|| true).unwrap()
    };
    assert_eq!(write(&of_one, some.path()).documents, each(1));
    assert!(some.path().join(format!("log/{}-package.drv", hash_of(101))).is_file(), "as stock Nix names it");
    let done = write(&Selection::All, all.path());
    assert_eq!((done.paths, done.documents), (2, DocumentCounts { logs: 3, ..each(2) }));
    assert_eq!(write(&Selection::All, all.path()).documents, DocumentCounts::default(), "they are there");

    let done = read(&of_one, all.path());
    assert_eq!((done.paths, done.documents, done.reasons), (1, each(1), vec![]));
    let get = |target: &str| world.get(&format!("/priv/{target}"));
    assert_eq!(get(&format!("log/{}-package.drv", hash_of(101))).text(), log);
    assert_eq!(get(&format!("realisations/{}.doi", id(2))).status, 404);
    let realisation: serde_json::Value =
        serde_json::from_slice(&get(&format!("realisations/{}.doi", id(1))).body).unwrap();
    assert_eq!(realisation["outPath"], json!(one.path));
    let debug: serde_json::Value =
        serde_json::from_slice(&get(&format!("debuginfo/{}", DEBUG_ID.replace("01234567", "00000001"))).body).unwrap();
    let archive = debug["archive"].as_str().unwrap().strip_prefix("../").unwrap();
    assert!(archive.ends_with(".nar.zst"), "the file is another one there: {archive}");
    assert_eq!(get(archive).status, 200);

    let done = read(&Selection::All, all.path());
    assert_eq!((done.paths, done.present, done.documents), (1, 1, DocumentCounts { logs: 2, ..each(1) }));
    assert_eq!(read(&Selection::All, all.path()).documents, DocumentCounts::default(), "they are here");
}

#[test]
fn documents_are_checked_as_at_an_upload() {
    let world = World::new();
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (from, to) = ("pub".parse().unwrap(), "priv".parse().unwrap());
    export(&world.app.engine, &from, &Selection::All, Compression::Zstd, folder.path(), &|| true).unwrap();
    for name in ["log", "realisations", "debuginfo"] {
        std::fs::create_dir_all(folder.path().join(name)).unwrap();
    }
    let secret = elsewhere.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    std::os::unix::fs::symlink(&secret, folder.path().join(format!("log/{}", hash_of(1)))).unwrap();
    let absent = json!({"id": id(1), "outPath": Package::new(1, 10).path}).to_string();
    std::fs::write(folder.path().join(format!("realisations/{}.doi", id(1))), absent).unwrap();
    std::fs::write(folder.path().join(format!("debuginfo/{DEBUG_ID}.debug")), "{}").unwrap();
    std::fs::write(folder.path().join("log/no-name"), "x").unwrap();
    let app = Some(&*world.app);
    match import(&world.app.engine, app, &to, &Selection::All, folder.path(), &|| true) {
        Ok(Imported { documents, refused, reasons, .. }) => {
            assert_eq!((documents, refused), (DocumentCounts::default(), 3), "{reasons:?}");
        }
        Err(error) => panic!("{error:?}"),
    }
    assert_eq!(world.get(&format!("/priv/log/{}", hash_of(1))).status, 404);
}
