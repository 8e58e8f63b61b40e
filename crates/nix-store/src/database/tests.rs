use std::fs;

use firn_nix::Sha256;
use rusqlite::params;

use super::*;
use crate::Location;

/// What Nix creates, as far as it matters to a reader.
const TABLES: &str = "
    CREATE TABLE ValidPaths (
        id integer primary key autoincrement not null, path text unique not null, hash text not null,
        registrationTime integer not null, deriver text, narSize integer, ultimate integer, sigs text, ca text);
    CREATE TABLE Refs (referrer integer not null, reference integer not null, primary key (referrer, reference));
    CREATE INDEX IndexReferrer on Refs(referrer);
    CREATE INDEX IndexReference on Refs(reference);
";

struct Fixture {
    location: Location,
    writer: Connection,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let location = Location::for_root(directory.path());
        fs::create_dir_all(location.state_dir.join("db")).unwrap();
        fs::write(location.state_dir.join("db/schema"), "10\n").unwrap();
        let writer = Self::create(&location);
        Self { location, writer, _directory: directory }
    }

    fn create(location: &Location) -> Connection {
        let writer = Connection::open(location.database()).unwrap();
        writer.pragma_update(None, "journal_mode", "wal").unwrap();
        writer.pragma_update(None, "synchronous", "off").unwrap();
        writer.execute_batch(TABLES).unwrap();
        writer
    }

    fn open(&self) -> Result<Database> {
        open::open(&self.location, Duration::from_millis(1))
    }

    /// Registers a path and returns its id.
    fn add(&self, name: &str) -> i64 {
        let (path, hash) = (absolute(name), Sha256::of(name.as_bytes()).to_hex());
        self.add_row(&path, &format!("sha256:{hash}"), Some(120))
    }

    fn add_row(&self, path: &str, hash: &str, size: Option<i64>) -> i64 {
        let sql = "INSERT INTO ValidPaths (path, hash, registrationTime, narSize) VALUES (?, ?, 1700000000, ?)";
        self.writer.prepare_cached(sql).unwrap().insert(params![path, hash, size]).unwrap()
    }

    fn refer(&self, referrer: i64, reference: i64) {
        self.writer.prepare_cached("INSERT INTO Refs VALUES (?, ?)").unwrap().execute([referrer, reference]).unwrap();
    }

    fn run(&self, sql: &str) {
        self.writer.execute_batch(sql).unwrap();
    }
}

fn path(name: &str) -> StorePath {
    let [a, b, c, ..] = Sha256::of(name.as_bytes()).0;
    let mut hash = [0; 20];
    hash[..3].copy_from_slice(&[a, b, c]);
    StorePath::new(firn_nix::StoreHash(hash), name).unwrap()
}

fn absolute(name: &str) -> String {
    path(name).to_absolute("/nix/store")
}

fn names(infos: &[PathInfo]) -> Vec<&str> {
    infos.iter().map(|info| info.path.name()).collect()
}

#[test]
fn says_what_is_missing_or_other() {
    let fixture = Fixture::new();
    let schema = fixture.location.state_dir.join("db/schema");
    let found = |fixture: &Fixture| match fixture.open().unwrap_err() {
        Error::Schema { found, .. } => found,
        other => panic!("{other}"),
    };
    fs::write(&schema, "11").unwrap();
    assert_eq!(found(&fixture), "11");
    assert!(fixture.open().unwrap_err().to_string().contains("a newer firn"));
    fs::write(&schema, "9").unwrap();
    assert!(fixture.open().unwrap_err().to_string().contains("older than 2.0"));
    fs::write(&schema, "").unwrap();
    assert_eq!(found(&fixture), "");
    fs::remove_file(&schema).unwrap();
    assert_eq!(found(&fixture), "not recorded");
    fs::write(&schema, "10").unwrap();
    fixture.open().unwrap();
    fixture.run("ALTER TABLE ValidPaths RENAME COLUMN ca TO other");
    assert!(found(&fixture).contains("no such column: ca"));
    fixture.run("DROP TABLE ValidPaths");
    assert!(found(&fixture).contains("no such table: ValidPaths"));
    let nowhere = Location::for_root(fixture.location.state_dir.as_path());
    assert!(matches!(Database::open(&nowhere).unwrap_err(), Error::NoDatabase { path } if path == nowhere.database()));
}

#[test]
fn tells_damage_from_absence() {
    let fixture = Fixture::new();
    for number in 0..2000 {
        fixture.add(&format!("path-{number}"));
    }
    fixture.run("PRAGMA wal_checkpoint(TRUNCATE)");
    let Fixture { location, writer, _directory } = fixture;
    drop(writer);
    let whole = fs::read(location.database()).unwrap();
    let mut damaged = whole.clone();
    damaged[4096..].fill(0x5a);
    fs::write(location.database(), damaged).unwrap();
    let read = |location: &Location| Database::open(location).and_then(|database| database.valid_after(0, MAX_PAGE));
    assert!(matches!(read(&location).unwrap_err(), Error::Corrupt { .. }));
    fs::write(location.database(), vec![0x5a; 8192]).unwrap();
    assert!(matches!(read(&location).unwrap_err(), Error::Corrupt { .. }));
    fs::write(location.database(), "").unwrap();
    assert!(matches!(read(&location).unwrap_err(), Error::Schema { .. }));
    fs::write(location.database(), whole).unwrap();
    assert_eq!(read(&location).unwrap().paths.len(), 2000);
}

#[test]
fn says_that_it_is_locked() {
    let fixture = Fixture::new();
    fixture.add("a");
    fixture.run("PRAGMA journal_mode = delete");
    let database = fixture.open().unwrap();
    fixture.run("BEGIN EXCLUSIVE");
    assert!(matches!(database.max_id().unwrap_err(), Error::Locked { .. }));
    assert!(matches!(fixture.open().unwrap_err(), Error::Locked { .. }));
    fixture.run("COMMIT");
    assert_eq!(database.max_id().unwrap(), 1);
}

#[test]
fn says_that_a_recovery_needs_root_or_the_daemon() {
    let fixture = Fixture::new();
    fixture.run("PRAGMA journal_mode = delete; PRAGMA synchronous = full; PRAGMA cache_size = 1");
    fixture.add("a");
    fixture.run("BEGIN IMMEDIATE");
    for number in 0..2000 {
        fixture.add(&format!("path-{number}"));
    }
    // What a power cut would leave.
    let cut = Fixture::new();
    for name in ["db.sqlite", "db.sqlite-journal"] {
        let (from, to) = (&fixture.location.state_dir, &cut.location.state_dir);
        fs::copy(from.join("db").join(name), to.join("db").join(name)).unwrap();
    }
    let Fixture { location, writer, _directory } = cut;
    std::mem::forget(writer);
    let error = Database::open(&location).and_then(|database| database.max_id()).unwrap_err();
    assert!(matches!(&error, Error::Denied { .. }), "{error}");
    assert!(error.to_string().contains("run as root, or go through the Nix daemon"));
}

#[test]
fn notices_another_database_in_its_place() {
    let fixture = Fixture::new();
    fixture.add("a");
    fixture.add("b");
    let old = fixture.open().unwrap();
    assert_eq!(old.max_id().unwrap(), 2);
    for name in ["db.sqlite", "db.sqlite-wal", "db.sqlite-shm"] {
        fs::remove_file(fixture.location.state_dir.join("db").join(name)).unwrap();
    }
    assert!(matches!(old.max_id().unwrap_err(), Error::Replaced { .. }));
    assert!(matches!(fixture.open().unwrap_err(), Error::NoDatabase { .. }));
    let fixture = Fixture { writer: Fixture::create(&fixture.location), ..fixture };
    fixture.add("b");
    let new = fixture.open().unwrap();
    assert_ne!(new.identity(), old.identity());
    assert!(matches!(old.valid_after(0, 1).unwrap_err(), Error::Replaced { .. }));
    assert!(matches!(old.closure(&[path("b")]).unwrap_err(), Error::Replaced { .. }));
    assert_eq!(new.max_id().unwrap(), 1);
}

#[test]
fn rows_that_make_no_sense_keep_nobody_from_the_others() {
    let fixture = Fixture::new();
    let hash = Sha256::of(b"").to_string();
    let (good, other) = (fixture.add("good"), fixture.add("other"));
    let mut bad = vec![
        fixture.add_row("/gnu/store/x", &hash, Some(1)),
        fixture.add_row(&absolute("hash"), "sha512:00", Some(1)),
        fixture.add_row(&absolute("size"), &hash, Some(0)),
        fixture.add_row(&absolute("null"), &hash, None),
        fixture.add_row(&absolute("negative"), &hash, Some(-1)),
    ];
    let referrer = fixture.add("referrer");
    fixture.refer(referrer, bad[0]);
    fixture.refer(referrer, good);
    bad.push(referrer);
    let deriver = fixture.add("deriver");
    fixture.run(&format!("UPDATE ValidPaths SET deriver = 'x.drv' WHERE id = {deriver}"));
    let blob = fixture.add("blob");
    fixture.run(&format!("UPDATE ValidPaths SET sigs = x'ff00' WHERE id = {blob}"));
    bad.extend([deriver, blob]);
    let last = fixture.add("last");
    let database = fixture.open().unwrap();
    let found = database.valid_after(0, 100).unwrap();
    assert_eq!(found.paths.iter().map(|info| info.id).collect::<Vec<_>>(), [good, other, last]);
    assert_eq!(found.unreadable.iter().map(|row| row.id).collect::<Vec<_>>(), bad);
    assert!(found.unreadable.iter().all(|row| !row.why.is_empty() && !row.path.is_empty()));
    let page = database.valid_after(other, 3).unwrap();
    assert_eq!((page.paths.len(), page.last_id()), (0, Some(bad[2])));
    let error = database.info(&path("size")).unwrap_err();
    assert!(matches!(&error, Error::UnreadableRow { row, .. } if row.why.contains("narSize")), "{error}");
    let closure = database.closure(&[path("good"), path("referrer")]).unwrap();
    assert_eq!((names(&closure.paths), closure.unreadable.len()), (vec!["good"], 1));
}

#[test]
fn reads_every_column() {
    let fixture = Fixture::new();
    let id = fixture.add("all");
    let (reference, deriver) = (fixture.add("reference"), absolute("all.drv"));
    fixture.refer(id, id);
    fixture.refer(id, reference);
    fixture.run(&format!(
        "UPDATE ValidPaths SET deriver = '{deriver}', ultimate = 1, sigs = 'a:b  c:d', ca = 'fixed:r:sha256:x' WHERE id = {id}"
    ));
    let mut references = vec![path("all"), path("reference")];
    references.sort();
    let expected = PathInfo {
        id,
        path: path("all"),
        nar_hash: Sha256::of(b"all"),
        nar_size: 120,
        registered_at: 1_700_000_000,
        deriver: Some(path("all.drv")),
        ultimate: true,
        signatures: vec!["a:b".to_owned(), "c:d".to_owned()],
        ca: Some("fixed:r:sha256:x".to_owned()),
        references,
    };
    let database = fixture.open().unwrap();
    assert_eq!(database.info(&path("all")).unwrap().unwrap(), expected);
    assert_eq!(database.valid_after(0, 1).unwrap().paths, [expected]);
    fixture.run("UPDATE ValidPaths SET deriver = '', sigs = '', ca = '', registrationTime = -5, ultimate = NULL");
    let info = database.info(&path("all")).unwrap().unwrap();
    assert_eq!((info.deriver, info.ca, info.registered_at, info.ultimate), (None, None, 0, false));
    assert!(info.signatures.is_empty());
    assert_eq!(database.info(&path("absent")).unwrap(), None);
}

#[test]
fn pages_go_by_id_and_deletion_is_no_trap() {
    let fixture = Fixture::new();
    for number in 0..10 {
        fixture.add(&format!("p{number}"));
    }
    let database = fixture.open().unwrap();
    assert!(database.valid_after(0, 0).unwrap().paths.is_empty());
    let mut seen = Vec::new();
    let mut after = 0;
    while let Some(last) = database.valid_after(after, 3).unwrap().last_id() {
        seen.push(last);
        after = last;
    }
    assert_eq!(seen, [3, 6, 9, 10]);
    fixture.run("DELETE FROM ValidPaths WHERE id >= 9");
    assert_eq!(database.max_id().unwrap(), 10);
    assert!(database.valid_after(10, 3).unwrap().paths.is_empty());
    assert_eq!(fixture.add("p9"), 11);
    assert_eq!(names(&database.valid_after(10, 3).unwrap().paths), ["p9"]);
    assert_eq!(database.valid_after(i64::MAX, usize::MAX).unwrap(), Selection::default());
    assert_eq!(database.valid_after(i64::MIN, usize::MAX).unwrap().paths.len(), 9);
}

#[test]
fn closures_have_references_first() {
    let fixture = Fixture::new();
    let ids: Vec<i64> = ["top", "left", "right", "base", "other"].iter().map(|name| fixture.add(name)).collect();
    for (referrer, reference) in [(0, 1), (0, 2), (1, 3), (2, 3), (3, 3), (0, 0), (0, 3)] {
        fixture.refer(ids[referrer], ids[reference]);
    }
    let database = fixture.open().unwrap();
    let found = database.closure(&[path("top"), path("absent"), path("base"), path("top")]).unwrap();
    assert_eq!(found.absent, [path("absent")]);
    let order = names(&found.paths);
    let place = |name: &str| order.iter().position(|other| *other == name).unwrap();
    assert_eq!(order.len(), 4);
    assert!(place("base") < place("left") && place("base") < place("right") && place("top") == 3, "{order:?}");
    // A cycle, which no Nix makes, still ends.
    fixture.refer(ids[3], ids[0]);
    assert_eq!(database.closure(&[path("base")]).unwrap().paths.len(), 4);
}

#[test]
fn long_chains_and_large_sets() {
    let fixture = Fixture::new();
    fixture.run("BEGIN");
    let count = 3000;
    let ids: Vec<i64> = (0..count).map(|number| fixture.add(&format!("p{number}"))).collect();
    for pair in ids.windows(2) {
        fixture.refer(pair[0], pair[1]);
    }
    fixture.run("COMMIT");
    let database = fixture.open().unwrap();
    let closure = database.closure(&[path("p0")]).unwrap().paths;
    let expected: Vec<i64> = ids.iter().rev().copied().collect();
    assert_eq!(closure.iter().map(|info| info.id).collect::<Vec<_>>(), expected);
    let asked: Vec<StorePath> = (0..2 * count).map(|number| path(&format!("p{}", number % (count + 1)))).collect();
    let found = database.infos(&asked).unwrap();
    assert_eq!((found.paths.len(), found.absent), (count, vec![path(&format!("p{count}"))]));
    assert!(found.paths.iter().all(|info| info.references.len() <= 1));
}
