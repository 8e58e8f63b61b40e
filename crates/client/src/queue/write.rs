use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use firn_nix::StorePath;
use rusqlite::{Transaction, params};
use rustix::fs::{FlockOperation, flock};

use super::entry::{Counter, Cursor, NewEntry, Settled, Verdict};
use super::error::{Error, Result};
use super::read::{Reader, integer};
use super::schema;

/// The longest time that a path may have to wait for its next try, in milliseconds: 15 minutes.
pub const MAX_WAIT_MILLIS: u64 = 15 * 60 * 1000;

/// How many lost paths are kept by name; the counter goes on.
pub const MAX_LOST: i64 = 1000;

/// How much of an error's text is kept, in bytes.
const MAX_ERROR_BYTES: usize = 1000;

/// What one transaction takes in.
#[derive(Debug, Clone, Default)]
pub struct Intake {
    /// When.
    pub now: u64,
    /// The paths to queue. One that waits already stays as it is; a dead letter is revived.
    pub entries: Vec<NewEntry>,
    /// Paths that were noticed when they were gone already.
    pub lost: Vec<NewEntry>,
    /// What to add to counters.
    pub count: Vec<(Counter, u64)>,
    /// How far Nix's database is read with this.
    pub cursor: Option<Cursor>,
    /// The URL of the cache that what the cursor passed was meant for, if that changes.
    pub cache: Option<String>,
}

impl Intake {
    /// Returns an empty one.
    #[must_use]
    pub fn at(now: u64) -> Self {
        Self { now, ..Self::default() }
    }
}

/// What became of an [`Intake`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Paths that wait now and didn't before.
    pub new: u64,
    /// Paths that waited already.
    pub known: u64,
}

/// Which dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetters<'a> {
    /// All of them.
    All,
    /// These.
    Paths(&'a [StorePath]),
}

/// The queue, owned: there is at most one of these for a directory.
///
/// Every method that changes something is one transaction, and durable when it returns.
#[derive(Debug)]
pub struct Queue {
    reader: Reader,
    directory: PathBuf,
    /// The kernel lets go of it when the process is gone, however that happens.
    lock: File,
    /// Device and inode of the database.
    database: (u64, u64),
}

impl Queue {
    /// Opens the queue of a directory, and makes both if need be (mode 0700). [`Error::Owned`] if another process has it.
    pub fn open(directory: &Path) -> Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|source| Error::of_io("create", directory, source))?;
        let lock = lock(directory)?;
        let file = schema::file(directory);
        let connection = schema::open(&file)?;
        let found = fs::metadata(&file).map_err(|source| Error::of_io("look at", &file, source))?;
        let (directory, database) = (directory.to_owned(), identity(&found));
        Ok(Self { reader: Reader::over(connection, file), directory, lock, database })
    }

    /// Says if the queue is still where it belongs: [`Error::Gone`] if its files are not, or others are.
    pub fn check_place(&self) -> Result<()> {
        let lock =
            self.lock.metadata().map_err(|source| Error::of_io("look at the lock in", &self.directory, source))?;
        let expected = [(lock_file(&self.directory), identity(&lock)), (schema::file(&self.directory), self.database)];
        for (file, expected) in expected {
            match fs::metadata(&file) {
                Ok(found) if identity(&found) == expected => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::of_io("look at", &file, error));
                }
                Ok(_) | Err(_) => return Err(Error::Gone { directory: self.directory.clone() }),
            }
        }
        Ok(())
    }

    /// Returns what can be read.
    pub fn read(&self) -> &Reader {
        &self.reader
    }

    /// Takes in paths, counters and the cursor, all or nothing.
    pub fn take_in(&mut self, intake: &Intake) -> Result<Taken> {
        self.change("take in paths", |transaction| {
            let mut taken = Taken::default();
            let mut insert = transaction.prepare_cached(
                "INSERT INTO path (path, state, source, nar_bytes, attempts, first_seen_at, not_before)
                 VALUES (?1, 0, ?2, ?3, 0, ?4, ?4)
                 ON CONFLICT (path) DO UPDATE SET state = 0, attempts = 0, not_before = ?4 WHERE state = 1",
            )?;
            for entry in &intake.entries {
                let (path, bytes) = (entry.path.base_name(), integer(entry.nar_bytes));
                match insert.execute(params![path, entry.source.name(), bytes, integer(intake.now)])? {
                    0 => taken.known += 1,
                    _ => taken.new += 1,
                }
            }
            for entry in &intake.lost {
                lose(transaction, &entry.path, entry.nar_bytes, intake.now)?;
            }
            for (counter, by) in &intake.count {
                add(transaction, *counter, *by)?;
            }
            if let Some(cursor) = &intake.cursor {
                write_cursor(transaction, cursor)?;
            }
            if let Some(url) = &intake.cache {
                let sql = "INSERT INTO cache (one, url) VALUES (1, ?1) ON CONFLICT (one) DO UPDATE SET url = ?1";
                transaction.execute(sql, [url])?;
            }
            Ok(taken)
        })
    }

    /// Writes down what became of paths; those that are not in the queue are only counted.
    pub fn settle(&mut self, now: u64, settled: &[Settled]) -> Result<()> {
        self.change("write down results", |transaction| {
            settled.iter().try_for_each(|one| settle_one(transaction, now, one))
        })
    }

    /// Makes dead letters wait again, from their first try on. Returns how many.
    pub fn requeue(&mut self, which: DeadLetters<'_>, now: u64) -> Result<u64> {
        const REVIVE: &str = "UPDATE path SET state = 0, attempts = 0, not_before = ?1 WHERE state = 1";
        self.change("requeue", |transaction| {
            let now = integer(now);
            let mut changed = 0;
            match which {
                DeadLetters::All => changed += transaction.execute(REVIVE, [now])?,
                DeadLetters::Paths(paths) => {
                    for path in paths {
                        let sql = format!("{REVIVE} AND path = ?2");
                        changed += transaction.execute(&sql, params![now, path.base_name()])?;
                    }
                }
            }
            Ok(changed as u64)
        })
    }

    /// Removes dead letters: nothing is known of them afterwards, and what registers such a path again queues it. Returns how many.
    pub fn forget(&mut self, which: DeadLetters<'_>) -> Result<u64> {
        const FORGET: &str = "DELETE FROM path WHERE state = 1";
        self.change("forget dead letters", |transaction| {
            let mut changed = 0;
            match which {
                DeadLetters::All => changed += transaction.execute(FORGET, [])?,
                DeadLetters::Paths(paths) => {
                    for path in paths {
                        changed += transaction.execute(&format!("{FORGET} AND path = ?1"), [path.base_name()])?;
                    }
                }
            }
            Ok(changed as u64)
        })
    }

    /// Makes every waiting path due now.
    pub fn hurry(&mut self, now: u64) -> Result<()> {
        self.change("make paths due", |transaction| {
            transaction.execute("UPDATE path SET not_before = ?1 WHERE state = 0 AND not_before > ?1", [integer(now)])
        })?;
        Ok(())
    }

    fn change<T>(
        &mut self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let file = self.reader.file().to_owned();
        let run = |connection: &mut rusqlite::Connection| {
            let transaction = connection.transaction()?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        run(self.reader.connection()).map_err(|source| Error::of_sqlite(doing, &file, source))
    }

    /// Lets the database grow to this many pages, as a disk does that is nearly full.
    #[cfg(test)]
    pub(crate) fn limit_pages(&mut self, pages: i64) {
        self.reader
            .connection()
            .query_row(&format!("PRAGMA max_page_count = {pages}"), [], |row| row.get::<_, i64>(0))
            .expect("the limit is taken");
    }
}

fn lock_file(directory: &Path) -> PathBuf {
    directory.join("queue.lock")
}

/// Returns what tells a file from another.
fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn lock(directory: &Path) -> Result<File> {
    let path = lock_file(directory);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|source| Error::of_io("open", &path, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Owned { directory: directory.to_owned() }),
        Err(errno) => Err(Error::of_io("lock", &path, errno.into())),
    }
}

fn settle_one(transaction: &Transaction<'_>, now: u64, settled: &Settled) -> rusqlite::Result<()> {
    let path = settled.path.base_name();
    let nar_bytes = || {
        let sql = "SELECT coalesce(max(nar_bytes), 0) FROM path WHERE path = ?1";
        let found: i64 = transaction.query_row(sql, [&path], |row| row.get(0))?;
        Ok::<u64, rusqlite::Error>(u64::try_from(found).unwrap_or(0))
    };
    let remove = || transaction.execute("DELETE FROM path WHERE path = ?1", [&path]).map(drop);
    match &settled.verdict {
        Verdict::Pushed { sent_bytes } => {
            add(transaction, Counter::Pushed, 1)?;
            add(transaction, Counter::PushedBytes, nar_bytes()?)?;
            add(transaction, Counter::SentBytes, *sent_bytes)?;
            remove()
        }
        Verdict::AlreadyThere => {
            add(transaction, Counter::AlreadyThere, 1)?;
            remove()
        }
        Verdict::Skipped(counter) => {
            add(transaction, *counter, 1)?;
            remove()
        }
        Verdict::Lost => {
            lose(transaction, &settled.path, nar_bytes()?, now)?;
            remove()
        }
        Verdict::Refused { error } => {
            add(transaction, Counter::Refused, 1)?;
            let sql = "UPDATE path SET state = 1, attempts = attempts + 1, error = ?2 WHERE path = ?1";
            transaction.execute(sql, params![path, cut(error)]).map(drop)
        }
        Verdict::Retry { error, not_before } => {
            add(transaction, Counter::Retried, 1)?;
            let sql = "UPDATE path SET attempts = attempts + 1, error = ?2, not_before = ?3 WHERE path = ?1";
            transaction.execute(sql, params![path, cut(error), integer(*not_before)]).map(drop)
        }
    }
}

fn lose(transaction: &Transaction<'_>, path: &StorePath, nar_bytes: u64, now: u64) -> rusqlite::Result<()> {
    add(transaction, Counter::LostBeforePush, 1)?;
    let sql = "INSERT INTO lost (path, nar_bytes, at) VALUES (?1, ?2, ?3)";
    transaction.execute(sql, params![path.base_name(), integer(nar_bytes), integer(now)])?;
    transaction.execute("DELETE FROM lost WHERE sequence <= (SELECT max(sequence) FROM lost) - ?1", [MAX_LOST])?;
    Ok(())
}

fn add(transaction: &Transaction<'_>, counter: Counter, by: u64) -> rusqlite::Result<()> {
    // SQLite turns an integer that overflows into a float, which a STRICT table refuses: stop at the end instead.
    let sql = "INSERT INTO counter (name, value) VALUES (?1, ?2) ON CONFLICT (name)
               DO UPDATE SET value = value + min(?2, 9223372036854775807 - value)";
    transaction.prepare_cached(sql)?.execute(params![counter.name(), integer(by)])?;
    Ok(())
}

fn write_cursor(transaction: &Transaction<'_>, cursor: &Cursor) -> rusqlite::Result<()> {
    let (witness, database) = (cursor.witness.as_ref(), cursor.database);
    transaction
        .execute(
            "INSERT INTO cursor (one, device, inode, born_at_ns, schema, last_id, witness_path, witness_at)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7)
             ON CONFLICT (one) DO UPDATE SET device = ?1, inode = ?2, born_at_ns = ?3, schema = ?4, last_id = ?5,
                 witness_path = ?6, witness_at = ?7",
            // As text: device numbers and inodes use all 64 bits on some file systems.
            params![
                database.device.to_string(),
                database.inode.to_string(),
                database.born_at_ns.to_string(),
                database.schema.to_string(),
                cursor.last_id,
                witness.map(|witness| witness.path.base_name()),
                witness.map(|witness| witness.registered_at.to_string()),
            ],
        )
        .map(drop)
}

fn cut(text: &str) -> &str {
    let end = (0..=text.len().min(MAX_ERROR_BYTES)).rev().find(|end| text.is_char_boundary(*end));
    end.and_then(|end| text.get(..end)).unwrap_or_default()
}
