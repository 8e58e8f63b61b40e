//! What a crash leaves of packs and indexes, and what opening the store makes of it.

use std::sync::Arc;

use firn_engine::{Engine, Error, rebuild};
use firn_index::{PackRow, PackState, StoreInfo};
use firn_pack::{Footer, PackBuilder, PackId};
use firn_storage::{Disk, Memory, Meter, Storage};

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::{Fixture, Pushed, cache_row, ingest, noise, objects, package, push};
use crate::indexes;
use crate::invariants::parts;

/// Returns a store that was killed with its pack open, and what had been acknowledged.
fn killed() -> (Memory, Fixture, Vec<Pushed>) {
    let (memory, fixture) = Fixture::bare();
    let engine = fixture.open();
    let pushed = (1..4).map(|seed| push(&engine, &package(seed, 30_000)).unwrap()).collect();
    (memory, fixture, pushed)
}

fn packs(fixture: &Fixture) -> Vec<(PackId, PackRow)> {
    fixture.meta.packs(None, 100).unwrap()
}

fn object_name(pack: PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}", &hex[..2])
}

fn read(storage: &dyn Storage, name: &str) -> Vec<u8> {
    let len = storage.len(name).unwrap();
    storage.read(name, 0, len as usize).unwrap().to_vec()
}

fn footer(object: &[u8]) -> firn_pack::Result<Footer> {
    Footer::open(|offset, len| Ok(object[offset as usize..][..len].to_vec()), object.len() as u64)
}

/// Checks that the only pack is sealed as it should be, that everything is there, and that every chunk is known.
fn check_sealed(storage: &dyn Storage, fixture: &Fixture, engine: &Engine, pushed: &[Pushed], what: &str) {
    let packs = packs(fixture);
    assert_eq!(packs.len(), 1, "{what}");
    let (pack, row) = &packs[0];
    let object = read(storage, &object_name(*pack));
    let footer = footer(&object).unwrap_or_else(|error| panic!("{error:?}: {what}"));
    assert_eq!(footer.id, *pack);
    assert_eq!((row.state, row.seq, row.stored_bytes), (PackState::Live, 1, object.len() as u64), "{what}");
    for pushed in pushed {
        pushed.check(engine).unwrap_or_else(|error| panic!("{error:?}: {what}"));
        assert_eq!(ingest(engine, &pushed.bytes).unwrap().stats.new_chunks, 0, "{what}");
    }
    let stats = engine.stats().unwrap();
    assert_eq!(stats.totals.stored_bytes, object.len() as u64, "{what}");
    assert_eq!(stats.totals.unique_bytes, row.unique_bytes, "{what}");
}

#[test]
fn a_pack_that_never_came_to_be_is_forgotten() {
    let nothing: Option<&[u8]> = None;
    let (_, header) = PackBuilder::new(PackId([7; 16]));
    for object in [nothing, Some(b""), Some(&header[..1]), Some(&header[..39]), Some(&[0; 40]), Some(&header[..])] {
        let (memory, fixture) = Fixture::bare();
        let pack = PackId([7; 16]);
        fixture.meta.reserve_pack(pack, 5).unwrap();
        if let Some(bytes) = object {
            memory.create(&object_name(pack)).unwrap().append(&[bytes]).unwrap();
        }
        let engine = fixture.open();
        assert_eq!(packs(&fixture), [], "{object:?}");
        assert_eq!(objects(&memory), [], "{object:?}");
        push(&engine, &package(1, 10_000)).unwrap();
    }
}

#[test]
fn a_pack_without_footer_gets_one() {
    for is_power_lost in [false, true] {
        let (memory, fixture, pushed) = killed();
        let left = if is_power_lost { memory.after_power_loss() } else { memory };
        let fixture = fixture.over(left.clone()).without_chunk_index();
        check_sealed(&left, &fixture, &fixture.open(), &pushed, &format!("power lost: {is_power_lost}"));
    }
}

#[test]
fn a_footer_torn_anywhere_is_written_again() {
    let (memory, _, _) = killed();
    let (name, len) = objects(&memory)[0].clone();
    let object = read(&memory, &name);
    let recovered =
        firn_pack::recover(|at, len| Ok(object[at as usize..][..len].to_vec()), len, len, &mut |_| Ok(None)).unwrap();
    let footer = recovered.builder.finish();
    for cut in 0..=footer.len() {
        let what = format!("the first {cut} bytes of the footer");
        let (memory, fixture, pushed) = killed();
        memory.resume(&name, len).unwrap().append(&[&footer[..cut]]).unwrap();
        let engine = fixture.open();
        check_sealed(&memory, &fixture, &engine, &pushed, &what);
        assert_eq!(read(&memory, &name), [&object[..], &footer].concat(), "{what}");

        // Sealed means durable: from here on other packs lean on it.
        let left = memory.after_power_loss();
        let fixture = fixture.over(left.clone());
        check_sealed(&left, &fixture, &fixture.open(), &pushed, &format!("{what}, then a loss of power"));
    }
}

#[test]
fn a_frame_torn_anywhere_is_cut_off() {
    for torn in (0..25_000).step_by(499) {
        let (memory, fixture) = Fixture::bare();
        let engine = fixture.open();
        let pushed: Vec<_> = (1..4).map(|seed| push(&engine, &package(seed, 30_000)).unwrap()).collect();
        let (_, durable) = objects(&memory)[0];
        let ingested = ingest(&engine, &noise(9, 20_000)).unwrap();
        let left = memory.after_torn_power_loss(&mut |name, unsynced| {
            assert!(unsynced > 20_000 || name == "store", "the upload that was not committed is not synced");
            unsynced.min(torn)
        });
        drop(ingested);
        let fixture = fixture.over(left.clone()).without_chunk_index();
        check_sealed(&left, &fixture, &fixture.open(), &pushed, &format!("{torn} bytes behind {durable}"));
    }
}

#[test]
fn a_lost_chunk_index_is_rebuilt_from_footers() {
    let (memory, mut fixture) = Fixture::bare();
    fixture.options.pack_bytes = 60_000;
    let engine = fixture.open();
    let pushed: Vec<_> = (0..6).map(|seed| push(&engine, &noise(seed, 50_000)).unwrap()).collect();
    engine.close().unwrap();
    let sealed = packs(&fixture).len();
    assert!(sealed > 3);

    let lost = fixture.without_chunk_index();
    let engine = lost.open();
    assert_eq!(lost.chunks.watermark().unwrap(), sealed as u64);
    for pushed in &pushed {
        assert_eq!(ingest(&engine, &pushed.bytes).unwrap().stats.new_chunks, 0);
    }

    // What is up to date is not read again.
    let meter = Meter::new(Arc::new(memory.clone()));
    lost.over(meter.clone()).open();
    assert_eq!(meter.counts().reads, 1, "whose packs these are");
    // One pack behind, one footer.
    lost.chunks.set_watermark(sealed as u64 - 1).unwrap();
    lost.over(meter.clone()).open();
    assert_eq!(meter.counts().reads, 3);
}

#[test]
fn a_pack_whose_footer_is_damaged_is_skipped_and_restored_from() {
    let (memory, fixture, pushed) = killed();
    fixture.open().close().unwrap();
    let (name, len) = objects(&memory)[0].clone();
    memory.damage(&name, len as usize - 1, 1).unwrap();
    let fixture = fixture.without_chunk_index();
    let engine = fixture.open();
    for pushed in &pushed {
        pushed.check(&engine).unwrap();
        assert!(ingest(&engine, &pushed.bytes).unwrap().stats.new_chunks > 0, "its chunks are not offered");
    }
}

/// Bytes that were acknowledged are never cut off, also when what lies before them is damaged.
#[test]
fn damage_in_an_open_pack_costs_only_what_is_damaged() {
    // The magic, the length of the payload, that of all items, a checksum, and the payload.
    for at in [41, 57, 60, 66, 120] {
        let (memory, fixture, pushed) = killed();
        let (name, before) = objects(&memory)[0].clone();
        memory.damage(&name, at, 1).unwrap();
        let fixture = fixture.without_chunk_index();
        let engine = fixture.open();
        assert!(matches!(pushed[0].check(&engine), Err(Error::Damaged { .. })), "{at}");
        for pushed in &pushed[1..] {
            pushed.check(&engine).unwrap();
            assert_eq!(ingest(&engine, &pushed.bytes).unwrap().stats.new_chunks, 0, "{at}: the footer lists them");
        }
        assert!(memory.len(&name).unwrap() >= before);
        engine.close().unwrap();
        let engine = fixture.open();
        // Nobody knows any more what the damaged frame held, so that an upload has to find out.
        for pushed in &pushed {
            crate::fixture::upload_again(&engine, &pushed.bytes);
            pushed.check(&engine).unwrap();
        }
    }
}

#[test]
fn a_disk_that_lost_durable_bytes_does_not_keep_the_store_from_opening() {
    for part in [0.0, 0.0001, 0.001, 0.002, 0.01, 0.3, 0.5, 0.7, 0.98] {
        let (memory, fixture, pushed) = killed();
        let (name, len) = objects(&memory)[0].clone();
        let keep = (len as f64 * part) as u64;
        drop(memory.resume(&name, keep).unwrap());
        let engine = fixture.open();
        let whole = pushed.iter().filter(|pushed| match pushed.check(&engine) {
            Ok(()) => true,
            Err(error) => {
                assert!(matches!(error, Error::Damaged { .. }), "{error:?}: {keep} bytes are left");
                false
            }
        });
        assert!(whole.count() < pushed.len());
        for pushed in &pushed {
            crate::fixture::upload_again(&engine, &pushed.bytes);
            pushed.check(&engine).unwrap();
        }
    }
    let (memory, fixture, pushed) = killed();
    memory.delete(&objects(&memory)[0].0).unwrap();
    let engine = fixture.open();
    assert!(pushed.iter().all(|pushed| matches!(pushed.check(&engine), Err(Error::Damaged { .. }))));
}

#[test]
fn a_store_of_a_newer_format_or_another_chunker_is_left_alone() {
    let (memory, fixture, pushed) = killed();
    let info = fixture.meta.store_info().unwrap().unwrap();
    let newer = StoreInfo { format_version: info.format_version + 1, ..info.clone() };
    let other = StoreInfo { chunker: "nar-fastcdc-v2020/1-2-3/1".to_owned(), ..info.clone() };
    let upgrade = "open the store: its format version is 2, and this firn knows up to 1: upgrade firn";
    let before = (objects(&memory), packs(&fixture));
    for strange in [newer, other] {
        fixture.meta.set_store_info(&strange).unwrap();
        let refused = fixture.try_open().err().expect("it is not for this firn").to_string();
        assert!(refused == upgrade || refused.ends_with("use the firn that made it"), "{refused}");
        // Nor does it get an index that an older firn makes of what it does not know.
        let new = Fixture { meta: indexes::new_meta(), ..fixture.clone() };
        let again = rebuild(parts(&new, Some(Arc::clone(&fixture.meta))), &mut |_| cache_row());
        assert_eq!(again.expect_err("nor for its rebuild").to_string(), refused);
        assert_eq!((objects(&memory), packs(&fixture)), before);
        assert_eq!(fixture.meta.store_info().unwrap(), Some(strange));
    }
    fixture.meta.set_store_info(&info).unwrap();
    let engine = fixture.open();
    pushed[0].check(&engine).unwrap();
    assert_eq!(fixture.meta.store_info().unwrap(), Some(info), "a store keeps its identity");
}

#[test]
fn the_open_pack_can_be_read_before_and_after_its_sync() {
    let (_, fixture) = Fixture::bare();
    let engine = fixture.open();
    let pushed = push(&engine, &noise(1, 2_000_000)).unwrap();
    pushed.check(&engine).unwrap();
    assert_eq!(packs(&fixture)[0].1.state, PackState::Writing);
    assert!(packs(&fixture)[0].1.durable_bytes > 2_000_000);
}

#[test]
fn an_index_that_fails_while_the_store_is_opened_leaves_it_as_it_was() {
    for when in [When::Before, When::After] {
        for n in 0.. {
            let (memory, fixture, pushed) = killed();
            let broken = Arc::new(BrokenMeta::new(Arc::clone(&fixture.meta)));
            broken.plan(None, n, when);
            let opened = Fixture { meta: broken.clone(), ..fixture.clone() }.try_open();
            if !broken.fired() {
                assert!(n > 3, "opening asks the index more than {n} times");
                break;
            }
            assert!(matches!(opened.err(), Some(Error::Index(_))), "{when:?} {n}");
            check_sealed(&memory, &fixture, &fixture.open(), &pushed, &format!("{when:?} {n}"));
        }
    }
}

#[test]
fn a_real_disk_keeps_what_memory_does() {
    let folder = tempfile::tempdir().unwrap();
    let open = |fixture: &Fixture| fixture.over(Disk::open(folder.path()).unwrap());
    let (_, fixture) = Fixture::bare();
    let first = open(&fixture);
    let engine = first.open();
    let pushed: Vec<_> = (1..4).map(|seed| push(&engine, &package(seed, 30_000)).unwrap()).collect();
    // Killed: nothing is closed.
    drop((engine, first));

    let second = open(&fixture);
    let engine = second.open();
    let disk = Arc::clone(&second.storage);
    check_sealed(&*disk, &second, &engine, &pushed, "on a disk");
    engine.close().unwrap();
    drop((engine, disk, second));
    let third = open(&fixture).without_chunk_index();
    let engine = third.open();
    for pushed in &pushed {
        pushed.check(&engine).unwrap();
        assert_eq!(ingest(&engine, &pushed.bytes).unwrap().stats.new_chunks, 0);
    }
}

#[test]
fn nothing_holds_the_storage_once_the_last_upload_is_answered_and_the_engine_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let (_, fixture) = Fixture::bare();
    for seed in 0..200 {
        let opened = fixture.over(Disk::open(folder.path()).unwrap());
        let engine = opened.open();
        push(&engine, &noise(seed, 1000)).unwrap();
        drop((engine, opened));
    }
}
