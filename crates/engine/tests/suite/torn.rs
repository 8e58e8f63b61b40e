//! What a kill or a loss of power leaves of open packs is recovered whole, and neither a start nor a rebuild calls it damage.

use std::sync::Arc;

use firn_chunk::ChunkId;
use firn_engine::{Engine, SqueezeOptions, rebuild};
use firn_index::{Commit, Meta, Op, PackState};
use firn_pack::{Bases, Footer, Frame, FrameEncoder, FrameEntry, FrameKind, PackBuilder, PackId};
use firn_storage::{Failure, Fault, Memory, Storage};
use firn_testkit::nar::Node;
use firn_testkit::random::Random;

use crate::fixture::broken::{BrokenMeta, When};
use crate::fixture::client::Local;
use crate::fixture::{Fixture, Pushed, cache_row, ingest, noise, objects, package, push_path};
use crate::indexes;
use crate::invariants::{check_places, parts, rebuild_indexes};

fn object_name(pack: PackId) -> String {
    let hex = pack.to_string();
    format!("packs/{}/{hex}", &hex[..2])
}

fn footer(storage: &dyn Storage, name: &str) -> Footer {
    let read = |at, len| storage.read(name, at, len).map_err(std::io::Error::other);
    Footer::open(read, storage.len(name).unwrap()).unwrap()
}

/// Checks that footers list every byte of all packs.
fn check_listed(storage: &dyn Storage, what: &str) {
    for (name, len) in objects(storage) {
        let footer = footer(storage, &name);
        assert_eq!((footer.gaps(), footer.unlisted_bytes(len)), (vec![], 0), "{what}");
    }
}

/// Checks that indexes can be made again from a closed store, and that nothing is called damaged.
fn check_rebuilds(fixture: &Fixture, what: &str) {
    for with_old in [true, false] {
        let done = rebuild_indexes(&mut fixture.clone(), with_old).unwrap();
        assert!(!done.is_damaged() && done.sealed == 0, "{what}, old {with_old}: {done:?}");
    }
}

fn check_all(engine: &Engine, all: &[Pushed], what: &str) {
    for pushed in all {
        pushed.check(engine).unwrap_or_else(|error| panic!("{error:?}: {what}"));
    }
}

/// Chunks of which each is like the one before, and the frames that may hold them.
struct Chain(Vec<Vec<u8>>);

impl Chain {
    fn new(seed: u64, len: usize) -> Self {
        let first = Random::new(seed).noise(20_000);
        let changed = |n: usize| {
            let mut chunk = first.clone();
            chunk[100 * n..100 * n + 20].fill(n as u8);
            chunk
        };
        Self((0..len).map(changed).collect())
    }

    /// Returns a frame of one chunk that stands alone, or that has the chunk before as its base.
    fn frame(&self, n: usize, is_delta: bool) -> Frame {
        let (chunk, id) = (&self.0[n], [ChunkId::of(&self.0[n]).0]);
        let (mut encoder, lens) = (FrameEncoder::new().unwrap(), [chunk.len() as u32]);
        if !is_delta {
            return encoder.encode(FrameKind::Chunks, chunk, &lens, &id, 3).unwrap();
        }
        let base = &self.0[n - 1];
        let bases = Bases { ids: &[ChunkId::of(base).0], data: base };
        encoder.encode_delta(chunk, &lens, &id, &bases, usize::MAX, 3).unwrap().expect("it is shorter")
    }

    fn ids(&self) -> Vec<ChunkId> {
        self.0.iter().map(|chunk| ChunkId::of(chunk)).collect()
    }
}

/// Writes a pack as a kill leaves it, all of it acknowledged.
fn leave_open(fixture: &Fixture, pack: PackId, frames: &[Frame]) {
    let (mut builder, header) = PackBuilder::new(pack);
    fixture.meta.reserve_pack(pack, 1).unwrap();
    let mut writer = fixture.storage.create(&object_name(pack)).unwrap();
    writer.append(&[&header]).unwrap();
    for frame in frames {
        builder.push(&frame.entry);
        writer.append(&[&frame.bytes]).unwrap();
    }
    writer.sync().unwrap();
    let ops = vec![Op::PackDurable(pack, builder.len())];
    fixture.meta.commit(1, &[Commit { session: None, packs: Vec::new(), ops }]).unwrap();
}

/// Two packs that were open at the same time: each has frames whose bases lie in the other, or behind them, or in such a frame.
fn crossed(first: PackId, second: PackId) -> (Fixture, [Chain; 2]) {
    let fixture = Fixture::new();
    fixture.open().close().unwrap();
    let (one, other) = (Chain::new(1, 4), Chain::new(2, 4));
    leave_open(&fixture, first, &[other.frame(1, true), one.frame(3, true), one.frame(0, false), one.frame(2, true)]);
    leave_open(
        &fixture,
        second,
        &[other.frame(3, true), one.frame(1, true), other.frame(0, false), other.frame(2, true)],
    );
    (fixture, [one, other])
}

const PACKS: [PackId; 2] = [PackId([3; 16]), PackId([8; 16])];

#[test]
fn packs_whose_frames_lean_on_one_another_are_recovered_together() {
    for [first, second] in [PACKS, [PACKS[1], PACKS[0]]] {
        for is_opened in [true, false] {
            let what = format!("opened: {is_opened}");
            let (mut fixture, chains) = crossed(first, second);
            if is_opened {
                fixture.open().close().unwrap();
            } else {
                let done = rebuild_indexes(&mut fixture, false).unwrap();
                assert!(!done.is_damaged() && done.sealed == 2, "{done:?}");
            }
            check_listed(&*fixture.storage, &what);
            for chain in chains {
                let found = fixture.chunks.lookup(&chain.ids()).unwrap();
                assert!(found.iter().all(Option::is_some), "{what}: {found:?}");
            }
            check_rebuilds(&fixture, &what);
        }
    }
}

/// A collection takes chunks from the index before it takes their packs, and a commit may bring one of these back.
#[test]
fn bases_in_packs_that_are_not_offered_are_found() {
    for is_revived in [false, true] {
        let fixture = Fixture::new();
        fixture.open().close().unwrap();
        let chain = Chain::new(1, 2);
        leave_open(&fixture, PACKS[0], &[chain.frame(0, false)]);
        fixture.open().close().unwrap();
        let session = firn_index::SessionId(7);
        let states = [PackState::Live, PackState::Condemned, PackState::Doomed];
        for change in states[..if is_revived { 2 } else { 3 }].windows(2) {
            assert!(fixture.meta.set_pack_state(PACKS[0], change[0], change[1], 5).unwrap());
        }
        if is_revived {
            fixture.meta.begin_session(session, 5, 1000).unwrap();
            let commit = Commit { session: Some(session), packs: vec![PACKS[0]], ops: Vec::new() };
            assert_eq!(fixture.meta.commit(6, &[commit]).unwrap(), [Ok(())]);
            fixture.meta.end_session(session).unwrap();
        }
        leave_open(&fixture, PACKS[1], &[chain.frame(1, true), Chain::new(2, 1).frame(0, false)]);
        let fixture = Fixture { chunks: crate::indexes::new_chunks(), ..fixture };
        fixture.chunks.set_watermark(1).unwrap();
        fixture.open().close().unwrap();
        check_listed(&*fixture.storage, "recovered");
        assert_eq!(fixture.chunks.lookup(&chain.ids()).unwrap(), [None; 2], "what leans on it is not offered either");
        check_rebuilds(&fixture, "recovered");
    }
}

/// The base of a frame that nobody needs may be gone, and the disk has no part in it.
#[test]
fn frames_whose_bases_are_gone_are_no_damage_and_come_back_with_these() {
    for order in [[1, 0], [0, 1]] {
        for (is_opened, with_old) in [(true, true), (true, false), (false, true), (false, false)] {
            let fixture = Fixture::new();
            fixture.open().close().unwrap();
            let chain = Chain::new(1, 2);
            let mut frames = vec![chain.frame(1, true), Chain::new(2, 1).frame(0, false)];
            frames.swap(0, order[0]);
            leave_open(&fixture, PACKS[0], &frames);
            let len = fixture.storage.len(&object_name(PACKS[0])).unwrap();
            if is_opened {
                fixture.open().close().unwrap();
            }
            for sealed in [u64::from(!is_opened), 0] {
                let done = rebuild_indexes(&mut fixture.clone(), with_old).unwrap();
                assert!(!done.is_damaged() && done.sealed == sealed && done.chunks == 1, "{done:?}");
            }
            assert!(fixture.storage.len(&object_name(PACKS[0])).unwrap() > len, "nothing is cut off");
            leave_open(&fixture, PACKS[1], &[chain.frame(0, false)]);
            let mut again = fixture.clone();
            let done = rebuild_indexes(&mut again, with_old).unwrap();
            assert!(!done.is_damaged() && done.sealed == 2 && done.chunks == 3, "{done:?}");
            assert!(again.chunks.lookup(&chain.ids()).unwrap().iter().all(Option::is_some));
            assert_eq!(footer(&*fixture.storage, &object_name(PACKS[0])).gaps(), vec![]);
        }
    }
}

/// Returns the NAR of a build of a program: other builds differ in a few bytes here and there.
fn build(n: u8) -> Vec<u8> {
    let mut bytes = Random::new(1).noise(200_000);
    for at in (1000..bytes.len()).step_by(30_000) {
        bytes[at..at + 20].fill(n);
    }
    Node::file(bytes).encode()
}

/// Deletes the sealed packs that no recipe needs, as collections do.
fn collect(fixture: &Fixture) {
    for (pack, row) in fixture.meta.packs(None, 10_000).unwrap() {
        if row.state == PackState::Live && fixture.meta.recipes_of_pack(pack, None, 1).unwrap().is_empty() {
            fixture.meta.set_pack_state(pack, PackState::Live, PackState::Condemned, 1).unwrap();
            fixture.meta.set_pack_state(pack, PackState::Condemned, PackState::Doomed, 1).unwrap();
            fixture.storage.delete(&object_name(pack)).unwrap();
            fixture.meta.remove_pack(pack).unwrap();
        }
    }
}

/// A rewrite writes frames before those that hold their bases; what it emptied may be gone when it is killed.
#[test]
fn what_a_killed_squeeze_wrote_is_recovered_whole() {
    let (mut torn, mut turned) = (0, 0);
    for n in 0.. {
        let what = format!("killed at call {n}");
        let (memory, mut fixture) = Fixture::bare();
        (fixture.options.pack_bytes, fixture.options.frame_bytes) = (1 << 20, 80_000);
        let engine = fixture.open();
        let push = |n: u8| {
            let local = Local::of(&build(n));
            local.push(&engine, local.pushed().as_path(&format!("p{n}"))).unwrap();
            local.pushed()
        };
        let all: Vec<Pushed> = (1..4).map(push).collect();
        engine.close().unwrap();
        let fault = Fault::new(Arc::new(memory.clone()));
        let engine = fixture.over(fault.clone()).open();
        fault.plan(None, n, Failure::Crash);
        let options =
            SqueezeOptions { level: 5, frame_bytes: 1 << 20, min_age_seconds: 0, ..SqueezeOptions::default() };
        let _ = engine.squeeze(&options, &mut |_| true);
        let fired = fault.fired();
        fault.heal();
        drop(engine);
        // Nothing that was written is lost, but the chunk index.
        let fixture = fixture.over(memory.clone()).without_chunk_index();
        collect(&fixture);
        let is_torn =
            |(_, row): &(PackId, firn_index::PackRow)| row.state == PackState::Writing && row.durable_bytes > 0;
        torn += u32::from(fixture.meta.packs(None, 100).unwrap().iter().any(is_torn));
        let engine = fixture.open();
        check_all(&engine, &all, &what);
        check_places(&engine, &|| what.clone());
        engine.close().unwrap();
        check_listed(&memory, &what);
        turned += u32::from(objects(&memory).iter().any(|(name, _)| has_base_behind(&footer(&memory, name))));
        check_rebuilds(&fixture, &what);
        if !fired {
            break;
        }
    }
    assert!(torn > 1 && turned > 1, "{torn} packs were open, and {turned} had frames before their bases");
}

fn has_base_behind(footer: &Footer) -> bool {
    let bases = |(nth, (_, entry)): (usize, &(u64, FrameEntry))| entry.bases.first().map(|base| (nth, *base));
    footer
        .frames
        .iter()
        .enumerate()
        .filter_map(bases)
        .any(|(nth, base)| footer.frames[nth..].iter().any(|(_, entry)| entry.items.iter().any(|item| item.id == base)))
}

/// A store that was killed behind an upload that was not acknowledged, what was before, and the frames of all.
fn under_way() -> (Memory, Fixture, Vec<Pushed>, Vec<(u64, FrameEntry)>) {
    let (memory, mut fixture) = Fixture::bare();
    fixture.options.frame_bytes = 50_000;
    let engine = fixture.open();
    let pushed = (1..4).map(|n| push_path(&engine, &format!("p{n}"), &package(n, 30_000)).unwrap()).collect();
    drop(ingest(&engine, &noise(9, 300_000)).unwrap());
    drop(engine);
    let frames = frames_of(&memory);
    (memory, fixture, pushed, frames)
}

fn frames_of(memory: &Memory) -> Vec<(u64, FrameEntry)> {
    let (name, len) = objects(memory)[0].clone();
    let read = |at, len| memory.read(&name, at, len).map_err(std::io::Error::other);
    firn_pack::recover(read, len, len, &mut |_| Ok(None)).unwrap().frames
}

fn durable_bytes(fixture: &Fixture) -> u64 {
    fixture.meta.packs(None, 1).unwrap()[0].1.durable_bytes
}

/// Tears the n-th frame behind what was acknowledged, in its header or its payload; `None` if there are fewer.
fn tear(memory: &Memory, fixture: &Fixture, frames: &[(u64, FrameEntry)], nth: usize, in_header: bool) -> Option<u64> {
    let durable = durable_bytes(fixture);
    let (at, entry) = frames.iter().filter(|(at, _)| *at >= durable).nth(nth)?;
    let byte = if in_header { at + 10 } else { at + u64::from(entry.len) - 1 };
    memory.damage(&objects(memory)[0].0, byte as usize, 1).unwrap();
    Some(*at)
}

#[test]
fn what_a_loss_of_power_took_of_an_upload_is_cut_off_with_what_is_behind_it() {
    for in_header in [true, false] {
        for nth in 0.. {
            let (memory, fixture, pushed, frames) = under_way();
            let Some(torn_at) = tear(&memory, &fixture, &frames, nth, in_header) else {
                assert!(nth > 4, "there are {nth} frames");
                break;
            };
            let what = format!("frame {nth}, header: {in_header}");
            let fixture = fixture.without_chunk_index();
            let engine = fixture.open();
            check_all(&engine, &pushed, &what);
            check_listed(&memory, &what);
            let left: Vec<_> = frames.iter().filter(|(at, _)| *at < torn_at).cloned().collect();
            assert_eq!(footer(&memory, &objects(&memory)[0].0).frames, left, "{what}");
            for pushed in &pushed {
                assert_eq!(ingest(&engine, &pushed.bytes).unwrap().stats.new_chunks, 0, "{what}");
            }
            push_path(&engine, "again", &noise(9, 300_000)).unwrap().check(&engine).unwrap();
            check_places(&engine, &|| what.clone());
            engine.close().unwrap();
            check_rebuilds(&fixture, &what);
        }
    }
}

#[test]
fn a_rebuild_knows_what_was_not_acknowledged_from_the_index_that_belongs_to_the_packs() {
    for in_header in [true, false] {
        let (memory, mut fixture, pushed, frames) = under_way();
        tear(&memory, &fixture, &frames, 1, in_header).unwrap();
        let found = rebuild_indexes(&mut fixture.clone(), false).unwrap();
        assert_eq!(found.damaged_frames, 1, "packs alone can't tell: {found:?}");
        let (memory, older, ..) = under_way();
        tear(&memory, &older, &frames, 1, in_header).unwrap();
        for sealed in [1, 0] {
            let done = rebuild_indexes(&mut fixture, true).unwrap();
            assert!(!done.is_damaged() && done.sealed <= sealed, "{done:?}");
            let engine = fixture.open();
            check_all(&engine, &pushed, "rebuilt");
            engine.close().unwrap();
        }
        // An index from before the uploads knows nothing of what was acknowledged since.
        let (pack, _) = older.meta.packs(None, 1).unwrap().remove(0);
        let early = indexes::new_meta();
        early.set_store_info(&older.meta.store_info().unwrap().unwrap()).unwrap();
        early.reserve_pack(pack, 1).unwrap();
        let new = Fixture { meta: indexes::new_meta(), ..older.without_chunk_index() };
        let done = rebuild(parts(&new, Some(early)), &mut |_| cache_row()).unwrap();
        assert_eq!((done.damaged_frames, done.paths), (1, 3), "{done:?}");
    }
}

/// The footer may be on the disk, and what lies before it not.
#[test]
fn a_footer_that_outlived_its_frames_is_not_believed() {
    for nth in 0.. {
        let memory = Memory::new();
        let mut fixture = Fixture::on(Arc::new(memory.clone()));
        let sound = Arc::clone(&fixture.meta);
        let broken = Arc::new(BrokenMeta::new(Arc::clone(&sound)));
        fixture.meta = Arc::clone(&broken) as Arc<dyn Meta>;
        fixture.options.frame_bytes = 50_000;
        let engine = fixture.open();
        let pushed: Vec<_> =
            (1..4).map(|n| push_path(&engine, &format!("p{n}"), &package(n, 30_000)).unwrap()).collect();
        drop(ingest(&engine, &noise(9, 300_000)).unwrap());
        broken.plan(Some("seal_pack"), 0, When::Before);
        assert!(engine.close().is_err());
        drop(engine);
        let fixture = Fixture { meta: sound, ..fixture }.without_chunk_index();
        let frames = footer(&memory, &objects(&memory)[0].0).frames;
        let Some(torn_at) = tear(&memory, &fixture, &frames, nth, false) else {
            assert!(nth > 4, "there are {nth} frames");
            break;
        };
        let engine = fixture.open();
        check_all(&engine, &pushed, "opened");
        check_places(&engine, &|| format!("frame {nth}"));
        assert!(footer(&memory, &objects(&memory)[0].0).frames.iter().all(|(at, _)| *at < torn_at), "frame {nth}");
        engine.close().unwrap();
        check_listed(&memory, "closed");
        check_rebuilds(&fixture, "closed");
    }
}
