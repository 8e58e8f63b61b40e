//! Statements, and rows as [`PathInfo`]s.

use std::collections::{HashMap, HashSet};

use firn_nix::StorePath;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql, params_from_iter};

use crate::{PathInfo, Selection, UnreadableRow};

/// How many paths one statement asks for: enough to make a statement's own cost nothing, few enough for SQLite's limits.
pub(super) const BATCH: usize = 512;

/// The most bytes of a malformed path that are repeated to the user.
const SHOWN_BYTES: usize = 512;

const COLUMNS: &str = "id, path, hash, narSize, registrationTime, deriver, ultimate, sigs, ca";

/// Fails if the tables are not as this module expects them.
pub(super) fn probe(connection: &Connection) -> rusqlite::Result<()> {
    connection.prepare(&format!("SELECT {COLUMNS} FROM ValidPaths WHERE id = 0"))?.exists([])?;
    connection.prepare("SELECT reference FROM Refs WHERE referrer = 0")?.exists([])?;
    connection.prepare("SELECT seq FROM sqlite_sequence WHERE name = 'ValidPaths'")?.exists([])?;
    Ok(())
}

/// Returns the rows after an id, with their references by one further statement.
pub(super) fn page(
    connection: &Connection,
    store_dir: &str,
    after_id: i64,
    limit: usize,
) -> rusqlite::Result<Selection> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let sql = format!("SELECT {COLUMNS} FROM ValidPaths WHERE id > ?1 ORDER BY id LIMIT ?2");
    let mut reader = Reader::new(store_dir);
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query([after_id, limit])?;
    while let Some(row) = rows.next()? {
        reader.add(row)?;
    }
    let Some(last_id) = reader.last_id() else { return Ok(Selection::default()) };
    // CROSS JOIN is SQLite's word for "in this order": without statistics it might begin with the other table.
    let mut statement = connection.prepare_cached(
        "SELECT referrer, path FROM Refs CROSS JOIN ValidPaths ON id = reference WHERE referrer > ?1 AND referrer <= ?2",
    )?;
    let mut rows = statement.query([after_id, last_id])?;
    while let Some(row) = rows.next()? {
        reader.add_reference(row)?;
    }
    Ok(reader.finish())
}

/// Returns names and paths of a derivation's outputs.
pub(super) fn outputs(connection: &Connection, derivation: &str) -> rusqlite::Result<Vec<(String, String)>> {
    let mut statement = connection.prepare_cached(
        "SELECT DerivationOutputs.id, DerivationOutputs.path FROM ValidPaths
         CROSS JOIN DerivationOutputs ON drv = ValidPaths.id WHERE ValidPaths.path = ?1",
    )?;
    let found = statement.query_map([derivation], |row| Ok((row.get(0)?, row.get(1)?)))?;
    found.collect()
}

/// Adds what is known of at most [`BATCH`] paths.
pub(super) fn named(
    connection: &Connection,
    store_dir: &str,
    paths: &[StorePath],
    all: &mut Selection,
) -> rusqlite::Result<()> {
    let mut absent: HashSet<String> = paths.iter().map(|path| path.to_absolute(store_dir)).collect();
    let mut reader = Reader::new(store_dir);
    let mut statement =
        connection.prepare_cached(&format!("SELECT {COLUMNS} FROM ValidPaths WHERE path IN ({})", placeholders()))?;
    let mut rows = statement.query(params_from_iter(padded(absent.iter())))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        reader.add(row)?;
        found.push(row.get::<_, String>(1)?);
    }
    for path in found {
        absent.remove(&path);
    }
    let ids: Vec<i64> = reader.infos.iter().map(|info| info.id).collect();
    let mut statement = connection.prepare_cached(&format!(
        "SELECT referrer, path FROM Refs CROSS JOIN ValidPaths ON id = reference WHERE referrer IN ({})",
        placeholders()
    ))?;
    let mut rows = statement.query(params_from_iter(padded(ids.iter())))?;
    while let Some(row) = rows.next()? {
        reader.add_reference(row)?;
    }
    let Selection { paths: infos, unreadable, .. } = reader.finish();
    all.paths.extend(infos);
    all.unreadable.extend(unreadable);
    all.absent.extend(paths.iter().filter(|path| absent.contains(&path.to_absolute(store_dir))).cloned());
    Ok(())
}

/// Always the same number of them, so that there is one statement to prepare.
fn placeholders() -> String {
    vec!["?"; BATCH].join(",")
}

/// Fills up with NULL, which equals nothing.
fn padded<'a, T: ToSql + 'a>(values: impl Iterator<Item = &'a T>) -> impl Iterator<Item = Option<&'a T>> {
    values.map(Some).chain(std::iter::repeat(None)).take(BATCH)
}

/// Collects rows and then their references.
struct Reader<'a> {
    store_dir: &'a str,
    infos: Vec<PathInfo>,
    unreadable: Vec<UnreadableRow>,
    /// Where in `infos` an id is.
    places: HashMap<i64, usize>,
    /// Many paths refer to the same few.
    known: HashMap<String, StorePath>,
    /// References that are no store paths, by who has them.
    bad_references: HashMap<i64, String>,
}

impl<'a> Reader<'a> {
    fn new(store_dir: &'a str) -> Self {
        Self {
            store_dir,
            infos: Vec::new(),
            unreadable: Vec::new(),
            places: HashMap::new(),
            known: HashMap::new(),
            bad_references: HashMap::new(),
        }
    }

    fn last_id(&self) -> Option<i64> {
        self.infos.iter().map(|info| info.id).chain(self.unreadable.iter().map(|row| row.id)).max()
    }

    fn add(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let id = row.get(0)?;
        match path_info(row, id, self.store_dir)? {
            Ok(info) => {
                self.places.insert(id, self.infos.len());
                self.infos.push(info);
            }
            Err(why) => self.unreadable.push(UnreadableRow { id, path: shown(row.get_ref(1)?), why }),
        }
        Ok(())
    }

    fn add_reference(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        let referrer: i64 = row.get(0)?;
        let Some(info) = self.places.get(&referrer).and_then(|&place| self.infos.get_mut(place)) else {
            return Ok(());
        };
        let value = row.get_ref(1)?;
        let Ok(text) = value.as_str() else {
            self.bad_references.insert(referrer, shown(value));
            return Ok(());
        };
        if let Some(path) = self.known.get(text) {
            info.references.push(path.clone());
        } else if let Ok(path) = StorePath::parse_absolute(text, self.store_dir) {
            self.known.insert(text.to_owned(), path.clone());
            info.references.push(path);
        } else {
            self.bad_references.insert(referrer, shown(value));
        }
        Ok(())
    }

    fn finish(mut self) -> Selection {
        let mut infos = Vec::with_capacity(self.infos.len());
        for info in self.infos {
            match self.bad_references.get(&info.id) {
                None => infos.push(info),
                Some(reference) => self.unreadable.push(UnreadableRow {
                    id: info.id,
                    path: info.path.to_absolute(self.store_dir),
                    why: format!("its reference {reference:?} is no store path of {}", self.store_dir),
                }),
            }
        }
        for info in &mut infos {
            info.references.sort_unstable();
        }
        self.unreadable.sort_unstable_by_key(|row| row.id);
        Selection { paths: infos, absent: Vec::new(), unreadable: self.unreadable }
    }
}

/// Returns a value for people, whatever it is.
fn shown(value: ValueRef<'_>) -> String {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
            String::from_utf8_lossy(bytes.get(..SHOWN_BYTES).unwrap_or(bytes)).into_owned()
        }
        ValueRef::Null => "nothing".to_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
    }
}

/// Returns what a row says, without references, or why it says nothing.
fn path_info(row: &Row<'_>, id: i64, store_dir: &str) -> rusqlite::Result<Result<PathInfo, String>> {
    let columns = Columns { path: row.get_ref(1)?, hash: row.get_ref(2)?, size: row.get_ref(3)?, at: row.get_ref(4)? };
    let optional =
        Optional { deriver: row.get_ref(5)?, ultimate: row.get_ref(6)?, sigs: row.get_ref(7)?, ca: row.get_ref(8)? };
    Ok(parse(id, store_dir, &columns, &optional))
}

struct Columns<'a> {
    path: ValueRef<'a>,
    hash: ValueRef<'a>,
    size: ValueRef<'a>,
    at: ValueRef<'a>,
}

struct Optional<'a> {
    deriver: ValueRef<'a>,
    ultimate: ValueRef<'a>,
    sigs: ValueRef<'a>,
    ca: ValueRef<'a>,
}

fn parse(id: i64, store_dir: &str, columns: &Columns<'_>, optional: &Optional<'_>) -> Result<PathInfo, String> {
    let store_path = |column: &str, text: &str| {
        StorePath::parse_absolute(text, store_dir)
            .map_err(|error| format!("its {column} {text:?} is no store path of {store_dir}: {error}"))
    };
    let hash = text("hash", columns.hash)?;
    let size = integer("narSize", columns.size)?.unwrap_or(0);
    let deriver = optional_text("deriver", optional.deriver)?;
    Ok(PathInfo {
        id,
        path: store_path("path", text("path", columns.path)?)?,
        nar_hash: hash.parse().map_err(|error| format!("its hash {hash:?} is none: {error}"))?,
        nar_size: u64::try_from(size).ok().filter(|&size| size > 0).ok_or("its narSize is not recorded")?,
        registered_at: u64::try_from(integer("registrationTime", columns.at)?.unwrap_or(0)).unwrap_or(0),
        deriver: deriver.map(|deriver| store_path("deriver", deriver)).transpose()?,
        ultimate: integer("ultimate", optional.ultimate)?.unwrap_or(0) != 0,
        signatures: optional_text("sigs", optional.sigs)?
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
        ca: optional_text("ca", optional.ca)?.map(str::to_owned),
        references: Vec::new(),
    })
}

fn text<'a>(column: &str, value: ValueRef<'a>) -> Result<&'a str, String> {
    value.as_str().map_err(|_| format!("its {column} is no text: {:?}", shown(value)))
}

/// Returns `None` for NULL and for an empty text, both of which Nix writes.
fn optional_text<'a>(column: &str, value: ValueRef<'a>) -> Result<Option<&'a str>, String> {
    if value == ValueRef::Null {
        Ok(None)
    } else {
        text(column, value).map(|text| Some(text).filter(|text| !text.is_empty()))
    }
}

fn integer(column: &str, value: ValueRef<'_>) -> Result<Option<i64>, String> {
    value.as_i64_or_null().map_err(|_| format!("its {column} is no number: {:?}", shown(value)))
}
