use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::{Error, Result};

/// The format that this program writes, in SQLite's `user_version`.
pub(super) const VERSION: i64 = 1;

/// "firq" in SQLite's `application_id`, so that no other database is taken for a queue.
const APPLICATION_ID: i64 = 0x6669_7271;

/// How long a statement waits for a reader or writer: transactions here take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Format 1.
const CREATE: &str = "
    CREATE TABLE path (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL UNIQUE,
        state INTEGER NOT NULL,
        source TEXT NOT NULL,
        nar_bytes INTEGER NOT NULL,
        attempts INTEGER NOT NULL,
        first_seen_at INTEGER NOT NULL,
        not_before INTEGER NOT NULL,
        error TEXT
    ) STRICT;
    CREATE INDEX path_by_turn ON path (state, attempts, sequence);
    CREATE TABLE lost (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        path TEXT NOT NULL,
        nar_bytes INTEGER NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE cursor (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        device TEXT NOT NULL,
        inode TEXT NOT NULL,
        born_at_ns TEXT NOT NULL,
        schema TEXT NOT NULL,
        last_id INTEGER NOT NULL,
        witness_path TEXT,
        witness_at TEXT
    ) STRICT;
";

/// What format 1 has since it was first written; earlier programs do without, and leave it alone.
const ADD: &str = "
    CREATE TABLE IF NOT EXISTS cache (one INTEGER PRIMARY KEY CHECK (one = 1), url TEXT NOT NULL) STRICT;
";

/// Returns the database file of a queue's directory.
pub(super) fn file(directory: &Path) -> PathBuf {
    directory.join("queue.sqlite")
}

/// Opens the database for writing, makes it if there is none, and checks that it is whole.
pub(super) fn open(file: &Path) -> Result<Connection> {
    let fail = |doing| move |source| Error::of_sqlite(doing, file, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(file, flags).map_err(fail("open"))?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail("open"))?;
    // A damaged header must not be taken for an empty database, so this comes before anything is written.
    let found = check_version(&connection, file)?;
    connection.pragma_update(None, "journal_mode", "wal").map_err(fail("switch on the log"))?;
    connection.pragma_update(None, "synchronous", "full").map_err(fail("switch on syncing"))?;
    if found == 0 {
        create(&mut connection).map_err(fail("create the tables"))?;
    } else {
        check_whole(&connection, file)?;
        connection.execute_batch(ADD).map_err(fail("create the tables"))?;
    }
    Ok(connection)
}

/// Opens the database for reading only.
pub(super) fn open_to_read(file: &Path) -> Result<Connection> {
    let fail = |source| Error::of_sqlite("open", file, source);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    if check_version(&connection, file)? == 0 {
        return Err(Error::Corrupt { file: file.to_owned(), what: "it has no tables".to_owned() });
    }
    Ok(connection)
}

/// Returns the format, 0 for an empty database.
fn check_version(connection: &Connection, file: &Path) -> Result<i64> {
    let fail = |source| Error::of_sqlite("read the format", file, source);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map_err(fail);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(fail)?;
    let (application, found) = (number("application_id")?, number("user_version")?);
    if application == 0 && found == 0 && tables == 0 {
        return Ok(0);
    }
    if application != APPLICATION_ID || found < 1 {
        return Err(Error::Corrupt { file: file.to_owned(), what: "it is another program's database".to_owned() });
    }
    if found > VERSION {
        return Err(Error::Newer { file: file.to_owned(), found, known: VERSION });
    }
    Ok(found)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(CREATE)?;
    transaction.execute_batch(ADD)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

fn check_whole(connection: &Connection, file: &Path) -> Result<()> {
    let answer: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| Error::of_sqlite("check", file, source))?;
    if answer == "ok" { Ok(()) } else { Err(Error::Corrupt { file: file.to_owned(), what: answer }) }
}
