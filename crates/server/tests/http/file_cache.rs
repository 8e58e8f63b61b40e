//! Caches to files and back, in a server that ends, or that does so already.

use std::cell::Cell;

use firn_engine::{Clock as _, SystemClock};
use firn_server::admin::{Admin, Answer, Failure, FilesRequest, Request, execute};
use firn_server::config::GcConfig;
use firn_server::data_dir::{DataDir, SystemEntropy};
use firn_server::file_cache::{Compression, Exported, FileCacheError, Imported, Selection, export, import};

use crate::support::{Package, World};

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
