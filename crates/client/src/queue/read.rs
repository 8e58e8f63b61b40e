use std::path::{Path, PathBuf};

use firn_nix::StorePath;
use firn_nix_store::DbIdentity;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::entry::{Counter, Cursor, Entry, Lost, Source, State, Totals, Witness};
use super::error::{Error, Result};
use super::schema;
use super::write::MAX_WAIT_MILLIS;

/// The columns of [`entry_of`], in its order.
const COLUMNS: &str = "sequence, path, state, source, nar_bytes, attempts, first_seen_at, not_before, error";

/// What can be read of a queue; opening one needs no lock, so it works beside the agent that owns the queue.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    file: PathBuf,
}

impl Reader {
    /// Opens the queue of a directory for reading. [`Error::Absent`] if no agent ever made one.
    pub fn open(directory: &Path) -> Result<Self> {
        let file = schema::file(directory);
        match file.symlink_metadata() {
            Ok(_) => {}
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::Absent { directory: directory.to_owned() });
            }
            Err(source) => return Err(Error::of_io("look at", &file, source)),
        }
        Ok(Self { connection: schema::open_to_read(&file)?, file })
    }

    pub(super) fn over(connection: Connection, file: PathBuf) -> Self {
        Self { connection, file }
    }

    pub(super) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Returns how far Nix's database was read; `None` before the first time.
    pub fn cursor(&self) -> Result<Option<Cursor>> {
        let row = self.connection.query_row(
            "SELECT device, inode, born_at_ns, schema, last_id, witness_path, witness_at FROM cursor",
            [],
            |row| {
                let text = |column| row.get::<_, String>(column);
                let witness = row.get::<_, Option<String>>(5)?.zip(row.get::<_, Option<String>>(6)?);
                Ok(([text(0)?, text(1)?, text(2)?, text(3)?], row.get(4)?, witness))
            },
        );
        let row = row.optional().map_err(|source| self.failed("read the cursor", source))?;
        let Some(([device, inode, born_at_ns, schema], last_id, witness)) = row else { return Ok(None) };
        let number = |text: String| text.parse().map_err(|_| self.corrupt("a number of the cursor"));
        let witness = match witness {
            Some((path, at)) => Some(Witness { path: self.path(&path)?, registered_at: number(at)? }),
            None => None,
        };
        let schema = schema.parse().map_err(|_| self.corrupt("a number of the cursor"))?;
        let (device, inode, born_at_ns) = (number(device)?, number(inode)?, number(born_at_ns)?);
        Ok(Some(Cursor { database: DbIdentity { device, inode, born_at_ns, schema }, last_id, witness }))
    }

    /// Returns the URL of the cache that what the cursor passed was meant for; `None` before anybody wrote it down.
    pub fn cache(&self) -> Result<Option<String>> {
        let fail = |source| self.failed("read the cache", source);
        // A queue that only earlier programs opened has no such table.
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'cache'";
        if self.number(sql, [])? == 0 {
            return Ok(None);
        }
        self.connection.query_row("SELECT url FROM cache", [], |row| row.get(0)).optional().map_err(fail)
    }

    /// Returns at most `limit` waiting paths whose time has come: those that failed least often first, then the oldest.
    ///
    /// A time further ahead than any wait can be is one that a jump of the clock left behind: it has come as well.
    pub fn due(&self, now: u64, limit: usize) -> Result<Vec<Entry>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM path WHERE state = 0 AND (not_before <= ?1 OR not_before > ?2)
             ORDER BY attempts, sequence LIMIT ?3"
        );
        self.entries(&sql, params![integer(now), integer(now.saturating_add(MAX_WAIT_MILLIS)), count(limit)])
    }

    /// Returns when the first waiting path's time comes, `None` if none waits.
    pub fn next_due(&self, now: u64) -> Result<Option<u64>> {
        let sql = "SELECT min(CASE WHEN not_before > ?1 THEN 0 ELSE not_before END) FROM path WHERE state = 0";
        let horizon = integer(now.saturating_add(MAX_WAIT_MILLIS));
        let found: Option<i64> = self
            .connection
            .query_row(sql, [horizon], |row| row.get(0))
            .map_err(|source| self.failed("look for what is due", source))?;
        Ok(found.map(natural))
    }

    /// Returns when the next time of a waiting path comes that has not come yet, `None` if there is none.
    pub fn next_after(&self, now: u64) -> Result<Option<u64>> {
        let sql = "SELECT min(not_before) FROM path WHERE state = 0 AND not_before > ?1 AND not_before <= ?2";
        let horizon = integer(now.saturating_add(MAX_WAIT_MILLIS));
        let found: Option<i64> = self
            .connection
            .query_row(sql, [integer(now), horizon], |row| row.get(0))
            .map_err(|source| self.failed("look for what is due later", source))?;
        Ok(found.map(natural))
    }

    /// Returns at most `limit` waiting paths behind a place, in their order.
    pub fn waiting(&self, after: i64, limit: usize) -> Result<Vec<Entry>> {
        let sql = format!("SELECT {COLUMNS} FROM path WHERE state = 0 AND sequence > ?1 ORDER BY sequence LIMIT ?2");
        self.entries(&sql, params![after, count(limit)])
    }

    /// Returns at most `limit` dead letters behind a place, in their order.
    pub fn dead(&self, after: i64, limit: usize) -> Result<Vec<Entry>> {
        let sql = format!("SELECT {COLUMNS} FROM path WHERE state = 1 AND sequence > ?1 ORDER BY sequence LIMIT ?2");
        self.entries(&sql, params![after, count(limit)])
    }

    /// Returns a path's entry.
    pub fn entry(&self, path: &StorePath) -> Result<Option<Entry>> {
        let sql = format!("SELECT {COLUMNS} FROM path WHERE path = ?1");
        Ok(self.entries(&sql, [path.base_name()])?.pop())
    }

    /// Returns how many paths wait whose place is not behind `sequence`.
    pub fn waiting_until(&self, sequence: i64) -> Result<u64> {
        self.number("SELECT count(*) FROM path WHERE state = 0 AND sequence <= ?1", [sequence])
    }

    /// Returns the highest place that was given, 0 if none was.
    pub fn last_sequence(&self) -> Result<i64> {
        let found = self.connection.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'path'", [], |r| r.get(0));
        Ok(found.optional().map_err(|source| self.failed("read the last place", source))?.unwrap_or(0))
    }

    /// Returns the place of the path that was lost last, 0 if none ever was.
    pub fn last_lost(&self) -> Result<i64> {
        let found = self.connection.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'lost'", [], |r| r.get(0));
        Ok(found.optional().map_err(|source| self.failed("read the last loss", source))?.unwrap_or(0))
    }

    /// Returns the paths that were lost behind a place, in their order: at most [`MAX_LOST`](super::MAX_LOST), the latest.
    pub fn lost_since(&self, after: i64) -> Result<Vec<StorePath>> {
        let fail = |source| self.failed("list what was lost", source);
        let sql = "SELECT path FROM lost WHERE sequence > ?1 ORDER BY sequence";
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let rows = statement.query_map([after], |row| row.get::<_, String>(0)).map_err(fail)?;
        rows.map(|row| self.path(&row.map_err(fail)?)).collect()
    }

    /// Returns at most `limit` lost paths, the latest first.
    pub fn lost(&self, limit: usize) -> Result<Vec<Lost>> {
        let fail = |source| self.failed("list what was lost", source);
        let sql = "SELECT path, nar_bytes, at FROM lost ORDER BY sequence DESC LIMIT ?1";
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let rows = statement
            .query_map([count(limit)], |row| Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?)))
            .map_err(fail)?;
        let mut lost = Vec::new();
        for row in rows {
            let (path, nar_bytes, at) = row.map_err(fail)?;
            lost.push(Lost { path: self.path(&path)?, nar_bytes: natural(nar_bytes), at: natural(at) });
        }
        Ok(lost)
    }

    /// Returns what the queue holds and its counters.
    pub fn totals(&self) -> Result<Totals> {
        let fail = |source| self.failed("count", source);
        let sql = "SELECT count(*), total(nar_bytes), count(nullif(attempts, 0)), min(first_seen_at)
                   FROM path WHERE state = 0";
        let mut totals = self
            .connection
            .query_row(sql, [], |row| {
                Ok(Totals {
                    waiting: natural(row.get(0)?),
                    // `total` can't overflow, which `sum` might over numbers that someone else put there.
                    waiting_bytes: row.get::<_, f64>(1)? as u64,
                    retrying: natural(row.get(2)?),
                    oldest_at: row.get::<_, Option<i64>>(3)?.map(natural),
                    ..Totals::default()
                })
            })
            .map_err(fail)?;
        totals.dead = self.number("SELECT count(*) FROM path WHERE state = 1", [])?;
        let mut statement = self.connection.prepare_cached("SELECT name, value FROM counter").map_err(fail)?;
        let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?))).map_err(fail)?;
        for row in rows {
            let (name, value) = row.map_err(fail)?;
            if let Some(counter) = Counter::ALL.iter().find(|counter| counter.name() == name) {
                totals.counters.insert(counter.name(), natural(value));
            }
        }
        Ok(totals)
    }

    fn number(&self, sql: &str, arguments: impl rusqlite::Params) -> Result<u64> {
        let found = self.connection.query_row(sql, arguments, |row| row.get(0));
        found.map(natural).map_err(|source| self.failed("count", source))
    }

    fn entries(&self, sql: &str, arguments: impl rusqlite::Params) -> Result<Vec<Entry>> {
        let fail = |source| self.failed("list paths", source);
        let mut statement = self.connection.prepare_cached(sql).map_err(fail)?;
        let mut rows = statement.query(arguments).map_err(fail)?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next().map_err(fail)? {
            entries.push(self.entry_of(row)?);
        }
        Ok(entries)
    }

    fn entry_of(&self, row: &Row<'_>) -> Result<Entry> {
        let fail = |source| self.failed("read a path", source);
        let (path, source): (String, String) = (row.get(1).map_err(fail)?, row.get(3).map_err(fail)?);
        let state = match row.get(2).map_err(fail)? {
            0 => State::Waiting,
            1 => State::Dead,
            _ => return Err(self.corrupt("a path's state")),
        };
        let number = |column| row.get::<_, i64>(column).map(natural).map_err(fail);
        Ok(Entry {
            sequence: row.get(0).map_err(fail)?,
            path: self.path(&path)?,
            state,
            source: *Source::ALL
                .iter()
                .find(|known| known.name() == source)
                .ok_or_else(|| self.corrupt("where a path came from"))?,
            nar_bytes: number(4)?,
            attempts: u32::try_from(number(5)?).unwrap_or(u32::MAX),
            first_seen_at: number(6)?,
            not_before: number(7)?,
            error: row.get(8).map_err(fail)?,
        })
    }

    fn path(&self, text: &str) -> Result<StorePath> {
        text.parse().map_err(|_| self.corrupt("a store path"))
    }

    fn corrupt(&self, what: &str) -> Error {
        Error::Corrupt { file: self.file.clone(), what: format!("{what} makes no sense") }
    }

    fn failed(&self, doing: &'static str, source: rusqlite::Error) -> Error {
        Error::of_sqlite(doing, &self.file, source)
    }
}

/// Returns a number as SQLite stores it; what doesn't fit is beyond any real time or length.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn natural(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
