//! Opening a database, and the version of its format.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use firn_index::{Error, Result};
use rocksdb::{ColumnFamilyDescriptor, DB, Options, WriteOptions};

use crate::errors::{failed, failed_io};

/// The newest format that this code reads, and the one that it writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Where a database notes its format: in the default column family.
const FORMAT_KEY: &[u8] = b"format";

/// Opens a database in a folder, or makes one; refuses one of a newer format and one that another process has open.
pub(crate) fn open(folder: &Path, options: &Options, families: &[&str], family: &Options) -> Result<DB> {
    make_folder(folder)?;
    let doing = format!("open the index in {}", folder.display());
    let known = ["default"].iter().chain(families);
    let mut names: Vec<String> = known.map(|name| (*name).to_owned()).collect();
    // A newer firn may have added families. RocksDB wants to hear of all before it lets the version be read.
    let strange: Vec<String> = if folder.join("CURRENT").exists() {
        let there = DB::list_cf(options, folder).map_err(failed(&doing))?;
        there.into_iter().filter(|name| !names.contains(name)).collect()
    } else {
        Vec::new()
    };
    names.extend(strange.iter().cloned());
    let descriptors = names.into_iter().map(|name| {
        // The default family's settings are the database's own if it is the only one.
        let own = if families.is_empty() { options } else { family };
        ColumnFamilyDescriptor::new(name, own.clone())
    });
    let db = DB::open_cf_descriptors(options, folder, descriptors).map_err(failed(&doing))?;
    check_format(&db)?;
    if let Some(name) = strange.first() {
        let detail = format!("it has a column family '{name}' that format {FORMAT_VERSION} does not");
        return Err(Error::Corrupt { what: format!("the index in {}", folder.display()), detail });
    }
    Ok(db)
}

/// Makes a folder and its name durable.
fn make_folder(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(folder).map_err(failed_io("create the folder", folder))?;
    let parent = folder.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
    File::open(&parent).and_then(|parent| parent.sync_all()).map_err(failed_io("sync the folder", &parent))
}

fn check_format(db: &DB) -> Result<()> {
    let what = "the version of the index";
    let found = db.get(FORMAT_KEY).map_err(failed(format_args!("read {what}")))?;
    let Some(found) = found else {
        if db.latest_sequence_number() != 0 {
            return Err(Error::Corrupt { what: what.to_owned(), detail: "there is none".to_owned() });
        }
        return note_format(db);
    };
    let found = <[u8; 4]>::try_from(&found[..])
        .map_err(|_| Error::Corrupt { what: what.to_owned(), detail: format!("it has {} bytes", found.len()) })?;
    match u32::from_le_bytes(found) {
        0 => Err(Error::Corrupt { what: what.to_owned(), detail: "it is 0".to_owned() }),
        found if found > FORMAT_VERSION => Err(Error::TooNew { found, known: FORMAT_VERSION }),
        _ => Ok(()),
    }
}

fn note_format(db: &DB) -> Result<()> {
    let mut durable = WriteOptions::default();
    durable.set_sync(true);
    db.put_opt(FORMAT_KEY, FORMAT_VERSION.to_le_bytes(), &durable).map_err(failed("note the version of the index"))
}
