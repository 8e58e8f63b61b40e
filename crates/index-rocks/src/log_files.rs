//! Looks at write-ahead logs before RocksDB does: whether what is not whole in them is their end.
//!
//! RocksDB reads a log up to the first record that is not whole. An ordinary crash tears the last one, which nobody was
//! told of; but damage further in front ends the reading as well, and what lies behind it was acknowledged. Its stricter
//! modes are no help: they refuse a record that a loss of power left with its full length and some of its pages, and
//! take a wrong length near the end for the end.
//!
//! Each record is durable before the next one is begun, so a whole one behind one that is not says that the disk is to blame.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crc32c::{crc32c, crc32c_append};
use firn_index::{Error, Result};

use crate::errors::failed_io;

/// Records are cut into fragments so that none crosses a multiple of this.
const BLOCK: usize = 32 * 1024;

/// A fragment's checksum, length and kind.
const HEADER: usize = 7;

/// A batch's sequence number (8) and how many numbers it takes (4), with which each record begins.
const BATCH_HEADER: usize = 12;

/// How far the number of a record behind a damaged one may be from the one that was expected, and how many it may take itself.
/// Rows hold what uploaders sent, so a torn one may contain what looks like a fragment: its numbers will hardly fit.
const FAR: u64 = 1 << 20;

/// Kinds of fragments: a whole record, or the first part of one. Others go on with one, or are no changes.
const FULL: u8 = 1;
const FIRST: u8 = 2;
const MIDDLE: u8 = 3;
const LAST: u8 = 4;

/// Checks the logs of a database that nobody has open. Reads them once, a block at a time.
///
/// # Errors
/// [`Error::Corrupt`] if a record is damaged or missing and a later one is whole.
pub(crate) fn check(folder: &Path) -> Result<()> {
    let mut next = None;
    for path in logs(folder)? {
        let mut log = Log { path: &path, next, broken_at: None, begun: None };
        let mut file = match File::open(&path) {
            // Whoever has the database open removed it. RocksDB will say so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened.map_err(failed_io("open", &path))?,
        };
        let (mut block, mut offset) = (Vec::with_capacity(BLOCK), 0);
        loop {
            block.clear();
            (&mut file).take(BLOCK as u64).read_to_end(&mut block).map_err(failed_io("read", &path))?;
            if block.is_empty() {
                break;
            }
            log.block(&block, offset)?;
            offset += block.len() as u64;
        }
        next = log.next;
    }
    Ok(())
}

/// Returns a database's logs, the oldest first.
fn logs(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed_io("list the folder", folder))?,
    };
    let mut logs = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed_io("list the folder", folder))?.path();
        let number = path.extension().filter(|it| *it == "log").and(path.file_stem()).and_then(|stem| stem.to_str());
        logs.extend(number.and_then(|number| number.parse::<u64>().ok()).map(|number| (number, path)));
    }
    logs.sort();
    Ok(logs.into_iter().map(|(_, path)| path).collect())
}

/// How far a log was read.
struct Log<'a> {
    path: &'a Path,
    /// The sequence number of the record that comes next, if one came before.
    next: Option<u64>,
    /// Where the first bytes lie that are no whole fragment.
    broken_at: Option<u64>,
    /// The first bytes of a record whose header is not whole yet; `None` outside of such a record. A first fragment may be
    /// empty: where just its own header fits into a block, RocksDB writes it there.
    begun: Option<Vec<u8>>,
}

impl Log<'_> {
    fn block(&mut self, block: &[u8], offset: u64) -> Result<()> {
        let mut at = 0;
        while at + HEADER <= block.len() {
            match fragment(&block[at..]) {
                Some((kind, payload)) => {
                    self.fragment(kind, payload)?;
                    at += HEADER + payload.len();
                }
                // A wrong length says nothing of where the next one lies.
                None => {
                    self.broken_at.get_or_insert(offset + at as u64);
                    self.begun = None;
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn fragment(&mut self, kind: u8, payload: &[u8]) -> Result<()> {
        let begun = match kind {
            FULL | FIRST => Some(Vec::new()),
            MIDDLE | LAST => self.begun.take(),
            // No changes.
            _ => return Ok(()),
        };
        let Some(mut begun) = begun else { return Ok(()) };
        let missing = BATCH_HEADER - begun.len();
        begun.extend_from_slice(&payload[..missing.min(payload.len())]);
        match begun.first_chunk() {
            Some(header) => return self.record(header),
            None if matches!(kind, FIRST | MIDDLE) => self.begun = Some(begun),
            None => {}
        }
        Ok(())
    }

    /// Compares a record's number with that of the one before, which may be in an earlier log.
    fn record(&mut self, header: &[u8; BATCH_HEADER]) -> Result<()> {
        let (number, count) = header.split_at(8);
        let number = u64::from_le_bytes(number.try_into().expect("it is cut to that"));
        let count = u64::from(u32::from_le_bytes(count.try_into().expect("it is cut to that")));
        if let Some(at) = self.broken_at {
            let is_next = self.next.is_none_or(|next| number >= next && number - next < FAR);
            if is_next && (1..FAR).contains(&count) {
                return Err(self.corrupt(format!("it is damaged at byte {at}, and changes behind that are whole")));
            }
            return Ok(());
        }
        // A record whose sync failed is written again with the same number. Nothing is written without the log while
        // there is one.
        if let Some(next) = self.next.filter(|next| number > *next) {
            return Err(self.corrupt(format!("changes {next} to {} before its own are gone", number - 1)));
        }
        self.next = Some(number.saturating_add(count));
        Ok(())
    }

    fn corrupt(&self, detail: String) -> Error {
        Error::Corrupt { what: format!("the log of the index {}", self.path.display()), detail }
    }
}

/// Returns the kind and the payload of the whole fragment that bytes begin with, if they do.
fn fragment(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>()?;
    let [a, b, c, d, low, high, kind] = *header;
    let payload = rest.get(..u16::from_le_bytes([low, high]).into())?;
    let sum = u32::from_le_bytes([a, b, c, d]);
    (kind != 0 && masked(crc32c_append(crc32c(&[kind]), payload)) == sum).then_some((kind, payload))
}

/// RocksDB stores checksums so, because it takes checksums of bytes that hold some.
fn masked(sum: u32) -> u32 {
    sum.rotate_right(15).wrapping_add(0xa282_ead8)
}
