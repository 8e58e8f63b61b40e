//! What a crash and what a bad disk leave of the log of [`RocksMeta`]: the one is opened, the other refused.

use std::fs;
use std::path::{Path, PathBuf};

use firn_index::conformance::samples::{pack, token_row};
use firn_index::{Error, Meta, TokenId};
use firn_index_rocks::{MetaOptions, RocksMeta};
use tempfile::TempDir;

use crate::folders::crashed;

/// How many packs [`written`] reserves, each in a record of its own.
const PACKS: u8 = 30;

fn meta(folder: &Path) -> Result<RocksMeta, Error> {
    RocksMeta::open(folder, &MetaOptions::default())
}

/// Returns what a process leaves that is killed after its last acknowledged write.
fn written() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let meta = meta(folder.path()).expect("opens");
    for n in 0..PACKS {
        meta.reserve_pack(pack(n), 1).expect("writes");
    }
    crashed(folder.path())
}

/// Returns the logs of a folder, the oldest first.
fn logs(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.join("meta")).expect("lists").flatten().map(|entry| entry.path());
    let mut logs: Vec<_> = entries.filter(|path| path.extension().is_some_and(|it| it == "log")).collect();
    logs.sort();
    logs
}

/// Opens a copy of a folder, with its only log as the bytes say, and returns how many packs it has.
fn with_log(folder: &Path, bytes: &[u8]) -> Result<usize, Error> {
    let copy = crashed(folder);
    fs::write(&logs(copy.path())[0], bytes).expect("writes");
    Ok(meta(copy.path())?.packs(None, 99).expect("reads").len())
}

#[test]
fn a_bit_that_flips_anywhere_but_in_the_last_record_is_refused() {
    let whole = written();
    let log = fs::read(&logs(whole.path())[0]).expect("reads");
    assert_eq!(with_log(whole.path(), &log).expect("opens"), usize::from(PACKS));
    let last = log.len() - log.len() / usize::from(PACKS);
    for at in (0..log.len()).step_by(17) {
        for bit in [0, 7] {
            let mut bad = log.clone();
            bad[at] ^= 1 << bit;
            match with_log(whole.path(), &bad) {
                Ok(packs) => {
                    assert!(at >= last - 16, "byte {at} of {}: {packs} packs, and not a word", log.len());
                    assert_eq!(packs, usize::from(PACKS) - 1, "byte {at}");
                }
                Err(error @ Error::Corrupt { .. }) => {
                    let message = error.to_string();
                    assert!(message.contains(".log") && message.contains("corrupt"), "{message}");
                }
                Err(other) => panic!("byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_page_that_was_never_written_is_refused() {
    let whole = written();
    let mut log = fs::read(&logs(whole.path())[0]).expect("reads");
    let middle = log.len() / 2;
    log[middle - 200..middle].fill(0);
    assert!(matches!(with_log(whole.path(), &log), Err(Error::Corrupt { .. })));
}

#[test]
fn a_torn_last_record_is_left_out() {
    let whole = written();
    let log = fs::read(&logs(whole.path())[0]).expect("reads");
    let all = usize::from(PACKS);
    for cut in [8, 9, 20, 39] {
        assert_eq!(with_log(whole.path(), &log[..log.len() - cut]).expect("opens"), all - 1, "{cut} bytes cut");
        // Its length was noted, and not all of its pages were written.
        let mut bad = log.clone();
        bad[log.len() - cut..].fill(0);
        assert_eq!(with_log(whole.path(), &bad).expect("opens"), all - 1, "{cut} bytes zero");
    }
    for behind in [1, 7, 4096, 40_000] {
        let longer = [&log[..], &vec![0; behind]].concat();
        assert_eq!(with_log(whole.path(), &longer).expect("opens"), all, "{behind} zeros behind it");
    }
}

#[test]
fn a_torn_record_of_many_blocks_is_left_out() {
    let whole = {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let meta = meta(folder.path()).expect("opens");
        meta.reserve_pack(pack(0), 1).expect("writes");
        let mut row = token_row(1);
        row.builder = "x".repeat(200_000);
        meta.put_token(&TokenId(1), &row).expect("writes");
        crashed(folder.path())
    };
    let log = fs::read(&logs(whole.path())[0]).expect("reads");
    assert_eq!(with_log(whole.path(), &log).expect("opens"), 1);
    for hole in [2000, 50_000, 100_000, 190_000] {
        let mut bad = log.clone();
        bad[hole..hole + 4096].fill(0);
        let copy = crashed(whole.path());
        fs::write(&logs(copy.path())[0], &bad).expect("writes");
        let meta = meta(copy.path()).expect("opens");
        assert_eq!(meta.packs(None, 99).expect("reads").len(), 1, "hole at {hole}");
        assert_eq!(meta.token(&TokenId(1)).expect("reads"), None, "hole at {hole}");
    }
}

#[test]
fn records_begin_anywhere_in_a_block() {
    // Returns where the log ends behind a row with a text of some length, and what is left after one more.
    let with_text = |len: usize| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let meta = meta(folder.path()).expect("opens");
        let mut row = token_row(1);
        row.builder = "x".repeat(len);
        meta.put_token(&TokenId(1), &row).expect("writes");
        let end = fs::metadata(&logs(folder.path())[0]).expect("reads").len() as usize;
        for n in 0..3 {
            meta.reserve_pack(pack(n), 1).expect("writes");
        }
        (end, crashed(folder.path()))
    };
    // Where 7 bytes are left of a block, RocksDB writes the first fragment of the next record there, with nothing in it.
    for block in 1..3 {
        for left in 0..25 {
            let (some, border) = (20_000 + (block - 1) * (32_768 - 7), block * 32_768 - left);
            let (end, folder) = with_text(some + border - with_text(some).0);
            assert_eq!(end, border);
            let meta = meta(folder.path()).unwrap_or_else(|error| panic!("{left} bytes left in {block}: {error}"));
            assert_eq!(meta.packs(None, 9).expect("reads").len(), 3, "{left} bytes left in {block}");
        }
    }
}

#[test]
fn what_looks_like_a_record_in_a_torn_one_is_no_damage() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let opened = meta(folder.path()).expect("opens");
    opened.reserve_pack(pack(0), 1).expect("writes");
    let mut row = token_row(1);
    // What an uploader sends is in the log as it is: a whole fragment with a batch in it, of a number that is far away.
    let payload = [&(1u64 << 40).to_le_bytes()[..], &1u32.to_le_bytes(), b"xyz"].concat();
    let sum = crc32c::crc32c_append(crc32c::crc32c(&[1]), &payload).rotate_right(15).wrapping_add(0xa282_ead8);
    let fragment = [&sum.to_le_bytes()[..], &(payload.len() as u16).to_le_bytes(), &[1], &payload].concat();
    row.builder = "y".repeat(3000);
    opened.put_token(&TokenId(1), &row).expect("writes");
    let copy = crashed(folder.path());
    let log = &logs(copy.path())[0];
    let mut bytes = fs::read(log).expect("reads");
    let at = bytes.windows(100).position(|window| window == [b'y'; 100]).expect("is there");
    bytes[at + 500..at + 500 + fragment.len()].copy_from_slice(&fragment);
    fs::write(log, &bytes[..at + 2000]).expect("writes");
    assert_eq!(meta(copy.path()).expect("opens").packs(None, 9).expect("reads").len(), 1);
}

/// Returns a folder as [`written`] does, with a third of the log's records in a log each.
fn three_logs() -> TempDir {
    let folder = written();
    let log = logs(folder.path()).remove(0);
    let bytes = fs::read(&log).expect("reads");
    let mut ends = vec![0];
    while let Some(&[_, _, _, _, low, high, _]) = bytes[ends[ends.len() - 1]..].first_chunk() {
        ends.push(ends[ends.len() - 1] + 7 + usize::from(u16::from_le_bytes([low, high])));
    }
    let number: u64 = log.file_stem().and_then(|stem| stem.to_str()).expect("is a number").parse().expect("is one");
    let third = ends.len() / 3;
    for (n, from) in [0, third, 2 * third].into_iter().enumerate() {
        let to = if n == 2 { bytes.len() } else { ends[from + third] };
        let name = format!("{:06}.log", number + n as u64);
        fs::write(folder.path().join("meta").join(name), &bytes[ends[from]..to]).expect("writes");
    }
    assert_eq!(meta(crashed(folder.path()).path()).expect("opens").packs(None, 99).expect("reads").len(), 30);
    folder
}

#[test]
fn damage_at_the_end_of_a_log_that_is_not_the_last_is_refused() {
    for log in 0..3 {
        let folder = three_logs();
        let path = &logs(folder.path())[log];
        let mut bytes = fs::read(path).expect("reads");
        *bytes.last_mut().expect("has some") ^= 1;
        fs::write(path, bytes).expect("writes");
        match meta(folder.path()) {
            Ok(_) => assert_eq!(log, 2, "what comes behind log {log} is gone"),
            Err(error) => assert!(log < 2 && matches!(error, Error::Corrupt { .. }), "log {log}: {error:?}"),
        }
    }
}

#[test]
fn a_log_that_is_gone_between_others_is_refused() {
    let folder = three_logs();
    fs::remove_file(&logs(folder.path())[1]).expect("removes");
    assert!(matches!(meta(folder.path()).err(), Some(Error::Corrupt { .. })));
}

#[test]
fn a_torn_log_that_was_recovered_before_is_no_damage() {
    let folder = written();
    let log = logs(folder.path())[0].clone();
    let bytes = fs::read(&log).expect("reads");
    fs::write(&log, &bytes[..bytes.len() - 3]).expect("writes");
    let opened = meta(folder.path()).expect("opens");
    opened.reserve_pack(pack(PACKS - 1), 1).expect("writes");
    opened.reserve_pack(pack(PACKS), 1).expect("writes");
    // As if the removal of the old log had been lost with the power.
    let copy = crashed(folder.path());
    drop(opened);
    let newer = logs(copy.path());
    let old = copy.path().join("meta").join(log.file_name().expect("has a name"));
    assert!(!newer.contains(&old), "it was removed");
    fs::write(&old, &bytes[..bytes.len() - 3]).expect("writes");
    assert_eq!(meta(copy.path()).expect("opens").packs(None, 99).expect("reads").len(), usize::from(PACKS) + 1);
}

#[test]
fn of_a_damaged_index_the_rest_can_be_read() {
    let whole = written();
    let log = &logs(whole.path())[0];
    let mut bytes = fs::read(log).expect("reads");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(log, &bytes).expect("writes");
    for _ in 0..2 {
        assert!(matches!(meta(whole.path()).err(), Some(Error::Corrupt { .. })), "reading it changes nothing");
        let left = RocksMeta::open_damaged(whole.path(), &MetaOptions::default()).expect("opens");
        let packs = left.packs(None, 99).expect("reads").len();
        assert!((10..30).contains(&packs), "{packs} packs");
        assert!(left.reserve_pack(pack(PACKS), 1).is_err());
    }
    assert_eq!(fs::read(log).expect("reads"), bytes);
}

/// Returns what a process leaves that is killed when it had just begun a second log.
fn two_logs() -> TempDir {
    for _ in 0..100 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let meta = meta(folder.path()).expect("opens");
        meta.reserve_pack(pack(0), 1).expect("writes");
        let mut row = token_row(1);
        row.builder = "x".repeat(50_000);
        for n in 0..40 {
            meta.put_token(&TokenId(n), &row).expect("writes");
            if logs(folder.path()).len() > 1 {
                break;
            }
        }
        // What was in the first one may have been written out by now.
        let copy = crashed(folder.path());
        if logs(copy.path()).len() == 2 {
            return copy;
        }
    }
    panic!("the first log is never there any more");
}

#[test]
fn a_log_that_is_gone_or_too_short_before_another_is_refused() {
    let whole = two_logs();
    let (gone, short, empty) = (crashed(whole.path()), crashed(whole.path()), crashed(whole.path()));
    assert_eq!(meta(whole.path()).expect("opens").packs(None, 9).expect("reads").len(), 1);
    fs::remove_file(&logs(gone.path())[0]).expect("removes");
    let bytes = fs::read(&logs(short.path())[0]).expect("reads");
    fs::write(&logs(short.path())[0], &bytes[..100]).expect("writes");
    fs::write(&logs(empty.path())[0], []).expect("writes");
    for folder in [gone, short, empty] {
        let error = meta(folder.path()).err();
        assert!(matches!(error, Some(Error::Corrupt { .. })), "{error:?}");
    }
}
