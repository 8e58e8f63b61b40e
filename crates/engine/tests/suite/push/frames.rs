//! Frames that clients made.

use std::collections::BTreeSet;
use std::sync::Arc;

use firn_chunk::{ChunkId, Input};
use firn_engine::{
    Engine, Error, FramesTaken, MAX_PUSHED_CHUNKS, MAX_PUSHED_FRAME_BYTES, MAX_PUSHED_FRAMES, Result, Scope,
};
use firn_pack::{Codec, FrameEncoder, FrameKind};
use firn_storage::{Memory, Storage};
use firn_testkit::random::Random;
use xxhash_rust::xxh3::xxh3_64;

use crate::concurrency::at_once;
use crate::fixture::client::{Body, Local, error_of, frame, frame_of};
use crate::fixture::{Fixture, cache, is_write_failure, noise, objects, package, push};

fn take(engine: &Engine, body: &[u8]) -> Result<FramesTaken> {
    engine.take_frames(engine.begin_session()?, &Scope::Store, &cache(), body.into())
}

fn unique_bytes(engine: &Engine) -> u64 {
    engine.stats().unwrap().totals.unique_bytes
}

/// Changes a frame's header and corrects its checksum, so that the change itself must be noticed.
fn forge(bytes: &[u8], change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    change(&mut bytes);
    let end = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize - 8;
    let sum = xxh3_64(&bytes[..end]);
    bytes[end..end + 8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Returns what is no frame, or none that may be pushed.
fn bad_frames() -> Vec<(&'static str, Vec<u8>)> {
    let text = Random::new(1).text(100_000);
    let good = frame(&[&text[..50_000], &text[50_000..]]);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let number = |at: usize, value: u32| forge(&good, |bytes| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes()));
    let zeros = vec![0; MAX_PUSHED_FRAME_BYTES + 1];
    vec![
        ("garbage", Random::new(2).noise(500)),
        ("one byte", vec![0xf1]),
        ("cut in its header", good[..20].to_vec()),
        ("cut in its payload", good[..good.len() - 1].to_vec()),
        ("a wrong header", flipped(33)),
        ("a wrong payload", flipped(good.len() - 10)),
        ("a wrong checksum", flipped(44)),
        ("a raw length that is another", number(20, 100_001)),
        ("more items than lengths", number(8, 3)),
        ("lengths that are others", number(32, 50_001)),
        ("a payload longer than the body", number(16, 1 << 25)),
        ("an unknown codec", forge(&good, |bytes| bytes[5] = 9)),
        ("a filtered frame", filtered()),
        ("a recipe", frame_of(FrameKind::Recipe, &[&text])),
        ("records", frame_of(FrameKind::Record, &[&text])),
        ("too many bytes", frame(&[&zeros[..200_000], &zeros[..200_000], &zeros[..200_000], &zeros[400_000..]])),
        ("a chunk that is too long", frame(&[&zeros[..(256 << 10) + 1]])),
        ("an empty chunk", frame(&[b"a", b"", b"b"])),
    ]
}

/// Returns a whole frame as squeezing makes them, of a table of relocations.
fn filtered() -> Vec<u8> {
    let row = |n: u64| [0x1000 + 8 * n, 8, 0x4_0000 + 16 * n].map(u64::to_le_bytes);
    let table: Vec<u8> = (0..2000).flat_map(row).flatten().collect();
    let ids = [ChunkId::of(&table).0];
    let frame = FrameEncoder::new().unwrap().encode_filtered(&table, &[table.len() as u32], &ids, 3).unwrap();
    assert_eq!(frame.entry.codec, Codec::Filtered);
    frame.bytes
}

#[test]
fn what_is_no_frame_is_refused_and_those_before_it_stay() {
    let good = Local::of(&package(1, 30_000));
    let bodies = good.bodies(|_| true);
    let [Body { frames: before, .. }] = &bodies[..] else { panic!("it is small") };
    for (what, bad) in bad_frames() {
        let engine = Fixture::new().open();
        let body = [&before[..], &bad, before].concat();
        let error = error_of(take(&engine, &body));
        assert!(matches!(error, Error::BadFrame { offset, .. } if offset == before.len() as u64), "{what}: {error:?}");
        assert_eq!(engine.missing_chunks(&Scope::Store, &good.ids()).unwrap(), vec![false; good.chunks.len()]);
        assert_eq!(unique_bytes(&engine), good.nar.len() as u64, "{what}");

        let error = error_of(take(&engine, &bad));
        assert!(matches!(error, Error::BadFrame { offset: 0, .. }), "{what}: {error:?}");
    }
    let engine = Fixture::new().open();
    assert!(matches!(error_of(take(&engine, b"")), Error::BadFrame { offset: 0, .. }));
}

#[test]
fn a_request_has_a_bounded_number_of_frames_and_chunks() {
    let engine = Fixture::new().open();
    let small: Vec<_> = (0..=MAX_PUSHED_FRAMES).map(|n| frame(&[&n.to_le_bytes()])).collect();
    let taken = take(&engine, &small[..MAX_PUSHED_FRAMES].concat()).unwrap();
    assert_eq!((taken.frames, taken.new_chunks), (MAX_PUSHED_FRAMES as u64, MAX_PUSHED_FRAMES as u64));
    let end = (small.concat().len() - small[MAX_PUSHED_FRAMES].len()) as u64;
    let error = error_of(take(&engine, &small.concat()));
    assert!(matches!(error, Error::BadFrame { offset, .. } if offset == end), "{error:?}");

    let chunks: Vec<_> = (0..=MAX_PUSHED_CHUNKS as u32).map(u32::to_le_bytes).collect();
    let [first, second] = [&chunks[..40_000], &chunks[40_000..]]
        .map(|some| frame(&some.iter().map(|chunk| &chunk[..]).collect::<Vec<_>>()));
    let error = error_of(take(&engine, &[&first[..], &second].concat()));
    assert!(matches!(error, Error::BadFrame { offset, .. } if offset == first.len() as u64), "{error:?}");
    assert_eq!(take(&engine, &second).unwrap().chunks, 25_537);
}

#[test]
fn sent_again_is_stored_once() {
    let engine = Fixture::new().open();
    let local = Local::of(&package(1, 3_000_000));
    let session = engine.begin_session().unwrap();
    let first = local.send(&engine, session, &cache()).unwrap();
    assert_eq!((first.chunks, first.new_chunks), (local.chunks.len() as u64, local.chunks.len() as u64));
    let before = engine.stats().unwrap().totals;
    for _ in 0..2 {
        let again = local.send(&engine, session, &cache()).unwrap();
        assert_eq!((again.chunks, again.new_chunks, again.stored_bytes), (first.chunks, 0, 0));
    }
    assert_eq!(engine.stats().unwrap().totals, before);
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    local.pushed().check(&engine).unwrap();
}

/// Returns whether a storage holds some bytes in one of its objects.
fn holds(storage: &dyn Storage, bytes: &[u8]) -> bool {
    objects(storage).iter().any(|(name, len)| {
        let object = storage.read(name, 0, *len as usize).unwrap();
        object.windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn what_is_nearly_all_new_is_kept_as_it_came_and_the_rest_is_not_stored_twice() {
    let chunk = |seed| Random::new(seed).text(10_000);
    // Of four chunks, so many are known.
    for known in 0..=4 {
        let memory = Memory::new();
        let engine = Fixture::on(Arc::new(memory.clone())).open();
        let chunks: Vec<_> = (0..4).map(chunk).collect();
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        if known > 0 {
            take(&engine, &frame(&chunks[..known])).unwrap();
        }
        let before = unique_bytes(&engine);
        let body = frame(&chunks);
        let taken = take(&engine, &body).unwrap();
        assert_eq!((taken.chunks, taken.new_chunks), (4, 4 - known as u64));
        let kept = known <= 1;
        assert_eq!(holds(&memory, &body), kept || known == 4, "{known} known");
        let stored = if kept { 4 } else { 4 - known as u64 };
        assert_eq!(unique_bytes(&engine) - before, stored * 10_000, "{known} known");
        assert_eq!(taken.stored_bytes == 0, known == 4);
        assert_eq!(taken.stored_bytes == body.len() as u64, kept);
    }
}

#[test]
fn a_chunk_that_comes_twice_in_a_frame_is_one() {
    let engine = Fixture::new().open();
    let chunk = Random::new(1).noise(20_000);
    let taken = take(&engine, &frame(&[&chunk, &chunk, b"other", &chunk])).unwrap();
    assert_eq!((taken.chunks, taken.new_chunks), (4, 2));
    assert_eq!(take(&engine, &frame(&[&chunk, b"other"])).unwrap().new_chunks, 0);
    push(&engine, &noise(5, 1000)).unwrap();
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0);
}

#[test]
fn many_pushers_of_the_same_frames_store_them_once() {
    let local = Local::of(&package(1, 2_500_000));
    let engine = Fixture::new().open();
    let outcomes = at_once(16, |n| {
        let session = engine.begin_session().unwrap();
        let taken = local.send(&engine, session, &cache()).unwrap();
        let assembled = engine.assemble(session, &Scope::Store, &cache(), local.claim()).unwrap();
        let upload = local.pushed().as_path(&format!("path-{n}"));
        engine.commit_pushed(&cache(), vec![(upload, Some(assembled))]).remove(0).unwrap();
        local.pushed().check(&engine).unwrap();
        taken.new_chunks
    });
    assert_eq!(outcomes.iter().sum::<u64>(), local.chunks.len() as u64);
    assert_eq!(unique_bytes(&engine), distinct_bytes(&[&local]));
    let stats = engine.stats().unwrap();
    assert_eq!((stats.totals.paths, stats.chunks_in_flight), (16, 0));
}

#[test]
fn what_a_slow_upload_has_in_hand_is_there() {
    let engine = Fixture::new().open();
    let local = Local::of(&noise(1, 600_000));
    let mut slow = engine.ingest(Input::Nar).unwrap();
    // Longer than the chunker's buffer, so that the first chunks are cut; they wait in the upload's run.
    let long = noise(1, 600_000);
    slow.write(&long).unwrap();
    let session = engine.begin_session().unwrap();
    let taken = local.send(&engine, session, &cache()).unwrap();
    let pending = local.chunks.len() as u64 - taken.new_chunks;
    let assembled = engine.assemble(session, &Scope::Store, &cache(), local.claim()).unwrap();
    let batch = vec![(local.pushed().as_path("tool"), Some(assembled))];
    engine.commit_pushed(&cache(), batch).remove(0).unwrap();
    local.pushed().check(&engine).unwrap();
    let ended = slow.finish().unwrap();
    assert_eq!(ended.stats.new_chunks, pending);
    assert_eq!(unique_bytes(&engine), local.nar.len() as u64);
}

#[test]
fn a_crash_loses_frames_and_the_commit_says_which() {
    let memory = Memory::new();
    let fixture = Fixture::on(Arc::new(memory.clone()));
    let engine = fixture.open();
    let (lost, kept) = (Local::of(&noise(1, 1_500_000)), Local::of(&noise(2, 300_000)));
    let session = engine.begin_session().unwrap();
    kept.send(&engine, session, &cache()).unwrap();
    // A commit makes durable what is there by then.
    let committed = Local::of(&package(3, 1_000));
    push(&engine, &committed.nar).unwrap();
    lost.send(&engine, session, &cache()).unwrap();
    assert!(!engine.missing_chunks(&Scope::Store, &lost.ids()).unwrap().contains(&true));

    let fixture = fixture.over(memory.after_power_loss());
    let engine = fixture.open();
    let session = engine.begin_session().unwrap();
    engine.assemble(session, &Scope::Store, &cache(), kept.claim()).map(drop).unwrap();
    let error = error_of(engine.assemble(session, &Scope::Store, &cache(), lost.claim()));
    // All NARs end alike.
    let durable = [kept.ids(), committed.ids()].concat();
    let expected: Vec<bool> = lost.ids().iter().map(|id| !durable.contains(id)).collect();
    assert!(matches!(error, Error::MissingChunks(missing) if missing == expected && missing[0]));
    lost.push(&engine, lost.pushed().as_path("tool")).unwrap();

    // In good order nothing is lost.
    let calm = Local::of(&noise(4, 1_500_000));
    calm.send(&engine, session, &cache()).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    assert!(!engine.missing_chunks(&Scope::Store, &calm.ids()).unwrap().contains(&true));
}

#[test]
fn a_full_disk_loses_nothing_and_what_failed_is_sent_again() {
    let memory = Memory::new();
    let engine = Fixture::on(Arc::new(memory.clone())).open();
    let first = push(&engine, &package(1, 40_000)).unwrap();
    let known = Local::of(&noise(7, 500_000));
    known.push(&engine, known.pushed().as_path("known")).unwrap();
    let used: u64 = objects(&memory).iter().map(|(_, len)| len).sum();
    let local = Local::of(&noise(2, 2_500_000));
    for spare in [0, 1, 40, 500, 5_000, 50_000, 1_200_000] {
        memory.set_capacity(Some(used + spare));
        let session = engine.begin_session().unwrap();
        let error = error_of(local.send(&engine, session, &cache()));
        assert!(is_write_failure(&error) && matches!(error, Error::StorageFull), "{spare}: {error:?}");
        let missing = engine.missing_chunks(&Scope::Store, &local.ids()).unwrap();
        // What is said to be there is.
        let error = error_of(engine.assemble(session, &Scope::Store, &cache(), local.claim()));
        assert!(matches!(error, Error::MissingChunks(again) if again == missing && missing.contains(&true)));
        first.check(&engine).unwrap();
    }
    memory.set_capacity(None);
    local.push(&engine, local.pushed().as_path("tool")).unwrap();
    local.pushed().check(&engine).unwrap();
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0);
    assert_eq!(unique_bytes(&engine), distinct_bytes(&[&Local::of(&first.bytes), &known, &local]));
}

/// Returns how many bytes the different chunks of NARs have.
fn distinct_bytes(nars: &[&Local]) -> u64 {
    let chunks: BTreeSet<&Vec<u8>> = nars.iter().flat_map(|nar| &nar.chunks).collect();
    chunks.iter().map(|chunk| chunk.len() as u64).sum()
}

/// Chunks of frames of which much is known wait in a run: when that can't be stored they are in nobody's hands.
#[test]
fn a_full_disk_while_a_part_is_known() {
    let memory = Memory::new();
    let engine = Fixture::on(Arc::new(memory.clone())).open();
    let chunks: Vec<_> = (0..8).map(|seed| Random::new(seed).noise(50_000)).collect();
    let frame_of = |which: std::ops::Range<usize>| frame(&chunks[which].iter().map(Vec::as_slice).collect::<Vec<_>>());
    take(&engine, &frame_of(0..4)).unwrap();
    let used: u64 = objects(&memory).iter().map(|(_, len)| len).sum();
    memory.set_capacity(Some(used + 100));
    assert!(matches!(error_of(take(&engine, &frame_of(0..8))), Error::StorageFull));
    memory.set_capacity(None);
    let taken = take(&engine, &frame_of(0..8)).unwrap();
    assert_eq!(taken.new_chunks, 4);
    push(&engine, &noise(99, 1000)).unwrap();
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0);
}
