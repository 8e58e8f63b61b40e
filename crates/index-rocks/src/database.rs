//! Opening a database, and the version of its format.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use firn_index::{Error, Result};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, ErrorKind, FlushOptions, Options,
    WaitForCompactOptions, WriteBatch, WriteOptions,
};

use crate::errors::{failed, failed_io, failed_open};
use crate::log_files;

/// How long merges are waited for.
const MERGE_WAIT: Duration = Duration::from_secs(1800);

/// Where a database notes its format: in the default column family.
const FORMAT_KEY: &[u8] = b"format";
const FORMAT: &str = "the version of the index";

/// Opens a database in a folder, or makes one; refuses one of a newer format than `version` and one that another process
/// has open. One of an older format has this one afterwards: between them only column families
/// were added, and what packs may hold. `default` are the settings of the default column family, `family` those of the others.
pub(crate) fn open(
    folder: &Path,
    version: u32,
    options: &Options,
    default: &Options,
    families: &[&str],
    family: &Options,
) -> Result<DB> {
    make_folder(folder)?;
    refuse_leftovers(folder)?;
    log_files::check(folder)?;
    let doing = format!("open the index in {}", folder.display());
    let known = ["default"].iter().chain(families);
    let mut names: Vec<String> = known.map(|name| (*name).to_owned()).collect();
    // A newer firn may have added families. RocksDB wants to hear of all before it lets the version be read.
    let strange: Vec<String> = if folder.join("CURRENT").exists() {
        let there = DB::list_cf(options, folder).map_err(failed_open(&doing))?;
        there.into_iter().filter(|name| !names.contains(name)).collect()
    } else {
        Vec::new()
    };
    names.extend(strange.iter().cloned());
    let descriptors = names.into_iter().map(|name| {
        let own = if name == "default" { default } else { family };
        ColumnFamilyDescriptor::new(name, own.clone())
    });
    let db = DB::open_cf_descriptors(options, folder, descriptors).map_err(failed_open(&doing))?;
    check_format(&db, version)?;
    if let Some(name) = strange.first() {
        let detail = format!("it has a column family '{name}' that format {version} does not");
        return Err(Error::Corrupt { what: format!("the index in {}", folder.display()), detail });
    }
    Ok(db)
}

/// Moves a damaged database out of the way, to `aside`, in the place of an earlier one.
pub(crate) fn move_aside(folder: &Path, aside: &Path) -> Result<()> {
    match fs::remove_dir_all(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed_io("remove the folder", aside)(error));
        }
        _ => {}
    }
    fs::rename(folder, aside).map_err(failed_io("rename the folder", folder))
}

/// Opens a database to read what is left of it, and changes nothing: of its logs, RocksDB leaves out what is damaged, with the
/// rest of that block of 32 KiB. What needs a table that is damaged fails when it is read.
pub(crate) fn open_damaged(
    folder: &Path,
    version: u32,
    options: &Options,
    families: &[&str],
    family: &Options,
) -> Result<DB> {
    let doing = format!("read the damaged index in {}", folder.display());
    let mut options = options.clone();
    options.create_if_missing(false);
    options.create_missing_column_families(false);
    options.set_wal_recovery_mode(DBRecoveryMode::SkipAnyCorruptedRecord);
    // Else one table that does not open keeps all others from being read.
    options.set_paranoid_checks(false);
    let names = ["default"].iter().chain(families);
    let descriptors = names.map(|name| ColumnFamilyDescriptor::new(*name, family.clone()));
    let db = DB::open_cf_descriptors_read_only(&options, folder, descriptors, false).map_err(failed(&doing))?;
    match format_of(&db) {
        Ok(Some(found)) if found > version => Err(Error::TooNew { found, known: version }),
        // The version may be what is damaged. A newer firn's families would tell of it, and its rows would not decode.
        Err(error) if has_strange_families(folder, &options, families) => Err(error),
        _ => Ok(db),
    }
}

/// Takes a family away with all that it holds, be it damaged or not. It is made anew when the database is opened.
pub(crate) fn drop_family(
    folder: &Path,
    options: &Options,
    families: &[&str],
    family: &Options,
    name: &str,
) -> Result<()> {
    let doing = format!("take '{name}' out of the index in {}", folder.display());
    let mut options = options.clone();
    options.set_paranoid_checks(false);
    let names = ["default"].iter().chain(families);
    let descriptors = names.map(|name| ColumnFamilyDescriptor::new(*name, family.clone()));
    let mut db = DB::open_cf_descriptors(&options, folder, descriptors).map_err(failed_open(&doing))?;
    db.drop_cf(name).map_err(failed(&doing))
}

fn has_strange_families(folder: &Path, options: &Options, families: &[&str]) -> bool {
    let there = DB::list_cf(options, folder).unwrap_or_default();
    there.iter().any(|name| name != "default" && !families.contains(&name.as_str()))
}

/// Waits until RocksDB has merged what waits for that, for [`MERGE_WAIT`] at most.
pub(crate) fn finish_merges(db: &DB) -> Result<()> {
    let mut options = WaitForCompactOptions::default();
    options.set_timeout(u64::try_from(MERGE_WAIT.as_micros()).unwrap_or(u64::MAX));
    db.wait_for_compact(&options).map_err(failed("wait for merges"))
}

/// Makes a folder and its name durable.
fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(failed_io("create the folder", folder))?;
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.map_or_else(|| PathBuf::from("."), Path::to_owned);
    File::open(&parent).and_then(|parent| parent.sync_all()).map_err(failed_io("sync the folder", &parent))
}

/// Refuses a folder that holds a database's files but not the file that names the newest of them: RocksDB would make
/// an empty database of it.
fn refuse_leftovers(folder: &Path) -> Result<()> {
    if folder.join("CURRENT").exists() {
        return Ok(());
    }
    for entry in fs::read_dir(folder).map_err(failed_io("list the folder", folder))? {
        let path = entry.map_err(failed_io("list the folder", folder))?.path();
        // A crash right at the beginning leaves no more than a manifest.
        if path.extension().is_some_and(|extension| extension == "sst" || extension == "log") {
            let detail = format!("there is {} but no file CURRENT", path.display());
            return Err(Error::Corrupt { what: format!("the index in {}", folder.display()), detail });
        }
    }
    Ok(())
}

fn check_format(db: &DB, version: u32) -> Result<()> {
    match format_of(db)? {
        None if db.latest_sequence_number() != 0 => {
            Err(Error::Corrupt { what: FORMAT.to_owned(), detail: "there is none".to_owned() })
        }
        None => note_format(db, version),
        Some(found) if found > version => Err(Error::TooNew { found, known: version }),
        Some(found) if found < version => note_format(db, version),
        Some(_) => Ok(()),
    }
}

/// Returns the version that a database notes, if it does.
fn format_of(db: &DB) -> Result<Option<u32>> {
    let corrupt = |detail: String| Error::Corrupt { what: FORMAT.to_owned(), detail };
    let Some(found) = db.get(FORMAT_KEY).map_err(failed(format_args!("read {FORMAT}")))? else { return Ok(None) };
    let found = <[u8; 4]>::try_from(&found[..]).map_err(|_| corrupt(format!("it has {} bytes", found.len())))?;
    match u32::from_le_bytes(found) {
        0 => Err(corrupt("it is 0".to_owned())),
        found => Ok(Some(found)),
    }
}

fn note_format(db: &DB, version: u32) -> Result<()> {
    // Without the log, so that none is made for one row; the flush makes it durable.
    let mut options = WriteOptions::default();
    options.disable_wal(true);
    let doing = "note the version of the index";
    db.put_opt(FORMAT_KEY, version.to_le_bytes(), &options).map_err(failed(doing))?;
    db.flush().map_err(failed(doing))
}

/// How often a write lets full write buffers be written out first.
const MOST_STALLS: usize = 100;

/// Writes a batch to a database with these families; does not wait for somebody to make room on the disk.
///
/// When all write buffers are full, RocksDB lets a writer wait until one was written out, without end if there is no
/// room for it. Waiting for a flush instead ends with the flush's error.
pub(crate) fn write(
    db: &DB,
    families: &[&ColumnFamily],
    batch: &WriteBatch,
    mut options: WriteOptions,
    doing: &str,
) -> Result<()> {
    options.set_no_slowdown(true);
    for _ in 0..MOST_STALLS {
        match db.write_opt(WriteBatch::from_data(batch.data()), &options) {
            Err(error) if error.kind() == ErrorKind::Incomplete => flush(db, families)?,
            other => return other.map_err(failed(doing)),
        }
    }
    Err(Error::Engine { doing: doing.to_owned(), source: "its write buffers stay full".into() })
}

/// Makes a copy of a database, as it is now, in a folder that must not be there yet. Files are linked where both folders
/// are on one file system.
pub(crate) fn checkpoint(db: &DB, folder: &Path) -> Result<()> {
    let made = Checkpoint::new(db).and_then(|checkpoint| checkpoint.create_checkpoint(folder));
    made.map_err(failed(format_args!("copy the index to {}", folder.display())))
}

/// Writes out the write buffers of these families and waits for it.
pub(crate) fn flush(db: &DB, families: &[&ColumnFamily]) -> Result<()> {
    db.flush_cfs_opt(families, &FlushOptions::default()).map_err(failed("flush the index"))
}

/// Properties of each column family that are added up, and what they are called.
const MEASURES: [(&str, &str); 7] = [
    ("live_data_bytes", "rocksdb.estimate-live-data-size"),
    ("table_bytes", "rocksdb.total-sst-files-size"),
    ("keys", "rocksdb.estimate-num-keys"),
    ("memtable_bytes", "rocksdb.cur-size-all-mem-tables"),
    ("table_reader_bytes", "rocksdb.estimate-table-readers-mem"),
    ("pending_compaction_bytes", "rocksdb.estimate-pending-compaction-bytes"),
    ("level0_files", "rocksdb.num-files-at-level0"),
];

/// Returns what a database with these families tells of itself.
pub(crate) fn measures(db: &DB, families: &[&ColumnFamily], cache: &Cache) -> Vec<(&'static str, u64)> {
    let sum = |property: &str| -> u64 {
        let of = |family: &&ColumnFamily| db.property_int_value_cf(*family, property).ok().flatten().unwrap_or(0);
        families.iter().map(of).sum()
    };
    let of_database = |property: &str| db.property_int_value(property).ok().flatten().unwrap_or(0);
    let mut measures: Vec<_> = MEASURES.iter().map(|(name, property)| (*name, sum(property))).collect();
    measures.push(("running_compactions", of_database("rocksdb.num-running-compactions")));
    measures.push(("running_flushes", of_database("rocksdb.num-running-flushes")));
    measures.push(("block_cache_bytes", u64::try_from(cache.get_usage()).unwrap_or(u64::MAX)));
    measures
}
