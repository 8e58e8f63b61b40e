//! The suites for [`ChunkIndex`].

use firn_chunk::{ChunkId, RecipeId};
use firn_pack::{ChunkLoc, FrameLoc, PackId};

use super::samples::{cache, chunk, location};
use super::{Open, ok};
use crate::{ChunkIndex, LINEAGE_ROWS, LineageKey, LineageRow, SeenId};

/// Checks everything about a [`ChunkIndex`] that can be seen without opening it again.
///
/// # Panics
/// Where the engine breaks the trait's word.
pub fn chunk_index(fresh: &dyn Fn() -> Box<dyn ChunkIndex>) {
    let cases: [fn(&dyn ChunkIndex); 11] = [
        a_new_index_is_empty,
        answers_stand_in_the_order_of_the_ids,
        a_later_location_replaces,
        extreme_locations,
        forgetting_is_exact,
        the_watermark,
        large_batches,
        what_a_cache_has_seen,
        a_cache_is_forgotten_alone,
        what_was_seen_is_no_chunk,
        lineage_keeps_the_newest_rows,
    ];
    for case in cases {
        case(&*fresh());
    }
}

/// Checks what a [`ChunkIndex`] still knows when it is opened again.
///
/// # Panics
/// Where the engine breaks the trait's word.
pub fn durable_chunk_index(open: &mut dyn FnMut(Open) -> Box<dyn ChunkIndex>) {
    what_was_flushed_is_kept(open);
    the_watermark_is_never_ahead(open);
    what_was_seen_is_kept_by_a_flush_and_what_was_forgotten_stays_so(open);
    lineage_is_kept_by_a_flush(open);
}

fn entries(range: std::ops::Range<u64>) -> Vec<(ChunkId, ChunkLoc)> {
    range.map(|n| (chunk(n), location(n))).collect()
}

fn a_new_index_is_empty(index: &dyn ChunkIndex) {
    assert_eq!(ok(index.lookup(&[])), vec![]);
    assert_eq!(ok(index.lookup(&[chunk(1), chunk(2)])), vec![None, None]);
    assert_eq!(ok(index.watermark()), 0);
    assert_eq!(ok(index.estimated_chunks()), 0);
    ok(index.apply(&[]));
    ok(index.forget(&entries(0..3)));
    ok(index.flush());
    assert_eq!(ok(index.watermark()), 0);
}

fn answers_stand_in_the_order_of_the_ids(index: &dyn ChunkIndex) {
    ok(index.apply(&entries(0..10)));
    let asked = [9, 50, 0, 9, 3, 50];
    let expected = vec![Some(location(9)), None, Some(location(0)), Some(location(9)), Some(location(3)), None];
    assert_eq!(ok(index.lookup(&asked.map(chunk))), expected);
    ok(index.flush());
    assert_eq!(ok(index.lookup(&asked.map(chunk))), expected);
    assert!((5..=20).contains(&ok(index.estimated_chunks())));
}

fn a_later_location_replaces(index: &dyn ChunkIndex) {
    ok(index.apply(&[(chunk(1), location(1)), (chunk(1), location(2))]));
    assert_eq!(ok(index.lookup(&[chunk(1)])), vec![Some(location(2))]);
    ok(index.flush());
    ok(index.apply(&[(chunk(1), location(3))]));
    assert_eq!(ok(index.lookup(&[chunk(1)])), vec![Some(location(3))]);
}

fn extreme_locations(index: &dyn ChunkIndex) {
    let at = |offset, len, index| ChunkLoc { frame: FrameLoc { pack: PackId([0xff; 16]), offset, len }, index };
    let extremes = [at(0, 0, 0), at(u64::MAX, u32::MAX, u16::MAX), at(127, 128, 127), at(1 << 40, 1 << 20, 128)];
    let entries: Vec<_> = (0..).map(chunk).zip(extremes).collect();
    ok(index.apply(&entries));
    let ids: Vec<_> = entries.iter().map(|(id, _)| *id).collect();
    assert_eq!(ok(index.lookup(&ids)), extremes.map(Some));
    ok(index.apply(&[(ChunkId([0; 32]), location(1)), (ChunkId([0xff; 32]), location(2))]));
    let ends = ok(index.lookup(&[ChunkId([0; 32]), ChunkId([0xff; 32])]));
    assert_eq!(ends, [Some(location(1)), Some(location(2))]);
}

fn forgetting_is_exact(index: &dyn ChunkIndex) {
    ok(index.apply(&entries(0..4)));
    let mut near = location(1);
    near.index += 1;
    ok(index.forget(&[(chunk(0), location(0)), (chunk(1), near), (chunk(2), location(3)), (chunk(77), location(77))]));
    let left = vec![None, Some(location(1)), Some(location(2)), Some(location(3))];
    assert_eq!(ok(index.lookup(&[0, 1, 2, 3].map(chunk))), left);
    ok(index.apply(&[(chunk(0), location(9))]));
    ok(index.forget(&[(chunk(0), location(0))]));
    assert_eq!(ok(index.lookup(&[chunk(0)])), vec![Some(location(9))], "it was stored anew since");
}

fn the_watermark(index: &dyn ChunkIndex) {
    for seq in [1, 7, u64::MAX, 3] {
        ok(index.set_watermark(seq));
        assert_eq!(ok(index.watermark()), seq);
    }
    assert_eq!(ok(index.lookup(&[chunk(0)])), vec![None]);
}

fn large_batches(index: &dyn ChunkIndex) {
    ok(index.apply(&entries(0..20_000)));
    ok(index.flush());
    let ids: Vec<_> = (0..4096).map(|n| chunk(n * 7)).collect();
    let expected: Vec<_> = (0..4096).map(|n| (n * 7 < 20_000).then(|| location(n * 7))).collect();
    assert_eq!(ok(index.lookup(&ids)), expected);
    ok(index.forget(&entries(0..10_000)));
    let left = ok(index.lookup(&[9_999, 10_000].map(chunk)));
    assert_eq!(left, vec![None, Some(location(10_000))]);
}

fn seen(range: std::ops::Range<u64>) -> Vec<SeenId> {
    range.map(|n| SeenId::from(&chunk(n))).collect()
}

fn what_a_cache_has_seen(index: &dyn ChunkIndex) {
    let (one, other) = (cache("one"), cache("other"));
    assert_eq!(ok(index.seen(&one, &[])), vec![false; 0]);
    assert_eq!(ok(index.seen(&one, &seen(0..2))), [false, false]);
    ok(index.note_seen(&one, &[]));
    ok(index.note_seen(&one, &seen(0..3)));
    ok(index.note_seen(&one, &seen(2..4)));
    ok(index.note_seen(&other, &seen(3..5)));
    assert_eq!(ok(index.seen(&one, &seen(0..6))), [true, true, true, true, false, false]);
    assert_eq!(ok(index.seen(&other, &seen(0..6))), [false, false, false, true, true, false]);
    ok(index.flush());
    let asked = [5, 2, 2, 9, 0].map(|n| SeenId::from(&chunk(n)));
    assert_eq!(ok(index.seen(&one, &asked)), [false, true, true, false, true]);

    ok(index.note_seen(&one, &seen(0..20_000)));
    let many = ok(index.seen(&one, &seen(17_000..21_000)));
    assert_eq!(many.iter().filter(|seen| **seen).count(), 3000);
}

fn a_cache_is_forgotten_alone(index: &dyn ChunkIndex) {
    // Names of which one begins another, and ids at both ends of what there can be.
    let names = ["a", "a-", "aa", "b"].map(cache);
    let ids = [SeenId([0; 16]), SeenId([0x80; 16]), SeenId([0xff; 16])];
    for name in &names {
        ok(index.note_seen(name, &ids));
    }
    ok(index.flush());
    for (number, name) in names.iter().enumerate() {
        ok(index.forget_cache(name));
        for (other, name) in names.iter().enumerate() {
            assert_eq!(ok(index.seen(name, &ids)), [other > number; 3], "{name} when {} are forgotten", number + 1);
        }
    }
    ok(index.forget_cache(&cache("never-there")));
    ok(index.note_seen(&names[0], &ids[1..2]));
    assert_eq!(ok(index.seen(&names[0], &ids)), [false, true, false], "it begins anew");
}

fn what_was_seen_is_no_chunk(index: &dyn ChunkIndex) {
    ok(index.note_seen(&cache("a"), &seen(0..3)));
    assert_eq!(ok(index.lookup(&[chunk(0)])), [None]);
    assert_eq!(ok(index.estimated_chunks()), 0);
    ok(index.apply(&entries(5..6)));
    assert_eq!(ok(index.seen(&cache("a"), &seen(5..6))), [false]);
    ok(index.forget(&entries(5..6)));
    ok(index.forget_cache(&cache("a")));
    assert_eq!(ok(index.watermark()), 0);
}

fn what_was_seen_is_kept_by_a_flush_and_what_was_forgotten_stays_so(open: &mut dyn FnMut(Open) -> Box<dyn ChunkIndex>) {
    let names = ["one", "other"].map(cache);
    let index = open(Open::Fresh);
    for name in &names {
        ok(index.note_seen(name, &seen(0..1000)));
    }
    ok(index.flush());
    ok(index.forget_cache(&names[0]));
    let crashed = open(Open::Crashed);
    drop(index);
    assert_eq!(ok(crashed.seen(&names[0], &seen(0..1000))), [false; 1000]);
    assert_eq!(ok(crashed.seen(&names[1], &seen(0..1000))), [true; 1000]);

    // What was never flushed may be lost, but not from the middle.
    for n in 1000..20_000 {
        ok(crashed.note_seen(&names[0], &seen(n..n + 1)));
    }
    let again = open(Open::Crashed);
    drop(crashed);
    let all = seen(1000..20_000);
    let kept: Vec<_> = all.chunks(4000).flat_map(|ids| ok(again.seen(&names[0], ids))).collect();
    assert!(kept.is_sorted_by(|before, after| before >= after), "a prefix is kept");
}

fn what_was_flushed_is_kept(open: &mut dyn FnMut(Open) -> Box<dyn ChunkIndex>) {
    let index = open(Open::Fresh);
    ok(index.apply(&entries(0..1000)));
    ok(index.set_watermark(5));
    ok(index.forget(&entries(0..1)));
    ok(index.flush());
    let crashed = open(Open::Crashed);
    drop(index);
    assert_eq!(ok(crashed.watermark()), 5);
    assert_eq!(ok(crashed.lookup(&[0, 1, 999].map(chunk))), vec![None, Some(location(1)), Some(location(999))]);

    ok(crashed.apply(&entries(1000..1001)));
    ok(crashed.flush());
    drop(crashed);
    let reopened = open(Open::Reopened);
    assert_eq!(ok(reopened.watermark()), 5);
    assert_eq!(ok(reopened.lookup(&[999, 1000].map(chunk))), vec![Some(location(999)), Some(location(1000))]);
}

fn the_watermark_is_never_ahead(open: &mut dyn FnMut(Open) -> Box<dyn ChunkIndex>) {
    let mut index = open(Open::Fresh);
    for seq in 1..=12 {
        apply_pack(&*index, seq);
        if seq == 3 {
            ok(index.flush());
        }
        if seq % 4 == 0 {
            let crashed = open(Open::Crashed);
            drop(index);
            index = crashed;
            let found = ok(index.watermark());
            assert!((3..=seq).contains(&found), "the watermark is {found} after {seq} packs");
            assert_all_there(&*index, found);
            for lost in found + 1..=seq {
                apply_pack(&*index, lost);
            }
            assert_all_there(&*index, seq);
        }
    }
}

const CHUNKS_OF_A_PACK: u64 = 2000;

fn apply_pack(index: &dyn ChunkIndex, seq: u64) {
    ok(index.apply(&entries((seq - 1) * CHUNKS_OF_A_PACK..seq * CHUNKS_OF_A_PACK)));
    ok(index.set_watermark(seq));
}

/// Checks that every chunk of the packs up to `seq` is known.
fn assert_all_there(index: &dyn ChunkIndex, seq: u64) {
    let all: Vec<_> = (0..seq * CHUNKS_OF_A_PACK).collect();
    for ids in all.chunks(4096) {
        let ids: Vec<_> = ids.iter().copied().map(chunk).collect();
        let found = ok(index.lookup(&ids));
        assert!(found.iter().all(Option::is_some), "a chunk of the packs up to {seq} is missing");
    }
}

fn row(recipe: u8, chunk: u32) -> LineageRow {
    LineageRow { recipe: RecipeId([recipe; 32]), chunk }
}

fn lineage_keeps_the_newest_rows(index: &dyn ChunkIndex) {
    let [one, two, none] = [1, 1 << 40, 3].map(LineageKey);
    assert_eq!(ok(index.lineage(&[])), Vec::<Vec<_>>::new());
    assert_eq!(ok(index.lineage(&[one])), [vec![]]);
    ok(index.add_lineage(&[(one, row(1, 5)), (two, row(1, 6)), (one, row(2, 7))]));
    assert_eq!(ok(index.lineage(&[two, none, one])), [vec![row(1, 6)], vec![], vec![row(2, 7), row(1, 5)]]);
    // A recipe has one row, which is as new as the last one added.
    ok(index.add_lineage(&[(one, row(1, (1 << 20) - 1))]));
    assert_eq!(ok(index.lineage(&[one])), [vec![row(1, (1 << 20) - 1), row(2, 7)]]);
    let many: Vec<_> = (10..20).map(|n| (one, row(n, 0))).collect();
    ok(index.add_lineage(&many));
    let newest: Vec<_> = many.iter().rev().take(LINEAGE_ROWS).map(|(_, row)| *row).collect();
    assert_eq!(ok(index.lineage(&[one, two])), [newest, vec![row(1, 6)]]);
    assert_eq!(ok(index.estimated_chunks()), 0, "a row is no chunk");
}

fn lineage_is_kept_by_a_flush(open: &mut dyn FnMut(Open) -> Box<dyn ChunkIndex>) {
    let index = open(Open::Fresh);
    ok(index.add_lineage(&[(LineageKey(7), row(1, 2))]));
    ok(index.flush());
    drop(index);
    assert_eq!(ok(open(Open::Reopened).lineage(&[LineageKey(7)])), [vec![row(1, 2)]]);
}
