//! The database as real Nix writes it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use firn_nix::StorePath;
use firn_nix_store::{Database, Error, Location, MAX_PAGE, PathInfo, resolve};
use firn_testkit::nix::{Nix, Store, Version};

const STORE_DIR: &str = "/nix/store";

fn parse(path: &str) -> StorePath {
    StorePath::parse_absolute(path, STORE_DIR).unwrap()
}

fn location(store: &Store) -> Location {
    Location::for_root(&store.root())
}

/// Adds files of these names, all by one process, each in a transaction of its own.
fn add(store: &Store, names: &[String]) -> Vec<StorePath> {
    let files = names.iter().map(|name| store.write(&format!("home/{name}"), name).unwrap());
    store
        .check("nix-store", ["--add".into()].into_iter().chain(files))
        .unwrap()
        .lines()
        .iter()
        .map(|path| parse(path))
        .collect()
}

fn add_one(store: &Store, name: &str) -> StorePath {
    add(store, &[name.to_owned()]).remove(0)
}

/// Three packages that refer to each other and to themselves, and their derivations.
const BUILDS: &str = r#"
let base = build { name = "base"; script = "mkdir $out; echo base > $out/file"; };
    mid = build { name = "mid"; script = "mkdir $out; echo ${base} $out > $out/file"; };
in build { name = "top"; script = "mkdir $out; ln -s ${mid}/file $out/mid; ln -s ${base}/file $out/base"; }
"#;

#[test]
fn closures_are_what_nix_says() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let top = store.build_one(BUILDS).unwrap();
        let (secret, _) = nix.generate_key("test-1").unwrap();
        let key = store.write("key", &secret).unwrap();
        let sign =
            if nix.version() == Version::V2_8 { ["store", "sign", "-k"] } else { ["store", "sign", "--key-file"] };
        let arguments = sign.into_iter().map(Into::into).chain([key, top.clone().into()]);
        store.check("nix", arguments).unwrap().done().unwrap();
        let database = Database::open(&location(&store)).unwrap();
        let closure = database.closure(&[parse(&top)]).unwrap();
        assert!(closure.absent.is_empty() && closure.unreadable.is_empty());
        let names: Vec<_> = closure.paths.iter().map(|info| info.path.name()).collect();
        assert_eq!(names, ["base", "mid", "top"], "{}", nix.version());
        assert_eq!(closure.paths.len(), store.closure(&top).unwrap().len());
        for info in &closure.paths {
            check_info(&store, info);
        }
        let (mid, top) = (&closure.paths[1], &closure.paths[2]);
        assert!(mid.references.contains(&mid.path), "it refers to itself");
        assert_eq!((top.signatures.len(), mid.signatures.len()), (1, 0));
        assert!(top.signatures[0].starts_with("test-1:"));
        let drv = database.info(top.deriver.as_ref().unwrap()).unwrap().unwrap();
        assert!(drv.ca.is_some() && !drv.ultimate && drv.deriver.is_none());
        let outputs = database.outputs(&drv.path).unwrap();
        assert_eq!(outputs, [("out".to_owned(), top.path.clone())].into());
        assert!(database.outputs(&top.path).unwrap().is_empty());
    }
}

/// Compares with what Nix's own programs say.
fn check_info(store: &Store, info: &PathInfo) {
    let path = info.path.to_absolute(STORE_DIR);
    let query = |what: &str| store.check("nix-store", ["--query", what, &path]).unwrap();
    assert_eq!(info.nar_hash.to_string(), store.nar_hash(&path).unwrap());
    assert_eq!(info.nar_size.to_string(), query("--size").text());
    let references: BTreeSet<_> = query("--references").lines().iter().map(|path| parse(path)).collect();
    assert_eq!(info.references, Vec::from_iter(references));
    assert_eq!(info.deriver.as_ref().unwrap().to_absolute(STORE_DIR), query("--deriver").text());
    assert!(info.ultimate && info.ca.is_none() && info.registered_at > 1_700_000_000);
}

/// What [`Database::valid_after`] leans on: ids become visible in their order, whoever registers at the same time. A reader that follows
/// them has seen all of them in the end, and none twice.
#[test]
fn ids_are_in_the_order_of_commits() {
    const WRITERS: usize = 4;
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        add_one(&store, "first");
        let database = Database::open(&location(&store)).unwrap();
        let writing = AtomicUsize::new(WRITERS);
        let mut seen = Vec::new();
        let mut pages = 0;
        let written: BTreeSet<StorePath> = thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (store, writing) = (&store, &writing);
                    scope.spawn(move || {
                        let names: Vec<_> = (0..25).map(|number| format!("w{writer}-{number}")).collect();
                        let paths = add(store, &names);
                        writing.fetch_sub(1, Ordering::SeqCst);
                        paths
                    })
                })
                .collect();
            let mut cursor = database.max_id().unwrap();
            loop {
                let all_written = writing.load(Ordering::SeqCst) == 0;
                let page = database.valid_after(cursor, 7).unwrap();
                let Some(last) = page.last_id() else {
                    if all_written || writers.iter().all(thread::ScopedJoinHandle::is_finished) {
                        break;
                    }
                    thread::yield_now();
                    continue;
                };
                assert!(page.paths.is_sorted_by_key(|info| info.id));
                seen.extend(page.paths.into_iter().map(|info| info.path));
                (cursor, pages) = (last, pages + 1);
            }
            writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(seen.len(), 25 * WRITERS, "{} in {pages} pages", nix.version());
        assert_eq!(BTreeSet::from_iter(seen), written, "{}", nix.version());
    }
}

#[test]
fn what_is_registered_again_has_a_new_id() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        add_one(&store, "kept");
        let path = add_one(&store, "again");
        let database = Database::open(&location(&store)).unwrap();
        let first = database.info(&path).unwrap().unwrap();
        assert_eq!(database.max_id().unwrap(), first.id);
        // Nothing new, and so no new row.
        add_one(&store, "again");
        assert_eq!(database.info(&path).unwrap().unwrap(), first);

        store.check("nix-store", ["--delete", &path.to_absolute(STORE_DIR)]).unwrap().done().unwrap();
        assert_eq!(database.info(&path).unwrap(), None);
        assert_eq!(database.max_id().unwrap(), first.id, "the highest id does not fall");
        assert!(database.valid_after(first.id, MAX_PAGE).unwrap().paths.is_empty());
        let absent = database.closure(std::slice::from_ref(&path)).unwrap().absent;
        assert_eq!(absent.first(), Some(&path));
        assert_eq!(absent.len(), 1);

        add_one(&store, "again");
        let second = database.valid_after(first.id, MAX_PAGE).unwrap().paths;
        assert_eq!(second.len(), 1, "{}", nix.version());
        assert_eq!((&second[0].path, second[0].id), (&path, first.id + 1));
    }
}

#[test]
fn a_rebuilt_database_is_another_one() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let location = location(&store);
        for number in 0..5 {
            add_one(&store, &format!("p{number}"));
        }
        let top = parse(&store.build_one(BUILDS).unwrap());
        for gone in ["p0", "p1", "p2"] {
            let path = add_one(&store, gone).to_absolute(STORE_DIR);
            store.check("nix-store", ["--delete", &path]).unwrap().done().unwrap();
        }
        let old = Database::open(&location).unwrap();
        let before = old.closure(std::slice::from_ref(&top)).unwrap();
        let cursor = old.max_id().unwrap();

        let dumped = store.check("nix-store", ["--dump-db"]).unwrap().stdout;
        fs::remove_dir_all(location.state_dir.join("db")).unwrap();
        let mut loading = store.command("nix-store").arg("--load-db").stdin(Stdio::piped()).spawn().unwrap();
        loading.stdin.take().unwrap().write_all(&dumped).unwrap();
        assert!(loading.wait().unwrap().success());

        assert!(matches!(old.valid_after(cursor, 1).unwrap_err(), Error::Replaced { .. }));
        let new = Database::open(&location).unwrap();
        assert_ne!(new.identity(), old.identity());
        assert!(new.max_id().unwrap() < cursor, "ids restart");
        let after = new.closure(&[top]).unwrap();
        let content = |info: &PathInfo| (info.path.clone(), info.nar_hash, info.nar_size, info.references.clone());
        assert_eq!(
            after.paths.iter().map(content).collect::<Vec<_>>(),
            before.paths.iter().map(content).collect::<Vec<_>>()
        );
    }
}

#[test]
fn result_links_lead_to_their_paths() {
    for nix in Nix::require_all() {
        let store = nix.store().unwrap();
        let file = store.write("home/one.nix", "derivation { name = \"one\"; system = builtins.currentSystem; builder = \"/bin/sh\"; args = [ \"-c\" \"echo 1 > $out\" ]; PATH = \"/usr/bin:/bin\"; }").unwrap();
        let link = file.with_file_name("result");
        let built = store.check("nix-build", ["--out-link".into(), link.clone(), file]).unwrap().lines();
        assert_eq!(resolve(&location(&store), &link).unwrap(), parse(&built[0]), "{}", nix.version());
    }
}
