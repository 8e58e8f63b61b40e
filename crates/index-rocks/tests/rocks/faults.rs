//! What RocksDB's engines say of files that are damaged, too new, or in use.

use std::error::Error as _;
use std::fs;
use std::path::{Path, PathBuf};

use firn_index::conformance::samples::{
    cache, cache_row, chunk, commit, location, pack, path_row, pin_name, pin_row, store_hash, token_row,
};
use firn_index::{ChunkIndex, Error, Meta, Op, PackState, SummaryRow, TokenId};
use firn_index_rocks::{ChunkIndexOptions, MetaOptions, RocksChunkIndex, RocksMeta};
use rocksdb::{DB, Options};
use tempfile::TempDir;

use crate::folders::crashed;

fn meta(folder: &Path) -> Result<RocksMeta, Error> {
    RocksMeta::open(folder, &MetaOptions::default())
}

fn chunks(folder: &Path) -> Result<RocksChunkIndex, Error> {
    RocksChunkIndex::open(folder, &ChunkIndexOptions::default())
}

/// Returns a folder with both databases, each with a few rows, flushed and closed.
fn filled() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let meta = meta(folder.path()).expect("opens");
    meta.put_cache(&cache("a"), &cache_row(1)).expect("writes");
    let ops = (0..20).map(|n| Op::Path(cache("a"), store_hash(n), path_row(n, 1))).collect();
    meta.commit(1, &[commit(&[], ops)]).expect("writes").remove(0).expect("is not refused");
    meta.reserve_pack(pack(1), 1).expect("writes");
    meta.seal_pack(pack(1), 1, 1).expect("writes");
    meta.flush().expect("flushes");
    let chunks = chunks(folder.path()).expect("opens");
    chunks.apply(&[(chunk(1), location(1)), (chunk(2), location(2))]).expect("writes");
    chunks.set_watermark(7).expect("writes");
    chunks.flush().expect("flushes");
    folder
}

/// Opens a database without firn's code.
fn raw(folder: &Path) -> DB {
    let mut options = Options::default();
    options.create_missing_column_families(true);
    let names = DB::list_cf(&options, folder).expect("lists");
    DB::open_cf(&options, folder, names).expect("opens")
}

fn put_raw(db: &DB, family: &str, key: &[u8], value: &[u8]) {
    db.put_cf(db.cf_handle(family).expect("the family is there"), key, value).expect("writes");
}

/// Checks that an operation found damage and says so in one line that names `what`.
#[track_caller]
fn assert_corrupt<T: std::fmt::Debug>(result: Result<T, Error>, what: &str) {
    match result {
        Err(error @ Error::Corrupt { .. }) => {
            let message = error.to_string();
            assert!(message.contains(what) && message.contains("corrupt"), "{message}");
            assert!(error.source().is_none(), "what it says is said once");
        }
        other => panic!("not reported as corrupt: {other:?}"),
    }
}

#[test]
fn a_newer_format_is_refused() {
    for (name, known) in [("meta", 3_u32), ("chunks", 1)] {
        let folder = filled();
        put_raw(&raw(&folder.path().join(name)), "default", b"format", &(known + 1).to_le_bytes());
        let error = match name {
            "meta" => meta(folder.path()).err(),
            _ => chunks(folder.path()).err(),
        };
        let error = error.expect("it is too new");
        let is_told = matches!(error, Error::TooNew { found, known: told } if found == known + 1 && told == known);
        assert!(is_told, "{error:?}");
        assert!(error.to_string().contains("upgrade firn"), "{error}");
    }
}

#[test]
fn an_older_format_is_brought_up_to_date() {
    // Version 2 came to have families one by one, before it was 3.
    let (first, second) =
        (["since", "use", "pin", "retention"], ["effort", "provenance", "usage", "source", "upstream", "issued"]);
    for (version, lacks) in
        [(1_u32, [&first[..], &second].concat()), (2, second.to_vec()), (2, vec!["source", "issued"])]
    {
        let folder = filled();
        let mut db = raw(&folder.path().join("meta"));
        for family in lacks {
            db.drop_cf(family).expect("the older format lacks it");
        }
        put_raw(&db, "default", b"format", &version.to_le_bytes());
        drop(db);
        let opened = meta(folder.path()).expect("opens");
        assert!(opened.path(&cache("a"), &store_hash(5)).expect("reads").is_some(), "what it held is there");
        assert!(opened.put_pin(&cache("a"), &pin_name(1), &pin_row(1)).expect("writes"));
        assert_eq!(opened.effort(firn_pack::PackId([9; 16])).expect("reads"), 0);
        assert_eq!(opened.usage(0, None, 9).expect("reads"), []);
        drop(opened);
        let db = raw(&folder.path().join("meta"));
        assert_eq!(db.get(b"format").expect("reads"), Some(3_u32.to_le_bytes().to_vec()), "older programs refuse it");
    }
}

#[test]
fn a_newer_format_with_more_families_is_refused_as_newer() {
    let folder = filled();
    let mut db = raw(&folder.path().join("meta"));
    db.create_cf("lineage", &Options::default()).expect("makes a family");
    drop(db);
    assert_corrupt(meta(folder.path()).map(|_| ()), "meta");
    put_raw(&raw(&folder.path().join("meta")), "default", b"format", &9_u32.to_le_bytes());
    assert!(matches!(meta(folder.path()).err(), Some(Error::TooNew { found: 9, .. })));
}

#[test]
fn a_missing_or_damaged_version_is_corrupt() {
    for (value, what) in [(None, "none"), (Some(&b"\0\0\0\0"[..]), "0"), (Some(b"one"), "3 bytes")] {
        let folder = filled();
        let db = raw(&folder.path().join("chunks"));
        match value {
            None => db.delete(b"format").expect("deletes"),
            Some(value) => db.put(b"format", value).expect("writes"),
        }
        drop(db);
        assert_corrupt(chunks(folder.path()).map(|_| ()), what);
    }
}

#[test]
fn a_second_opening_is_refused() {
    let folder = filled();
    let first = (meta(folder.path()).expect("opens"), chunks(folder.path()).expect("opens"));
    assert!(matches!(meta(folder.path()).err(), Some(Error::Locked)));
    assert!(matches!(chunks(folder.path()).err(), Some(Error::Locked)));
    assert_eq!(first.0.caches().expect("reads").len(), 1, "the first goes on");
    drop(first);
    meta(folder.path()).expect("opens");
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("meta"), "a file").expect("writes");
    assert!(matches!(meta(folder.path()).err(), Some(Error::Engine { .. })));
    fs::write(folder.path().join("x"), "a file").expect("writes");
    let error = chunks(&folder.path().join("x")).err().expect("a file is no folder");
    assert!(error.to_string().starts_with("create the folder ") && error.source().is_some(), "{error}");
}

#[test]
fn files_without_current_are_not_taken_for_a_new_index() {
    for name in ["meta", "chunks"] {
        let folder = filled();
        fs::remove_file(folder.path().join(name).join("CURRENT")).expect("removes");
        let result = match name {
            "meta" => meta(folder.path()).map(|_| ()),
            _ => chunks(folder.path()).map(|_| ()),
        };
        assert_corrupt(result, "CURRENT");
    }
}

#[test]
fn an_index_that_was_hardly_begun_is_new() {
    let folder = filled();
    let meta_folder = folder.path().join("meta");
    for entry in fs::read_dir(&meta_folder).expect("lists").flatten() {
        if !entry.file_name().to_string_lossy().starts_with("MANIFEST") {
            fs::remove_file(entry.path()).expect("removes");
        }
    }
    let meta = meta(folder.path()).expect("opens");
    assert_eq!(meta.caches().expect("reads"), vec![]);
}

#[test]
fn damaged_rows_are_corrupt() {
    let folder = filled();
    let db = raw(&folder.path().join("meta"));
    let junk = [1, 0xff, 0xff, 0xff];
    let id = |n: u8| [n; 16];
    put_raw(&db, "pack", &id(1), &junk);
    put_raw(&db, "seq", &1_u64.to_be_bytes(), b"short");
    put_raw(&db, "path", &[b"a\0", &[5; 20][..]].concat(), &[]);
    put_raw(&db, "cache", b"a", &[2, 0, 0]);
    put_raw(&db, "token", &7_u64.to_be_bytes(), &junk);
    put_raw(&db, "meta", b"totals", &junk);
    put_raw(&db, "meta", b"store", &junk);
    put_raw(&db, "meta", b"last-seq", &junk);
    drop(db);

    let meta = meta(folder.path()).expect("opens");
    assert_corrupt(meta.pack(pack(1)), "pack row of pack 0101");
    assert_corrupt(meta.packs(None, 9), "pack row of pack 0101");
    assert_corrupt(meta.set_pack_state(pack(1), PackState::Live, PackState::Condemned, 7), "pack row");
    assert_corrupt(meta.commit(1, &[commit(&[1], vec![])]), "pack row");
    assert_corrupt(meta.sealed_packs(0, 9), "'seq'");
    assert_corrupt(meta.path(&cache("a"), &store_hash(5)), "path row");
    assert_corrupt(meta.paths(&cache("a"), None, 99), "path row");
    assert_eq!(meta.paths(&cache("a"), None, 5).expect("those before it can be read").len(), 5);
    assert_corrupt(meta.cache(&cache("a")), "its version is 2, and this firn knows 1");
    assert_corrupt(meta.caches(), "its version is 2");
    assert_corrupt(meta.delete_cache(&cache("a")), "a path of cache 'a'");
    assert!(meta.path(&cache("a"), &store_hash(6)).expect("reads").is_some(), "a refused deletion deletes nothing");
    assert_corrupt(meta.token(&TokenId(7)), "token row of token 0000000000000007");
    assert_corrupt(meta.tokens(), "token row");
    assert_corrupt(meta.totals(), "totals");
    assert_corrupt(meta.store_info(), "identity");
    meta.reserve_pack(pack(2), 1).expect("writes");
    assert_corrupt(meta.seal_pack(pack(2), 1, 1), "sequence number");
}

#[test]
fn damaged_keys_are_corrupt() {
    let folder = filled();
    let db = raw(&folder.path().join("meta"));
    put_raw(&db, "pack", b"short", &[]);
    put_raw(&db, "seq", b"longer than 8", &[]);
    put_raw(&db, "edge", &[[1; 16], [1; 16]].concat(), &[]);
    put_raw(&db, "path", b"a\0short", &[]);
    put_raw(&db, "cache", b"Not A Name", &[]);
    put_raw(&db, "token", b"x", &[]);
    drop(db);

    let meta = meta(folder.path()).expect("opens");
    assert_corrupt(meta.packs(None, 9), "'pack'");
    assert_corrupt(meta.sealed_packs(0, 9), "'seq'");
    assert_corrupt(meta.recipes_of_pack(pack(1), None, 9), "'edge'");
    assert_corrupt(meta.paths(&cache("a"), None, 99), "'path'");
    assert_corrupt(meta.caches(), "'cache'");
    assert_corrupt(meta.tokens(), "'token'");
}

#[test]
fn damaged_chunks_are_corrupt() {
    let folder = filled();
    let db = raw(&folder.path().join("chunks"));
    db.put(chunk(2).0, [1, 2, 3]).expect("writes");
    db.put(b"watermark", [1, 2, 3]).expect("writes");
    drop(db);

    let chunks = chunks(folder.path()).expect("opens");
    assert_corrupt(chunks.lookup(&[chunk(1), chunk(2)]), "location of chunk");
    assert_eq!(chunks.lookup(&[chunk(1)]).expect("reads"), vec![Some(location(1))]);
    assert_corrupt(chunks.watermark(), "watermark");
}

/// Returns a folder's tables.
fn tables(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("lists").flatten().map(|entry| entry.path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "sst")).collect()
}

#[test]
fn a_flipped_byte_is_never_taken_for_absence() {
    let folder = filled();
    let mut corrupt = 0;
    for table in tables(&folder.path().join("chunks")) {
        let good = fs::read(&table).expect("reads");
        for at in (0..good.len()).step_by(good.len() / 40 + 1) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            fs::write(&table, &bad).expect("writes");
            let Ok(chunks) = chunks(folder.path()) else {
                corrupt += 1;
                continue;
            };
            match chunks.lookup(&[chunk(1), chunk(2)]) {
                Ok(found) => assert_eq!(found, [Some(location(1)), Some(location(2))], "byte {at}"),
                Err(Error::Corrupt { .. }) => corrupt += 1,
                Err(other) => panic!("byte {at}: {other:?}"),
            }
        }
        fs::write(&table, &good).expect("writes");
    }
    assert!(corrupt > 5, "only {corrupt} flips were noticed");
}

#[test]
fn a_torn_log_keeps_what_came_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let writing = meta(folder.path()).expect("opens");
    for n in 0..5 {
        writing.reserve_pack(pack(n), 1).expect("writes");
    }
    let whole = crate::folders::crashed(folder.path());
    drop(writing);
    let log = |folder: &Path| {
        let entries = fs::read_dir(folder.join("meta")).expect("lists").flatten().map(|entry| entry.path());
        let mut logs: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        logs.sort_by_key(|path| fs::metadata(path).map_or(0, |metadata| metadata.len()));
        logs.pop().expect("it has a log")
    };
    let length = fs::metadata(log(whole.path())).expect("reads").len();
    for cut in [1, 7, 20] {
        let torn = crate::folders::crashed(whole.path());
        let file = fs::OpenOptions::new().write(true).open(log(torn.path())).expect("opens");
        file.set_len(length - cut).expect("cuts");
        let meta = meta(torn.path()).expect("opens");
        let ids: Vec<_> = meta.packs(None, 9).expect("reads").into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [0, 1, 2, 3].map(pack), "{cut} bytes cut");
        meta.reserve_pack(pack(4), 1).expect("writes");
    }
}

fn overwrite(file: &Path, at: usize) {
    let mut bytes = fs::read(file).expect("reads");
    bytes[at..at + 8].copy_from_slice(b"XXXXXXXX");
    fs::write(file, bytes).expect("writes");
}

/// Fills an index whose tokens take many blocks, and returns how many there are.
fn with_tokens(folder: &Path) -> usize {
    let meta = meta(folder).expect("opens");
    meta.put_cache(&cache("a"), &cache_row(1)).expect("writes");
    meta.put_pin(&cache("a"), &pin_name(1), &pin_row(1)).expect("writes");
    for n in 0..200 {
        let mut row = token_row(1);
        // What compresses badly.
        row.builder =
            (0..20_u64).map(|part| format!("{:x}", (n * 20 + part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        meta.put_token(&TokenId(n), &row).expect("writes");
    }
    meta.flush().expect("flushes");
    200
}

#[test]
fn of_an_index_with_a_damaged_block_the_rows_around_it_can_be_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = with_tokens(folder.path());
    let all_tables = tables(&folder.path().join("meta"));
    let table =
        all_tables.iter().max_by_key(|table| fs::metadata(table).map_or(0, |found| found.len())).expect("there");
    overwrite(table, fs::metadata(table).expect("is there").len() as usize / 2);
    let opened = meta(folder.path()).expect("opens");
    assert_corrupt(opened.check(), "tokens");
    assert!(opened.tokens().is_err());
    drop(opened);
    let left = RocksMeta::open_damaged(folder.path(), &MetaOptions::default()).expect("opens");
    let found: Vec<u64> = left.tokens().expect("reads what is left").iter().map(|(id, _)| id.0).collect();
    assert!(found.len() > all / 2 && found.len() < all, "{found:?}");
    assert!(found.is_sorted() && found[0] == 0 && found[found.len() - 1] == all as u64 - 1, "{found:?}");
    let lost = (0..all as u64).find(|n| !found.contains(n)).expect("one is lost");
    assert_eq!(left.token(&TokenId(lost)).expect("is left out"), None);
    assert_eq!(left.losses(), ["tokens"]);
    assert!(left.caches().expect("reads").len() == 1 && left.pins(&cache("a")).expect("reads").len() == 1);
}

#[test]
fn a_damaged_table_costs_what_it_holds_and_no_more() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = with_tokens(folder.path());
    let tables = |folder: &Path| {
        let mut tables = tables(&folder.join("meta"));
        tables.sort();
        tables
    };
    assert!(tables(folder.path()).len() > 3);
    for nth in 0..tables(folder.path()).len() {
        for back in [20, 60, 300] {
            let copy = crashed(folder.path());
            let table = &tables(copy.path())[nth];
            let len = fs::metadata(table).expect("is there").len() as usize;
            overwrite(table, len - back);
            let left = RocksMeta::open_damaged(copy.path(), &MetaOptions::default()).expect("opens");
            let (tokens, caches) = (left.tokens().expect("reads"), left.caches().expect("reads"));
            let pins = left.pins(&cache("a")).expect("reads");
            let _ = left.check();
            let losses = left.losses();
            let said = format!("table {nth}, {back} before its end: {losses:?}");
            assert!(losses.len() <= 1, "{said}");
            assert!(tokens.len() == all || losses == ["tokens"], "{said}");
            assert!(caches.len() == 1 || losses == ["settings and signing keys of caches"], "{said}");
            assert!(pins.len() == 1 || losses == ["pins"], "{said}");
        }
    }
}

#[test]
fn usage_that_is_all_that_is_damaged_begins_anew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let all = with_tokens(folder.path());
    let opened = meta(folder.path()).expect("opens");
    opened.put_summary(7, &SummaryRow::default(), b"a report").expect("writes");
    opened.flush().expect("flushes");
    drop(opened);
    let mut renewed = 0;
    for nth in 0..tables(&folder.path().join("meta")).len() {
        let copy = crashed(folder.path());
        let mut tables = tables(&copy.path().join("meta"));
        tables.sort();
        let table = &tables[nth];
        overwrite(table, fs::metadata(table).expect("is there").len() as usize - 20);
        assert!(matches!(meta(copy.path()).err(), Some(Error::Corrupt { .. })));
        let of_usage = b"nameusage";
        let is_usage = fs::read(table).expect("reads").windows(of_usage.len()).any(|part| part == of_usage);
        assert_eq!(RocksMeta::renew_usage(copy.path(), &MetaOptions::default()).expect("is done"), is_usage);
        if is_usage {
            renewed += 1;
            let opened = meta(copy.path()).expect("opens");
            assert_eq!((opened.tokens().expect("reads").len(), opened.last_report().expect("reads")), (all, None));
            opened.check().expect("is whole");
        } else {
            assert!(meta(copy.path()).is_err(), "what counts is not touched");
        }
    }
    assert_eq!(renewed, 1);
}
