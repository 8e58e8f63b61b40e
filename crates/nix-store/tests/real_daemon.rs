//! The daemons of all versions of Nix.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use firn_nix::StorePath;
use firn_nix_store::{Daemon, Database, Error, Location, PathInfo};
use firn_testkit::nix::{Nix, Store, Version};

const STORE_DIR: &str = "/nix/store";

/// How long something that has to happen by itself may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn add(store: &Store, name: &str) -> StorePath {
    let file = store.write(&format!("home/{name}"), name).unwrap();
    let path = store.check("nix-store", ["--add".into(), file]).unwrap().text();
    StorePath::parse_absolute(&path, STORE_DIR).unwrap()
}

#[test]
fn the_daemon_says_what_the_database_does() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let built = store
            .build_one(r#"let a = build { name = "a"; script = "echo a > $out"; }; in build { name = "b"; script = "echo ${a} > $out"; }"#)
            .unwrap();
        let (location, _serving) = (Location::for_root(&store.root()), store.daemon().unwrap());
        let database = Database::open(&location).unwrap();
        let mut daemon = Daemon::connect(&location).unwrap();
        assert!(daemon.nix_version().unwrap().starts_with(nix.version().name()), "{:?}", daemon.nix_version());
        // The protocol of 2.8 has no word for it.
        assert_eq!(daemon.trusts_us(), (nix.version() != Version::V2_8).then_some(true));

        let known = database.valid_after(0, 100).unwrap().paths;
        let names = daemon.all_valid().unwrap();
        assert!(names.unreadable.is_empty());
        let paths: BTreeSet<_> = known.iter().map(|info| info.path.clone()).collect();
        assert_eq!(BTreeSet::from_iter(names.paths), paths, "{}", nix.version());
        assert!(known.iter().any(|info| info.path.to_absolute(STORE_DIR) == built && info.ultimate));
        for info in known {
            assert!(daemon.is_valid(&info.path).unwrap());
            assert_eq!(daemon.info(&info.path).unwrap(), Some(PathInfo { id: 0, ..info }));
        }
        let absent = StorePath::from_base_name("0fanvwfh6772nmhmbw78d8jmj0dr6lpc-absent").unwrap();
        assert!(!daemon.is_valid(&absent).unwrap());
        assert_eq!(daemon.info(&absent).unwrap(), None);
    }
}

#[test]
fn what_is_kept_outlives_the_garbage_collector() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let (kept, other) = (add(&store, "kept"), add(&store, "other"));
        let (location, _serving) = (Location::for_root(&store.root()), store.daemon().unwrap());
        let mut daemon = Daemon::connect(&location).unwrap();
        daemon.add_temp_root(&kept).unwrap();
        // The daemon may be told of what is not valid yet.
        daemon.add_temp_root(&StorePath::from_base_name("0fanvwfh6772nmhmbw78d8jmj0dr6lpc-absent").unwrap()).unwrap();
        store.check("nix-store", ["--gc"]).unwrap().done().unwrap();
        assert!(daemon.is_valid(&kept).unwrap(), "{}", nix.version());
        assert!(!daemon.is_valid(&other).unwrap());
        drop(daemon);
        // The one who served us takes a moment to notice.
        let mut again = Daemon::connect(&location).unwrap();
        let start = Instant::now();
        while again.is_valid(&kept).unwrap() {
            assert!(start.elapsed() < PATIENCE, "{}: kept without a connection", nix.version());
            store.check("nix-store", ["--gc"]).unwrap().done().unwrap();
        }
    }
}

#[test]
fn a_restart_of_the_daemon_is_a_lost_connection() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let path = add(&store, "a");
        let location = Location::for_root(&store.root());
        let mut serving = store.daemon().unwrap();
        let mut daemon = Daemon::connect(&location).unwrap();
        assert!(daemon.is_valid(&path).unwrap());
        serving.kill().unwrap();
        assert!(matches!(daemon.add_temp_root(&path).unwrap_err(), Error::DaemonLost { .. }), "{}", nix.version());
        assert!(matches!(daemon.is_valid(&path).unwrap_err(), Error::DaemonLost { .. }));
        assert!(matches!(Daemon::connect(&location).unwrap_err(), Error::DaemonUnreachable { .. }));
        let _serving = store.daemon().unwrap();
        assert!(Daemon::connect(&location).unwrap().is_valid(&path).unwrap());
    }
}
