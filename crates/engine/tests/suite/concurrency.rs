//! Many uploads at once: each chunk is stored once, and none waits for another.

use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use firn_chunk::{ChunkId, Input};
use firn_engine::{Engine, PathOutcome};
use firn_index::memory::MemoryChunkIndex;
use firn_index::{CacheName, ChunkIndex, LineageKey, LineageRow, PackSeq, Result, SeenId};
use firn_pack::ChunkLoc;
use firn_storage::{Memory, Meter};
use firn_testkit::nar::Node;

use crate::fixture::{Fixture, Pushed, cache, ingest, noise, objects, package, path, push, push_path};

/// Runs a function on as many threads, all at once, and returns what each made.
pub(crate) fn at_once<T: Send>(threads: usize, run: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(threads);
    thread::scope(|scope| {
        let spawn = |n| {
            let (barrier, run) = (&barrier, &run);
            scope.spawn(move || {
                barrier.wait();
                run(n)
            })
        };
        let threads: Vec<_> = (0..threads).map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn unique_bytes(engine: &Engine) -> u64 {
    engine.stats().unwrap().totals.unique_bytes
}

#[test]
fn a_hundred_uploads_of_the_same_nar_store_it_once() {
    let nar = package(1, 1_500_000);
    let alone = {
        let engine = Fixture::new().open();
        push(&engine, &nar).unwrap();
        unique_bytes(&engine)
    };
    let mut fixture = Fixture::new();
    fixture.options.frame_bytes = 200_000;
    let engine = fixture.open();
    let outcomes = at_once(100, |n| {
        let pushed = push(&engine, &nar).unwrap();
        let outcome = engine.commit_path(&cache(), pushed.as_path(&format!("path-{}", n % 10))).unwrap();
        pushed.check(&engine).unwrap();
        outcome
    });
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == PathOutcome::Created).count(), 10);
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == PathOutcome::Merged).count(), 90);
    assert_eq!(unique_bytes(&engine), alone);
    let stats = engine.stats().unwrap();
    assert_eq!((stats.totals.paths, stats.chunks_in_flight), (10, 0));
    engine.close().unwrap();
    let engine = fixture.without_chunk_index().open();
    assert_eq!(unique_bytes(&engine), alone);
    assert_eq!(ingest(&engine, &nar).unwrap().stats.new_chunks, 0);
}

/// A chunk index that lets something happen right after the first look into it.
#[derive(Default)]
struct Interrupted {
    inner: MemoryChunkIndex,
    interruption: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl ChunkIndex for Interrupted {
    fn lookup(&self, ids: &[ChunkId]) -> Result<Vec<Option<ChunkLoc>>> {
        let found = self.inner.lookup(ids);
        let interruption = self.interruption.lock().unwrap().take();
        if let Some(interruption) = interruption {
            interruption();
        }
        found
    }

    fn apply(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        self.inner.apply(entries)
    }

    fn forget(&self, entries: &[(ChunkId, ChunkLoc)]) -> Result<()> {
        self.inner.forget(entries)
    }

    fn watermark(&self) -> Result<PackSeq> {
        self.inner.watermark()
    }

    fn set_watermark(&self, seq: PackSeq) -> Result<()> {
        self.inner.set_watermark(seq)
    }

    fn flush(&self) -> Result<()> {
        self.inner.flush()
    }

    fn note_seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<()> {
        self.inner.note_seen(cache, ids)
    }

    fn seen(&self, cache: &CacheName, ids: &[SeenId]) -> Result<Vec<bool>> {
        self.inner.seen(cache, ids)
    }

    fn forget_cache(&self, cache: &CacheName) -> Result<()> {
        self.inner.forget_cache(cache)
    }

    fn lineage(&self, keys: &[LineageKey]) -> Result<Vec<Vec<LineageRow>>> {
        self.inner.lineage(keys)
    }

    fn add_lineage(&self, rows: &[(LineageKey, LineageRow)]) -> Result<()> {
        self.inner.add_lineage(rows)
    }

    fn estimated_chunks(&self) -> Result<u64> {
        self.inner.estimated_chunks()
    }
}

/// Between the look into the index and the claim, another upload stores the chunk, commits it and lets go of it.
#[test]
fn a_chunk_that_passes_from_hand_to_index_meanwhile_is_not_stored_twice() {
    let index = Arc::new(Interrupted::default());
    let engine = Fixture { chunks: index.clone(), ..Fixture::new() }.open();
    let nar = noise(1, 10_000);
    let (other, same) = (engine.clone(), nar.clone());
    *index.interruption.lock().unwrap() = Some(Box::new(move || drop(push(&other, &same).unwrap())));
    let ingested = ingest(&engine, &nar).unwrap();
    assert!(index.interruption.lock().unwrap().is_none());
    assert_eq!(ingested.stats.new_chunks, 0);
    engine.commit_nar(&cache(), ingested, None).unwrap();
    assert_eq!(unique_bytes(&engine), nar.len() as u64);
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0);
}

#[test]
fn uploads_that_overlap_store_each_chunk_once() {
    let files: Vec<Node> = (0..12).map(|seed| Node::file(noise(seed, 30_000))).collect();
    let nar_of = |n: usize| {
        let chosen = (0..6).map(|k| (format!("{k}"), files[(n * 5 + k * 7) % files.len()].clone()));
        Node::directory(chosen).encode()
    };
    let engine = Fixture::new().open();
    let stats = at_once(16, |n| {
        let nar = nar_of(n);
        let ingested = ingest(&engine, &nar).unwrap();
        let (stats, pushed) = (ingested.stats, Pushed::of(&ingested, &nar));
        engine.commit_nar(&cache(), ingested, None).unwrap();
        pushed.check(&engine).unwrap();
        stats
    });
    assert_eq!(unique_bytes(&engine), stats.iter().map(|stats| stats.unique_bytes).sum::<u64>());
    assert_eq!(engine.stats().unwrap().chunks, stats.iter().map(|stats| stats.new_chunks).sum::<u64>());
}

#[test]
fn a_slow_upload_holds_up_nobody() {
    let engine = Fixture::new().open();
    let nar = noise(1, 900_000);
    let mut slow = engine.ingest(Input::Nar).unwrap();
    slow.write(&nar[..850_000]).unwrap();
    let claimed = engine.stats().unwrap().chunks_in_flight;
    assert!(claimed > 3, "the slow one has chunks in hand that it has not stored");

    // On the same thread: this would never end if it waited.
    let fast = ingest(&engine, &nar).unwrap();
    assert!(fast.stats.unique_bytes < 500_000, "{:?}", fast.stats);
    let pushed = Pushed::of(&fast, &nar);
    engine.commit_nar(&cache(), fast, None).unwrap();
    pushed.check(&engine).unwrap();

    slow.write(&nar[850_000..]).unwrap();
    let slow = slow.finish().unwrap();
    assert!(slow.stats.known_recipe);
    engine.commit_nar(&cache(), slow, None).unwrap();
    assert_eq!(unique_bytes(&engine), nar.len() as u64);
}

#[test]
fn what_an_abandoned_upload_had_in_hand_serves_others() {
    let engine = Fixture::new().open();
    let nar = noise(1, 2_500_000);
    let mut abandoned = engine.ingest(Input::Nar).unwrap();
    abandoned.write(&nar).unwrap();
    let mut other = engine.ingest(Input::Nar).unwrap();
    other.write(&nar[..2_400_000]).unwrap();
    drop(abandoned);
    other.write(&nar[2_400_000..]).unwrap();
    let ingested = other.finish().unwrap();
    assert!(ingested.stats.unique_bytes < 500_000, "{:?}", ingested.stats);
    let pushed = Pushed::of(&ingested, &nar);
    engine.commit_nar(&cache(), ingested, None).unwrap();
    pushed.check(&engine).unwrap();
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0);
}

#[test]
fn an_upload_that_could_not_be_stored_tells_those_who_lean_on_it() {
    let memory = Memory::new();
    let engine = Fixture::on(Arc::new(memory.clone())).open();
    push(&engine, &package(9, 1_000)).unwrap();
    let nar = noise(1, 700_000);
    let mut first = engine.ingest(Input::Nar).unwrap();
    first.write(&nar).unwrap();
    let mut second = engine.ingest(Input::Nar).unwrap();
    second.write(&nar).unwrap();

    memory.set_capacity(Some(objects(&memory).iter().map(|(_, len)| len).sum()));
    drop(first);
    memory.set_capacity(None);
    assert!(second.finish().is_err());
    push(&engine, &nar).unwrap().check(&engine).unwrap();
    assert_eq!(engine.stats().unwrap().chunks_in_flight, 0);
}

#[test]
fn readers_and_writers_of_everything_at_once() {
    let mut fixture = Fixture::new();
    fixture.options.pack_bytes = 400_000;
    fixture.options.frame_bytes = 60_000;
    fixture.options.frame_cache_bytes = 300_000;
    let engine = fixture.open();
    let nars: Vec<_> = (0..6).map(|seed| package(seed, 150_000)).collect();
    let pushed = at_once(12, |n| {
        let nar = &nars[n % nars.len()];
        let pushed = push_path(&engine, &format!("path-{n}"), nar).unwrap();
        for _ in 0..3 {
            pushed.check(&engine).unwrap();
            engine.listing(&pushed.recipe, &pushed.slots).unwrap();
        }
        pushed
    });
    assert_eq!(engine.stats().unwrap().totals.paths, 12);
    engine.close().unwrap();
    let engine = fixture.open();
    for (n, pushed) in pushed.iter().enumerate() {
        assert!(engine.meta().path(&cache(), &path(&format!("path-{n}")).hash()).unwrap().is_some());
        pushed.check(&engine).unwrap();
    }
}

#[test]
fn readers_of_the_same_frames_read_them_once() {
    let meter = Meter::new(Arc::new(Memory::new()));
    let fixture = Fixture::on(Arc::new(meter.clone()));
    let engine = fixture.open();
    let pushed = push(&engine, &noise(1, 5_500_000)).unwrap();
    engine.close().unwrap();
    let engine = fixture.open();
    let before = meter.counts();
    at_once(16, |_| pushed.check(&engine).unwrap());
    assert_eq!(meter.counts().since(&before).reads, 2 + 6, "a recipe, the list of its pack, and six frames");
}
